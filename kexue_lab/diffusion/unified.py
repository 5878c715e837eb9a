"""Unified diffusion: any gradual corruption x_t = F_t(x_0, ε) and its two-stage reverse sampler.

First the datum is guessed, x̂_0 from (a model of) p(x_0 | x_t); then the guess is corrupted to an
earlier time u: with fresh noise, with the noise kept that x_t and x̂_0 determine, or a mixture of
the two. If x̂_0 is drawn from the exact posterior the sampler is exact in any number of steps. What
a posterior mean costs is computed here for a Gaussian mode, and what independent guesses of tokens
cost in `kexue_lab.diffusion.tokens`, whose functions are offered here too.
Sources: kexue.fm/archives/9271; Bansal et al., "Cold Diffusion", arXiv:2208.09392.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from kexue_lab.diffusion.tokens import (
    edit_sampler_distribution,
    mask_sample,
    mask_sampler_distribution,
)
from kexue_lab.precision import narrowed, widened
from kexue_lab.validation import check_choice, check_floating, check_non_negative, check_positive

__all__ = [
    "ModeSampler",
    "cold_step",
    "dct_blur",
    "edit_sampler_distribution",
    "gaussian_mode_variance",
    "mask_sample",
    "mask_sampler_distribution",
    "reverse_step",
]

ModeSampler = Literal["naive", "improved", "sampled", "sampled_improved"]


def reverse_step(
    x: Tensor,
    x0_hat: Tensor,
    forward: Callable[[Tensor, Tensor, float], Tensor],
    invert: Callable[[Tensor, Tensor, float], Tensor] | None,
    t: float,
    u: float,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x_u = F_u(x̂_0, √(1 − η²) ε + η z), with ε from x_t and x̂_0, and fresh z.

    η = 0 keeps all the noise ("improved"), η = 1 none ("baseline"). The shares are those of
    standard normal noise. For F = ᾱ_t x_0 + β̄_t ε it is the DDIM family with σ = η β̄_u.

    Args:
        x: x_t, (B, …).
        x0_hat: x̂_0, (B, …).
        forward: (x_0, ε, t) ↦ x_t.
        invert: (x_0, x_t, t) ↦ ε, or None if the noise cannot be recovered; then eta must be 1.
        t: time of x.
        u: time to go to, < t.
        eta: η in [0, 1], the share of fresh noise.
        generator: source of z, of the shape of x.

    Raises:
        TypeError: if x or x0_hat is not a floating-point tensor, or their dtypes disagree.
        ValueError: if u ≥ t, eta is outside [0, 1], or invert is None with eta < 1.

    Source: kexue.fm/archives/9271, equations 3, 6 and 8.
    """
    check_floating(x=x, x0_hat=x0_hat)
    _check_order(t, u)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if invert is None and eta < 1:
        raise ValueError(f"eta must be 1 if the noise cannot be recovered, got {eta}")
    noise = torch.zeros_like(x)
    if invert is not None and eta < 1:
        noise = math.sqrt((1 - eta) * (1 + eta)) * invert(x0_hat, x, t)
    if eta > 0:
        fresh = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        noise = noise + eta * fresh
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


def dct_blur(images: Tensor, t: float | Tensor, strength: float = 3.0) -> Tensor:
    """Return images whose cosine modes (k_1, k_2) are damped by exp(−strength (k_1² + k_2²) t²).

    Args:
        images: (B, H, W).
        t: time in [0, 1], or one for each image, (B,); 0 leaves them as they are.
        strength: > 0; the mean of an image is kept always.

    Raises:
        TypeError: if images is not a floating-point tensor.
        ValueError: if images is not (B, H, W), t is outside [0, 1] or has another shape, or
            strength is not positive.

    Source: Rissanen, Heinonen, Solin, "Generative Modelling With Inverse Heat Dissipation",
    arXiv:2206.13397.

    Example:
        >>> dct_blur(torch.tensor([[[1.0, 0.0]]]), t=1.0).round(decimals=3)
        tensor([[[0.5250, 0.4750]]])
    """
    check_floating(images=images)
    if images.ndim != 3:
        raise ValueError(f"images must have shape (B, H, W), got {tuple(images.shape)}")
    times = torch.as_tensor(t, dtype=torch.float64, device=images.device)
    if times.ndim and times.shape != images.shape[:1]:
        raise ValueError(f"t must be a number or ({len(images)},), got shape {tuple(times.shape)}")
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(f"t must lie in [0, 1], got {t}")
    check_positive(strength=strength)
    wide = widened(images)
    rows, columns = (_cosines(size).to(wide) for size in images.shape[1:])
    damping = [_damping(size, times, strength).to(wide) for size in images.shape[1:]]
    modes = rows @ wide @ columns.T
    blurred = rows.T @ (modes * damping[0].unsqueeze(-1) * damping[1].unsqueeze(-2)) @ columns
    return narrowed(blurred, images.dtype, "the blurred images")


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine modes, one a row, float64."""
    return torch.as_tensor(dct(np.eye(size), axis=0, norm="ortho"))


def _damping(size: int, times: Tensor, strength: float) -> Tensor:
    """exp(−strength k² t²) for k = 0, …, size − 1, one row for each time."""
    frequencies = torch.arange(size, dtype=torch.float64, device=times.device)
    return torch.exp(-strength * (frequencies * times.unsqueeze(-1)).square())


def _check_order(t: float, u: float) -> None:
    if not u < t:
        raise ValueError(f"u must be before t = {t}, got {u}")
