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
from typing import Literal

import numpy as np
import sympy as sp
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from kexue_lab.diffusion.schedules import Score
from kexue_lab.precision import holds, narrowed, power_of_two, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_floating,
    check_monotone,
    check_non_negative,
    check_points,
    check_positive,
    check_precise,
)

Array = NDArray[np.float64]
Grid = Literal["rho", "log", "linear"]
Method = Literal["euler", "heun", "rk4"]
Weighting = Literal["none", "sigma2"]
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
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"p0 must have shape (n,) and be finite, got {values.shape}: {values}")
    check_positive(dx=dx)
    check_non_negative(sigma=sigma)
    omega = 2 * np.pi * np.fft.rfftfreq(len(values), dx)
    with np.errstate(over="ignore", invalid="ignore"):
        modes = np.fft.rfft(values) * np.exp(-0.5 * (sigma * omega) ** 2)
        smooth: Array = np.fft.irfft(modes, len(values))
    if not np.isfinite(smooth).all():
        raise ValueError(f"p0 and sigma/dx must stay within float64, got {sigma = }, {dx = }")
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
        rho: exponent ρ of "rho", in [0.001, 1000].

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
    check_choice(Grid, kind=kind)
    if kind == "log":
        check_positive(sigma_min=sigma_min)
        levels = np.geomspace(sigma_max, sigma_min, n + 1)
    else:
        power = 1 / rho if kind == "rho" else 1.0
        # For ρ outside a powers of σ would all round to 1, or leave float64.
        if not 1e-3 <= power <= 1e3:
            raise ValueError(f'rho must lie in [0.001, 1000], got {rho}; kind="log" is rho = inf')
        levels = np.linspace(sigma_max**power, sigma_min**power, n + 1) ** (1 / power)
    levels[0], levels[-1] = sigma_max, sigma_min  # the ends exactly, not up to rounding
    if not (np.diff(levels) < 0).all():
        raise ValueError(f"n must leave distinct levels, got {n} between {sigma_max}, {sigma_min}")
    return torch.from_numpy(levels)


def denoiser_score(denoiser: Denoiser) -> Score:
    """Return the score (x, σ) ↦ (D(x, σ) − x)/σ² of a denoiser D, for σ > 0; nan at σ = 0.

    Source: Tweedie's formula; Karras et al., arXiv:2206.00364, equation 3.
    """

    def score(x: Tensor, sigma: float) -> Tensor:
        difference = denoiser(x, sigma) - x
        square = sigma * sigma
        # A square that underflows would be divided by twice; 0/0 at σ = 0 is the caller's.
        return difference / square if square > 1e-30 else difference / sigma / sigma

    return score


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

    Euler is DDIM in the variable x/ᾱ; Heun is the sampler of EDM without its noise. A step to
    σ = 0 is Euler's where the score does not exist there, as that of `denoiser_score`; at σ = 0
    `denoise` leaves the points where they are.

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
    levels = check_monotone(sigmas=sigmas)
    step = _stepper(method)
    with torch.no_grad():
        path = [x]
        for sigma, following in pairwise(levels):
            x = step(velocity, x, sigma, following)
            if return_path:
                path.append(x)
        if denoise:
            if levels[-1] > 0:
                x = x + levels[-1] ** 2 * score(x, levels[-1])
            path.append(x)
    return narrowed(torch.stack(path) if return_path else x, x.dtype, "the points")


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
    levels = check_monotone(sigmas=sigmas)
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
        RuntimeError: if the integrator gives up, or Φ C(t0) Φᵀ misses C(t1) by more than 1e-6.
    """
    start = np.asarray(cov0, dtype=np.float64)
    if start.ndim != 2 or start.shape[0] != start.shape[1]:
        raise ValueError(f"cov0 must have shape (d, d), got {start.shape}")
    tolerance = 1e-8 * np.abs(start).max(initial=0)
    if (
        not (np.abs(start - start.T) <= tolerance).all()
        or not (np.linalg.eigvalsh(start) > 0).all()
    ):
        raise ValueError(f"cov0 must be symmetric positive definite, got {start.tolist()}")
    d = len(start)
    # Tolerances of the integrator are meant for a covariance of the order of 1.
    unit = float(power_of_two(torch.tensor(np.trace(start) / d)))
    unit = 1.0 if 1e-3 <= unit <= 1e3 else unit
    if np.shape(diffusivity(t0)) != (d, d):
        raise ValueError(f"diffusivity must return ({d}, {d}), got {np.shape(diffusivity(t0))}")

    def slope(t: float, state: Array) -> Array:
        covariance, flow = state.reshape(2, d, d)
        matrix = np.asarray(diffusivity(t), dtype=np.float64) / unit
        return np.stack([2 * matrix, matrix @ np.linalg.solve(covariance, flow)]).ravel()

    initial = np.stack([start / unit, np.eye(d)]).ravel()
    solution = solve_ivp(slope, (t0, t1), initial, "DOP853", rtol=1e-12, atol=1e-13)
    if not solution.success:
        raise RuntimeError(f"the integrator gave up: {solution.message}")
    covariance, flow = solution.y[:, -1].reshape(2, d, d)
    carried = flow @ (start / unit) @ flow.T
    if not np.abs(carried - covariance).max() <= 1e-6 * np.abs(covariance).max():
        raise RuntimeError("the flow lost its digits: C(t1) is too small beside C(t0)")
    result: Array = flow
    return result


def conditional_score_loss(
    score: Score,
    x0: Tensor,
    sigma: float,
    *,
    weighting: Weighting = "none",
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
    check_choice(Weighting, weighting=weighting)
    wide = widened(x0)
    noise = torch.randn(wide.shape, generator=generator, dtype=wide.dtype, device=x0.device)
    error = widened(score((wide + sigma * noise).to(x0.dtype), sigma)) + noise / sigma
    # The square is taken of what is returned: that of 1/σ may be too large, or 0.
    if weighting == "sigma2" and not 1e-15 < sigma < 1e15:
        return (sigma * error).square().sum(-1).mean()
    loss = error.square().sum(-1).mean()
    return loss * sigma**2 if weighting == "sigma2" else loss


def _velocity(score: Score, x: Tensor, matrix: Tensor | None) -> Velocity:
    """Check points and matrix; return (x, σ) ↦ −σ A s(x, σ)."""
    check_points(x=x)
    check_precise(x=x)
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
    check_choice(Method, method=method)
    return {"euler": _euler, "heun": _heun, "rk4": _rk4}[method]


def _euler(f: Velocity, x: Tensor, s: float, u: float) -> Tensor:
    return x + (u - s) * _first(f, x, s)


def _heun(f: Velocity, x: Tensor, s: float, u: float) -> Tensor:
    first = _first(f, x, s)
    end = f(x + (u - s) * first, u)
    return x + 0.5 * (u - s) * (first + _or_at_zero(end, first, u))


def _rk4(f: Velocity, x: Tensor, s: float, u: float) -> Tensor:
    h, middle = u - s, 0.5 * (s + u)
    k1 = _first(f, x, s)
    k2 = f(x + 0.5 * h * k1, middle)
    k3 = f(x + 0.5 * h * k2, middle)
    k4 = f(x + h * k3, u)
    # Without an end the step is Euler's: RK4's stages mean nothing singly.
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4) if _exists(k4, u) else x + h * k1


def _first(f: Velocity, x: Tensor, sigma: float) -> Tensor:
    velocity = f(x, sigma)
    if not _exists(velocity, sigma):
        raise ValueError("sigmas must not start at 0 where the score does not exist there, got 0.0")
    return velocity


def _or_at_zero(velocity: Tensor, before: Tensor, sigma: float) -> Tensor:
    """The velocity, or the one before at σ = 0 if it does not exist there."""
    return velocity if _exists(velocity, sigma) else before


def _exists(velocity: Tensor, sigma: float) -> bool:
    """Whether there is a velocity: at σ = 0 the score of a denoiser is 0/0."""
    return sigma > 0 or holds(velocity.isfinite())
