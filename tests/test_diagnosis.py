"""Each kind of fault in an answer is recognised, and none where there is none."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
import torch

from kexue_lab.diagnosis import Case, Check, diagnose, same
from kexue_lab.exercises import Exercise

RNG = np.random.default_rng(3)
POINTS = [(0.7, 2.0), *((float(a), float(b)) for a, b in RNG.uniform(0.3, 3, (5, 2)))]


def slope(x, scale):
    return x**2 / scale + math.sin(x)


def check(solution, answer, inputs=POINTS, rtol=1e-9):
    cases = [Case(a, answer(*a), solution(*a)) for a in inputs]
    wrong = next(i for i, c in enumerate(cases) if not same(c.got, c.expected, rtol, 1e-12))
    names = solution.__code__.co_varnames[: solution.__code__.co_argcount]
    return diagnose(Check(cases, wrong, solution, names, rtol, 1e-12))


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda x, s: math.nan, "nan arises from"),
        (lambda x, s: np.inf, "infinity"),
        (lambda x, s: 1j * slope(x, s), "complex"),
        (lambda x, s: np.float32(slope(x, s)), "right, but in float32"),
        (lambda x, s: torch.tensor(slope(x, s), dtype=torch.bfloat16), "right, but in bfloat16"),
        (lambda x, s: float(np.float32(slope(x, s))), "right, but in single precision"),
        (lambda x, s: torch.tensor(slope(x, s)).item(), "right, but in single precision"),
        (lambda x, s: np.float32(slope(x, s) if x != 0.7 else 9.0), "right on 5 of 6 inputs, but"),
        (
            lambda x, s: slope(x, s) * (1 + 3e-7 * math.cos(9 * x)),
            "difference of nearly equal ones?",
        ),
        (lambda x, s: slope(x, s) * (1 + 3e-3 * math.cos(9 * x)), "too few steps"),
        (lambda x, s: slope(x, s) * (1 + 4e-5 * (x == 0.7)), "right on 5 of 6 inputs, and here"),
        (lambda x, s: -slope(x, s), "the sign is wrong"),
        (lambda x, s: slope(x, s) / 2, "times 1/2, on every input"),
        (lambda x, s: slope(x, s) * math.sqrt(2) / 3, "times 1/3·√2, on every input"),
        (lambda x, s: slope(x, s) / math.pi, "times 1/π, on every input"),
        (lambda x, s: slope(x, s) * 1.2345, "times 1.2345, on every input"),
        (lambda x, s: slope(x, s) + 0.918939, "plus 0.918939, on every input"),
        (lambda x, s: slope(x, s) - 1, "minus 1, on every input"),
        (lambda x, s: 1 - slope(x, s), "1 minus the right one"),
        (lambda x, s: slope(x, s) ** 2, "the square of the right one"),
        (lambda x, s: math.sqrt(slope(x, s)), "the square root of the right one"),
        (lambda x, s: 1 / slope(x, s), "the reciprocal"),
        (lambda x, s: math.log(slope(x, s)), "the logarithm"),
        (lambda x, s: math.exp(slope(x, s)), "the exponential"),
        (lambda x, s: slope(s, x), "right if `x` and `scale` were exchanged"),
        (lambda x, s: slope(x, s**2), "right if `scale` were squared"),
        (lambda x, s: slope(-x, s), "right if `x` had the other sign"),
        (lambda x, s: slope(1 - x, s), "right if 1 − `x` stood for `x`"),
        (lambda x, s: slope(x, 1), "right if `scale` were 1"),
        (lambda x, s: slope(x, 2 * s), "right if `scale` were doubled"),
        (lambda x, s: round(slope(x, s), 5), "rounded to 5 decimals"),
        (lambda x, s: round(slope(x, s), 8), "rounded to 8 decimals"),
        (lambda x, s: float(f"{slope(x, s):.4g}"), "rounded to 4 digits"),
        (lambda x, s: x, "your result is `x` as it was given"),
        (lambda x, s: slope(x, s) * math.log(2), "times ln 2, on every input"),
        (lambda x, s: slope(x, s) * 3.1416 / math.pi, "right to about 5 digits"),
        (lambda x, s: slope(x, s) / 16, "times 1/16, on every input"),
        (
            lambda x, s: slope(x, s) if x == 0.7 else 0.0,
            "right on 1 of 6 inputs only: what is simpler there?",
        ),
        (lambda x, s: slope(x, s) if x != 0.7 else 0.0, "right on 5 of 6 inputs"),
        (lambda x, s: "text", "a number is asked for, not a str"),
        (lambda x, s: {}, "a number is asked for, not a dict"),
        (lambda x, s: [slope(x, s)], "the numbers are right; their shape should be ()"),
    ],
)
def test_numbers(answer, part):
    assert part in check(slope, answer)


@pytest.mark.parametrize(
    "answer",
    [lambda x, s: x + 17 * s**3, lambda x, s: ["a", "b"], lambda x, s: 3.0],
)
def test_where_no_kind_fits_nothing_is_said(answer):
    assert check(slope, answer) is None


ARRAYS = [(RNG.normal(size=(3, 3)),), (RNG.normal(size=(4, 4)),)]
SCALE = np.array([[1.0], [2.0], [3.0]])


def columns(matrix):
    return matrix @ matrix + np.arange(len(matrix))


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda m: columns(m).T, "the transpose"),
        (lambda m: columns(m)[::-1], "reversed order"),
        (lambda m: np.roll(columns(m), 1), "another order"),
        (lambda m: columns(m).ravel(), "the numbers are right; their shape should be (3, 3)"),
        (lambda m: columns(m)[:2], "should have the shape (3, 3), not (2, 3)"),
        (lambda m: np.abs(columns(m)), "the absolute value"),
        (lambda m: columns(m) * np.sign(m), "right but for some signs"),
        (lambda m: columns(m.T), "right if `matrix` were transposed"),
        (lambda m: np.where(np.eye(len(m)), 9.0, columns(m)), "6 of 9 entries are right"),
        (lambda m: torch.tensor(columns(m), dtype=torch.float32), "float32"),
    ],
)
def test_arrays(answer, part):
    assert part in check(columns, answer, ARRAYS)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda x, s: slope(x, s) * s, "the right one times `scale`."),
        (lambda x, s: slope(x, s) / s, "the right one times 1/`scale`."),
        (lambda x, s: slope(x, s) * x**2 / 2, "the right one times 1/2 · `x`²."),
        (lambda x, s: slope(x, s) / math.sqrt(x), "the right one times 1/√`x`."),
    ],
)
def test_an_argument_as_a_factor(answer, part):
    assert part in check(slope, answer)


def test_coarse_solutions_are_found_at_other_arguments_too():
    def coarse(x, rate):
        return round(x - rate * math.sin(x), 5)

    assert "`rate` were 1" in check(coarse, lambda x, rate: x - math.sin(x), rtol=1e-4)


DATA = [(RNG.normal(size=n),) for n in (6, 9, 14)]


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda x: x.var() * len(x), "times the length of `x`: is it a sum"),
        (lambda x: x.var() / len(x), "divided by the length of `x`: is it a mean"),
        (lambda x: x.var(ddof=1), "divided by n − 1 where n belongs, the length of `x`"),
        (lambda x: 2 * x.var(), "times 2, on every input"),
    ],
)
def test_a_length_as_a_factor(answer, part):
    assert part in check(lambda x: x.var(), answer, DATA)


def test_the_other_variance_and_a_whole_number():
    assert "divided by n where n − 1 belongs" in check(lambda x: x.var(ddof=1), np.var, DATA)
    counts = [(7, 0.3), (11, 0.9)]
    assert "times `n`" in check(lambda n, y: y**n, lambda n, y: n * y**n, counts)
    pairs = [(RNG.normal(size=2),) for _ in range(4)]  # a 2 there is as likely another 2
    assert check(lambda x: x.var(), lambda x: 2 * x.var(), pairs).endswith("2, on every input.")


ROWS = [(RNG.normal(size=(3, 4)),), (RNG.normal(size=(5, 2)),)]


def shares(matrix):
    return np.exp(matrix).sum(1)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda m: shares(m) / shares(m).sum(), "a factor that differs between the inputs"),
        (lambda m: shares(m) - shares(m).mean(), "a number that differs between the inputs"),
        (lambda m: shares(m) * 1.5, "times 3/2, on every input"),
    ],
)
def test_a_factor_or_summand_of_each_input(answer, part):
    assert part in check(shares, answer, ROWS)


# Answers that are right but for rounding, where a change of the result or of an argument changes
# nothing: none of these may be named.
INDIFFERENT = [
    (lambda m: (m @ m.T).sum(1, keepdims=True), ROWS),  # an axis of length 1 is its own reverse
    (lambda m: m @ m.T, ROWS),  # a symmetric matrix is its own transpose
    (lambda m: np.full(4, m.sum()), ROWS),  # and equal numbers have no order
    (lambda x, scale: x**2 / scale**2, POINTS),  # even in both
    (lambda x, scale: (x - scale) ** 2 + abs(x * scale), POINTS),  # symmetric in both
]


@pytest.mark.parametrize(("solution", "inputs"), INDIFFERENT)
def test_what_makes_no_difference_is_no_hint(solution, inputs):
    for error in (2e-9, 2e-8, 2e-7, 2e-5):
        hint = check(solution, lambda *a, e=error: solution(*a) * (1 + e), inputs)
        assert hint is None or "digits" in hint


def test_of_a_right_result_nothing_is_said():
    cases = [Case(a, slope(*a), slope(*a)) for a in POINTS]
    assert diagnose(Check(cases, 0, slope, ("x", "scale"), 1e-9, 1e-12)) is None


def test_a_function_is_no_array():
    task = Exercise("columns", solution=columns, inputs=lambda rng: ARRAYS)
    assert "an array is asked for, not a function" in repr(task.check(lambda m: columns))
    assert "asked for, not" not in repr(task.check(lambda m: sp.Symbol("a")))
    assert "0x" not in repr(task.check(lambda m: columns))


def pair(x, scale):
    return x + scale, np.array([x, scale, x * scale])


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda x, s: (x + s, -pair(x, s)[1]), "value 2 of 2 is wrong: the sign is wrong"),
        (lambda x, s: (2 * x + 2 * s, pair(x, s)[1]), "value 1 of 2 is wrong: your result is"),
        (lambda x, s: (x + s, np.cos(17 * pair(x, s)[1])), "value 2 of 2 is wrong."),
        (lambda x, s: tuple(v / 2 for v in pair(x, s)), "times 1/2, on every input"),
        (lambda x, s: pair(x, -s), "right if `scale` had the other sign"),
        (lambda x, s: pair(x, s)[1], "2 values are asked for, not 3"),
        (lambda x, s: (x + s,), "2 values are asked for, not 1"),
        (lambda x, s: x + s, "2 values are asked for, as a tuple"),
    ],
)
def test_several_values(answer, part):
    assert part in check(pair, answer)


def test_what_was_observed_is_not_the_students_own():
    cases = [Case(a, (a[0], -a[1]), (a[0], a[1])) for a in POINTS]
    known = Check(cases, 0, lambda x, s: (x, s), ("x", "scale"), 1e-9, 1e-12)
    assert diagnose(known).startswith("value 2 of 2")
    assert "value" not in str(diagnose(replace(known, observed=True)))


def test_of_yes_and_no_nothing_is_guessed():
    inputs = [(b, 1.0) for b in (0.1, -0.1, 0.3, 0.6)]
    hint = check(lambda b, scale: 0 < b < 0.25, lambda b, scale: b < 0.25, inputs)
    assert hint == "right on 3 of 4 inputs: which case is different here?"


def test_the_numbers_are_right_only_if_they_are_on_every_input():
    inputs = [(RNG.normal(size=(n, 4)),) for n in (1, 3)]
    hint = check(lambda m: m @ m.T, lambda m: np.diag(m @ m.T), inputs)
    assert hint == "the result should have the shape (1, 1), not (1,)."


def test_of_one_value_every_other_is_a_multiple():
    assert check(lambda n: 7.3, lambda n: 2.9, [(1,), (2,)]) is None


def test_a_single_value_is_not_given_away():
    task = Exercise("a value", solution=lambda: 213.0)
    for wrong in (71.0, 426.0, 214.0, 213.0**2, -213.0, 1 / 213):
        text = repr(task.check(wrong))
        assert "213" not in text.replace(f"{wrong:.10g}", "")
        assert "hint" not in text
        assert "right one" not in text


def test_counts_are_not_squared():
    seen = []

    def slow(n):
        seen.append(n)
        return float(n)

    assert check(slow, lambda n: 17.0 + n % 7, [(40,), (50,)]) is None
    assert max(seen) <= 51


def test_a_solution_that_hangs_on_other_arguments_does_no_harm():
    def hangs(x, y):
        while x > 2:
            pass
        return x + y**2

    task = Exercise("hangs", solution=hangs, inputs=lambda rng: [(1.5, 0.3), (1.2, 0.7)])
    assert task.check(lambda x, y: 17.0 * x).passed is False


# --- comparison --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected", "equal"),
    [
        (1.0, 1.0 + 1e-10, True),
        (1.0, 1.0 + 1e-6, False),
        (math.nan, math.nan, False),
        (math.nan, 1.0, False),
        (np.array([1.0, math.nan]), np.array([1.0, math.nan]), False),
        ([1, 2], np.array([1.0, 2.0]), True),
        (torch.tensor([1.0]), [1.0], True),
        (torch.tensor([1.0], dtype=torch.bfloat16), [1.0], True),
        ([1.0], 1.0, False),
        ([1.0, 2.0], [1.0], False),
        ([1.0], [1.0, 2.0], False),
        ((1.0, [2.0, 3.0]), (1.0, np.array([2.0, 3.0])), True),
        ((1.0, 2.0), ([1.0], 2.0), False),
        (Fraction(1, 3), Fraction(2, 6), True),
        (np.int64(3), 3, True),
        (3, np.uint8(3), True),
        (np.int32(3), Fraction(7, 2), False),
        (np.ones((2, 2)), np.ones(4), False),
        ("text", 1.0, False),
        ("text", "text", True),
        ("text", "texts", False),
        ({1, 2}, {2, 1}, True),
        ([1, 2], {1, 2}, False),
        ({1, 2}, (1, 2), False),
        ({1: "a", 2: "b"}, (1, 2), False),
        ("12", ("1", "2"), False),
        ("1", 1, False),
        (None, 1.0, False),
        (True, 1, True),
        (1, (1,), False),
    ],
)
def test_same(got, expected, equal):
    assert same(got, expected, 1e-9, 1e-12) is equal


def test_exact_comparison_of_large_integers():
    assert same(10**400, 10**400, 0, 0)
    assert not same(10**400 + 1, 10**400, 0, 0)
    assert not same(2**60 + 1, 2**60, 0, 0)
    assert not same([2**60 + 1], [2**60], 0, 0)
