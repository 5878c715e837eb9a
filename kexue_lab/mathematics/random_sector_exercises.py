"""What the exercises of mathematics/random_sector check."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.integrate import quad

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.mathematics.random_sector import (
    max_gap_cdf,
    same_sector_probability,
    same_sector_probability_density,
    square_pond_density,
)

Inputs = Iterator[tuple[Any, ...]]


def _small_turns(rng: np.random.Generator) -> Inputs:
    yield 4, Fraction(1, 3)
    yield 3, Fraction(1, 2)
    for _ in range(6):
        yield int(rng.integers(3, 10)), Fraction(int(rng.integers(1, 50)), 100)


def _turns(rng: np.random.Generator) -> Inputs:
    yield 4, Fraction(2, 3)
    yield 10, Fraction(3, 4)
    yield 4, Fraction(3, 4)
    for _ in range(8):
        yield int(rng.integers(3, 12)), Fraction(int(rng.integers(5, 100)), 100)


def _pieces(rng: np.random.Generator) -> Inputs:
    yield (3,)
    yield from ((int(n),) for n in rng.integers(4, 20, 4))


def _deep(rng: np.random.Generator) -> Inputs:
    yield 100, 0.015
    for n in rng.integers(30, 120, 5):
        yield int(n), float(rng.uniform(1.3, 2.0) / n)


def _ponds(rng: np.random.Generator) -> Inputs:
    yield 3, math.pi / 3
    yield 4, math.pi / 4
    yield 4, math.pi / 2
    for _ in range(3):
        yield int(rng.integers(3, 7)), float(rng.uniform(0.5, math.pi))


def _sector(n: int, turn: Fraction) -> Fraction | float:
    return same_sector_probability(n, turn=turn)


def _alternating_cdf(n: int, x: float) -> float:
    signed = ((-1) ** k * math.comb(n, k) * (1 - k * x) ** (n - 1) for k in range(int(1 / x) + 1))
    return float(sum(signed))


def _square_pond(n: int, theta: float) -> float:
    return same_sector_probability_density(n, theta, square_pond_density)


def _polygon_cases(rng: np.random.Generator) -> Inputs:
    yield from ((n,) for n in (5, 2, 3))
    yield from ((int(n),) for n in rng.integers(6, 13, 4))


def _average_gap(n: int) -> float:
    """In turns: the harmonic number over n."""
    return math.fsum(1 / j for j in range(1, n + 1)) / n


def _eight_octants(n: int, theta: float) -> float:
    """The integral over one octant, times eight: as if the wait behind a duck were symmetric."""

    def cdf(phi: float) -> float:
        quarter = math.floor((phi + math.pi / 4) / (math.pi / 2))
        return quarter / 4 + math.tan(phi - quarter * math.pi / 2) / 8

    def integrand(phi: float) -> float:
        return (cdf(phi + theta) - cdf(phi)) ** (n - 1) / (8 * math.cos(phi) ** 2)

    return 8 * n * float(quad(integrand, 0, math.pi / 4, points=(max(math.pi / 4 - theta, 0),))[0])


EXERCISES = (
    Exercise(
        "at most half a turn",
        solution=lambda n, turn: n * turn ** (n - 1),
        inputs=_small_turns,
        mistakes=(
            Mistake(
                "no choice of leader",
                lambda n, turn: turn ** (n - 1),
                "this is the sector that starts at one given duck; any of the n may lead.",
            ),
            Mistake(
                "a given sector",
                lambda n, turn: turn**n,
                "this is the probability for one fixed sector; here it may be turned freely.",
            ),
            Mistake(
                "all n behind the leader",
                lambda n, turn: n * turn**n,
                "the leader is in the sector by himself: only the other n - 1 must follow within"
                " it.",
            ),
            Mistake(
                "independent leaders",
                lambda n, turn: 1 - (1 - turn ** (n - 1)) ** n,
                "no two ducks can both lead within half a turn: the n events exclude each other "
                "and their probabilities add up.",
            ),
        ),
    ),
    Exercise(
        "every angle, exactly",
        solution=_sector,
        inputs=_turns,
        exact=True,
        mistakes=(
            Mistake(
                "no truncation",
                lambda n, turn: Fraction(1),
                "all n terms always add up to 1 (step 5): leave out those with kx ≥ 1.",
            ),
            Mistake(
                "one term",
                lambda n, turn: n * turn ** (n - 1),
                "beyond half a turn more terms enter: add those with kx < 1.",
            ),
            Mistake(
                "capped at 1",
                lambda n, turn: min(Fraction(1), n * turn ** (n - 1)),
                "beyond half a turn several ducks may lead at once: subtract the overlaps (step "
                "5); cutting off at 1 does not.",
            ),
        ),
    ),
    Exercise(
        "a polygon from a broken stick",
        solution=lambda n: 1 - Fraction(n, 2 ** (n - 1)),
        inputs=_pieces,
        exact=True,
        mistakes=(
            Mistake(
                "the complement",
                lambda n: Fraction(n, 2 ** (n - 1)),
                "this is the probability that one piece exceeds one half: no polygon then.",
            ),
            Mistake(
                "n breaks",
                lambda n: 1 - Fraction(n + 1, 2**n),
                "n - 1 breaks make n pieces: there are as many pieces as gaps of n points on a "
                "circle.",
            ),
            Mistake(
                "one piece fewer",
                lambda n: 1 - Fraction(n - 1, 2 ** (n - 2)),
                "n - 1 is the number of breaks; count the pieces.",
            ),
            Mistake(
                "one given piece",
                lambda n: 1 - Fraction(1, 2 ** (n - 1)),
                "any of the n pieces may be the one that is too long.",
            ),
        ),
    ),
    Exercise(
        "the average sector, in degrees",
        solution=lambda n: 360 * (1 - _average_gap(n)),
        inputs=_polygon_cases,
        mistakes=(
            Mistake(
                "the gap itself",
                lambda n: 360 * _average_gap(n),
                "this is the average gap; the sector is the rest of the circle.",
            ),
            Mistake(
                "radians",
                lambda n: 2 * math.pi * (1 - _average_gap(n)),
                "this is right in radians; give it in degrees.",
            ),
            Mistake(
                "equal gaps",
                lambda n: 360 * (1 - 1 / n),
                "1/n is the average gap; the sector leaves out the *longest* one.",
            ),
            Mistake(
                "one duck fewer",
                lambda n: 360 * (1 - _average_gap(n - 1)),
                "n ducks on a circle make n gaps, not n - 1.",
            ),
        ),
    ),
    Exercise(
        "a stable CDF of the longest gap",
        solution=max_gap_cdf,
        inputs=_deep,
        mistakes=(
            Mistake(
                "the alternating sum",
                _alternating_cdf,
                "the alternating sum has no correct digit here; use the recurrence of step 7.",
            ),
            Mistake(
                "the tail",
                lambda n, x: 1 - max_gap_cdf(n, x),
                "this is P(M_n > x); the small probability is asked for.",
            ),
        ),
        rtol=1e-10,
        atol=0,
    ),
    Exercise(
        "the square pond",
        solution=_square_pond,
        inputs=_ponds,
        mistakes=(
            Mistake(
                "the round pond",
                lambda n, theta: n * (theta / (2 * math.pi)) ** (n - 1),
                "this is the disc's value; the square's directions have density r²/8.",
            ),
            Mistake(
                "no choice of leader",
                lambda n, theta: _square_pond(n, theta) / n,
                "any of the n ducks may be the first: a factor n is missing.",
            ),
            Mistake(
                "eight octants",
                _eight_octants,
                "the others must be *ahead* within theta, which has no mirror symmetry: a "
                "quarter turn repeats, an octant does not.",
            ),
        ),
        rtol=1e-6,
    ),
)
