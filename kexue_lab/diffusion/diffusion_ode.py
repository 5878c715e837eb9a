"""The diffusion ODE dx/dσ = −σ ∇ log p_σ(x), where p_σ is the data convolved with N(0, σ² I).

Derived without an SDE: a velocity −D ∇ log p turns the continuity equation into the heat equation,
whose solution is the noising x_σ = x_0 + σε. A constant matrix A = I + J with J antisymmetric,
dx/dσ = −σ A ∇ log p_σ, keeps every p_σ too.
Source: kexue.fm/archives/9280; Karras et al., "Elucidating the Design Space of Diffusion-Based
Generative Models", arXiv:2206.00364.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import sympy as sp
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from kexue_lab.diffusion.schedules import Score
from kexue_lab.validation import (
    check_count,
    check_floating,
    check_non_negative,
    check_points,
    check_positive,
)

Array = NDArray[np.float64]
Grid = Literal["rho", "log", "linear"]
Method = Literal["euler", "heun", "rk4"]
Velocity = Callable[[Tensor, float], Tensor]
Denoiser = Callable[[Tensor, float], Tensor]
"""A denoiser: points (B, d) and one noise level to E[x_0 | x], (B, d)."""


def continuity_residual(
    p: sp.Expr, f: Sequence[sp.Expr], xs: Sequence[sp.Symbol], t: sp.Symbol
) -> sp.Expr:
    """Return ∂p/∂t + ∇·(f p), which is 0 if the velocity f carries the density p.

    Args:
        p: density, an expression in `xs` and `t`.
        f: components of the velocity, one for each coordinate.
        xs: coordinates.
        t: time.

    Raises:
        ValueError: if f and xs differ in length.
    """
    if len(f) != len(xs):
        raise ValueError(f"f must have {len(xs)} components, one per coordinate, got {len(f)}")
    return sp.diff(p, t) + sum(sp.diff(v * p, x) for v, x in zip(f, xs, strict=True))


def heat_solution(p0: ArrayLike, dx: float, sigma: float) -> Array:
    """Return p0 convolved with N(0, σ²) on a periodic grid: each Fourier mode times e^{−σ²ω²/2}.

    Args:
        p0: (n,), values on a grid.
        dx: spacing of the grid, > 0.
        sigma: σ ≥ 0. Mass that leaves at one end comes in at the other.

    Returns:
        (n,).

    Raises:
        ValueError: if p0 is not one-dimensional, dx is not positive or sigma negative.
    """
    values = np.asarray(p0, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"p0 must have shape (n,), got {values.shape}")
    check_positive(dx=dx)
    check_non_negative(sigma=sigma)
    omega = 2 * np.pi * np.fft.rfftfreq(len(values), dx)
    modes = np.fft.rfft(values) * np.exp(-0.5 * (sigma * omega) ** 2)
    smooth: Array = np.fft.irfft(modes, len(values))
    return smooth


def sigma_grid(
    n: int, sigma_min: float, sigma_max: float, kind: Grid = "rho", rho: float = 7.0
) -> Tensor:
    """Return n + 1 noise levels falling from σ_max to σ_min, (n+1,) float64.

    "linear" and "log" are equally spaced in σ and ln σ; "rho" is equally spaced in σ^{1/ρ}.

    Args:
        n: number of steps, ≥ 1.
        sigma_min: last level, ≥ 0; > 0 for "log".
        sigma_max: first level.
        kind: see above.
        rho: exponent ρ > 0 of "rho".

    Raises:
        TypeError: if n is not an integer.
        ValueError: if n < 1, not 0 ≤ sigma_min < sigma_max < ∞, rho ≤ 0, sigma_min is 0 for "log",
            or kind is unknown.

    Source: Karras et al., arXiv:2206.00364, equation 5.

    Example:
        >>> sigma_grid(4, 0.1, 10.0)
        tensor([10.0000,  4.0701,  1.4507,  0.4325,  0.1000], dtype=torch.float64)
    """
    check_count(n=n)
    check_non_negative(sigma_min=sigma_min)
    check_positive(sigma_max=sigma_max, rho=rho)
    if not sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be below sigma_max = {sigma_max}, got {sigma_min}")
    if kind not in get_args(Grid):
        raise ValueError(f"kind must be one of {get_args(Grid)}, got {kind!r}")
    if kind == "log":
        check_positive(sigma_min=sigma_min)
        levels = np.geomspace(sigma_max, sigma_min, n + 1)
    else:
        power = 1 / rho if kind == "rho" else 1.0
        levels = np.linspace(sigma_max**power, sigma_min**power, n + 1) ** (1 / power)
    levels[0], levels[-1] = sigma_max, sigma_min  # the ends exactly, not up to rounding
    return torch.from_numpy(levels)


def denoiser_score(denoiser: Denoiser) -> Score:
    """Return the score (x, σ) ↦ (D(x, σ) − x)/σ² of a denoiser D, for σ > 0.

    Source: Tweedie's formula; Karras et al., arXiv:2206.00364, equation 3.
    """
    return lambda x, sigma: (denoiser(x, sigma) - x) / sigma**2


def sample_ode(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    matrix: Tensor | None = None,
    method: Method = "euler",
    denoise: bool = False,
    return_path: bool = False,
) -> Tensor:
    """Move points along dx/dσ = −σ A ∇ log p_σ(x), from each given noise level to the next.

    Euler is DDIM in the variable x/ᾱ; Heun is the sampler of EDM without its noise.

    Args:
        score: (x: (B, d), σ) ↦ ∇ log p_σ(x), (B, d).
        x: (B, d), points at sigmas[0].
        sigmas: (m,), m ≥ 2, strictly decreasing (to data) or increasing (to noise), ≥ 0.
        matrix: A, (d, d), acting on columns; the identity by default.
        method: "euler", "heun" or "rk4", of order 1, 2 and 4.
        denoise: end with the step x + σ² ∇ log p_σ(x), the posterior mean (Tweedie).
        return_path: return the points at every level (and after `denoise`).

    Returns:
        (B, d), or (m, B, d) with `return_path` (one more with `denoise`); without gradients.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if x is not (B, d), sigmas are not monotone, matrix has another shape, the
            method is unknown, or the score's shape is not that of x.

    Source: Karras et al., arXiv:2206.00364, equation 1 and algorithm 1.
    """
    velocity = _velocity(score, x, matrix)
    levels = _check_levels(sigmas)
    step = _stepper(method)
    with torch.no_grad():
        path = [x]
        for sigma, following in pairwise(levels):
            x = step(velocity, x, sigma, following)
            if return_path:
                path.append(x)
        if denoise:
            x = x + levels[-1] ** 2 * score(x, levels[-1])
            path.append(x)
    return torch.stack(path) if return_path else x


def flow_log_density(
    score: Score,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    matrix: Tensor | None = None,
    method: Method = "rk4",
) -> tuple[Tensor, Tensor]:
    """Follow the ODE of `sample_ode` and the change of the log density along it.

    log p_start(x) = log p_end(x_end) + delta with delta = ∫ ∇·v dσ, the divergence exact by
    autograd (d backward passes for each evaluation).

    Args:
        score: (x: (B, d), σ) ↦ ∇ log p_σ(x), differentiable by autograd, each row depending on its
            own point only.
        x: (B, d), points at sigmas[0].
        sigmas: as in `sample_ode`.
        matrix: as in `sample_ode`.
        method: as in `sample_ode`.

    Returns:
        x_end (B, d) and delta (B,), without gradients.

    Raises:
        TypeError, ValueError: as `sample_ode`.

    Source: Chen et al., "Neural Ordinary Differential Equations", arXiv:1806.07366.
    """
    velocity = _velocity(score, x, matrix)
    levels = _check_levels(sigmas)
    step = _stepper(method)
    probes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, *x.shape)

    def extended(state: Tensor, sigma: float) -> Tensor:
        # The integral of the divergence rides along as one more coordinate.
        speed, pull, *_ = torch.func.vjp(lambda y: velocity(y, sigma), state[:, :-1])
        rows = torch.func.vmap(lambda probe: pull(probe)[0])(probes)
        divergence = (rows * probes).sum((0, 2))
        return torch.cat([speed, divergence[:, None]], -1)

    state = torch.cat([x, x.new_zeros(len(x), 1)], -1)
    with torch.no_grad():
        for sigma, following in pairwise(levels):
            state = step(extended, state, sigma, following)
    return state[:, :-1], state[:, -1]


def gaussian_flow_map(
    cov0: ArrayLike, diffusivity: Callable[[float], ArrayLike], t0: float, t1: float
) -> Array:
    """Return Φ of x(t1) − m = Φ (x(t0) − m) under ẋ = −D_t ∇ log p_t for Gaussian p: (d, d).

    Ċ = 2 D_t and Φ̇ = D_t C⁻¹ Φ, so that Φ C(t0) Φᵀ = C(t1). Integrated by DOP853.

    Args:
        cov0: C(t0), (d, d), symmetric positive definite.
        diffusivity: t ↦ D_t, (d, d), symmetric.
        t0: start.
        t1: end; t1 < t0 is allowed while C stays positive definite.

    Raises:
        ValueError: if cov0 is not symmetric positive definite or diffusivity has another shape.
        RuntimeError: if the integrator gives up.
    """
    start = np.asarray(cov0, dtype=np.float64)
    if start.ndim != 2 or start.shape[0] != start.shape[1]:
        raise ValueError(f"cov0 must have shape (d, d), got {start.shape}")
    if not np.allclose(start, start.T) or not (np.linalg.eigvalsh(start) > 0).all():
        raise ValueError(f"cov0 must be symmetric positive definite, got {start.tolist()}")
    d = len(start)
    if np.shape(diffusivity(t0)) != (d, d):
        raise ValueError(f"diffusivity must return ({d}, {d}), got {np.shape(diffusivity(t0))}")

    def slope(t: float, state: Array) -> Array:
        covariance, flow = state.reshape(2, d, d)
        matrix = np.asarray(diffusivity(t), dtype=np.float64)
        return np.stack([2 * matrix, matrix @ np.linalg.solve(covariance, flow)]).ravel()

    initial = np.stack([start, np.eye(d)]).ravel()
    solution = solve_ivp(slope, (t0, t1), initial, "DOP853", rtol=1e-12, atol=1e-13)
    if not solution.success:
        raise RuntimeError(f"the integrator gave up: {solution.message}")
    flow: Array = solution.y[d * d :, -1].reshape(d, d)
    return flow


def conditional_score_loss(
    score: Score,
    x0: Tensor,
    sigma: float,
    *,
    weighting: Literal["none", "sigma2"] = "none",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean over the batch of ‖s(x_0 + σε, σ) + ε/σ‖², a scalar.

    Its least value is not 0 but d/σ² − E‖∇ log p_σ‖².

    Args:
        score: (x: (B, d), σ) ↦ (B, d).
        x0: data, (B, d).
        sigma: noise level σ > 0.
        weighting: "sigma2" multiplies by σ², which makes it the loss of a noise predictor.
        generator: source of ε.

    Raises:
        TypeError: if x0 is not a floating-point tensor.
        ValueError: if x0 is not (B, d), sigma is not positive, or weighting is unknown.

    Source: Vincent, "A Connection Between Score Matching and Denoising Autoencoders", 2011.
    """
    check_points(x0=x0)
    check_positive(sigma=sigma)
    if weighting not in ("none", "sigma2"):
        raise ValueError(f'weighting must be "none" or "sigma2", got {weighting!r}')
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    loss = (score(x0 + sigma * noise, sigma) + noise / sigma).square().sum(-1).mean()
    return loss * sigma**2 if weighting == "sigma2" else loss


def _velocity(score: Score, x: Tensor, matrix: Tensor | None) -> Velocity:
    """Check points and matrix; return (x, σ) ↦ −σ A s(x, σ)."""
    check_points(x=x)
    if matrix is not None:
        check_floating(x=x, matrix=matrix)
        if matrix.shape != (x.shape[1], x.shape[1]):
            shape = tuple(matrix.shape)
            raise ValueError(f"matrix must have shape ({x.shape[1]}, {x.shape[1]}), got {shape}")

    def velocity(points: Tensor, sigma: float) -> Tensor:
        gradient = score(points, sigma)
        if gradient.shape != points.shape:
            found = tuple(gradient.shape)
            raise ValueError(f"score must return shape {tuple(points.shape)}, got {found}")
        return -sigma * (gradient if matrix is None else gradient @ matrix.mT)

    return velocity


def _stepper(method: str) -> Callable[[Velocity, Tensor, float, float], Tensor]:
    steppers = {"euler": _euler, "heun": _heun, "rk4": _rk4}
    if method not in steppers:
        raise ValueError(f"method must be one of {tuple(steppers)}, got {method!r}")
    return steppers[method]


def _euler(f: Velocity, x: Tensor, s: float, u: float) -> Tensor:
    return x + (u - s) * f(x, s)


def _heun(f: Velocity, x: Tensor, s: float, u: float) -> Tensor:
    first = f(x, s)
    return x + 0.5 * (u - s) * (first + f(x + (u - s) * first, u))


def _rk4(f: Velocity, x: Tensor, s: float, u: float) -> Tensor:
    h, middle = u - s, 0.5 * (s + u)
    k1 = f(x, s)
    k2 = f(x + 0.5 * h * k1, middle)
    k3 = f(x + 0.5 * h * k2, middle)
    k4 = f(x + h * k3, u)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _check_levels(sigmas: Sequence[float] | Tensor) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    steps = [u - s for s, u in pairwise(levels)]
    monotone = all(step < 0 for step in steps) or all(step > 0 for step in steps)
    if not steps or not monotone or not min(levels) >= 0:
        raise ValueError(f"sigmas must be non-negative and strictly monotone, got {levels}")
    return levels
