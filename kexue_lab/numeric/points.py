"""Points to compare two sides at: small numbers first, random functions for generic ones."""

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

Domain = Mapping[sp.Symbol, tuple[Any, Any]]
Point = dict[Any, Any]

_WHOLE = (2, 3, 1, 5, 4, 7, 6, 8)
_BROKEN = tuple(sp.Rational(*pair) for pair in ((1, 2), (3, 2), (1, 3), (5, 2), (2, 3), (1, 4)))
_DRAWS = 60
# The last index of a long sum: it shows a term that a short one does not reach.
_LONG = (12, 25)


def points(sides: Iterable[Any], domain: Domain, count: int) -> Iterator[Point]:
    """Values for the free symbols of the sides, and shapes for their generic functions.

    First come whole numbers, in both orders and of both signs, then simple fractions in the same
    way, then others; all within the symbols' assumptions and domain. The same call gives the same
    points.
    """
    sides = list(sides)
    symbols = sorted(set().union(*(s.free_symbols for s in sides)), key=sp.default_sort_key)
    whole = _summed_up_to(sides)
    unbounded = any(_is_unbounded(side) for side in sides)
    for number in range(count):
        rng = random.Random(number)
        point: Point = _shapes(sides, rng, unbounded)
        order = symbols if number % 2 == 0 else symbols[::-1]
        for place, symbol in enumerate(order):
            choices = _choices(symbol, symbol in whole, domain.get(symbol), number, place, rng)
            value = next((v for v in choices if _may_be(symbol, v)), None)
            if value is not None:
                point[symbol] = value
        yield point


def _summed_up_to(sides: Iterable[Any]) -> set[Any]:
    """Symbols in the limits of sums and products: they stand for whole numbers."""
    repeated = [node for side in sides for node in side.atoms(sp.Sum, sp.Product)]
    bounds = [bound for node in repeated for limits in node.limits for bound in limits[1:]]
    return set().union(*(sp.sympify(bound).free_symbols for bound in bounds))


def _is_unbounded(side: Any) -> bool:
    nodes = side.atoms(sp.Integral, sp.Sum, sp.Limit)
    return any(sp.oo in node.args[1:] or node.has(sp.oo, -sp.oo) for node in nodes)


def _choices(
    symbol: Any,
    counts: bool,
    interval: tuple[Any, Any] | None,
    number: int,
    place: int,
    rng: random.Random,
) -> Iterator[Any]:
    """Values to try for the symbol at the given place of the point of that number."""
    whole = counts or bool(symbol.is_integer)
    if counts and number in (2, 4):
        yield sp.Integer(_LONG[number // 2 - 1])
    stock, step = (_WHOLE, 4) if number < 2 or whole else (_BROKEN, 2)
    start = place + step * (number % 2)
    rotated = [stock[(start + i) % len(stock)] for i in range(len(stock))]
    # The second point of each kind is negative in turn; where that is not allowed the next one is.
    sign = -1 if number % 2 and place % 2 == 0 else 1
    if number < 4:
        candidates = [sp.Integer(1) * sign * value for value in rotated]
        candidates += [sp.Integer(1) * s * value for value in rotated for s in (1, -1)]
        yield from (v for v in candidates if interval is None or _within(v, interval))
    if number == 5 and symbol.is_real is None and interval is None and not whole:
        yield sp.Rational(rng.randrange(3, 9), 4) + sp.I * sp.Rational(rng.randrange(3, 9), 5)
    for _ in range(_DRAWS):
        if interval is not None:
            yield from _inside(*interval, whole, number, rng)
        elif whole:
            yield rng.choice((-1, 1)) * sp.Integer(rng.randrange(0, 9))
        else:
            yield rng.choice((-1, 1)) * sp.Rational(
                rng.randrange(5, 290 if number < 5 else 1000), 97
            )


def _within(value: Any, interval: tuple[Any, Any]) -> bool:
    low, high = interval
    return bool(low < value) and bool(value < high)


def _inside(low: Any, high: Any, whole: bool, number: int, rng: random.Random) -> Iterator[Any]:
    if not low.is_finite:
        low = high - 10 if high.is_finite else sp.Integer(-5)
    if not high.is_finite:
        high = low + 10
    if whole:
        first, last = int(sp.floor(low)) + 1, int(sp.ceiling(high))
        if first < last:
            yield sp.Integer(rng.randrange(first, last))
        return
    simple = number < 4
    parts = (rng.randrange(1, 6), 6) if simple else (rng.randrange(7, 90), 97)
    yield low + (high - low) * sp.Rational(*parts)


def admits(symbol: Any, value: Any, interval: tuple[Any, Any] | None) -> bool:
    """Whether the symbol may have the value, by its assumptions and in its interval."""
    return _may_be(symbol, value) and (interval is None or _within(value, interval))


def _may_be(symbol: Any, value: Any) -> bool:
    """Whether the value has every property that is assumed of the symbol."""
    return all(
        getattr(value, f"is_{name}") in (truth, None) for name, truth in symbol.assumptions0.items()
    )


def _shapes(sides: Iterable[Any], rng: random.Random, unbounded: bool) -> Point:
    calls = {call for side in sides for call in side.atoms(AppliedUndef)}
    heads = sorted({call.func for call in calls}, key=str)
    return {
        head: _shape([call for call in calls if call.func == head], rng, unbounded)
        for head in heads
    }


def _shape(calls: list[Any], rng: random.Random, unbounded: bool) -> Any:
    """A random cubic with cross terms, or one of a given sign; fading where ranges are infinite."""

    def coefficient() -> Any:
        return sp.Rational(rng.choice((-4, -3, -2, -1, 1, 2, 3, 4)), 5)

    arguments = sp.symbols(f"z1:{max(len(call.args) for call in calls) + 1}", real=True)
    body = coefficient()
    for i, z in enumerate(arguments):
        body += coefficient() * z + coefficient() * z**2 + coefficient() * z**3
        body += sum(coefficient() * z * w for w in arguments[:i])
    fading = -sum((z**2 for z in arguments), sp.S.Zero) / 2 if unbounded else sp.S.Zero
    if any(call.is_nonnegative for call in calls):
        return sp.Lambda(arguments, sp.exp(fading + _tame(body, arguments, unbounded)))
    if any(call.is_nonpositive for call in calls):
        return sp.Lambda(arguments, -sp.exp(fading + _tame(body, arguments, unbounded)))
    return sp.Lambda(arguments, body * sp.exp(fading))


def _tame(body: Any, arguments: Any, unbounded: bool) -> Any:
    """An exponent that does not outgrow the fading one."""
    return sum(arguments, body.subs(dict.fromkeys(arguments, 0))) / 5 if unbounded else body / 5


def with_shapes(side: Any, point: Mapping[Any, Any]) -> Any:
    """The side with the point's shapes in place of its generic functions."""
    bodies: dict[Any, Any] = {}
    # Those inside others first: they stand in the others' arguments.
    for call in sorted(side.atoms(AppliedUndef), key=lambda call: len(call.atoms(AppliedUndef))):
        shape = point.get(call.func)
        if isinstance(shape, sp.Lambda):
            missing = len(shape.variables) - len(call.args)
            arguments = [argument.xreplace(bodies) for argument in call.args]
            bodies[call] = shape(*arguments, *[sp.S.Zero] * missing)
    return side.xreplace(bodies)
