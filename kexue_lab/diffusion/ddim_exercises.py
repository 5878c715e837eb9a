"""What the exercises of diffusion/ddim check."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from kexue_lab.diffusion.ddim import gaussian_sample_variance, posterior_coefficients
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]

_COSINE = NoiseSchedule.cosine(0)


# ---------------------------------------------------------------------------- 1: the other pair


def _levels(rng: np.random.Generator) -> Inputs:
    """ᾱ_t, β̄_t, ᾱ_u, β̄_u at two random times u < t, and an admissible σ."""
    for _ in range(6):
        u = float(rng.uniform(0.1, 0.6))
        t = u + float(rng.uniform(0.05, 0.3))
        levels = [f(v) for v in (t, u) for f in (_COSINE.alpha_bar, _COSINE.beta_bar)]
        yield *levels, float(rng.uniform(0.2, 0.95)) * levels[3]


def _other_pair(
    ab_t: float, bb_t: float, ab_u: float, bb_u: float, sigma: float
) -> tuple[float, float]:
    kappa = -posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)[0]
    return kappa, ab_u - ab_t * kappa


def _only_kappa(*levels: float) -> tuple[float, float]:
    kappa, lam = posterior_coefficients(*levels)
    return -kappa, lam


def _both_signs(*levels: float) -> tuple[float, float]:
    kappa, lam = posterior_coefficients(*levels)
    return -kappa, -lam


# ---------------------------------------------------------------------------- 2: the border


def _probabilities(rng: np.random.Generator) -> Inputs:
    yield (0.9,)
    for p in rng.uniform(0.05, 0.95, 4):
        yield (float(p),)


# ---------------------------------------------------------------------------- 3: the table


class _GaussianNoise:
    """The mean noise for data N(0, s²), at the indices of a table."""

    def __init__(self, alpha_bars: Array, s: float) -> None:
        self.alpha_bars, self.s = alpha_bars, s

    def __call__(self, x: Array, t: int) -> Array:
        squared = self.alpha_bars[t] ** 2
        guess: Array = np.sqrt(1 - squared) * x / (squared * self.s**2 + 1 - squared)
        return guess

    def __repr__(self) -> str:
        return f"the exact noise of N(0, {self.s:.2f}²)"


def _tables(rng: np.random.Generator) -> Inputs:
    for eta in (0.7, 1.0, 0.0):
        alpha_bars = np.cumprod(np.append(1.0, np.sqrt(1 - rng.uniform(0.05, 0.3, 6))))
        steps = [0, 2, 4, 6]
        z = rng.normal(size=(len(steps), 2)).round(2)
        noise = _GaussianNoise(alpha_bars, float(rng.uniform(0.4, 1.6)))
        yield noise, rng.normal(size=2).round(2), alpha_bars, steps, z, eta


def _by_table(
    noise: Callable[[Array, int], Array],
    x: Array,
    alpha_bars: Array,
    steps: list[int],
    z: Array,
    eta: float,
    *,
    faults: tuple[str, ...] = (),
) -> Array:
    beta_bars = np.sqrt(1 - alpha_bars ** (1 if "square" in faults else 2))
    for i in range(len(steps) - 1, 0, -1):
        t, u = steps[i], steps[i - 1]
        alpha = alpha_bars[t] / alpha_bars[t - 1 if "pair" in faults else u]
        sigma = eta * beta_bars[u] / beta_bars[t] * np.sqrt(1 - alpha**2)
        kept = beta_bars[u] if "kept" in faults else np.sqrt(beta_bars[u] ** 2 - sigma**2)
        eps = noise(x, t)
        guess = (x - beta_bars[t] * eps) / alpha_bars[t]
        x = alpha_bars[u] * guess + kept * eps + sigma * z[i]
    return x


_TABLE_HINTS = {
    "square": "here ᾱ² + β̄² = 1; DDPM's papers call ᾱ what is ᾱ² here.",
    "pair": "α must span the whole jump, from u to t.",
    "kept": "when σ is fresh, less than β̄_u of the old noise may be kept.",
}


def _table_mistake(faults: tuple[str, ...]) -> Mistake:
    """The answer in which these faults are left."""
    hint = " And: ".join(_TABLE_HINTS[fault] for fault in faults)
    return Mistake(
        f"left as it was: {', '.join(faults)}", lambda *a: _by_table(*a, faults=faults), hint
    )


# ---------------------------------------------------------------------------- 4: the middle


def _deviations(rng: np.random.Generator) -> Inputs:
    yield (0.3,)
    for s in (*rng.uniform(0.4, 0.9, 2), *rng.uniform(1.2, 3, 2)):
        yield (round(float(s), 2),)


def _arrives(ratio: float, s: float) -> float:
    """The variance after two steps with β̄/ᾱ = ratio in the middle."""
    slope = ratio / s
    return s**2 * slope**2 / (1 + slope**2) ** 2


def _not_the_middle(answer: Any, s: float) -> str | None:
    try:
        ratio, variance = map(float, answer)
    except (TypeError, ValueError):
        return "return two numbers: the ratio and the variance"
    if not ratio > 0:
        return f"the ratio must be positive, got {ratio:g}"
    if abs(ratio - s) > 1e-9:
        return (
            f"with β̄/ᾱ = {ratio:.4g} in the middle the variance {_arrives(ratio, s):.4g} arrives, "
            "and more can"
        )
    if abs(variance - s**2 / 4) > 1e-9:
        return f"the ratio is right, but the variance {variance:.4g} is not the one that arrives"
    return None


_RATIOS: dict[str, tuple[Callable[[float], float], str]] = {
    "": (lambda s: s, ""),
    "signal and noise alike": (
        lambda s: 1.0,
        "ratio: 1 is right for s = 1; the arrows are (ᾱ s, β̄).",
    ),
    "the ratio upside down": (
        lambda s: 1 / s,
        "ratio: at 45° the arrow (ᾱ s, β̄) has ᾱ s = β̄; return β̄/ᾱ, not ᾱ/β̄.",
    ),
}
_VARIANCES: dict[str, tuple[Callable[[float, float], float], str]] = {
    "": (_arrives, ""),
    "the share": (
        lambda ratio, s: _arrives(ratio, s) / s**2,
        "variance: this is the share that arrives; multiply it by s².",
    ),
    "the deviation": (
        lambda ratio, s: math.sqrt(_arrives(ratio, s)),
        "variance: this is the standard deviation.",
    ),
    "the best variance": (
        lambda ratio, s: s**2 / 4,
        "variance: this one arrives with the best ratio; with yours it is less.",
    ),
    "the best share": (
        lambda ratio, s: 0.25,
        "variance: this is the share that arrives; multiply it by s².",
    ),
    "one projection": (
        lambda ratio, s: s**2 / 2,
        "variance: each of the two steps projects, and multiplies it by cos².",
    ),
}


def _middle_mistakes() -> Iterator[Mistake]:
    """The wrong ratios and variances, alone and together."""
    for first, (ratio, about_ratio) in _RATIOS.items():
        for second, (variance, about_variance) in _VARIANCES.items():
            if not first and second in ("", "the best variance", "the best share"):
                continue  # right, or the same as "the share"

            def answer(
                s: float,
                ratio: Callable[[float], float] = ratio,
                variance: Callable[[float, float], float] = variance,
            ) -> tuple[float, float]:
                return ratio(s), variance(ratio(s), s)

            yield Mistake(
                ", ".join(filter(None, (first, second))),
                answer,
                " ".join(filter(None, (about_ratio, about_variance))),
            )


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


def _onto_the_trial(
    x: Tensor, noise: Callable[[Tensor, float], Tensor], times: list[float]
) -> Tensor:
    for t, u in pairwise(times):
        ab_t, ab_u = _COSINE.alpha_bar(t), _COSINE.alpha_bar(u)
        width = _COSINE.beta_bar(u) / ab_u - _COSINE.beta_bar(t) / ab_t
        first = noise(x, t)
        trial = ab_u * (x / ab_t + width * first)
        x = trial + ab_u * width * (first + noise(trial, u)) / 2
    return x


def _euler(x: Tensor, noise: Callable[[Tensor, float], Tensor], times: list[float]) -> Tensor:
    return _heun(x, noise, times, weight=0.0)


def _old_time(x: Tensor, noise: Callable[[Tensor, float], Tensor], times: list[float]) -> Tensor:
    return _heun(x, noise, times, second=lambda t, u: t)


# ---------------------------------------------------------------------------- 6: wide data


def _no_counter_example(answer: Any) -> str | None:
    try:
        s, n = answer
        s, n = float(s), float(n)
    except (TypeError, ValueError):
        return "return two numbers: s and n"
    if not (0 < s <= 100 and 2 <= n <= 50 and n == int(n)):
        return f"s must be in (0, 100] and n a whole number from 2 to 50, got s = {s:g}, n = {n:g}"
    times = _COSINE.times(int(n))
    without, fresh = (gaussian_sample_variance(s, _COSINE, times, eta) for eta in (0.0, 1.0))
    if not fresh > 1.05 * without:
        if n == 2:
            why = "with two steps the last adds no noise, and the first starts from pure noise"
        elif fresh < without:
            why = "try wider data or fewer steps; the explorer of step 6 reaches s = 8"
        else:
            why = "the direction is right; go on with s, or change n"
        return (
            f"η = 1 keeps the variance {fresh:.4g} and η = 0 keeps {without:.4g}: not over 5 % "
            f"more ({why})"
        )
    return None


EXERCISES = (
    Exercise(
        "the other pair of coefficients",
        solution=_other_pair,
        inputs=_levels,
        mistakes=(
            Mistake(
                "the pair of (3)",
                posterior_coefficients,
                "this is the pair of (3); the equation for κ² has a second root.",
            ),
            Mistake(
                "λ as it was",
                _only_kappa,
                "another κ brings another share of x_0 along: solve the first equation for λ anew.",
            ),
            Mistake(
                "both signs turned",
                _both_signs,
                "then the mean of x_u is −ᾱ_u x_0: solve the first equation for λ anew.",
            ),
        ),
    ),
    Exercise(
        "the noises that end at +1",
        solution=lambda p: float(norm.ppf(1 - p)),
        inputs=_probabilities,
        mistakes=(
            Mistake(
                "the sign of the noise",
                lambda p: 0.0,
                "that is the border of a fair coin: half of all noises lie above it.",
            ),
            Mistake(
                "below for above",
                lambda p: float(norm.ppf(p)),
                "the share of noises *above* the border must be p: larger noises go to larger "
                "data.",
            ),
            Mistake(
                "the mean of the data",
                lambda p: 2 * p - 1,
                "this is where one single step lands; with many steps order is kept instead.",
            ),
            Mistake(
                "Bayes' border",
                lambda p: math.log((1 - p) / p) / 2,
                "there Bayes' rule, for x_0 + noise of size 1, finds +1 and −1 equally likely; a "
                "noise says nothing about the datum: ask what share of all noises must end at +1.",
            ),
            Mistake(
                "noises spread evenly",
                lambda p: 1 - 2 * p,
                "right if the noises were spread evenly over [−1, 1]; they are normal.",
            ),
            Mistake(
                "a probability",
                lambda p: 1 - p,
                "this is the share of noises below the border; which number has that share of a "
                "standard normal distribution below it?",
            ),
        ),
    ),
    Exercise(
        "the sampler on a table, mended",
        solution=_by_table,
        inputs=_tables,
        mistakes=tuple(
            _table_mistake(faults)
            for count in (1, 2, 3)
            for faults in combinations(_TABLE_HINTS, count)
        ),
    ),
    Exercise(
        "the best middle of two steps",
        solution=lambda s: (s, s**2 / 4),
        inputs=_deviations,
        judge=_not_the_middle,
        mistakes=tuple(_middle_mistakes()),
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
                "added to the trial point",
                _onto_the_trial,
                "the mean of the slopes goes from the old point; the trial point was only a trial.",
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
    Exercise(
        "where fresh noise keeps more",
        solution=lambda: (20.0, 10),
        judge=_no_counter_example,
        mistakes=(
            Mistake(
                "standard data",
                lambda: (1.0, 10),
                "for s = 1 DDPM loses more, as the table of step 6 shows; try other data.",
            ),
            Mistake(
                "narrow data",
                lambda: (0.2, 5),
                "for narrow data the loss comes at the very end, and nothing can be given back "
                "after it.",
            ),
            Mistake(
                "too many steps",
                lambda: (8.0, 50),
                "with so many steps hardly anything is lost by either: take fewer.",
            ),
            Mistake(
                "two steps",
                lambda: (20.0, 2),
                "with two steps the last one adds no noise and the first starts from pure noise: "
                "η makes no difference.",
            ),
            Mistake(
                "half a step",
                lambda: (20.0, 4.5),
                "n counts steps.",
            ),
        ),
    ),
)
