"""DDIM: the Gaussian reverse steps that keep the marginals p(x_t | x_0) = N(ᾱ_t x_0, β̄_t² I).

For u < t the step p(x_u | x_t, x_0) = N(κ x_t + λ x_0, σ² I), κ ≥ 0, keeps them if and only if

    κ = √(β̄_u² − σ²)/β̄_t,   λ = ᾱ_u − ᾱ_t κ,   0 ≤ σ ≤ β̄_u,

and sampling puts the denoiser's (x_t − β̄_t ε)/ᾱ_t in place of x_0. σ = 0 is DDIM, the σ of
`ddpm_sigma` is DDPM. Nothing refers to steps between u and t: any subsequence of times will do.
Source: Song, Meng, Ermon, "Denoising Diffusion Implicit Models", arXiv:2010.02502;
kexue.fm/archives/9181. Notation: `kexue_lab.diffusion.schedules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.precision import narrowed, widened
from kexue_lab.validation import check_floating, check_non_negative, check_positive

NoiseModel = Callable[[Tensor, float], Tensor]
"""A noise model: points (B, …) and one time to the expected noise ε in each, (B, …)."""


def posterior_coefficients(
    ab_t: float, bb_t: float, ab_u: float, bb_u: float, sigma: float
) -> tuple[float, float]:
    """Return κ and λ of p(x_u | x_t, x_0) = N(κ x_t + λ x_0, σ² I).

    Args:
        ab_t: ᾱ_t ≥ 0.
        bb_t: β̄_t > 0.
        ab_u: ᾱ_u ≥ 0. (ᾱ² + β̄² = 1 is not needed.)
        bb_u: β̄_u ≥ 0.
        sigma: standard deviation σ of the step, in [0, β̄_u].

    Raises:
        ValueError: if an argument is out of range.

    Source: arXiv:2010.02502, equation 7.

    Example:
        >>> kappa, lam = posterior_coefficients(0.6, 0.8, 0.8, 0.6, sigma=0.36)
        >>> round(kappa, 3), round(lam, 3)
        (0.6, 0.44)
    """
    _check_pair(ab_t, bb_t, ab_u, bb_u)
    if not 0 <= sigma <= bb_u:
        raise ValueError(f"sigma must lie in [0, bb_u] = [0, {bb_u}], got {sigma}")
    kappa = _kept(bb_u, sigma) / bb_t
    lam = ab_u - ab_t * kappa
    if not math.isfinite(lam):
        raise ValueError(f"bb_t must leave kappa and lambda finite, got {bb_t} with bb_u = {bb_u}")
    return kappa, lam


def ddpm_sigma(ab_t: float, bb_t: float, ab_u: float, bb_u: float, eta: float = 1.0) -> float:
    """Return η β̄_u √(1 − (α β̄_u/β̄_t)²) with α = ᾱ_t/ᾱ_u, the deviation of a step from t to u.

    η = 1 is the Bayes posterior of the Markov chain from u to t (DDPM), η = 0 is DDIM. Where
    ᾱ² + β̄² = 1, which is not needed, it is η (β̄_u/β̄_t) √(1 − α²).

    Args:
        ab_t: ᾱ_t, in [0, ᾱ_u].
        bb_t: β̄_t > 0.
        ab_u: ᾱ_u > 0.
        bb_u: β̄_u ≥ 0.
        eta: η in [0, 1].

    Raises:
        ValueError: if an argument is out of range, or α β̄_u > β̄_t: no chain leads from u to t.

    Source: arXiv:2010.02502, equation 16.

    Example:
        >>> round(ddpm_sigma(0.6, 0.8, 0.8, 0.6), 3)
        0.496
    """
    _check_pair(ab_t, bb_t, ab_u, bb_u)
    _check_eta(eta)
    if not 0 < ab_u >= ab_t:
        raise ValueError(f"ab_u must be positive and at least ab_t = {ab_t}, got {ab_u}")
    kept = ab_t / ab_u * (bb_u / bb_t) if ab_t > 0 else 0.0
    if not kept <= 1 + 1e-12:
        raise ValueError(f"bb_t must be at least ab_t/ab_u bb_u = {kept * bb_t}, got {bb_t}")
    # Never above β̄_u, and 0 where rounding makes two neighbouring times one.
    return min(bb_u, eta * bb_u * math.sqrt(max(0.0, 1 - kept) * (1 + kept)))


def ddim_step(
    x: Tensor,
    eps: Tensor,
    t: float,
    u: float,
    schedule: NoiseSchedule,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x_u = ᾱ_u μ̄ + √(β̄_u² − σ²) ε + σ z with μ̄ = (x_t − β̄_t ε)/ᾱ_t and σ of `ddpm_sigma`.

    Args:
        x: x_t, (B, …).
        eps: the model's ε at x_t, of the shape of x.
        t: time of x.
        u: time to go to, 0 ≤ u < t.
        schedule: gives ᾱ and β̄.
        eta: η in [0, 1]; with 0, or at u = 0, no noise z is drawn.
        generator: source of z.

    Returns:
        x_u, (B, …).

    Raises:
        TypeError: if x or eps is not a floating-point tensor, or their dtypes disagree.
        ValueError: if u ≥ t, a time is outside [0, 1], ᾱ_t = 0 (there ε does not determine x_0),
            eta is outside [0, 1], or the shapes disagree.

    Source: arXiv:2010.02502, equation 12.
    """
    check_floating(x=x, eps=eps)
    if eps.shape != x.shape:
        raise ValueError(f"eps must have the shape of x, {tuple(x.shape)}, got {tuple(eps.shape)}")
    if not u < t:
        raise ValueError(f"u must be before t = {t}, got {u}")
    _check_eta(eta)
    ab_t, bb_t = schedule.alpha_bar(t), schedule.beta_bar(t)
    ab_u, bb_u = schedule.alpha_bar(u), schedule.beta_bar(u)
    if ab_t == 0:
        raise ValueError(f"t must be a time with alpha_bar > 0, got {t}: start a little earlier")
    sigma = ddpm_sigma(ab_t, bb_t, ab_u, bb_u, eta)
    dtype, x, eps = x.dtype, widened(x), widened(eps)
    denoised = (x - bb_t * eps) / ab_t
    after = ab_u * denoised + _kept(bb_u, sigma) * eps
    if sigma > 0:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        after = after + sigma * noise
    return narrowed(after, dtype, "x_u")


@torch.no_grad()
def sample(
    eps_fn: NoiseModel,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    return_path: bool = False,
) -> Tensor:
    """Take `ddim_step` from each of the given times to the next.

    Args:
        eps_fn: noise model, (x: (B, …), t) ↦ ε, (B, …).
        schedule: gives ᾱ and β̄.
        x: (B, …), points at times[0].
        times: (m,), m ≥ 2, strictly decreasing in [0, 1]; any subsequence of the training times.
        eta: η in [0, 1].
        generator: source of the noise.
        return_path: return the points at every time.

    Returns:
        (B, …) at times[-1], or (m, B, …) with `return_path`; without gradients.

    Raises:
        TypeError: if x or what eps_fn returns is not a floating-point tensor.
        ValueError: if times do not decrease, or as `ddim_step`.

    Source: arXiv:2010.02502, section 4.2.
    """
    check_floating(x=x)
    clock = check_decreasing_times(times)
    _check_eta(eta)
    path = [x]
    for t, u in pairwise(clock):
        x = ddim_step(x, eps_fn(x, t), t, u, schedule, eta=eta, generator=generator)
        if return_path:
            path.append(x)
    return torch.stack(path) if return_path else x


def gaussian_sample_variance(
    s: float,
    schedule: NoiseSchedule,
    times: Sequence[float] | Tensor,
    eta: float = 0.0,
    v_start: float = 1.0,
) -> float:
    """Return the exact variance of samples of N(0, s²) drawn with the exact ε*.

    With v_t = ᾱ_t² s² + β̄_t² and c = √(β̄_u² − σ²) a step is linear:
    x_u = (ᾱ_u ᾱ_t s² + c β̄_t)/v_t · x_t + σ z. Each step loses λ² Var(x_0 | x_t).

    Args:
        s: standard deviation of the data, > 0.
        schedule: gives ᾱ and β̄.
        times: (m,), m ≥ 2, strictly decreasing in [0, 1].
        eta: η in [0, 1].
        v_start: variance at times[0], ≥ 0.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> times = NoiseSchedule.cosine(offset=0.0).times(5)
        >>> round(gaussian_sample_variance(1.0, NoiseSchedule.cosine(offset=0.0), times), 3)
        0.605
    """
    check_positive(s=s)
    check_non_negative(v_start=v_start)
    clock = check_decreasing_times(times)
    variance = v_start
    for t, u in pairwise(clock):
        ab_t, bb_t = schedule.alpha_bar(t), schedule.beta_bar(t)
        ab_u, bb_u = schedule.alpha_bar(u), schedule.beta_bar(u)
        sigma = ddpm_sigma(ab_t, bb_t, ab_u, bb_u, eta)
        kept, root = _kept(bb_u, sigma), math.hypot(ab_t * s, bb_t)
        gain = (ab_u * s / root) * (ab_t * s / root) + kept / root * (bb_t / root)
        variance = gain * gain * variance + sigma**2
    if not math.isfinite(variance):
        raise ValueError(f"s and v_start must leave the variance finite, got {s} and {v_start}")
    return variance


def noise_interpolation(z1: Tensor, z2: Tensor, lam: float | Tensor) -> Tensor:
    """Return z1 cos(½πλ) + z2 sin(½πλ), standard normal for every λ if z1 and z2 are.

    They must be independent. (A straight line would have the covariance (λ² + (1 − λ)²) I.)

    Args:
        z1: at λ = 0, any shape.
        z2: at λ = 1, of the same shape.
        lam: λ, a number or a tensor that broadcasts against z1.

    Raises:
        TypeError: if z1 or z2 is not a floating-point tensor, or their dtypes disagree.
        ValueError: if the shapes disagree.

    Source: arXiv:2010.02502, section 5.3, with an angle of 90°.

    Example:
        >>> noise_interpolation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
        tensor([0.7071, 0.7071])
    """
    check_floating(z1=z1, z2=z2)
    if z1.shape != z2.shape:
        raise ValueError(f"z2 must have the shape of z1, {tuple(z1.shape)}, got {tuple(z2.shape)}")
    # In float64 and within one turn: a large λ has no fraction in a lower precision.
    turn = torch.as_tensor(lam, device=z1.device).to(torch.float64).remainder(4)
    angle = 0.5 * math.pi * turn
    return z1 * angle.cos().to(z1.dtype) + z2 * angle.sin().to(z1.dtype)


def check_decreasing_times(times: Sequence[float] | Tensor) -> list[float]:
    """Return the times of a sampler as floats.

    Raises:
        ValueError: unless there are at least two, strictly decreasing in [0, 1].
    """
    clock = [float(t) for t in times]
    if len(clock) < 2 or not all(0 <= u < t <= 1 for t, u in pairwise(clock)):
        raise ValueError(f"times must be at least two, decreasing in [0, 1], got {clock}")
    return clock


def _kept(bb_u: float, sigma: float) -> float:
    """√(β̄_u² − σ²), also where the squares would under- or overflow."""
    square = (bb_u - sigma) * (bb_u + sigma)
    within = 1e-290 < square < 1e290
    return math.sqrt(square) if within else math.sqrt(bb_u - sigma) * math.sqrt(bb_u + sigma)


def _check_pair(ab_t: float, bb_t: float, ab_u: float, bb_u: float) -> None:
    check_positive(bb_t=bb_t)
    check_non_negative(ab_t=ab_t, ab_u=ab_u, bb_u=bb_u)


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
