"""Limits and derivatives: what a function tends to, from each side."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mpmath

from kexue_lab.numeric.arithmetic import NoValue, Undefined

Function = Callable[[Any], Any]

_EXPONENTS = (8, 16, 32, 64)
_AGREE = mpmath.mpf("1e-9")


def limit(f: Function, point: Any, sides: Sequence[int], level: int, fine: bool) -> Any:
    """What f(x) tends to as x tends to `point`, which may be infinite.

    Args:
        f: takes and returns a number of mpmath.
        point: a real number or an infinity.
        sides: +1 from above, -1 from below, or both; without effect at infinity.
        level: which of two sequences is used.
        fine: whether f can be computed to as many digits as the precision in force has.

    Raises:
        Undefined: if f tends to nothing or to infinity, or to two values from two sides.
        NoValue: if f cannot be computed or tends too slowly.
    """
    if mpmath.isinf(point):
        direction = 1 if point > 0 else -1
        return _tends_to([f(direction * x) for x in _large(level, fine)], fine)
    values = []
    for side in sides:
        try:
            values.append(_tends_to([f(point + side * h) for h in _small(level, fine)], fine))
        except NoValue:
            if len(sides) == 1:
                raise
    if not values:
        raise NoValue("the limit could not be computed")
    first, last = values[0], values[-1]
    if _close(first, last):
        return first
    # Where one side is not real, a real function ends there: the other side is the limit.
    inside = [value for value in values if abs(mpmath.im(value)) < _AGREE]
    if len(inside) == 1:
        return inside[0]
    raise Undefined(f"the limits from both sides differ: {_short(first)} and {_short(last)}")


def _large(level: int, fine: bool) -> list[Any]:
    # One more and one less in turn: an odd and an even number, other angles of an oscillation.
    if fine:
        return [mpmath.mpf(10) ** e + level + i % 2 for i, e in enumerate(_EXPONENTS)]
    return [mpmath.mpf(2 ** (3 + i) * (1 + level % 2)) for i in range(7)]


def _small(level: int, fine: bool) -> list[Any]:
    scale = mpmath.mpf(10 - 7 * (level % 2)) / 10
    if fine:
        return [scale * mpmath.mpf(10) ** -e for e in _EXPONENTS]
    return [scale / 2 ** (3 + i) for i in range(7)]


def _tends_to(values: list[Any], fine: bool) -> Any:
    if not all(mpmath.isfinite(value) for value in values):
        raise Undefined("no finite limit")
    if _close(values[-1], values[-2]) and (not fine or _close(values[-2], values[-3])):
        return values[-1]
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    if steps[-1] > steps[-2] * 0.9 and steps[-1] > _AGREE * (1 + abs(values[0])):
        raise Undefined(f"no finite limit: {', '.join(_short(v) for v in values[-3:])}")
    best, previous = _extrapolated(values), _extrapolated(values[:-1])
    if abs(best - previous) > 1e-7 * (1 + abs(best)):
        raise NoValue("the limit is approached too slowly")
    return best


def _extrapolated(values: list[Any]) -> Any:
    """The limit of values at steps that are halved each time, by Richardson's table."""
    table = list(values)
    for order in range(1, len(values)):
        factor = mpmath.mpf(2) ** order
        table = [(factor * b - a) / (factor - 1) for a, b in itertools.pairwise(table)]
    return table[0]


def derivative(f: Function, x: Any, order: int, step: Any) -> Any:
    """The derivative of f at x, by difference quotients from both sides.

    Raises:
        Undefined: if they differ.
    """
    above, below = (_one_sided(f, x, order, side * step) for side in (1, -1))
    if abs(above - below) > 1e-5 * (1 + abs(above)):
        raise Undefined("the difference quotients from both sides differ")
    return (above + below) / 2


def _one_sided(f: Function, x: Any, order: int, step: Any) -> Any:
    terms = [(-1) ** (order - k) * math.comb(order, k) * f(x + k * step) for k in range(order + 1)]
    return sum(terms) / step**order


def smooth_derivative(f: Function, x: Any, order: int, step: float) -> Any:
    """The derivative of a smooth f, also at each entry of arrays, without regard to its sides."""
    weights = stencil(order)
    reach = len(weights) // 2
    return sum(w * f(x + (k - reach) * step) for k, w in enumerate(weights)) / step**order


@functools.cache
def stencil(order: int) -> list[float]:
    """Weights at whole distances for which polynomials up to the eleventh power come out right."""
    places = range(-5, 6)
    powers = mpmath.matrix([[mpmath.mpf(place) ** i for place in places] for i in range(11)])
    target = mpmath.matrix([math.factorial(order) if i == order else 0 for i in range(11)])
    with mpmath.workdps(30):
        return [float(weight) for weight in mpmath.lu_solve(powers, target)]


def _close(a: Any, b: Any) -> bool:
    return bool(abs(a - b) <= _AGREE * (1 + abs(a)))


def _short(value: Any) -> str:
    return str(mpmath.nstr(value, 4))
