"""What the exercises of text/cur_retrieval check."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Floats = NDArray[np.float64]
Found = tuple[list[int], list[int]]


# --- 1: the rank of the error


_PREDICTED = {(5, 2, 2): 3, (5, 2, 4): 3, (5, 7, 3): 2}


def _shapes(rng: np.random.Generator) -> Inputs:
    yield from _PREDICTED
    yield 4, 7, 5
    yield 7, 3, 6
    yield 8, 6, 2
    for _ in range(4):
        rho = int(rng.integers(6, 14))
        r, c = rng.choice(np.arange(1, rho + 4), 2, replace=False)
        yield rho, int(r), int(c)


def _rank_of_error(rho: int, r: int, c: int) -> int:
    return max(0, rho - min(r, c))


def _rank_mistake(name: str, answer: Callable[[int, int, int], int], hint: str) -> Mistake:
    """A wrong rank everywhere, or only beyond the three predictions."""

    def predicted_well(rho: int, r: int, c: int) -> int:
        return _PREDICTED.get((rho, r, c), answer(rho, r, c))

    return Mistake(name, answer, hint, variants=(predicted_well,))


# --- 2: one more anchor


def _errors(rng: np.random.Generator) -> Inputs:
    for m, n in ((3, 3), (4, 6), (7, 5)):
        E = rng.standard_normal((m, n)).round(2)
        i, j = int(rng.integers(1, m)), int(rng.integers(1, n))
        E[0], E[:, 0] = 0, 0  # an anchor that is there already
        E[i, j] = round(rng.choice([-1, 1]) * rng.uniform(1.2, 3), 2)
        yield E, i, j


def _one_more(E: Floats, i: int, j: int) -> Floats:
    found: Floats = E - np.outer(E[:, j], E[i]) / E[i, j]
    found[i], found[:, j] = 0, 0  # but for rounding they are
    return found


def _undivided(E: Floats, i: int, j: int) -> Floats:
    found: Floats = E - np.outer(E[:, j], E[i])
    return found


def _normalised(E: Floats, i: int, j: int) -> Floats:
    found: Floats = E - np.outer(E[:, j], E[i]) / (np.linalg.norm(E[:, j]) * np.linalg.norm(E[i]))
    return found


def _added(E: Floats, i: int, j: int) -> Floats:
    found: Floats = E + np.outer(E[:, j], E[i]) / E[i, j]
    return found


def _transposed(E: Floats, i: int, j: int) -> Floats:
    found: Floats = E - np.outer(E[i], E[:, j]) / E[i, j]
    return found


def _blanked(E: Floats, i: int, j: int) -> Floats:
    found = E.copy()
    found[i], found[:, j] = 0, 0
    return found


# --- 3: the number of anchor items


def _sizes(rng: np.random.Generator) -> Inputs:
    # The anchors are drawn anew for each number: 0.9 r of them leave a little more than 0.7 r.
    for r, near in ((200, 1.0), (120, 1.05), (60, 1.0), (300, 1.05)):
        shares = (0.03, 0.1, 0.2, 0.4, 0.7, 0.9, near, 1.5)
        sizes = [round(share * r) for share in shares]
        floor = rng.uniform(0.05, 0.1)
        tau2 = [floor + rng.uniform(0.9, 1.1) * (r / 40 / size) ** 1.5 for size in sizes]
        tau2.sort(reverse=True)
        tau2[4], tau2[5] = tau2[5], tau2[4]
        order = rng.permutation(len(sizes))
        yield [sizes[i] for i in order], [round(tau2[i], 4) for i in order], r


def _least(sizes: Sequence[int], errors: Sequence[float]) -> int:
    return sizes[int(np.argmin(errors))]


def _best_size(sizes: Sequence[int], tau2: Sequence[float], r: int) -> int:
    return _least(
        sizes,
        [
            t * (r - 1) / (r - c - 1) if c < r - 1 else math.inf
            for c, t in zip(sizes, tau2, strict=True)
        ],
    )


def _unclipped(sizes: Sequence[int], tau2: Sequence[float], r: int) -> int:
    return _least(
        sizes,
        [
            t * (r - 1) / (r - c - 1) if c != r - 1 else math.inf
            for c, t in zip(sizes, tau2, strict=True)
        ],
    )


def _by_examples(sizes: Sequence[int], tau2: Sequence[float], r: int) -> int:
    return _least(
        sizes, [t * (1 - c / r) if c <= r else math.inf for c, t in zip(sizes, tau2, strict=True)]
    )


def _by_examples_below(sizes: Sequence[int], tau2: Sequence[float], r: int) -> int:
    return _least(
        sizes,
        [t * (1 - c / r) if c < r - 1 else math.inf for c, t in zip(sizes, tau2, strict=True)],
    )


def _below_r(sizes: Sequence[int], tau2: Sequence[float], r: int) -> int:
    return _least(sizes, [t if c < r - 1 else math.inf for c, t in zip(sizes, tau2, strict=True)])


# --- 4: two anchors that fail

_FAILS = (
    [[1, 1, 2, 3], [1, 1, 3, 5], [1, 1, 4, 7], [2, 2, 3, 4]],
    [0, 1],
    [0, 1],
)


def _judge_anchors(answer: Any) -> str | None:
    try:
        matrix, rows, cols = answer
        S = np.array(matrix, dtype=float)
        chosen = [[int(place) for place in places] for places in (rows, cols)]
    except (TypeError, ValueError):
        return "return a matrix, two row numbers and two column numbers"
    if S.shape != (4, 4):
        return f"the matrix must be 4 by 4, got shape {S.shape}"
    for name, places in zip(("rows", "columns"), chosen, strict=True):
        if len(places) != 2 or len(set(places)) != 2 or not set(places) <= {0, 1, 2, 3}:
            return f"choose two different {name} from 0 to 3, got {places}"
    if np.abs(S).max() > 1e6:
        return "keep the entries below a million, so that ranks can be told"
    if np.abs(S).min() < 1e-6:
        return "an entry is 0"
    rank = int(np.linalg.matrix_rank(S, tol=1e-9 * np.abs(S).max()))
    if rank != 2:
        return f"the matrix has rank {rank}, not 2"
    W = S[np.ix_(*chosen)]
    error = np.abs(S - S[:, chosen[1]] @ np.linalg.pinv(W, rcond=1e-10) @ S[chosen[0]]).max()
    if error <= 0.1:
        return f"the largest error is {error:.2g}: here the anchors are enough"
    return None


# --- 5: queries that shift their scores


def _shifted(rng: np.random.Generator) -> Inputs:
    # Eighths, and 2 or 4 anchors: means are exact, so that the centred scores of the anchors have
    # a rank too few by one without rounding, and any cut-off for singular values will do.
    for r, c, n in ((6, 2, 7), (9, 4, 8), (12, 4, 11)):
        R = _eighths(rng.standard_normal((r, n)) + rng.uniform(-20, 20, (r, 1)))
        anchors = sorted(rng.choice(n, c, replace=False).tolist())
        yield R, anchors, _eighths(rng.standard_normal(c) + rng.uniform(3, 9))


def _eighths(numbers: Floats) -> Floats:
    found: Floats = np.round(8 * numbers) / 8
    return found


def _regressed(W: Floats, R: Floats, x: Floats) -> Floats:
    found: Floats = x @ (np.linalg.pinv(W, rcond=1e-10) @ R)
    return found


def _predict_shifted(R: Floats, anchors: list[int], x: Floats) -> Floats:
    own = R[:, anchors].mean(1, keepdims=True)
    found: Floats = x.mean() + _regressed(R[:, anchors] - own, R - own, x - x.mean())
    return found


def _plain(R: Floats, anchors: list[int], x: Floats) -> Floats:
    return _regressed(R[:, anchors], R, x)


def _intercept(R: Floats, anchors: list[int], x: Floats) -> Floats:
    W = np.column_stack([R[:, anchors], np.ones(len(R))])
    return _regressed(W, R, np.append(x, 1.0))


def _all_items(R: Floats, anchors: list[int], x: Floats) -> Floats:
    centred = R - R.mean(1, keepdims=True)
    found: Floats = x.mean() + _regressed(centred[:, anchors], centred, x - x.mean())
    return found


def _not_returned(R: Floats, anchors: list[int], x: Floats) -> Floats:
    found: Floats = _predict_shifted(R, anchors, x) - x.mean()
    return found


def _new_query_only(R: Floats, anchors: list[int], x: Floats) -> Floats:
    found: Floats = x.mean() + _regressed(R[:, anchors], R, x - x.mean())
    return found


# --- 6: the search, mended


def _searches(rng: np.random.Generator) -> Inputs:
    for n, c, k, calls in ((12, 3, 4, 8), (20, 5, 3, 11), (15, 4, 5, 12)):
        truth = _two_places(rng.standard_normal(n), rng)
        predicted = _two_places(truth + 0.8 * rng.standard_normal(n), rng)
        # Two of the anchors are predicted to be good, of which one is; a third to be the worst.
        anchors = rng.choice(n, c, replace=False)
        truth[anchors[0]], predicted[anchors[:2]] = 4.0, (2.0, 5.0)
        truth[anchors[1]], predicted[anchors[2]] = -1.0, -5.0
        yield predicted, truth, sorted(anchors.tolist()), k, calls


def _two_places(numbers: Floats, rng: np.random.Generator) -> Floats:
    """Rounded, so that they are quickly read, and no two of them equal."""
    found = numbers.round(2)
    while len(set(found.tolist())) < len(found):
        found = (numbers + 0.1 * rng.standard_normal(len(numbers))).round(2)
    return found


def _ranked(items: Sequence[int], scores: Floats, k: int) -> list[int]:
    return sorted(items, key=lambda item: -scores[item])[:k]


def _rest(predicted: Floats, anchors: list[int]) -> list[int]:
    return [item for item in np.argsort(-predicted).tolist() if item not in anchors]


def _search(predicted: Floats, truth: Floats, anchors: list[int], k: int, calls: int) -> Found:
    called = sorted([*anchors, *_rest(predicted, anchors)[: calls - len(anchors)]])
    return _ranked(called, truth, k), called


def _as_given(predicted: Floats, truth: Floats, anchors: list[int], k: int, calls: int) -> Found:
    called = sorted({*anchors, *np.argsort(-predicted)[:calls].tolist()})
    return _ranked(called, predicted, k), called


def _over_budget(predicted: Floats, truth: Floats, anchors: list[int], k: int, calls: int) -> Found:
    called = sorted({*anchors, *np.argsort(-predicted)[:calls].tolist()})
    return _ranked(called, truth, k), called


def _rest_over(predicted: Floats, truth: Floats, anchors: list[int], k: int, calls: int) -> Found:
    called = sorted([*anchors, *_rest(predicted, anchors)[:calls]])
    return _ranked(called, truth, k), called


def _called_twice(
    predicted: Floats, truth: Floats, anchors: list[int], k: int, calls: int
) -> Found:
    first = np.argsort(-predicted)[: calls - len(anchors)].tolist()
    called = sorted({*anchors, *first})
    return _ranked(called, truth, k), called


def _by_prediction(
    predicted: Floats, truth: Floats, anchors: list[int], k: int, calls: int
) -> Found:
    called = _search(predicted, truth, anchors, k, calls)[1]
    return _ranked(called, predicted, k), called


def _without_anchors(
    predicted: Floats, truth: Floats, anchors: list[int], k: int, calls: int
) -> Found:
    called = _search(predicted, truth, anchors, k, calls)[1]
    return _ranked([item for item in called if item not in anchors], truth, k), called


EXERCISES = (
    Exercise(
        "the rank of the error",
        solution=_rank_of_error,
        inputs=_shapes,
        exact=True,
        mistakes=(
            _rank_mistake(
                "the larger number counts",
                lambda rho, r, c: max(0, rho - max(r, c)),
                "the rank of CW⁺R is limited by both numbers of anchors.",
            ),
            _rank_mistake(
                "rows and columns both take away",
                lambda rho, r, c: max(0, rho - r - c),
                "a row and a column together take away one rank, not two.",
            ),
            _rank_mistake(
                "anchor items alone",
                lambda rho, r, c: max(0, rho - c),
                "with fewer anchor queries than anchor items their number decides.",
            ),
            _rank_mistake(
                "anchor queries alone",
                lambda rho, r, c: max(0, rho - r),
                "with fewer anchor items than anchor queries their number decides.",
            ),
            _rank_mistake(
                "below zero",
                lambda rho, r, c: rho - min(r, c),
                "a rank is never negative: with enough anchors nothing is left.",
            ),
            _rank_mistake(
                "all of it",
                lambda rho, r, c: rho if min(r, c) < rho else 0,
                "anchors that are too few still take away a part.",
            ),
            _rank_mistake(
                "the rank of the approximation",
                lambda rho, r, c: min(rho, r, c),
                "this is the rank of CW⁺R; asked for is that of what is left.",
            ),
        ),
    ),
    Exercise(
        "one more anchor",
        solution=_one_more,
        inputs=_errors,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "not divided",
                _undivided,
                "is the entry (i, j) of your result 0? Divide by E_ij.",
            ),
            Mistake(
                "divided by lengths",
                _normalised,
                "is the entry (i, j) of your result 0? It is no projection; divide by E_ij.",
            ),
            Mistake(
                "the factors exchanged",
                _transposed,
                "row i of the result must be 0: entry (p, k) of the product is E_pj E_ik.",
            ),
            Mistake("added", _added, "the product is taken away from E."),
            Mistake(
                "row and column set to 0",
                _blanked,
                "the new anchors are reproduced, but the other predictions change, too.",
            ),
        ),
    ),
    Exercise(
        "how many anchor items",
        solution=_best_size,
        inputs=_sizes,
        exact=True,
        mistakes=(
            Mistake(
                "the least rest",
                lambda sizes, tau2, r: _least(sizes, tau2),
                "τ² is what remains if the weights are known; with many anchor items they are not.",
            ),
            Mistake(
                "the least rest below r",
                _below_r,
                "τ² remains even if the weights are known; multiply it by what estimating costs.",
            ),
            Mistake(
                "the error on the examples",
                _by_examples,
                "that is the error on the examples, the anchor queries; new ones have that of (4).",
                variants=(_by_examples_below,),
            ),
            Mistake(
                "beyond r",
                _unclipped,
                "(4) holds for r ≥ c + 2 only; beyond, it gives negative squares.",
            ),
            Mistake(
                "the fewest",
                lambda sizes, tau2, r: min(sizes),
                "few anchor items leave a large rest τ².",
            ),
        ),
    ),
    Exercise(
        "two anchors that fail",
        solution=lambda: _FAILS,
        judge=_judge_anchors,
        mistakes=(
            Mistake(
                "rank 1",
                lambda: (np.outer([1, 2, 3, 4], [1, 1, 2, 3]).tolist(), [0, 1], [0, 1]),
                "in a matrix of rank 1 a single anchor is enough; add a second product.",
            ),
            Mistake(
                "an invertible block",
                lambda: (_FAILS[0], [0, 1], [0, 2]),
                "W is invertible here; choose the anchors such that W has rank 1.",
            ),
            Mistake(
                "the example of the text",
                lambda: (
                    [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0], [1, 1, 0, 1]],
                    [0, 1],
                    [0, 1],
                ),
                "no entry may be 0; the example's idea works without zeros, too.",
            ),
            Mistake(
                "rank 3",
                lambda: (
                    [[1, 1, 2, 3], [1, 1, 3, 5], [1, 1, 4, 7], [2, 3, 1, -1]],
                    [0, 1],
                    [0, 1],
                ),
                "two anchors cannot be enough for rank 3; the sentence speaks of rank 2.",
            ),
            Mistake(
                "one anchor",
                lambda: (_FAILS[0], [0], [0]),
                "take two rows and two columns.",
            ),
        ),
    ),
    Exercise(
        "queries that shift their scores",
        solution=_predict_shifted,
        inputs=_shifted,
        keeps_inputs=True,
        rtol=1e-7,
        mistakes=(
            Mistake(
                "as if there were no shifts",
                _plain,
                "add 100 to a row of R: your prediction changes.",
            ),
            Mistake(
                "an intercept",
                _intercept,
                "an intercept is one number for all queries; here each has its own.",
            ),
            Mistake(
                "the mean of all items",
                _all_items,
                "of the new query you know the anchors' scores only: take the same mean in R.",
            ),
            Mistake(
                "not added again",
                _not_returned,
                "add 100 to x: the predictions must be larger by 100.",
            ),
            Mistake(
                "the new query alone",
                _new_query_only,
                "the rows of R have shifts of their own.",
            ),
        ),
    ),
    Exercise(
        "the search, mended",
        solution=_search,
        inputs=_searches,
        exact=True,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "as it was given",
                _as_given,
                "count the calls; and what has been called is ranked by its true score.",
            ),
            Mistake(
                "over the budget",
                _over_budget,
                "the anchors are part of the budget.",
                variants=(_rest_over,),
            ),
            Mistake(
                "anchors chosen again",
                _called_twice,
                "an anchor among the first is known already: the call is free for another item.",
            ),
            Mistake(
                "ranked by predictions",
                _by_prediction,
                "what has been called is ranked by its true score.",
            ),
            Mistake(
                "anchors not ranked",
                _without_anchors,
                "an anchor may be among the best, and its score is known.",
            ),
        ),
    ),
)
