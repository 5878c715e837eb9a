"""What the exercises of text/word_movers check."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.text.word_movers import centroid_lower_bound, emd, word_movers_distance

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
Program = tuple[Array, Array, Array]


def _problems(rng: np.random.Generator) -> Inputs:
    for m, n in ((2, 3), (4, 4), (5, 2), (1, 3), (6, 7)):
        yield rng.dirichlet(np.ones(m)), rng.dirichlet(np.ones(n)), rng.uniform(size=(m, n))


def _directions(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 0.0]), np.array([0.0, 1.0])
    for d in (2, 3, 5, 8):
        yield rng.normal(size=d), rng.normal(size=d)


def _det(n: int, a: float) -> Array:
    i, c = np.arange(n)[:, None], np.arange(3)
    return np.asarray(np.sin(a * i + c) + 0.3 * np.cos(i * c + a))


def _texts(rng: np.random.Generator) -> Inputs:
    yield _det(4, 1.0), _det(6, 0.7)
    for _ in range(5):
        m, n, d = rng.integers(2, 8, 3)
        yield rng.normal(size=(m, d)), rng.normal(size=(n, d))


def _texts_that_may_share_a_word(rng: np.random.Generator) -> Inputs:
    yield from _texts(rng)
    for _ in range(3):
        x, y = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
        y[0] = x[0]
        yield x, y


def _transport_program(p: Array, q: Array, cost: Array) -> Program:
    m, n = cost.shape
    rows, columns = np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))
    return cost.ravel(), np.vstack([rows, columns])[:-1], np.concatenate([p, q])[:-1]


def _all_equalities(p: Array, q: Array, cost: Array) -> Program:
    m, n = cost.shape
    rows, columns = np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))
    return cost.ravel(), np.vstack([rows, columns]), np.concatenate([p, q])


def _exchanged_masses(p: Array, q: Array, cost: Array) -> Program:
    c, equalities, _ = _transport_program(p, q, cost)
    return c, equalities, np.concatenate([q, p])[:-1]


def _rows_only(p: Array, q: Array, cost: Array) -> Program:
    c, equalities, masses = _transport_program(p, q, cost)
    return c, equalities[: len(p)], masses[: len(p)]


def _wrong_order(p: Array, q: Array, cost: Array) -> Program:
    _, equalities, masses = _transport_program(p, q, cost)
    return cost.ravel(order="F"), equalities, masses


def _judge_program(got: Any, p: Array, q: Array, cost: Array) -> str | None:
    c, equalities, masses = (np.asarray(part, dtype=float) for part in got)
    m, n = cost.shape
    if equalities.shape != (m + n - 1, m * n):
        wanted = (m + n - 1, m * n)
        return f"A should have m + n - 1 rows and mn columns, {wanted}, got {equalities.shape}"
    if c.shape != (m * n,) or masses.shape != (m + n - 1,):
        return f"c needs {m * n} entries and b {m + n - 1}, got {c.shape} and {masses.shape}"
    if np.linalg.matrix_rank(equalities) < m + n - 1:
        return "the equalities are not independent"
    solution = linprog(c, A_eq=equalities, b_eq=masses, method="highs")
    if solution.status != 0:
        return f"linprog does not solve your program: {solution.message}"
    exact = emd(p, q, cost).item()
    if abs(solution.fun - exact) > 1e-9:
        return f"the minimum is {exact:.6f}; that of your program is {solution.fun:.6f}"
    return None


def _sides(p: Array, q: Array, cost: Array) -> tuple[float, float]:
    return float(p @ cost.min(1)), float(q @ cost.min(0))


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector, axis=-1, keepdims=True))


def _rotation(a: Array, b: Array) -> float:
    """WRD of two texts of one word."""
    return float(1 - _unit(a) @ _unit(b))


def _detour(a: Array, c: Array) -> tuple[Array, float]:
    b = _unit(a) + _unit(c)
    return b, _rotation(a, c) - _rotation(a, b) - _rotation(b, c)


def _detour_of_roots(a: Array, c: Array) -> tuple[Array, float]:
    b = _unit(a) + _unit(c)
    pairs = ((a, c), (a, b), (b, c))
    whole, first, second = np.sqrt([2 * _rotation(*pair) for pair in pairs])
    return b, float(whole - first - second)


def _negated_detour(a: Array, c: Array) -> tuple[Array, float]:
    b, excess = _detour(a, c)
    return b, -excess


def _opposite_detour(a: Array, c: Array) -> tuple[Array, float]:
    b = -_unit(a) - _unit(c)
    return b, _rotation(a, c) - _rotation(a, b) - _rotation(b, c)


def _no_detour(a: Array, c: Array) -> tuple[Array, float]:
    return a, 0.0


def _judge_detour(got: Any, a: Array, c: Array) -> str | None:
    direction, excess = got
    b, excess = np.asarray(direction, dtype=float), float(excess)
    if b.shape != a.shape:
        return f"b should be a vector of shape {a.shape}, got shape {b.shape}"
    if not np.linalg.norm(b) > 0:
        return "b must not be zero: it has no cosine"
    actual = _rotation(a, c) - _rotation(a, b) - _rotation(b, c)
    if not abs(excess - actual) <= 1e-9:
        return f"WRD(a,c) - WRD(a,b) - WRD(b,c) is {actual:.6f} for your b, you say {excess:.6f}"
    if actual < 1e-9:
        return f"your b does not violate the triangle inequality: the excess is {actual:.6f}"
    return None


def _centroid_bound(x: Array, y: Array) -> float:
    return centroid_lower_bound(x, y, kind="wrd").item()


def _uniform_unit_means(x: Array, y: Array) -> float:
    return float(np.square(_unit(x).mean(0) - _unit(y).mean(0)).sum() / 2)


def _gradient(x: Array, y: Array) -> Array:
    leaf = torch.tensor(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(word_movers_distance(leaf, y), leaf)
    return np.asarray(gradient.numpy())


def _plan(x: Array, y: Array) -> Array:
    return np.asarray(ot.emd(ot.unif(len(x)), ot.unif(len(y)), cdist(x, y)))


def _squared_gradient(x: Array, y: Array) -> Array:
    return np.asarray(2 * (_plan(x, y)[:, :, None] * (x[:, None] - y)).sum(1))


def _undefined_gradient(x: Array, y: Array) -> Array:
    with np.errstate(invalid="ignore"):
        units = _unit(x[:, None] - y)
    return np.asarray((_plan(x, y)[:, :, None] * units).sum(1))


EXERCISES = (
    Exercise(
        "the transport problem as a linear program",
        solution=_transport_program,
        inputs=_problems,
        judge=_judge_program,
        mistakes=(
            Mistake(
                "flattened in the wrong order",
                _wrong_order,
                "the columns of A follow the plan row by row; flatten the costs in the same order.",
            ),
            Mistake(
                "all equalities",
                _all_equalities,
                "one of the m + n equalities follows from the others: drop it.",
            ),
            Mistake(
                "exchanged masses",
                _exchanged_masses,
                "the rows of the plan sum to p, its columns to q: b holds them in this order.",
            ),
            Mistake(
                "rows only",
                _rows_only,
                "the columns of the plan must sum to q as well.",
            ),
        ),
    ),
    Exercise(
        "the relaxed bound",
        solution=lambda p, q, cost: max(_sides(p, q, cost)),
        inputs=_problems,
        mistakes=(
            Mistake(
                "without masses",
                lambda p, q, cost: max(cost.min(1).sum(), cost.min(0).sum()),
                "each word moves only its own mass: weight the minima with p and q.",
            ),
            Mistake(
                "the sum of both sides",
                lambda p, q, cost: sum(_sides(p, q, cost)),
                "each side is a lower bound on its own, their sum is none: take the larger.",
            ),
            Mistake(
                "the smaller side",
                lambda p, q, cost: min(_sides(p, q, cost)),
                "this is a lower bound, but the larger of the two is one as well.",
            ),
        ),
    ),
    Exercise(
        "a detour that is shorter",
        solution=_detour,
        inputs=_directions,
        judge=_judge_detour,
        mistakes=(
            Mistake(
                "square roots",
                _detour_of_roots,
                "√(2 WRD) is a metric and never violates the inequality; use WRD itself.",
            ),
            Mistake(
                "no detour",
                _no_detour,
                "with b = a there is equality; a direction between a and c does better.",
            ),
            Mistake(
                "the wrong way round",
                _negated_detour,
                "the inequality is violated by a positive amount: WRD(a,c) - WRD(a,b) - WRD(b,c).",
            ),
            Mistake(
                "the opposite direction",
                _opposite_detour,
                "this b points away from both; take one between a and c.",
            ),
        ),
    ),
    Exercise(
        "the centroid bound of WRD",
        solution=_centroid_bound,
        inputs=_texts,
        mistakes=(
            Mistake(
                "uniform means",
                _uniform_unit_means,
                "the masses of WRD are the norms: sum the vectors, not their directions.",
            ),
            Mistake(
                "without one half",
                lambda x, y: 2 * _centroid_bound(x, y),
                "1 - cos is half of the squared distance.",
            ),
            Mistake(
                "without the square",
                lambda x, y: float(np.sqrt(2 * _centroid_bound(x, y))),
                "this bounds √(2 WRD); square it and halve it.",
            ),
            Mistake(
                "mean vectors",
                lambda x, y: float(np.square(x.mean(0) - y.mean(0)).sum() / 2),
                "the centroids of WRD lie within the unit ball: divide the sum of the vectors by"
                " the sum of their norms, not by their number.",
            ),
            Mistake(
                "the norm of the sum",
                lambda x, y: _rotation(x.sum(0), y.sum(0)),
                "the masses add up to the sum of the norms, not to the norm of the sum.",
            ),
        ),
    ),
    Exercise(
        "the gradient of WMD",
        solution=_gradient,
        inputs=_texts_that_may_share_a_word,
        mistakes=(
            Mistake(
                "the squared distance",
                _squared_gradient,
                "this is the gradient for the cost ‖x - y‖²; the cost is ‖x - y‖.",
            ),
            Mistake(
                "zero over zero",
                _undefined_gradient,
                "a word that both texts share stays where it is and contributes 0, not 0/0.",
            ),
            Mistake(
                "masses of 1",
                lambda x, y: len(x) * _gradient(x, y),
                "each word of x has the mass 1/m: the plan's rows sum to that.",
            ),
            Mistake(
                "the other way",
                lambda x, y: -_gradient(x, y),
                "the distance grows when x moves away from y: the unit vector is (x - y)/‖x - y‖.",
            ),
        ),
        atol=1e-10,
    ),
)
