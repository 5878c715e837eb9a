"""A domain as assumptions: symbols that sympy can work with in place of intervals."""

from collections.abc import Mapping
from typing import Any

import sympy as sp

Domain = Mapping[sp.Symbol, tuple[Any, Any]]


def checked(domain: Domain | None, sides: list[Any]) -> dict[sp.Symbol, tuple[Any, Any]]:
    """The domain with exact ends.

    Raises:
        TypeError: for a key that is no symbol.
        ValueError: for a symbol that no side has, and for an interval that is empty.
    """
    known = set().union(*(side.atoms(sp.Symbol) for side in sides))
    exact = {}
    for symbol, interval in (domain or {}).items():
        if not isinstance(symbol, sp.Symbol):
            raise TypeError(f"domain must have symbols as keys, got {symbol!r}")
        if symbol not in known:
            raise ValueError(f"domain names {symbol}, which occurs in neither side")
        low, high = (sp.nsimplify(end) for end in interval)
        if not low < high:
            raise ValueError(f"domain of {symbol} is empty: ({low}, {high})")
        exact[symbol] = (low, high)
    return exact


def narrowed(domain: Domain) -> dict[sp.Symbol, sp.Dummy]:
    """For each symbol of the domain one of the same name whose sign the interval tells."""
    return {symbol: _with_sign(symbol, *interval) for symbol, interval in domain.items()}


def _with_sign(symbol: sp.Symbol, low: Any, high: Any) -> sp.Dummy:
    assumed = {k: v for k, v in symbol.assumptions0.items() if k != "commutative"}
    sign = {"positive": True} if low >= 0 else {"negative": True} if high <= 0 else {"real": True}
    return sp.Dummy(symbol.name, **{**assumed, **sign})


def unbounded(symbols: Domain) -> dict[sp.Symbol, Any]:
    """Each symbol of an interval as an expression in one positive number that ranges over it."""
    return {
        symbol: _ranging(low, high, sp.Dummy("q", positive=True))
        for symbol, (low, high) in symbols.items()
        if not symbol.is_integer
    }


def _ranging(low: Any, high: Any, q: sp.Dummy) -> Any:
    if low.is_finite and high.is_finite:
        return (low + high * q) / (1 + q)
    if low.is_finite:
        return low + q
    return high - q if high.is_finite else sp.log(q)


def without_cases(expression: Any, other: Any, domain: Domain) -> Any:
    """The expression with those cases of Piecewise removed that the symbols exclude.

    A case for one value of a symbol at which the other side has no value is removed as well.
    """

    def chosen(*cases: Any) -> Any:
        kept = []
        for part, condition in cases:
            truth = _truth(condition, other, domain)
            if truth is not False:
                kept.append((part, sp.true if truth else condition))
            if truth:
                break
        return sp.Piecewise(*kept) if kept else sp.nan

    return expression.replace(sp.Piecewise, chosen)


def _truth(condition: Any, other: Any, domain: Domain) -> bool | None:
    """Whether the condition holds on the whole domain, nowhere there (False), or neither."""
    if condition in (sp.true, sp.false):
        return bool(condition)
    if isinstance(condition, (sp.And, sp.Or)):
        truths = [_truth(part, other, domain) for part in condition.args]
        decisive = isinstance(condition, sp.Or)
        if decisive in truths:
            return decisive
        return None if None in truths else not decisive
    symbols = condition.free_symbols
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    if isinstance(condition, sp.Equality) and _excludes(other, symbol, condition):
        return False
    t = sp.Dummy("t", real=True)
    try:
        holds = condition.subs(symbol, t).as_set()
        inside = _range(symbol, domain)
        if inside.is_subset(holds):
            return True
        return False if inside.intersect(holds) is sp.S.EmptySet else None
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return None


def _excludes(other: Any, symbol: sp.Symbol, condition: Any) -> bool:
    values = sp.solve(condition, symbol)
    return bool(values) and all(other.subs(symbol, v).has(sp.nan, sp.zoo) for v in values)


def _range(symbol: sp.Symbol, domain: Domain) -> sp.Set:
    low, high = domain.get(symbol, (-sp.oo, sp.oo))
    if symbol.is_positive or symbol.is_nonnegative:
        low = sp.Max(low, 0)
    if symbol.is_negative or symbol.is_nonpositive:
        high = sp.Min(high, 0)
    is_open = symbol in domain or bool(symbol.is_nonzero)
    return sp.Interval(low, high, is_open, is_open)
