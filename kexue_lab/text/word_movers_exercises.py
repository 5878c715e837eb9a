"""What the exercises of text/word_movers check."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import ot
import sympy as sp
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
Prices = tuple[Array, Array]

_ALLOWED, _EARNED, _SAME = 1e-9, 1e-8, 1e-9


# --- what the distances do not see


def _in_order(got: Any) -> list[list[Any]]:
    wmd, wrd = got
    return [sorted(wmd), sorted(wrd)]


# --- a plan with its certificate


def _problems(rng: np.random.Generator) -> Inputs:
    for m, n in ((2, 3), (4, 4), (5, 2), (3, 6), (6, 5)):
        p, q = rng.dirichlet(np.full(m, 3.0)), rng.dirichlet(np.full(n, 3.0))
        yield p, q, rng.uniform(0.2, 1, (m, n))


def _prices(p: Array, q: Array, cost: Array) -> Prices:
    """Prices that equal the cost on each arrow of the best plan."""
    sources, targets = np.nonzero(ot.emd(p, q, cost) > 0)
    equations = np.hstack([np.eye(len(p))[sources], np.eye(len(q))[targets]])
    solved = np.linalg.lstsq(equations, cost[sources, targets], rcond=None)[0]
    prices = np.asarray(solved, dtype=np.float64)
    return prices[: len(p)], prices[len(p) :]


def _row_minima(p: Array, q: Array, cost: Array) -> Prices:
    return cost.min(1), np.zeros(len(q))


def _column_minima(p: Array, q: Array, cost: Array) -> Prices:
    return np.zeros(len(p)), cost.min(0)


def _minima_of_the_rest(p: Array, q: Array, cost: Array) -> Prices:
    """Row minima, and what is then left for the columns: allowed, but seldom the best."""
    f = cost.min(1)
    return f, (cost - f[:, None]).min(0)


def _one_sweep(p: Array, q: Array, cost: Array) -> Prices:
    """All f_i are 0, and g_j is the cost of the last arrow of its column."""
    g = np.zeros(len(q))
    for i, j in np.argwhere(ot.emd(p, q, cost) > 0):
        g[j] = cost[i, j]
    return np.zeros(len(p)), g


def _first_arrows(p: Array, q: Array, cost: Array) -> Prices:
    return np.zeros(len(p)), cost[(ot.emd(p, q, cost) > 0).argmax(0), np.arange(len(q))]


def _prices_of_all_pairs(p: Array, q: Array, cost: Array) -> Prices:
    """Prices that come near the cost of every pair, arrow or not."""
    return cost.mean(1) - cost.mean() / 2, cost.mean(0) - cost.mean() / 2


def _judge_prices(got: Any, p: Array, q: Array, cost: Array) -> str | None:
    f, g = (np.asarray(side, dtype=float) for side in got)
    if f.shape != p.shape or g.shape != q.shape:
        return f"f and g need the shapes {p.shape} and {q.shape}, got {f.shape} and {g.shape}"
    excess = (f[:, None] + g - cost).max()
    if excess > _ALLOWED:
        return f"some f_i + g_j exceeds the cost D_ij by {excess:.3g}"
    earned, least = p @ f + q @ g, ot.emd2(p, q, cost)
    if earned < least - _EARNED:
        return (
            f"the prices earn {earned:.6f}, the best plan costs {least:.6f}: the two are equal "
            "exactly when f_i + g_j = D_ij on each arrow of the plan"
        )
    return None


# --- texts that the relaxed bound cannot tell apart


def _sides(x: Array, y: Array) -> tuple[float, float]:
    D = cdist(x, y)
    return float(D.min(1).mean()), float(D.min(0).mean())


def _distance(x: Array, y: Array) -> float:
    return float(ot.emd2(ot.unif(len(x)), ot.unif(len(y)), cdist(x, y)))


def _judge_texts(got: Any) -> str | None:
    x, y = (np.asarray(text, dtype=float) for text in got)
    for name, text in (("x", x), ("y", y)):
        if text.ndim != 2 or text.shape[1] != 2 or not 1 <= len(text) <= 50:
            return f"{name} needs 1 to 50 points of the plane, got the shape {text.shape}"
    rows, columns = _sides(x, y)
    if max(rows, columns) > _SAME:
        return f"the two sides of the relaxed bound are {rows:.4g} and {columns:.4g}, not both 0"
    distance = _distance(x, y)
    if distance < _SAME:
        return "the relaxed bound is 0, but so is the distance: the order of words does not count"
    if distance < 1:
        return f"the relaxed bound is 0, but the distance is {distance:.4g}, less than 1"
    return None


# --- the gradient of the relaxed bound


def _texts(rng: np.random.Generator) -> Inputs:
    for m, n, d in ((2, 3, 2), (4, 7, 3), (5, 3, 4)):
        x, y = rng.normal(size=(m, d)), rng.normal(size=(n, d))
        # One way round the rows decide, the other way the columns.
        yield x, y
        yield y, x


def _pulls(x: Array, y: Array) -> tuple[Array, Array]:
    """Unit vectors from y_j to x_i, shape (m, n, d), and the distances."""
    gaps = x[:, None] - y
    D = np.linalg.norm(gaps, axis=-1)
    return gaps / D[..., None], D


def _row_gradient(x: Array, y: Array) -> Array:
    units, D = _pulls(x, y)
    nearest = D.argmin(1)
    return np.asarray(units[np.arange(len(x)), nearest] / len(x))


def _column_gradient(x: Array, y: Array) -> Array:
    units, D = _pulls(x, y)
    gradient = np.zeros_like(x)
    np.add.at(gradient, D.argmin(0), units[D.argmin(0), np.arange(len(y))] / len(y))
    return gradient


def _one_partner(x: Array, y: Array, *, first: bool = False) -> Array:
    """The column side's pulls overwritten where a word is nearest to several partners."""
    rows, columns = _sides(x, y)
    if rows > columns:
        return _row_gradient(x, y)
    units, D = _pulls(x, y)
    gradient = np.zeros_like(x)
    for j in reversed(range(len(y))) if first else range(len(y)):
        gradient[D[:, j].argmin()] = units[D[:, j].argmin(), j] / len(y)
    return gradient


def _relaxed_gradient(x: Array, y: Array) -> Array:
    rows, columns = _sides(x, y)
    return _row_gradient(x, y) if rows > columns else _column_gradient(x, y)


def _smaller_side(x: Array, y: Array) -> Array:
    rows, columns = _sides(x, y)
    return _row_gradient(x, y) if rows < columns else _column_gradient(x, y)


def _exact_gradient(x: Array, y: Array) -> Array:
    units, D = _pulls(x, y)
    plan = ot.emd(ot.unif(len(x)), ot.unif(len(y)), D)
    return np.asarray((plan[..., None] * units).sum(1))


def _without_masses(x: Array, y: Array) -> Array:
    rows, columns = _sides(x, y)
    return _relaxed_gradient(x, y) * (len(x) if rows > columns else len(y))


# --- a repaired distance


def _texts_and_powers(rng: np.random.Generator) -> Inputs:
    for m, n, d, a in ((2, 4, 3, 0.5), (4, 3, 2, 2.0), (5, 6, 4, 1.5)):
        yield rng.normal(size=(m, d)), rng.normal(size=(n, d)), a


def _power_distance(
    x: Array,
    y: Array,
    a: float,
    *,
    as_factor: bool = False,
    mean: bool = False,
    transposed: bool = False,
) -> float:
    """The distance with masses ‖x‖^a, and the three faults of the code to be repaired."""
    power = 1.0 if as_factor else a
    p, q = (np.linalg.norm(text, axis=1) ** power for text in (x, y))
    u, v = (text / np.linalg.norm(text, axis=1, keepdims=True) for text in (x, y))
    squares = (u[:, None] - v) ** 2
    D = (squares.mean(-1) if mean else squares.sum(-1)) / 2
    if transposed:
        D = D.T.reshape(D.shape)
    return float(ot.emd2(p / p.sum(), q / q.sum(), D))


def _with_faults(**faults: bool) -> Any:
    return lambda x, y, a: _power_distance(x, y, a, **faults)


# --- two words against two, blurred


def _symbols(_rng: np.random.Generator) -> Inputs:
    Delta, epsilon = sp.Symbol("Delta", real=True), sp.Symbol("epsilon", positive=True)
    yield Delta, epsilon
    yield sp.Integer(-3), epsilon


def _blurred(Delta: sp.Expr, epsilon: sp.Expr) -> sp.Expr:
    return 1 / (2 * (1 + sp.exp(Delta / (2 * epsilon))))


EXERCISES = (
    Exercise(
        "what the distances do not see",
        solution=lambda: ([1, 2, 3, 4], [2, 3, 4, 5, 6]),
        observe=_in_order,
        exact=True,
        mistakes=(
            Mistake(
                "WRD after a translation",
                lambda: [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]],
                "add a long vector to all words: then they all point the same way.",
                variants=(lambda: [[1, 2, 3, 4], [1, 2, 3, 4]],),
            ),
            Mistake(
                "a repeated text weighs twice",
                lambda: [[1, 2, 3], [2, 3, 5, 6]],
                "masses are shares of the text: said twice, each of the 2m words has half as much.",
                variants=(
                    lambda: [[1, 2, 3], [2, 3, 4, 5, 6]],
                    lambda: [[1, 2, 3, 4], [2, 3, 5, 6]],
                ),
            ),
            Mistake(
                "WMD after a split",
                lambda: [[1, 2, 3, 4, 6], [2, 3, 4, 5, 6]],
                "for WMD the two parts are two new words, at other places, and the text has one "
                "word more.",
            ),
            Mistake(
                "the scale of a text matters to WRD",
                lambda: [[1, 2, 3, 4], [2, 3, 4, 6]],
                "neither the directions nor the shares of the norms change.",
            ),
            Mistake(
                "a split matters to WRD",
                lambda: [[1, 2, 3, 4], [2, 3, 4, 5]],
                "the two parts point the same way and share the mass of the whole.",
                variants=(lambda: [[1, 2, 3, 4], [2, 3, 4]],),
            ),
            Mistake(
                "WMD of a text at another scale",
                lambda: [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]],
                "only text 1 is scaled: its words move away from those of text 2.",
            ),
            Mistake(
                "the two exchanged",
                lambda: [[2, 3, 4, 5, 6], [1, 2, 3, 4]],
                "the first list is for WMD, the second for WRD.",
            ),
        ),
    ),
    Exercise(
        "prices that prove a plan",
        solution=_prices,
        inputs=_problems,
        judge=_judge_prices,
        mistakes=(
            Mistake(
                "no prices",
                lambda p, q, cost: (np.zeros(len(p)), np.zeros(len(q))),
                "prices of 0 are allowed, but they prove no more than W ≥ 0.",
            ),
            Mistake(
                "the minima of the rows",
                _row_minima,
                "that is one side of the relaxed bound: allowed prices, but seldom the best.",
            ),
            Mistake(
                "the minima of the columns",
                _column_minima,
                "that is one side of the relaxed bound: allowed prices, but seldom the best.",
            ),
            Mistake(
                "the minima of the rows, then of the rest",
                _minima_of_the_rest,
                "allowed prices, but on some arrows of the best plan they stay below the cost: "
                "begin with the arrows.",
                variants=(lambda p, q, cost: _minima_of_the_rest(q, p, cost.T)[::-1],),
            ),
            Mistake(
                "all f_i are 0",
                _one_sweep,
                "only f_1 is free: walk from word to word along the arrows, and let each arrow "
                "give the next price.",
                variants=(_first_arrows,),
            ),
            Mistake(
                "both minima",
                lambda p, q, cost: (cost.min(1), cost.min(0)),
                "each side alone is allowed, both together charge too much.",
            ),
            Mistake(
                "near the costs of all pairs",
                _prices_of_all_pairs,
                "prices must equal the cost where the best plan has an arrow, and may stay below "
                "it elsewhere.",
            ),
            Mistake(
                "the other sign",
                lambda p, q, cost: tuple(-side for side in _prices(p, q, cost)),
                "the sender pays f_i + g_j, which must come up to D_ij on the arrows.",
            ),
            Mistake(
                "half of each price",
                lambda p, q, cost: tuple(side / 2 for side in _prices(p, q, cost)),
                "on an arrow f_i and g_j together make the whole cost.",
            ),
        ),
    ),
    Exercise(
        "texts that the relaxed bound cannot tell apart",
        solution=lambda: (
            [[0.0, 0.0], [0.0, 0.0], [6.0, 0.0]],
            [[0.0, 0.0], [6.0, 0.0], [6.0, 0.0]],
        ),
        judge=_judge_texts,
        mistakes=(
            Mistake(
                "the same text twice",
                lambda: ([[0.0, 0.0], [6.0, 0.0]], [[0.0, 0.0], [6.0, 0.0]]),
                "the same words with the same masses: their distance is 0.",
                variants=(
                    lambda: ([[0.0, 0.0], [6.0, 0.0]], [[6.0, 0.0], [0.0, 0.0]]),
                    lambda: ([[0.0, 0.0], [6.0, 0.0]], 2 * [[0.0, 0.0], [6.0, 0.0]]),
                ),
            ),
            Mistake(
                "one text within the other",
                lambda: ([[0.0, 0.0]], [[0.0, 0.0], [6.0, 0.0]]),
                "one side is 0 then, but the words that are missing make the other side positive: "
                "each word of either text must occur in the other.",
            ),
            Mistake(
                "nearly the same words",
                lambda: ([[0.0, 0.0], [6.0, 0.0]], [[0.1, 0.0], [6.1, 0.0]]),
                "each word of either text must occur in the other, exactly.",
            ),
            Mistake(
                "words too near to each other",
                lambda: (
                    [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]],
                    [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]],
                ),
                "the right idea: the same words, said more or less often. Put them further apart.",
            ),
        ),
    ),
    Exercise(
        "the gradient of the relaxed bound",
        solution=_relaxed_gradient,
        inputs=_texts,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "the rows only",
                _row_gradient,
                "the bound is the larger of two sides: see which of them it is.",
            ),
            Mistake(
                "the columns only",
                _column_gradient,
                "the bound is the larger of two sides: see which of them it is.",
            ),
            Mistake(
                "the smaller side",
                _smaller_side,
                "the bound is the larger of the two sides; this is the gradient of the other.",
            ),
            Mistake(
                "the gradient of the distance",
                _exact_gradient,
                "this is the gradient of WMD. In the relaxed bound each word goes to the nearest "
                "one, whole.",
            ),
            Mistake(
                "without masses",
                _without_masses,
                "each word of x has the mass 1/m, each word of y 1/n.",
            ),
            Mistake(
                "one partner for each word",
                _one_partner,
                "a word of x can be nearest to several words of y: their pulls add up.",
                variants=(lambda x, y: _one_partner(x, y, first=True),),
            ),
            Mistake(
                "the other way",
                lambda x, y: -_relaxed_gradient(x, y),
                "the bound grows when x_i moves away from y_j.",
            ),
            Mistake(
                "both sides",
                lambda x, y: _row_gradient(x, y) + _column_gradient(x, y),
                "the bound is the larger of two sides, not their sum.",
            ),
        ),
    ),
    Exercise(
        "a distance between uniform masses and WRD, mended",
        solution=_power_distance,
        inputs=_texts_and_powers,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "as it was",
                _with_faults(as_factor=True, mean=True, transposed=True),
                "three faults: one in the masses, one in the costs, one in their order.",
            ),
            Mistake(
                "the power as a factor",
                _with_faults(as_factor=True),
                "a factor that all masses share cancels when they are normalised.",
            ),
            Mistake(
                "the mean of the squares",
                _with_faults(mean=True),
                "1 - cos is half of the sum of the squared differences, not of their mean.",
            ),
            Mistake(
                "the costs in another order",
                _with_faults(transposed=True),
                "the columns of A follow the plan row by row: so must the costs.",
            ),
            Mistake(
                "masses and costs",
                _with_faults(as_factor=True, mean=True),
                "the order is right now. Look at the masses, and at the costs.",
            ),
            Mistake(
                "masses and order",
                _with_faults(as_factor=True, transposed=True),
                "the costs are right now. Look at the masses, and at the order of the costs.",
            ),
            Mistake(
                "costs and order",
                _with_faults(mean=True, transposed=True),
                "the masses are right now. Look at the costs, and at their order.",
            ),
        ),
    ),
    Exercise(
        "two words against two, blurred",
        solution=_blurred,
        inputs=_symbols,
        mistakes=(
            Mistake(
                "the entries counted once",
                lambda Delta, epsilon: 1 / (2 * (1 + sp.exp(Delta / epsilon))),
                "the plan has two entries t and two entries ½ - t: each counts.",
            ),
            Mistake(
                "the other sign",
                lambda Delta, epsilon: 1 / (2 * (1 + sp.exp(-Delta / (2 * epsilon)))),
                "where Δ > 0 it is dear to stay, and t must be small.",
            ),
            Mistake(
                "up to 1",
                lambda Delta, epsilon: 1 / (1 + sp.exp(Delta / (2 * epsilon))),
                "t lies between 0 and ½.",
            ),
            Mistake(
                "a softmax without the ½",
                lambda Delta, epsilon: 1 / (1 + sp.exp(Delta / epsilon)),
                "t lies between 0 and ½, and the plan has two entries t and two entries ½ - t.",
            ),
            Mistake(
                "no entropy",
                lambda Delta, epsilon: sp.Rational(1, 2) * sp.Heaviside(-Delta),
                "that is the limit of a small ε.",
            ),
            Mistake(
                "a large blur",
                lambda Delta, epsilon: sp.Rational(1, 4),
                "that is the limit of a large ε.",
            ),
        ),
    ),
)
