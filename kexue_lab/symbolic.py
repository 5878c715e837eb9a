"""Decide whether two symbolic expressions are equal: a proof, a counter-example, or neither."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction
from sympy.matrices.expressions.matexpr import MatrixElement

from kexue_lab.limits import TimeLimitExceeded, run_limited

Domain = Mapping[sp.Symbol, tuple[Any, Any]]

_DIGITS = 30
_POINTS = 6
_DRAWS = 60
_READABLE_SECONDS = 2
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
    confirmed: bool = True


def as_side(value: Any, name: str) -> Any:
    """Turn one side of an equation into a sympy expression or matrix, left unevaluated.

    Accepts expressions, exact numbers, matrices and (nested) lists of expressions.

    Raises:
        TypeError: for relations, booleans, strings and anything sympy cannot read.
        ValueError: for floating-point numbers (a proof needs exact ones), nan and infinities, and
            for matrices without a definite shape.
    """
    side = _sympified(value, name)
    if isinstance(side, sp.MatrixExpr) and not all(sp.sympify(n).is_Integer for n in side.shape):
        raise ValueError(f"{name} has the symbolic shape {side.shape}: {side}")
    if isinstance(side, sp.MatrixBase):
        side = sp.ImmutableMatrix(side)
        if not all(isinstance(entry, sp.Expr) for entry in side):
            raise TypeError(f"{name} must hold expressions only: {side}")
    if side.has(sp.Float):
        raise ValueError(f"{name} holds a floating-point number; a proof needs Rational: {side}")
    if side.has(sp.nan, sp.zoo) or side in (sp.oo, -sp.oo):
        raise ValueError(f"{name} is not finite: {side}")
    return side


def _sympified(value: Any, name: str) -> Any:
    if isinstance(value, (list, tuple)):
        rows = [row if isinstance(row, (list, tuple)) else [row] for row in value]
        entries = [[_sympified(entry, name) for entry in row] for row in rows]
        try:
            return sp.Matrix(entries)
        except ValueError as error:
            raise ValueError(f"{name} has rows of different length: {value}") from error
    if isinstance(value, (str, bool)):
        raise TypeError(f"{name} must be an expression, got {value!r}")
    try:
        side = sp.sympify(value)
    except (sp.SympifyError, TypeError, ValueError, AttributeError) as error:
        raise TypeError(f"{name} is no symbolic expression: {value!r}") from error
    if not isinstance(side, (sp.Expr, sp.MatrixBase, sp.MatrixExpr)):
        raise TypeError(f"{name} must be an expression or a matrix, got {type(value).__name__}")
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
        seconds: the time limit, positive.

    Raises:
        ValueError: if `seconds` is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds!r}")
    try:
        verdict = run_limited(lambda: _decide(lhs, rhs, domain or {}), seconds)
    except TimeLimitExceeded:
        return Verdict("undecided", lhs - rhs, reason=f"no answer within {seconds:g} s")
    except Exception as error:  # whatever sympy stumbles over is no answer either
        reason = f"sympy failed with {type(error).__name__}: {error}"
        return Verdict("undecided", lhs - rhs, reason=reason)
    if verdict.outcome == "different":
        verdict = replace(verdict, difference=_readable(verdict.difference))
    return verdict


def _decide(lhs: Any, rhs: Any, domain: Domain) -> Verdict:
    left, right = _evaluated(lhs), _evaluated(rhs)
    counterexample = find_counterexample(left, right, domain)
    rest = left - right
    entries = list(rest) if isinstance(rest, sp.MatrixBase) else [rest]
    if counterexample is not None:
        return Verdict("different", rest, counterexample)
    simplified = [_towards_zero(entry) for entry in entries]
    if all(entry == 0 for entry in simplified):
        return Verdict("equal", sp.S.Zero)
    difference = next(entry for entry in simplified if entry != 0)
    return Verdict("undecided", difference, reason="sympy could not bring the difference to 0")


def _evaluated(side: Any) -> Any:
    """The side worked out, with symbols for the entries of matrix symbols."""
    explicit = {m: m.as_explicit() for m in side.atoms(sp.MatrixSymbol)}
    side = side.subs(explicit)
    with contextlib.suppress(Exception):  # sympy fails on some integrands; the rest may do
        side = side.doit()
    if isinstance(side, sp.MatrixExpr):
        side = side.as_explicit()

    def entry(e: Any) -> Any:
        return sp.Symbol(f"{e.parent}_{e.i}_{e.j}")

    return side.replace(lambda e: isinstance(e, MatrixElement), entry)


def _readable(difference: Any) -> Any:
    """The difference simplified, where that is quickly done."""
    try:
        return run_limited(lambda: sp.simplify(difference), _READABLE_SECONDS)
    except Exception:
        return difference


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
        try:
            candidate = simplifier(expression)
        except Exception:  # simplifiers stumble over each other's output; another one may do
            continue
        if candidate == 0 or candidate.count_ops() < best.count_ops():
            best = candidate
    return best


def find_counterexample(left: Any, right: Any, domain: Domain) -> Counterexample | None:
    """Return a point at which the two evaluated sides differ, or None if none was found."""
    left, right = _functions_for_indices(left), _functions_for_indices(right)
    rng = random.Random(0)
    agreed = 0
    for attempt in range(_ATTEMPTS):
        # All negative, all positive, then mixed: a wrong sign shows where it is not squared away.
        signs = ((-1,), (1,), (-1, 1))[min(attempt, 2)]
        point = _random_point(left, right, domain, rng, signs)
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


def _functions_for_indices(side: Any) -> Any:
    """The side with X[i] as a generic function of its index, X(i)."""
    return side.replace(
        lambda e: isinstance(e, sp.Indexed), lambda e: sp.Function(str(e.base))(*e.indices)
    )


def _random_point(
    left: Any, right: Any, domain: Domain, rng: random.Random, signs: tuple[int, ...]
) -> dict[Any, Any]:
    calls = left.atoms(AppliedUndef) | right.atoms(AppliedUndef)
    symbols = left.free_symbols | right.free_symbols
    point: dict[Any, Any] = {}
    for function in sorted({call.func for call in calls}, key=str):
        point[function] = _random_function([c for c in calls if c.func == function], rng)
    for symbol in sorted(symbols, key=str):
        value = _random_value(symbol, domain.get(symbol), rng, signs)
        if value is not None:
            point[symbol] = value
    return point


def _random_value(
    symbol: Any, interval: tuple[Any, Any] | None, rng: random.Random, signs: tuple[int, ...]
) -> Any:
    """A rational or whole number that the symbol may stand for; None if none was found.

    It has one of the given signs where the symbol's assumptions leave the choice.
    """
    for draw in range(_DRAWS):
        sign = rng.choice(signs if draw < _DRAWS // 2 else (-1, 1))
        if interval is not None:
            low, high = (sp.nsimplify(bound) for bound in interval)
            value = _inside(low, high, bool(symbol.is_integer), rng)
        elif symbol.is_integer:
            value = sign * sp.Integer(rng.randrange(0, 8))
        else:
            value = sign * sp.Rational(rng.randrange(20, 290), 97)
        if _may_be(symbol, value):
            return value
    return None


def _inside(low: Any, high: Any, whole: bool, rng: random.Random) -> Any:
    if not low.is_finite:
        low = high - 10 if high.is_finite else sp.Integer(-5)
    if not high.is_finite:
        high = low + 10
    if whole:
        return sp.Integer(rng.randrange(int(sp.floor(low)) + 1, int(sp.ceiling(high))))
    return low + (high - low) * sp.Rational(rng.randrange(7, 90), 97)


def _may_be(symbol: Any, value: Any) -> bool:
    """Whether the value has every property that is assumed of the symbol."""
    return all(
        getattr(value, f"is_{name}") in (truth, None) for name, truth in symbol.assumptions0.items()
    )


def _random_function(calls: list[Any], rng: random.Random) -> Any:
    """A random cubic with cross terms in place of a generic function, or one of its sign."""

    def coefficient() -> Any:
        return sp.Rational(rng.choice((-4, -3, -2, -1, 1, 2, 3, 4)), 5)

    arity = max(len(call.args) for call in calls)
    arguments = sp.symbols(f"z1:{arity + 1}", real=True)
    body = coefficient()
    for i, z in enumerate(arguments):
        body += coefficient() * z + coefficient() * z**2 + coefficient() * z**3
        for w in arguments[:i]:
            body += coefficient() * z * w
    if any(call.is_nonnegative for call in calls):
        body = sp.exp(body / 5)
    elif any(call.is_nonpositive for call in calls):
        body = -sp.exp(body / 5)
    return sp.Lambda(arguments, body)


def _apply(shape: Any) -> Callable[..., Any]:
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
            expression = expression.replace(key, _apply(value))
    try:
        exact = expression.doit().subs(symbols).doit()
        value = exact.evalf(_DIGITS)
        if not _is_finite_number(value):
            return None
        # What had to be integrated or summed numerically may be garbage: do it twice.
        if exact.has(sp.Integral, sp.Sum, sp.Product):
            again = exact.evalf(_DIGITS + 15)
            if not abs(again - value) <= _TOLERANCE * (1 + abs(value)) / 100:
                return None
    except Exception:  # sympy's evaluation fails in many ways; then this is no point to compare at
        return None
    return value


def _is_finite_number(value: Any) -> bool:
    """Whether the value has become one finite real or complex number."""
    parts = value.as_real_imag() if isinstance(value, sp.Expr) else ()
    return bool(parts) and all(part.is_Float or part.is_Rational for part in parts)


def _short(value: Any) -> str:
    return str(sp.N(value, 8))
