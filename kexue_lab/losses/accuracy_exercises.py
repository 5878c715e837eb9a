"""What the exercises of losses/accuracy check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.losses.accuracy import expected_accuracy, three_point_objective, three_point_optimum

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


def _thresholds(rng: np.random.Generator) -> Inputs:
    yield from ((b,) for b in (0.1, -0.1, 0.0, 0.25, 0.4))
    yield from ((float(b),) for b in rng.uniform(-0.5, 0.75, 10))


def _slopes(rng: np.random.Generator) -> Inputs:
    yield (math.exp(0.25),)
    yield from ((float(q),) for q in rng.uniform(1.05, 4, 5))


def _logits(rng: np.random.Generator) -> Inputs:
    yield np.zeros(3), 0
    for _ in range(6):
        yield rng.normal(size=3), int(rng.integers(3))


def _lengths(rng: np.random.Generator) -> Inputs:
    yield (0.25,)
    yield from ((float(h),) for h in rng.uniform(0.1, 3, 5))


def _wins(mu: Array, y: int) -> float:
    logits = torch.as_tensor(mu, dtype=torch.float64)[None]
    return expected_accuracy(logits, torch.tensor([y])).item()


def _independent(mu: Array, y: int) -> float:
    return float(ndtr((mu[y] - np.delete(mu, y)) / math.sqrt(2)).prod())


def _softmax(mu: Array, y: int) -> float:
    return float(np.exp(mu[y]) / np.exp(mu).sum())


def _leaves_band(low: float, high: float) -> float:
    """The scale at which Gaussian noise puts the best threshold of h = 1/4 at 1/4."""
    return float(
        brentq(lambda v: np.max(three_point_optimum("gaussian", v)) - 0.25, low, high, xtol=1e-14)
    )


_SIGMA = _leaves_band(0.1, 0.5)
_GOLDEN = (1 + math.sqrt(5)) / 2
_TRIBONACCI = float(brentq(lambda v: v**3 - v**2 - v - 1, 1, 3, xtol=1e-15))
_GUMBEL = 0.25 / math.acosh(_TRIBONACCI)

EXERCISES = (
    Exercise(
        "the thresholds of accuracy 1",
        solution=lambda b: bool(three_point_objective(b, "accuracy") > 0.9),
        inputs=_thresholds,
        mistakes=(
            Mistake(
                "the closed interval",
                lambda b: 0 <= b <= 0.25,
                "at b = 0 and at b = 1/4 one score is exactly 0 and classifies nothing.",
                variants=(lambda b: 0 <= b < 0.25, lambda b: 0 < b <= 0.25),
            ),
            Mistake(
                "everything left of 1/4",
                lambda b: b < 0.25,
                "the point at 0 has the label -1: it needs 0 - b < 0.",
            ),
            Mistake(
                "everything right of 0",
                lambda b: b > 0,
                "the point at 1/4 has the label +1: it needs 1/4 − b > 0.",
            ),
        ),
    ),
    Exercise(
        "the cubic of cross entropy",
        solution=lambda q: np.array([2 * q, q**2 + q + 1, 0, -q]),
        inputs=_slopes,
        mistakes=(
            Mistake(
                "labels flipped",
                lambda q: np.array([q / 2, 0, -(q**2 + q + 1) / 2, -q]),
                "this balances two predicted positives; the data have one.",
                variants=(lambda q: np.array([q, 0, -(q**2 + q + 1), -2 * q]),),
            ),
            Mistake(
                "the other order",
                lambda q: np.array([-q, 0, q**2 + q + 1, 2 * q]),
                "give the coefficient of t³ first and the constant term last.",
            ),
            Mistake(
                "a scale of its own",
                lambda q: np.array([2, q + 1 + 1 / q, 0, -1]),
                "right up to a factor: scale the coefficients such that the last one is −q.",
                variants=(
                    lambda q: np.array([1, (q + 1 + 1 / q) / 2, 0, -0.5]),
                    lambda q: np.array([-2, -(q + 1 + 1 / q), 0, 1]),
                ),
            ),
        ),
    ),
    Exercise(
        "who wins among three",
        solution=_wins,
        inputs=_logits,
        mistakes=(
            Mistake(
                "independent comparisons",
                _independent,
                "the two comparisons share the noise of class y (1/4 instead of 1/3 at equal "
                "logits): fix that noise, multiply, then integrate over it.",
            ),
            Mistake(
                "softmax", _softmax, "softmax is the answer for Gumbel noise; this one is normal."
            ),
        ),
        rtol=1e-7,
        atol=1e-8,
    ),
    Exercise(
        "how much noise is too much",
        solution=lambda h: 4 * h * _SIGMA,
        inputs=_lengths,
        mistakes=(
            Mistake(
                "the noise of the difference",
                lambda h: 4 * h * _SIGMA * math.sqrt(2),
                "this is s = σ√2, the noise of the difference of two logits; divide by √2.",
                variants=(lambda h: 4 * h * round(_SIGMA * math.sqrt(2), 6),),
            ),
            Mistake(
                "always 0.2202",
                lambda h: _SIGMA,
                "this holds for h = 1/4 only; σ is measured in the units of x.",
            ),
            Mistake(
                "the edge for Gumbel noise",
                lambda h: 4 * h * _GUMBEL,
                "this is Gumbel noise; Gaussian noise leaves the band at another scale.",
            ),
            Mistake(
                "six digits of the text",
                lambda h: 4 * h * round(_SIGMA, 6),
                "the number of the text has too few digits: solve for σ yourself.",
            ),
        ),
        rtol=1e-8,
    ),
    Exercise(
        "when the threshold runs away",
        solution=lambda h: h / math.log(_GOLDEN),
        inputs=_lengths,
        mistakes=(
            Mistake(
                "leaving the band",
                lambda h: h / math.acosh(_TRIBONACCI),
                "here the optimum leaves the band, but it is still finite.",
                variants=(lambda h: 0.25 / math.acosh(_TRIBONACCI),),
            ),
            Mistake(
                "always 0.5195",
                lambda h: 0.25 / math.log(_GOLDEN),
                "this holds for h = 1/4 only; in general q = exp(h/τ).",
            ),
            Mistake(
                "the plain ratio",
                lambda h: h / _GOLDEN,
                "q is the exponential of h/τ: take the logarithm of the root.",
            ),
        ),
    ),
)
