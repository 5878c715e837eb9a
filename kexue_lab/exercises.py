"""Exercises with instant feedback: `exercise("mathematics/em", 1).check(my_e_step)`."""

import contextlib
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
_EXACT = (int, Fraction)


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
                if got is ...:
                    return Feedback(title, None, ["not attempted yet"])
                problems = self._limited_problems(got, arguments)
            except TimeLimitExceeded:
                problems = [f"no result within {self.seconds:g} s: is there an endless loop?"]
            except Exception as error:
                problems = [f"your code raised {type(error).__name__}: {_text(error, str)}"]
            if problems:
                return Feedback(title, False, [*self._input(arguments), *problems])
            count += 1
        if not count:
            raise ValueError(f"the exercise {self.title!r} draws no inputs")
        return Feedback(title, True, ["right" if count == 1 else f"right on {count} inputs"])

    def _run(self, function: Answer, arguments: tuple[Any, ...]) -> Any:
        private = copy.deepcopy(arguments)
        return run_limited(lambda: function(*private), self.seconds)

    def _limited_problems(self, got: Any, arguments: tuple[Any, ...]) -> list[str]:
        # Limited like the answer itself: what it returned may be a generator that never ends.
        return run_limited(lambda: self._problems(got, arguments), 3 * self.seconds)

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
        """The hint of the mistake that gives this very result, or else one near it."""
        answers = []
        for mistake in self.mistakes:
            try:
                answers.append((mistake.hint, self._run(mistake.answer, arguments)))
            except Exception:
                continue
        # Nearly is not enough at once: another mistake's result may be close to it by chance.
        for rtol, atol in ((1e-9, 1e-12), (self.rtol, self.atol)):
            for hint, wrong in answers:
                if same(got, wrong, rtol, atol):
                    return [f"hint: {hint}"]
        return []

    def _input(self, arguments: tuple[Any, ...]) -> list[str]:
        if not arguments:
            return []
        try:
            names = list(inspect.signature(self.solution).parameters)
        except ValueError:  # some built-in functions have none
            names = []
        names += [f"argument {i + 1}" for i in range(len(names), len(arguments))]
        shown = (f"{n} = {_show(a)}" for n, a in zip(names, arguments, strict=False))
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
        if not name.startswith(error.name or ""):
            raise  # the module is there, but something it needs is not
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
        if isinstance(got, _EXACT) and isinstance(expected, _EXACT):
            allowed = Fraction(atol) + Fraction(rtol) * abs(Fraction(expected))
            return bool(abs(Fraction(got) - Fraction(expected)) <= allowed)
        a, b = _as_array(got), _as_array(expected)
        return a.shape == b.shape and bool(np.allclose(a, b, rtol, atol, equal_nan=True))
    except Exception:  # whatever a student's object does when it is read as numbers
        return False


def _as_array(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    return array.astype(float) if array.dtype == object else array


def _show(value: Any) -> str:
    if isinstance(value, Fraction):
        return _text(value, str)
    if isinstance(value, float):
        return f"{value:.10g}"
    if hasattr(value, "detach"):
        with contextlib.suppress(Exception):
            value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        shape = f" (shape {value.shape})" if value.ndim else ""
        return np.array2string(value, precision=6, threshold=12).replace("\n", "") + shape
    text = _text(value, repr)
    return text if len(text) <= 200 else text[:200] + " …"


def _text(value: Any, form: Callable[[Any], str]) -> str:
    """The value as text, whatever its own methods do."""
    try:
        return form(value)
    except Exception as error:
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
