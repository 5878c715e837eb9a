"""The checks behind the claims: plain functions that say what they found.

None of them shows anything or keeps a ledger. What could not have failed, or has nothing to check,
raises ValueError or TypeError; whether a check holds is for the caller to read in the result.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from scipy.special import stdtr

from kexue_lab.numerals import decimals_of, fixed, minus, short
from kexue_lab.recorded import SPREAD, Row, columns, outside
from kexue_lab.symbolic import Domain, Verdict, as_side, decide

Expectation = Literal["higher", "lower", "equal"]

# A spread below this share of the figures themselves is rounding.
_NOISE = 1e-12
_ERRORS = 1e-4
_FEW = 3
SIGNIFICANCE = 0.01
# What an experiment states holds on at least this share of its seeds.
ENOUGH = 0.9


@dataclass(frozen=True)
class Finding:
    """What a numerical check found.

    Attributes:
        holds: whether the statement holds.
        shown: the numbers compared, rounded, in one line.
        lines: what a failure says; the first names the worst entry.
    """

    holds: bool
    shown: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two symbolic sides as they were read, and the verdict on them."""

    left: Any
    right: Any
    verdict: Verdict


# --- symbolic -----------------------------------------------------------------------------------


def compared(lhs: Any, rhs: Any, domain: Domain | None, seconds: float) -> Comparison:
    """Decide whether two symbolic expressions (or matrices) are equal.

    Raises:
        ValueError: if the sides are the same to begin with, or matrices of different shapes.
        TypeError: if a side is no expression.
    """
    left, right = as_side(lhs, "lhs"), as_side(rhs, "rhs")
    if isinstance(left, sp.MatrixBase) and right == 0:
        right = sp.ImmutableMatrix(sp.zeros(*left.shape))
    if getattr(left, "shape", ()) != getattr(right, "shape", ()):
        raise ValueError("one side is a matrix of another shape than the other")
    if left == right:
        raise ValueError(
            f"both sides are the same expression before any work is done, {left}; "
            "pass Integral, Derivative or Sum unevaluated"
        )
    return Comparison(left, right, decide(left, right, domain, seconds))


# --- numbers against an oracle or a bound ---------------------------------------------------------


def agreement(ours: Any, theirs: Any, oracle: str, rtol: float, atol: float) -> Finding:
    """Compare numbers with an oracle's: |ours - theirs| <= atol + rtol |theirs| everywhere.

    Python's integers and fractions are compared exactly when both tolerances are 0.

    Raises:
        ValueError: for empty, non-finite or differently shaped input, or the same object twice.
    """
    a, b = _two_tables(ours, theirs, oracle, rtol, atol)
    allowed = np.asarray(atol + rtol * abs(b) if rtol or atol else np.zeros(b.shape, int))
    gap = np.asarray(abs(a - b))
    worst = np.unravel_index(int(np.argmax(gap - allowed)), a.shape)
    at = f" at index {tuple(int(i) for i in worst)}" if a.ndim else ""
    lines = (
        f"ours  {a[worst]!s}{at}",
        f"{oracle}  {b[worst]!s}",
        f"difference {gap[worst]!s}, allowed: {_allowed(rtol, atol)}",
    )
    finest = np.asarray(allowed, dtype=float)
    named = oracle.removeprefix("by ")
    shown = f"{_side_by_side(a, b, finest)} by {named}; {_allowed(rtol, atol)}"
    return Finding(not np.any(gap > allowed), shown, lines)


def bounds(values: Any, above: float | None, below: float | None) -> Finding:
    """Find whether every value lies strictly above and/or below a bound.

    Raises:
        ValueError: without a finite bound, or for empty or non-finite values.
    """
    if above is None and below is None:
        raise ValueError("a bound is needed, above or below")
    if not all(bound is None or math.isfinite(bound) for bound in (above, below)):
        raise ValueError(f"a bound must be finite, got above {above}, below {below}")
    numbers = _reals(values, "values")
    low, high = float(numbers.min()), float(numbers.max())
    lines = []
    if above is not None and not low > above:
        lines.append(f"smallest value {low:.6g}, not > {above:g}")
    if below is not None and not high < below:
        lines.append(f"largest value {high:.6g}, not < {below:g}")
    shown = _between(low, high, numbers.size, above, below)
    return Finding(not lines, shown, tuple(lines[:1]))


def _two_tables(
    ours: Any, theirs: Any, oracle: str, rtol: float, atol: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both sides as arrays of one shape, exact ones only if both are."""
    if ours is theirs and not isinstance(ours, (int, float, Fraction)):
        raise ValueError("ours and theirs are the same object")
    if not oracle.strip():
        raise ValueError("the oracle must be named")
    if not (0 <= rtol < math.inf and 0 <= atol < math.inf):
        raise ValueError(f"a tolerance is negative or not finite: {rtol}, {atol}")
    a, b = _numbers(ours, "ours"), _numbers(theirs, "theirs")
    if a.shape != b.shape:
        raise ValueError(f"shapes differ, {a.shape} and {b.shape}")
    if not a.dtype == b.dtype == object:
        a, b = _inexact(a, "ours"), _inexact(b, "theirs")
    return a, b


def _side_by_side(a: NDArray[Any], b: NDArray[Any], finest: NDArray[Any]) -> str:
    """A few numbers one by one, many by their range."""
    a, b, finest = a.ravel(), b.ravel(), finest.ravel()
    if a.size <= _FEW:
        mine, other = (
            ", ".join(short(v, tol) for v, tol in zip(side, finest, strict=True)) for side in (a, b)
        )
        return f"{mine} against {other}"
    if np.iscomplexobj(a) or np.iscomplexobj(b):
        a, b = abs(a), abs(b)
        return f"{a.size} numbers of size {_range(a, finest)} against {_range(b, finest)}"
    return f"{a.size} values, {_range(a, finest)} against {_range(b, finest)}"


def _range(values: NDArray[Any], finest: NDArray[Any]) -> str:
    ends = [short(values[i], finest[i]) for i in (int(values.argmin()), int(values.argmax()))]
    return " to ".join(dict.fromkeys(ends))


def _between(low: float, high: float, count: int, above: float | None, below: float | None) -> str:
    limits = [bound for bound in (above, below) if bound is not None]
    smallest, largest = _clear_of(low, limits), _clear_of(high, limits)
    over = "" if above is None else minus(f"> {above:g}")
    under = "" if below is None else minus(f"< {below:g}")
    ends = " to ".join(dict.fromkeys([smallest, largest]))
    if ends == "0" and max(map(abs, limits)) < _ERRORS:
        ends = ""  # an error of rounding, another one on each processor: the bound says all
    if count > 1:
        shown = f"{count} values", ends, f"each {' and '.join(filter(None, (over, under)))}"
        return ", ".join(filter(None, shown))
    if over and under:
        return f"{over.removeprefix('> ')} < {smallest} {under}"
    return f"{ends} {over or under}".strip()


def _clear_of(value: float, limits: list[float]) -> str:
    """The value with digits enough to see on which side of the limits it lies, and few more."""
    scale = max(abs(limit) for limit in limits)
    # A small bound is one of errors: far below it they are noise.
    text = short(value, scale / (10 if scale < _ERRORS else 100))
    for digits in range(4, 18):
        shown = float(text.replace("−", "-"))
        if all((shown > limit) == (value > limit) and shown != limit for limit in limits):
            break
        text = minus(f"{value:.{digits}g}")
    return text


# --- samples and seeds ----------------------------------------------------------------------------


def estimation(samples: Any, exact: float, sigmas: float) -> Finding:
    """Find whether a Monte Carlo estimate lies within so many of its standard errors.

    Args:
        samples: independent draws, or the pair `(estimate, standard_error)` as a tuple.
        exact: the value they should have.
        sigmas: how many standard errors are allowed, at most 6.

    Raises:
        ValueError: for an empty sample, a non-finite number or a zero standard error.
    """
    if not 0 < sigmas <= 6:
        raise ValueError(f"sigmas must lie in (0, 6], got {sigmas}")
    if isinstance(samples, tuple):
        mean, error = (float(v) for v in _reals(samples, "samples", size=2))
    else:
        mean, error = _mean_and_error(samples)
    if not _NOISE * abs(mean) < error < math.inf:
        raise ValueError(f"the standard error is {error:g}; nothing can be told")
    target = float(_reals(exact, "exact", size=1).ravel()[0])
    z = (mean - target) / error
    mean_shown = fixed(mean, decimals_of(error, 2))
    found = minus(f"{mean_shown} ± {error:.2g} against {target:.6g}, z = {fixed(z, 1, '+')}")
    return Finding(
        abs(z) <= sigmas, f"{found} (allowed {sigmas:g})", (found, f"allowed |z|: {sigmas:g}")
    )


def difference(
    ours: Any, baseline: Any, expect: Expectation, paired: bool, margin: float
) -> Finding:
    """Test by t-tests how figures of several seeds differ from a baseline's.

    "higher" and "lower" hold if the mean difference exceeds the margin, "equal" if it lies within
    the margin on both sides, at p < 0.01 each; p is the larger one of the two.

    Raises:
        ValueError: for fewer than 3 seeds, non-finite figures, mismatched shapes, a margin that
            is none, or a difference without any spread.
    """
    a, b = _seeds(ours, baseline, expect, paired, margin)
    error, freedom = _error_and_freedom(a, b, paired)
    if not error > _NOISE * max(abs(a).max(), abs(b).max()):
        raise ValueError("the difference has no spread over the seeds")
    mean = float(a.mean() - b.mean())
    p = _p_value(mean, error, freedom, expect, margin)
    seeds = f"{a.size} paired seeds" if paired else f"{a.size} and {b.size} seeds"
    gap = fixed(mean, decimals_of(error, 1), "+")
    told = minus(f"difference {gap} ± {error:.1g} over {seeds}, {_p_shown(p)}")
    asserted = f"; {expect}, margin {margin:g}" if margin else ""
    lines = (told, f"asserted: {expect}, margin {margin:g}, p < {SIGNIFICANCE:g}")
    return Finding(p < SIGNIFICANCE, told + asserted, lines)


def share(each: Any) -> Finding:
    """Find whether something holds on at least nine of ten seeds.

    Raises:
        TypeError: if `each` does not hold one truth value per seed.
        ValueError: for fewer than 3 seeds.
    """
    truths = np.asarray(each)
    if truths.dtype != bool or truths.ndim != 1:
        raise TypeError(f"true or false for each seed is needed, got {each!r}")
    if truths.size < 3:
        raise ValueError(f"at least 3 seeds are needed, got {truths.size}")
    shown = f"on {truths.sum()} of {truths.size} seeds"
    return Finding(bool(truths.sum() >= ENOUGH * truths.size), shown, (shown,))


def spread(key: str, figures: dict[str, Any], rows: Mapping[int, Row]) -> Finding:
    """Find whether one run's figures lie within the spread of the recorded seeds.

    Raises:
        ValueError: if nothing is recorded under `key`, or figures of other names or shapes.
    """
    recorded = columns(rows, key)
    if recorded.keys() != figures.keys():
        raise ValueError(f"recorded are {', '.join(recorded)}; this run has {', '.join(figures)}")
    away = {name: outside(value, recorded[name]) for name, value in figures.items()}
    worst = max(away, key=lambda name: away[name])
    told = f"{SPREAD * away[worst]:.1f} standard deviations from the mean"
    return Finding(
        away[worst] <= 1, f"at most {told}", (f"{worst}: {told}", f"allowed: {SPREAD:g}")
    )


def _p_value(gap: float, error: float, freedom: float, expect: Expectation, margin: float) -> float:
    """The p-value of a t-test; of two one-sided ones for "equal"."""

    # Of scipy.special, which is loaded anyway: scipy.stats takes a second to import.
    def above(shift: float) -> float:
        return float(stdtr(freedom, (shift - gap) / error))

    def below(shift: float) -> float:
        return float(stdtr(freedom, (gap - shift) / error))

    if expect == "higher":
        return above(margin)
    if expect == "lower":
        return below(-margin)
    return max(above(-margin), below(margin))


def _p_shown(p: float) -> str:
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.{decimals_of(p, 2)}f}"


def _seeds(
    ours: Any, baseline: Any, expect: Expectation, paired: bool, margin: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    a, b = _reals(ours, "ours"), _reals(baseline, "baseline")
    if expect not in ("higher", "lower", "equal"):
        raise ValueError(f'expect "higher", "lower" or "equal", got {expect!r}')
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"one number per seed, got shapes {a.shape} and {b.shape}")
    if min(a.size, b.size) < 3:
        raise ValueError(f"at least 3 seeds are needed, got {a.size} and {b.size}")
    if paired and a.size != b.size:
        raise ValueError(f"paired figures differ in number, {a.size} and {b.size}")
    if not 0 <= margin < math.inf or (expect == "equal" and margin == 0):
        raise ValueError(f'margin {margin} is no bound for "{expect}"')
    return a, b


def _error_and_freedom(a: NDArray[Any], b: NDArray[Any], paired: bool) -> tuple[float, float]:
    """The standard error of the mean difference, and its degrees of freedom (Welch's, unpaired)."""
    if paired:
        return float((a - b).std(ddof=1) / math.sqrt(a.size)), a.size - 1
    parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
    if not parts.any():
        return 0.0, 0.0
    shares = parts / parts.sum()
    return math.sqrt(parts.sum()), float(1 / (shares**2 / [a.size - 1, b.size - 1]).sum())


def _mean_and_error(samples: Any) -> tuple[float, float]:
    draws = _reals(samples, "samples").ravel()
    if draws.size < 2:
        raise ValueError("one draw has no standard error")
    return float(draws.mean()), float(draws.std(ddof=1) / math.sqrt(draws.size))


# --- reading numbers ------------------------------------------------------------------------------


def _numbers(value: Any, name: str, size: int | None = None) -> NDArray[Any]:
    """An array of finite numbers; of Python's exact ones if there is nothing else in it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} have no one shape: {error}") from error
    if array.dtype.kind in "iu":
        array = array.astype(object)  # Python's integers, which do not round
    if array.dtype != object or not all(isinstance(v, (int, Fraction)) for v in array.ravel()):
        array = _inexact(array, name)
    if array.size == 0 or (size is not None and array.size != size):
        wanted = "at least one number" if size is None else f"{size} numbers"
        raise ValueError(f"{name} must hold {wanted}, got {array.size}")
    return array


def _inexact(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The numbers as floats (or complex floats)."""
    try:
        array = array.astype(complex if np.iscomplexobj(array) else float)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} are no numbers of float's range: {array!r}") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name} hold nan or infinity")
    return array


def _reals(value: Any, name: str, size: int | None = None) -> NDArray[Any]:
    array = _numbers(value, name, size)
    if np.iscomplexobj(array):
        raise ValueError(f"{name} must be real, got complex numbers")
    return _inexact(array, name)


def _allowed(rtol: float, atol: float) -> str:
    parts = [f"relative {rtol:g}"] if rtol else []
    parts += [f"absolute {atol:g}"] if atol else []
    return "tolerance " + " + ".join(parts) if parts else "exactly"
