"""What the exercises of mathematics/random_sector check."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.mathematics.random_sector import same_halfspace_probability

Inputs = Iterator[tuple[Any, ...]]

_HOURS = 12
_CALM = 1 / 12  # three ducks in 60°, without wind
_RARE = 0.083
_FINE = 60  # cells of an hour: a sixth of a turn is a whole number of them


def _shy(rng: np.random.Generator) -> Inputs:
    yield 3, Fraction(1, 8)
    yield 5, Fraction(1, 4)
    for _ in range(4):
        n = int(rng.integers(3, 9))
        yield n, Fraction(int(rng.integers(1, 20)), 23 * n)


def _winds(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        p = Fraction(int(rng.integers(1, 12)), 25)
        yield int(rng.integers(3, 8)), p if rng.random() < 0.5 else 1 - p


def _all_apart(n: int, y: Fraction) -> Fraction:
    return max(1 - n * y, Fraction(0)) ** (n - 1)


def _with_south_wind(n: int, p: Fraction) -> Fraction:
    q = 1 - p
    return (p**n - q**n) / (p - q)


def _mixed(n: int, p: Fraction) -> Fraction:
    """The northern and the southern halves only, weighed: no half across the border."""
    return p**n + (1 - p) ** n


def _in_60_degrees(weights: Any) -> float:
    """Three ducks within a sixth of a turn, by (4); exact, since G is linear in each cell."""
    mass = np.repeat(np.asarray(weights, float) / sum(weights) / _FINE, _FINE)
    F = np.concatenate([[0], np.cumsum(mass)])
    F = np.concatenate([F, 1 + F[1:]])
    sixth, turn = 2 * _FINE, _HOURS * _FINE
    G = F[sixth : sixth + turn + 1] - F[: turn + 1]
    squares = (G[:-1] ** 2 + G[:-1] * G[1:] + G[1:] ** 2) / 3
    return float(3 * (mass * squares).sum())


def _judge_weights(answer: Any) -> str | None:
    try:
        weights = [float(weight) for weight in answer]
    except (TypeError, ValueError):
        return "return twelve numbers"
    if len(weights) != _HOURS or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        return f"return twelve weights, none negative and not all 0; got {weights}"
    chance = _in_60_degrees(weights)
    if chance < _RARE:
        return None
    if chance > _CALM + 1e-9:
        than = "more than without wind (0.08333): how many crowds are there, and how far apart?"
    elif chance > _CALM - 1e-9:
        than = "just as without wind"
    else:
        than = f"less than without wind (0.08333): the right idea, make it stronger, below {_RARE}"
    return f"three ducks fit into 60° with probability {chance:.5f}, {than}"


def _angles(rng: np.random.Generator) -> Inputs:
    yield ([3.5, 3.0, 4.0],)  # the longest gap is the last one
    yield ([0.5, 7.0, 3.0],)  # more than a full turn
    for _ in range(5):
        angles = rng.uniform(-10, 15, int(rng.integers(3, 8)))
        yield ([float(angle) for angle in angles],)


def _widest_gap(angles: list[float]) -> float:
    order = sorted(angle % (2 * math.pi) for angle in angles)
    return max(b - a for a, b in zip(order, [*order[1:], order[0] + 2 * math.pi], strict=True))


def _without_wrapping(angles: list[float]) -> float:
    order = sorted(angle % (2 * math.pi) for angle in angles)
    return max(b - a for a, b in itertools.pairwise(order))


def _without_turns(angles: list[float]) -> float:
    order = sorted(angles)
    return max(b - a for a, b in zip(order, [*order[1:], order[0] + 2 * math.pi], strict=True))


def _turns_too_late(angles: list[float]) -> float:
    order = [angle % (2 * math.pi) for angle in sorted(angles)]
    return max(b - a for a, b in zip(order, [*order[1:], order[0] + 2 * math.pi], strict=True))


def _closed_at_a_full_turn(angles: list[float]) -> float:
    order = sorted(angle % (2 * math.pi) for angle in angles)
    return max(b - a for a, b in itertools.pairwise([*order, 2 * math.pi]))


def _unsorted(angles: list[float]) -> float:
    order = [angle % (2 * math.pi) for angle in angles]
    return max(b - a for a, b in zip(order, [*order[1:], order[0] + 2 * math.pi], strict=True))


def _only_sorted(angles: list[float]) -> float:
    order = sorted(angles)
    return max(b - a for a, b in itertools.pairwise(order))


def _classifiers(rng: np.random.Generator) -> Inputs:
    yield 4, 2
    for _ in range(6):
        d = int(rng.integers(2, 9))
        yield int(rng.integers(d + 3, 3 * d + 4)), d


EXERCISES = (
    Exercise(
        "no two ducks close to each other",
        solution=_all_apart,
        inputs=_shy,
        exact=True,
        mistakes=(
            Mistake(
                "one gap only",
                lambda n, y: max(1 - y, Fraction(0)) ** (n - 1),
                "this is the probability that one given gap exceeds y; all n gaps must.",
            ),
            Mistake(
                "n - 1 gaps",
                lambda n, y: max(1 - (n - 1) * y, Fraction(0)) ** (n - 1),
                "on a circle n ducks have n gaps between neighbours: the stick was cut open at a "
                "duck.",
            ),
            Mistake(
                "the power n",
                lambda n, y: max(1 - n * y, Fraction(0)) ** n,
                "n pieces have only n - 1 degrees of freedom.",
            ),
            Mistake(
                "independent gaps",
                lambda n, y: (1 - y) ** (n * (n - 1)),
                "the gaps are not independent: they add up to 1.",
            ),
            Mistake(
                "every pair by itself",
                lambda n, y: (1 - 2 * y) ** (n * (n - 1) // 2),
                "pairs of ducks are not independent of each other; use the gaps.",
            ),
            Mistake(
                "one duck after the other",
                lambda n, y: math.prod(1 - 2 * k * y for k in range(1, n)),
                "the stretches that k ducks block may overlap, so that they block less than 2 k y "
                "together; use the gaps.",
            ),
            Mistake(
                "without a limit",
                lambda n, y: (1 - n * y) ** (n - 1),
                "if n y > 1 there is no room, and the probability is 0.",
            ),
        ),
    ),
    Exercise(
        "half a pond with wind from the south",
        solution=_with_south_wind,
        inputs=_winds,
        exact=True,
        mistakes=(
            Mistake(
                "north or south only",
                _mixed,
                "this counts the northern and the southern half; there are the halves across the "
                "border, too.",
            ),
            Mistake(
                "the calm pond",
                lambda n, p: n * Fraction(1, 2) ** (n - 1),
                "this is without wind; G is no longer ½: it is linear in φ from p down to 1 - p.",
            ),
            Mistake(
                "G constant in each half",
                lambda n, p: n * (p**n + (1 - p) ** n),
                "G changes with φ: a half pond that begins inside the north reaches into the "
                "south, too.",
            ),
            Mistake(
                "one G for the north",
                lambda n, p: n * p * (1 - p) ** (n - 1),
                "G changes with φ: from a duck in the north the half pond ahead holds some of the "
                "north and some of the south.",
            ),
            Mistake(
                "a leader in the north only",
                lambda n, p: p * (p**n - (1 - p) ** n) / (2 * p - 1),
                "the first duck may be in the southern half as well: two integrals.",
            ),
            Mistake(
                "without the n ducks",
                lambda n, p: _with_south_wind(n, p) / n,
                "any of the n ducks may be the first.",
            ),
            Mistake(
                "the power n",
                lambda n, p: _with_south_wind(n + 1, p),
                "the others are n - 1 ducks.",
            ),
            Mistake(
                "north only, undivided",
                lambda n, p: p * (p**n - (1 - p) ** n),
                "∫ G^(n-1) dφ with G linear: divide by the slope of G. And there are two.",
            ),
            Mistake(
                "the difference left out",
                lambda n, p: abs(p**n - (1 - p) ** n),
                "∫ G^(n-1) dφ with G linear: divide by the slope of G.",
            ),
        ),
    ),
    Exercise(
        "a wind that makes a narrow sector rarer",
        solution=lambda: [2, 0, 0] * 4,
        judge=_judge_weights,
        mistakes=(
            Mistake(
                "no wind",
                lambda: [1] * 12,
                "this is the calm pond, 1/12; let the wind make several separate crowds, farther "
                "apart than the sector is wide.",
            ),
            Mistake(
                "one hour",
                lambda: [1] + [0] * 11,
                "all ducks in one hour always fit into 60°, which is two hours.",
            ),
            Mistake(
                "one side",
                lambda: [3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 2, 2],
                "this crowds the ducks on one side; let the wind treat all sides alike.",
            ),
            Mistake(
                "every other hour",
                lambda: [1, 0] * 6,
                "six equal bumps, and a sector of two hours: G is constant, and nothing changes. "
                "Choose bumps whose distance does not divide the sector's angle.",
            ),
            Mistake(
                "every other hour, mildly",
                lambda: [2, 1] * 6,
                "six equal bumps, and a sector of two hours: G is constant, and nothing changes. "
                "Choose bumps whose distance does not divide the sector's angle.",
            ),
            Mistake(
                "one crowd",
                lambda: [6] + [1] * 11,
                "one crowd makes it likelier that all three are close; make several separate "
                "crowds, farther apart than the sector is wide.",
            ),
            Mistake(
                "one crowd, nothing else",
                lambda: [1, 1] + [0] * 10,
                "all ducks in two hours always fit into 60°, which is two hours.",
            ),
            Mistake(
                "two opposite hours",
                lambda: [1, 0, 0, 0, 0, 0] * 2,
                "with two bumps three ducks share one of them too often; use more bumps, but such "
                "that a sector reaches only one.",
            ),
            Mistake(
                "two opposite crowds",
                lambda: [2, 1, 1, 1, 1, 1] * 2,
                "with two crowds three ducks share one of them too often; use more, but such that "
                "a sector reaches only one.",
            ),
            Mistake(
                "three crowds",
                lambda: [2, 1, 1, 1] * 3,
                "with three crowds three ducks still share one of them too often; how many fit if "
                "a sector is to reach only one?",
            ),
            Mistake(
                "too mild",
                lambda: [5, 4, 4] * 4,
                "four crowds it is; crowd the ducks more.",
            ),
            Mistake(
                "three bumps",
                lambda: [1, 0, 0, 0] * 3,
                "the right idea; with more bumps it is rarer that all three ducks choose the same. "
                "How many fit if a sector is to reach only one?",
            ),
        ),
    ),
    Exercise(
        "the longest gap, mended",
        solution=_widest_gap,
        inputs=_angles,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "without the last gap",
                _without_wrapping,
                "on a circle there is one more gap, from the last direction on to the first.",
            ),
            Mistake(
                "closed at a full turn",
                _closed_at_a_full_turn,
                "the last gap does not end at 2π: it goes on to the first direction, which is met "
                "again a full turn after it was passed.",
            ),
            Mistake(
                "without full turns",
                _without_turns,
                "angles that differ by a full turn are the same direction: bring them into one "
                "turn first.",
            ),
            Mistake(
                "full turns after sorting",
                _turns_too_late,
                "bring the angles into one turn first and sort them then: this changes their "
                "order.",
            ),
            Mistake(
                "not sorted",
                _unsorted,
                "neighbours on the circle are not neighbours in the list.",
            ),
            Mistake(
                "only sorted",
                _only_sorted,
                "sorting is one of three faults; think of an angle of 7, and of the circle.",
            ),
        ),
    ),
    Exercise(
        "a linear classifier with an offset",
        solution=lambda n, d: same_halfspace_probability(n, d + 1),
        inputs=_classifiers,
        exact=True,
        mistakes=(
            Mistake(
                "no offset",
                lambda n, d: same_halfspace_probability(n, d),
                "this is the classifier through the origin; the offset is one more weight.",
            ),
            Mistake(
                "one more point, too",
                lambda n, d: same_halfspace_probability(n + 1, d + 1),
                "append the constant 1 to each point: that adds a dimension, not a point.",
            ),
            Mistake(
                "one point more",
                lambda n, d: same_halfspace_probability(n + 1, d),
                "the offset is one more weight, not one more point.",
            ),
            Mistake(
                "double",
                lambda n, d: 2 * same_halfspace_probability(n, d),
                "the capacity rises by one dimension, it does not double.",
            ),
            Mistake(
                "double, at most 1",
                lambda n, d: min(2 * same_halfspace_probability(n, d), Fraction(1)),
                "the capacity rises by one dimension, it does not double.",
            ),
            Mistake(
                "one point less",
                lambda n, d: same_halfspace_probability(n - 1, d),
                "the offset does not take care of one point: it is one more weight, for all.",
            ),
        ),
    ),
)
