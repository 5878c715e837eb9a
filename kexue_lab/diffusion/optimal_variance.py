"""Analytic-DPM: the best isotropic variance of each reverse step of a trained diffusion model.

A step x_u = κ x_t + λ x_0 + σ z with the denoiser μ̄(x_t) in place of x_0 forgets that x_0 is
uncertain. With σ̄_t² = E tr Cov(x_0 | x_t)/d the best variance is σ² + λ² σ̄_t².
Source: Bao, Li, Zhu, Zhang, "Analytic-DPM", arXiv:2201.06503; kexue.fm/archives/9245.
Notation: `kexue_lab.diffusion.schedules`, coefficients: `kexue_lab.diffusion.ddim`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kexue_lab.diffusion.ddim import (
    NoiseModel,
    ddpm_sigma,
    posterior_coefficients,
)
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.precision import narrowed, relative_entropy, squared_ratio
from kexue_lab.validation import (
    check_decreasing,
    check_finite,
    check_floating,
    check_non_negative,
    check_positive,
    check_precise,
)

Variance = Callable[[Tensor, float], Tensor]
"""A conditional variance of x_0: points (B, …) and a time to a tensor that broadcasts to them."""


def variance_from_mean(
    mu: Tensor, data_mean: float | Tensor, data_variance: float | Tensor, *, per_dim: bool = False
) -> Tensor:
    """Estimate σ̄_t² by Var[x_0] − E(μ̄ − E x_0)², the law of total variance.

    Exact on average only if μ̄ is the exact posterior mean. Its noise grows with the
    signal-to-noise ratio: prefer it where ᾱ²Var[x_0] < β̄².

    Args:
        mu: μ̄(x_t) at samples of x_t, (B, …).
        data_mean: E x_0, a number or broadcastable to one sample.
        data_variance: Var[x_0], a number or one for each entry of a sample.
        per_dim: return one estimate for each entry instead of their mean.

    Returns:
        A scalar, or a tensor of the shape of one sample.

    Raises:
        TypeError: if mu is not a floating-point tensor.
        ValueError: if mu is empty, or data_mean or data_variance does not broadcast to a sample,
            or data_variance is negative.

    Source: kexue.fm/archives/9245, equation 16.
    """
    _check_batch("mu", mu)
    dtype, mu = mu.dtype, mu.double()
    mean = _like_sample("data_mean", data_mean, mu)
    variance = _like_sample("data_variance", data_variance, mu)
    check_finite(data_mean=mean, data_variance=variance)
    if not (variance >= 0).all():
        raise ValueError(f"data_variance must be non-negative, got minimum {variance.min():g}")
    estimate = variance - (mu - mean).square().mean(0)
    return narrowed(estimate if per_dim else estimate.mean(), dtype, "the variance")


def variance_from_noise(
    eps: Tensor,
    alpha_bar: float,
    beta_bar: float,
    *,
    per_dim: bool = False,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Estimate σ̄_t² by (β̄²/ᾱ²)(1 − E ε²), with the model's ε at samples of x_t.

    Exact on average only if ε is the exact E[ε | x_t]. Where the signal-to-noise ratio is small it
    is a difference times a huge factor: clip it.

    Args:
        eps: ε(x_t), (B, …).
        alpha_bar: ᾱ_t > 0.
        beta_bar: β̄_t ≥ 0.
        per_dim: return one estimate for each entry instead of their mean.
        clip: (lower, upper) bounds of the result; see `variance_bounds`.

    Returns:
        A scalar, or a tensor of the shape of one sample.

    Raises:
        TypeError: if eps is not a floating-point tensor.
        ValueError: if eps is empty, alpha_bar is not positive, beta_bar is negative, or clip is not
            increasing.

    Source: arXiv:2201.06503, equation 8.
    """
    _check_batch("eps", eps)
    check_positive(alpha_bar=alpha_bar)
    check_non_negative(beta_bar=beta_bar)
    if clip is not None and not clip[0] <= clip[1]:
        raise ValueError(f"clip must be (lower, upper) with lower <= upper, got {clip}")
    power = eps.double().square().mean(0)
    factor = squared_ratio(beta_bar=beta_bar, alpha_bar=alpha_bar)
    estimate = factor * (1 - (power if per_dim else power.mean()))
    estimate = estimate if clip is None else estimate.clamp(*clip)
    return narrowed(estimate, eps.dtype, "the variance")


def optimal_reverse_variance(
    ab_t: float, bb_t: float, ab_u: float, bb_u: float, sigma: float, sigma_bar2: float
) -> float:
    """Return σ² + λ² σ̄_t², the variance of the step from t to u with the least expected KL.

    Args:
        ab_t: ᾱ_t.
        bb_t: β̄_t > 0.
        ab_u: ᾱ_u.
        bb_u: β̄_u.
        sigma: σ of the step given x_0, in [0, β̄_u].
        sigma_bar2: σ̄_t² ≥ 0.

    Raises:
        ValueError: if sigma_bar2 is negative, or as `posterior_coefficients` of DDIM.

    Source: arXiv:2201.06503, equation 6.

    Example:
        >>> round(optimal_reverse_variance(0.6, 0.8, 0.8, 0.6, sigma=0.36, sigma_bar2=0.5), 4)
        0.2264
    """
    check_non_negative(sigma_bar2=sigma_bar2)
    _, lam = posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)
    variance = sigma * sigma + lam * lam * sigma_bar2
    if not math.isfinite(variance):
        raise ValueError(f"sigma, sigma_bar2 must leave it finite, got {sigma}, {sigma_bar2}")
    return variance


def linear_mmse(eigenvalues: Tensor, alpha_bar: float, beta_bar: float) -> Tensor:
    """Return the mean of l β̄²/(ᾱ² l + β̄²) over the eigenvalues l of Cov(x_0), a scalar.

    The error per dimension of the best linear denoiser; an upper bound of σ̄_t², attained by
    Gaussian data.

    Args:
        eigenvalues: (d,), non-negative.
        alpha_bar: ᾱ ≥ 0.
        beta_bar: β̄ > 0.

    Raises:
        TypeError: if eigenvalues is not a floating-point tensor.
        ValueError: if eigenvalues is not (d,) or negative, or alpha_bar or beta_bar out of range.

    Example:
        >>> linear_mmse(torch.tensor([1.0, 4.0]), alpha_bar=0.6, beta_bar=0.8)
        tensor(0.9354)
    """
    check_floating(eigenvalues=eigenvalues)
    if eigenvalues.ndim != 1 or not len(eigenvalues):
        raise ValueError(f"eigenvalues must have shape (d,), got {tuple(eigenvalues.shape)}")
    if not (eigenvalues >= 0).all():
        raise ValueError(f"eigenvalues must be non-negative, got {eigenvalues.min():g}")
    check_non_negative(alpha_bar=alpha_bar)
    check_positive(beta_bar=beta_bar)
    deviations = eigenvalues.double().sqrt()
    # l β̄²/(ᾱ²l + β̄²) as a square, none of whose factors is too large or small.
    noise = torch.full_like(deviations, beta_bar)
    kept = deviations * (beta_bar / torch.hypot(alpha_bar * deviations, noise))
    return narrowed(kept.square().mean(), eigenvalues.dtype, "the error")


def variance_bounds(
    alpha_bar: float,
    beta_bar: float,
    *,
    data_variance: float | None = None,
    data_range: tuple[float, float] | None = None,
    eigenvalues: Tensor | None = None,
) -> tuple[float, float]:
    """Return bounds of σ̄_t²: 0, and the tightest of those that what is known about the data gives.

    Always β̄²/ᾱ²; for data in [a, b]^d also (b − a)²/4; with the variance per dimension V also
    Vβ̄²/(ᾱ²V + β̄²); with the eigenvalues of the covariance also `linear_mmse`.

    Args:
        alpha_bar: ᾱ ≥ 0.
        beta_bar: β̄ > 0.
        data_variance: V ≥ 0, the mean variance per dimension.
        data_range: (a, b) with a < b.
        eigenvalues: (d,), of Cov(x_0).

    Raises:
        ValueError: if an argument is out of range.
        TypeError: as `linear_mmse`.

    Source: arXiv:2201.06503, theorem 2, and the linear estimator.

    Example:
        >>> low, high = variance_bounds(0.6, 0.8, data_variance=1.0)
        >>> low, round(high, 4)
        (0.0, 0.64)
    """
    check_non_negative(alpha_bar=alpha_bar)
    check_positive(beta_bar=beta_bar)
    noise = beta_bar / alpha_bar if alpha_bar > 0 else math.inf
    candidates = [noise * noise]
    if data_range is not None:
        low, high = data_range
        if not low < high:
            raise ValueError(f"data_range must be (a, b) with a < b, got {data_range}")
        candidates.append((high - low) * (high - low) / 4)
    if data_variance is not None:
        check_non_negative(data_variance=data_variance)
        one = torch.tensor([data_variance], dtype=torch.float64)
        candidates.append(float(linear_mmse(one, alpha_bar, beta_bar)))
    if eigenvalues is not None:
        candidates.append(float(linear_mmse(eigenvalues, alpha_bar, beta_bar)))
    return 0.0, min(candidates)


def kl_excess(v: float, v_star: float, d: int) -> float:
    """Return ½d (v*/v − 1 − ln(v*/v)), the nats lost by a step of variance v instead of v*.

    Args:
        v: variance that is used, > 0.
        v_star: best variance, > 0.
        d: dimension, ≥ 1.

    Raises:
        ValueError: if an argument is not positive.

    Example:
        >>> round(kl_excess(2.0, 1.0, d=10), 4)
        0.9657
    """
    check_positive(v=v, v_star=v_star, d=d)
    excess = (v_star - v) / v
    if not math.isfinite(excess):
        raise ValueError(f"v_star/v must be finite, got {v_star}/{v}")
    pair = torch.tensor([excess, math.log(v_star) - math.log(v)], dtype=torch.float64)
    return 0.5 * d * float(relative_entropy(pair[0], pair[1]))


@torch.no_grad()
def sample_analytic(
    eps_fn: NoiseModel,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    sigma_bar2: Sequence[float] | Tensor | Variance,
    *,
    eta: float = 0.0,
    last_noise: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample as `kexue_lab.diffusion.ddim.sample`, each step with variance σ² + λ² σ̄_t².

    Args:
        eps_fn: noise model, (x: (B, …), t) ↦ ε, (B, …).
        schedule: gives ᾱ and β̄.
        x: (B, …), points at times[0].
        times: (m,), m ≥ 2, strictly decreasing in [0, 1].
        sigma_bar2: σ̄² at times[0] … times[m−2], or a function (x, t) ↦ tensor that broadcasts to x
            (a conditional or diagonal variance).
        eta: η in [0, 1].
        last_noise: draw the noise of the last step also, as a likelihood needs it; images are
            usually drawn without.
        generator: source of the noise.

    Returns:
        (B, …) at times[-1], without gradients.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if times do not decrease, ᾱ is 0 at the first, sigma_bar2 has another length or
            is negative, or eta is outside [0, 1].

    Source: arXiv:2201.06503, algorithm 1.
    """
    check_precise(x=x)
    clock = check_decreasing(1.0, times=times)
    if schedule.alpha_bar(clock[0]) == 0:
        raise ValueError(f"times must start where alpha_bar > 0, got {clock[0]}")
    if not callable(sigma_bar2):
        values = torch.as_tensor(sigma_bar2, dtype=torch.float64)
        if values.shape != (len(clock) - 1,):
            shape = tuple(values.shape)
            raise ValueError(f"sigma_bar2 must have shape ({len(clock) - 1},), got {shape}")
        if not (values >= 0).all():
            raise ValueError(f"sigma_bar2 must be non-negative, got {values.tolist()}")
    for i, (t, u) in enumerate(pairwise(clock)):
        ab_t, bb_t = schedule.alpha_bar(t), schedule.beta_bar(t)
        ab_u, bb_u = schedule.alpha_bar(u), schedule.beta_bar(u)
        sigma = ddpm_sigma(ab_t, bb_t, ab_u, bb_u, eta)
        kappa, lam = posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)
        denoised = (x - bb_t * eps_fn(x, t)) / ab_t
        mean = kappa * x + lam * denoised
        if i == len(clock) - 2 and not last_noise:
            return mean
        forgotten = sigma_bar2(x, t) if callable(sigma_bar2) else values[i].to(x)
        if not bool((forgotten >= 0).all()):
            raise ValueError(f"sigma_bar2 must be non-negative, got {forgotten.min():g} at {t}")
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = mean + (sigma**2 + lam**2 * forgotten).sqrt() * noise
    return x


def _check_batch(name: str, value: Tensor) -> None:
    check_floating(**{name: value})
    if value.ndim < 1 or not value.numel():
        raise ValueError(f"{name} must have shape (B, …), not empty, got {tuple(value.shape)}")


def _like_sample(name: str, value: float | Tensor, batch: Tensor) -> Tensor:
    """The value broadcast to the shape of one sample of the batch."""
    tensor = torch.as_tensor(value, dtype=batch.dtype, device=batch.device)
    try:
        return tensor.broadcast_to(batch.shape[1:])
    except RuntimeError:
        raise ValueError(
            f"{name} must broadcast to {tuple(batch.shape[1:])}, got {tuple(tensor.shape)}"
        ) from None
