"""Iterated integrals of smooth functions, all variables at once, on a grid of all their nodes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sympy as sp

from kexue_lab.numeric.arithmetic import NoValue, Setting, refuse_cancellation

# Nodes on a segment and points per unit of t, by level, 0 and 1 checking each other: many in few
# variables, few in many.
_GAUSS = {True: (14, 19), False: (7, 9)}
_PER_UNIT = {True: (24, 33), False: (7, 9)}
_REACH = 5.5
_MOST = 1_500_000
# What the outermost nodes may carry, relative to the whole, if the grid reaches far enough.
_NEGLIGIBLE = 1e-11

Walk = Callable[[Any, Mapping[Any, Any]], Any]


def iterated(e: sp.Integral, env: Mapping[Any, Any], setting: Setting, walk: Walk) -> Any:
    """The value of an iterated integral whose integrand has no kink and no pole.

    Raises:
        NoValue: if the integrand does not fade within the grid, or the grid would be too large.
    """
    here = dict(env)
    weights: Any = np.ones(1)
    edge = np.zeros(1, dtype=bool)
    for variable, low, high in reversed(e.limits):  # the outer variable first
        start, end = (np.broadcast_to(walk(g, here), weights.shape) for g in (low, high))
        x, w, outermost = _nodes(start, end, setting.level, len(e.limits) < 3)
        if x.size > _MOST:
            raise NoValue("a very large grid")
        count = x.shape[1]
        here = {s: np.repeat(v, count) if np.ndim(v) else v for s, v in here.items()}
        here[variable] = x.ravel()
        weights = np.repeat(weights, count) * w.ravel()
        edge = np.repeat(edge, count) | np.tile(outermost, len(x))
    terms = np.broadcast_to(walk(e.function, here), weights.shape) * weights
    size = np.abs(terms).sum()
    refuse_cancellation(terms.sum(), size)
    if not np.isfinite(size) or np.abs(terms[edge]).sum() > _NEGLIGIBLE * size:
        raise NoValue("the integrand does not fade within the grid")
    return terms.sum()


def _nodes(low: Any, high: Any, level: int, few: bool) -> tuple[Any, Any, Any]:
    """For each pair of ends a row of nodes and weights; and which nodes are the last of a tail."""
    infinite = np.isinf(low[0]), np.isinf(high[0])
    if not any(infinite):
        u, weights = _gauss(_GAUSS[few][level])
        length = (high - low)[:, None]
        return low[:, None] + length * u, length * weights, np.zeros(len(u), dtype=bool)
    per_unit = _PER_UNIT[few][level]
    t = np.arange(-_REACH * per_unit, _REACH * per_unit + 1) / per_unit
    outermost = np.abs(t) > t[-1] - 0.2
    if all(infinite):
        x, weights = np.sinh(t), np.cosh(t)
    else:
        x, weights = np.exp(t - np.exp(-t)), (1 + np.exp(-t)) * np.exp(t - np.exp(-t))
        x = low[:, None] + x if infinite[1] else high[:, None] - x
    rows = (len(low), len(t))
    return np.broadcast_to(x, rows), np.broadcast_to(weights / per_unit, rows), outermost


@functools.cache
def _gauss(count: int) -> tuple[Any, Any]:
    """The nodes and weights of Gauss and Legendre on (0, 1)."""
    x, weights = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2, weights / 2
