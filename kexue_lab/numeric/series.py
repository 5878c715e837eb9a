"""Sums over whole numbers, finite and infinite."""

from typing import Any

import mpmath
import numpy as np

from kexue_lab.numeric.approach import smooth_derivative
from kexue_lab.numeric.arithmetic import NoValue, Setting, Undefined, refuse_cancellation
from kexue_lab.numeric.quadrature import Integrand, accelerated, integral
from kexue_lab.numeric.rule import Function, is_finite

_LONGEST = 20_000
_MARGIN = 0.03
# First terms that are added as they are, by level; the rest is extrapolated.
_HEAD = (16, 26, 40, 60)
_TAIL = 24


def total(term: Function, low: Any, high: Any, setting: Setting) -> Any:
    """The sum of `term(k)` for k = low, ..., high; either may be infinite.

    Raises:
        Undefined: if a term does not exist or the series diverges.
        NoValue: if no number can be had; also for a range that ends before it begins.
    """
    low, high = _whole(low), _whole(high)
    if low == -np.inf and high == np.inf:
        return total(term, low, -1, setting) + total(term, 0, high, setting)
    if low == -np.inf:
        return total(lambda k: term(-k), -high, np.inf, setting)
    if high == np.inf:
        return _series(lambda k: term(k + low), setting)
    if high < low - 1:
        raise NoValue("a sum whose range ends before it begins")
    if high - low > _LONGEST:
        raise NoValue("a very long sum")
    return _added(term, low + np.arange(high - low + 1), setting)


def product(factor: Function, low: Any, high: Any, setting: Setting) -> Any:
    """The product of `factor(k)` for k = low, ..., high; errors are those of `total`."""
    low, high = _whole(low), _whole(high)
    if np.isinf(low) or np.isinf(high):
        log = mpmath.log if setting.digits else np.emath.log
        exp = mpmath.exp if setting.digits else np.exp
        apply = np.frompyfunc(log, 1, 1) if setting.digits else log
        return exp(total(lambda k: apply(factor(k)), low, high, setting))
    if high < low - 1 or high - low > _LONGEST:
        raise NoValue("a product whose range is empty or very long")
    return np.prod(_values(factor, low + np.arange(high - low + 1), setting))


def _whole(limit: Any) -> Any:
    value = complex(limit)
    if value.imag or (np.isfinite(value.real) and abs(value.real - round(value.real)) > 1e-9):
        raise NoValue("a sum between limits that are not whole")
    return round(value.real) if np.isfinite(value.real) else value.real


def _values(term: Function, k: Any, setting: Setting) -> Any:
    if not len(k):
        return np.zeros(0)
    values = np.asarray(term(setting.numbers(k)))
    if not is_finite(values).all():
        raise NoValue("a term overflows or does not exist")
    return values


def _added(term: Function, k: Any, setting: Setting) -> Any:
    values = _values(term, k, setting)
    # The smallest first: then a long sum loses no digits.
    if not len(values):
        return 0.0
    sizes = np.abs(values)
    total = values[np.argsort(sizes.astype(float))].sum()
    if not setting.digits:
        refuse_cancellation(total, sizes.sum())
    return total


def _series(term: Function, setting: Setting) -> Any:
    """The sum over k = 0, 1, 2, ..."""
    first = _values(term, np.arange(124), setting)
    near = np.abs(first[100:])
    if near.max() <= 1e-25 * np.abs(first).max():
        return _added(term, np.arange(124), setting)
    far = np.abs(_values(term, 2000 + np.arange(24), setting))
    sign_near = np.array([complex(v).real for v in _values(term, 2000 + np.arange(24), setting)])
    if far.max() <= 1e-25 * np.abs(first).max():
        return _added(term, np.arange(2000), setting)
    decay = float(-np.log(float(far.max()) / float(near.max())) / np.log(20))
    alternating = bool((sign_near[:-1] * sign_near[1:] < 0).all())
    one_sign = bool((sign_near[:-1] * sign_near[1:] > 0).all())
    if decay < _MARGIN or (one_sign and decay < 1 + _MARGIN and not _falls_faster(term, setting)):
        raise Undefined("the series diverges")
    if one_sign and decay < 1 + _MARGIN:
        raise NoValue("a series that converges too slowly")
    if not alternating and not one_sign:
        return _added(term, np.arange(300_000 + 100_000 * setting.level), setting)
    head = _HEAD[setting.level]
    start = _added(term, np.arange(head), setting)
    if one_sign and setting.level > 1:
        return start + _euler_maclaurin(term, head, setting)
    return start + accelerated(list(_values(term, head + np.arange(_TAIL), setting)), setting)


def _falls_faster(term: Function, setting: Setting) -> bool:
    """Whether far terms fall faster than 1/k, by however little."""
    near, far = (abs(_values(term, np.array([k]), setting)[0]) for k in (10**6, 10**8))
    return bool(float(near / far) > 100 * (1 + 1e-5))


def _euler_maclaurin(term: Function, start: int, setting: Setting) -> Any:
    """The sum over k = start, start + 1, ... of a smooth term."""
    area = integral(Integrand(term), setting.numbers(start), setting.numbers(np.inf), setting)

    def derivative(order: int) -> Any:
        return smooth_derivative(lambda x: term(np.array([x]))[0], setting.numbers(start), order, 1)

    first = term(setting.numbers([start]))[0]
    return area + first / 2 - derivative(1) / 12 + derivative(3) / 720 - derivative(5) / 30240
