"""The power check: a proof must fail when its formula is changed.

Every proven claim of every notebook is tried with mechanical mutations of its right-hand side (of
its left-hand side where the right one is a constant): a sign, a factor, an exponent, an index.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
import sympy as sp
from reports import cached_report, finished

from kexue_lab.algebra.entries import Scalars, entries
from kexue_lab.limits import run_forked
from kexue_lab.numeric.comparison import compare

NEEDED, KINDS = 3, 2
SITES = 4
SECONDS = 10


def sites(expression, path=()) -> Iterator[tuple]:
    """Paths to all subexpressions, except the bound variables and orders of ∫, Σ, d/dx."""
    yield path
    bound = isinstance(
        expression,
        (sp.Integral, sp.Sum, sp.Product, sp.Derivative, sp.Limit, sp.Subs, sp.Lambda),
    )
    matrix = isinstance(expression, sp.MatrixBase)
    children = list(expression) if matrix else expression.args[:1] if bound else expression.args
    for i, child in enumerate(children):
        if isinstance(child, (sp.Expr, sp.MatrixBase)):
            yield from sites(child, (*path, i))


def at(expression, path):
    for i in path:
        expression = (
            list(expression)[i] if isinstance(expression, sp.MatrixBase) else expression.args[i]
        )
    return expression


def replaced(expression, path, new):
    """The expression with the part at `path` replaced."""
    if not path:
        return new
    i, *rest = path
    if isinstance(expression, sp.MatrixBase):
        entries = list(expression)
        entries[i] = replaced(entries[i], rest, new)
        return sp.ImmutableMatrix(*expression.shape, entries)
    arguments = list(expression.args)
    arguments[i] = replaced(arguments[i], rest, new)
    return expression.func(*arguments)


def changes(part, symbols) -> Iterator[tuple[str, sp.Expr]]:
    """The mutations of one subexpression, by kind."""
    if isinstance(part, sp.MatrixBase) or part == 0:
        return
    if part.is_Number:
        if part.is_Integer:
            yield "index", part + 1
        return
    yield "sign", -part
    yield "factor", 2 * part
    if isinstance(part, sp.Pow):
        yield "exponent", part.base ** (part.exp + 1)
    if isinstance(part, sp.Symbol):
        yield "exponent", part**2
        for other in symbols:
            if other != part:
                yield "index", other
                break


def spread(items, count):
    """At most `count` items, evenly spread over the list."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def mutants(target) -> Iterator[tuple[str, sp.Expr]]:
    """Mutated expressions, a few of each kind; ones sympy cannot build are left out."""
    symbols = sorted(target.free_symbols, key=str)
    by_kind: dict[str, list] = {}
    for path in sites(target):
        for kind, new in changes(at(target, path), symbols):
            by_kind.setdefault(kind, []).append((path, new))
    chosen = {kind: spread(options, SITES) for kind, options in by_kind.items()}
    for i in range(SITES):
        for kind, options in chosen.items():
            if i < len(options):
                path, new = options[i]
                try:
                    yield kind, replaced(target, path, new)
                except (TypeError, ValueError, NotImplementedError):
                    continue


def restore(text):
    return eval(text, vars(sp) | {"Str": sp.core.symbol.Str})


def is_constant(side):
    return not side.free_symbols and not side.atoms(sp.Function)


def rejected(left, right, domain):
    """Whether a counter-example to left = right is found, by numbers alone."""
    sides = [entries(side) for side in (left, right)]
    scalars = Scalars([*sides[0], *sides[1]])
    pairs = [(scalars(a), scalars(b)) for a, b in zip(*sides, strict=True)]
    return compare(pairs, domain).counterexample is not None


def rejections(left, right, domain):
    """By kind, how many mutants were rejected, until there are enough of enough kinds.

    One kind is enough where the formula allows no other, and for what equals 0: a sign or a factor
    does not change that.
    """
    tried = list(mutants(right))
    offered = len({kind for kind, _ in tried})
    wanted = 1 if all(entry == 0 for entry in entries(left)) else min(KINDS, offered)
    kinds: Counter[str] = Counter()
    for kind, mutant in tried:
        kinds[kind] += rejected(left, mutant, domain)
        if kinds.total() >= NEEDED and len(+kinds) >= wanted:
            return +kinds
    raise AssertionError(f"only {dict(+kinds)} of {len(tried)} mutants are rejected")


def survivors(proven):
    """What is said about the claims whose mutants are not rejected."""
    for claim in proven:
        left, right = restore(claim["lhs"]), restore(claim["rhs"])
        domain = {
            restore(s): (sp.sympify(low), sp.sympify(high)) for s, low, high in claim["domain"]
        }
        if is_constant(right):
            left, right = right, left
        try:
            rejections(left, right, domain)
        except Exception as error:
            yield f"{claim['key']} {claim['statement']}: {error}"


@pytest.mark.parametrize("name", finished())
def test_mutated_formulas_are_rejected(name):
    proven = [claim for claim in cached_report(name)["claims"] if claim["kind"] == "proved"]
    assert proven
    weak = run_forked(lambda: list(survivors(proven)), SECONDS * len(proven)).result()
    assert not weak, "claims that survive mutation:\n" + "\n".join(weak)
