"""What the exercises of generative/vae_geometry check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]

_NATS_IN_A_BIT = math.log(2)


# --- the weight of means


def _sizes(rng: np.random.Generator) -> Inputs:
    yield 64, 10, 1.0
    for _ in range(4):
        yield int(rng.integers(20, 900)), int(rng.integers(3, 19)), float(rng.uniform(0.2, 0.9))


# --- intervals


def _centres(rng: np.random.Generator) -> Inputs:
    yield (0.0,)
    for _ in range(4):
        yield (float(rng.uniform(0.3, 2)),)


def _interval_price(mu: float, h: float) -> float:
    return -math.log(2 * h) + math.log(2 * math.pi) / 2 + (mu**2 + h**2 / 3) / 2


def _best_interval(mu: float) -> tuple[float, float]:
    return math.sqrt(3), _interval_price(mu, math.sqrt(3))


# --- pillars


def _pillars(rng: np.random.Generator) -> Inputs:
    # Each wrong rule counts otherwise on one of these.
    yield [2.0, 0.9, 0.4, 0.3, 0.1, 0.01], 1.5
    yield [2.0, 0.9, 0.4, 0.3, 0.1, 0.01], 0.6
    for _ in range(4):
        variances = np.sort(np.exp(rng.uniform(-6, 2, 40)))[::-1]
        yield [float(value) for value in variances], float(rng.uniform(1.8, 16))


def _kept(variances: list[float], c: float, power: int = 2, level: float = 0.5) -> int:
    return sum(value * c**power > level for value in variances)


# --- information


def _balls(rng: np.random.Generator) -> Inputs:
    yield [-1.0, 1.0], [0.5, 0.5]
    for n in (3, 4, 6):
        mu, sigma = rng.uniform(-2, 2, n), rng.uniform(0.15, 0.9, n)
        yield [float(value) for value in mu], [float(value) for value in sigma]


def _grid(mu: list[float], sigma: list[float]) -> tuple[Array, Array]:
    """Places over all balls, and the density of the union there."""
    widest = 9 * max(sigma)
    z: Array = np.linspace(min(mu) - widest, max(mu) + widest, 20_001)
    return z, norm.pdf(z[:, None], mu, sigma).mean(1)


def _entropy_of_union(mu: list[float], sigma: list[float]) -> float:
    z, density = _grid(mu, sigma)
    return -float(np.trapezoid(density * np.log(np.maximum(density, 1e-300)), z))


def _entropy_of_balls(sigma: list[float]) -> float:
    return float(np.mean(np.log(sigma))) + math.log(2 * math.pi * math.e) / 2


def _information(mu: list[float], sigma: list[float]) -> float:
    return _entropy_of_union(mu, sigma) - _entropy_of_balls(sigma)


def _mean_price(mu: list[float], sigma: list[float]) -> float:
    m, s = np.array(mu), np.array(sigma)
    return float(np.mean(m**2 + s**2 - np.log(s**2) - 1)) / 2


def _one_normal(mu: list[float], sigma: list[float]) -> float:
    variance = float(np.var(mu) + np.mean(np.square(sigma)))
    return math.log(variance) / 2 - float(np.mean(np.log(sigma)))


# --- turned axes


def _two_axes(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        low = float(rng.uniform(0.1, 2))
        yield low * float(rng.uniform(1.5, 8)), low


def _cost(first: float, second: float) -> float:
    return math.log((first + second) / 2) - math.log(first * second) / 2


EXERCISES = (
    Exercise(
        "the weight of means",
        solution=lambda d, k, weight: weight * d / k,
        inputs=_sizes,
        mistakes=(
            Mistake(
                "as the author believes",
                lambda d, k, weight: weight,
                "a mean over pixels is the sum divided by d. Multiply the whole loss by d: that "
                "changes no optimum, and gives the error its weight back.",
            ),
            Mistake(
                "upside down",
                lambda d, k, weight: weight * k / d,
                "it is the error that has been divided by d: beside it the price weighs more.",
            ),
            Mistake(
                "the pixels only",
                lambda d, k, weight: weight * d,
                "the price is a mean over axes, too: it has been divided by k.",
            ),
            Mistake(
                "the axes only",
                lambda d, k, weight: weight / k,
                "the error is a mean over pixels, too: it has been divided by d.",
            ),
            Mistake(
                "with another noise",
                lambda d, k, weight: 2 * weight * d / k,
                "at a variance of one half the error has the weight 1, not one half.",
                variants=(lambda d, k, weight: weight * d / k / 2,),
            ),
        ),
    ),
    Exercise(
        "an interval for the ball",
        solution=_best_interval,
        inputs=_centres,
        rtol=1e-4,
        mistakes=(
            Mistake(
                "as wide as the disc's radius",
                lambda mu: (1.0, _interval_price(mu, 1.0)),
                "the mean of z² over the interval is μ² + h²/3: an interval of half-width 1 has a "
                "standard deviation below 1.",
            ),
            Mistake(
                "the variance taken for h²",
                lambda mu: (1.0, _interval_price(mu, 1.0) + 1 / 3),
                "the variance of a uniform law on an interval of half-width h is not h².",
            ),
            Mistake(
                "the ball's price",
                lambda mu: (math.sqrt(3), mu**2 / 2),
                "that is the price of a normal law with these moments; a uniform one has a "
                "smaller entropy and pays for it.",
                variants=(lambda mu: (math.sqrt(3), 0.0),),
            ),
            Mistake(
                "the whole width",
                lambda mu: (2 * math.sqrt(3), _interval_price(mu, math.sqrt(3))),
                "h is half of the width.",
            ),
            Mistake(
                "the density taken for 1/h",
                lambda mu: (math.sqrt(3), _interval_price(mu, math.sqrt(3)) + math.log(2)),
                "on an interval of width 2h the density is 1/(2h).",
            ),
        ),
    ),
    Exercise(
        "pillars in other units",
        solution=_kept,
        inputs=_pillars,
        exact=True,
        mistakes=(
            Mistake(
                "scaled once",
                lambda variances, c: _kept(variances, c, power=1),
                "a variance is in squared units: how does it grow if the pixels are multiplied "
                "by c?",
            ),
            Mistake(
                "nothing changes",
                lambda variances, c: _kept(variances, c, power=0),
                "the water stays where it is, the pillars do not.",
            ),
            Mistake(
                "the water scaled as well",
                lambda variances, c: _kept(variances, c, power=-2),
                "multiplying the pixels makes the variances larger for c > 1, not smaller.",
            ),
            Mistake(
                "the water at 1",
                lambda variances, c: _kept(variances, c, level=1.0),
                "the article's loss has a variance of the noise of one half.",
            ),
            Mistake(
                "all of them",
                lambda variances, c: len(variances),
                "an axis whose variance is below the water gets no ellipse of its own, however "
                "many axes there are.",
            ),
        ),
    ),
    Exercise(
        "what a code tells",
        solution=_information,
        inputs=_balls,
        rtol=0.01,
        mistakes=(
            Mistake(
                "the mean price",
                _mean_price,
                "that is information plus the misfit of the union.",
            ),
            Mistake(
                "all there is to know",
                lambda mu, sigma: math.log(len(mu)),
                "only balls that do not overlap tell all.",
            ),
            Mistake(
                "the union as one normal law",
                _one_normal,
                "the union of balls is a mixture, whose entropy is below that of a normal law of "
                "the same variance.",
            ),
            Mistake(
                "in bits",
                lambda mu, sigma: _information(mu, sigma) / _NATS_IN_A_BIT,
                "nats are asked for: use the natural logarithm.",
            ),
            Mistake(
                "the entropy of the union",
                _entropy_of_union,
                "subtract what is random within a ball: its mean entropy.",
            ),
            Mistake(
                "the misfit",
                lambda mu, sigma: _mean_price(mu, sigma) - _information(mu, sigma),
                "that is the other half, the divergence of the union from the disc.",
            ),
        ),
    ),
    Exercise(
        "the worst turn",
        solution=lambda first, second: (math.pi / 4, _cost(first, second)),
        inputs=_two_axes,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "no cost",
                lambda first, second: (math.pi / 4, 0.0),
                "the likelihood stays, but a diagonal ellipse is no longer the posterior.",
            ),
            Mistake(
                "a quarter turn",
                lambda first, second: (math.pi / 2, _cost(first, second)),
                "a quarter turn only exchanges the axes.",
            ),
            Mistake(
                "half of it",
                lambda first, second: (math.pi / 4, _cost(first, second) / 2),
                "each of the two axes has lost as much: add both.",
            ),
            Mistake(
                "in degrees",
                lambda first, second: (45.0, _cost(first, second)),
                "give the angle in radians.",
            ),
            Mistake(
                "twice as much",
                lambda first, second: (math.pi / 4, 2 * _cost(first, second)),
                "a divergence of normal laws has a factor one half before the logarithms of "
                "variances.",
            ),
            Mistake(
                "the other sign",
                lambda first, second: (math.pi / 4, -_cost(first, second)),
                "a divergence is never negative.",
            ),
        ),
    ),
)
