"""What the exercises of diffusion/poisson_flow check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gamma, gammaln, logsumexp
from scipy.stats import beta, chi

from kexue_lab.diffusion.poisson_flow import poisson_denoiser, prior_tv_constant
from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]


# ---------------------------------------------------------------------------- 1: a single charge


def _points(rng: np.random.Generator) -> Inputs:
    yield np.array([0.0, 0.0, 2.0]), np.zeros(3)
    for dimension in (2, 3, 4, 7):
        yield 2 * rng.normal(size=dimension), rng.normal(size=dimension)


def _area(dimension: int) -> float:
    return float(2 * math.pi ** (dimension / 2) / gamma(dimension / 2))


def _charge(x: Array, y: Array, power: int = 0, area: bool = True) -> Array:
    offset = x - y
    length = np.linalg.norm(offset)
    return offset / length ** (len(x) + power) / (_area(len(x)) if area else 1.0)


# ---------------------------------------------------------------------------- 2: uniform data


def _intervals(rng: np.random.Generator) -> Inputs:
    yield 0.0, 1e-3, -1.0, 3.0
    for _ in range(6):
        low = float(rng.uniform(-3, 1))
        yield (
            float(rng.normal() * 3),
            float(rng.uniform(0.1, 4)),
            low,
            low + float(rng.uniform(0.5, 3)),
        )


def _uniform_density(x: float, t: float, a: float, b: float) -> float:
    angle = math.atan((b - x) / t) - math.atan((a - x) / t)
    return angle / (math.pi * (b - a))


# ---------------------------------------------------------------------------- 3: the prior's radius


def _levels(rng: np.random.Generator) -> Inputs:
    yield np.array([0.1, 0.5, 0.9]), 2, 1.0
    for d in (1, 3, 64, 3072):
        yield rng.uniform(0.02, 0.98, 4), d, float(rng.uniform(0.5, 40))


def _radius(u: Array, d: int, T: float, b: float = 0.5) -> Array:
    share = beta(d / 2, b).ppf(u)
    return np.asarray(T * np.sqrt(share / (1 - share)))


def _share_for_odds(u: Array, d: int, T: float) -> Array:
    return np.asarray(T * np.sqrt(beta(d / 2, 0.5).ppf(u)))


# ---------------------------------------------------------------------------- 4: a stable denoiser


def _images(rng: np.random.Generator) -> Inputs:
    # Many dimensions and points far away: powers under- or overflow, but the weights are not 0/1.
    yield np.array([0.3, -0.7]), 0.8, np.array([[0.0, 0.0], [1.0, 0.5], [-0.5, 2.0]])
    for _ in range(3):
        yield (
            10 * rng.normal(size=3072),
            float(rng.uniform(1, 40)),
            0.3 * rng.normal(size=(5, 3072)),
        )


def _denoised(x: Array, t: float, data: Array) -> Array:
    found = poisson_denoiser(torch.as_tensor(x)[None], t, torch.as_tensor(data))
    return np.asarray(found[0].numpy())


def _wrong_power(x: Array, t: float, data: Array, power: float) -> Array:
    logs = -power * np.log(((x - data) ** 2).sum(-1) + t**2)
    return np.asarray(np.exp(logs - logsumexp(logs)) @ data)


def _plain_powers(x: Array, t: float, data: Array) -> Array:
    with np.errstate(all="ignore"):
        weights = (((x - data) ** 2).sum(-1) + t**2) ** (-(len(x) + 1) / 2)
        return np.asarray(weights @ data / weights.sum())


# ---------------------------------------------------------------------------- 5: the prior's error


def _dimensions(rng: np.random.Generator) -> Inputs:
    yield from ((d,) for d in (1, 3))
    yield from ((int(d),) for d in rng.integers(2, 60, 3))


def _flux_constant(d: int, ratio: float) -> float:
    """The constant if ΔP_T changed its sign at r = ratio T."""
    log_c = math.log(d + 1) + float(gammaln((d + 1) / 2) - gammaln(d / 2)) - math.log(math.pi) / 2
    return math.exp(log_c + d * math.log(ratio) - (d + 3) / 2 * math.log1p(ratio**2))


EXERCISES = (
    Exercise(
        "the field of a unit charge in any dimension",
        solution=_charge,
        inputs=_points,
        mistakes=(
            Mistake(
                "exponent D − 1",
                lambda x, y: _charge(x, y, -1),
                "the offset itself grows like r; over r^(D−1) the field is too strong far out.",
            ),
            Mistake(
                "exponent D + 1",
                lambda x, y: _charge(x, y, 1),
                "this falls off faster than a sphere grows: flux would be lost on the way.",
            ),
            Mistake(
                "not normalised",
                lambda x, y: _charge(x, y, 0, area=False),
                "the flux of this field is S_D(1), the area of the unit sphere; divide by it.",
            ),
            Mistake(
                "gravity",
                lambda x, y: -_charge(x, y),
                "the field of a positive charge points away from it.",
            ),
        ),
    ),
    Exercise(
        "uniform data with Cauchy noise",
        solution=_uniform_density,
        inputs=_intervals,
        mistakes=(
            Mistake(
                "half of it",
                lambda x, t, a, b: _uniform_density(x, t, a, b) / 2,
                "this is E_t; half of the flux leaves downwards, so the density is 2E_t.",
            ),
            Mistake(
                "mass b − a",
                lambda x, t, a, b: _uniform_density(x, t, a, b) * (b - a),
                "the data's density is 1/(b − a), not 1.",
            ),
            Mistake(
                "1/(2π)",
                lambda x, t, a, b: _uniform_density(x, t, a, b) * 2,
                "the antiderivative at height t carries 1/π times the angle, once.",
            ),
        ),
    ),
    Exercise(
        "the radius of the prior",
        solution=_radius,
        inputs=_levels,
        mistakes=(
            Mistake(
                "Beta(d/2, 1)",
                lambda u, d, T: _radius(u, d, T, 1.0),
                "the second parameter is half the number of extra dimensions, ½.",
            ),
            Mistake(
                "a Gaussian radius",
                lambda u, d, T: T * chi(d).ppf(u),
                "this is the length of T z; it still has to be divided by |w|.",
            ),
            Mistake(
                "the root forgotten",
                lambda u, d, T: _radius(u, d, T) ** 2 / T,
                "the odds are r²/T²: take the root.",
            ),
            Mistake(
                "the share for the odds",
                _share_for_odds,
                "the Beta variable is r²/(r² + T²); solve for r.",
            ),
        ),
        rtol=1e-6,
    ),
    Exercise(
        "a denoiser that does not overflow",
        solution=_denoised,
        inputs=_images,
        mistakes=(
            Mistake(
                "power d + 1 of the squares",
                lambda x, t, data: _wrong_power(x, t, data, len(x) + 1),
                "squared distances carry half the exponent, (d + 1)/2.",
            ),
            Mistake(
                "without augmentation",
                lambda x, t, data: _wrong_power(x, t, data, len(x) / 2),
                "the field lives in d + 1 dimensions: (d + 1)/2, not d/2.",
            ),
            Mistake(
                "the powers themselves",
                _plain_powers,
                "in 3072 dimensions the powers leave the range of floating point: take "
                "logarithms and subtract the largest.",
            ),
        ),
        rtol=1e-7,
        atol=1e-9,
    ),
    Exercise(
        "the constant of the prior's error",
        solution=prior_tv_constant,
        inputs=_dimensions,
        mistakes=(
            Mistake(
                "no half in TV",
                lambda d: 2 * prior_tv_constant(d),
                "the total variation is half of the integral of the absolute difference.",
            ),
            Mistake(
                "the wrong zero",
                lambda d: _flux_constant(d, math.sqrt(d)),
                "the Laplacian of P_T changes its sign at r = T √(d/3).",
            ),
        ),
        rtol=1e-6,
    ),
)
