"""What sympy makes of a side: `doit`, after splitting what it is known to get wrong."""

import itertools
from collections.abc import Iterator
from typing import Any

import sympy as sp

from kexue_lab.algebra.sums import is_known, known

_ROUNDED = (sp.floor, sp.ceiling, sp.frac)
_KINKED = (sp.Abs, sp.sign, sp.Heaviside, sp.Max, sp.Min, sp.Piecewise, *_ROUNDED)


def evaluated(side: Any, **hints: bool) -> Any:
    """The side with integrals, sums, limits and derivatives worked out as far as sympy can.

    Args:
        side: an expression.
        hints: for `doit`, which methods it may use.
    """
    smooth = side.replace(_is_kinked, _smooth_pieces).replace(is_known, known)
    try:
        return smooth.doit(**hints)
    except Exception:  # sympy fails on some integrands; the rest of the ladder may do without
        return smooth


def _is_kinked(node: Any) -> bool:
    return isinstance(node, sp.Integral) and len(node.limits) == 1 and node.function.has(*_KINKED)


def _smooth_pieces(node: sp.Integral) -> Any:
    """The integral over each piece between kinks; the integral itself if they are not found."""
    x, *ends = node.limits[0]
    if len(ends) != 2 or node.free_symbols:
        return node
    try:
        return sum(_pieces(node.function, x, *ends))
    except (NotImplementedError, ValueError, TypeError):
        return node


def _pieces(f: Any, x: sp.Symbol, low: Any, high: Any) -> Iterator[Any]:
    t = sp.Dummy("t", real=True)
    f = f.rewrite(sp.Piecewise).subs(x, t) if f.has(sp.Max, sp.Min) else f.subs(x, t)
    kinks: set[Any] = set()
    for g in set(_kinks(f)):
        zeros = sp.solveset(g, t, sp.Interval(low, high))
        if not isinstance(zeros, sp.FiniteSet) and zeros is not sp.S.EmptySet:
            raise NotImplementedError(f"the zeros of {g}")
        kinks.update(zeros)
    ends = [low, *sorted(kinks - {low, high}, key=lambda z: z.evalf()), high]
    for left, right in itertools.pairwise(ends):
        middle = _between(left, right)
        yield sp.Integral(_on_one_side(f, t, middle), (t, left, right))


def _kinks(f: Any) -> Iterator[Any]:
    """Expressions at whose zeros f changes its form."""
    for node in f.atoms(sp.Abs, sp.sign, sp.Heaviside):
        yield node.args[0]
    for node in f.atoms(*_ROUNDED):
        yield sp.sin(sp.pi * node.args[0])
    for node in f.atoms(sp.Piecewise):
        for condition in node.atoms(sp.core.relational.Relational):
            yield condition.lhs - condition.rhs


def _between(left: Any, right: Any) -> Any:
    if left == -sp.oo:
        return right - 1 if right.is_finite else sp.S.Zero
    return left + 1 if right == sp.oo else (left + right) / 2


def _on_one_side(f: Any, t: sp.Symbol, middle: Any) -> Any:
    """F in the form that it has around the middle of a piece."""

    def sign(g: Any) -> int:
        return 1 if g.subs(t, middle).evalf() > 0 else -1

    f = f.replace(sp.Piecewise, lambda *cases: _case(cases, t, middle))
    f = f.replace(lambda g: isinstance(g, sp.frac), lambda g: g.rewrite(sp.floor))
    f = f.replace(lambda g: isinstance(g, _ROUNDED), lambda g: g.subs(t, middle))
    f = f.replace(sp.Abs, lambda g: sign(g) * g)
    f = f.replace(sp.Heaviside, lambda g, *_: sp.Integer(sign(g) > 0))
    return f.replace(sp.sign, lambda g: sp.Integer(sign(g)))


def _case(cases: Any, t: sp.Symbol, middle: Any) -> Any:
    return next(part for part, condition in cases if condition.subs(t, middle) == sp.true)
