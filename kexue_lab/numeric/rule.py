"""The double-exponential rules: integrals of smooth functions whose ends may be singular."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np

from kexue_lab.numeric.arithmetic import NoValue, Setting, refuse_cancellation

Function = Callable[[Any], Any]

# By level: points per unit of t, and the shift of the grid; 0 and 1 check each other, 2 and 3 do.
# Both shifts leave the grid symmetric about t = 0, the middle of a finite range.
_GRIDS = ((12, 0.0), (17, 0.5), (40, 0.0), (57, 0.5))
# How far t runs. At the ends of a finite range the distance to it is 1e-61 of its length; on a
# half-line the distances run from 1e-217 to 1e217, enough for a decay like 1/x^1.1.
_REACH = {False: 4.5, True: 5.75}
# A value of weight times integrand at an end of the grid that says: there is more to come.
_NEGLIGIBLE = 1e-11
# When two grids agree, relative to the integral of |f|; and how often a segment is halved at most.
_ACCURATE = 1e-10
_DEEPEST = 6


class Improper(Exception):
    """The integrand does not fade towards an end of the range."""

    def __init__(self, end: Any, direction: int) -> None:
        super().__init__()
        self.end, self.direction = end, direction


@functools.cache
def _nodes(level: int, infinite: bool, digits: int) -> tuple[Any, Any]:
    """Distances from one end and weights: on (0, oo), or the half of (0, 1) next to that end."""
    per_unit, shift = _GRIDS[level]
    last = np.floor(_REACH[infinite] * per_unit)
    t = (np.arange(-last, last if infinite else 1) + shift) / per_unit
    share = np.where(t == 0, 0.5, 1.0)  # the middle belongs to both halves
    if not infinite:
        t, share = t[t <= 0], share[t <= 0]
    if digits:
        t = np.array([mpmath.mpf(float(value)) for value in t], dtype=object)
        sinh, cosh, exp = (np.frompyfunc(g, 1, 1) for g in (mpmath.sinh, mpmath.cosh, mpmath.exp))
        half_pi = +mpmath.pi / 2
    else:
        sinh, cosh, exp, half_pi = np.sinh, np.cosh, np.exp, np.pi / 2
    inner, slope = half_pi * sinh(t), half_pi * cosh(t) / per_unit
    if infinite:
        return exp(inner), exp(inner) * slope
    x = exp(2 * inner) / (1 + exp(2 * inner))
    return x, 2 * x * (1 - x) * slope * share


def on_segment(
    f: Function, low: Any, high: Any, setting: Setting, depth: int = 0, before: Any = np.inf
) -> Any:
    """The integral over a finite segment inside which f is smooth.

    Where the other grid of the pair gives another value the segment is halved, as long as that
    brings both closer together than they were `before`.

    Raises:
        Improper: if f does not fade towards one of the ends.
    """
    middle = low + (high - low) / 2
    other = replace(setting, level=setting.level ^ 1)
    (value, size), (check, _) = (_with_size(f, low, high, s) for s in (setting, other))
    gap = abs(value - check)
    if not setting.digits:
        refuse_cancellation(value, size)
    hopeless = depth == _DEEPEST or (depth > 2 and gap > before / 2)
    if gap <= _ACCURATE * size or hopeless:
        return value
    halves = ((low, middle), (middle, high))
    return sum(on_segment(f, *half, setting, depth + 1, gap) for half in halves)


def on_grid(f: Function, low: Any, high: Any, setting: Setting) -> Any:
    """The integral over a finite segment by one grid as it is; raises as `on_segment`."""
    return _with_size(f, low, high, setting)[0]


def _with_size(f: Function, low: Any, high: Any, setting: Setting) -> tuple[Any, Any]:
    """The integral, and that of the absolute value."""
    from_low = _from_end(f, low, +1, high - low, setting)
    from_high = _from_end(f, high, -1, high - low, setting)
    return from_low.sum() + from_high.sum(), np.abs(from_low).sum() + np.abs(from_high).sum()


def on_half_line(f: Function, start: Any, direction: int, setting: Setting) -> Any:
    """The integral from `start` to infinity in that direction, as a positive measure.

    Raises:
        Improper: if f fades neither towards the start nor towards infinity.
    """
    distances, weights = _nodes(setting.level, True, setting.digits)
    x = start + direction * distances
    terms = _faded_terms(f, x, weights, x != start, setting)
    _check(terms, 0, Improper(start, direction))
    _check(terms, -1, Improper(direction * np.inf, direction))
    return terms.sum()


def _from_end(f: Function, end: Any, direction: int, length: Any, setting: Setting) -> Any:
    distances, weights = _nodes(setting.level, False, setting.digits)
    x = end + direction * length * distances
    terms = _faded_terms(f, x, weights * length, x != end, setting)
    # Next to an end that is far from 0 no number is nearer than its last bit.
    nearest = 0 if setting.digits else np.finfo(float).eps * abs(end) / length
    _check(terms, 0, Improper(end, direction), max(_NEGLIGIBLE, 100 * nearest))
    return terms


def _faded_terms(f: Function, x: Any, weights: Any, distinct: Any, setting: Setting) -> Any:
    """Weight times f at the nodes, without those at the ends where f overflows or x is the end."""
    x, weights = x[distinct], weights[distinct]
    terms = np.asarray(f(x)) * weights
    finite = np.flatnonzero(is_finite(terms))
    if not len(finite) or len(finite) != finite[-1] - finite[0] + 1:
        raise NoValue("the integrand overflows")
    return terms[finite[0] : finite[-1] + 1]


def _check(terms: Any, end: int, improper: Improper, share: float = _NEGLIGIBLE) -> None:
    if abs(terms[end]) > share * np.abs(terms).max():
        raise improper


def is_finite(values: Any) -> Any:
    """Where an array of doubles or mpmath numbers is finite."""
    values = np.asarray(values)
    if values.dtype == object:
        return np.array([bool(mpmath.isfinite(value)) for value in values.ravel()])
    return np.isfinite(values)
