"""What the exercises of mathematics/random_sector check."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.mathematics.random_sector import (
    max_gap_cdf,
    same_sector_probability,
    same_sector_probability_density,
    square_pond_density,
)

Inputs = Iterator[tuple[Any, ...]]


def _small_turns(rng: np.random.Generator) -> Inputs:
    yield 3, Fraction(1, 2)
    yield 4, Fraction(1, 3)
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
        ),
    ),
    Exercise(
        "every angle, exactly",
        solution=_sector,
        inputs=_turns,
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
        ),
    ),
    Exercise(
        "a polygon from a broken stick",
        solution=lambda n: 1 - Fraction(n, 2 ** (n - 1)),
        inputs=_pieces,
        mistakes=(
            Mistake(
                "the complement",
                lambda n: Fraction(n, 2 ** (n - 1)),
                "this is the probability that one piece exceeds one half: no polygon then.",
            ),
        ),
    ),
    Exercise(
        "the average sector for six ducks, in degrees",
        solution=lambda: 213.0,
        mistakes=(
            Mistake(
                "the gap itself",
                lambda: 360 * float(Fraction(49, 120)),
                "this is the average gap; the sector is the rest of the circle.",
            ),
            Mistake(
                "radians",
                lambda: 2 * math.pi * 71 / 120,
                "this is right in radians; give it in degrees.",
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
        ),
        rtol=1e-6,
    ),
)
