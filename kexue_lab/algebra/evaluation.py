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
    smooth = smooth.replace(_is_round, _by_half_angle).replace(_is_left, _mirrored)
    try:
        return smooth.doit(**hints)
    except Exception:  # sympy fails on some integrands; the rest of the ladder may do without
        return smooth


def _is_round(node: Any) -> bool:
    """Whether it is an integral over one period of a quotient in sine and cosine."""
    if not isinstance(node, sp.Integral) or len(node.limits) != 1 or len(node.limits[0]) != 3:
        return False
    x, low, high = node.limits[0]
    waves = {sp.sin(x): sp.Dummy(), sp.cos(x): sp.Dummy()}
    quotient = node.function.xreplace(waves)
    rational = quotient.is_rational_function(*waves.values()) and not quotient.has(x)
    return rational and not quotient.is_polynomial(*waves.values()) and high - low == 2 * sp.pi


def _by_half_angle(node: sp.Integral) -> Any:
    """The same integral over u = tan(x/2): in x the antiderivative would jump."""
    x, u = node.variables[0], sp.Dummy("u", real=True)
    waves = {sp.sin(x): 2 * u / (1 + u**2), sp.cos(x): (1 - u**2) / (1 + u**2)}
    quotient = sp.cancel(node.function.xreplace(waves) * 2 / (1 + u**2))
    return sp.Integral(quotient, (u, -sp.oo, sp.oo))


def _is_left(node: Any) -> bool:
    """Whether it is an integral over negative numbers, where sympy mistakes roots of squares."""
    if not isinstance(node, sp.Integral) or len(node.limits) != 1 or len(node.limits[0]) != 3:
        return False
    _, low, high = node.limits[0]
    return low == -sp.oo and bool(high.is_nonpositive)


def _mirrored(node: sp.Integral) -> Any:
    x, _, high = node.limits[0]
    y = sp.Dummy("y", positive=True)
    return sp.Integral(node.function.subs(x, -y), (y, -high, sp.oo))


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
