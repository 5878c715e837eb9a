"""Simplifiers, from cheap to dear, that may bring a difference to 0."""

from collections.abc import Callable, Iterator
from typing import Any

import sympy as sp

Simplifier = Callable[[Any], Any]


def first_rungs() -> Iterator[Simplifier]:
    """The two that decide nearly everything, and are cheap enough to come before any number."""
    yield sp.expand
    yield lambda e: sp.cancel(sp.together(e))


def further_rungs() -> Iterator[Simplifier]:
    """The others; each starts again from the raw difference."""
    yield lambda e: sp.expand(sp.expand_log(sp.expand(e)))
    yield with_one_index
    yield sp.simplify
    yield lambda e: sp.simplify(sp.expand_func(e))
    yield lambda e: sp.simplify(sp.expand_log(sp.logcombine(sp.together(e), force=False)))
    yield lambda e: sp.simplify(sp.expand(e.rewrite(sp.exp)))
    yield lambda e: sp.simplify(sp.powsimp(sp.powdenest(sp.expand(e), force=False)))
    yield lambda e: sp.sqrtdenest(sp.radsimp(sp.expand(e)))
    yield lambda e: sp.simplify(sp.gammasimp(e.rewrite(sp.gamma)))
    yield lambda e: sp.simplify(sp.piecewise_fold(e.rewrite(sp.Piecewise)))
    yield by_parts
    yield by_slope


def towards_zero(difference: Any, rungs: Iterator[Simplifier]) -> Any:
    """The difference after the first rung that makes it 0; else the shortest form that was seen."""
    best = difference
    for simplifier in rungs:
        if best == 0:
            break
        try:
            candidate = simplifier(difference)
        except Exception:  # simplifiers stumble over each other's output; another one may do
            continue
        if candidate == 0 or candidate.count_ops() < best.count_ops():
            best = candidate
    return best


def by_parts(difference: Any) -> Any:
    """Complex symbols as real and imaginary parts: z times its conjugate is the square of |z|."""
    parts = {
        z: sp.Dummy("u", real=True) + sp.I * sp.Dummy("v", real=True)
        for z in difference.free_symbols
        if z.is_real is None
    }
    if not parts or not difference.has(sp.conjugate, sp.Abs, sp.re, sp.im):
        return difference
    return sp.simplify(sp.expand(difference.xreplace(parts), complex=True))


def by_slope(difference: Any) -> Any:
    """0 for a function of one positive symbol whose derivative is 0 and that is 0 at 1.

    atan(a) + atan(1/a) - pi/2 is one. The caller compares numbers as well: they would show a jump.
    """
    symbols = difference.free_symbols
    if len(symbols) != 1 or not next(iter(symbols)).is_positive:
        return difference
    (a,) = symbols
    constant = sp.simplify(difference.diff(a)) == 0
    return sp.simplify(difference.subs(a, 1)) if constant else difference


def with_one_index(difference: Any) -> Any:
    """Sums as sums from 0 over the same index, term by term: a shift of the index vanishes."""
    index = sp.Dummy("k", integer=True, nonnegative=True)

    def shifted(node: sp.Sum) -> Any:
        if len(node.limits) > 1 or not node.limits[0][1].is_finite:
            return node
        k, low, high = node.limits[0]
        term = sp.expand(node.function.subs(k, index + low))
        return sum(_term_by_term(part, index, high - low) for part in sp.Add.make_args(term))

    if not difference.has(sp.Sum):
        return difference
    return sp.expand(difference.replace(sp.Sum, lambda *args: shifted(sp.Sum(*args))))


def _term_by_term(term: Any, index: sp.Dummy, last: Any) -> Any:
    constant, varying = term.as_independent(index, as_Add=False)
    return constant * sp.Sum(sp.powsimp(varying), (index, 0, last))
