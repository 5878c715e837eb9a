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
from reports import finished

from kexue_lab import exercises
from kexue_lab.course.places import notebook_path
from kexue_lab.exercises import Exercise, exercises_of
from kexue_lab.limits import Outcome, TimeLimitExceeded, run_forked

pytestmark = pytest.mark.usefixtures("loaded")

EXERCISES = [(name, number) for name in finished() for number in exercises_of(name)]
each_exercise = pytest.mark.parametrize(("article", "number"), EXERCISES)


def judged(task, answers):
    """Whether each answer passes, and the last line said about it."""
    said = {name: task.check(answer) for name, answer in answers.items()}
    return {name: (feedback.passed, str(feedback.lines[-1])) for name, feedback in said.items()}


def in_a_process(judge, article):
    """What `judge` says of each exercise of an article.

    All of it comes from one process that is thrown away: one for each answer, or only for each
    exercise, would take most of the time.
    """

    def judge_all():
        exercises.run_forked = functools.partial(run_timed, at_most=2)
        return {number: judge(task) for number, task in exercises_of(article).items()}

    return run_forked(judge_all, 300).result()


@each_exercise
def test_an_exercise_accepts_its_solution_only(article, number):
    task = exercises_of(article)[number]
    assert len(task.mistakes) >= (4 if task.judge else 2), "name more of the likely mistakes"
    said = of_named_answers(article)[number]
    for name in right_answers(task):
        assert said[name][0] is True, (name, *said[name])
    hinted = {name: (False, f"hint: {hint}") for name, (_, hint) in mistakes(task).items()}
    assert {name: said[name] for name in hinted} == hinted


@functools.cache
def of_named_answers(article):
    def judge(task):
        wrong = {name: answer for name, (answer, _) in mistakes(task).items()}
        return judged(task, right_answers(task) | wrong)

    return in_a_process(judge, article)


def right_answers(task):
    return {f"form {i}": form for i, form in enumerate((task.solution, *task.forms))}


def mistakes(task):
    """The named wrong answers with their hints."""
    return {
        f"{mistake.name} ({place})": (answer, mistake.hint)
        for mistake in task.mistakes
        for place, answer in enumerate(mistake.answers)
    }


@each_exercise
def test_nothing_else_passes(article, number):
    said = dict(of_other_answers(article)[number])
    assert said.pop("untouched") == (None, "not attempted yet")
    assert [name for name, (passed, _) in said.items() if passed is not False] == []
    assert exercises_of(article)[number].check(...).passed is None


@functools.cache
def of_other_answers(article):
    def judge(task):
        Exercise._hints = no_hints  # only the verdict is looked for, and hints cost more
        wrong = {**NONSENSE, **altered_answers(task), **constants(task), **wrong_lengths(task)}
        return judged(task, wrong | {"untouched": untouched})

    return in_a_process(judge, article)


def no_hints(*_):
    return []


def untouched(*_):
    return ...


# --- answers that make no sense ------------------------------------------------------------------


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


def with_one_nan(value):
    """The same with a single nan, in its last number."""
    if isinstance(value, (tuple, list)) and value:
        return type(value)([*value[:-1], with_one_nan(value[-1])])
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim:
        spoilt = value.clone() if isinstance(value, torch.Tensor) else value.astype(float)
        spoilt[(-1,) * spoilt.ndim] = float("nan")
        return spoilt
    return in_float(value) * float("nan")


SPOILT = {
    "another axis": lambda v: v[None] if hasattr(v, "shape") and np.ndim(v) else [v],
    "an axis at the end": lambda v: v[..., None] if hasattr(v, "shape") and np.ndim(v) else [v],
    "all nan": lambda v: in_float(v) * float("nan"),
}


def altered_answers(task):
    """The solution with each of its numbers changed; with one nan; transposed."""
    changes = SPOILT if task.judge else SPOILT | near_misses(task)
    answers = {
        name: lambda *a, change=change: altered(task.solution(*a), change)
        for name, change in changes.items()
    }
    answers["a single nan"] = lambda *a: with_one_nan(task.solution(*a))
    value = task.solution(*task.draw(np.random.default_rng())[-1])
    if task.judge is None and hasattr(value, "shape") and np.ndim(value) == 2:
        answers["the transpose"] = lambda *a: task.solution(*a).T
    return answers


def constants(task):
    """What is right for one input, given for all."""
    if task.inputs is None or task.observe is not None:
        return {}
    values = [task.solution(*drawn) for drawn in task.draw(np.random.default_rng())[::-3]]
    return {f"the constant {i}": lambda *_, v=value: v for i, value in enumerate(values)}


LENGTHS = {
    "wrapped": lambda value, whole: [value],
    "twice": lambda value, whole: [*whole, *whole],
    "cut": lambda value, whole: [*whole[:-1]],
}


def wrong_lengths(task):
    """Too many values, or too few."""

    def wrong(change, *arguments):
        value = task.solution(*arguments)
        return change(value, value if isinstance(value, (tuple, list)) else [value])

    return {name: functools.partial(wrong, change) for name, change in LENGTHS.items()}


# --- functions that the notebook shows -----------------------------------------------------------


def test_no_visible_function_answers_an_exercise(article):
    assert run_forked(lambda: answers_among_the_visible(article), 150).result() == {}


def answers_among_the_visible(article):
    """For each exercise that a function of the notebook passes, as it is, the function's name.

    This runs in a process that is thrown away: the thousands of answers need none of their own.
    """
    exercises.run_forked = functools.partial(run_timed, at_most=0.5)
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
    return {name: value for name, value in found.items() if callable(value) and may_answer(value)}


def may_answer(function):
    """Whether to try a function: a window of pictures or a huge grid is no answer, and costs."""
    if function in (np.meshgrid, np.indices):
        return False
    return getattr(function, "__module__", None) != "matplotlib.pyplot"


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


def run_timed(function, seconds, at_most):
    """`run_forked` without the fork."""
    with timed(min(seconds, at_most)), contextlib.redirect_stdout(None):
        return Outcome(function(), None, "")
