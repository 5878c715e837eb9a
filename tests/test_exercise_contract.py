"""The contract that every exercise keeps: its solution passes, and nothing that is wrong does."""

import ast
import contextlib
import functools
import inspect
import signal
import types

import nbformat
import numpy as np
import pytest
import torch
import torch._dynamo  # not by a notebook's statement, whose time is limited
from reports import finished

from kexue_lab import exercises
from kexue_lab.course.catalog import find
from kexue_lab.course.places import notebook_path
from kexue_lab.exercises import Exercise, exercises_of
from kexue_lab.limits import Outcome, TimeLimitExceeded, run_forked

EXERCISES = [(name, number) for name in finished() for number in exercises_of(name)]

# In these notebooks, written before the rule, a function that stands there answers the exercise.
# They are excused until they become lessons; then the entry has no effect and goes.
ANSWERED_BY_A_VISIBLE_FUNCTION = {
    "diffusion/poisson_flow": {5: "pf.prior_tv_constant"},
    "diffusion/imperfect_mean": {4: "im.variance_nll"},
    "diffusion/skip_tuning": {1: "st.skip_weights"},
}


@pytest.fixture(params=EXERCISES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def task(request):
    name, number = request.param
    return exercises_of(name)[number]


def test_an_exercise_accepts_its_solution_only(task):
    for form in (task.solution, *task.forms):
        right = task.check(form)
        assert right.passed is True, right
    assert len(task.mistakes) >= (4 if task.judge else 2), "name more of the likely mistakes"
    for mistake in task.mistakes:
        for place, answer in enumerate(mistake.answers):
            feedback = task.check(answer)
            name = f"{mistake.name} ({place})"
            assert feedback.passed is False, f"{name} was accepted"
            assert feedback.lines[-1] == f"hint: {mistake.hint}", f"{name}: {feedback}"


@pytest.fixture
def strict(task, monkeypatch):
    """The task without hints, for tests that only look at the verdict: hints cost more."""
    monkeypatch.setattr(Exercise, "_hints", no_hints)
    return task


def no_hints(*_):
    return []


def not_rejected(task, answers):
    """The names of the wrong answers that are not judged to be wrong.

    They are judged in one process that is thrown away: a fork for each would take most of the time.
    """

    def judged():
        exercises.run_forked = run_timed
        return [name for name, answer in answers.items() if task.check(answer).passed is not False]

    return run_forked(judged, 60).result()


def fails(*_):
    raise ZeroDivisionError("a student's error")


def endless_values(*_):
    yield from iter(int, 1)


NONSENSE = {
    "nan": lambda *_: float("nan"),
    "text": lambda *_: "six",
    "nothing": lambda *_: None,
    "no arguments": lambda: 1,
    "an error": fails,
    "a generator": endless_values,
    "a type": lambda *_: object,
    "a dictionary": lambda *_: {},
    "an empty list": lambda *_: [],
    "texts": lambda *_: [["a"], ["b"]],
    "a number": lambda *_: 12345.678,
    "the arguments": lambda *a: a,
}


def test_an_exercise_rejects_nonsense(strict):
    assert not_rejected(strict, NONSENSE) == []


def test_untouched_is_not_attempted(task):
    assert task.check(...).passed is None
    assert task.check(lambda *_: ...).passed is None


# --- answers near the right one ------------------------------------------------------------------


def altered(value, change):
    """The value with every number in it changed."""
    if isinstance(value, (tuple, list)):
        return type(value)(altered(v, change) for v in value)
    return change(value)


def noisy(size):
    def change(value):
        rng = np.random.default_rng()
        # Up or down, but never by so little that it is within the tolerance.
        noise = 1 + size * rng.choice((-1, 1), np.shape(value)) * rng.uniform(1, 3, np.shape(value))
        if isinstance(value, torch.Tensor):
            return value * torch.from_numpy(np.asarray(noise)).to(value.dtype)
        return value * (noise if np.ndim(value) else float(noise))

    return change


def in_float(value):
    return value if hasattr(value, "shape") else float(value)


def near_misses(task):
    factor, summand = 1 + 11 * max(task.rtol, 1e-10), 11 * task.atol
    return {
        "noise": noisy(30 * max(task.rtol, 1e-10) + 30 * task.atol),
        "a factor": lambda v: in_float(v) * factor + summand,
        "a smaller factor": lambda v: in_float(v) / factor - summand,
        "the negative": lambda v: -in_float(v),
        "zero": lambda v: v * 0,
        "one": lambda v: v * 0 + 1,
        "double": lambda v: 2 * in_float(v),
    }


def always(change, task):
    return lambda *arguments: altered(task.solution(*arguments), change)


def test_where_one_answer_is_right_nothing_near_it_is(strict):
    task = strict
    if task.judge is None:
        misses = {name: always(change, task) for name, change in near_misses(task).items()}
        assert not_rejected(task, misses) == []


def test_a_constant_is_not_right_everywhere(strict):
    task = strict
    if task.inputs is None:
        return
    for arguments in task.draw(np.random.default_rng())[::-3]:
        constant = task.solution(*arguments)
        if task.observe is None:
            assert task.check(lambda *_, c=constant: c).passed is False


def test_nan_never_passes(strict):
    task = strict
    assert task.check(always(lambda v: in_float(v) * float("nan"), task)).passed is False


def with_one_nan(value):
    """The same with a single nan, in its last number."""
    if isinstance(value, (tuple, list)) and value:
        return type(value)([*value[:-1], with_one_nan(value[-1])])
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim:
        spoilt = value.clone() if isinstance(value, torch.Tensor) else value.astype(float)
        spoilt[(-1,) * spoilt.ndim] = float("nan")
        return spoilt
    return in_float(value) * float("nan")


def test_a_single_nan_does_not_pass(strict):
    task = strict
    assert task.check(lambda *a: with_one_nan(task.solution(*a))).passed is False


SHAPES = {
    "another axis": lambda v: v[None] if hasattr(v, "shape") and np.ndim(v) else [v],
    "an axis at the end": lambda v: v[..., None] if hasattr(v, "shape") and np.ndim(v) else [v],
}


def test_a_wrong_shape_does_not_pass(strict):
    task = strict
    for name, change in SHAPES.items():
        assert task.check(always(change, task)).passed is False, name


LENGTHS = {
    "wrapped": lambda value, whole: [value],
    "twice": lambda value, whole: [*whole, *whole],
    "cut": lambda value, whole: [*whole[:-1]],
}


def test_too_many_or_too_few_values_do_not_pass(strict):
    task = strict

    def wrong(change, *arguments):
        value = task.solution(*arguments)
        return change(value, value if isinstance(value, (tuple, list)) else [value])

    answers = {name: functools.partial(wrong, change) for name, change in LENGTHS.items()}
    assert not_rejected(task, answers) == []


def test_the_transpose_does_not_pass(strict):
    task = strict
    arguments = task.draw(np.random.default_rng())[-1]
    value = task.solution(*arguments)
    if task.judge is None and hasattr(value, "shape") and np.ndim(value) == 2:
        assert task.check(lambda *a: task.solution(*a).T).passed is False


# --- functions that the notebook shows -----------------------------------------------------------


def test_no_visible_function_answers_an_exercise(article):
    passing = run_forked(lambda: answers_among_the_visible(article), 150).result()
    excused = {}
    if find(article).state != "lesson":
        excused = ANSWERED_BY_A_VISIBLE_FUNCTION.get(article, {})
    assert passing.keys() == excused.keys(), passing


def answers_among_the_visible(article):
    """For each exercise that a function of the notebook passes, as it is, the function's name.

    This runs in a process that is thrown away: the thousands of answers need none of their own.
    """
    exercises.run_forked = run_timed
    Exercise._hints = no_hints
    functions = visible_functions(nbformat.read(notebook_path(article), as_version=4))
    passing = {}
    for number, task in exercises_of(article).items():
        arguments = task.draw(np.random.default_rng())[0]
        for name, function in functions.items():
            if takes(function, arguments) and task.check(function).passed:
                passing[number] = name
    return passing


def takes(function, arguments):
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a built-in function without a signature
        return True
    return True


def visible_functions(notebook):
    """What the notebook defines, imports by name, or takes from the course's modules."""
    namespace, used = {}, set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            for node in tree.body:
                execute(node, namespace)
            used |= {
                (node.value.id, node.attr)
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            }
    found = {name: value for name, value in namespace.items() if callable(value)}
    for module, attribute in used:
        if isinstance(namespace.get(module), types.ModuleType):
            found[f"{module}.{attribute}"] = getattr(namespace[module], attribute, None)
    return {name: value for name, value in found.items() if callable(value)}


def execute(node, namespace):
    """Run an import, a definition or a quick assignment; whatever fails or lasts is left out."""
    if not isinstance(
        node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    ):
        return
    with contextlib.suppress(Exception), timed(10 if isinstance(node, ast.ImportFrom) else 0.1):
        exec(compile(ast.Module([node], []), "<cell>", "exec"), namespace)


@contextlib.contextmanager
def timed(seconds):
    """Raise TimeLimitExceeded in the block when it has used so much CPU time."""
    signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.1)  # again, if it is swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def too_long(*_):
    raise TimeLimitExceeded


def run_timed(function, seconds):
    """`run_forked` without the fork."""
    with timed(0.5), contextlib.redirect_stdout(None):
        return Outcome(function(), None, "")
