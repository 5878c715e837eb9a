"""What the exercises of losses/soft_top_k check."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]

_STEP, _FALL, _LARGEST, _MOST = 0.5, 0.1, 10.0, 6
"""By how much a score rises, its p has to fall; how large and how many scores may be."""


# --- all but one


def _scores(rng: np.random.Generator) -> Inputs:
    yield (np.array([3.0, 2.0, 1.0, 4.0]),)
    yield from ((rng.normal(size=n) * 1.5,) for n in (3, 5, 6))


def _all_but_one(x: Array) -> Array:
    n = len(x)
    total = np.zeros(n)
    subsets = [list(S) for S in combinations(range(n), n - 1)]
    weights = softmax([x[S].sum() for S in subsets])
    for S, weight in zip(subsets, weights, strict=True):
        total[S] += weight
    return total


# --- min(1, exp), mended


def _scores_and_k(rng: np.random.Generator) -> Inputs:
    yield np.array([3.0, 2.0, 1.0, 4.0]), 2
    yield np.array([0.3, 0.2, 0.1, 0.0, -0.1]), 3  # no winner is saturated
    yield np.array([4.0, 2.2, 0.0, 0.1, -0.2]), 3  # the second is saturated once the first is
    for n, k in ((5, 3), (6, 2), (7, 5)):
        x = rng.normal(size=n)
        x[rng.integers(n)] += 4  # one winner at least is saturated
        yield x, k


def _capped(x: Array, k: int, m: int | None = None, whole: bool = False) -> Array:
    """`m` saturated winners, or as many as fit; the others sum to k - m, or to the whole k."""
    down = np.sort(x)[::-1]
    threshold = 0.0
    for saturated in range(k) if m is None else (m,):
        threshold = np.log(np.exp(down[saturated:]).sum()) - np.log(k - saturated * (not whole))
        if down[saturated] <= threshold:
            break
    return np.minimum(1, np.exp(x - threshold))


def _mended_once(x: Array, k: int) -> Array:
    return _capped(x, k, min(k - 1, int((_capped(x, k, 0) == 1).sum())))


def _others_rescaled(x: Array, k: int) -> Array:
    p = _capped(x, k, 0)
    taken = p == 1
    return np.where(taken, 1.0, p * (k - taken.sum()) / p[~taken].sum())


def _renormalised(x: Array, k: int) -> Array:
    p = _capped(x, k, 0)
    return np.asarray(p * k / p.sum())


# --- backwards


def _gradients(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 0.6, 0.3, 0.1]), np.array([1.0, 2.0, -1.0, 0.5])
    for n, k in ((5, 3), (6, 2), (7, 4)):
        x = rng.normal(size=n)
        x[rng.integers(n)] += 5
        yield _capped(x, k), rng.normal(size=n)


def _backwards(p: Array, v: Array, *, all_slopes: bool = False, fixed: bool = False) -> Array:
    s = p if all_slopes else np.where(p < 1, p, 0.0)
    mean = 0.0 if fixed else (s @ v) / s.sum()
    return s * (v - mean)


def _mean_of_all(p: Array, v: Array) -> Array:
    return np.asarray(np.where(p < 1, p, 0.0) * (v - (p @ v) / p.sum()))


def _sigmoid_slopes(p: Array, v: Array) -> Array:
    s = p * (1 - p)
    return np.asarray(s * (v - (s @ v) / s.sum()))


def _plain_mean(p: Array, v: Array) -> Array:
    s = np.where(p < 1, p, 0.0)
    return np.asarray(s * (v - v[p < 1].mean()))


# --- the limit of (B)


def _sizes(_: np.random.Generator) -> Inputs:
    yield from ((4, 3), (3, 2), (6, 4), (7, 5), (4, 1))


def _limit_of_b(n: int, k: int) -> Array:
    p = np.zeros(n)
    p[:2] = (k - 0.5, 0.5) if k > 1 else (1, 0)
    return p


def _half_for_the_second(n: int, k: int) -> Array:
    p = np.zeros(n)
    p[:2] = k - 0.5, 0.5
    return p


def _rest_to_the_second(n: int, k: int) -> Array:
    p = np.zeros(n)
    p[:2] = (1.5, k - 1.5) if k > 1 else (1, 0)
    return p


def _ties_resolved(n: int, k: int) -> Array:
    p = np.zeros(n)
    p[:2], p[2:k] = (1.5, 0.5), 1.0
    return p


# --- softmax from Laplace


def _winners(rng: np.random.Generator) -> Inputs:
    yield (0.75,)
    yield from ((float(q),) for q in rng.uniform(0.52, 0.97, 5))


# --- a score rises, its p falls


def _iterated(x: Array, k: int) -> Array:
    shifted, p = x - x.min(), np.zeros(len(x))
    for _ in range(k):
        p = p + softmax((1 - p) * shifted)
    return p


def _judge_fall(got: Any) -> str | None:
    k, scores, i = got
    x = np.asarray(scores, dtype=float)
    if x.ndim != 1 or not 2 <= len(x) <= _MOST or np.abs(x).max() > _LARGEST:
        return f"return 2 to {_MOST} scores between -{_LARGEST:g} and {_LARGEST:g}"
    if int(k) != k or int(i) != i or not 1 <= k < len(x) or not 0 <= i < len(x):
        return f"k must lie between 1 and {len(x) - 1}, and i between 0 and {len(x) - 1}"
    k, i = int(k), int(i)
    before = _iterated(x, k)[i]
    x[i] += _STEP
    after = _iterated(x, k)[i]
    if after < before - _FALL:
        return None
    return f"p_{i} goes from {before:.3f} to {after:.3f}; it must fall by more than {_FALL}"


EXERCISES = (
    Exercise(
        "GradTopK for all but one",
        solution=_all_but_one,
        inputs=_scores,
        mistakes=(
            Mistake(
                "the winner left out most often",
                lambda x: 1 - softmax(x),
                "without i the weight is that of all, divided by w_i: the smallest score is the "
                "likeliest to be left out.",
            ),
            Mistake(
                "softmax, multiplied",
                lambda x: (len(x) - 1) * softmax(x),
                "this has the right sum and may exceed 1; think of the probability of being left "
                "out.",
            ),
            Mistake(
                "who is left out",
                lambda x: softmax(-x),
                "this is the probability of being left out.",
            ),
        ),
    ),
    Exercise(
        "min(1, exp), mended",
        solution=_capped,
        inputs=_scores_and_k,
        mistakes=(
            Mistake(
                "as it stands",
                lambda x, k: _capped(x, k, 0),
                "what is cut off at 1 is missing in the sum: how many scores are saturated, and "
                "what are the others to sum to?",
            ),
            Mistake(
                "renormalised after the cut",
                _renormalised,
                "the sum is right now, but saturated entries exceed 1.",
            ),
            Mistake(
                "the others share all k",
                lambda x, k: _capped(x, k, whole=True),
                "m places are taken: the others are to sum to k - m.",
            ),
            Mistake(
                "mended once",
                _mended_once,
                "with the new threshold somebody else may exceed 1: look again.",
                variants=(_others_rescaled,),
            ),
            Mistake(
                "all winners but one saturated",
                lambda x, k: _capped(x, k, k - 1),
                "try m = 0, 1, … and take the first for which the next score is not above the "
                "threshold.",
            ),
        ),
    ),
    Exercise(
        "the gradient backwards",
        solution=_backwards,
        inputs=_gradients,
        mistakes=(
            Mistake(
                "a constant threshold",
                lambda p, v: _backwards(p, v, fixed=True),
                "the threshold moves with the scores: a weighted mean of v is to be subtracted.",
            ),
            Mistake(
                "a slope for the saturated",
                lambda p, v: _backwards(p, v, all_slopes=True),
                "the slope of min(1, e^z) is e^z below 0, and 0 above: a saturated entry has none.",
            ),
            Mistake(
                "the saturated in the mean",
                _mean_of_all,
                "a saturated entry does not move the threshold either: in the mean, too, its "
                "weight is 0.",
            ),
            Mistake(
                "the sigmoid's slope",
                _sigmoid_slopes,
                "p(1 - p) is the slope of the sigmoid; that of e^z is e^z itself.",
            ),
            Mistake(
                "a mean without weights",
                _plain_mean,
                "the mean of v is weighted with the slopes s.",
            ),
        ),
    ),
    Exercise(
        "where (B) goes",
        solution=_limit_of_b,
        inputs=_sizes,
        mistakes=(
            Mistake(
                "the mask",
                lambda n, k: (np.arange(n) < k) * 1.0,
                "already after two rounds the leader has 1½.",
            ),
            Mistake(
                "one round like the others",
                _half_for_the_second,
                "for k = 1 there is one softmax only: who has what in its limit?",
            ),
            Mistake(
                "the others one by one",
                _ties_resolved,
                "after two rounds the leader's weight is 1 - 1½ = -½, and it is still by far the "
                "largest in size: what is the share of a dominating negative weight?",
            ),
            Mistake(
                "the rest to the runner-up",
                _rest_to_the_second,
                "in the third round the leader's weight is 1 - 1½ = -½, the runner-up's ½: who "
                "gets the whole softmax?",
            ),
            Mistake(
                "the leader takes all",
                lambda n, k: (np.arange(n) == 0) * float(k),
                "in the second round leader and runner-up tie.",
            ),
        ),
    ),
    Exercise(
        "softmax from Laplace",
        solution=lambda q: 1 / (1 + 4 * (1 - q) ** 2),
        inputs=_winners,
        mistakes=(
            Mistake(
                "the same",
                lambda q: q,
                "this holds only as long as no p exceeds ½.",
            ),
            Mistake(
                "the root forgotten",
                lambda q: 1 / (3 - 2 * q),
                "this takes r = 2(1 - q); from q = 1 - √r/2 it is the square of that.",
            ),
            Mistake(
                "the factor 2 forgotten",
                lambda q: 1 / (1 + (1 - q) ** 2),
                "from q = 1 - √r/2 it is √r = 2(1 - q).",
            ),
            Mistake(
                "the loser",
                lambda q: 4 * (1 - q) ** 2 / (1 + 4 * (1 - q) ** 2),
                "this is what softmax gives to all others together.",
            ),
        ),
    ),
    Exercise(
        "a score rises, its p falls",
        solution=lambda: (2, [7.0, 7.0, 0.0], 0),
        judge=_judge_fall,
        mistakes=(
            Mistake(
                "only one place",
                lambda: (1, [8.0, 7.0, 0.0], 0),
                "for k = 1 this is softmax, where p rises with its score.",
            ),
            Mistake(
                "scores close together",
                lambda: (2, [0.5, 0.4, 0.0], 0),
                "for small scores every p is near k/n; spread them out.",
            ),
            Mistake(
                "scores far apart",
                lambda: (2, [10.0, 0.0, -10.0], 0),
                "with large gaps the result is the mask; the leaders must be close to each other "
                "and far above the last.",
            ),
            Mistake(
                "the runner-up",
                lambda: (2, [9.0, 7.0, 0.0], 1),
                "look at the leader: the surer the first round is, the less is left of its score "
                "in the second.",
            ),
        ),
    ),
)
