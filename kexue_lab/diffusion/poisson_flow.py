"""Poisson flow: data as charges on the floor of one more dimension, samples along field lines.

At the height t the upward part of the field F has 2F_t = P_t * p with the Poisson kernel P_t of the
half space, so dx/dt = F_x/F_t has the marginals of x_t = x_0 + t ξ with Cauchy noise ξ = z/|w|.
With D extra dimensions of radius r (PFGM++) the noise is r z/χ_D, and r = σ√D → N(0, σ²) as D → ∞.
In each case dx/dr = (x − E[x_0 | x])/r: sample by `sample_ode` of
`kexue_lab.diffusion.diffusion_ode` with `denoiser_score`, r in the place of σ.
Sources: Xu et al., "Poisson Flow Generative Models", arXiv:2209.11178; "PFGM++", arXiv:2302.04265;
kexue.fm/archives/9305.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, poch, wofz
from torch import Tensor

from kexue_lab.precision import narrowed, power_of_two, widened
from kexue_lab.validation import (
    check_count,
    check_finite,
    check_floating,
    check_non_negative,
    check_points,
    check_positive,
)

Array = NDArray[np.float64]
_LARGEST_DRAW = 10**9  # normals that one call of `perturb` will draw


def poisson_field(x: Tensor, t: float, data: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the field of unit total charge at points (x, t), outward, (B, d+1).

    F = Σ m_i (x − y_i, t)/(‖x − y_i‖² + t²)^{(d+1)/2} / S with S the area of the unit sphere in
    d + 1 dimensions: the flux through a closed surface is the charge inside. Far out it falls
    below what the dtype holds and is 0.

    Args:
        x: (B, d).
        t: height over the data, > 0.
        data: y, (N, d).
        weights: m, (N,), non-negative of sum 1; equal by default.

    Raises:
        TypeError: if a tensor is not floating point, or the dtypes disagree.
        ValueError: if shapes disagree, t is not positive, or weights are no distribution.

    Source: arXiv:2209.11178, equation 3.
    """
    log_kernel, log_largest = _log_kernel(x, t, data, weights, 1)
    d = x.shape[1]
    log_area = math.log(2) + 0.5 * (d + 1) * math.log(math.pi) - float(gammaln(0.5 * (d + 1)))
    strength = (log_kernel.logsumexp(-1) + log_largest - log_area).exp()
    direction = x.double() - log_kernel.softmax(-1) @ data.double()
    height = torch.full_like(strength, t)
    field = strength[:, None] * torch.cat([direction, height[:, None]], -1)
    return narrowed(field, x.dtype, "poisson_field")


def poisson_denoiser(
    x: Tensor, r: float, data: Tensor, weights: Tensor | None = None, *, aug_dim: float = 1
) -> Tensor:
    """Return E[x_0 | x] for data points with noise r z/χ_D, (B, d).

    The mean of the data under weights ∝ m_i (‖x − y_i‖² + r²)^{−(d+D)/2}, computed from their
    logarithms; for D = ∞ the noise is N(0, r²) and the weights are m_i exp(−‖x − y_i‖²/2r²).

    Args:
        x: (B, d).
        r: radius in the extra dimensions (the noise level for D = ∞), > 0.
        data: y, (N, d).
        weights: m, (N,), non-negative of sum 1; equal by default.
        aug_dim: D ≥ 1, or math.inf.

    Raises:
        TypeError, ValueError: as `poisson_field`; ValueError also if aug_dim < 1.

    Source: arXiv:2302.04265, equation 5.

    Example:
        >>> data = torch.tensor([[-1.0], [1.0]])
        >>> poisson_denoiser(torch.tensor([[0.5]]), 1.0, data)
        tensor([[0.4444]])
    """
    log_kernel, _ = _log_kernel(x, r, data, weights, aug_dim)
    denoised = log_kernel.softmax(-1) @ data.double()
    return narrowed(denoised, x.dtype, "poisson_denoiser")


def perturb(
    x0: Tensor, r: float, *, aug_dim: float = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Return x_0 + r z/χ_D, where z is standard normal and χ_D the length of D more normals.

    D = 1 is multivariate Cauchy noise (it has no mean), D = ∞ is N(0, r²). A draw beyond the dtype
    is its largest number.

    Args:
        x0: (B, d).
        r: radius, > 0.
        aug_dim: a whole D ≥ 1, or math.inf.
        generator: source of the noise.

    Raises:
        TypeError: if x0 is not a floating-point tensor.
        ValueError: if x0 is not (B, d), r is not positive, or aug_dim is neither.

    Source: arXiv:2302.04265, section 3.2.
    """
    check_points(x0=x0)
    check_positive(r=r)
    _check_aug_dim(aug_dim)

    wide, largest = widened(x0), torch.finfo(x0.dtype).max

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=wide.dtype, device=x0.device)

    z = normal(*x0.shape)
    if aug_dim == math.inf:
        return (wide + r * z).clamp(-largest, largest).to(x0.dtype)
    if aug_dim != int(aug_dim):
        raise ValueError(f"aug_dim must be whole or infinite to draw from it, got {aug_dim}")
    if aug_dim * len(x0) > _LARGEST_DRAW:
        raise ValueError(f"aug_dim must be at most {_LARGEST_DRAW // len(x0)}, got {aug_dim}")
    chi = torch.linalg.vector_norm(normal(len(x0), int(aug_dim)), dim=-1, keepdim=True)
    # A length of exactly 0 would throw the point to infinity.
    perturbed: Tensor = wide + r * z / chi.clamp_min(torch.finfo(wide.dtype).tiny)
    return perturbed.clamp(-largest, largest).to(x0.dtype)


def sample_prior(
    n: int, d: int, r: float, *, aug_dim: float = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Draw n points of `perturb` around 0, (n, d): density ∝ (‖x‖² + r²)^{−(d+D)/2}.

    ‖x‖²/(‖x‖² + r²) has the law Beta(d/2, D/2).

    Args:
        n: number of points.
        d: dimension.
        r: radius, > 0.
        aug_dim: as in `perturb`.
        generator: source of the noise.

    Raises:
        TypeError: if n or d is not an integer.
        ValueError: if n or d is below 1, or as `perturb`.

    Source: arXiv:2209.11178, section 3.3; arXiv:2302.04265, proposition 2.
    """
    check_count(n=n, d=d)
    device = generator.device if generator is not None else None
    return perturb(torch.zeros(n, d, device=device), r, aug_dim=aug_dim, generator=generator)


def voigt_field(
    x: ArrayLike, t: float, weights: ArrayLike, means: ArrayLike, stds: ArrayLike
) -> tuple[Array, Array]:
    """Return ρ_t and its conjugate ρ̃_t for a Gaussian mixture in one dimension.

    ρ_t + i ρ̃_t = Σ w_k w(z_k)/(s_k √(2π)) with the Faddeeva function w and
    z_k = (x − μ_k + it)/(s_k √2). ρ_t is the mixture smoothed by Cauchy noise of scale t (a Voigt
    profile), and the flow is dx/dt = ρ̃_t/ρ_t.

    Args:
        x: points, any shape.
        t: height ≥ 0.
        weights: (K,), non-negative of sum 1.
        means: (K,).
        stds: (K,), > 0.

    Returns:
        Two arrays of the shape of x.

    Raises:
        ValueError: if shapes disagree, t is negative, stds are not positive, or weights are no
            distribution.

    Source: Humlíček 1982; `scipy.special.wofz`.
    """
    w, mu, s = (np.asarray(v, dtype=np.float64) for v in (weights, means, stds))
    if w.ndim != 1 or not (w.shape == mu.shape == s.shape) or not w.size:
        shapes = f"{w.shape}, {mu.shape}, {s.shape}"
        raise ValueError(f"weights, means and stds must have one shape (K,), got {shapes}")
    if not (w >= 0).all() or not math.isclose(w.sum(), 1, abs_tol=1e-9):
        raise ValueError(f"weights must be non-negative with sum 1, got {w.tolist()}")
    if not (s > 0).all():
        raise ValueError(f"stds must be positive, got {s.tolist()}")
    check_non_negative(t=t)
    with np.errstate(over="ignore", invalid="ignore"):
        z = (np.asarray(x, dtype=np.float64)[..., None] - mu + 1j * t) / (s * math.sqrt(2))
    if not np.isfinite(z).all():
        raise ValueError("x, means and t over stds must be finite, got a ratio beyond float64")
    field = (wofz(z) * w / (s * math.sqrt(2 * math.pi))).sum(-1)
    return field.real, field.imag


def prior_tv_constant(d: int) -> float:
    """Return c_d in TV(ρ_T, P_T) ≈ c_d s²/T²: the prior's error for centred isotropic data.

    s² is the data's variance in each coordinate. c_d rises from 0.2067 at d = 1 to 0.4625.

    Args:
        d: dimension, ≥ 1.

    Raises:
        TypeError: if d is not an integer.
        ValueError: if d < 1.

    Example:
        >>> round(prior_tv_constant(2), 4)
        0.2789
    """
    check_count(d=d)
    # From ½∫|ΔP_T| s²/2, whose integrand changes its sign at the radius T √(d/3). Both powers of d
    # are taken as one: their logarithms would cancel for large d.
    ratio = float(poch(0.5 * d, 0.5)) * math.exp(-0.5 * d * math.log1p(3 / d))
    return (d + 1) * ratio / math.sqrt(math.pi) / math.pow((d + 3) / 3, 1.5)


def _log_kernel(
    x: Tensor, r: float, data: Tensor, weights: Tensor | None, aug_dim: float
) -> tuple[Tensor, Tensor]:
    """Logarithms of m_i (‖x − y_i‖² + r²)^{−(d+D)/2}, or of the Gaussian weights, in float64.

    They are given as (B, N) relative to the nearest point's, and that one's without its m_i, (B,).
    The relative ones alone are exact for large D or x, where all are nearly equal.
    """
    check_points(x=x, data=data)
    check_finite(x=x, data=data)
    if data.shape[1] != x.shape[1] or not len(data):
        shape = tuple(data.shape)
        raise ValueError(f"data must have shape (N, {x.shape[1]}), N >= 1, got {shape}")
    check_positive(r=r)
    _check_aug_dim(aug_dim)
    log_weights = _log_weights(weights, x, data)
    x, data = x.double(), data.double()
    unit = power_of_two(torch.stack([x.abs().max(), data.abs().max(), x.new_tensor(r)]).max())
    x, data, radius = x / unit, data / unit, r / unit
    away = x[:, None] - data
    nearest = away.square().sum(-1).argmin(-1)
    here, least = data[nearest], x - data[nearest]
    # ‖x − y_i‖² − ‖x − y_n‖² as a product does not cancel far from the data.
    further = ((here[:, None] - data) * (away + least[:, None])).sum(-1)
    squares = least.square().sum(-1)
    if aug_dim == math.inf:
        return log_weights - 0.5 * further / radius / radius, -0.5 * squares / radius / radius
    power = 0.5 * (x.shape[1] + aug_dim)
    total = squares + radius**2
    relative = torch.log1p(further / total[:, None])
    return log_weights - power * relative, -power * (total.log() + 2 * unit.log())


def _log_weights(weights: Tensor | None, x: Tensor, data: Tensor) -> Tensor:
    if weights is None:
        return x.new_full((len(data),), -math.log(len(data)), dtype=torch.float64)
    check_floating(x=x, weights=weights)
    if weights.shape != data.shape[:1]:
        raise ValueError(f"weights must have shape ({len(data)},), got {tuple(weights.shape)}")
    total = float(weights.double().sum())
    if not (weights >= 0).all() or not abs(total - 1) <= max(1e-6, torch.finfo(x.dtype).eps):
        raise ValueError(f"weights must be non-negative with sum 1, got sum {total:g}")
    return weights.double().log()


def _check_aug_dim(aug_dim: float) -> None:
    if not aug_dim >= 1:
        raise ValueError(f"aug_dim must be at least 1, got {aug_dim}")
