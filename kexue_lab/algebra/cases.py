"""Cases that sympy does not tell apart by itself: which of two symbols is the larger."""

import itertools
from collections.abc import Iterator
from typing import Any

import sympy as sp

from kexue_lab.algebra.assumptions import Domain

Substitution = dict[Any, Any]


def orders(sides: list[Any], domain: Domain) -> Iterator[list[Substitution]]:
    """For two real symbols a, b each time: a above b, a below b, a equal to b.

    In each case the sides are equal for all values if they are equal with a + d for b, d positive,
    and so on. There are none for sides without limits and extremes.
    """
    if not any(side.has(sp.Limit, sp.Max, sp.Min, sp.Abs, sp.sign) for side in sides):
        return
    symbols = sorted(set().union(*(side.free_symbols for side in sides)), key=sp.default_sort_key)
    real = [s for s in symbols if s.is_real and not s.is_integer and s not in domain]
    for a, b in itertools.islice(itertools.combinations(real, 2), 3):
        d = sp.Dummy("d", positive=True)
        yield [{a: b + d}, {b: a + d}, {a: b}]
