"""What the exercises of losses/accuracy check."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]

_POINTS = np.array([-0.25, 0.0, 0.25])
_SAMPLES, _MORE, _LESS = 10, 3, 0.1
"""How many samples, how many more of them right, and how much less soft accuracy."""


# --- the threshold at a slope


def _slopes(rng: np.random.Generator) -> Inputs:
    yield (2.0,)
    yield from ((float(w),) for w in (0.5, *rng.uniform(3, 15, 4)))


def _threshold(w: float, positives: float = 1.0) -> float:
    """Where `positives` of the three points are predicted at the slope w."""
    return float(brentq(lambda b: expit(w * (_POINTS - b)).sum() - positives, -50, 50, xtol=1e-14))


# --- the weight of a sample


def _confidences(rng: np.random.Generator) -> Inputs:
    yield 0.3, 0.5
    yield from ((float(p), float(g)) for p, g in rng.uniform((0.05, 0.1), (0.95, 0.9), (5, 2)))


# --- unequal noises


def _noisy_logits(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 0.0]), np.array([1.0, 2.0])
    for size in (2, 3, 4):
        yield rng.normal(size=size), rng.uniform(0.4, 2.5, size)


def _wins(mu: Array, sd: Array, own: float | None = None) -> float:
    """P(class 0 wins); `own` replaces the label's own standard deviation in the integral."""
    label = sd[0] if own is None else own

    def integrand(t: float) -> float:
        density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
        return float(density * ndtr((mu[0] - mu[1:] + label * t) / sd[1:]).prod())

    return float(quad(integrand, -9, 9, epsabs=1e-11, limit=200)[0])


def _independent(mu: Array, sd: Array) -> float:
    return float(ndtr((mu[0] - mu[1:]) / np.hypot(sd[0], sd[1:])).prod())


# --- the label's win, mended


def _labels(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 0.2, -0.5]), 1
    for size in (2, 4, 5):
        yield rng.normal(size=size), int(rng.integers(size))


def _label_wins(
    mu: Array, y: int, *, with_own: bool = False, turned: bool = False, scaled: bool = True
) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    leads = mu[y] - mu if not turned else mu - mu[y]
    kept = leads if with_own else np.delete(leads, y)
    total = weights @ ndtr(kept[:, None] + nodes).prod(0)
    return float(total / np.sqrt(2 * np.pi)) if scaled else float(total)


# --- two classifiers


def _judge_classifiers(got: Any) -> str | None:
    first, second = (np.asarray(leads, dtype=float) for leads in got)
    if first.shape != (_SAMPLES,) or second.shape != (_SAMPLES,):
        return f"return twice {_SAMPLES} leads, got shapes {first.shape} and {second.shape}"
    right = int((first > 0).sum()), int((second > 0).sum())
    if right[0] < right[1] + _MORE:
        return (
            f"the first is right on {right[0]} samples and the second on {right[1]}; at least "
            f"{_MORE} more are asked for"
        )
    soft = float(expit(first).mean()), float(expit(second).mean())
    if soft[0] < soft[1] - _LESS:
        return None
    return (
        f"the soft accuracies are {soft[0]:.3f} and {soft[1]:.3f}; the first must be lower by "
        f"more than {_LESS}"
    )


EXERCISES = (
    Exercise(
        "cross entropy's threshold at a slope",
        solution=_threshold,
        inputs=_slopes,
        mistakes=(
            Mistake(
                "the slope left out",
                lambda w: _threshold(1.0),
                "this is the threshold at slope 1: the probabilities are F(w(x - b)).",
            ),
            Mistake(
                "that of slope 1, rescaled",
                lambda w: _threshold(1.0) / w,
                "the points do not move with w, so that the threshold cannot just be rescaled.",
            ),
            Mistake(
                "half of the points positive",
                lambda w: _threshold(w, 1.5),
                "the predicted positives add up to the true ones; there is one.",
            ),
            Mistake(
                "the labels turned around",
                lambda w: _threshold(w, 2.0),
                "this is minus the threshold: two points are negative and only one is positive, so "
                "that b lies on the right.",
            ),
        ),
        rtol=1e-6,
        atol=1e-8,
    ),
    Exercise(
        "how loud a sample is",
        solution=lambda p, gamma: p**gamma,
        inputs=_confidences,
        mistakes=(
            Mistake(
                "the derivative by p",
                lambda p, gamma: p ** (gamma - 1),
                "this multiplies the gradient of p (with a minus sign); that of -log p is "
                "already divided by p.",
                variants=(lambda p, gamma: -(p ** (gamma - 1)),),
            ),
            Mistake(
                "the γ not cancelled",
                lambda p, gamma: gamma * p**gamma,
                "the factor γ of the derivative and the 1/γ of the loss cancel.",
                variants=(lambda p, gamma: p**gamma / gamma,),
            ),
            Mistake(
                "the weight of soft accuracy",
                lambda p, gamma: p,
                "this is right for γ = 1 only.",
            ),
            Mistake(
                "the sign",
                lambda p, gamma: -(p**gamma),
                "both losses fall as p grows; their gradients point the same way.",
            ),
        ),
    ),
    Exercise(
        "noises of different sizes",
        solution=_wins,
        inputs=_noisy_logits,
        mistakes=(
            Mistake(
                "comparisons taken as independent",
                _independent,
                "this is right for two classes; with more, all comparisons share the noise of "
                "class 0.",
            ),
            Mistake(
                "the label's own size left out",
                lambda mu, sd: _wins(mu, sd, own=1.0),
                "given t the score of class 0 is μ_0 + σ_0 t, not μ_0 + t.",
            ),
            Mistake(
                "no noise on class 0",
                lambda mu, sd: _wins(mu, sd, own=0.0),
                "class 0 has noise, too; condition on it.",
            ),
            Mistake(
                "one size for all",
                lambda mu, sd: _wins(mu, np.full(len(mu), sd[0])),
                "each rival's lead is to be divided by the size of its own noise.",
            ),
        ),
        rtol=1e-5,
        atol=1e-6,
    ),
    Exercise(
        "the label's win, mended",
        solution=_label_wins,
        inputs=_labels,
        mistakes=(
            Mistake(
                "as it stands",
                lambda mu, y: _label_wins(mu, y, with_own=True, turned=True, scaled=False),
                "look at the leads (whose over whom?), at the product (over whom?), and at the "
                "weights (what do they sum to?).",
            ),
            Mistake(
                "the label against itself",
                lambda mu, y: _label_wins(mu, y, with_own=True),
                "the product runs over j ≠ y; the label's lead over itself is 0 and gives Φ(t).",
            ),
            Mistake(
                "the rivals' leads",
                lambda mu, y: _label_wins(mu, y, turned=True),
                "rival j loses if its noise is below μ_y - μ_j + t.",
            ),
            Mistake(
                "weights without the density's factor",
                lambda mu, y: _label_wins(mu, y, scaled=False),
                "the weights sum to √(2π): the factor of the normal density is missing.",
            ),
        ),
        rtol=1e-7,
    ),
    Exercise(
        "more often right, and less sure",
        solution=lambda: ([0.1] * 10, [9.0] * 7 + [-0.1] * 3),
        judge=_judge_classifiers,
        mistakes=(
            Mistake(
                "both equally sure",
                lambda: ([1.0] * 10, [1.0] * 7 + [-1.0] * 3),
                "let the one that is more often right be hardly sure, and the other very sure.",
            ),
            Mistake(
                "both unsure of everything",
                lambda: ([0.1] * 10, [0.1] * 7 + [-0.1] * 3),
                "if the second is unsure of everything, too, its soft accuracy is about ½; let it "
                "be sure where it is right.",
            ),
            Mistake(
                "turned around",
                lambda: ([9.0] * 7 + [-0.1] * 3, [0.1] * 10),
                "the first is to be right more often.",
            ),
            Mistake(
                "not enough",
                lambda: ([0.1] * 10, [1.0] * 7 + [-1.0] * 3),
                "the right direction; the second may be surer where it is right, and less sure "
                "where it is wrong.",
            ),
        ),
    ),
)
