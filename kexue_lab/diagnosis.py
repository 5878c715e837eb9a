"""Compare a student's result with the right one, and say in which way it is wrong.

Every kind of fault is one small function: it looks at all inputs of a check at once, since what
holds for one input may hold there by chance.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from numbers import Rational
from typing import Any

import numpy as np

# Differences up to here are rounding, not another formula.
_RTOL, _ATOL = 1e-7, 1e-10
_MANY = 1000
_UNITS = {"": 1.0, "π": math.pi, "√2": math.sqrt(2), "√π": math.sqrt(math.pi), "ln 2": math.log(2)}


@dataclass(frozen=True)
class Case:
    """One input, what the student's function gave for it, and the right result."""

    arguments: tuple[Any, ...]
    got: Any
    expected: Any


@dataclass(frozen=True)
class Check:
    """All cases of a check.

    Attributes:
        cases: at least one.
        wrong: index of the first wrong one.
        solution: the right function of the arguments.
        names: what the arguments are called.
        observed: whether the results are not the student's own, but what was observed of them.
        rtol: relative tolerance of the exercise.
        atol: absolute tolerance of the exercise.
    """

    cases: Sequence[Case]
    wrong: int
    solution: Callable[..., Any]
    names: Sequence[str]
    rtol: float
    atol: float
    observed: bool = False

    def right(self, case: Case) -> bool:
        """Whether the case is right within the exercise's tolerance."""
        return same(case.got, case.expected, self.rtol, self.atol)

    def each(self) -> list[tuple[Any, Any]] | None:
        """Result and right one of every case as arrays; None unless all are finite numbers."""
        found = []
        for case in self.cases:
            a, b = leaves(case.got), leaves(case.expected)
            if a is None or b is None or [v.shape for v in a] != [v.shape for v in b]:
                return None
            found.append((a[0], b[0]) if len(a) == 1 else (_joined(a), _joined(b)))
        return found if all(np.isfinite(array).all() for pair in found for array in pair) else None

    def pairs(self) -> tuple[Any, Any] | None:
        """All results and all right ones as two long arrays; None unless they are numbers."""
        each = self.each()
        if each is None or not any(a.size for a, _ in each):
            return None
        got, expected = zip(*each, strict=True)
        return _joined(got), _joined(expected)

    def agree(
        self, of_got: Callable[[Any], Any], of_expected: Callable[[Any], Any] = lambda b: b
    ) -> bool:
        """Whether a rearrangement makes every wrong result the right one.

        Not where the numbers are right as they are: a palindrome is its own reverse.
        """
        wrong = [case for case in self.cases if not self.right(case)]
        pairs = [(numbers(case.got), numbers(case.expected)) for case in wrong]
        return bool(wrong) and all(
            a is not None
            and b is not None
            and not _equal(a, b)
            and _equal(of_got(a), of_expected(b))
            for a, b in pairs
        )


def same(got: Any, expected: Any, rtol: float, atol: float) -> bool:
    """Whether two results are equal: numbers within tolerance, arrays also in shape.

    `nan` equals nothing. Tuples and lists of results are compared entry by entry; text, sets and
    dictionaries must be equal.
    """
    try:
        if isinstance(got, (str, set, dict)) or isinstance(expected, (str, set, dict)):
            return type(got) is type(expected) and bool(got == expected)
        if isinstance(expected, (tuple, list)):
            pairs = zip(got, expected, strict=True)
            return all(same(a, b, rtol, atol) for a, b in pairs)
        if isinstance(got, Rational) and isinstance(expected, Rational):
            allowed = Fraction(atol) + Fraction(rtol) * abs(_exactly(expected))
            return abs(_exactly(got) - _exactly(expected)) <= allowed
        a, b = _as_array(got), _as_array(expected)
        return a.shape == b.shape and bool(np.allclose(a, b, rtol, atol))
    except Exception:  # whatever cannot be read as numbers
        return False


def _exactly(value: Rational) -> Fraction:
    """The value in Python's own whole numbers: those of numpy overflow."""
    return Fraction(int(value.numerator), int(value.denominator))


def _as_array(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # numpy has no bfloat16.
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.asarray(value)
    return array.astype(float) if array.dtype == object else array


def numbers(value: Any) -> Any:
    """The value as an array of real numbers, or None if it is something else."""
    try:
        array = _as_array(value)
    except Exception:
        return None
    return array.astype(float) if array.dtype.kind in "biuf" else None


def leaves(value: Any) -> list[Any] | None:
    """The value as arrays of real numbers, one or, of a list of unlike ones, more; None if not."""
    array = numbers(value)
    if array is not None:
        return [array]
    if not isinstance(value, (tuple, list)):
        return None
    parts = [leaves(entry) for entry in value]
    return None if None in parts or not parts else [v for part in parts for v in part or ()]


def _joined(arrays: Sequence[Any]) -> Any:
    return np.concatenate([array.ravel() for array in arrays])


def _equal(got: Any, expected: Any) -> bool:
    with np.errstate(all="ignore"):
        return np.shape(got) == np.shape(expected) and bool(
            np.allclose(got, expected, _RTOL, _ATOL)
        )


# --- what one result alone shows ------------------------------------------------------------------


def not_a_number(check: Check) -> str | None:
    """A nan, an infinity or a complex number where a real number belongs."""
    got, expected = check.cases[check.wrong].got, numbers(check.cases[check.wrong].expected)
    if expected is None or not np.isfinite(expected).all():
        return None
    with contextlib.suppress(Exception):
        if np.iscomplexobj(_as_array(got)):
            return "the result is complex: is there a root or a logarithm of a negative number?"
    found = numbers(got)
    if found is not None and np.isnan(found).any():
        return "nan arises from 0/0, ∞ − ∞, or a root or logarithm of a negative number."
    if found is not None and np.isinf(found).any():
        return "infinity: a division by 0, or a number beyond the range of floating point."
    return None


def another_kind(check: Check) -> str | None:
    """Text, a function, a dictionary where numbers belong."""
    got, expected = check.cases[check.wrong].got, numbers(check.cases[check.wrong].expected)
    kind = getattr(
        got, "type_name", type(got).__name__ if isinstance(got, (str, dict, set)) else None
    )
    if expected is None or kind is None:
        return None
    return f"{'an array' if expected.ndim else 'a number'} is asked for, not a {kind}."


def single_precision(check: Check) -> str | None:
    """Right as far as float32 goes."""
    got = check.cases[check.wrong].got
    dtype = str(getattr(got, "dtype", "")).split(".")[-1]
    digits = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 3e-2}.get(dtype)
    if digits is None and _is_single(got):
        dtype, digits = "single precision", 1e-5
    if digits is None:
        return None
    near = sum(_near(case, digits) for case in check.cases)
    if near == len(check.cases):
        return f"right, but in {dtype}: compute in float64 for all its digits."
    if 2 * near > len(check.cases):
        return f"right on {near} of {len(check.cases)} inputs, but in {dtype}: compute in float64."
    return None


def _near(case: Case, digits: float) -> bool:
    expected = numbers(case.expected)
    scale = float(np.max(np.abs(expected))) if expected is not None and expected.size else 0.0
    return same(case.got, case.expected, digits, digits * scale)


def _is_single(value: Any) -> bool:
    """Whether float32 holds these numbers exactly, as it does by accident whole numbers only."""
    found = numbers(value)
    if found is None or not found.size or not np.isfinite(found).all():
        return False
    with np.errstate(over="ignore"):
        single = found.astype(np.float32)
    in_lowest_bits = (single.view(np.int32) & 0xFFF).any() and (found != np.round(found)).any()
    return bool(np.array_equal(single, found) and in_lowest_bits)


def shape(check: Check) -> str | None:
    """The right numbers in the wrong places, or another shape altogether."""
    case = check.cases[check.wrong]
    got, expected = numbers(case.got), numbers(case.expected)
    if got is None or expected is None:
        return None
    if got.ndim == 2 and check.agree(np.transpose):
        return "this is the transpose of the right result."
    if got.shape != expected.shape:
        if all(_equal(*map(np.ravel, map(numbers, (c.got, c.expected)))) for c in check.cases):
            return f"the numbers are right; their shape should be {expected.shape}."
        return f"the result should have the shape {expected.shape}, not {got.shape}."
    return _order(check, expected.ndim) if expected.size > 1 else None


def _order(check: Check, axes: int) -> str | None:
    if any(check.agree(partial(np.flip, axis=axis)) for axis in range(axes)):
        return "the right numbers in reversed order."
    if check.agree(lambda a: np.sort(a, None), lambda b: np.sort(b, None)):
        return "the right numbers in another order."
    return None


def length(check: Check) -> str | None:
    """Too few or too many values, or one value in place of several."""
    case = check.cases[check.wrong]
    if not isinstance(case.expected, (tuple, list)) or check.observed:
        return None
    count = len(case.expected)
    with contextlib.suppress(TypeError):
        found = len(case.got)
        return None if found == count else f"{count} values are asked for, not {found}."
    return f"{count} values are asked for, as a {type(case.expected).__name__}."


# --- what all inputs show together ----------------------------------------------------------------


def by_a_size(check: Check) -> str | None:
    """A factor that is the length of an argument: a sum for a mean, n for n − 1."""
    each = check.each()
    if each is None or not all(b.any() for _, b in each) or _equal(*each[check.wrong]):
        return None
    factors = np.array([float(np.vdot(a, b) / np.vdot(b, b)) for a, b in each])
    if not all(_equal(a, f * b) for f, (a, b) in zip(factors, each, strict=True)):
        return None
    for name, sizes in _sizes(check):
        # Of a small number that is always the same it would be chance.
        if sizes.min() < 3 or (sizes.max() < 5 and np.all(sizes == sizes[0])):
            continue
        if _equal(factors, sizes):
            return f"your result is the right one times {name}: is it a sum and no mean?"
        if _equal(factors, 1 / sizes):
            return f"your result is the right one divided by {name}: is it a mean and no sum?"
        if _equal(factors, sizes / (sizes - 1)):
            return f"your result is divided by n − 1 where n belongs, {name}."
        if _equal(factors, (sizes - 1) / sizes):
            return f"your result is divided by n where n − 1 belongs; n is {name}."
    return None


def _sizes(check: Check) -> Iterator[tuple[str, Any]]:
    """What counts in the arguments: their lengths and whole numbers, for each case."""
    for i, name in enumerate(check.names[: len(check.cases[0].arguments)]):
        found = [case.arguments[i] for case in check.cases]
        if all(isinstance(a, int) and not isinstance(a, bool) for a in found):
            yield f"`{name}`", np.array(found, float)
            continue
        shapes = {len(np.shape(a)) for a in found} if all(map(_numeric, found)) else {0}
        for axis in range(shapes.pop() if len(shapes) == 1 else 0):
            what = f"the length of `{name}`" + (
                f" along axis {axis}" if np.ndim(found[0]) > 1 else ""
            )
            yield what, np.array([np.shape(a)[axis] for a in found], float)


def factor(check: Check) -> str | None:
    """A constant factor or a sign on all inputs."""
    pairs = check.pairs()
    if pairs is None or not pairs[1].any():
        return None
    got, expected = pairs
    ratio = float(got @ expected / (expected @ expected))
    if ratio == 0 or abs(ratio - 1) < 5e-3 or not _equal(got, ratio * expected):
        return None  # (a ratio near 1 is a rounded constant)
    if _equal(ratio, -1):
        return "the sign is wrong."
    name = _named(ratio)
    if np.allclose(np.abs(expected), np.abs(expected[0])) and not name:
        return None  # of a single number every other one is a multiple
    return f"your result is the right one times {name or f'{ratio:.6g}'}, on every input."


def _named(value: float) -> str:
    """A number as a small fraction of a familiar constant; empty if it is none."""
    for name, unit in _UNITS.items():
        for power in (1, -1) if name else (1,):
            share = Fraction(value / unit**power).limit_denominator(16)
            if share and abs(share.numerator) <= 16 and _equal(float(share) * unit**power, value):
                scale = f"·{name}" if power == 1 else f"/{name}"
                if share == 1 and name and power == 1:
                    return name
                return f"{share}{scale if name else ''}"
    return ""


def offset(check: Check) -> str | None:
    """A constant summand on all inputs."""
    pairs = check.pairs()
    if pairs is None or np.allclose(pairs[1], pairs[1][0]):
        return None
    difference = pairs[0] - pairs[1]
    if abs(difference[0]) < 1e-9 or not np.allclose(difference, difference[0], _RTOL, _ATOL):
        return None
    sign = "plus" if difference[0] > 0 else "minus"
    return f"your result is the right one {sign} {abs(difference[0]):.6g}, on every input."


_RELATIONS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("1 minus the right one", lambda e: 1 - e),
    ("the right one minus its square", lambda e: e - e**2),
    ("the reciprocal of the right one", lambda e: 1 / e),
    ("the square of the right one", lambda e: e**2),
    ("the square root of the right one", np.sqrt),
    ("the logarithm of the right one", np.log),
    ("the exponential of the right one", np.exp),
    ("the absolute value of the right one", np.abs),
)


def relation(check: Check) -> str | None:
    """Another function of the right result: its square, its complement, its logarithm."""
    pairs = check.pairs()
    if pairs is None or _equal(*pairs):  # right in value: something else is amiss
        return None
    for name, function in _RELATIONS:
        with np.errstate(all="ignore"):
            if _equal(pairs[0], function(pairs[1])):
                return f"your result is {name}, on every input."
    if _equal(np.abs(pairs[0]), np.abs(pairs[1])):
        return "right but for some signs."
    return None


def components(check: Check) -> str | None:
    """Of several results some are right, and one can be named that is wrong."""
    if check.observed or not all(
        isinstance(c.expected, tuple)
        and isinstance(c.got, (tuple, list))
        and len(c.got) == len(c.expected)
        for c in check.cases
    ):
        return None
    count = len(check.cases[0].expected)
    good = [all(_entry_right(check, c, i) for c in check.cases) for i in range(count)]
    if count < 2 or any(len(c.expected) != count for c in check.cases) or not any(good):
        return None
    place = good.index(False)
    rest = diagnose(_entry(check, place))
    return f"value {place + 1} of {count} is wrong" + (f": {rest}" if rest else ".")


def _entry_right(check: Check, case: Case, place: int) -> bool:
    return same(case.got[place], case.expected[place], check.rtol, check.atol)


def _entry(check: Check, place: int) -> Check:
    """The check of one of several results alone."""
    cases = [Case(case.arguments, case.got[place], case.expected[place]) for case in check.cases]
    wrong = next(i for i, c in enumerate(check.cases) if not _entry_right(check, c, place))
    solution = check.solution
    return replace(check, cases=cases, wrong=wrong, solution=lambda *a: solution(*a)[place])


# --- what the right function gives for other arguments --------------------------------------------


_CHANGES: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("{} had the other sign", lambda a: -a),
    ("{} were squared", lambda a: a**2),
    ("{} were its square root", lambda a: a**0.5),
    ("1 − {0} stood for {0}", lambda a: 1 - a),
    ("{} were doubled", lambda a: 2 * a),
    ("{} were halved", lambda a: a / 2),
    ("{} were 1", lambda a: a * 0 + 1),
    ("{} were 0", lambda a: a * 0),
    ("{} were its reciprocal", lambda a: 1 / a),
    ("{} were transposed", lambda a: a.T if a.ndim == 2 else None),
)
# Of a count, whose square may cost hours.
_CHANGES_OF_A_COUNT: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("{} were one larger", lambda a: a + 1),
    ("{} were one smaller", lambda a: a - 1),
)


def an_argument(check: Check) -> str | None:
    """One of the arguments as it was given, on all inputs."""
    case = check.cases[check.wrong]
    for i, name in enumerate(check.names[: len(case.arguments)]):
        if _numeric(case.arguments[i]) and all(
            len(c.arguments) > i and same(c.got, c.arguments[i], _RTOL, _ATOL) for c in check.cases
        ):
            return f"your result is `{name}` as it was given, on every input."
    return None


def other_arguments(check: Check) -> str | None:
    """Right for other arguments: two exchanged, one squared, one left out."""
    case = check.cases[check.wrong]
    # Right in value, or but for rounding: something else is amiss. And of yes or no every change
    # may give the same by chance.
    if (
        leaves(case.got) is None
        or same(case.got, case.expected, max(check.rtol, _RTOL), max(check.atol, _ATOL))
        or isinstance(case.expected, (bool, np.bool_))
    ):
        return None
    for text, change in _changes(check):
        with contextlib.suppress(Exception), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if _explains(check, change):
                return f"this would be right if {text}."
    return None


def _changes(check: Check) -> Iterator[tuple[str, Callable[[list[Any]], None]]]:
    arguments = check.cases[check.wrong].arguments
    names = [f"`{name}`" for name in check.names[: len(arguments)]]
    for i, j in combinations(range(len(arguments)), 2):
        if _alike(arguments[i], arguments[j]):
            yield f"{names[i]} and {names[j]} were exchanged", _exchange(i, j)
    for i, argument in enumerate(arguments):
        if _numeric(argument):
            for text, change in _CHANGES_OF_A_COUNT if isinstance(argument, int) else _CHANGES:
                yield text.format(names[i]), _replacement(i, change)


def _exchange(i: int, j: int) -> Callable[[list[Any]], None]:
    def exchange(arguments: list[Any]) -> None:
        arguments[i], arguments[j] = arguments[j], arguments[i]

    return exchange


def _replacement(i: int, change: Callable[[Any], Any]) -> Callable[[list[Any]], None]:
    def replacement(arguments: list[Any]) -> None:
        arguments[i] = change(arguments[i])

    return replacement


def _explains(check: Check, change: Callable[[list[Any]], None]) -> bool:
    """Whether the right function of the changed arguments gives the student's results.

    The first wrong case comes first: most changes are ruled out by it alone.
    """
    rtol = min(max(_RTOL, check.rtol), 1e-4)
    for case in [check.cases[check.wrong], *check.cases]:
        arguments = list(case.arguments)
        change(arguments)
        if not same(case.got, check.solution(*arguments), rtol, _ATOL):
            return False
    return True


def _numeric(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float, Fraction, np.ndarray)) or hasattr(value, "detach")


def _alike(a: Any, b: Any) -> bool:
    if _numeric(a) and _numeric(b):
        return bool(np.shape(a) == np.shape(b))
    return type(a) is type(b)


# --- what is left ---------------------------------------------------------------------------------


def by_an_argument(check: Check) -> str | None:
    """A factor that is a number among the arguments, or its square or root."""
    each = check.each()
    if each is None or not all(b.any() for _, b in each) or _equal(*each[check.wrong]):
        return None
    factors = np.array([float(np.vdot(a, b) / np.vdot(b, b)) for a, b in each])
    if not factors.all() or not all(
        _equal(a, f * b) for f, (a, b) in zip(factors, each, strict=True)
    ):
        return None
    for i, name in enumerate(check.names[: len(check.cases[0].arguments)]):
        found = [case.arguments[i] for case in check.cases]
        if not all(_numeric(value) and np.ndim(value) == 0 and value > 0 for value in found):
            continue
        values = np.array(found, float)
        if len(set(values)) < min(3, len(values)):  # two inputs agree too easily
            continue
        for power, text in _POWERS:
            share = factors / values**power
            constant = _named(float(share[0])) if _equal(share, share[0] + 0 * share) else ""
            if constant:
                times = "" if constant == "1" else f"{constant} · "
                return f"your result is the right one times {times}{text.format(f'`{name}`')}."
    return None


_POWERS = (
    (1, "{}"),
    (-1, "1/{}"),
    (2, "{}²"),
    (-2, "1/{}²"),
    (0.5, "√{}"),
    (-0.5, "1/√{}"),
)


def of_each_input(check: Check) -> str | None:
    """A factor or a summand that differs between the inputs."""
    each = check.each()
    if each is None or _equal(*each[check.wrong]):
        return None
    # Every number is a multiple of another: only results of several unlike ones tell.
    telling = sum(b.size > 1 and not np.allclose(b, b.flat[0], 1e-6) for _, b in each)
    if telling < 2 and telling < len(each):
        return None
    with np.errstate(invalid="ignore"):
        factors = [float(np.vdot(a, b) / np.vdot(b, b)) for a, b in each]
    this = check.wrong
    multiples = all(f != 0 and _equal(a, f * b) for f, (a, b) in zip(factors, each, strict=True))
    if multiples and not np.allclose(factors, factors[0]):
        return (
            "your result is a multiple of the right one, with a factor that differs between the "
            f"inputs: {factors[this]:.6g} on this one."
        )
    summands = [float(np.mean(a - b)) for a, b in each]
    shifted = all(_equal(a, b + c) for c, (a, b) in zip(summands, each, strict=True))
    if shifted and not np.allclose(summands, summands[0]):
        return (
            "your result is the right one plus a number that differs between the inputs: "
            f"{summands[this]:.6g} on this one."
        )
    return None


def rounded(check: Check) -> str | None:
    """The right result with few digits: rounded to decimals, or to significant digits."""
    pairs = check.pairs()
    if pairs is None or pairs[0].size > _MANY or not (pairs[0] % 1).any():
        return None
    got, expected = pairs
    for places in range(1, 11):
        near = np.abs(got - expected) <= 0.51 * 10.0**-places
        if near.all() and np.allclose(got, np.round(got, places), 1e-15, 0):
            return (
                f"your result is the right one, rounded to {places} decimals: leave it unrounded."
            )
        few = np.array([float(f"{value:.{places - 1}e}") for value in got])
        size = 10.0 ** np.floor(np.log10(np.maximum(np.abs(expected), 1e-300)))
        if np.all(np.abs(got - expected) <= 5.1 * size * 10.0**-places) and np.all(few == got):
            return f"your result is the right one, rounded to {places} digits: leave it unrounded."
    return None


def few_digits(check: Check) -> str | None:
    """Nearly right: a rounded constant, a coarse grid, a sample in place of a mean."""
    pairs = check.pairs()
    if pairs is None or not pairs[1].any():
        return None
    errors = [_error(case) for case in check.cases]
    error = float(np.max(np.abs(pairs[0] - pairs[1])) / np.max(np.abs(pairs[1])))
    # Of a single value, a wider range would lead to it by trial and error.
    widest = 1e-2 if check.cases[check.wrong].arguments else 1e-3
    if not 0 < error < widest or max(errors) > 20 * widest or max(errors) <= 10 * check.rtol:
        return None
    exact = sum(e <= max(1e-12, check.rtol) for e in errors)
    if 2 * exact >= len(errors) and max(errors) < 1e-3:
        digits = math.floor(-math.log10(errors[check.wrong]))
        return (
            f"right on {exact} of {len(errors)} inputs, and here to about {digits} digits: are "
            "nearly equal numbers subtracted here, or are there too few steps?"
        )
    digits = math.floor(-math.log10(error))
    return f"right to about {digits} digits: " + (
        "single precision, a rounded number, or a difference of nearly equal ones?"
        if error < 1e-6
        else "a rounded constant, a coarse grid, too few steps, or random numbers?"
    )


def _error(case: Case) -> float:
    """The largest error of a result's arrays, each in units of its largest number."""
    worst = 0.0
    for a, b in zip(leaves(case.got) or (), leaves(case.expected) or (), strict=True):
        off = float(np.max(np.abs(a - b), initial=0.0))
        size = float(np.max(np.abs(b), initial=0.0))
        worst = max(worst, off / size if size else (math.inf if off else 0.0))
    return worst


def right_elsewhere(check: Check) -> str | None:
    """Right on some inputs only."""
    right = [case for case in check.cases if check.right(case)]
    if not right or len(right) == len(check.cases):
        return None
    count = f"right on {len(right)} of {len(check.cases)} inputs"
    if 2 * len(right) < len(check.cases):
        return f"{count} only: what is simpler there?"
    return f"{count}: which case is different here?"


def some_entries(check: Check) -> str | None:
    """Right in some entries of an array only."""
    case = check.cases[check.wrong]
    got, expected = numbers(case.got), numbers(case.expected)
    if got is None or expected is None or got.shape != expected.shape:
        return None
    good = np.isclose(got, expected, check.rtol, check.atol)
    if not good.any() or good.all():
        return None
    first = tuple(int(i) for i in np.argwhere(~good)[0])
    return f"{int(good.sum())} of {good.size} entries are right; the first wrong one is at {first}."


KINDS: tuple[Callable[[Check], str | None], ...] = (
    not_a_number,
    another_kind,
    single_precision,
    length,
    shape,
    by_a_size,
    factor,
    offset,
    components,
    relation,
    an_argument,
    other_arguments,
    by_an_argument,
    of_each_input,
    rounded,
    few_digits,
    right_elsewhere,
    some_entries,
)


# Of a single value that is asked for, the others would give it away.
_KINDS_OF_A_VALUE = (not_a_number, another_kind, single_precision, length, shape, few_digits)


def diagnose(check: Check) -> str | None:
    """What may be wrong, by the first kind of fault that fits; None if none does."""
    if check.right(check.cases[check.wrong]):  # something else is amiss than the value
        return None
    kinds = KINDS if check.cases[check.wrong].arguments else _KINDS_OF_A_VALUE
    return next((text for kind in kinds if (text := kind(check)) is not None), None)
