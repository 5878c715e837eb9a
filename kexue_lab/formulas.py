"""How a symbolic claim is written: its formula, its conditions, its counter-example."""

import re
from collections.abc import Iterator
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE

from kexue_lab.numerals import told_apart
from kexue_lab.symbolic import Counterexample, Domain

READABLE = 150
# A formula beyond this is a table that nobody reads, and weighs on the file.
_LARGEST = 4000
_DEEPEST, _SHALLOWEST = 8, 3
_DOTS = r"\cdots"
_REPEATED = re.compile(r"\\cdots( ([+-] )?\\cdots)+")
_TERMS = 4
# Beside a value this many times as large, another is rounding.
_ROUNDING = 1e-11
_ASSUMPTIONS = (
    ("positive", "> 0"),
    ("negative", "< 0"),
    ("nonnegative", r"\geq 0"),
    ("nonpositive", r"\leq 0"),
)


class _Printer(LatexPrinter):  # type: ignore[misc]  # sympy has no types
    """sympy's printer, with brackets around all that an operator acts on.

    sympy writes the derivative of a product as one factor's: d/dx f(x) g(x).
    """

    deepest: int | None = None

    def _print(self, expr: Any, **options: Any) -> str:
        # The level counts the parts around this one: deep parts become dots in a short form.
        if (
            self.deepest is not None
            and self._print_level >= self.deepest
            and isinstance(expr, sp.Basic)
            and not expr.is_Atom
        ):
            return _DOTS
        return str(super()._print(expr, **options))

    def _print_Derivative(self, expr: Any) -> str:
        signed = any(part.could_extract_minus_sign() for part in expr.args)
        body = self.parenthesize(expr.expr, PRECEDENCE["Mul"], is_neg=signed, strict=True)
        operator = str(super()._print_Derivative(expr)).removesuffix(body)
        return f"{operator}{self._acted_on(expr.expr)}"

    def _print_Add(self, expr: Any, order: Any = None) -> str:
        terms = self._as_ordered_terms(expr, order=order)
        if self.deepest is None or len(terms) <= _TERMS:
            return str(super()._print_Add(expr, order))
        return rf"{super()._print_Add(sp.Add(*terms[:2], evaluate=False), 'none')} + {_DOTS}"

    def _print_Product(self, expr: Any) -> str:
        text = str(super()._print_Product(expr))
        if not expr.function.is_Mul:
            return text
        return text.removesuffix(self._print(expr.function)) + self._acted_on(expr.function)

    def _print_Limit(self, expr: Any) -> str:
        # The plain limit has sympy's direction "+" as well: the sign would say more than is meant.
        text = str(super()._print_Limit(expr))
        return text.replace("^+}", "}", 1)

    def _acted_on(self, part: Any) -> str:
        text = self._print(part)
        one_block = not part.is_Add and not (part.is_Mul and not text.startswith(r"\frac"))
        return text if one_block else rf"\left({text}\right)"

    def _needs_mul_brackets(self, expr: Any, first: bool = False, last: bool = False) -> bool:
        open_ended = isinstance(expr, (sp.Derivative, sp.Limit)) and not last
        return open_ended or bool(super()._needs_mul_brackets(expr, first, last))


def latex(expression: Any, deepest: int | None = None) -> str:
    """Return LaTeX in which whatever is differentiated, integrated or multiplied out is bracketed.

    Args:
        expression: a sympy expression or matrix.
        deepest: parts below so many levels are written as dots.
    """
    printer = _Printer()
    printer.deepest = deepest
    return _REPEATED.sub(r"\\cdots", str(printer.doprint(expression)))


def formula(left: Any, right: Any, relation: str) -> str:
    """Return the equation in LaTeX; empty where it is too large to be of use."""
    text = f"{latex(left)} {relation} {latex(right)}"
    return text if len(text) <= _LARGEST else ""


def short_formula(left: Any, right: Any, relation: str) -> str:
    """Return the equation with deep parts as dots, the longest form that is readable at a glance.

    Empty where even the coarsest form is longer.
    """
    for deepest in (None, *range(_DEEPEST, _SHALLOWEST - 1, -1)):
        text = f"{latex(left, deepest)} {relation} {latex(right, deepest)}"
        if visible_length(text) <= READABLE:
            return text
    return ""


def visible_length(text: str) -> int:
    """Return about how many signs are seen of a formula in LaTeX."""
    text = re.sub(r"\\(begin|end)\{\w+\}|\\(left|right|limits|substack)(?![a-z])", "", text)
    return len(re.sub(r"[{}\s&^_]", "", re.sub(r"\\[a-zA-Z]+|\\.", "x", text)))


# --- conditions -----------------------------------------------------------------------------------


def conditions(left: Any, right: Any, domain: Domain | None) -> str:
    """Return what is assumed of the symbols, their domain, and how limits are approached."""
    domain = dict(domain or {})
    parts = [*_assumed(left, right, set(domain))]
    parts += [
        rf"${sp.latex(symbol)}\in({sp.latex(sp.sympify(low))}, {sp.latex(sp.sympify(high))})$"
        for symbol, (low, high) in domain.items()
    ]
    limits = {limit for side in (left, right) for limit in side.atoms(sp.Limit)}
    parts += sorted({_approach(limit, domain) for limit in limits})
    return "; ".join(parts)


def _assumed(left: Any, right: Any, elsewhere: set[Any]) -> Iterator[str]:
    """The assumptions, each with the names of all that share it."""
    things = [*(left.free_symbols | right.free_symbols) - elsewhere, *_called(left, right)]
    groups: dict[str, set[str]] = {}
    for thing in things:
        name = sp.latex(thing.func if isinstance(thing, AppliedUndef) else thing)
        for words in _properties(thing):
            groups.setdefault(words, set()).add(name)
    for words, names in sorted(groups.items()):
        listed = ", ".join(sorted(names))
        yield f"${listed} {words}$" if words[0] in "><\\" else f"${listed}$ {words}"


def _called(left: Any, right: Any) -> list[Any]:
    """One call of each generic function, and one entry of each indexed symbol."""
    calls = left.atoms(AppliedUndef, sp.Indexed) | right.atoms(AppliedUndef, sp.Indexed)
    return list(
        {getattr(call, "base", call.func): call for call in sorted(calls, key=str)}.values()
    )


def _properties(thing: Any) -> Iterator[str]:
    """What is assumed of a symbol or a call, strongest first; weaker properties follow from it."""
    for name, words in _ASSUMPTIONS:
        if getattr(thing, f"is_{name}", None):
            yield words
            break
    else:
        if getattr(thing, "is_real", None) and not thing.is_integer:
            yield "real"
    if getattr(thing, "is_integer", None):
        yield "whole"
    if getattr(thing, "is_nonzero", None) and not (thing.is_positive or thing.is_negative):
        yield r"\neq 0"


def _approach(limit: Any, domain: dict[Any, Any]) -> str:
    """How the variable tends to its limit: from both sides unless one is excluded."""
    _, variable, target, direction = limit.args
    low, high = domain.get(variable, (None, None))
    arrow = rf"${sp.latex(variable)}\to {sp.latex(target)}$"
    if target.is_infinite:
        return arrow
    if target == low or (target.is_zero and variable.is_nonnegative):
        return f"{arrow} from above"
    if str(direction) == "-" or target == high or (target.is_zero and variable.is_nonpositive):
        return f"{arrow} from below"
    return f"{arrow} from both sides"


# --- counter-examples -----------------------------------------------------------------------------


def ruled_out(found: Counterexample) -> tuple[str, str]:
    """Return the point of a counter-example, and both values with digits enough to differ."""
    point = ", ".join(_coordinate(name, value) for name, value in found.point.items())
    try:
        both = [_plain_number(text) for text in (found.left, found.right)]
        # A value that was approached, not computed, differs from 0 by each processor's rounding.
        noise = _ROUNDING * max(map(abs, both))
        left, right = (0.0 if abs(value) < noise else value for value in both)
        values = told_apart(left, right)
    except (TypeError, ValueError, sp.SympifyError):
        values = found.left, found.right
    return point, f"{values[0]} against {values[1]}"


def _coordinate(name: str, text: str) -> str:
    letter = sp.latex(sp.Symbol(name))
    try:
        value = sp.sympify(text)
    except (sp.SympifyError, SyntaxError, TypeError):
        return f"${letter}$ = {text}"
    if isinstance(value, sp.Lambda):
        return _function_shown(letter, value)
    if value.is_Rational and not (abs(value.p) < 100 and value.q <= 12):
        return rf"${letter} \approx {_three_digits(value)}$"
    return f"${letter} = {latex(value)}$"


def _function_shown(letter: str, shape: Any) -> str:
    letters = sp.symbols("u v w p q r")[: len(shape.variables)]
    if len(letters) < len(shape.variables):
        return f"${letter}$ some polynomial"
    body = shape.expr.subs(dict(zip(shape.variables, letters, strict=True)), simultaneous=True)
    return f"${letter}({', '.join(map(str, letters))}) = {latex(body)}$"


def _three_digits(value: Any) -> str:
    return str(sp.N(value, 3))


def _plain_number(text: str) -> float:
    """The number that is written; complex ones are left as they stand."""
    return float(sp.sympify(text))
