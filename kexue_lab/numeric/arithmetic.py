"""Two arithmetics with the same operations: doubles and many digits, both on arrays."""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import scipy.special as special
import sympy as sp

# Beyond this many bits of magnitude an exponential is zero or infinite for every purpose here.
_HUGE = 100_000
# Terms so many times larger than their sum leave it fewer than nine digits.
_CANCELLED = 1e6


class NoValue(Exception):
    """No number could be computed that a second setting confirms."""


class Undefined(Exception):
    """There is no value: a pole inside, a missing term, no limit, no derivative."""


@dataclass(frozen=True)
class Setting:
    """How numbers are computed; `level` 0 and 1 are two settings that must agree.

    Args:
        digits: decimal digits; 0 stands for double precision.
        level: which of two settings every rule is to use.
        work: what is left of the work that may be done, shared by all copies.
    """

    digits: int
    level: int
    work: "Work"

    def numbers(self, values: Any) -> Any:
        """Doubles, one or many, as numbers of this arithmetic."""
        if not self.digits:
            return np.asarray(values, dtype=float)[()]
        if np.ndim(values):
            return np.array([mpmath.mpf(float(value)) for value in values], dtype=object)
        return mpmath.mpf(float(values))

    def spend(self, size: int) -> None:
        """Account for one operation on so many numbers, about a unit for each microsecond."""
        self.work.spend(5 * size if self.digits else 3 + size // 100)


class Work:
    """A limit on the work of one value: the same on every machine, as a limit of time is not."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def spend(self, amount: int) -> None:
        """Take some of what is left.

        Raises:
            NoValue: if nothing is left.
        """
        self.left -= amount
        if self.left < 0:
            raise NoValue("too much work")


def constant(number: Any, digits: int) -> Any:
    """A sympy number or constant as a double, or as mpmath's number."""
    if number is sp.I:
        return mpmath.mpc(0, 1) if digits else 1j
    if number is sp.oo or number is sp.S.NegativeInfinity:
        return (mpmath.inf if digits else np.inf) * int(sp.sign(number))
    if not (number.is_Rational or number.is_NumberSymbol or number.is_Float):
        raise NoValue(f"{number} is no number")
    if not digits:
        return _double(number)
    if number.is_Rational:
        return mpmath.mpf(number.p) / number.q
    return mpmath.mpf(number._to_mpmath(mpmath.mp.prec))


@functools.lru_cache(1000)
def _double(number: Any) -> float:
    try:
        return float(number)
    except OverflowError as error:
        raise NoValue("a constant exceeds double precision") from error


def real(value: Any, what: str = "a compared value") -> Any:
    """The value without its imaginary part, which must vanish."""
    if isinstance(value, mpmath.mpc):
        if abs(value.imag) > mpmath.mpf(10) ** (-mpmath.mp.dps // 2) * (1 + abs(value.real)):
            raise NoValue(f"{what} is not real")
        return value.real
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.array([real(entry, what) for entry in value.ravel()], dtype=object)
    if np.iscomplexobj(value):
        if np.any(np.abs(np.imag(value)) > 1e-9 * (1 + np.abs(np.real(value)))):
            raise NoValue(f"{what} is not real")
        return np.real(value)
    return value


def refuse_cancellation(total: Any, size: Any) -> None:
    """Refuse a sum in doubles whose rounding may be seen; `size` is that of its terms.

    Two settings do not show it: what is left of large terms is a multiple of their last bit.

    Raises:
        NoValue: for such a sum.
    """
    if size > _CANCELLED * (1 + abs(total)):
        raise NoValue("large terms cancel")


def function(name: str, digits: int) -> Callable[..., Any] | None:
    """The function of that sympy name on arrays, or None if it is not known."""
    return (_digits_table() if digits else _DOUBLES).get(name)


def power(base: Any, exponent: Any, digits: int) -> Any:
    """Base to the exponent; a negative base with a broken exponent gives a complex number."""
    if digits:
        return _power(base, exponent)
    if np.ndim(exponent) == 0 and np.isreal(exponent) and np.real(exponent) % 1 == 0:
        return np.power(np.asarray(base) * 1.0, float(np.real(exponent)))
    return np.emath.power(base, exponent)


@functools.partial(np.frompyfunc, nin=2, nout=1)
def _power(base: Any, exponent: Any) -> Any:
    if base == 0 and mpmath.re(exponent) < 0:
        raise Undefined("division by zero")
    if base == mpmath.e or not isinstance(base, (mpmath.mpf, mpmath.mpc)):
        return mpmath.mpmathify(base) ** exponent
    return base**exponent


def _exp(z: Any) -> Any:
    z = mpmath.mpmathify(z)
    if mpmath.isinf(z) or (z and mpmath.mag(z) > _HUGE):
        return mpmath.mpf(0) if mpmath.re(z) < 0 else mpmath.inf
    return mpmath.exp(z)


def _log(z: Any) -> Any:
    if z == 0:
        raise Undefined("logarithm of zero")
    return mpmath.log(z)


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: functools.reduce(choose, [real(value) for value in values])


def _sign(z: Any) -> Any:
    return np.where(z == 0, 0, z / np.where(z == 0, 1, np.abs(z)))


def _heaviside(x: Any, at_zero: Any = 0.5) -> Any:
    return np.heaviside(real(x), at_zero)


_DOUBLES: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "log": np.emath.log,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "cot": lambda x: 1 / np.tan(x),
    "sec": lambda x: 1 / np.cos(x),
    "csc": lambda x: 1 / np.sin(x),
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asin": np.emath.arcsin,
    "acos": np.emath.arccos,
    "atan": np.arctan,
    "atan2": lambda y, x: np.arctan2(real(y), real(x)),
    "asinh": np.arcsinh,
    "atanh": np.emath.arctanh,
    "Abs": np.abs,
    "sign": _sign,
    "re": np.real,
    "im": np.imag,
    "conjugate": np.conjugate,
    "arg": np.angle,
    "floor": lambda x: np.floor(real(x)),
    "ceiling": lambda x: np.ceil(real(x)),
    "frac": lambda x: real(x) - np.floor(real(x)),
    "Mod": lambda x, y: np.mod(real(x), real(y)),
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "Heaviside": _heaviside,
    "KroneckerDelta": lambda i, j: np.where(np.abs(i - j) < 1e-12, 1.0, 0.0),
    "erf": special.erf,
    "erfc": special.erfc,
    "gamma": special.gamma,
    "factorial": lambda x: special.gamma(x + 1),
    "loggamma": special.loggamma,
    "erfi": special.erfi,
    "polygamma": lambda n, x: special.polygamma(int(n), real(x)),
    "besselj": lambda n, x: special.jv(real(n), x),
    "binomial": lambda n, k: special.binom(real(n), real(k)),
}


@functools.cache
def _digits_table() -> dict[str, Callable[..., Any]]:
    names = "sin cos tan cot sec csc sinh cosh tanh asin acos atan asinh acosh atanh "
    names += "sign re im arg floor erf erfc erfi gamma loggamma factorial binomial"
    table = {name: np.frompyfunc(getattr(mpmath, name), *_arity(name)) for name in names.split()}
    table |= {
        "exp": np.frompyfunc(_exp, 1, 1),
        "log": np.frompyfunc(_log, 1, 1),
        "Abs": np.frompyfunc(abs, 1, 1),
        "conjugate": np.frompyfunc(mpmath.conj, 1, 1),
        "ceiling": np.frompyfunc(mpmath.ceil, 1, 1),
        "Max": _extreme(np.frompyfunc(max, 2, 1)),
        "Min": _extreme(np.frompyfunc(min, 2, 1)),
        "Heaviside": lambda x, at_zero=0.5: np.frompyfunc(
            lambda v: mpmath.mpf(at_zero if v == 0 else v > 0), 1, 1
        )(real(x)),
    }
    return table


def _arity(name: str) -> tuple[int, int]:
    return (2 if name == "binomial" else 1), 1


def by_sympy(head: Any, arguments: list[Any]) -> Any:
    """A function that the tables lack, by sympy's evaluation at each point's numbers."""

    def one(*numbers: Any) -> Any:
        exact = head(*[sp.sympify(number) for number in numbers])
        result = exact.evalf(mpmath.mp.dps)
        if not result.is_number or not result.as_real_imag()[0].is_Float | result.is_Rational:
            raise NoValue(f"{head} has no number")
        return mpmath.mpmathify(result._to_mpmath(mpmath.mp.prec))

    return np.frompyfunc(one, len(arguments), 1)(*arguments)


RELATIONS: dict[Any, Callable[[Any, Any], Any]] = {
    sp.StrictLessThan: operator.lt,
    sp.LessThan: operator.le,
    sp.StrictGreaterThan: operator.gt,
    sp.GreaterThan: operator.ge,
    sp.Equality: operator.eq,
    sp.Unequality: operator.ne,
}
