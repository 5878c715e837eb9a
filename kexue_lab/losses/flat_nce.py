"""FlatNCE beside InfoNCE: contrastive losses, and what floating-point numbers keep of them.

An anchor has K candidates with scores s_1 … s_K; number t is the positive, the others are
negatives. With ξ = Σ_{i≠t} e^{s_i − s_t} and v = log ξ, InfoNCE is log(1 + ξ) = softplus(v), and
FlatNCE is v. Their gradients by the scores differ by the factor 1 − p_t = ξ/(1 + ξ) of each anchor.
Sources: kexue.fm/archives/8586; Chen et al., "Simpler, Faster, Stronger: Breaking The log-K Curse
On Contrastive Learners With FlatNCE", 2021, arXiv:2107.01152.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from scipy.fft import idctn
from torch import Tensor
from torch.nn.functional import logsigmoid

from kexue_lab.losses.batch import Reduction, check_batch, reduced
from kexue_lab.precision import holds, length, narrowed, power_of_two, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_non_negative,
    check_points,
    check_positive,
)

# A temperature from here to its inverse is far within float32.
_SMALL = 1e-20
# Light is smooth: these waves, by how often they go up and down along the two axes.
_WAVES = [(a, b) for a in range(4) for b in range(4 - a)]


def xi_log(scores: Tensor, target: Tensor) -> Tensor:
    """Return v = log ξ = logsumexp of the negatives' scores, less the positive's.

    Args:
        scores: s, (B, K), K ≥ 2, finite; usually cosines divided by a temperature.
        target: the positive's number t of each row, (B,), integers from 0 to K − 1.

    Returns:
        (B,), in nats.

    Raises:
        TypeError: if scores are not floating, or targets not whole.
        ValueError: if shapes do not fit, a score is not finite, a target is out of range, or v is
            beyond the dtype.

    Source: kexue.fm/archives/8586.

    Example:
        >>> xi_log(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
        tensor([-1.6867])
    """
    check_batch(target, scores=scores)
    return narrowed(_v(scores, target), scores.dtype, "log xi")


def info_nce(scores: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return InfoNCE, log(1 + ξ), to the last digits at any size of ξ.

    Cross entropy with the scores as logits is the same number, but adds ξ to 1 on its way, and
    loses what lies below the last digit of 1; so does its gradient at the positive, p_t − 1.

    Args:
        scores: s, (B, K), K ≥ 2.
        target: t, (B,).
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar ≥ 0, or (B,) for "none".

    Raises:
        TypeError: as `xi_log`.
        ValueError: as `xi_log`, or for an unknown reduction.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
        arXiv:1807.03748, equation 4.

    Example:
        >>> info_nce(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
        tensor(0.1698)
    """
    check_choice(Reduction, reduction=reduction)
    check_batch(target, scores=scores)
    # softplus of torch goes over to the line v from 20 on; log σ keeps small values' digits, too.
    return reduced(-logsigmoid(-_v(scores, target)), reduction, scores.dtype)


def flat_nce(scores: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return FlatNCE, v = log ξ, whose gradient never fades. It has no lower bound.

    Its gradient is −1 at the positive and the softmax over the negatives elsewhere. (Decoupled
    contrastive learning is the same loss.)

    Args:
        scores: s, (B, K), K ≥ 2.
        target: t, (B,).
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar of either sign, or (B,) for "none".

    Raises:
        TypeError: as `xi_log`.
        ValueError: as `xi_log`, or for an unknown reduction.

    Source: Chen et al., arXiv:2107.01152; Yeh et al., "Decoupled Contrastive Learning", 2022,
        arXiv:2110.06848.

    Example:
        >>> flat_nce(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
        tensor(-1.6867)
    """
    check_choice(Reduction, reduction=reduction)
    check_batch(target, scores=scores)
    return reduced(_v(scores, target), reduction, scores.dtype)


def flat_nce_stopgrad(scores: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return FlatNCE as published, ξ / stop-gradient(ξ): always 1, with the gradient of log ξ.

    Computed as e^{v − stop-gradient(v)}, so that no ξ overflows or vanishes.

    Args:
        scores: s, (B, K), K ≥ 2.
        target: t, (B,).
        reduction: "mean", "sum" or "none".

    Returns:
        1 for "mean", B for "sum", ones (B,) for "none".

    Raises:
        TypeError: as `xi_log`.
        ValueError: as `xi_log`, or for an unknown reduction.

    Source: kexue.fm/archives/8586; Chen et al., arXiv:2107.01152, algorithm 1.

    Example:
        >>> s = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
        >>> flat_nce_stopgrad(s, torch.tensor([0])).backward()
        >>> s.grad
        tensor([[-1.0000,  0.7311,  0.2689]])
    """
    check_choice(Reduction, reduction=reduction)
    check_batch(target, scores=scores)
    v = _v(scores, target)
    return reduced((v - v.detach()).exp(), reduction, scores.dtype)


def in_batch_scores(z1: Tensor, z2: Tensor, tau: float) -> Tensor:
    """Return the cosines of all pairs of two lists of vectors, divided by the temperature.

    Row i belongs to the anchor z1_i. Its positive is z2_i, the other rows of z2 are its negatives.

    Args:
        z1: (B, d), B ≥ 2, no row of zeros.
        z2: likewise.
        tau: τ.

    Returns:
        (B, B), from −1/τ to 1/τ.

    Raises:
        TypeError: if one is not floating, or the dtypes differ.
        ValueError: if the shapes do not fit, an entry is not finite, a row is 0, or a score is
            beyond the dtype.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
        2020, arXiv:2002.05709 (there each view is an anchor, and both views are negatives).

    Example:
        >>> in_batch_scores(torch.eye(2), torch.tensor([[3.0, 0.0], [1.0, 1.0]]), 0.5)
        tensor([[2.0000, 1.4142],
                [0.0000, 1.4142]])
    """
    check_positive(tau=tau)
    check_points(z1=z1, z2=z2)
    if z1.shape != z2.shape or len(z1) < 2:
        raise ValueError(
            f"z1 and z2 must have one shape (B, d) with B >= 2, got {tuple(z1.shape)} and "
            f"{tuple(z2.shape)}"
        )
    check_finite(z1=z1, z2=z2)
    directions = []
    for name, z in (("z1", z1), ("z2", z2)):
        wide = widened(z)
        near_1 = wide / power_of_two(wide.abs().amax(1, keepdim=True))
        size = length(near_1, keepdim=True)
        if not holds(size > 0):
            raise ValueError(f"{name} must have no row of zeros, which has no direction")
        directions.append(near_1 / size)
    cosines = directions[0] @ directions[1].mT
    if not _SMALL < tau < 1 / _SMALL:
        cosines = cosines.double()
    return narrowed(cosines / tau, z1.dtype, "a score")


def min_xi(tau: float, K: int) -> float:
    """Return (K − 1) e^{−2/τ}, the least ξ that cosines over the temperature τ can have.

    It takes a positive in the anchor's direction, and all negatives opposite.

    Args:
        tau: τ.
        K: number of candidates, at least 2.

    Source: kexue.fm/archives/8586 remarks that ξ stays positive; the bound is |cos| ≤ 1.

    Example:
        >>> min_xi(0.5, 2)
        0.01831563888873418
    """
    check_positive(tau=tau)
    check_count(2, K=K)
    try:
        return math.exp(math.log(K - 1) - 2 / tau)
    except OverflowError:
        return 0.0


def critical_temperature(K: int, dtype: torch.dtype = torch.float32) -> float:
    """Return the τ above which no cosines make 1 + ξ round to 1.

    1 + ξ rounds to 1 (to even) where ξ ≤ 2^{−m}, m the bits of the significand: 24 in float32. So
    the least ξ, `min_xi` of τ and K, is 2^{−m} at τ = 2 / (m log 2 + log(K − 1)).

    Args:
        K: number of candidates, at least 2.
        dtype: of the scores.

    Raises:
        TypeError: if dtype is not a floating-point one.

    Source: derived in the lesson; Goldberg, "What Every Computer Scientist Should Know About
        Floating-Point Arithmetic", 1991.

    Example:
        >>> round(critical_temperature(2), 5)
        0.12022
    """
    check_count(2, K=K)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point dtype, got {dtype}")
    bits = 1 - math.log2(torch.finfo(dtype).eps)
    return 2 / (bits * math.log(2) + math.log(K - 1))


def mi_estimates(scores: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return what a batch's scores say of the mutual information, by InfoNCE and by FlatNCE.

    "info_nce" is log K less InfoNCE: at most log K, and with independent negatives a lower bound on
    average. "flat" is log(K − 1) less FlatNCE: without a ceiling, and no bound either.

    Args:
        scores: s, (B, K), K ≥ 2.
        target: t, (B,).

    Returns:
        Two scalars, in nats.

    Raises:
        TypeError: as `xi_log`.
        ValueError: as `xi_log`.

    Source: Poole et al., "On Variational Bounds of Mutual Information", 2019, arXiv:1905.06922;
        Chen et al., arXiv:2107.01152.

    Example:
        >>> mi_estimates(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))
        {'info_nce': tensor(0.6930), 'flat': tensor(9.)}
    """
    check_batch(target, scores=scores)
    v = _v(scores, target)
    K = scores.shape[1]
    values = {"info_nce": math.log(K) + logsigmoid(-v), "flat": math.log(K - 1) - v}
    return {k: reduced(value, "mean", scores.dtype) for k, value in values.items()}


def in_changing_light(
    x: Tensor,
    generator: torch.Generator | None = None,
    *,
    light: float = 1.0,
    noise: float = 0.2,
) -> Tensor:
    """Return images of 8 × 8 pixels, each with a smooth light of its own added, and noise.

    The light is a sum of ten slow cosine waves with normal weights. Two calls give two views of
    each image that agree in nothing but the image.

    Args:
        x: images, (n, 64), finite.
        generator: of the draws; torch's global one by default.
        light: standard deviation of the light, averaged over the pixels.
        noise: standard deviation of the noise of each pixel.

    Returns:
        (n, 64), not limited to [0, 1].

    Raises:
        TypeError: if x is not floating.
        ValueError: if x has another shape or is not finite, or a pixel is beyond its dtype.

    Source: of this course; two random views of an image are those of arXiv:2002.05709.

    Example:
        >>> in_changing_light(torch.zeros(2, 64), light=0, noise=0).abs().max()
        tensor(0.)
    """
    check_points(x=x)
    if x.shape[1] != 64 or not len(x):
        raise ValueError(f"x must have shape (n, 64) with n >= 1, got {tuple(x.shape)}")
    check_finite(x=x)
    check_non_negative(light=light, noise=noise)
    waves = torch.tensor(_waves(), dtype=torch.float64)
    weights = torch.randn(len(x), len(waves), generator=generator, dtype=torch.float64)
    grain = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    seen = x.double().cpu() + light * (weights @ waves) + noise * grain
    return narrowed(seen, x.dtype, "a pixel").to(x.device)


@cache
def _waves() -> np.ndarray:
    """The waves, (10, 64); with normal weights their sum has mean square 1."""
    spectra = np.zeros((len(_WAVES), 8, 8))
    for spectrum, place in zip(spectra, _WAVES, strict=True):
        spectrum[place] = 8 / math.sqrt(len(_WAVES))
    waves: np.ndarray = idctn(spectra, axes=(1, 2), norm="ortho")
    return waves.reshape(len(_WAVES), 64)


def _v(scores: Tensor, target: Tensor) -> Tensor:
    """Return log ξ, half precision in float32."""
    wide = widened(scores)
    own = target.long()[:, None]
    others = wide.scatter(1, own, -torch.inf)
    return others.logsumexp(1) - wide.gather(1, own)[:, 0]
