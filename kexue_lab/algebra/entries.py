"""Matrices and indexed variables as scalars that neither collide nor lose their index."""

from collections.abc import Callable
from typing import Any

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixElement


def entries(side: Any) -> list[Any]:
    """The entries of a side, row by row, with explicit matrices in place of matrix symbols."""
    side = _explicit(side)
    return list(side) if isinstance(side, sp.MatrixBase) else [side]


def _explicit(side: Any) -> Any:
    """The side with its matrix products, traces and the like worked out into their entries.

    Integrals, sums, limits and derivatives of scalars stay as they are.
    """
    if isinstance(side, MatrixElement) and isinstance(side.parent, sp.MatrixSymbol):
        return side
    if isinstance(side, sp.MatrixSymbol):
        return side.as_explicit()
    if isinstance(side, sp.MatrixBase):
        return sp.ImmutableMatrix(side.applyfunc(_explicit))
    if not side.args or not side.has(sp.MatrixExpr, sp.MatrixBase, sp.Trace, sp.Determinant):
        return side
    if isinstance(side, sp.Derivative):
        return side.doit()  # by a matrix; a quotient could not be taken
    arguments = [_explicit(argument) for argument in side.args]
    if isinstance(side, sp.Trace):
        return arguments[0].trace()
    if isinstance(side, sp.Determinant):
        return arguments[0].det(method="berkowitz")
    rebuilt = side.func(*arguments)
    return sp.ImmutableMatrix(rebuilt.as_explicit()) if rebuilt.is_Matrix else rebuilt


class Scalars:
    """Stand-ins for entries of matrix symbols and indexed variables, the same on all sides.

    Where every index is a number, an entry becomes a symbol of its own; where one is symbolic, the
    variable becomes a function of its indices. Both are unlike any symbol that an author can
    write, and have the assumptions of the variable.
    """

    def __init__(self, sides: list[Any]) -> None:
        nodes = {node for side in sides for node in _indexed(side)}
        symbolic = {_head(node) for node in nodes if not all(i.is_Integer for i in node.indices)}
        self._stand_ins: dict[Any, Any] = {}
        for node in sorted(nodes, key=sp.default_sort_key):
            head = _head(node)
            if head in symbolic:
                self._stand_ins.setdefault(head, _function(head))
            else:
                index = ", ".join(str(i) for i in node.indices)
                self._stand_ins[node] = sp.Dummy(f"{head}[{index}]", **_assumptions(head))

    def __call__(self, side: Any) -> Any:
        """The side with stand-ins for its indexed entries and whole symbols for its counters."""
        counters = {idx: sp.Dummy(str(idx), integer=True) for idx in side.atoms(sp.Idx)}
        side = side.replace(_is_indexed, self._stand_in)
        return side.subs({idx: self._stand_ins.setdefault(idx, d) for idx, d in counters.items()})

    def back(self, side: Any) -> Any:
        """The side with what the stand-ins stand for."""
        for node, stand_in in self._stand_ins.items():
            if isinstance(stand_in, sp.Symbol):
                side = side.xreplace({stand_in: node})
            else:
                side = side.replace(stand_in, lambda *indices, node=node: node[indices])
        return side

    def _stand_in(self, node: Any) -> Any:
        if node in self._stand_ins:
            return self._stand_ins[node]
        made: Callable[..., Any] = self._stand_ins.setdefault(_head(node), _function(_head(node)))
        return made(*node.indices)


def _is_indexed(node: Any) -> bool:
    return isinstance(node, (sp.Indexed, MatrixElement))


def _indexed(side: Any) -> set[Any]:
    return {node for node in sp.preorder_traversal(side) if _is_indexed(node)}


def _head(node: Any) -> Any:
    return node.base if isinstance(node, sp.Indexed) else node.parent


def _assumptions(head: Any) -> dict[str, Any]:
    """What is assumed of an indexed variable; nothing is assumed of a matrix's entries."""
    return dict(head.label.assumptions0) if isinstance(head, sp.IndexedBase) else {}


def _function(head: Any) -> Any:
    places = "·, ·" if isinstance(head, sp.MatrixSymbol) else "·"
    return sp.Function(f"{head}[{places}]", **_assumptions(head))
