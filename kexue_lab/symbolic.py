"""Decide whether two symbolic expressions are equal: a proof, a counter-example, or neither."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction

from kexue_lab.limits import TimeLimitExceeded, run_limited

Domain = Mapping[sp.Symbol, tuple[Any, Any]]

_DIGITS = 30
_POINTS = 6
_ATTEMPTS = 18
# Two values count as different only if they differ far beyond the rounding of 30 digits.
_TOLERANCE = sp.Float("1e-12", _DIGITS)


@dataclass(frozen=True)
class Counterexample:
    """A point at which the two sides have different values."""

    point: dict[str, str]
    left: str
    right: str

    def __str__(self) -> str:
        at = ", ".join(f"{name} = {value}" for name, value in self.point.items())
        where = f"at {at}: " if at else ""
        return f"{where}left = {self.left}, right = {self.right}"


@dataclass(frozen=True)
class Verdict:
    """What `decide` found; `difference` is left - right, simplified as far as it went."""

    outcome: Literal["equal", "different", "undecided"]
    difference: Any
    counterexample: Counterexample | None = None
    reason: str = ""


def as_side(value: Any, name: str) -> Any:
    """Turn one side of an equation into a sympy expression or an explicit matrix.

    Accepts expressions, exact numbers, matrices and (nested) lists of expressions.

    Raises:
        TypeError: for relations, booleans, strings and anything sympy cannot read.
        ValueError: for floating-point numbers (a proof needs exact ones), nan and infinities.
    """
    if isinstance(value, (str, bool)):
        raise TypeError(f"{name} must be an expression, got {value!r}")
    try:
        side = sp.Matrix(value) if isinstance(value, (list, tuple)) else sp.sympify(value)
    except (sp.SympifyError, TypeError, ValueError) as error:
        raise TypeError(f"{name} is no symbolic expression: {value!r}") from error
    if isinstance(side, sp.MatrixExpr):
        side = side.as_explicit()
    if isinstance(side, sp.MatrixBase):
        side = sp.ImmutableMatrix(side)
    elif not isinstance(side, sp.Expr):
        raise TypeError(f"{name} must be an expression or a matrix, got {type(value).__name__}")
    if side.has(sp.Float):
        raise ValueError(f"{name} holds a floating-point number; a proof needs Rational: {side}")
    if side.has(sp.nan, sp.zoo) or side in (sp.oo, -sp.oo):
        raise ValueError(f"{name} is not finite: {side}")
    return side


def decide(lhs: Any, rhs: Any, domain: Domain | None = None, seconds: float = 10) -> Verdict:
    """Decide `lhs == rhs` for all values of their symbols and functions.

    First both sides are evaluated (`doit`) and compared to 30 digits at a few random points,
    with random smooth functions in place of generic ones: that finds a counter-example quickly.
    Then a ladder of sympy's simplifiers tries to bring the difference to 0: that is the proof.

    Args:
        lhs: expression or matrix, as returned by `as_side`.
        rhs: the same; matrices of one shape.
        domain: for a symbol, the open interval from which its values are drawn. Needed only
            where its assumptions say too little (0 < p < 1, say).
        seconds: the time limit.
    """
    try:
        return run_limited(lambda: _decide(lhs, rhs, domain or {}), seconds)
    except TimeLimitExceeded:
        return Verdict("undecided", sp.nan, reason=f"no answer within {seconds:g} s")


def _decide(lhs: Any, rhs: Any, domain: Domain) -> Verdict:
    left, right = lhs.doit(), rhs.doit()
    counterexample = find_counterexample(left, right, domain)
    if counterexample is not None:
        return Verdict("different", sp.simplify(left - right), counterexample)
    rest = left - right
    entries = list(rest) if isinstance(rest, sp.MatrixBase) else [rest]
    simplified = [_towards_zero(entry) for entry in entries]
    if all(entry == 0 for entry in simplified):
        return Verdict("equal", sp.S.Zero)
    difference = next(entry for entry in simplified if entry != 0)
    return Verdict("undecided", difference, reason="sympy could not bring the difference to 0")


def _ladder() -> Iterator[Callable[[Any], Any]]:
    """Simplifiers from cheap to dear; each starts again from the raw difference."""
    yield sp.expand
    yield lambda e: sp.cancel(sp.together(e))
    yield lambda e: sp.expand(sp.expand_log(sp.expand(e)))
    yield sp.simplify
    yield lambda e: sp.simplify(sp.expand_log(sp.logcombine(sp.together(e), force=False)))
    yield lambda e: sp.simplify(sp.expand(e.rewrite(sp.exp)))
    yield lambda e: sp.simplify(sp.powsimp(sp.powdenest(sp.expand(e), force=False)))
    yield lambda e: sp.sqrtdenest(sp.radsimp(sp.expand(e)))
    yield lambda e: sp.simplify(sp.gammasimp(e.rewrite(sp.gamma)))
    yield lambda e: sp.simplify(sp.piecewise_fold(e.rewrite(sp.Piecewise)))


def _towards_zero(expression: Any) -> Any:
    best = expression
    for simplifier in _ladder():
        if best == 0:
            break
        candidate = simplifier(expression)
        if candidate == 0 or candidate.count_ops() < best.count_ops():
            best = candidate
    return best


def find_counterexample(left: Any, right: Any, domain: Domain) -> Counterexample | None:
    """Return a point at which the two evaluated sides differ, or None if none was found."""
    rng = random.Random(0)
    agreed = 0
    for _ in range(_ATTEMPTS):
        point = _random_point(left, right, domain, rng)
        values = _values_at(left, right, point)
        if values is None:
            continue
        for a, b in zip(*values, strict=True):
            if abs(a - b) > _TOLERANCE * (1 + abs(a) + abs(b)):
                named = {str(symbol): str(value) for symbol, value in point.items()}
                return Counterexample(named, _short(a), _short(b))
        agreed += 1
        if agreed == _POINTS:
            break
    return None


def _random_point(left: Any, right: Any, domain: Domain, rng: random.Random) -> dict[Any, Any]:
    calls = left.atoms(AppliedUndef) | right.atoms(AppliedUndef)
    symbols = left.free_symbols | right.free_symbols
    point: dict[Any, Any] = {}
    for function in sorted({call.func for call in calls}, key=str):
        point[function] = _random_function([c for c in calls if c.func == function], rng)
    for symbol in sorted(symbols, key=str):
        point[symbol] = _random_value(symbol, domain, rng)
    return point


def _random_value(symbol: Any, domain: Domain, rng: random.Random) -> Any:
    if symbol in domain:
        low, high = (sp.nsimplify(bound) for bound in domain[symbol])
        return low + (high - low) * sp.Rational(rng.randrange(7, 90), 97)
    if symbol.is_integer:
        return sp.Integer(rng.randrange(1, 7))
    value = sp.Rational(rng.randrange(20, 290), 97)
    if symbol.is_positive or symbol.is_nonnegative:
        return value
    if symbol.is_negative or symbol.is_nonpositive or rng.random() < 0.5:
        return -value
    return value


def _random_function(calls: list[Any], rng: random.Random) -> Any:
    """A random cubic with cross terms in place of a generic function; exp of it if positive."""

    def coefficient() -> Any:
        return sp.Rational(rng.choice((-4, -3, -2, -1, 1, 2, 3, 4)), 5)

    arity = max(len(call.args) for call in calls)
    arguments = sp.symbols(f"z1:{arity + 1}", real=True)
    body = coefficient()
    for i, z in enumerate(arguments):
        body += coefficient() * z + coefficient() * z**2 + coefficient() * z**3
        for w in arguments[:i]:
            body += coefficient() * z * w
    if any(call.is_positive for call in calls):
        body = sp.exp(body / 5)
    return sp.Lambda(arguments, body)


def _apply(function: Any, shape: Any) -> Callable[..., Any]:
    """`shape` with as many arguments as the function is called with."""

    def applied(*arguments: Any) -> Any:
        padded = arguments + (sp.S.Zero,) * (len(shape.variables) - len(arguments))
        return shape(*padded)

    return applied


def _values_at(left: Any, right: Any, point: Mapping[Any, Any]) -> tuple[Any, Any] | None:
    """Both sides as lists of 30-digit numbers, or None where they cannot be evaluated."""
    values = []
    for side in (left, right):
        entries = list(side) if isinstance(side, sp.MatrixBase) else [side]
        numbers = [_number(entry, point) for entry in entries]
        if any(number is None for number in numbers):
            return None
        values.append(numbers)
    return values[0], values[1]


def _number(expression: Any, point: Mapping[Any, Any]) -> Any:
    symbols = {key: value for key, value in point.items() if isinstance(key, sp.Symbol)}
    for key, value in point.items():
        if isinstance(key, UndefinedFunction):
            expression = expression.replace(key, _apply(key, value))
    try:
        value = expression.doit().subs(symbols).doit().evalf(_DIGITS)
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, RecursionError):
        return None
    if not value.is_number or value.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
        return None
    return value


def _short(value: Any) -> str:
    return str(sp.N(value, 8))
