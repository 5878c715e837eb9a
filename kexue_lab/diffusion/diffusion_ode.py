"""The diffusion ODE, head-on: a velocity whose continuity equation has given marginals.

Given x_t = ᾱ_t x_0 + β̄_t ε, one datum's points move with v_t(x|x_0) = dᾱ/dt x_0 + dβ̄/dt ε. The
mean of these velocities over the data given x is a velocity of the whole cloud: no SDE is needed.
In y = x/ᾱ and σ = β̄/ᾱ it is dy/dσ = ε = −σ ∇ log p_σ(y), where p_σ is the data convolved with
N(0, σ² I); the samplers for it are in `kexue_lab.diffusion.samplers`. A constant matrix A = I + J
with J antisymmetric, dy/dσ = −σ A ∇ log p_σ, keeps every p_σ too: `sample_ode` has it.
Source: kexue.fm/archives/9280; Karras et al., "Elucidating the Design Space of Diffusion-Based
Generative Models", arXiv:2206.00364; Lipman et al., "Flow Matching", arXiv:2210.02747.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from kexue_lab.diffusion.ddim import NoiseModel
from kexue_lab.diffusion.schedules import NoiseSchedule, Score
from kexue_lab.precision import holds, narrowed, widened
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

Grid = Literal["rho", "log", "linear", "angle"]
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


def conditional_velocity(x: Tensor, x0: Tensor, t: float, schedule: NoiseSchedule) -> Tensor:
    """Return v_t(x|x_0) = dᾱ/dt x_0 + dβ̄/dt ε with ε = (x − ᾱx_0)/β̄, the velocity of one datum.

    Args:
        x: points, (B, …).
        x0: the datum of each, (B, …).
        t: time with ᾱ_t, β̄_t > 0.
        schedule: gives ᾱ, β̄ and their rates.

    Returns:
        (B, …), per unit of t.

    Raises:
        TypeError: if x or x0 is not a floating-point tensor, or their dtypes disagree.
        ValueError: if the shapes disagree, or ᾱ_t or β̄_t is 0.

    Source: Lipman et al., arXiv:2210.02747, theorem 3.

    Example:
        >>> x, x0 = torch.tensor([0.8]), torch.tensor([1.0])
        >>> time = NoiseSchedule.cosine(0).t_from_sigma(0.8 / 0.6)
        >>> conditional_velocity(x, x0, time, NoiseSchedule.cosine(0)) * 2 / torch.pi
        tensor([-0.6500])
    """
    _check_pair(x, x0, "x0")
    ab, bb, drift = _rates(t, schedule)
    wide, datum = widened(x), widened(x0)
    eps = (wide - ab * datum) / bb
    return narrowed(ab * drift * datum - ab * drift * (ab / bb) * eps, x.dtype, "the velocity")


def flow_velocity(eps_fn: NoiseModel, schedule: NoiseSchedule) -> NoiseModel:
    """Return the cloud's velocity (x, t) ↦ dᾱ/dt x̂_0 + dβ̄/dt ε̂ for a model of the mean noise ε̂.

    It is the mean of `conditional_velocity` over the data given x, and the velocity of the
    probability-flow ODE.

    Args:
        eps_fn: noise model, (x: (B, …), t) ↦ ε̂, (B, …).
        schedule: gives ᾱ, β̄ and their rates.

    Raises:
        ValueError: (the result) if ᾱ_t or β̄_t is 0.

    Source: Lipman et al., arXiv:2210.02747, theorem 1.
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        # With x̂_0 = (x − β̄ε̂)/ᾱ and ᾱ² + β̄² = 1 it is f x − (f/β̄) ε̂.
        _, bb, drift = _rates(t, schedule)
        eps = widened(eps_fn(x, t))
        return narrowed(drift * widened(x) - drift / bb * eps, x.dtype, "the velocity")

    return velocity


def flow_matching_loss(
    velocity: NoiseModel,
    x0: Tensor,
    t: float,
    schedule: NoiseSchedule,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean over the batch of ‖v(x_t, t) − v_t(x_t|x_0)‖², a scalar.

    Its least value is not 0 but the mean variance of v_t(x|x_0) given x.

    Args:
        velocity: (x: (B, d), t) ↦ (B, d).
        x0: data, (B, d).
        t: time with ᾱ_t, β̄_t > 0.
        schedule: gives ᾱ, β̄ and their rates.
        generator: source of ε.

    Raises:
        TypeError: if x0 is not a floating-point tensor.
        ValueError: if x0 is not (B, d), or ᾱ_t or β̄_t is 0.

    Source: Lipman et al., arXiv:2210.02747, equation 9.
    """
    check_points(x0=x0)
    ab, bb, _ = _rates(t, schedule)
    wide = widened(x0)
    noise = torch.randn(wide.shape, generator=generator, dtype=wide.dtype, device=x0.device)
    x = (ab * wide + bb * noise).to(x0.dtype)
    error = widened(velocity(x, t)) - widened(conditional_velocity(x, x0, t, schedule))
    return error.square().sum(-1).mean()


def sigma_grid(
    n: int,
    sigma_min: float,
    sigma_max: float,
    kind: Grid = "rho",
    rho: float = 7.0,
    scale: float = 1.0,
) -> Tensor:
    """Return n + 1 noise levels falling from σ_max to σ_min, (n+1,) float64.

    "linear" and "log" are equally spaced in σ and ln σ; "rho" is equally spaced in σ^{1/ρ}, and
    "angle" in arctan(σ/s), which is DDIM's best for the data N(0, s² I).

    Args:
        n: number of steps, ≥ 1.
        sigma_min: last level, ≥ 0; > 0 for "log".
        sigma_max: first level.
        kind: see above.
        rho: exponent ρ of "rho", in [0.001, 1000].
        scale: standard deviation s of "angle".

    Raises:
        TypeError: if n is not an integer.
        ValueError: if n < 1, not 0 ≤ sigma_min < sigma_max < ∞, rho ≤ 0, scale ≤ 0, sigma_min is 0
            for "log", or kind is unknown.

    Source: Karras et al., arXiv:2206.00364, equation 5.

    Example:
        >>> sigma_grid(4, 0.1, 10.0)
        tensor([10.0000,  4.0701,  1.4507,  0.4325,  0.1000], dtype=torch.float64)
    """
    check_count(n=n)
    check_non_negative(sigma_min=sigma_min)
    check_positive(sigma_max=sigma_max, rho=rho, scale=scale)
    if not sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be below sigma_max = {sigma_max}, got {sigma_min}")
    check_choice(Grid, kind=kind)
    if kind == "log":
        check_positive(sigma_min=sigma_min)
        levels = np.geomspace(sigma_max, sigma_min, n + 1)
    elif kind == "angle":
        first, last = np.arctan2([sigma_max, sigma_min], scale)
        levels = scale * np.tan(np.linspace(first, last, n + 1))
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


def _check_pair(x: Tensor, other: Tensor, name: str) -> None:
    check_floating(x=x, **{name: other})
    if other.shape != x.shape:
        raise ValueError(f"{name} must have the shape of x, {tuple(x.shape)}, got {other.shape}")


def _rates(t: float, schedule: NoiseSchedule) -> tuple[float, float, float]:
    """ᾱ_t, β̄_t and f_t = d ln ᾱ/dt, so that dᾱ/dt = fᾱ and dβ̄/dt = −fᾱ²/β̄."""
    ab, bb = schedule.alpha_bar(t), schedule.beta_bar(t)
    if not (ab > 0 and bb > 0):
        raise ValueError(f"t must be a time with alpha_bar, beta_bar > 0, got {t}")
    return ab, bb, schedule.drift(t)


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
