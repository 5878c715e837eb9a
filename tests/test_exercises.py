"""Exercises: the right answer passes, and whatever a student hands in is judged."""

import math
import os
import sys
import threading
import time
import warnings
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch

from kexue_lab import exercises as exercises_module
from kexue_lab import limits
from kexue_lab.exercises import Exercise, Feedback, Mistake, exercise, exercises_of
from kexue_lab.limits import TimeLimitExceeded, can_fork, run_limited

DOUBLE = Exercise(
    "Double it",
    solution=lambda number: 2 * number,
    inputs=lambda rng: [(3,), *((float(v),) for v in rng.normal(size=4))],
    mistakes=[
        Mistake("breaks", lambda number: 1 / 0, "never shown"),
        Mistake("squares", lambda number: number**2, "twice is not squared"),
    ],
    seconds=0.5,
)
VALUE = Exercise("One third", solution=lambda: 1 / 3)


def text(feedback):
    assert isinstance(feedback, Feedback)
    return repr(feedback)


def test_the_right_answer_passes():
    feedback = DOUBLE.check(lambda number: number + number)
    assert feedback.passed is True
    assert text(feedback) == "✓ Double it\n    right on 5 inputs"
    assert text(VALUE.check(0.3333333333333)) == "✓ One third\n    right"
    assert VALUE.check(lambda: Fraction(1, 3)).passed
    assert VALUE.check(Decimal(1) / 3).passed
    assert VALUE.check(mpmath.mpf(1) / 3).passed


@pytest.mark.parametrize("answer", [..., lambda number: ..., lambda *args: ...])
def test_not_attempted(answer):
    feedback = DOUBLE.check(answer)
    assert feedback.passed is None
    assert text(feedback) == "○ Double it\n    not attempted yet"


def test_a_wrong_answer_names_input_expected_and_got():
    assert text(DOUBLE.check(lambda number: number + 4)).splitlines() == [
        "✗ Double it",
        "    for number = 3:",
        "    expected 6",
        "    got      7",
    ]


def test_a_wrong_answer_at_one_random_input_is_found():
    feedback = DOUBLE.check(lambda number: 6 if number == 3 else 0.0)
    assert feedback.passed is False
    assert "for number = 3:" not in text(feedback)


def test_of_two_mistakes_that_are_close_the_exact_one_is_named():
    rough = Exercise(
        "about two",
        solution=lambda: 2.0,
        mistakes=[
            Mistake("first", lambda: 3.0, "three"),
            Mistake("second", lambda: 3.001, "and a bit"),
        ],
        rtol=1e-2,
    )
    assert text(rough.check(3.0)).endswith("hint: three")
    assert text(rough.check(3.001)).endswith("hint: and a bit")
    assert text(rough.check(3.002)).endswith("hint: three")  # near both: the first


def test_a_named_mistake_gets_its_hint():
    assert text(DOUBLE.check(lambda n: n * n)).endswith("hint: twice is not squared")
    assert "hint" not in text(DOUBLE.check(lambda n: n + 4))


def test_variants_of_a_mistake_get_its_hint():
    mistake = Mistake("halves", lambda n: n / 2, "twice", variants=(lambda n: n // 2,))
    task = replace(DOUBLE, mistakes=[mistake])
    for answer in (lambda n: n * 0.5, lambda n: n // 2):
        assert task.check(answer).lines[-1] == "hint: twice"


def spread(x):
    return float(np.mean((x - x.mean()) ** 2))


def test_rounding_that_varies_is_told_where_it_harms_only():
    def moments(x):
        return float(np.mean(x**2) - x.mean() ** 2)

    def moments_otherwise(x):
        return float(math.fsum(x * x) / len(x) - x.mean() * x.mean())

    mistake = Mistake("moments", moments, "it cancels", within=1e-2)
    task = Exercise(
        "spread",
        solution=spread,
        inputs=lambda rng: [(rng.random(9),), (rng.random(9) + 1e6,)],
        mistakes=[mistake],
    )
    hints = [task.check(moments_otherwise).lines[-1] for _ in range(20)]
    assert set(hints) == {"hint: it cancels"}
    wrong = task.check(lambda x: spread(x) * 1.001).lines
    assert "cancels" not in wrong[-1]


def test_inputs_are_fresh_at_every_check():
    first, second = (repr(DOUBLE.check(lambda number: number == 3 and 6)) for _ in range(2))
    assert "for number = 3:" not in first + second
    assert first != second


def endless(number):
    while True:
        number += 1


def swallows(number):
    while True:
        try:
            number += 1
        except Exception:
            continue


def recurses(number):
    return recurses(number)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda: 1, "your code raised TypeError"),
        (lambda a, b: 1, "your code raised TypeError"),
        (lambda number: 1 / 0, "your code raised ZeroDivisionError: division by zero"),
        (lambda number: undefined_name, "your code raised NameError"),  # noqa: F821
        (lambda number: sys.exit(0), "SystemExit"),
        (recurses, "your code raised RecursionError"),
        (endless, "no result within 0.5 s: is there an endless loop?"),
        (swallows, "no result within 0.5 s"),
        (lambda number: time.sleep(100), "no result within 0.5 s"),
        (None, "got None: does the function return its result?"),
        (lambda number: None, "got None: does the function return its result?"),
        (lambda number: math.nan, "got      nan"),
        (lambda number: math.inf, "got      inf"),
        (lambda number: "6", "got      '6'"),
        (lambda number: [6], "got      [6]"),
        (lambda number: np.array([6.0]), "(shape (1,))"),
        (lambda number: {"answer": 6}, "got      {'answer': 6}"),
        (lambda number: {6}, "got      {6}"),
        (lambda number: (yield 6), "generator"),
        (lambda number: sp.Symbol("n"), "got      n"),
        (lambda number: torch.zeros(2, requires_grad=True), "(shape (2,))"),
        (lambda number: object, "got      <class 'object'>"),
        (lambda number: 6j, "got      6j"),
        ("six", "got      'six'"),
        (7, "got      7"),
        (np.zeros((100, 100)), "(shape (100, 100))"),
    ],
)
def test_whatever_is_handed_in_is_judged(answer, part):
    feedback = DOUBLE.check(answer)
    assert feedback.passed is False
    assert text(feedback).startswith("✗ Double it\n    for number = 3:\n")
    assert part in text(feedback)


class BadRepr:
    def __repr__(self):
        raise AttributeError("half built")


class BadArray:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("no array")


class BadError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raises_a_bad_error(number):
    raise BadError


def nested(number):
    inner = []
    for _ in range(100_000):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    "answer",
    [
        lambda number: 10**400,
        lambda number: Fraction(10**400),
        lambda number: torch.ones(2, dtype=torch.bfloat16),
        lambda number: torch.eye(2).to_sparse(),
        lambda number: BadRepr(),
        lambda number: BadArray(),
        raises_a_bad_error,
        nested,
    ],
    ids=["huge", "huge fraction", "bfloat16", "sparse", "repr", "array", "error", "nested"],
)
def test_odd_objects_are_judged_too(answer):
    feedback = DOUBLE.check(answer)
    assert feedback.passed is False
    assert "for number = 3:" in text(feedback)


def test_a_result_that_never_ends_is_stopped_as_well():
    released = threading.Event()

    def lazy():
        while not released.wait(0.01):
            pass
        yield 1

    pair = Exercise("A pair", solution=lambda: (1, 2), seconds=0.2)
    try:
        assert run_limited(lambda: pair.check(lazy), 3).passed is False
    except TimeLimitExceeded:
        pytest.fail("the check hangs on a generator that never yields")
    finally:
        released.set()


def test_mutation_of_the_input_changes_nothing():
    def vandal(values, table):
        total = sum(values) + table["x"]
        values[:] = 0
        table.clear()
        return total

    task = Exercise(
        "Sum",
        solution=lambda values, table: sum(values) + table["x"],
        inputs=lambda rng: [(np.array([1.0, 2.0]), {"x": 4})],
    )
    assert task.check(vandal).passed
    wrong = task.check(lambda values, table: vandal(values, table) + 1)
    assert "for values = [1. 2.] (shape (2,)), table = {'x': 4}:" in text(wrong)
    assert "expected 7" in text(wrong)


def test_a_check_without_inputs_cannot_pass():
    try:
        feedback = Exercise("Nothing", solution=lambda n: n, inputs=lambda rng: []).check(
            lambda n: 5
        )
    except ValueError:
        return
    assert feedback.passed is not True


@pytest.mark.parametrize(
    ("solution", "arguments", "shown"),
    [
        (lambda n, scale=2: n * scale, (3,), "n = 3"),
        (math.log, (3.0,), "3"),
        (np.exp, (3.0,), "3"),
        (lambda *values: sum(values), (3, 4), "3"),
    ],
    ids=["default argument", "builtin", "ufunc", "star"],
)
def test_any_function_serves_as_a_solution(solution, arguments, shown):
    task = Exercise("Do it", solution=solution, inputs=lambda rng: [arguments])
    assert task.check(solution).passed
    feedback = task.check(lambda *args: -1.0)
    assert feedback.passed is False
    assert shown in text(feedback)


# --- a judge in place of one solution ------------------------------------------------------------

ROOT = Exercise(
    "Any root",
    solution=lambda square: math.sqrt(square),
    inputs=lambda rng: [(4.0,)],
    judge=lambda got, square: None if abs(got**2 - square) < 1e-9 else f"{got}² is not {square}",
    mistakes=[Mistake("half", lambda square: square / 2 + 1, "the root, not the half")],
)


@pytest.mark.parametrize("answer", [lambda square: 2.0, lambda square: -2])
def test_the_judge_accepts_every_right_answer(answer):
    assert ROOT.check(answer).passed


def test_the_judge_says_what_is_wrong():
    feedback = ROOT.check(lambda square: 3.0)
    assert feedback.passed is False
    assert list(feedback.lines) == [
        "for square = 4:",
        "3.0² is not 4.0",
        "hint: the root, not the half",
    ]


@pytest.mark.parametrize("result", ["two", [2], {}, object()])
def test_what_the_judge_cannot_read_is_of_the_wrong_kind(result):
    feedback = ROOT.check(lambda square: result)
    assert feedback.passed is False
    assert "is of the wrong kind" in text(feedback)


# --- other forms, exactness, inputs that must stay, results that are no data ---------------------

ROOTS = Exercise(
    "A root",
    solution=lambda square, name: math.sqrt(square),
    forms=[lambda square, name: -math.sqrt(square)],
    inputs=lambda rng: [(4.0, "a"), (9.0, "b")],
)


def test_either_form_is_right_but_not_a_mixture():
    assert ROOTS.check(lambda square, name: math.sqrt(square)).passed
    assert ROOTS.check(lambda square, name: -math.sqrt(square)).passed
    mixed = ROOTS.check(lambda square, name: math.sqrt(square) * (1 if name == "a" else -1))
    assert mixed.passed is False


THIRD = Exercise(
    "A third",
    solution=lambda n: Fraction(n, 3),
    inputs=lambda rng: [(1,), (5,), (6,)],
    exact=True,
)


def test_exact_numbers_are_asked_for():
    assert THIRD.check(lambda n: Fraction(n, 3)).passed
    assert THIRD.check(lambda n: sp.Rational(n, 3)).passed
    for inexact in (lambda n: n / 3, lambda n: np.float64(n / 3), lambda n: Fraction(n / 3)):
        assert THIRD.check(inexact).passed is False
    assert "no exact number" in text(THIRD.check(lambda n: n / 3 if n == 6 else Fraction(n, 3)))


KEEPS = Exercise(
    "Sort it",
    solution=lambda values: np.sort(values),
    inputs=lambda rng: [(np.array([3.0, 1.0, 2.0]),)],
    keeps_inputs=True,
)


def test_inputs_must_stay_where_that_is_asked():
    def in_place(values):
        values.sort()
        return values

    assert KEEPS.check(np.sort).passed
    assert "has changed its input: values" in text(KEEPS.check(in_place))
    assert replace(KEEPS, keeps_inputs=False).check(in_place).passed


LINE = Exercise(
    "A line through two points",
    solution=lambda a, b: lambda x: a + (b - a) * x,
    inputs=lambda rng: [tuple(rng.normal(size=2)) for _ in range(3)],
    observe=lambda line, a, b: [line(x) for x in (0.0, 0.3, 1.0, 4.0)],
)


def test_what_a_right_answer_changes_may_be_named():
    def sorts(values):
        values.sort()
        return values[0]

    task = Exercise(
        "least",
        solution=min,
        inputs=lambda rng: [(sorted(rng.random(4).tolist(), reverse=True),)],
        keeps_inputs=True,
        mistakes=[
            Mistake("largest", max, "the least"),
            Mistake("untouched", min, "never shown"),
            Mistake("in place", sorts, "sort a copy"),
        ],
    )
    assert task.check(sorts).lines[-1] == "hint: sort a copy"
    assert task.check(min).passed is True


def test_a_returned_function_is_sampled_where_it_was_made():
    assert LINE.check(lambda a, b: lambda x: (1 - x) * a + x * b).passed
    assert "the sign is wrong" in text(LINE.check(lambda a, b: lambda x: -a - (b - a) * x))
    assert "of the wrong kind" in text(LINE.check(lambda a, b: a + b))
    assert "in line" in text(LINE.check(lambda a, b: lambda x: x / 0))


def symbols_of():
    return sp.symbols("a b", positive=True)


FORMULA = Exercise(
    "A square",
    solution=lambda a, b: (a + b) ** 2,
    inputs=lambda rng: [symbols_of()],
    mistakes=[Mistake("no mixed term", lambda a, b: a**2 + b**2, "2ab is missing")],
)


def test_formulas_are_compared_as_formulas():
    assert FORMULA.check(lambda a, b: a**2 + 2 * a * b + b**2).passed
    assert FORMULA.check(lambda a, b: sp.exp(2 * sp.log(a + b))).passed
    bare = sp.symbols("a b")
    assert FORMULA.check(lambda a, b: (bare[0] + bare[1]) ** 2).passed
    wrong = text(FORMULA.check(lambda a, b: b**2 + a * a))
    assert "it is not equal to the right formula" in wrong
    assert wrong.endswith("hint: 2ab is missing")
    for nonsense in (lambda a, b: 0.5 * a, lambda a, b: "a", lambda a, b: sp.nan):
        assert FORMULA.check(nonsense).passed is False
    for shape in (lambda a, b: sp.Matrix([a, b]), lambda a, b: [(a + b) ** 2]):
        assert "one expression is asked for" in text(FORMULA.check(shape))


def test_several_formulas_and_unknown_functions():
    f = sp.Function("f")
    pair = Exercise(
        "A pair",
        solution=lambda a, b: (sp.Derivative(f(a), a) * b, a / b),
        inputs=lambda rng: [symbols_of()],
    )
    assert pair.check(lambda a, b: [b * f(a).diff(a), a * b**-1]).passed
    assert pair.check(lambda a, b: [b * f(a), a / b]).passed is False
    for short in (lambda a, b: (a / b,), lambda a, b: a / b, lambda a, b: []):
        assert pair.check(short).passed is False


# --- what harms: the check returns, and nothing stays changed ------------------------------------


class Endless(Exception):
    def __str__(self):
        while True:
            pass


def raises_endlessly(number):
    raise Endless


def swallows_everything(number):
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


needs_fork = pytest.mark.skipif(not can_fork(), reason="no process can be forked here")


@needs_fork
@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda number: os._exit(0), "your code ended its process"),
        (lambda number: os.abort(), "your code ended its process"),
        (lambda number: 7**7**9, "no result within 0.5 s"),
        (raises_endlessly, "no result within 0.5 s"),
        (swallows_everything, "no result within 0.5 s"),
        (lambda number: bytearray(4 * 1024**3), "MemoryError"),
        (lambda number: np.zeros(20_000_000), "20000000 entries, too many"),
        (lambda number: torch.zeros(20_000_000), "20000000 entries, too many"),
        (lambda number: range(10**12), "1000000000000 entries, too many"),
    ],
)
def test_what_would_end_the_kernel_only_ends_the_check(answer, part):
    feedback = DOUBLE.check(answer)
    assert feedback.passed is False
    assert "for number = 3:" in text(feedback)
    assert part in text(feedback)


@needs_fork
def test_the_input_that_hangs_is_named():
    assert "for number = 3:" not in text(DOUBLE.check(lambda n: 6 if n == 3 else 7**7**9))


@needs_fork
def test_nothing_that_an_answer_patches_stays_patched():
    def patches(number):
        np.allclose = lambda *_, **__: True
        math.pi = 3
        torch.set_default_dtype(torch.float64)
        return -1.0

    assert DOUBLE.check(patches).passed is False
    assert DOUBLE.check(lambda number: -1.0).passed is False
    assert np.allclose(1, 2) is False
    assert math.pi > 3
    assert torch.get_default_dtype() == torch.float32


def test_where_no_process_can_be_forked_a_thread_takes_over(monkeypatch):
    monkeypatch.setattr(limits, "can_fork", lambda: False)
    assert DOUBLE.check(lambda number: number + number).passed is True
    assert "twice is not squared" in text(DOUBLE.check(lambda number: number**2))
    assert "division by zero" in text(DOUBLE.check(lambda number: print("hi") or 1 / 0))
    assert "you printed:" in text(DOUBLE.check(lambda number: print("hi") or 1 / 0))
    assert "SystemExit" in text(DOUBLE.check(lambda number: sys.exit(0)))
    hangs = text(DOUBLE.check(lambda number: 6 if number == 3 else endless(number)))
    assert "no result within 0.5 s" in hangs
    assert "for number = 3:" not in hangs


def test_no_warning_of_a_mistake_reaches_the_student(capsys):
    def warns(number):
        warnings.warn("not the student's", stacklevel=1)
        return np.float64(1.0) / 0 * number

    task = replace(DOUBLE, mistakes=[Mistake("warns", warns, "never")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert task.check(lambda number: 0.5).passed is False


# --- what the student sees -----------------------------------------------------------------------


def test_the_line_that_raised_and_the_prints_are_shown():
    def halves(number):
        print("number is", number)
        return number / (number - number)

    feedback = text(DOUBLE.check(halves))
    assert "your code raised ZeroDivisionError" in feedback
    assert "return number / (number - number)" in feedback
    assert "you printed:\n        number is 3" in feedback


def test_long_prints_are_clipped():
    def chatters(number):
        for _ in range(1000):
            print("x" * 1000)

    assert len(text(DOUBLE.check(chatters))) < 4000


def test_an_undefined_name_is_told_to_run_the_cells_above():
    def uses(number):
        return undefined_name * 2  # noqa: F821

    assert "run the cells above" in text(DOUBLE.check(uses))


def test_a_wrong_number_of_arguments_is_explained():
    assert "the function is called with 1 arguments" in text(DOUBLE.check(lambda a, b: 1))


def test_values_that_look_alike_are_shown_with_all_their_digits():
    lines = DOUBLE.check(lambda number: 2 * number * (1 + 1e-8)).lines
    assert lines[1].split()[-1] != lines[2].split()[-1]


def test_a_hint_on_request():
    assert "twice is not squared" in text(DOUBLE.hint(2))
    assert text(DOUBLE.hint(4)) == text(DOUBLE.hint(2))
    assert "no hint" in text(VALUE.hint())
    with pytest.raises(ValueError, match="number must be at least 1"):
        DOUBLE.hint(0)


def test_only_jupyterlab_gets_colours(monkeypatch):
    feedback = DOUBLE.check(lambda n: n * n)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert feedback._repr_mimebundle_() == {"text/plain": text(feedback)}
    monkeypatch.setenv("JPY_SESSION_NAME", "em.ipynb")
    page = feedback._repr_mimebundle_()["text/html"]
    assert "twice is not squared" in page
    assert "#b3261e" in page
    assert "<script>" not in DOUBLE.check(lambda n: "<script>").html()


def test_formulas_are_typeset():
    page = FORMULA.check(lambda a, b: a / b).html()
    assert r"$\frac{a}{b}$" in page


# --- the exercises of an article -----------------------------------------------------------------


def test_exercises_are_numbered_from_one():
    tasks = exercises_of("mathematics/random_sector")
    assert list(tasks) == list(range(1, len(tasks) + 1))
    assert exercise("mathematics/random_sector", 1) == tasks[1]
    feedback = exercise("mathematics/random_sector", 1).check(...)
    assert text(feedback).startswith("○ Exercise 1: ")


@pytest.mark.parametrize("number", [0, -1, 99, "1", None])
def test_an_unknown_number(number):
    with pytest.raises(ValueError, match=r"has no exercise .*; it has 1"):
        exercise("mathematics/random_sector", number)


@pytest.mark.parametrize("article", ["mathematics/nonsense", "nonsense", ""])
def test_an_unknown_article(article):
    with pytest.raises(ValueError, match="no exercises for article"):
        exercise(article, 1)


def test_a_missing_package_is_not_a_missing_article(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(exercises_module.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="torch"):
        exercises_of("mathematics/random_sector")


def test_symbols_as_inputs_are_not_shown():
    x = sp.Symbol("x", positive=True)
    task = Exercise(title="a square", solution=lambda x: x**2, inputs=lambda _: [(x,)])
    lines = task.check(lambda x: 2 * x).lines
    assert lines[0].startswith("got")


def test_a_right_value_of_the_wrong_kind_gets_no_hint_at_another_value():
    """The answer is the same with 1 - p for p: that is no hint."""
    task = Exercise(
        title="a variance",
        solution=lambda p: p * (1 - p),
        inputs=lambda _: [(Fraction(1, 3),), (Fraction(2, 7),)],
        exact=True,
    )
    feedback = task.check(lambda p: float(p * (1 - p)))
    assert feedback.passed is False
    assert "no exact number" in str(feedback)
    assert "hint" not in str(feedback)
