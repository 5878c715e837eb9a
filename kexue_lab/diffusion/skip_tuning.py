"""Skip-Tuning: weights on the skip connections of a trained U-Net, and what few-step samplers need.

EDM's variables: y = x_0 + σε, denoiser D(y, σ), slope d = (y − D)/σ (the predicted noise), and the
Euler step y' = y + (σ' − σ) d, which is DDIM. For Gaussian data everything is known exactly:
Euler's step loses variance, Heun's large steps gain it, and a gain on d can mend either; in a
linear U-Net a weight on a skip adds the same number to the slopes of all axes that it passes.
The networks are in `kexue_lab.diffusion.unet`.
Sources: Ma et al., "The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling",
arXiv:2402.15170; Karras et al., arXiv:2206.00364; kexue.fm/archives/10077.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from kexue_lab.diffusion.diffusion_ode import sigma_grid
from kexue_lab.precision import narrowed
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_decreasing,
    check_finite,
    check_floating,
    check_non_negative,
    check_positive,
    check_precise,
)

Method = Literal["euler", "heun", "ancestral"]
Denoiser = Callable[[Tensor, float], Tensor]
"""A denoiser: noised data (B, …) and one noise level σ to E[x_0 | y], (B, …)."""


def skip_weights(n_skips: int, rho_bottom: float, rho_top: float = 1.0) -> tuple[float, ...]:
    """Return weights from ρ_top (the skip nearest the input) to ρ_bottom, equally spaced.

    Args:
        n_skips: number of skip connections, ≥ 1; a single one gets rho_bottom.
        rho_bottom: weight of the skip nearest the bottleneck.
        rho_top: weight of the skip nearest the input.

    Raises:
        TypeError: if n_skips is not an integer.
        ValueError: if n_skips < 1 or a weight is not finite.

    Source: arXiv:2402.15170, equation 3.

    Example:
        >>> skip_weights(3, 0.7)
        (1.0, 0.85, 0.7)
    """
    check_count(n_skips=n_skips)
    for name, value in (("rho_bottom", rho_bottom), ("rho_top", rho_top)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    if n_skips == 1:
        return (rho_bottom,)
    step = (rho_bottom - rho_top) / (n_skips - 1)
    return tuple(rho_top + i * step for i in range(n_skips))


def karras_sigmas(
    n: int, sigma_min: float = 0.02, sigma_max: float = 20.0, rho: float = 7.0
) -> Tensor:
    """Return EDM's n noise levels from σ_max to σ_min, equally spaced in σ^{1/ρ}, then 0: (n+1,).

    Args:
        n: number of steps, ≥ 1; n = 1 gives (σ_max, 0).
        sigma_min: last level before 0.
        sigma_max: first level.
        rho: exponent.

    Raises:
        TypeError, ValueError: as `sigma_grid`.

    Source: Karras et al., arXiv:2206.00364, equation 5.

    Example:
        >>> karras_sigmas(3)
        tensor([20.0000,  1.4354,  0.0200,  0.0000], dtype=torch.float64)
    """
    check_count(n=n)
    grid = sigma_grid(max(n - 1, 1), sigma_min, sigma_max, rho=rho)[:n]
    return torch.cat([grid, grid.new_zeros(1)])


@torch.no_grad()
def sample_edm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    method: Method = "euler",
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample with a denoiser along decreasing noise levels; the slope (x − D)/σ is times `gain`.

    "euler" is DDIM, "heun" EDM's second-order sampler (Euler in a step to 0), "ancestral" draws
    noise in each step as DDPM does.

    Args:
        denoise: (x: (B, …), σ) ↦ E[x_0 | x].
        x: (B, …), noise scaled to sigmas[0].
        sigmas: (m,), m ≥ 2, strictly decreasing, ≥ 0; see `karras_sigmas`.
        method: see above.
        gain: factor on the predicted noise ("epsilon scaling", Ning et al., arXiv:2308.15321).
        generator: source of the noise of "ancestral".

    Returns:
        (B, …) at sigmas[-1], without gradients.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if sigmas do not decrease, the method is unknown, or gain is not positive.

    Source: Karras et al., arXiv:2206.00364, algorithm 1; k-diffusion's `sample_euler_ancestral`.
    """
    check_precise(x=x)
    levels = check_decreasing(sigmas=sigmas)
    check_positive(gain=gain)
    check_choice(Method, method=method)

    def slope(points: Tensor, sigma: float) -> Tensor:
        return gain * (points - denoise(points, sigma)) / sigma

    for sigma, following in pairwise(levels):
        d = slope(x, sigma)
        if method == "ancestral":
            up = following * math.sqrt((1 - following / sigma) * (1 + following / sigma))
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + (following * (following / sigma) - sigma) * d + up * noise
        elif method == "heun" and following > 0:
            ahead = slope(x + (following - sigma) * d, following)
            x = x + 0.5 * (following - sigma) * (d + ahead)
        else:
            x = x + (following - sigma) * d
    return x


def gaussian_gain(variance: float, sigma: float, sigma_next: float) -> float:
    """Return the gain on the slope with which an Euler step is exact for N(0, l), in (0, 1).

    c* = (√((l + σ'²)(l + σ²)) − (l + σ²)) / ((σ' − σ) σ).

    Args:
        variance: l > 0.
        sigma: σ > 0.
        sigma_next: σ' in [0, σ).

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> round(gaussian_gain(1.0, 2.0, 1.0), 4)
        0.9189
    """
    check_positive(variance=variance, sigma=sigma)
    check_non_negative(sigma_next=sigma_next)
    if sigma_next >= sigma:
        raise ValueError(f"sigma_next must be below sigma = {sigma}, got {sigma_next}")
    deviation = math.sqrt(variance)
    now, then = math.hypot(deviation, sigma), math.hypot(deviation, sigma_next)
    # With squares: √(now·then) − now = √now (then − now)/(√then + √now), which does not cancel.
    return now / (then + now) * ((sigma + sigma_next) / sigma)


def gaussian_path_variance(
    variances: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    method: Literal["euler", "heun"] = "euler",
    gain: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """Return the exact variance of samples of independent Gaussian modes at sigmas[-1], (d,).

    Args:
        variances: l of each mode, (d,), positive.
        sigmas: (m,), m ≥ 2, strictly decreasing, ≥ 0.
        method: as in `sample_edm`.
        gain: as in `sample_edm`.
        start: variance at sigmas[0], (d,); sigmas[0]² by default, as a sampler starts.

    Raises:
        TypeError: if a tensor is not floating point, or the dtypes disagree.
        ValueError: if shapes disagree, variances are not positive, start is negative, sigmas do
            not decrease, the method is unknown, or gain is not positive.
    """
    check_floating(variances=variances)
    if variances.ndim != 1 or not (variances > 0).all():
        raise ValueError(f"variances must be (d,) and positive, got {variances.tolist()}")
    levels = check_decreasing(sigmas=sigmas)
    check_positive(gain=gain)
    check_choice(Literal["euler", "heun"], method=method)
    check_finite(variances=variances)
    if start is None:
        start = narrowed(
            torch.full_like(variances, levels[0]).double() ** 2, variances.dtype, "start"
        )
    check_floating(variances=variances, start=start)
    if start.shape != variances.shape or not (start >= 0).all():
        raise ValueError(f"start must have shape {tuple(variances.shape)} and be non-negative")

    deviations = variances.double().sqrt()

    def rate(sigma: float) -> Tensor:
        """C σ/(l + σ²), whose squares may leave float64."""
        root = torch.hypot(deviations, torch.full_like(deviations, sigma))
        return gain / root * (sigma / root)

    factor = torch.ones_like(deviations)
    for sigma, following in pairwise(levels):
        h = following - sigma
        step = 1 + h * rate(sigma)
        if method == "heun" and following > 0:
            step = 1 + 0.5 * h * (rate(sigma) + rate(following) * step)
        factor = factor * step
    return narrowed(start.double() * factor.square(), variances.dtype, "the variance")


def linear_unet_slopes(
    variances: Tensor,
    sigma: float,
    weights: Sequence[float],
    passed: Sequence[int],
    *,
    target: Literal["noise", "datum", "velocity"] = "noise",
) -> Tensor:
    """Return e with which a linear U-Net guesses the noise e_j y_j on each axis, (d,).

    Skip i passes a multiple of the first passed[i] axes, the bottleneck a number for each of its
    passed[-1]. Least squares finds them for N(0, diag l); then the skips are weighted.

    Args:
        variances: l_j of the data's axes, (d,), positive; usually falling.
        sigma: σ > 0.
        weights: ρ_i of the skips, the one nearest the input first, at least one.
        passed: one more number than weights, falling from d to at least 0.
        target: what the network guesses: ε, x_0, or (ε − σ x_0)/√(1 + σ²).

    Raises:
        TypeError: if variances is not a floating-point tensor.
        ValueError: if variances are not positive or not (d,), sigma is not positive, a weight is
            not finite, passed does not fall from d or has another length, the target is unknown,
            or a slope is beyond the dtype.

    Source: equations (5) and (6) of `diffusion/skip_tuning`.

    Example:
        >>> l = torch.tensor([3.0, 1 / 3])
        >>> linear_unet_slopes(l, 1.0, [0.8], [2, 1], target="noise")
        tensor([0.1000, 0.6000])
        >>> linear_unet_slopes(l, 1.0, [0.8], [2, 1], target="datum")
        tensor([0.3000, 0.8000])
    """
    check_floating(variances=variances)
    check_finite(variances=variances)
    if variances.ndim != 1 or not (variances > 0).all():
        raise ValueError(f"variances must be (d,) and positive, got {variances.tolist()}")
    check_positive(sigma=sigma)
    check_choice(Literal["noise", "datum", "velocity"], target=target)
    _check_bands(len(variances), weights, passed)
    exact = variances.double()
    slopes, changes = _noise_slope(exact, sigma), torch.zeros_like(exact)
    above = _slope_without_data(sigma, target)
    for weight, first, last in zip(weights, passed, passed[1:], strict=False):
        pooled = _noise_slope(exact[last:first].mean(), sigma)
        slopes[last:first] = pooled
        changes[:first] -= (1 - weight) * (pooled - above)
        above = pooled
    return narrowed(slopes + changes, variances.dtype, "a slope")


def _noise_slope(variance: Tensor, sigma: float) -> Tensor:
    """σ/(l + σ²), whose squares may leave float64."""
    root = torch.hypot(variance.sqrt(), torch.full_like(variance, sigma))
    return sigma / root / root


def _slope_without_data(sigma: float, target: str) -> Tensor:
    """The noise's slope if the network returned 0: 0, 1/σ, or σ/(1 + σ²)."""
    if target == "noise":
        return torch.zeros((), dtype=torch.float64)
    variance = float(target == "velocity")
    return _noise_slope(torch.tensor(variance, dtype=torch.float64), sigma)


def _check_bands(d: int, weights: Sequence[float], passed: Sequence[int]) -> None:
    if len(weights) < 1 or not all(math.isfinite(w) for w in weights):
        raise ValueError(f"weights must be finite and at least one, got {list(weights)}")
    falling = all(a > b for a, b in pairwise(passed))
    if len(passed) != len(weights) + 1 or passed[0] != d or not falling or passed[-1] < 0:
        raise ValueError(
            f"passed must be {len(weights) + 1} numbers falling from {d} to at least 0, "
            f"got {list(passed)}"
        )
