"""What the exercises of diffusion/ddim check."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.diffusion.ddim import ddpm_sigma, posterior_coefficients
from kexue_lab.diffusion.schedules import GaussianMixture, NoiseSchedule
from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]

_COSINE = NoiseSchedule.cosine(0)


def _levels(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """ᾱ_t, β̄_t, ᾱ_u, β̄_u at two random times u < t of a variance-preserving schedule."""
    u = float(rng.uniform(0.1, 0.6))
    t = u + float(rng.uniform(0.05, 0.3))
    return _COSINE.alpha_bar(t), _COSINE.beta_bar(t), _COSINE.alpha_bar(u), _COSINE.beta_bar(u)


# ---------------------------------------------------------------------------- 1: coefficients


def _coefficient_inputs(rng: np.random.Generator) -> Inputs:
    yield 0.6, 0.8, 0.8, 0.6, 0.36
    for _ in range(5):
        levels = _levels(rng)
        yield *levels, float(rng.uniform(0.2, 0.95)) * levels[3]


def _other_root(
    ab_t: float, bb_t: float, ab_u: float, bb_u: float, sigma: float
) -> tuple[float, float]:
    """κ² is given, so -κ is right as well."""
    kappa = -posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)[0]
    return kappa, ab_u - ab_t * kappa


def _whole_noise(
    ab_t: float, bb_t: float, ab_u: float, bb_u: float, sigma: float
) -> tuple[float, float]:
    return bb_u / bb_t, ab_u - ab_t * bb_u / bb_t


def _deviations_subtracted(
    ab_t: float, bb_t: float, ab_u: float, bb_u: float, sigma: float
) -> tuple[float, float]:
    kappa = (bb_u - sigma) / bb_t
    return kappa, ab_u - ab_t * kappa


def _difference(
    ab_t: float, bb_t: float, ab_u: float, bb_u: float, sigma: float
) -> tuple[float, float]:
    return posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)[0], ab_u - ab_t


# ---------------------------------------------------------------------------- 2: subsequences


def _chains(rng: np.random.Generator) -> Inputs:
    yield np.cos(np.linspace(0, 1.5, 11)), [0, 5, 10], 1.0
    for _ in range(4):
        length = int(rng.integers(20, 60))
        alpha_bars = np.cumprod(np.append(1.0, np.sqrt(1 - rng.uniform(1e-3, 0.08, length))))
        inner = rng.choice(np.arange(2, length, 3), size=4, replace=False)
        steps = [0, *sorted(int(k) for k in inner), length]
        yield alpha_bars, steps, float(rng.uniform(0.3, 1))


def _subsequence_sigmas(alpha_bars: Array, steps: list[int], eta: float) -> Array:
    beta_bars = np.sqrt(1 - alpha_bars**2)
    sigmas = [
        ddpm_sigma(alpha_bars[t], beta_bars[t], alpha_bars[u], beta_bars[u], eta)
        for u, t in pairwise(steps)
    ]
    return np.array(sigmas)


def _reused_sigmas(alpha_bars: Array, steps: list[int], eta: float) -> Array:
    full = _subsequence_sigmas(alpha_bars, list(range(len(alpha_bars))), eta)
    return np.asarray(full[np.array(steps[1:]) - 1])


def _ratio_not_squared(alpha_bars: Array, steps: list[int], eta: float) -> Array:
    t, u = np.array(steps[1:]), np.array(steps[:-1])
    beta_bars = np.sqrt(1 - alpha_bars**2)
    noise = np.sqrt(1 - alpha_bars[t] / alpha_bars[u])
    return np.asarray(eta * beta_bars[u] / beta_bars[t] * noise)


def _reused_alpha(alpha_bars: Array, steps: list[int], eta: float) -> Array:
    """β̄ of the subsequence, α_t of the full chain."""
    t, u = np.array(steps[1:]), np.array(steps[:-1])
    beta_bars = np.sqrt(1 - alpha_bars**2)
    noise = np.sqrt(1 - (alpha_bars[t] / alpha_bars[t - 1]) ** 2)
    return np.asarray(eta * beta_bars[u] / beta_bars[t] * noise)


# ---------------------------------------------------------------------------- 3: one step


def _step_inputs(rng: np.random.Generator) -> Inputs:
    for eta in (0.6, 1.0, 0.0):
        x, eps, z = torch.tensor(rng.normal(size=(3, 4, 2)))
        yield x, eps, z, *_levels(rng), eta
    x, eps, z = torch.tensor(rng.normal(size=(3, 4, 2)))
    yield x, eps, z, 0.8, 0.6, 1.0, 0.0, 1.0


def _step(
    x: Tensor,
    eps: Tensor,
    z: Tensor,
    ab_t: float,
    bb_t: float,
    ab_u: float,
    bb_u: float,
    eta: float,
    *,
    sigma: Callable[..., float] = ddpm_sigma,
    kept: Callable[[float, float], float] = lambda bb_u, s: math.sqrt(bb_u**2 - s**2),
) -> Tensor:
    s = sigma(ab_t, bb_t, ab_u, bb_u, eta)
    return ab_u * (x - bb_t * eps) / ab_t + kept(bb_u, s) * eps + s * z


def _forward_sigma(ab_t: float, bb_t: float, ab_u: float, bb_u: float, eta: float) -> float:
    # No more than β̄_u: else there is no root of the remaining noise.
    return min(eta * math.sqrt(1 - (ab_t / ab_u) ** 2), bb_u)


def _data_not_shrunk(*arguments: Any) -> Tensor:
    x, eps, _, ab_t, bb_t, ab_u, *_ = arguments
    wrong: Tensor = _step(*arguments) + (1 - ab_u) * (x - bb_t * eps) / ab_t
    return wrong


def _noise_at_the_end(*arguments: Any) -> Tensor:
    """Right until the last step, where z enters with the size of the forward step."""
    *_, ab_t, bb_t, ab_u, bb_u, eta = arguments
    if bb_u > 0:
        return _step(*arguments)
    x, eps, z, *_ = arguments
    wrong: Tensor = (x - bb_t * eps) / ab_t + eta * math.sqrt(1 - (ab_t / ab_u) ** 2) * z
    return wrong


def _all_the_noise(*arguments: Any) -> Tensor:
    return _step(*arguments, kept=lambda bb_u, s: bb_u)


# ---------------------------------------------------------------------------- 4: the variance


def _counts(rng: np.random.Generator) -> Inputs:
    yield 7, 1.0
    for n in rng.integers(2, 40, 4):
        yield int(n), float(rng.uniform(0.3, 2.0))


def _squared_cosines(n: int, s: float) -> list[float]:
    angles = [math.pi / 2 * k / n for k in range(n + 1)]
    directions = [math.atan2(math.sin(a), s * math.cos(a)) for a in angles]
    return [math.cos(b - a) ** 2 for a, b in pairwise(directions)]


def _remaining_variance(n: int, s: float) -> float:
    return s**2 * math.prod(_squared_cosines(n, s))


# ---------------------------------------------------------------------------- 5: Heun


class _MixtureNoise:
    """The exact noise of a random mixture of two Gaussians on the line, ᾱ = cos(πt/2)."""

    def __init__(self, rng: np.random.Generator) -> None:
        weight = float(rng.uniform(0.2, 0.8))
        self.mixture = GaussianMixture(
            torch.tensor([weight, 1 - weight], dtype=torch.float64),
            torch.tensor(rng.normal(size=(2, 1)) * 1.2),
            torch.tensor(rng.uniform(0.1, 0.5, 2)),
        )

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return self.mixture.noise(x, _COSINE.alpha_bar(t), _COSINE.beta_bar(t))

    def __repr__(self) -> str:
        means = [round(float(m), 2) for m in self.mixture.means]
        return f"the exact noise of a mixture of two Gaussians with means {means}"


def _flows(rng: np.random.Generator) -> Inputs:
    for n in (4, 10, 25):
        x = torch.tensor(rng.normal(size=(5, 1)))
        yield x, _MixtureNoise(rng), _COSINE.times(n, 0.95).tolist()


def _heun(
    x: Tensor,
    noise: Callable[[Tensor, float], Tensor],
    times: list[float],
    *,
    second: Callable[[float, float], float] = lambda t, u: u,
    weight: float = 0.5,
) -> Tensor:
    for t, u in pairwise(times):
        ab_t, ab_u = _COSINE.alpha_bar(t), _COSINE.alpha_bar(u)
        width = _COSINE.beta_bar(u) / ab_u - _COSINE.beta_bar(t) / ab_t
        first = noise(x, t)
        guess = ab_u * (x / ab_t + width * first)
        slope = (1 - weight) * first + weight * noise(guess, second(t, u))
        x = ab_u * (x / ab_t + width * slope)
    return x


def _heun_in_t(x: Tensor, noise: Callable[[Tensor, float], Tensor], times: list[float]) -> Tensor:
    """The same method with t as the clock: dx/dt = π/2 (ε/ᾱ − x β̄/ᾱ)."""

    def slope(x: Tensor, t: float) -> Tensor:
        ab, bb = _COSINE.alpha_bar(t), _COSINE.beta_bar(t)
        return math.pi / 2 * (noise(x, t) - bb * x) / ab

    for t, u in pairwise(times):
        first = slope(x, t)
        x = x + (u - t) / 2 * (first + slope(x + (u - t) * first, u))
    return x


def _guess_in_the_clock(
    x: Tensor, noise: Callable[[Tensor, float], Tensor], times: list[float]
) -> Tensor:
    for t, u in pairwise(times):
        ab_t, ab_u = _COSINE.alpha_bar(t), _COSINE.alpha_bar(u)
        width = _COSINE.beta_bar(u) / ab_u - _COSINE.beta_bar(t) / ab_t
        first = noise(x, t)
        second = noise(x / ab_t + width * first, u)
        x = ab_u * (x / ab_t + width * (first + second) / 2)
    return x


def _euler(x: Tensor, noise: Callable[[Tensor, float], Tensor], times: list[float]) -> Tensor:
    return _heun(x, noise, times, weight=0.0)


def _old_time(x: Tensor, noise: Callable[[Tensor, float], Tensor], times: list[float]) -> Tensor:
    return _heun(x, noise, times, second=lambda t, u: t)


EXERCISES = (
    Exercise(
        "the two coefficients",
        solution=posterior_coefficients,
        inputs=_coefficient_inputs,
        forms=(_other_root,),
        mistakes=(
            Mistake(
                "all of the noise is kept",
                _whole_noise,
                "with this κ old and new noise together exceed β̄_u²: leave room for σ².",
            ),
            Mistake(
                "the difference of the means",
                _difference,
                "κ x_t already brings κᾱ_t x_0, not ᾱ_t x_0: subtract that from ᾱ_u.",
            ),
            Mistake(
                "deviations subtracted",
                _deviations_subtracted,
                "independent noises add their variances: (κβ̄_t)² + σ² = β̄_u².",
            ),
        ),
    ),
    Exercise(
        "σ on a subsequence",
        solution=_subsequence_sigmas,
        inputs=_chains,
        mistakes=(
            Mistake(
                "σ of the full chain",
                _reused_sigmas,
                "these are the one-step σ_t of the full chain; compute them anew for each pair.",
            ),
            Mistake(
                "α of the full chain",
                _reused_alpha,
                "the ratio α must span the long step as well: ᾱ_t/ᾱ_u, not ᾱ_t/ᾱ_{t−1}.",
            ),
            Mistake(
                "the ratio not squared",
                _ratio_not_squared,
                "here ᾱ² + β̄² = 1: β² is 1 − (ᾱ_t/ᾱ_u)². DDPM's papers call ᾱ what is ᾱ² here.",
            ),
        ),
    ),
    Exercise(
        "one step",
        solution=_step,
        inputs=_step_inputs,
        mistakes=(
            Mistake(
                "all of the predicted noise",
                _all_the_noise,
                "of the predicted noise only √(β̄_u² − σ²) is kept: z brings the rest.",
            ),
            Mistake(
                "noise on the data",
                _noise_at_the_end,
                "the last step, β̄_u = 0, must not add noise: σ carries the factor β̄_u.",
            ),
            Mistake(
                "the forward step's noise",
                lambda *a: _step(*a, sigma=_forward_sigma),
                "this σ is ηβ_t, the noise of the *forward* step; going back it is smaller by "
                "β̄_u/β̄_t.",
            ),
            Mistake(
                "the data not shrunk",
                _data_not_shrunk,
                "at time u the data enter with the factor ᾱ_u.",
            ),
        ),
    ),
    Exercise(
        "what n deterministic steps leave of the variance",
        solution=_remaining_variance,
        inputs=_counts,
        mistakes=(
            Mistake(
                "a cosine for each step",
                lambda n, s: s**2 * math.prod(math.sqrt(c) for c in _squared_cosines(n, s)),
                "each step multiplies the standard deviation by the cosine; square it.",
            ),
            Mistake(
                "the angles for s = 1",
                lambda n, s: s**2 * math.cos(math.pi / (2 * n)) ** (2 * n),
                "π/2n is the angle for s = 1 only; the arrow is (ᾱ_t s, β̄_t).",
            ),
            Mistake(
                "the share that is left",
                lambda n, s: math.prod(_squared_cosines(n, s)),
                "this is the share of the variance; multiply by s².",
            ),
        ),
    ),
    Exercise(
        "Heun's method",
        solution=_heun,
        inputs=_flows,
        forms=(_heun_in_t,),
        mistakes=(
            Mistake(
                "Euler",
                _euler,
                "this is DDIM itself; average with the slope at the end of the step.",
            ),
            Mistake(
                "the old time",
                _old_time,
                "the second noise belongs to the new point and the new time u.",
            ),
            Mistake(
                "the guess not shrunk",
                _guess_in_the_clock,
                "the network takes x, not x/ᾱ: multiply the predicted point by ᾱ_u before asking"
                " for its noise.",
            ),
        ),
        rtol=1e-8,
        atol=1e-8,
    ),
)
