"""Decide whether two symbolic expressions are equal: a proof, a counter-example, or neither.

Two roads lead to a verdict. sympy evaluates both sides and simplifies their difference
(`kexue_lab.algebra`); numbers are computed from the sides as they stand (`kexue_lab.numeric`).
"""

import functools
from dataclasses import replace
from typing import Any

import sympy as sp
from sympy.integrals.meijerint import meijerint_definite

from kexue_lab.algebra.assumptions import Domain, checked, narrowed
from kexue_lab.algebra.entries import Scalars, entries
from kexue_lab.limits import FunctionFailed, ProcessDied, TimeLimitExceeded, run_forked
from kexue_lab.numeric.comparison import Counterexample
from kexue_lab.verdicts import Claim, Verdict

__all__ = ["Counterexample", "Domain", "Verdict", "as_side", "decide"]


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

    sympy evaluates both sides and tries to bring the difference to 0. Whatever it finds, the
    sides as they stand, with their integrals and limits unevaluated, are computed at a few points
    with random smooth functions in place of generic ones. Both roads must agree.

    Args:
        lhs: expression or matrix, as returned by `as_side`.
        rhs: the same; matrices of one shape.
        domain: for a symbol, the open interval of its values. Needed only where its assumptions
            say too little (0 < p < 1, say).
        seconds: the limit of processor time, positive.

    Raises:
        ValueError: if `seconds` is not positive, or the domain names a symbol that is not there.
        TypeError: if a key of the domain is no symbol.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds!r}")
    exact = checked(domain, [lhs, rhs])
    _load_simplification()
    if lhs.has(sp.Integral) or rhs.has(sp.Integral):
        _fill_tables()
    try:
        return run_forked(lambda: _decide(lhs, rhs, exact), seconds).result()
    except TimeLimitExceeded:
        reason = f"no answer within {seconds:g} s"
    except (ProcessDied, FunctionFailed) as error:  # whatever sympy stumbles over is no answer
        reason = f"sympy failed with {error}"
    return Verdict("undecided", _unworked(lhs, rhs), reason=reason)


def _unworked(lhs: Any, rhs: Any) -> Any:
    """The difference as it stands: sympy may need long for what it thinks is a number."""
    if not isinstance(lhs, sp.Expr) or lhs.is_Matrix:
        return lhs - rhs
    return sp.Add(lhs, sp.Mul(-1, rhs, evaluate=False), evaluate=False)


@functools.cache
def _load_simplification() -> None:
    """Have sympy load what it simplifies with here, once, not in each process that decides."""
    angle = sp.Symbol("angle", real=True)
    sp.simplify(sp.sin(angle) ** 2 + sp.cos(angle) ** 2)


@functools.cache
def _fill_tables() -> None:
    """Have sympy build its table of integrals here, once, not in each process that decides."""
    meijerint_definite(sp.exp(-sp.Symbol("x")), sp.Symbol("x"), 0, sp.oo)


def _decide(lhs: Any, rhs: Any, domain: Domain) -> Verdict:
    names = narrowed(domain)
    left, right = (entries(side.xreplace(names)) for side in (lhs, rhs))
    scalars = Scalars([*left, *right])
    pairs = [(scalars(a), scalars(b)) for a, b in zip(left, right, strict=True)]
    verdict = Claim(pairs, {names[s]: interval for s, interval in domain.items()}).verdict()
    original = {new: old for old, new in names.items()}
    return replace(verdict, difference=scalars.back(verdict.difference).xreplace(original))
