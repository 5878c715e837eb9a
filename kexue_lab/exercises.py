"""Exercises with instant feedback: `exercise("mathematics/em", 1).check(my_e_step)`."""

import copy
import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from kexue_lab.limits import TimeLimitExceeded, run_limited

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A named wrong answer, and the hint for who gives it."""

    name: str
    answer: Answer
    hint: str


@dataclass(frozen=True)
class Feedback:
    """What a check says: `passed` is None where nothing was attempted."""

    title: str
    passed: bool | None
    lines: Sequence[str] = ()

    def __repr__(self) -> str:
        mark = {None: "○", True: "✓", False: "✗"}[self.passed]
        return "\n    ".join([f"{mark} {self.title}", *self.lines])


@dataclass(frozen=True)
class Exercise:
    """One exercise: how to draw inputs, what is right, and what is likely to go wrong.

    Args:
        title: what to do, in a few words.
        solution: the right answer, as a function of the inputs.
        inputs: draws argument tuples from a random generator; fixed ones may be among them.
            The default is one empty tuple, for an exercise that asks for a single value.
        mistakes: wrong answers with their hints.
        judge: for exercises with more than one right answer: takes what the answer returned and
            then the inputs, and returns what is wrong with it, or None.
        rtol: relative tolerance of the comparison with `solution`.
        atol: absolute tolerance.
        seconds: time limit for one input.
    """

    title: str
    solution: Answer
    inputs: Callable[[np.random.Generator], Iterable[tuple[Any, ...]]] = lambda rng: [()]
    mistakes: Sequence[Mistake] = ()
    judge: Callable[..., str | None] | None = None
    rtol: float = 1e-9
    atol: float = 1e-12
    seconds: float = 10
    label: str = field(default="", repr=False)

    def check(self, answer: Any) -> Feedback:
        """Try an answer on fresh random inputs and say what is wrong with it, if anything.

        Args:
            answer: a function of the exercise's inputs, or the value itself where there are
                none. `...`, or a function that returns it, counts as not attempted.

        Returns:
            the feedback; whatever the answer does, nothing is raised.
        """
        title = f"{self.label}{self.title}"
        if answer is ...:
            return Feedback(title, None, ["not attempted yet"])
        function = answer if callable(answer) else (lambda *_: answer)
        count = 0
        for arguments in self.inputs(np.random.default_rng()):
            try:
                got = self._run(function, arguments)
            except TimeLimitExceeded:
                problem = f"no result within {self.seconds:g} s: is there an endless loop?"
                return Feedback(title, False, [*self._input(arguments), problem])
            except Exception as error:
                problem = f"your code raised {type(error).__name__}: {error}"
                return Feedback(title, False, [*self._input(arguments), problem])
            if got is ...:
                return Feedback(title, None, ["not attempted yet"])
            problems = self._problems(got, arguments)
            if problems:
                return Feedback(title, False, [*self._input(arguments), *problems])
            count += 1
        return Feedback(title, True, ["right" if count == 1 else f"right on {count} inputs"])

    def _run(self, function: Answer, arguments: tuple[Any, ...]) -> Any:
        private = copy.deepcopy(arguments)
        return run_limited(lambda: function(*private), self.seconds)

    def _problems(self, got: Any, arguments: tuple[Any, ...]) -> list[str]:
        """What is wrong with the result; empty if it is right."""
        if got is None:
            return ["got None: does the function return its result?"]
        if self.judge is not None:
            try:
                problem = self.judge(got, *copy.deepcopy(arguments))
            except Exception as error:
                problem = f"the result {_show(got)} is of the wrong kind ({error})"
            problems = [problem] if problem else []
        else:
            expected = self._run(self.solution, arguments)
            right = same(got, expected, self.rtol, self.atol)
            problems = [] if right else [f"expected {_show(expected)}", f"got      {_show(got)}"]
        return problems + self._hint(got, arguments) if problems else []

    def _hint(self, got: Any, arguments: tuple[Any, ...]) -> list[str]:
        for mistake in self.mistakes:
            try:
                wrong = self._run(mistake.answer, arguments)
            except Exception:
                continue
            if same(got, wrong, self.rtol, self.atol):
                return [f"hint: {mistake.hint}"]
        return []

    def _input(self, arguments: tuple[Any, ...]) -> list[str]:
        if not arguments:
            return []
        names = list(inspect.signature(self.solution).parameters)
        shown = (f"{n} = {_show(a)}" for n, a in zip(names, arguments, strict=True))
        return [f"for {', '.join(shown)}:"]


def exercise(article: str, number: int) -> Exercise:
    """Return an exercise of an article, ready to `check` an answer.

    Args:
        article: the article's name, such as "mathematics/em".
        number: which of its exercises, from 1.

    Raises:
        ValueError: if there is no such article or exercise.
    """
    exercises = exercises_of(article)
    if number not in exercises:
        known = ", ".join(map(str, exercises))
        raise ValueError(f"{article} has no exercise {number!r}; it has {known}")
    return exercises[number]


def exercises_of(article: str) -> dict[int, Exercise]:
    """All exercises of an article by number.

    Raises:
        ValueError: if the article has none.
    """
    name = f"kexue_lab.{article.replace('/', '.')}_exercises"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"no exercises for article {article!r}") from error
    return {
        number: replace(task, label=f"Exercise {number}: ")
        for number, task in enumerate(module.EXERCISES, 1)
    }


def same(got: Any, expected: Any, rtol: float, atol: float) -> bool:
    """Whether two results are equal: numbers within tolerance, arrays also in shape.

    `nan` equals `nan`. Tuples and lists of results are compared entry by entry.
    """
    try:
        if isinstance(expected, (tuple, list)):
            pairs = zip(got, expected, strict=True)
            return all(same(a, b, rtol, atol) for a, b in pairs)
        a, b = _as_array(got), _as_array(expected)
        return a.shape == b.shape and bool(np.allclose(a, b, rtol, atol, equal_nan=True))
    except (TypeError, ValueError):
        return False


def _as_array(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    return array.astype(float) if array.dtype == object else array


def _show(value: Any) -> str:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, float):
        return f"{value:.10g}"
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        shape = f" (shape {value.shape})" if value.ndim else ""
        return np.array2string(value, precision=6, threshold=12).replace("\n", "") + shape
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " …"
