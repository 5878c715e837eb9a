"""What the exercises of attention/synthesizer check."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]

_LARGEST = 5.0
_DEFECT = 0.7


# ---------------------------------------------------------------------------- 1: costs


def _layers(rng: np.random.Generator) -> Inputs:
    yield 768, 12
    yield 60, 2  # the root is whole: equal costs are not more
    yield 64, 8
    for _ in range(4):
        h = int(rng.integers(3, 17))
        yield h * int(rng.integers(5, 60)), h


def _first_length(d: int, h: int) -> int:
    return math.isqrt(2 * d * d // h) + 1


# ---------------------------------------------------------------------------- 2: three factors


def _triples(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 2.0]), np.array([1.0, 10.0, 100.0]), np.array([3.0, 5.0])
    for a, b, c in ((3, 2, 4), (2, 4, 3), (4, 3, 2), (1, 3, 5)):
        yield tuple(rng.normal(size=m).round(2) for m in (a, b, c))


def _by_places(
    p: Array, q: Array, s: Array, place: Callable[[int, int, int, int], tuple[int, int, int]]
) -> Array:
    """The row whose column j is made from three places."""
    a, b, c = len(p), len(q), len(s)
    picked = [place(j, a, b, c) for j in range(a * b * c)]
    return np.array([p[i % a] * q[k % b] * s[m % c] for i, k, m in picked])


def _woven_row(p: Array, q: Array, s: Array) -> Array:
    return _by_places(p, q, s, lambda j, a, b, c: (j // (b * c), j // c, j))


def _places_mistake(
    name: str, hint: str, place: Callable[[int, int, int, int], tuple[int, int, int]]
) -> Mistake:
    return Mistake(name, lambda p, q, s: _by_places(p, q, s, place), hint)


# ---------------------------------------------------------------------------- 3: lossless pairs


def _lengths(rng: np.random.Generator) -> Inputs:
    yield from ((36,), (8,), (24,))
    for n in rng.choice([12, 18, 20, 28, 30, 40, 45, 60, 72, 84, 90], 4, replace=False):
        yield (int(n),)


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(a, n // a) for a in range(1, n + 1) if n % a == 0]


def _lossless(n: int) -> list[tuple[int, int]]:
    return [(a, b) for a, b in _pairs(n) if math.gcd(a, b) == 1]


# ---------------------------------------------------------------------------- 4: dilated, causal


def _kernels(rng: np.random.Generator) -> Inputs:
    yield np.array([0.5, 2.0, 1.2]), 2, 8
    for _ in range(4):
        size, step = int(rng.integers(2, 5)), int(rng.integers(2, 4))
        yield rng.uniform(0.1, 3, size).round(2), step, int(rng.integers(9, 13))


def _table(
    w: Array,
    step: int,
    n: int,
    *,
    logit: Callable[[float], float] = lambda weight: math.log(weight),
    ahead: bool = False,
    elsewhere: float = -math.inf,
) -> Array:
    logits = np.full((n, n), elsewhere)
    for i, m in itertools.product(range(n), range(len(w))):
        j = i + m * step if ahead else i - m * step
        if 0 <= j < n:
            logits[i, j] = logit(float(w[m]))
    return logits


def _round_the_corner(w: Array, step: int, n: int) -> Array:
    logits = np.full((n, n), -math.inf)
    for i, m in itertools.product(range(n), range(len(w))):
        logits[i, (i - m * step) % n] = math.log(w[m])
    return logits


def _weights(logits: Any, *_: Any) -> Array:
    """The softmax of the rows, which is what a table is for."""
    table = np.asarray(logits, dtype=float)
    if table.ndim < 2:
        raise ValueError("a table has rows and columns")
    with np.errstate(invalid="ignore"):
        weights = np.exp(table - table.max(-1, keepdims=True))
        shares: Array = weights / weights.sum(-1, keepdims=True)
    return shares


# ---------------------------------------------------------------------------- 5: two layers


def two_layer_output(first: Any, second: Any, tokens: tuple[float, ...]) -> float:
    """Token 0 after two Dense layers whose logits are x_i c_j, without anything between."""
    x = np.asarray(tokens, dtype=float)
    for c in (first, second):
        logits = np.outer(x, np.asarray(c, dtype=float))
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        x = (weights / weights.sum(-1, keepdims=True)) @ x
    return float(x[0])


def _defect(first: Any, second: Any) -> float:
    """What agreement gives beyond disagreement."""
    return sum(
        y * z * two_layer_output(first, second, (0.0, y, z))
        for y, z in itertools.product((1.0, -1.0), repeat=2)
    )


def _no_sign_of_agreement(answer: Any) -> str | None:
    try:
        first, second = (np.array([float(c) for c in layer]) for layer in answer)
    except (TypeError, ValueError):
        return "return two lists of three numbers"
    if first.shape != (3,) or second.shape != (3,):
        return "return two lists of three numbers"
    if max(np.abs(first).max(), np.abs(second).max()) > _LARGEST:
        return f"no number may be larger than {_LARGEST:g} in size"
    defect = _defect(first, second)
    if abs(defect) > _DEFECT:
        return None
    return f"agreement and disagreement differ by {abs(defect):.4f}, not by more than {_DEFECT:g}"


EXERCISES = (
    Exercise(
        "when a table costs more",
        solution=_first_length,
        inputs=_layers,
        exact=True,
        mistakes=(
            Mistake(
                "heads forgotten",
                lambda d, h: math.isqrt(2 * d * d) + 1,
                "each of the h heads has a table of its own.",
            ),
            Mistake(
                "heads on the wrong side",
                lambda d, h: math.isqrt(2 * d * d * h) + 1,
                "more heads make the tables cost more, so the length must fall with h.",
            ),
            Mistake(
                "both projections of width N",
                lambda d, h: 2 * d,
                "2d is where 2d² = dN; a table has N² numbers per head.",
            ),
            Mistake(
                "one projection",
                lambda d, h: math.isqrt(d * d // h) + 1,
                "the dot product has two matrices, for queries and for keys.",
            ),
            Mistake(
                "rounded down",
                lambda d, h: math.isqrt(2 * d * d // h),
                "at this length the table costs no more yet.",
            ),
            Mistake(
                "rounded up",
                lambda d, h: math.isqrt((2 * d * d - 1) // h) + 1,
                "where both cost the same the table does not cost more.",
            ),
        ),
    ),
    Exercise(
        "three short rows, woven",
        solution=_woven_row,
        inputs=_triples,
        mistakes=(
            _places_mistake(
                "as it stood",
                "p must stay for b·c columns and s change with every column; here p changes with "
                "every column, and s stays for a·b of them.",
                lambda j, a, b, c: (j, j // c, j // (a * b)),
            ),
            _places_mistake(
                "all repeated",
                "this is plain repetition: pairs are missing wherever two lengths share a divisor.",
                lambda j, a, b, c: (j, j, j),
            ),
            _places_mistake(
                "only p mended",
                "p is right; s is the last digit of j, and changes with every column.",
                lambda j, a, b, c: (j // (b * c), j // c, j // (a * b)),
            ),
            _places_mistake(
                "only s mended",
                "s is right; p is the first digit of j: it stays for b·c columns.",
                lambda j, a, b, c: (j, j // c, j),
            ),
            _places_mistake(
                "p by the other lengths",
                "p is the first digit of j: it stays for b·c columns, the product of the lengths "
                "behind it.",
                lambda j, a, b, c: (min(j // (a * b), a - 1), j // c, j),
            ),
            _places_mistake(
                "p after b columns",
                "p stays for b·c columns: q and s run through all their pairs in between.",
                lambda j, a, b, c: (j // b, j // c, j),
            ),
            _places_mistake(
                "p fastest",
                "all triples occur, but in another order: p is to change last.",
                lambda j, a, b, c: (j, j // a, j // (a * b)),
            ),
        ),
    ),
    Exercise(
        "tilings that lose nothing",
        solution=_lossless,
        inputs=_lengths,
        exact=True,
        mistakes=(
            Mistake(
                "all pairs",
                _pairs,
                "with a common divisor of a and b some columns are twins.",
            ),
            Mistake(
                "one factor is 1",
                lambda n: [(1, n), (n, 1)],
                "these two work for every N; others do, too, where N has several prime divisors.",
            ),
            Mistake(
                "the smaller one first",
                lambda n: [(a, b) for a, b in _lossless(n) if a <= b],
                "(a, b) and (b, a) are different layers: list both.",
            ),
            Mistake(
                "without the factor 1",
                lambda n: [(a, b) for a, b in _lossless(n) if min(a, b) > 1],
                "(1, N) and (N, 1) lose nothing either.",
            ),
            Mistake(
                "different factors",
                lambda n: [(a, b) for a, b in _pairs(n) if a != b],
                "to be different is not enough: for N = 36, 2 and 18 share the divisor 2.",
            ),
            Mistake(
                "neither divides the other",
                lambda n: [(a, b) for a, b in _pairs(n) if min(a, b) == 1 or (a % b and b % a)],
                "4 and 6 do not divide each other, and still share the divisor 2.",
            ),
        ),
    ),
    Exercise(
        "a causal kernel with holes",
        solution=_table,
        inputs=_kernels,
        observe=_weights,
        mistakes=(
            Mistake(
                "the future",
                lambda w, step, n: _table(w, step, n, ahead=True),
                "this row looks ahead; causal means j ≤ i.",
            ),
            Mistake(
                "weights as logits",
                lambda w, step, n: _table(w, step, n, logit=lambda weight: weight),
                "the softmax takes the exponential of what stands in the table.",
            ),
            Mistake(
                "0 elsewhere",
                lambda w, step, n: _table(w, step, n, elsewhere=0.0),
                "a logit 0 is a weight e⁰ = 1; which logit is no weight?",
            ),
            Mistake(
                "weights and 0 elsewhere",
                lambda w, step, n: _table(w, step, n, logit=lambda weight: weight, elsewhere=0.0),
                "a table holds logits: the softmax takes the exponential of each, of 0 also.",
            ),
            Mistake(
                "the weights themselves",
                lambda w, step, n: _weights(_table(w, step, n)),
                "these are the weights; what stands in the table is still to pass a softmax.",
            ),
            Mistake(
                "round the corner",
                _round_the_corner,
                "at the start only places that exist: a negative index counts from the end.",
            ),
            Mistake(
                "no holes",
                lambda w, step, n: _table(w, 1, n),
                "the places that are seen lie `step` apart.",
            ),
            Mistake(
                "the kernel turned round",
                lambda w, step, n: _table(w[::-1], step, n),
                "w[0] belongs to the token itself, w[1] to the one `step` before it.",
            ),
        ),
    ),
    Exercise(
        "two Dense layers notice agreement",
        solution=lambda: ([-5.0, 2.0, 5.0], [0.0, -5.0, 5.0]),
        judge=_no_sign_of_agreement,
        mistakes=(
            Mistake(
                "two averages",
                lambda: ([0, 0, 0], [0, 0, 0]),
                "with numbers 0 both layers average, and all is affine.",
            ),
            Mistake(
                "the first layer averages",
                lambda: ([0, 0, 0], [0, 5, -5]),
                "after an average all three tokens are alike, and the second layer has nothing to "
                "choose from.",
            ),
            Mistake(
                "a mirror",
                lambda: ([0, 5, -5], [0, 5, -5]),
                "here the four cases cancel in pairs: give the places numbers that are no mirror "
                "image of each other.",
            ),
            Mistake(
                "the others treated alike",
                lambda: ([0, 5, 5], [0, 5, 5]),
                "some agreement shows; more does if the second layer tells places 1 and 2 apart.",
            ),
            Mistake(
                "small numbers",
                lambda: ([-0.5, 0.2, 0.5], [0, -0.5, 0.5]),
                "the right kind; small numbers make layers nearly average, and nearly affine.",
            ),
            Mistake(
                "large numbers",
                lambda: ([-50, 20, 50], [0, -50, 50]),
                "numbers up to 5 in size are enough.",
            ),
        ),
    ),
)
