"""The value of an expression at a point, by walking over its tree; integrals as they stand."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from sympy.core.function import Application

from kexue_lab.numeric import approach, arithmetic, quadrature, series, tensor
from kexue_lab.numeric.arithmetic import NoValue, Setting, Undefined, Work

Point = Mapping[Any, Any]

_DIGITS = 30
# Precision for limits along 10^-64 of functions in which three such powers cancel.
_LIMIT_DIGITS = 220
_WORK = 1_000_000
_ERROR = 1e-8
_BESIDE = 1e-14
# A kink at a smaller value than this may be met by a difference quotient.
_NEAR = 0.01
REPEATED = (sp.Integral, sp.Sum, sp.Product)
UNEVALUATED = (*REPEATED, sp.Limit, sp.Derivative, sp.Subs)


@dataclass(frozen=True)
class Value:
    """A number and how far two settings differ in it."""

    number: Any
    error: Any


def value(expression: Any, point: Point, work: Work | None = None) -> Value:
    """The value at a point, confirmed by a second setting.

    Args:
        expression: with its integrals, sums, limits and derivatives unevaluated.
        point: exact numbers for its free symbols.
        work: what the computation may take, if it shares a limit with others.

    Raises:
        Undefined: if it has no value there.
        NoValue: if none could be confirmed.
    """
    work = work or Work(_WORK)
    reason = "two settings of the computation differ"
    doubles = ((0, 0), (0, 2)) if expression.has(*REPEATED) else ((0, 0),)
    for digits, level in (*doubles, (_DIGITS, 2)):
        settings = [Setting(digits, level + i, work) for i in (0, 1)]
        try:
            first, second = (_number(expression, point, setting) for setting in settings)
        except NoValue as fault:
            reason = str(fault)
            continue
        if abs(first - second) <= _ERROR * (1 + abs(second)):
            return Value(second, abs(first - second))
    raise NoValue(reason)


def plain_value(expression: Any, point: Point, digits: int) -> Any:
    """The value of an expression without anything unevaluated, to so many digits.

    Raises:
        Undefined: if it has no value there.
        NoValue: if it cannot be computed.
    """
    return _number(expression, point, Setting(digits, 0, Work(_WORK)))


def _number(expression: Any, point: Point, setting: Setting) -> Any:
    with mpmath.workdps(max(setting.digits + 4, 15)), np.errstate(all="ignore"):
        # One of two settings takes a point beside: a value that suffers from cancellation shows.
        beside = 1 if setting.digits else 1 + setting.level % 2 * _BESIDE
        numbers = {s: walk(v, {}, setting) * beside for s, v in point.items()}
        number = _guarded(expression, numbers, setting)
        if setting.digits and not isinstance(number, mpmath.mpc):
            number = mpmath.mpmathify(number)
        elif not setting.digits:
            number = mpmath.mpmathify(complex(number))
    if not mpmath.isfinite(number):
        raise NoValue("the value overflows or does not exist")
    return number


def _guarded(expression: Any, env: Point, setting: Setting) -> Any:
    try:
        return walk(expression, env, setting)
    except ZeroDivisionError as error:
        raise Undefined("division by zero") from error
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, RecursionError) as error:
        raise NoValue(f"{type(error).__name__}: {error}") from error


def walk(e: Any, env: Point, setting: Setting) -> Any:
    """The value of `e`, an array if the environment holds arrays."""
    result = _walk(e, env, setting)
    setting.spend(np.size(result))
    return result


def _walk(e: Any, env: Point, setting: Setting) -> Any:
    if e.is_Symbol:
        if e not in env:
            raise NoValue(f"{e} has no value")
        return env[e]
    if not e.args:
        return arithmetic.constant(e, setting.digits)
    rule = _RULES.get(type(e))
    if rule is not None:
        return rule(e, env, setting)
    if not (e.is_Add or e.is_Mul or e.is_Pow or isinstance(e, Application)):
        raise NoValue(f"{type(e).__name__} cannot be computed")
    parts = [walk(part, env, setting) for part in e.args]
    if e.is_Add or e.is_Mul:
        result = functools.reduce(np.add if e.is_Add else np.multiply, parts)
        if e.is_Add and not setting.digits and not np.ndim(result):
            arithmetic.refuse_cancellation(result, max(abs(part) for part in parts))
        return result
    if e.is_Pow:
        base, exponent = parts
        return arithmetic.power(base, exponent, setting.digits)
    if isinstance(e, sp.DiracDelta):
        raise NoValue("an impulse has no values")
    known = arithmetic.function(type(e).__name__, setting.digits)
    if known is not None:
        return known(*parts)
    if not setting.digits:
        raise NoValue(f"{type(e).__name__} has no double precision here")
    setting.spend(100 * max(np.size(part) for part in parts))
    return arithmetic.by_sympy(e.func, parts)


def _one_by_one(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule for numbers, applied at each entry of the arrays in the environment."""

    @functools.wraps(rule)
    def on_arrays(e: Any, env: Point, setting: Setting) -> Any:
        arrays = {s: v for s, v in env.items() if np.ndim(v)}
        if not arrays:
            return rule(e, env, setting)
        rows = zip(*arrays.values(), strict=True)
        results = [rule(e, {**env, **dict(zip(arrays, row, strict=True))}, setting) for row in rows]
        return np.array(results, dtype=object if setting.digits else None)

    return on_arrays


def _piecewise(e: sp.Piecewise, env: Point, setting: Setting) -> Any:
    arrays = {s: v for s, v in env.items() if np.ndim(v) and s in e.free_symbols}
    size = len(next(iter(arrays.values()))) if arrays else 1
    result: Any = np.full(size, np.nan, dtype=object if setting.digits else complex)
    open_places = np.ones(size, dtype=bool)
    for part, condition in e.args:
        here = {**env, **{s: v[open_places] for s, v in arrays.items()}}
        holds = np.broadcast_to(_truth(condition, here, setting), int(open_places.sum()))
        chosen = np.flatnonzero(open_places)[holds.astype(bool)]
        if len(chosen):
            result[chosen] = walk(
                part, {**env, **{s: v[chosen] for s, v in arrays.items()}}, setting
            )
            open_places[chosen] = False
        if not open_places.any():
            break
    if open_places.any():
        raise Undefined("no case of a Piecewise applies")
    if not setting.digits and not np.imag(result).any():
        result = result.real
    return result if arrays else result[0]


def _truth(condition: Any, env: Point, setting: Setting) -> Any:
    if condition in (sp.true, sp.false):
        return np.array(condition == sp.true)
    if isinstance(condition, (sp.And, sp.Or)):
        parts = [_truth(part, env, setting) for part in condition.args]
        return functools.reduce(
            np.logical_and if isinstance(condition, sp.And) else np.logical_or, parts
        )
    if isinstance(condition, sp.Not):
        return np.logical_not(_truth(condition.args[0], env, setting))
    relation = arithmetic.RELATIONS.get(type(condition))
    if relation is None:
        raise NoValue(f"the condition {condition} cannot be computed")
    sides = (arithmetic.real(walk(side, env, setting)) for side in condition.args)
    return np.asarray(relation(*sides), dtype=bool)


@_one_by_one
def _integral(e: sp.Integral, env: Point, setting: Setting) -> Any:
    if any(len(limits) != 3 for limits in e.limits):
        raise NoValue("an indefinite integral has no number")
    if e.has(sp.DiracDelta):
        return _sifted(e, env, setting)
    if len(e.limits) > 1 and setting.level < 2 and _is_smooth(e):
        return tensor.iterated(e, env, setting, lambda part, here: walk(part, here, setting))
    *inner, (variable, *limits) = e.limits
    body = sp.Integral(e.function, *inner) if inner else e.function
    low, high = (walk(limit, env, setting) for limit in limits)
    kinks = [_along(g, variable, env, setting) for g in kinks_of(body, variable)]
    f = _along(body, variable, env, setting)
    integrand = quadrature.Integrand(f, kinks, costly=body.has(*REPEATED))
    return quadrature.integral(integrand, low, high, setting)


def _is_smooth(e: sp.Integral) -> bool:
    """Whether no variable meets a kink or a pole."""
    bodies = [e.function, *(end for limits in e.limits for end in limits[1:])]
    met = (kink for body in bodies for x in e.variables for kink in kinks_of(body, x))
    return not e.function.has(*REPEATED, sp.Limit) and all(kink.is_nonzero for kink in met)


def _sifted(e: sp.Integral, env: Point, setting: Setting) -> Any:
    """The integral of an impulse of a linear function, times another function."""
    variable, low, high = e.limits[0]
    impulse = next(iter(e.function.atoms(sp.DiracDelta)))
    rest = e.function.xreplace({impulse: sp.S.One})
    slope = impulse.args[0].diff(variable)
    simple = len(e.limits) == len(impulse.args) == 1 and e.function == rest * impulse
    if not simple or rest.has(sp.DiracDelta) or slope.has(variable):
        raise NoValue("the impulses cannot be computed")
    place = variable - impulse.args[0] / slope  # the same for each value of the variable
    at = {**env, variable: setting.numbers(0)}
    x, a, low, high = (arithmetic.real(walk(g, at, setting)) for g in (place, slope, low, high))
    if min(abs(x - low), abs(x - high)) < _ERROR:
        raise NoValue("an impulse at an end of the range")
    inside = int(low < x < high) - int(high < x < low)
    return inside * walk(rest, {**env, variable: x}, setting) / abs(a) if inside else 0 * x


def _along(g: Any, variable: sp.Symbol, env: Point, setting: Setting) -> Callable[[Any], Any]:
    """`g` as a function of an array of values of the variable."""
    return lambda x: np.broadcast_to(walk(g, {**env, variable: x}, setting), np.shape(x))


@functools.lru_cache(maxsize=1000)
def kinks_of(e: Any, x: sp.Symbol) -> tuple[Any, ...]:
    """Expressions at whose zeros `e` may have a kink, a jump or a pole in x."""
    return tuple(dict.fromkeys(_kinks(e, x)))


def _kinks(e: Any, x: sp.Symbol) -> Iterator[Any]:
    if x not in e.free_symbols or isinstance(e, (*REPEATED, sp.Limit)):
        return
    for part in e.args:
        yield from _kinks(part, x)
    if isinstance(e, (sp.Abs, sp.sign, sp.Heaviside, sp.arg, sp.log, sp.DiracDelta)):
        yield e.args[0]
    elif isinstance(e, (sp.Max, sp.Min)):
        yield from (a - b for a, b in itertools.combinations(e.args, 2))
    elif type(e) in arithmetic.RELATIONS:
        yield e.lhs - e.rhs
    elif e.is_Pow and not (e.exp.is_integer and e.exp.is_nonnegative):
        yield e.base
    elif isinstance(e, (sp.floor, sp.ceiling, sp.frac)):
        yield sp.sin(sp.pi * e.args[0])
    elif isinstance(e, sp.Mod):
        yield sp.sin(sp.pi * e.args[0] / e.args[1])
    elif isinstance(e, (sp.tan, sp.sec)):
        yield sp.cos(e.args[0])
    elif isinstance(e, (sp.cot, sp.csc)):
        yield sp.sin(e.args[0])
    elif isinstance(e, (sp.asin, sp.acos, sp.acosh, sp.atanh)):
        yield 1 - e.args[0] ** 2
    elif isinstance(e, Application) and not isinstance(e, _SMOOTH):
        yield 1 / e


_SMOOTH = (sp.exp, sp.sin, sp.cos, sp.sinh, sp.cosh, sp.tanh, sp.atan, sp.asinh, sp.erf, sp.erfc)


@_one_by_one
def _series(e: Any, env: Point, setting: Setting) -> Any:
    *inner, (index, low, high) = e.limits
    body = e.func(e.function, *inner) if inner else e.function
    rule = series.total if isinstance(e, sp.Sum) else series.product
    term = _along(body, index, env, setting)
    return rule(term, walk(low, env, setting), walk(high, env, setting), setting)


@_one_by_one
def _limit(e: sp.Limit, env: Point, setting: Setting) -> Any:
    body, variable, target, direction = e.args
    fine = not body.has(*REPEATED)
    sides = _sides(variable, target, direction)
    with _finer(fine, _LIMIT_DIGITS):
        f, exact = _of_number(body, variable, env, setting, fine)
        place = mpmath.mpmathify(walk(target, *exact))
        result = approach.limit(f, place, sides, setting.level, fine)
    return _back(result, setting)


def _sides(variable: sp.Symbol, target: Any, direction: Any) -> tuple[int, ...]:
    """From where a limit is taken: both sides, unless direction or assumptions exclude one."""
    below = (target.is_nonpositive and variable.is_negative) or (
        target.is_zero and variable.is_nonpositive
    )
    if str(direction) == "-" or below:
        return (-1,)
    return (1,) if target.is_zero and variable.is_nonnegative else (1, -1)


def _derivative(e: sp.Derivative, env: Point, setting: Setting) -> Any:
    *inner, (variable, count) = e.variable_count
    body = sp.Derivative(e.expr, *inner) if inner else e.expr
    if not variable.is_Symbol or not count.is_Integer:
        raise NoValue("a derivative that is none by a symbol")
    if variable not in env:
        raise NoValue(f"{variable} has no value")
    repeated = body.has(*REPEATED)
    if repeated or (not setting.digits and _is_smooth_at(body, variable, env, setting)):
        step = (3 + setting.level) / 100 if repeated else (1 + 0.4 * setting.level) / 100
        return _by_stencil(body, variable, int(count), step, env, setting)
    # The step is as small as keeps the quotient as exact as the precision around it.
    exponent = max(10, int(0.6 * mpmath.mp.dps))
    with _finer(True, mpmath.mp.dps + 2 * exponent * int(count)):
        f, (exact_env, _) = _of_number(body, variable, env, setting, True)
        step = mpmath.mpf(1 + setting.level) / mpmath.mpf(10) ** exponent
        result = approach.derivative(f, exact_env[variable], int(count), step)
    return _back(result, setting)


def _is_smooth_at(body: Any, variable: sp.Symbol, env: Point, setting: Setting) -> bool:
    """Whether no kink is near; inside an integral the breakpoints see to that."""
    if any(np.ndim(v) for v in env.values()):
        return True
    return all(abs(walk(kink, env, setting)) > _NEAR for kink in kinks_of(body, variable))


def _by_stencil(
    body: Any, variable: sp.Symbol, order: int, step: float, env: Point, setting: Setting
) -> Any:
    """The derivative by values at whole steps from each place, all computed at once."""
    weights = approach.stencil(order)
    count = len(weights)
    size = max((np.size(v) for v in env.values() if np.ndim(v)), default=1)
    wide = {s: np.repeat(v, count) if np.ndim(v) else v for s, v in env.items()}
    steps = np.tile(step * (np.arange(count) - count // 2), size)
    wide[variable] = np.repeat(np.broadcast_to(env[variable], size), count) + steps
    values = np.broadcast_to(walk(body, wide, setting), size * count).reshape(size, count)
    result = values @ weights / step**order
    return result if any(np.ndim(v) for v in env.values()) else result[0]


def _finer(fine: bool, digits: int) -> Any:
    return mpmath.workdps(max(digits, mpmath.mp.dps) if fine else mpmath.mp.dps)


def _of_number(
    body: Any, variable: sp.Symbol, env: Point, setting: Setting, fine: bool
) -> tuple[Callable[[Any], Any], tuple[Point, Setting]]:
    """`body` as a function of one number of mpmath; and where else to walk in the same way."""
    inside = replace(setting, digits=mpmath.mp.dps) if fine else setting
    fixed = {s: mpmath.mpmathify(_plain(v)) for s, v in env.items()} if fine else env

    def f(x: Any) -> Any:
        number = x if inside.digits else arithmetic.real(complex(x))
        return mpmath.mpmathify(_plain(walk(body, {**fixed, variable: number}, inside)))

    return f, (fixed, inside)


def _plain(number: Any) -> Any:
    """A numpy scalar as Python's own number, which mpmath takes."""
    return complex(number) if isinstance(number, (np.generic, np.ndarray)) else number


def _back(number: Any, setting: Setting) -> Any:
    if setting.digits:
        return number
    return complex(number) if mpmath.im(number) else float(mpmath.re(number))


def _subs(e: sp.Subs, env: Point, setting: Setting) -> Any:
    new = {s: walk(p, env, setting) for s, p in zip(e.variables, e.point, strict=True)}
    return walk(e.expr, {**env, **new}, setting)


_RULES: dict[Any, Callable[..., Any]] = {
    sp.Integral: _integral,
    sp.Sum: _series,
    sp.Product: _series,
    sp.Limit: _limit,
    sp.Derivative: _derivative,
    sp.Subs: _subs,
    sp.Piecewise: _piecewise,
}
