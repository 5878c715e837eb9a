"""What the exercises of text/geodesic_similarity check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist, pdist

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.text.geodesic_similarity import geodesic_distances

Inputs = Iterator[tuple[Any, ...]]
Matrix = NDArray[np.float64]

_GROWN = 1.5
_TIE = 0.001
_MOST_POINTS = 10


# --- the longest leg


def _points(rng: np.random.Generator) -> Inputs:
    yield (np.array([[0.0, 0.0], [0, 12], [6, 20], [14, 20], [14, 13], [14, 9]]),)
    for _ in range(4):
        yield (rng.standard_normal((int(rng.integers(8, 20)), int(rng.integers(1, 4)))),)


def _legs(z: Matrix, better: np.ufunc, along: np.ufunc) -> Matrix:
    """From the first point, the `better` of all ways, whose legs are put together by `along`."""
    best: Matrix = cdist(z, z)
    for through in range(len(z)):
        best = better(best, along(best[:, through, None], best[through]))
    row: Matrix = best[0]
    return row


def _longest_legs(z: Matrix) -> Matrix:
    return _legs(z, np.minimum, np.maximum)


def _never_home(z: Matrix) -> Matrix:
    best = _longest_legs(z)
    best[0] = np.inf
    return best


def _shortest_legs(z: Matrix) -> Matrix:
    return _legs(z, np.maximum, np.minimum)


def _one_stop(z: Matrix) -> Matrix:
    apart: Matrix = cdist(z, z)
    row: Matrix = np.maximum(apart[0], apart).min(-1)
    return row


def _longest_of_all(z: Matrix) -> Matrix:
    best: Matrix = cdist(z, z)
    for through in range(len(z)):
        best = np.maximum(best, np.maximum(best[:, through, None], best[through]))
    row: Matrix = best[0]
    return row


# --- the power of m


def _powers(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        yield (float(rng.uniform(0.5, 3)),)


# --- roads


def _roads(rng: np.random.Generator) -> Inputs:
    # All roads lead away from place 0: whoever only forgets the way back is right here.
    yield [(0, 1), (0, 1), (1, 2)], [float(rng.uniform(1, 2)), 3.0, 0.0], 3
    for n in (4, 6, 9, 12):
        # A tree joins all places; one of its roads has the length 0, one has a rival.
        ends = [(int(rng.integers(i)), i) for i in range(1, n)]
        ends = [pair if rng.random() < 0.5 else pair[::-1] for pair in ends]
        lengths = list(rng.uniform(1, 5, n - 1))
        zero, rival = rng.permutation(n - 1)[:2]
        lengths[zero] = 0.0
        ends.append(ends[rival])
        lengths.append(lengths[rival] + 2)
        yield ends, [float(length) for length in lengths], n


def _ways(
    ends: list[tuple[int, int]],
    lengths: list[float],
    n: int,
    *,
    choose: Callable[[float, float], float] = min,
    both: bool = True,
    zero: float = 0.0,
    none: float = math.inf,
) -> Matrix:
    """The repaired code, or one of its faults left in it."""
    best = np.full((n, n), np.nan)
    for (i, j), given in zip(ends, lengths, strict=True):
        length = given or zero
        for a, b in ((i, j), (j, i)) if both else ((i, j),):
            best[a, b] = length if np.isnan(best[a, b]) else choose(float(best[a, b]), length)
    best = np.where(np.isnan(best), none, best)
    np.fill_diagonal(best, 0)
    for through in range(n):
        best = np.minimum(best, best[:, through, None] + best[through])
    row: Matrix = best[0]
    return row


def _as_given(ends: list[tuple[int, int]], lengths: list[float], n: int) -> Matrix:
    roads = np.zeros((n, n))
    for (i, j), length in zip(ends, lengths, strict=True):
        roads[i, j] = length
    result: Matrix = dijkstra(roads, indices=0)
    return result


# --- a newcomer


def _judge_newcomer(got: Any) -> str | None:
    points, new, k = got
    old, extra = np.asarray(points, dtype=float), np.asarray(new, dtype=float)
    if old.ndim != 2 or extra.shape != old.shape[1:]:
        return f"points need the shape (n, D) and the new one (D,), got {old.shape}, {extra.shape}"
    if len(old) > _MOST_POINTS:
        return f"at most ten old points are asked for, got {len(old)}"
    if k != int(k) or not 1 <= k < len(old):
        return f"k must be a whole number, at least 1 and below {len(old)}, got {k}"
    both = np.vstack([old, extra])
    apart = np.sort(pdist(both))
    if apart[0] < _TIE or (np.diff(apart) < _TIE).any():
        return "two distances are nearer to each other than 0.001: a tie, or nearly one"
    before = geodesic_distances(old, int(k))
    after = geodesic_distances(both, int(k))[:-1, :-1]
    reached = np.isfinite(before) & (before > 0)
    grown = float((after[reached] / before[reached]).max()) if reached.any() else 1.0
    if grown > _GROWN:
        return None
    return f"no distance grows to more than 1.5 times what it was; the largest ratio is {grown:.3g}"


def _newcomer() -> tuple[list[list[float]], list[float], int]:
    return [[0.0, 0.0], [3.0, 0.0], [4.0, 0.0]], [-1.0, 0.3], 1


# --- two rows


def _rows(rng: np.random.Generator) -> Inputs:
    for whole in (1, 2, 3, 5, int(rng.integers(4, 12))):
        h = float(rng.uniform(0.2, 3))
        # One below and one above a half at the least, for whoever rounds to the nearest.
        low, high = {1: (0.1, 0.4), 2: (0.6, 0.9)}.get(whole, (0.1, 0.9))
        yield (whole + float(rng.uniform(low, high))) * h, h


EXERCISES = (
    Exercise(
        "the longest leg",
        solution=_longest_legs,
        inputs=_points,
        mistakes=(
            Mistake(
                "legs added up",
                lambda z: cdist(z[:1], z)[0],
                "where every pair has an edge the shortest sum is the direct one. A way's cost "
                "is its longest leg, not the sum of its legs.",
            ),
            Mistake(
                "infinite at home",
                _never_home,
                "from the first point to itself no leg is needed: 0.",
            ),
            Mistake(
                "the shortest leg made long",
                _shortest_legs,
                "that is the way whose shortest leg is as long as can be: exchange minimum and "
                "maximum.",
            ),
            Mistake(
                "one stop on the way",
                _one_stop,
                "that allows one stop. Let each point in turn be a stop, and keep what is best "
                "so far.",
            ),
            Mistake(
                "the worst way",
                _longest_of_all,
                "among all ways the best is asked for: the maximum is over legs, the minimum "
                "over ways.",
            ),
        ),
    ),
    Exercise(
        "the power of m",
        solution=lambda p: 1 - p,
        inputs=_powers,
        mistakes=(
            Mistake("one step", lambda p: -p, "there are m steps: add them up."),
            Mistake("the other sign", lambda p: p - 1, "a step is about θ/m long, not m."),
            Mistake(
                "no power",
                lambda p: 0.0,
                "only lengths add up to a length, whatever m is; that is p = 1.",
            ),
            Mistake(
                "as for 1 - cos",
                lambda p: -1.0,
                "1 - cos is half a squared chord, the case p = 2.",
            ),
            Mistake(
                "the chord taken for 1 - cos",
                lambda p: 1 - 2 * p,
                "the chord |u - v| is about θ/m; 1 - cos is of the order of its square.",
            ),
            Mistake(
                "the chord taken for its square",
                lambda p: 1 - p / 2,
                "the chord |u - v| itself is about θ/m: no root is needed.",
            ),
        ),
    ),
    Exercise(
        "roads, mended",
        solution=_ways,
        inputs=_roads,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "as it was",
                _as_given,
                "start with infinity for no road; that needs another way to find the shortest "
                "paths, or a sparse matrix. There are two more faults.",
            ),
            Mistake(
                "roads of length 0 lost",
                lambda ends, lengths, n: _ways(ends, lengths, n, zero=math.inf),
                "a road of length 0 is a road: in a dense matrix SciPy cannot see it.",
            ),
            Mistake(
                "a little added to roads of length 0",
                lambda ends, lengths, n: _ways(ends, lengths, n, zero=1e-3),
                "a small number instead of 0 adds up along a path: the distances are wrong by it.",
                variants=(lambda ends, lengths, n: _ways(ends, lengths, n, zero=1e-6),),
            ),
            Mistake(
                "one way only",
                lambda ends, lengths, n: _ways(ends, lengths, n, both=False),
                "a road may be used in both directions.",
            ),
            Mistake(
                "the last of several roads",
                lambda ends, lengths, n: _ways(ends, lengths, n, choose=lambda old, new: new),
                "of several roads between two places the shortest counts, not the last.",
            ),
            Mistake(
                "several roads added",
                lambda ends, lengths, n: _ways(ends, lengths, n, choose=lambda old, new: old + new),
                "two entries for one place in a sparse matrix are added; of several roads the "
                "shortest counts.",
            ),
            Mistake(
                "no road is a road of length 0",
                lambda ends, lengths, n: _ways(ends, lengths, n, none=0.0),
                "where there is no road the length is infinite, not 0.",
            ),
        ),
    ),
    Exercise(
        "a newcomer",
        solution=_newcomer,
        judge=_judge_newcomer,
        mistakes=(
            Mistake(
                "far from all",
                lambda: ([[0.0, 0.0], [3.0, 0.0], [4.0, 0.0]], [100.0, 0.0], 1),
                "a point that is nobody's neighbour takes no edge away. Whose neighbour must it "
                "become, and who is no longer one then?",
            ),
            Mistake(
                "everyone is a neighbour",
                lambda: ([[0.0, 0.0], [3.0, 0.0], [4.0, 0.0]], [-1.0, 0.3], 2),
                "with k = n - 1 old edges a detour over a third point must be long to matter; "
                "take a smaller k.",
            ),
            Mistake(
                "the villages",
                lambda: (
                    [[0.0, 0.0], [0, 12], [6, 20], [14, 20], [14, 13.001], [14.05, 9]],
                    [7.0, 6.0],
                    1,
                ),
                "out in the bay it is nobody's nearest. An edge is lost where both of its ends "
                "find someone nearer.",
            ),
            Mistake(
                "ties",
                lambda: ([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [-1.0, 0.0], 1),
                "equal steps leave it to chance who is a neighbour: move the points a little.",
            ),
            Mistake(
                "the other point was there already",
                lambda: ([[0.0], [1.0], [3.5], [5.0]], [0.4], 1),
                "here the old points were in two parts before; only pairs that a path joined "
                "count.",
            ),
        ),
    ),
    Exercise(
        "two rows",
        solution=lambda g, h: math.floor(g / h),
        inputs=_rows,
        exact=True,
        mistakes=(
            Mistake(
                "an inner point",
                lambda g, h: 2 * math.floor(g / h),
                "an inner point has neighbours on both sides. The last point of a row has not.",
            ),
            Mistake(
                "rounded up",
                lambda g, h: math.ceil(g / h),
                "then the last of the k neighbours of an end would be farther than the other row.",
                variants=(lambda g, h: math.floor(g / h) + 1,),
            ),
            Mistake(
                "one too few",
                lambda g, h: math.floor(g / h) - 1,
                "a neighbour in the row may be as far as just below g.",
            ),
            Mistake(
                "an inner point and itself",
                lambda g, h: 2 * math.floor(g / h) + 1,
                "a point is not its own neighbour; and the last point of a row has neighbours on "
                "one side only.",
            ),
            Mistake(
                "to the nearest whole number",
                lambda g, h: round(g / h),
                "a neighbour in the row must be nearer than g: round down.",
            ),
        ),
    ),
)
