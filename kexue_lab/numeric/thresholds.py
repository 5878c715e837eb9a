"""Points beyond a threshold: where a pole comes into a range, a case or a regime begins.

Small numbers may all lie on one side of it: the pole at k = 50 is met by no sum up to 12.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from kexue_lab.numeric.points import Domain, Point, admits
from kexue_lab.numeric.walk import REPEATED, kinks_of

_MOST = 4
_TRIED = 60
_DEGREE = 6
_DENOMINATOR = 1000
# Constants below this are exceeded by the small numbers that are tried anyway.
_SMALL = 5
_CASES = (sp.Abs, sp.sign, sp.Heaviside, sp.Max, sp.Min, sp.Piecewise)


def beyond(sides: list[Any], domain: Domain, base: Point) -> Iterator[Point]:
    """Points that differ from `base` in one symbol, whose value is beyond a threshold."""
    numbers = {s: v for s, v in base.items() if isinstance(s, sp.Symbol)}
    found = dict.fromkeys(
        (symbol, value)
        for symbol, value in itertools.islice(_values(sides, numbers), _TRIED)
        if symbol in numbers and admits(symbol, value, domain.get(symbol))
    )
    for symbol, value in itertools.islice(found, _MOST):
        yield {**base, symbol: value}


def _values(sides: list[Any], numbers: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    nodes = [node for side in sides for node in sorted(side.atoms(*REPEATED), key=str)]
    for node in nodes:
        yield from _in_range(node, numbers)
    for node in [*nodes, *(limit for side in sides for limit in side.atoms(sp.Limit))]:
        yield from _beyond_constants(node)
    cases = [side for side in sides if side.has(*_CASES)]
    for side, symbol in itertools.product(cases, numbers):
        for kink in kinks_of(side, symbol):
            for zero in _zeros(kink, symbol, numbers):
                yield from ((symbol, sp.floor(zero) + 1), (symbol, sp.ceiling(zero) - 1))


def _in_range(node: Any, numbers: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Values that bring a kink of the body into the range of the variable."""
    for variable, *ends in node.limits:
        low, high = ends if len(ends) == 2 else (-sp.oo, sp.oo)
        inside = _between(low.subs(numbers), high.subs(numbers), isinstance(node, sp.Integral))
        for kink in kinks_of(node.function, variable):
            for symbol in kink.free_symbols - {variable}:
                for zero in _zeros(kink.subs(variable, inside), symbol, numbers):
                    yield symbol, zero
            for zero in _zeros(kink, variable, numbers):
                for end, step in ((high, 1), (low, -1)):
                    for symbol in end.free_symbols:
                        for value in _zeros(end - sp.floor(zero) - step, symbol, numbers):
                            yield symbol, value


def _between(low: Any, high: Any, continuous: bool) -> Any:
    if not low.is_finite:
        return high - 1 if high.is_finite else sp.S.Zero
    if not high.is_finite:
        return low + 1
    return (low + high) / 2 if continuous else low


def _beyond_constants(node: Any) -> Iterator[tuple[Any, Any]]:
    """A limit, a series or an integral may exist up to a constant of its body, and not above."""
    for constant in sorted(node.atoms(sp.Integer)):
        if abs(constant) >= _SMALL:
            for symbol in sorted(node.free_symbols, key=str):
                yield from ((symbol, constant + 1), (symbol, constant - 1))


def _zeros(g: Any, symbol: Any, numbers: Mapping[Any, Any]) -> list[Any]:
    """The real zeros of a polynomial in the symbol, as simple fractions; none of anything else."""
    fixed = g.xreplace({s: v for s, v in numbers.items() if s != symbol})
    if fixed.free_symbols != {symbol} or not fixed.is_polynomial(symbol):
        return []
    coefficients = sp.Poly(fixed, symbol).all_coeffs()
    if len(coefficients) > _DEGREE + 1 or any(c.atoms(AppliedUndef) for c in coefficients):
        return []
    roots = np.roots([complex(c) for c in coefficients])
    real = [root.real for root in roots if abs(root.imag) < 1e-6]
    return [sp.Rational(root).limit_denominator(_DENOMINATOR) for root in real]
