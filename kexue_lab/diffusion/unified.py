"""Unified diffusion: any gradual corruption x_t = F_t(x_0, ε) and its two-stage reverse sampler.

First x̂_0 is drawn from (a model of) p(x_0 | x_t), then x_u for u < t from p(x_u | x_t, x̂_0): with
fresh noise (baseline), with the noise recovered from x_t and x̂_0 (improved), or a mixture. If x̂_0
comes from the exact posterior the sampler is exact in any number of steps; what a posterior mean or
a factorised posterior costs is computed exactly here: for a Gaussian mode, and for small
vocabularies by enumeration.
Sources: kexue.fm/archives/9271; Bansal et al., "Cold Diffusion", arXiv:2208.09392; Austin et al.,
"Structured Denoising Diffusion Models in Discrete State-Spaces", arXiv:2107.03006.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise, product
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct
from scipy.special import comb
from torch import Tensor

from kexue_lab.precision import narrowed, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_floating,
    check_non_negative,
    check_positive,
)

Array = NDArray[np.float64]
ModeSampler = Literal["naive", "improved", "sampled", "sampled_improved"]
_LARGEST = 4096  # states that enumeration will take


# --- continuous data ---------------------------------------------------------------------------


def reverse_step(
    x: Tensor,
    x0_hat: Tensor,
    forward: Callable[[Tensor, Tensor, float], Tensor],
    invert: Callable[[Tensor, Tensor, float], Tensor] | None,
    t: float,
    u: float,
    *,
    mix: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x_u = F_u(x̂_0, √(1 − m²) ε + m ε') with ε = F_t⁻¹(x̂_0, x_t), ε' fresh, m the mix.

    m = 0 is the improved sampler, m = 1 the baseline. For F = ᾱ_t x_0 + β̄_t ε it is the DDIM family
    with σ = β̄_u m.

    Args:
        x: x_t, (B, …).
        x0_hat: x̂_0, (B, …).
        forward: (x_0, ε, t) ↦ x_t.
        invert: (x_0, x_t, t) ↦ ε, or None if the noise cannot be recovered; then mix must be 1.
        t: time of x.
        u: time to go to, < t.
        mix: m in [0, 1].
        generator: source of ε', of the shape of x.

    Raises:
        TypeError: if x or x0_hat is not a floating-point tensor, or their dtypes disagree.
        ValueError: if u ≥ t, mix is outside [0, 1], or invert is None with mix < 1.

    Source: kexue.fm/archives/9271, equations 3, 6 and 8.
    """
    check_floating(x=x, x0_hat=x0_hat)
    _check_order(t, u)
    if not 0 <= mix <= 1:
        raise ValueError(f"mix must lie in [0, 1], got {mix}")
    if invert is None and mix < 1:
        raise ValueError(f"mix must be 1 if the noise cannot be recovered, got {mix}")
    noise = torch.zeros_like(x)
    if invert is not None and mix < 1:
        noise = math.sqrt((1 - mix) * (1 + mix)) * invert(x0_hat, x, t)
    if mix > 0:
        fresh = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        noise = noise + mix * fresh
    return forward(x0_hat, noise, u)


def cold_step(
    x: Tensor,
    x0_hat: Tensor,
    degrade: Callable[[Tensor, float], Tensor],
    t: float,
    u: float,
    *,
    improved: bool = True,
) -> Tensor:
    """Return x_u = x_t + F_u(x̂_0) − F_t(x̂_0), or F_u(x̂_0) if not improved: no noise at all.

    Args:
        x: x_t, (B, …).
        x0_hat: x̂_0, (B, …).
        degrade: (x_0, t) ↦ F_t(x_0).
        t: time of x.
        u: time to go to, < t.
        improved: see above.

    Raises:
        TypeError: if x or x0_hat is not a floating-point tensor, or their dtypes disagree.
        ValueError: if u ≥ t.

    Source: arXiv:2208.09392, algorithms 1 and 2.
    """
    check_floating(x=x, x0_hat=x0_hat)
    _check_order(t, u)
    if not improved:
        return degrade(x0_hat, u)
    return x + degrade(x0_hat, u) - degrade(x0_hat, t)


def gaussian_mode_variance(
    c: float, lambdas: Sequence[float], sigma: float, sampler: ModeSampler
) -> float:
    """Return the exact final variance of one Gaussian mode x_t = λ_t x_0 + σ ε, x_0 ~ N(0, c).

    "naive" and "improved" put the posterior mean in place of x_0, with fresh and with recovered
    noise; "sampled" and "sampled_improved" draw x̂_0 from the exact posterior. The chain starts from
    the true variance λ_T² c + σ², and its last step adds no noise.

    Args:
        c: variance of the data, > 0.
        lambdas: attenuations, from λ_T to λ_0 = 1, at least two, non-negative.
        sigma: standard deviation of the noise, ≥ 0.
        sampler: see above.

    Raises:
        ValueError: if an argument is out of range or the sampler unknown.

    Example:
        >>> lambdas = [0.0, 0.5, 1.0]
        >>> round(gaussian_mode_variance(1.0, lambdas, 1.0, "naive"), 4)
        0.16
    """
    check_positive(c=c)
    check_non_negative(sigma=sigma)
    attenuations = [float(v) for v in lambdas]
    in_range = all(0 <= v < math.inf for v in attenuations)
    if len(attenuations) < 2 or not in_range or attenuations[-1] != 1:
        raise ValueError(f"lambdas must be non-negative and end at 1, got {attenuations}")
    check_choice(ModeSampler, sampler=sampler)
    steps, deviation = list(pairwise(attenuations)), math.sqrt(c)
    variance = _square(attenuations[0] * deviation) + _square(sigma)
    for i, (a, b) in enumerate(steps):
        noise = sigma if i < len(steps) - 1 else 0.0
        root = math.hypot(a * deviation, sigma)
        # x̂_0 = gain · x_t + N(0, spread); nothing is known where nothing is left of the data.
        gain, spread = 0.0, c
        if root > 0:
            gain = a * deviation / root * (deviation / root)
            spread = _square(deviation * (sigma / root))
        if not sampler.startswith("sampled"):
            spread = 0.0
        if sampler.endswith("improved"):
            kept = noise / sigma if sigma > 0 else 1.0
            share = b - kept * a
            variance = _square(share * gain + kept) * variance + _square(share) * spread
        else:
            variance = _square(b) * (_square(gain) * variance + spread) + _square(noise)
    if not math.isfinite(variance):
        raise ValueError(f"c, lambdas and sigma must leave the variance finite, got {c}, {sigma}")
    return variance


def _square(x: float) -> float:
    """The square, infinite beyond float64 where `**` raises an error without an argument's name."""
    return x * x


def dct_blur(images: Tensor, t: float, strength: float = 3.0) -> Tensor:
    """Return images whose cosine modes (k_1, k_2) are damped by exp(−strength (k_1² + k_2²) t²).

    Args:
        images: (B, H, W).
        t: time in [0, 1]; 0 leaves them as they are.
        strength: > 0; the mean of an image is kept always.

    Raises:
        TypeError: if images is not a floating-point tensor.
        ValueError: if images is not (B, H, W), t is outside [0, 1] or strength not positive.

    Source: Rissanen, Heinonen, Solin, "Generative Modelling With Inverse Heat Dissipation",
    arXiv:2206.13397.
    """
    check_floating(images=images)
    if images.ndim != 3:
        raise ValueError(f"images must have shape (B, H, W), got {tuple(images.shape)}")
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t}")
    check_positive(strength=strength)

    def blur(size: int) -> Tensor:
        modes = dct(np.eye(size), axis=0, norm="ortho")
        with np.errstate(over="ignore"):
            damping = np.exp(-strength * (np.arange(size) * t) ** 2)
        return torch.as_tensor(modes.T * damping @ modes).to(wide)

    wide = widened(images)
    blurred = blur(images.shape[1]) @ wide @ blur(images.shape[2])
    return narrowed(blurred, images.dtype, "the blurred images")


# --- tokens ------------------------------------------------------------------------------------


def mask_sampler_distribution(
    p: ArrayLike, *, k: int = 1, factorised: bool = True, improved: bool = True
) -> Array:
    """Return the exact law of what a mask-and-predict sampler produces, by enumeration.

    From all tokens masked, each step draws the masked tokens from p given the others and leaves k
    masks fewer: on a random subset of the masks that were there (improved), or on random positions
    (baseline). With one token a step a factorised prediction is exact (improved).

    Args:
        p: law of the data, (V,)·l: an axis of size V for each of the l positions.
        k: masks removed in a step, ≥ 1.
        factorised: predict the masked tokens independently of each other.
        improved: see above.

    Returns:
        An array of the shape of p.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if p is no distribution with equal axes, has over 4096 states, or k < 1.

    Source: kexue.fm/archives/9271, section on masking; order-agnostic autoregression.

    Example:
        >>> p = np.array([[0.5, 0.0], [0.0, 0.5]])
        >>> mask_sampler_distribution(p, k=2)
        array([[0.25, 0.25],
               [0.25, 0.25]])
    """
    law = _check_law(p)
    check_count(k=k)
    length = law.ndim
    # Weight of each set of masked positions, over the tokens at the others (masked axes: size 1).
    states = {tuple(range(length)): np.ones((1,) * length)}
    masked = length
    while masked > 0:
        following = max(masked - k, 0)
        filled = {mask: weight * _predict(law, mask, factorised) for mask, weight in states.items()}
        everything = sum(filled.values())
        states = {}
        for rest in combinations(range(length), following):
            if improved:
                sources = [joint for mask, joint in filled.items() if set(rest) <= set(mask)]
                total = sum(sources) / comb(masked, following)
            else:
                total = everything / comb(length, following)
            states[rest] = total.sum(rest, keepdims=True)
        masked = following
    result: Array = states[()]
    return result


def _predict(law: Array, mask: tuple[int, ...], factorised: bool) -> Array:
    """p(masked tokens | the others), or the product of its marginals; uniform where undefined."""
    given = law.sum(mask, keepdims=True)
    size = law.shape[0]
    safe = np.where(given > 0, given, 1)
    if not factorised:
        return np.where(given > 0, law / safe, size ** -len(mask))
    product_of_marginals = np.ones_like(law)
    for position in mask:
        others = tuple(i for i in mask if i != position)
        marginal = law.sum(others, keepdims=True) / safe
        product_of_marginals = product_of_marginals * np.where(given > 0, marginal, 1 / size)
    return product_of_marginals


def edit_sampler_distribution(
    p: ArrayLike,
    *,
    factorised: bool,
    improved: bool,
    start: Literal["uniform", "true"] = "uniform",
) -> Array:
    """Return the exact law of what an edit-one-token-a-step sampler produces, by enumeration.

    Baseline: t random positions hold uniformly random tokens; a step draws x̂_0 given x_t and
    corrupts t − 1 random positions anew. Improved: exactly t positions differ from x_0; a step
    draws x̂_0 with exactly t differences and restores one of them at random.

    Args:
        p: law of the data, (V,)·l.
        factorised: draw x̂_0 from the product of the posterior's marginals (conditioned on t
            differences if improved).
        improved: see above.
        start: the law of the first state, with all l positions corrupted: "uniform" tokens, or the
            "true" law, which differs if improved.

    Returns:
        An array of the shape of p.

    Raises:
        ValueError: if p is no distribution with equal axes, has over 4096 states, or start is
            unknown.

    Source: kexue.fm/archives/9271, section on text editing.
    """
    law = _check_law(p)
    check_choice(Literal["uniform", "true"], start=start)
    size, length = law.shape[0], law.ndim
    tokens = np.array(list(product(range(size), repeat=length)))
    distance = (tokens[:, None] != tokens).sum(-1)
    prior = law.ravel()
    state = np.full(prior.size, 1 / prior.size)
    if start == "true":
        state = prior @ _edit_kernel(distance, length, size, improved)
    for t in range(length, 0, -1):
        joint = prior[:, None] * _edit_kernel(distance, t, size, improved)  # (x_0, x_t)
        guess = _normalised(joint, distance == t if improved else np.ones_like(joint))
        if factorised:
            marginals = [
                np.stack([guess[tokens[:, i] == v].sum(0) for v in range(size)])
                for i in range(length)
            ]
            guess = math.prod(marginals[i][tokens[:, i]] for i in range(length))
            if improved:
                guess = _normalised(guess * (distance == t), distance == t)
        if improved:
            state = _restore_one(guess * state, tokens, size) / t
        else:
            state = (guess @ state) @ _edit_kernel(distance, t - 1, size, improved)
    result: Array = state.reshape(law.shape)
    return result


def _edit_kernel(distance: NDArray[np.int64], t: int, size: int, improved: bool) -> Array:
    """p(x_t | x_0) for every pair, from the number of positions in which they differ."""
    length = int(distance.max())
    kernel: Array
    if improved:
        kernel = (distance == t) / (comb(length, t) * (size - 1) ** t)
    else:
        # Subsets of t positions that contain the differing ones, each with probability V^-t.
        subsets = np.where(distance <= t, comb(length - distance, t - distance), 0)
        kernel = subsets / (comb(length, t) * float(size) ** t)
    return kernel


def _normalised(joint: Array, allowed: ArrayLike) -> Array:
    """Columns scaled to sum 1; a column of zeros becomes uniform over what is allowed."""
    weights = np.where(joint.sum(0) > 0, joint, np.asarray(allowed, dtype=np.float64))
    result: Array = weights / weights.sum(0)
    return result


def _restore_one(joint: Array, tokens: NDArray[np.int64], size: int) -> Array:
    """The law of x_t with one differing position set to x̂_0, summed over the positions."""
    places = size ** np.arange(tokens.shape[1])[::-1]
    index = np.arange(len(tokens))
    result = np.zeros(len(tokens))
    for i, place in enumerate(places):
        change = (tokens[:, None, i] - tokens[None, :, i]) * place  # x̂_0 − x_t at position i
        np.add.at(result, (index + change)[change != 0], joint[change != 0])
    return result


def mask_sample(
    logits_fn: Callable[[Tensor, int], Tensor],
    n: int,
    length: int,
    mask_id: int,
    steps: int,
    *,
    improved: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw token sequences by predicting masked tokens and lifting some of the masks each step.

    Args:
        logits_fn: (tokens (n, length), number of masks in each) ↦ logits (n, length, V).
        n: number of sequences.
        length: tokens of each.
        mask_id: the token of a mask; it is never produced.
        steps: number of steps, 1 … length; the number of masks falls evenly.
        improved: keep masks on a random subset of those that were there; else mask random
            positions anew, which lets later steps repair earlier ones.
        generator: source of randomness.

    Returns:
        (n, length), int64, without gradients.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a number is out of range, or the logits have another shape.

    Source: kexue.fm/archives/9271; Chang et al., "MaskGIT", arXiv:2202.04200 (by confidence).
    """
    check_count(n=n, length=length, steps=steps)
    check_count(0, mask_id=mask_id)
    if steps > length:
        raise ValueError(f"steps must be at most length = {length}, got {steps}")
    device = generator.device if generator is not None else None
    tokens = torch.full((n, length), mask_id, device=device)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    counts = [round(length * (1 - i / steps)) for i in range(steps + 1)]
    with torch.no_grad():
        for count, following in pairwise(counts):
            logits = logits_fn(tokens, count)
            if logits.ndim != 3 or logits.shape[:2] != (n, length):
                shape = tuple(logits.shape)
                raise ValueError(f"logits_fn must return ({n}, {length}, V), got {shape}")
            logits = widened(logits)
            if mask_id < logits.shape[-1]:
                logits = logits.index_fill(-1, torch.tensor([mask_id], device=device), -math.inf)
            drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator)
            tokens = torch.where(masked, drawn.reshape(n, length), tokens)
            # The positions of the largest keys are masked again; improved: only among the masked.
            keys = torch.rand(n, length, generator=generator, device=device)
            keys = keys + masked if improved else keys
            masked = torch.zeros_like(masked).scatter_(1, keys.topk(following).indices, True)
            tokens = tokens.masked_fill(masked, mask_id)
    return tokens


def _check_law(p: ArrayLike) -> Array:
    law = np.asarray(p, dtype=np.float64)
    if law.ndim < 1 or len(set(law.shape)) != 1 or law.shape[0] < 2:
        raise ValueError(f"p must have l axes of one size V >= 2, got shape {law.shape}")
    if law.size > _LARGEST:
        raise ValueError(f"p must have at most {_LARGEST} states, got {law.size}")
    if not (law >= 0).all() or not math.isclose(law.sum(), 1, abs_tol=1e-9):
        raise ValueError(f"p must be non-negative with sum 1, got sum {law.sum():g}")
    return law


def _check_order(t: float, u: float) -> None:
    if not u < t:
        raise ValueError(f"u must be before t = {t}, got {u}")
