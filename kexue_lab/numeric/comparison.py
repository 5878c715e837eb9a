"""Compare two sides at points, each side by the second road: do the numbers agree?"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp
from sympy.core.function import AppliedUndef

from kexue_lab.numeric.arithmetic import NoValue, Undefined, Work
from kexue_lab.numeric.points import Domain, points, with_shapes
from kexue_lab.numeric.thresholds import beyond
from kexue_lab.numeric.walk import UNEVALUATED, Value, plain_value, value

DIGITS = 30
_COUNT = 6
# Values of integrals, sums and limits differ if they do so by far more than their errors.
_TOLERANCE = 1e-7
_EXACT = mpmath.mpf("1e-12")
# Work, in about microseconds, that all points may take, and after which three points are enough.
_WORK = 3_000_000
_ENOUGH = 60_000

Pair = tuple[Any, Any]


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


@dataclass
class Comparison:
    """What a comparison at several points found.

    Args:
        agreed: at how many points both sides have values, and equal ones.
        counterexample: a point at which they have different ones.
        trouble: why one side has no value at a point at which the other one has.
        silence: why no number could be had at some point.
    """

    agreed: int = 0
    counterexample: Counterexample | None = None
    trouble: str = ""
    silence: str = ""


def compare(pairs: Iterable[Pair], domain: Domain, count: int = _COUNT) -> Comparison:
    """Compare left and right sides at points of the domain, until one is a counter-example."""
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    found = Comparison()
    sides = [side for pair in pairs for side in pair]
    free = any(side.free_symbols or side.atoms(AppliedUndef) for side in sides)
    work = Work(_WORK)
    drawn = points(sides, domain, count if free else 1)
    needed = list(itertools.islice(drawn, 2))
    needed += beyond(sides, domain, needed[0])
    for number, point in enumerate(itertools.chain(needed, drawn)):
        states = [_compare_at(pair, point, work, found) for pair in pairs]
        found.agreed += all(states)
        enough = number >= len(needed) and found.agreed >= 3 and _WORK - work.left > _ENOUGH
        if found.counterexample or found.trouble or enough:
            break
    return found


def _compare_at(pair: Pair, point: Mapping[Any, Any], work: Work, found: Comparison) -> bool:
    """Whether the sides agree at a point; what else there is to say is added to `found`."""
    left, right = (_side(side, point, work) for side in pair)
    silent = next((side for side in (left, right) if isinstance(side, NoValue)), None)
    if silent is not None:
        found.silence = str(silent)
        return False
    missing = [isinstance(side, Undefined) for side in (left, right)]
    if all(missing):
        return False
    if any(missing):
        side, fault = (pair[0], left) if missing[0] else (pair[1], right)
        # A generic function that a random one cannot stand for, or a plain 0/0: no statement.
        if side.has(*UNEVALUATED) and not side.atoms(AppliedUndef):
            found.trouble = f"{_at(point)}{fault}"
        return False
    if not _differ(pair, point, left, right):
        return True
    named = {_name(symbol): str(number) for symbol, number in point.items()}
    found.counterexample = Counterexample(named, _short(left.number), _short(right.number))
    return False


def _side(side: Any, point: Mapping[Any, Any], work: Work) -> Any:
    """The value of a side, or the exception that says why there is none."""
    numbers = {key: number for key, number in point.items() if not isinstance(number, sp.Lambda)}
    try:
        shaped = with_shapes(side, point)
        if shaped.has(*UNEVALUATED):
            return value(shaped, numbers, work)
        return Value(plain_value(shaped, numbers, DIGITS), mpmath.mpf(10) ** (8 - DIGITS))
    except (NoValue, Undefined) as fault:
        return fault


def _differ(pair: Pair, point: Mapping[Any, Any], left: Value, right: Value) -> bool:
    distance = abs(left.number - right.number)
    scale = 1 + abs(left.number) + abs(right.number)
    if any(side.has(*UNEVALUATED) for side in pair):
        return bool(distance > _TOLERANCE * scale + 10 * (left.error + right.error))
    if distance <= _EXACT * scale:
        return False
    # A difference that is left of cancellation changes with the digits.
    numbers = {key: number for key, number in point.items() if not isinstance(number, sp.Lambda)}
    a, b = (plain_value(with_shapes(side, point), numbers, 2 * DIGITS) for side in pair)
    return bool(abs(abs(a - b) - distance) < distance / 10)


def _at(point: Mapping[Any, Any]) -> str:
    named = ", ".join(f"{_name(symbol)} = {number}" for symbol, number in point.items())
    return f"at {named}: " if named else ""


def _name(symbol: Any) -> str:
    return str(getattr(symbol, "name", symbol))


def _short(number: Any) -> str:
    number = mpmath.chop(number, tol=1e-12)
    return str(mpmath.nstr(number, 8))
