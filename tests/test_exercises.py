"""Exercises: the right answer passes, and whatever a student hands in is judged."""

import math
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
import torch

from kexue_lab import exercises as exercises_module
from kexue_lab.diagnosis import same
from kexue_lab.exercises import Exercise, Feedback, Mistake, exercise, exercises_of
from kexue_lab.limits import TimeLimitExceeded, run_limited

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


# --- a judge in place of one solution ----------------------------------------------------------

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


# --- comparison --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected", "equal"),
    [
        (1.0, 1.0 + 1e-10, True),
        (1.0, 1.0 + 1e-6, False),
        (math.nan, math.nan, False),
        (math.nan, 1.0, False),
        ([1, 2], np.array([1.0, 2.0]), True),
        (torch.tensor([1.0]), [1.0], True),
        ([1.0], 1.0, False),
        ([1.0, 2.0], [1.0], False),
        ([1.0], [1.0, 2.0], False),
        ((1.0, [2.0, 3.0]), (1.0, np.array([2.0, 3.0])), True),
        ((1.0, 2.0), ([1.0], 2.0), False),
        (Fraction(1, 3), Fraction(2, 6), True),
        (np.ones((2, 2)), np.ones(4), False),
        ("text", 1.0, False),
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


# --- the exercises of an article ---------------------------------------------------------------


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
