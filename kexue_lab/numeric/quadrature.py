"""Integrals of numeric functions: breakpoints at kinks and poles, improper ends, slow tails."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
from scipy.optimize import brentq, minimize_scalar

from kexue_lab.numeric.arithmetic import NoValue, Setting, Undefined, real
from kexue_lab.numeric.rule import Function, Improper, is_finite, on_grid, on_half_line, on_segment

_SCAN = 120
_MOST_BREAKS = 150
# A local exponent p of f ~ h^-p (or a decay f ~ x^-p) this close to 1 counts as not integrable.
_MARGIN = 0.03
# Half-waves of an oscillating tail that are added one by one.
_PIECES = 24


@dataclass(frozen=True)
class Integrand:
    """A function of one variable, on arrays of doubles or of mpmath's numbers.

    Args:
        f: the function.
        kinks: functions at whose zeros f may have a kink, a jump or a pole.
        costly: whether f is itself an integral or the like; then its peak is not searched for.
    """

    f: Function
    kinks: Sequence[Function] = ()
    costly: bool = False

    def part(self, take: Callable[[Any], Any]) -> "Integrand":
        """The real or the imaginary part."""
        f = self.f
        return replace(self, f=lambda x: take(f(x)))

    def mirrored(self) -> "Integrand":
        """The function of -x."""
        f = self.f
        kinks = [lambda x, g=g: g(-x) for g in self.kinks]
        return replace(self, f=lambda x: f(-x), kinks=kinks)


def integral(integrand: Integrand, low: Any, high: Any, setting: Setting) -> Any:
    """The integral from low to high; both may be infinite.

    Raises:
        Undefined: if the integrand has a pole inside or fades too slowly: the integral diverges.
        NoValue: if no number can be had.
    """
    low, high = real(low, "a limit of integration"), real(high, "a limit of integration")
    if low == high:
        return 0 * low
    if low > high:
        return -integral(integrand, high, low, setting)
    if np.isinf(float(low)) and np.isinf(float(high)):
        zero = setting.numbers(0)
        halves = (integrand.mirrored(), integrand)
        return sum(_to_infinity(half, zero, setting) for half in halves)
    if np.isinf(float(low)):
        return _to_infinity(integrand.mirrored(), -high, setting)
    if np.isinf(float(high)):
        return _to_infinity(integrand, low, setting)
    return _over_segments(integrand, low, high, setting)


def _over_segments(integrand: Integrand, low: Any, high: Any, s: Setting) -> Any:
    breaks = _breaks(integrand, float(low), float(high), s)
    ends = [low, *[s.numbers(b) for b in breaks if low < b < high], high]
    total = 0
    for left, right in itertools.pairwise(ends):
        try:
            # An integral of integrals is not refined further: that would cost too much.
            rule = on_grid if integrand.costly else on_segment
            total = total + rule(integrand.f, left, right, s)
        except Improper as fault:
            raise _pole_or_not(integrand.f, fault, right - left, s) from fault
    return total


def _to_infinity(integrand: Integrand, low: Any, s: Setting) -> Any:
    f = integrand.f
    reach = _reach(f, low, s)
    if reach is not None:
        return _over_segments(integrand, low, low + reach, s)
    values = _far(f, low, 1e3, s)
    if _is_complex(values):
        parts = [_to_infinity(integrand.part(take), low, s) for take in (_real, _imaginary)]
        return parts[0] + 1j * parts[1]
    if _changes_sign(values):
        zeros = _far_zeros(f, float(low), s)
        head = _over_segments(integrand, low, s.numbers(zeros[0]), s)
        return head + _waves(f, zeros, s)
    _refuse_divergence(values, _far(f, low, 1e5, s))
    if _changes_sign(np.diff(values)):
        extrema = _far_zeros(lambda x: f(x * (1 + 1e-4)) - f(x), float(low), s)
        head = _over_segments(integrand, low, s.numbers(extrema[0]), s)
        return head + _waves(f, extrema[::2], s)
    breaks = _breaks(integrand, float(low), float(low) + 64, s)
    if breaks and breaks[-1] > float(low) + 60:
        raise NoValue("kinks all along a slow tail")
    near = low + (64 if breaks else 1)
    try:
        return _over_segments(integrand, low, near, s) + on_half_line(f, near, 1, s)
    except Improper as fault:
        raise NoValue("the tail fades too slowly") from fault


def _reach(f: Function, low: Any, s: Setting) -> Any:
    """A distance beyond which f is negligible, or None if it fades slower than exponentially."""
    distances = np.array([2.0**k * stretch for k in range(-2, 21) for stretch in (1, 1.17, 1.5)])
    sizes = np.abs(f(low + s.numbers(distances))) * distances
    if not is_finite(sizes).all():
        raise NoValue("the tail overflows")
    large = np.flatnonzero(sizes > 1e-19 * sizes.max())
    if not len(large):
        return s.numbers(1)  # zero wherever it was computed
    if large[-1] + 1 >= len(distances) or distances[large[-1]] > 3000:
        return None
    return s.numbers(distances[large[-1] + 1])


def _far(f: Function, low: Any, scale: float, s: Setting) -> Any:
    return f(low + s.numbers(scale * np.linspace(1, 2.03, 41)))


def _changes_sign(values: Any) -> bool:
    signs = np.sign([complex(value).real for value in values])
    return bool((np.diff(signs) != 0).any())


def _is_complex(values: Any) -> bool:
    return any(complex(value).imag != 0 for value in values)


def _real(values: Any) -> Any:
    return np.array([mpmath.re(v) for v in values]) if values.dtype == object else values.real


def _imaginary(values: Any) -> Any:
    return np.array([mpmath.im(v) for v in values]) if values.dtype == object else values.imag


def _refuse_divergence(near: Any, far: Any) -> None:
    """Compare f around 10^3 and around 10^5: it must fade faster than 1/x."""
    sizes = [float(np.abs(values).max()) for values in (near, far)]
    if not all(0 < size < np.inf for size in sizes):
        raise NoValue("the tail cannot be computed")
    if np.log(sizes[0] / sizes[1]) / np.log(100) < 1 + _MARGIN:
        raise Undefined("the integral diverges at infinity")


def _far_zeros(f: Function, low: float, s: Setting) -> list[float]:
    """Zeros of an oscillating f, one after another; later ones at the second setting."""
    length = 4.0
    for _ in range(14):
        grid = low + length * (np.arange(800) + 0.5) / 800
        values = np.array([complex(value).real for value in f(s.numbers(grid))])
        crossings = np.flatnonzero(values[:-1] * values[1:] < 0)
        if len(crossings) >= _PIECES + 12:
            break
        length *= 2
    if not _PIECES + 12 <= len(crossings) < 200:
        raise NoValue("the waves of the tail could not be told apart")
    first = 5 + 4 * (s.level % 2)
    chosen = crossings[first : first + _PIECES]
    return [_root(f, grid[i], grid[i + 1], s) for i in chosen]


def _waves(f: Function, places: Sequence[float], s: Setting) -> Any:
    """One half-wave after another, their series summed by Levin's transformation."""
    ends = [s.numbers(place) for place in places]
    waves = [on_segment(f, *pair, s) for pair in itertools.pairwise(ends)]
    if abs(waves[-1]) > 0.99 * abs(waves[0]):
        raise Undefined("the integrand oscillates to infinity without fading")
    return accelerated(waves, s)


def accelerated(terms: Sequence[Any], s: Setting) -> Any:
    """The sum of a series from its first terms, by Levin's u-transformation."""
    exact = [mpmath.mpmathify(term) for term in terms]
    with mpmath.workdps(30):
        fewer, value = (
            mpmath.levin(method="levin", variant="u").update(part)[0]
            for part in (exact[:-4], exact)
        )
    if not mpmath.isfinite(value) or abs(value - fewer) > 1e-7 * (1 + abs(value)):
        raise NoValue("the series could not be accelerated")
    return value if s.digits else (complex(value) if mpmath.im(value) else float(value))


def _pole_or_not(f: Function, fault: Improper, length: Any, s: Setting) -> Exception:
    """What to say of an end at which f does not fade: no integral, or no number."""
    sizes = []
    for distance in (1e-3, 1e-4, 1e-5):
        x = np.array([fault.end + fault.direction * length * s.numbers(distance)])
        sizes.append(float(np.abs(f(x))[0]))
    if not all(0 < size < np.inf for size in sizes):
        return NoValue("the integrand cannot be computed near a singular point")
    exponents = np.diff(np.log10(sizes))
    if (exponents > 1 - _MARGIN).all():
        return Undefined(f"the integrand has a pole near {float(fault.end):.6g}")
    return NoValue("an end of the range is too singular")


def _breaks(integrand: Integrand, low: float, high: float, s: Setting) -> list[float]:
    """Where to cut the range: at zeros of the kinks and where the integrand is largest."""
    steps = (np.arange(_SCAN) + 0.41) / _SCAN
    length = high - low
    dense = (low + length * steps, low + length * steps**4, high - length * steps**4)
    grid = np.unique(np.concatenate(dense))
    breaks: set[float] = set()
    if not integrand.costly:
        sizes = np.abs(integrand.f(s.numbers(grid))).astype(float)
        if np.isfinite(sizes).all() and sizes.max() > 0:
            breaks.add(float(grid[int(sizes.argmax())]))
    for kink in integrand.kinks:
        breaks.update(_zeros(kink, grid, s))
    if len(breaks) > _MOST_BREAKS:
        raise NoValue("too many kinks")
    smallest = 1e-9 * (high - low)
    return [
        b
        for b, previous in zip(sorted(breaks), [low, *sorted(breaks)], strict=False)
        if b - previous > smallest and high - b > smallest
    ]


def _root(g: Function, low: float, high: float, s: Setting) -> float:
    """The zero of g between two points at which it has different signs."""
    return float(brentq(lambda x: _at(g, x, s), low, high, xtol=1e-15))


def _at(g: Function, x: float, s: Setting) -> float:
    return float(_crossing(g(s.numbers([x])))[0])


def _zeros(g: Function, grid: Any, s: Setting) -> list[float]:
    """Zeros of g between the points of a grid, crossed or touched."""
    values = _crossing(g(s.numbers(grid))).astype(float)
    sizes = np.abs(values)
    crossed = np.flatnonzero(values[:-1] * values[1:] < 0)
    zeros = [_root(g, grid[i], grid[i + 1], s) for i in crossed]
    zeros += [float(x) for x in grid[sizes == 0]]
    for i in range(2, len(grid) - 2):
        valley = sizes[i] <= min(sizes[i - 1], sizes[i + 1])
        if valley and 0 < sizes[i] < 0.3 * min(sizes[i - 2], sizes[i + 2]):
            lowest = minimize_scalar(
                lambda x: abs(_at(g, x, s)),
                bounds=(grid[i - 1], grid[i + 1]),
                options={"xatol": 1e-13},
            )
            if lowest.fun < 1e-9 * sizes[i - 2]:
                zeros.append(float(lowest.x))
    return zeros


def _crossing(values: Any) -> Any:
    """Real values as they are; of complex ones the imaginary part, whose zeros are on the cut."""
    doubles = np.array([complex(value) for value in np.ravel(values)])
    return doubles.imag if np.abs(doubles.imag).max() > 1e-12 else doubles.real
