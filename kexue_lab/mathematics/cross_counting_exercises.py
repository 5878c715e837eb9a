"""What the exercises of mathematics/cross_counting check."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.mathematics.cross_counting import SQUARES, count_crosses, dominant_color

Inputs = Iterator[tuple[Any, ...]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def _palettes(rng: np.random.Generator) -> Inputs:
    yield (3,)
    for q in rng.choice(np.arange(4, 30), 5, replace=False):
        yield (int(q),)


def _equal_opposite(q: int) -> int:
    centres = 4 * (2 * q - 3) ** 2 + 2 * (q - 1) * (3 * q - 5)
    return 81 * q * (q - 1) * (q - 2) ** 5 * centres


def _centre_ignored(q: int) -> int:
    """The opposite arms' common dominant may be the centre's."""
    # Σ_d A_ad A_bd in units of 9(q-2)²: equal shared colours, or different ones.
    different = 2 * (q - 1) + q - 2
    equal = (q - 1) ** 2 + q - 1
    return 81 * q * (q - 1) * (q - 2) ** 5 * (4 * different**2 + 2 * equal * different)


def _one_bar(q: int) -> int:
    return 9 * q * (q - 1) * (q - 2) ** 4 * (13 * q - 20)


def _judge_unbalanced(answer: Any) -> str | None:
    try:
        colors = [int(color) for color in answer]
        whole = all(color == given for color, given in zip(colors, answer, strict=True))
    except (TypeError, ValueError, OverflowError):
        return "return sixteen colours, each 0, 1 or 2"
    if not whole or len(colors) != 16 or not set(colors) <= {0, 1, 2}:
        return f"return sixteen colours, each 0, 1 or 2; got {colors}"
    centre, *arms = [dominant_color([colors[edge] for edge in square]) for square in SQUARES]
    names = ("top", "left", "bottom", "right")
    if centre is None:
        return "no colour dominates the centre"
    for name, arm in zip(names, arms, strict=True):
        if arm is None:
            return f"no colour dominates the {name} arm"
        if arm == centre:
            return f"the {name} arm has the same dominant as the centre, which it touches"
    used = sorted(colors.count(color) for color in range(3) if color != centre)
    if used == [6, 6]:
        return "a valid colouring, but its colours are used 4, 6 and 6 times: no counter-example"
    return None


def _weights(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        n = int(rng.integers(12, 40))
        valid = rng.random(n) < 0.7
        valid[:3] = True, False, True
        yield rng.uniform(-6, -2, n), valid


def _estimate(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.where(valid, np.exp(-log_p), 0.0)
    return float(weights.mean()), float(weights.std(ddof=1) / len(weights) ** 0.5)


def _estimate_population(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.where(valid, np.exp(-log_p), 0.0)
    return float(weights.mean()), float(weights.std() / len(weights) ** 0.5)


def _valid_only(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.exp(-log_p[valid])
    return float(weights.mean()), float(weights.std(ddof=1) / len(weights) ** 0.5)


def _no_root(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.where(valid, np.exp(-log_p), 0.0)
    return float(weights.mean()), float(weights.std(ddof=1))


def _no_root_population(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.where(valid, np.exp(-log_p), 0.0)
    return float(weights.mean()), float(weights.std())


def _root_of_valid(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.where(valid, np.exp(-log_p), 0.0)
    return float(weights.mean()), float(weights.std(ddof=1) / valid.sum() ** 0.5)


def _root_of_valid_population(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.where(valid, np.exp(-log_p), 0.0)
    return float(weights.mean()), float(weights.std() / valid.sum() ** 0.5)


def _divided_by_n(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.where(valid, np.exp(-log_p), 0.0)
    return float(weights.mean()), float(weights.std(ddof=1) / len(weights))


def _all_samples(log_p: Floats, valid: Bools) -> tuple[float, float]:
    return _estimate(log_p, np.ones_like(valid))


def _as_given(log_p: Floats, valid: Bools) -> tuple[float, float]:
    weights = np.exp(log_p[valid])
    return float(weights.mean()), float(weights.std())


_STRICT = [0, 0, 1, 2, 1, 1, 2, 2, 2, 1, 2, 2, 0, 1, 1, 0]
_UNBALANCED = [0, 0, 1, 2, 1, 1, 2, 1, 1, 2, 1, 0, 2, 1, 1, 0]

EXERCISES = (
    Exercise(
        "opposite arms with equal dominants",
        solution=_equal_opposite,
        inputs=_palettes,
        exact=True,
        mistakes=(
            Mistake(
                "the original rule",
                lambda q: count_crosses(q),
                "this counts pairs of different dominants; now opposite arms have equal ones.",
            ),
            Mistake(
                "one type of centre",
                lambda q: 6 * q * (q - 1) * (q - 2) * (9 * (q - 2) ** 2 * (2 * q - 3)) ** 2,
                "this takes every centre for one whose equal edges are adjacent.",
            ),
            Mistake(
                "the centre left out",
                _centre_ignored,
                "an arm's dominant must still differ from the centre's.",
            ),
            Mistake(
                "no rule for opposite arms",
                lambda q: count_crosses(q, "adjacent"),
                "here opposite arms may have any two dominants; they must be equal.",
            ),
            Mistake(
                "what is left over, from the centres only",
                lambda q: 6 * q * (q - 1) * (q - 2),
                "these are the centres; how many ways are there to complete each?",
            ),
        ),
    ),
    Exercise(
        "one bar of three squares",
        solution=_one_bar,
        inputs=_palettes,
        exact=True,
        mistakes=(
            Mistake(
                "one type of centre",
                lambda q: 54 * q * (q - 1) * (q - 2) ** 4 * (2 * q - 3),
                "this takes S for one m among the two shared edges, for every centre; there may be "
                "two, or none.",
            ),
            Mistake(
                "both equal edges inside the bar, or one",
                lambda q: 9 * q * (q - 1) * (q - 2) ** 4 * (9 * q - 13),
                "the centre's two equal edges may both be free edges, its top and bottom.",
            ),
            Mistake(
                "opposite centres counted for one direction",
                lambda q: 9 * q * (q - 1) * (q - 2) ** 4 * (12 * q - 19),
                "the centre's two equal edges may also be the two shared ones.",
            ),
            Mistake(
                "none forgotten",
                lambda q: 9 * q * (q - 1) * (q - 2) ** 4 * (10 * q - 14),
                "this takes every opposite centre for one with both m shared; in half of them "
                "neither is.",
            ),
            Mistake(
                "equal arms allowed",
                lambda q: (
                    9
                    * q
                    * (q - 1)
                    * (q - 2) ** 3
                    * (4 * (q - 1) * (2 * q - 3) + (q - 1) ** 2 + (2 * q - 3) ** 2)
                ),
                "the two arms do not choose independently: their dominants differ, too.",
            ),
            Mistake(
                "the cross over the centres",
                lambda q: Fraction(count_crosses(q), 6 * q * (q - 1) * (q - 2)),
                "dividing the cross by its centres gives the mean product of two bars, not a bar.",
            ),
        ),
    ),
    Exercise(
        "colours out of balance",
        solution=lambda: _UNBALANCED,
        judge=_judge_unbalanced,
        mistakes=(
            Mistake(
                "a solution of the strict rule",
                lambda: _STRICT,
                "where opposite arms differ, D7 holds in full: let two opposite arms share their "
                "dominant.",
            ),
            Mistake(
                "one colour",
                lambda: [0] * 16,
                "a dominated square has three different colours.",
            ),
            Mistake(
                "two and two",
                lambda: [0, 0, 1, 1, *_UNBALANCED[4:]],
                "{i, i, j, j} is not dominated: the other two edges differ.",
            ),
            Mistake(
                "an arm like the centre",
                lambda: [*_UNBALANCED[:4], 0, 1, 2, *_UNBALANCED[7:]],
                "squares that touch must still have different dominants.",
            ),
            Mistake(
                "dominants instead of edges",
                lambda: [0, 1, 1, 2, 2],
                "give the colours of the sixteen edges, in the order of the first picture.",
            ),
        ),
    ),
    Exercise(
        "the estimate of a count, mended",
        solution=_estimate,
        forms=(_estimate_population,),
        inputs=_weights,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "the mean of the valid ones",
                _valid_only,
                "an invalid sample counts as 0; left out, the mean is too large, by one over the "
                "mass of the valid strings.",
            ),
            Mistake(
                "the deviation of one sample",
                _no_root,
                "this is the spread of a single weight; the mean of n has a smaller error.",
            ),
            Mistake(
                "the deviation of one sample, with the other divisor",
                _no_root_population,
                "this is the spread of a single weight; divide it by the root of n.",
            ),
            Mistake(
                "the root of the number of valid ones",
                _root_of_valid,
                "the invalid samples are part of the mean: divide by the root of all n.",
            ),
            Mistake(
                "the root of the number of valid ones, with the other divisor",
                _root_of_valid_population,
                "the invalid samples are samples, too: divide by the root of all n.",
            ),
            Mistake(
                "divided by n",
                _divided_by_n,
                "the variance of a mean is divided by n, so the error by its root.",
            ),
            Mistake(
                "every sample",
                _all_samples,
                "this estimates the number of all strings; give the invalid ones the weight 0.",
            ),
            Mistake(
                "as it was given",
                _as_given,
                "a string that is drawn rarely must count more, not less: 1/p.",
            ),
        ),
    ),
    Exercise(
        "classes when colours may be exchanged",
        solution=lambda: 594,
        exact=True,
        mistakes=(
            Mistake(
                "divided by six",
                lambda: 567,
                "exchanging colours together with a symmetry may fix a colouring.",
            ),
            Mistake(
                "without the diagonals",
                lambda: Fraction(1161, 2),
                "no whole number: a mirror along a diagonal may exchange two colours as well.",
            ),
            Mistake(
                "symmetries only",
                lambda: 3402,
                "now colourings that differ by a permutation of the colours count as one, too.",
            ),
            Mistake(
                "colours only",
                lambda: 4536,
                "this is up to the six permutations of the colours; turn and reflect as well.",
            ),
        ),
    ),
)
