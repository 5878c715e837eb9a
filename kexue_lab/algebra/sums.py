"""Closed forms of sums and products that sympy does not find by itself."""

from typing import Any

import sympy as sp


def is_known(node: Any) -> bool:
    """Whether `known` may have a closed form of the node."""
    return isinstance(node, (sp.Sum, sp.Product)) and len(node.limits) == 1


def known(node: Any) -> Any:
    """A closed form of a sum or a product over one index; the node itself if there is none here.

    Whether an infinite sum converges is not asked: the numbers tell.
    """
    if isinstance(node, sp.Product):
        return _product(node)
    return _by_digamma(node) if _is_rational(node) else _by_ratio(node)


def _product(node: sp.Product) -> Any:
    k, low, high = node.limits[0]
    if isinstance(node.function, sp.exp):
        return sp.exp(sp.Sum(node.function.exp, (k, low, high)))
    if high is sp.oo and node.function.is_rational_function(k):
        last = sp.Dummy("n", integer=True, positive=True)
        partial = sp.Product(node.function, (k, low, last)).doit()
        return sp.limit(sp.gammasimp(partial.rewrite(sp.gamma)), last, sp.oo)
    return node


def _by_ratio(node: sp.Sum) -> Any:
    """Geometric sums, and those of the binomial theorem, known by the quotient of two terms."""
    k, low, high = node.limits[0]
    term = node.function
    if not term.has(k) or term.is_rational_function(k) or term.has(sp.Sum, sp.Integral):
        return node
    ratio = sp.simplify(sp.gammasimp(sp.powsimp(term.subs(k, k + 1) / term).rewrite(sp.gamma)))
    first = term.subs(k, low)
    if not ratio.has(k) and ratio != 1:
        rest = 0 if high is sp.oo else ratio ** (high - low + 1)
        return first * (1 - rest) / (1 - ratio)
    each = sp.simplify(ratio * (k + 1) / (high - k))
    return first * (1 + each) ** high if low == 0 and not each.has(k) and high.is_finite else node


def _is_rational(node: sp.Sum) -> bool:
    k, low, high = node.limits[0]
    alone = node.function.free_symbols == {k} and low.is_Integer and high == sp.oo
    return alone and node.function.is_rational_function(k) and not node.function.is_polynomial(k)


def _by_digamma(node: sp.Sum) -> Any:
    """A convergent series of a rational function, from its partial fractions."""
    k, low, _ = node.limits[0]
    total = residues = sp.S.Zero
    slope, shift = sp.Wild("a", exclude=[k, 0]), sp.Wild("b", exclude=[k])
    for order_part in sp.Add.make_args(sp.apart(node.function, k)):
        base, order = sp.denom(order_part).as_base_exp()
        found = base.match(slope * k + shift)
        if not found or not order.is_Integer:
            return node
        a, first = found[slope], low + found[shift] / found[slope]
        weight = sp.numer(order_part) / a**order
        if weight.has(k) or not first.is_positive:
            return node
        residues += weight if order == 1 else 0
        total += weight * (-1) ** order / sp.factorial(order - 1) * sp.polygamma(order - 1, first)
    return sp.expand_func(total) if residues == 0 else node
