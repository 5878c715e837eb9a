"""What the exercises of diffusion/poisson_flow check."""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]


# ---------------------------------------------------------------------------- 1: rays in space


def _widths(rng: np.random.Generator) -> Inputs:
    yield (0.5,)
    yield from ((float(c),) for c in rng.uniform(0.2, 0.9, size=3))
    yield from ((float(c),) for c in rng.uniform(1.2, 6.0, size=3))


def _cap(c: float) -> float:
    return 1 - 1 / math.hypot(1, c)


# ---------------------------------------------------------------------------- 2: straight up


def _heights(rng: np.random.Generator) -> Inputs:
    yield 1.0, 0.6
    for _ in range(3):
        a = float(rng.uniform(0.5, 3))
        yield a, a * float(rng.uniform(0.2, 0.9))
        yield a, a * float(rng.uniform(1.1, 2.5))


def _vertical(a: float, z: float) -> list[float]:
    if z >= a:
        return [0.0]
    side = math.sqrt(a**2 - z**2)
    return [-side, 0.0, side]


# ---------------------------------------------------------------------------- 3: mended weights


def _pictures(rng: np.random.Generator) -> Inputs:
    # Many dimensions and points far away: powers under- or overflow, but the weights are not 0/1.
    for d, spread, far in ((2, 1.0, 1.0), (3, 1.0, 2.0), (3072, 0.3, 10.0), (3072, 0.3, 8.0)):
        data = spread * rng.normal(size=(5, d))
        yield far * rng.normal(size=d), float(rng.uniform(1, 3)), data, int(rng.integers(3, 60))


def _mean_of_charges(
    x: Array, sigma: float, data: Array, D: int, *, faults: tuple[str, ...] = ()
) -> Array:
    r = sigma * (D if "clock" in faults else math.sqrt(D))
    power = 0.5 * (len(x) + (1 if "exponent" in faults else D))
    squares = ((x - data) ** 2).sum(1) + r**2
    if "powers" in faults:
        with np.errstate(all="ignore"):
            weights = squares**-power
            return np.asarray(weights @ data / weights.sum())
    logs = -power * np.log(squares)
    return np.asarray(np.exp(logs - logsumexp(logs)) @ data)


_FAULTS = {
    "clock": "σ is r/√D, so r = σ√D.",
    "exponent": "(10) has the exponent (d + D)/2.",
    "powers": "with 3072 dimensions the powers are 0: take logarithms, and subtract the largest "
    "before exp.",
}


def _left(faults: tuple[str, ...]) -> Mistake:
    """The answer in which these faults are left."""
    return Mistake(
        f"left as it was: {', '.join(faults)}",
        lambda *a: _mean_of_charges(*a, faults=faults),
        " And: ".join(_FAULTS[fault] for fault in faults),
    )


# ---------------------------------------------------------------------------- 4: a counter-example


def _surprise() -> tuple[list[float], list[float]]:
    return [-1.0, 0.2, 0.58 / 0.3], [0.6, 0.1, 0.3]


def _judge_charges(answer: Any) -> str | None:
    """What is wrong with charges of which the middle line should miss the nearest to the mean."""
    try:
        places, masses = (np.asarray(part, dtype=np.float64) for part in answer)
    except (TypeError, ValueError):
        return "return two lists, places and masses"
    if places.ndim != 1 or places.shape != masses.shape or not 2 <= len(places) <= 6:
        return f"two lists of 2 to 6 numbers are wanted, got {places.shape} and {masses.shape}"
    if not (masses > 0).all() or abs(masses.sum() - 1) > 1e-9:
        return f"the masses must be positive with sum 1, got the sum {masses.sum():.6g}"
    if not abs(masses @ places) <= 1e-9:
        return f"the mean of the data must be 0, got {masses @ places:.3g}"
    order = places.argsort()
    ranks = masses[order].cumsum()
    if (np.abs(ranks - 0.5) < 0.01).any():
        return "moved by 1 % of the rays the line ends on another charge"
    distances = np.sort(np.abs(places))
    if distances[1] - distances[0] < 0.01:
        return "two charges are equally near to the mean"
    end = places[order][np.searchsorted(ranks, 0.5)]
    if abs(end) == distances[0]:
        return f"the line ends at {end:.4g}, which is the charge nearest to the mean"
    return None


EXERCISES = (
    Exercise(
        title="rays of one charge above a plane",
        solution=_cap,
        inputs=_widths,
        mistakes=(
            Mistake(
                "the share on a line",
                lambda c: 2 / math.pi * math.atan(c),
                "this is for data on a line, where directions are even in angle; on a half sphere "
                "they are even in area.",
            ),
            Mistake(
                "area of the shadow",
                lambda c: c**2 / (1 + c**2),
                "this is the share of the disc below the cap; what counts is the area on the "
                "sphere itself.",
            ),
            Mistake(
                "beyond",
                lambda c: 1 / math.hypot(1, c),
                "this is the share beyond cz.",
            ),
            Mistake(
                "of the whole sphere",
                lambda c: _cap(c) / 2,
                "only the rays that go up pass the height z: the half sphere is the whole.",
            ),
            Mistake(
                "the sine",
                lambda c: c / math.hypot(1, c),
                "the area of a cap of the unit sphere is 2π times its height, 1 − cos θ.",
            ),
        ),
    ),
    Exercise(
        title="where the field of two charges points straight up",
        solution=_vertical,
        inputs=_heights,
        mistakes=(
            Mistake(
                "the middle alone",
                lambda a, z: [0.0],
                "low enough there are more places: near each charge the field fans out around it.",
            ),
            Mistake(
                "the sides alone",
                lambda a, z: [v for v in _vertical(a, z) if v],
                "in the middle both charges pull with the same strength: that is a place too.",
            ),
            Mistake(
                "the other sign",
                lambda a, z: [-math.hypot(a, z), 0.0, math.hypot(a, z)],
                "x = x̂_0 leads to x² = a² − z² (or x = 0); beyond the charges the field leans out.",
            ),
            Mistake(
                "above the charges",
                lambda a, z: [-a, 0.0, a],
                "right above a charge its own field is straight up, but the other charge's is not.",
            ),
            Mistake(
                "in the wrong order",
                lambda a, z: _vertical(a, z)[::-1] if z < a else [],
                "return all of them in rising order; high up one is left.",
            ),
        ),
    ),
    Exercise(
        title="the mean datum, mended",
        solution=_mean_of_charges,
        inputs=_pictures,
        mistakes=tuple(_left(faults) for n in (1, 2, 3) for faults in combinations(_FAULTS, n)),
    ),
    Exercise(
        title="a line that does not end at the nearest charge",
        solution=_surprise,
        judge=_judge_charges,
        mistakes=(
            Mistake(
                "two equal charges",
                lambda: ([-1.0, 1.0], [0.5, 0.5]),
                "the line must be clearly decided: here it ends between the two.",
            ),
            Mistake(
                "two unequal charges",
                lambda: ([-2.0, 1.0], [1 / 3, 2 / 3]),
                "of two charges the heavier is nearer to the mean, and has the middle line too: "
                "take three.",
            ),
            Mistake(
                "a symmetric cloud",
                lambda: ([-1.0, 0.0, 1.0], [0.3, 0.4, 0.3]),
                "on a line the order is kept: what is the middle of the order here? Make it "
                "another place than the mean.",
            ),
            Mistake(
                "not centred",
                lambda: ([0.0, 10.0], [0.9, 0.1]),
                "move all places so that the mean is 0.",
            ),
        ),
    ),
)
