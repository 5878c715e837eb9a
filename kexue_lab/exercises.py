"""Exercises with instant feedback: `exercise("mathematics/em", 1).check(my_e_step)`."""

import copy
import importlib
import inspect
import mmap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Rational
from typing import Any

import numpy as np
import sympy as sp

from kexue_lab.diagnosis import Case, Check, diagnose, numbers, same
from kexue_lab.feedback import Feedback, Formula, as_text, printed_lines, show, shown_apart
from kexue_lab.limits import Outcome, ProcessDied, TimeLimitExceeded, run_forked
from kexue_lab.symbolic import as_side, decide
from kexue_lab.trials import FORMULA, Answer, Trial, attempt, observed, plain

_DIAGNOSIS_SECONDS = 1


@dataclass(frozen=True)
class Mistake:
    """A named wrong answer, and the hint for who gives it.

    Args:
        name: what is done wrong, in a few words.
        answer: what gives the wrong result; or a right one, and changes its arguments.
        hint: what to think of.
        variants: other answers of the same kind, which get the same hint.
        within: how nearly a wrong result must be the mistake's, where rounding makes it vary; on
            the other inputs it must be right as the mistake's is.
    """

    name: str
    answer: Answer
    hint: str
    variants: Sequence[Answer] = ()
    within: float = 0

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The wrong answer and its variants."""
        return (self.answer, *self.variants)


@dataclass(frozen=True)
class Exercise:
    """One exercise: how to draw inputs, what is right, and what is likely to go wrong.

    Args:
        title: what to do, in a few words.
        solution: the right answer, as a function of the inputs.
        inputs: draws argument tuples from a random generator; fixed ones may be among them.
            None for an exercise that asks for a single value, which no feedback gives away.
        mistakes: wrong answers with their hints; at least four where there is a judge.
        forms: right answers in another form (another sign convention, the other root). An answer
            must agree with one of them, or with `solution`, on all inputs.
        judge: for exercises with more right answers than can be listed: takes what the answer
            returned and then the inputs, and returns what is wrong with it, or None. It is never
            given nan or infinity. Its bounds are absolute, not taken from the answer.
        observe: for results that are no plain data (a function, a network, a loss to be
            differentiated): takes the result and then the arguments as the answer has left them,
            and returns what is to be compared or judged, as plain data.
        exact: whether the result must consist of whole numbers and Fractions.
        keeps_inputs: whether the answer must leave its arguments as they were.
        domain: for a symbolic answer, the intervals of its symbols, as for `decide`.
        rtol: relative tolerance of the comparison with `solution`.
        atol: absolute tolerance.
        seconds: limit of the processor time of a whole check.
    """

    title: str
    solution: Answer
    inputs: Callable[[np.random.Generator], Iterable[tuple[Any, ...]]] | None = None
    mistakes: Sequence[Mistake] = ()
    forms: Sequence[Answer] = ()
    judge: Callable[..., str | None] | None = None
    observe: Callable[..., Any] | None = None
    exact: bool = False
    keeps_inputs: bool = False
    domain: Mapping[sp.Symbol, tuple[Any, Any]] | None = None
    rtol: float = 1e-9
    atol: float = 1e-12
    seconds: float = 10
    label: str = field(default="", repr=False)

    def check(self, answer: Any) -> Feedback:
        """Try an answer on fresh random inputs and say what is wrong with it, if anything.

        The answer runs in a process of its own where that is possible (`run_forked`): whatever it
        does, this returns, and nothing that it changes stays changed.

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
        inputs = self.draw(np.random.default_rng())
        reached = mmap.mmap(-1, 8)
        try:
            outcome = run_forked(lambda: self._trials(function, inputs, reached), self.seconds)
        except (TimeLimitExceeded, ProcessDied) as error:
            arguments = inputs[int.from_bytes(reached[:])]
            lines = [*self._input(arguments), self._ended(error), *printed_lines(error.printed)]
            return Feedback(title, False, lines)
        return self._feedback(title, inputs, outcome)

    def draw(self, rng: np.random.Generator) -> list[tuple[Any, ...]]:
        """The inputs of one check.

        Raises:
            ValueError: if there are none: such a check could not fail.
        """
        inputs = list(self.inputs(rng)) if self.inputs is not None else [()]
        if not inputs:
            raise ValueError(f"the exercise {self.title!r} draws no inputs")
        return inputs

    def hint(self, number: int = 1) -> Feedback:
        """A hint on request: a mistake that others have made, and why it is one.

        Args:
            number: which of the hints, from 1; beyond the last the first comes again.

        Raises:
            ValueError: if `number` is not positive.
        """
        if number < 1:
            raise ValueError(f"number must be at least 1, got {number!r}")
        title = f"{self.label}{self.title}"
        if not self.mistakes:
            return Feedback(title, None, ["there is no hint for this one"])
        place = (number - 1) % len(self.mistakes)
        mistake = self.mistakes[place]
        count = f"hint {place + 1} of {len(self.mistakes)}"
        return Feedback(title, None, [f"{count}, for who tries “{mistake.name}”: {mistake.hint}"])

    # -- in the child

    def _trials(
        self, function: Answer, inputs: Sequence[tuple[Any, ...]], reached: mmap.mmap
    ) -> list[Trial]:
        trials: list[Trial] = []
        for number, arguments in enumerate(inputs):
            reached[:] = number.to_bytes(8)  # tells the parent where a killed answer was
            trials.append(attempt(function, arguments, self.observe))
            if trials[-1].problem:
                break
        return trials

    # -- in the parent

    def _ended(self, error: Exception) -> str:
        if isinstance(error, TimeLimitExceeded):
            return f"no result within {self.seconds:g} s: is there an endless loop?"
        return f"your code ended its process: {error}"

    def _feedback(
        self, title: str, inputs: list[tuple[Any, ...]], outcome: Outcome[list[Trial]]
    ) -> Feedback:
        prints = printed_lines(outcome.printed)
        if outcome.failure is not None:
            failure = outcome.failure
            text = f"the result cannot be read ({failure.kind}: {failure.message})"
            return Feedback(title, False, [*self._input(inputs[0]), text, *prints])
        trials = outcome.result()
        if any(trial.value is ... for trial in trials):
            return Feedback(title, None, ["not attempted yet"])
        for index, problems, hints in self._verdicts(inputs, trials):
            lines = [*self._input(inputs[index]), *problems, *prints, *hints]
            return Feedback(title, False, lines)
        count = len(inputs)
        right = "right" if count == 1 else f"right on {count} inputs"
        return Feedback(title, True, [right, *prints])

    def _verdicts(
        self, inputs: list[tuple[Any, ...]], trials: list[Trial]
    ) -> Iterable[tuple[int, list[str], list[str]]]:
        """For each wrong input its number, what is wrong, and a hint."""
        cases = self._cases(inputs, trials)
        for index, trial in enumerate(trials):
            if trial.problem:
                yield index, list(trial.problem), []
            elif problems := self._problems(trial, cases[index]):
                yield index, problems, self._hints(cases, trials, index)

    def _cases(self, inputs: list[tuple[Any, ...]], trials: list[Trial]) -> list[Case]:
        """The results beside the right ones, in the form that fits the most of them."""
        tries = [(a, t.value) for a, t in zip(inputs, trials, strict=False) if not t.problem]
        if self.judge is not None:
            return [Case(arguments, got, None) for arguments, got in tries]
        forms = [
            [Case(a, got, self._result(form, a)) for a, got in tries]
            for form in (self.solution, *self.forms)
        ]
        if len(forms) == 1:
            return forms[0]
        return max(forms, key=lambda cases: sum(self._wrong(case) is None for case in cases))

    def _result(self, answer: Answer, arguments: tuple[Any, ...]) -> Any:
        private = copy.deepcopy(arguments)
        return plain(observed(answer(*private), private, self.observe))

    def _problems(self, trial: Trial, case: Case) -> list[str]:
        """What is wrong with a result; empty if it is right."""
        if trial.value is None:
            return ["got None: does the function return its result?"]
        problem = self._wrong_value(case)
        if problem is None and self.keeps_inputs and trial.changed:
            names = ", ".join(self._names(len(case.arguments))[i] for i in trial.changed)
            return [f"the result is right, but your function has changed its input: {names}"]
        return [] if problem is None else list(problem)

    def _judged(self, case: Case) -> Sequence[str] | None:
        if not _is_finite(case.got):
            return [f"the result holds nan or infinity: {show(case.got)}"]
        assert self.judge is not None
        try:
            problem = self.judge(case.got, *copy.deepcopy(case.arguments))
        except Exception as error:
            return [f"the result {show(case.got)} is of the wrong kind ({as_text(error, str)})"]
        return None if problem is None else [problem]

    def _wrong(self, case: Case) -> Sequence[str] | None:
        """What differs from the right result, or None."""
        if _is_formula(case.expected):
            return self._wrong_formula(case)
        near = same(case.got, case.expected, self.rtol, self.atol)
        if near and self.exact and not _is_exact(case.got):
            return [
                f"got {show(case.got)}, which is no exact number: whole numbers and Fractions are "
                "asked for, in every step"
            ]
        if near and (not self.exact or same(case.got, case.expected, 0, 0)):
            return None
        if self.inputs is None:
            return [f"{show(case.got)} is not it"]
        expected, got = shown_apart(case.expected, case.got)
        return [f"expected {expected}", f"got      {got}"]

    def _wrong_formula(self, case: Case) -> Sequence[str] | None:
        try:
            got, expected = _sides(case.got, case.expected)
        except (TypeError, ValueError) as error:
            return [str(error)]
        if getattr(got, "shape", None) != getattr(expected, "shape", None):
            return [f"got {show(case.got)}: another number of formulas is asked for"]
        verdict = decide(got, expected, self.domain, self.seconds)
        if verdict.outcome == "equal":
            return None
        line = Formula.of("got      ", got)
        if verdict.counterexample is not None:
            return [line, f"it is not equal to the right formula: {verdict.counterexample}"]
        return [line, "it could not be decided whether that is right: can you simplify it?"]

    def _hints(self, cases: list[Case], trials: list[Trial], index: int) -> list[str]:
        """The hint of the mistake that gives these very results, or else a diagnosis."""
        if trials[index].value is None:
            return []
        hint = self._named(cases, trials, index)
        if hint is None and self.judge is None:
            names = self._names(len(cases[index].arguments))
            observed = self.observe is not None
            check = Check(cases, index, self._solve, names, self.rtol, self.atol, observed)
            hint = _diagnosed(check)
        if hint is None and any(trial.changed for trial in trials):
            hint = "your function changes its arguments in place: work on copies."
        return [] if hint is None else [f"hint: {hint}"]

    def _solve(self, *arguments: Any) -> Any:
        return self._result(self.solution, arguments)

    def _named(self, cases: list[Case], trials: list[Trial], index: int) -> str | None:
        # A right value that comes with changed arguments is told by what it changes.
        changed = trials[index].changed if self._wrong_value(cases[index]) is None else None
        # Nearly is not enough at once: another mistake's result may be close to it by chance.
        for nearly in (False, True):
            for mistake in self.mistakes:
                for answer in mistake.answers:
                    if changed is not None and changed != self._changed_by(answer, cases[index]):
                        continue
                    # The wrong input first: it rules out most; one input alone may fit by chance.
                    tried = (cases[index], *cases)
                    if all(self._fits(answer, c, nearly, mistake.within) for c in tried):
                        return mistake.hint
        return None

    def _wrong_value(self, case: Case) -> Sequence[str] | None:
        return self._judged(case) if self.judge is not None else self._wrong(case)

    def _changed_by(self, answer: Answer, case: Case) -> tuple[int, ...]:
        return attempt(answer, case.arguments, self.observe).changed

    def _fits(self, answer: Answer, case: Case, nearly: bool, within: float) -> bool:
        rtol, atol = (self.rtol, self.atol) if nearly else (1e-9, 1e-12)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # the mistake's, not the student's
                wrong = self._result(answer, case.arguments)
            if _is_formula(wrong):
                sides = _sides(case.got, wrong)
                return decide(*sides, self.domain, _DIAGNOSIS_SECONDS).outcome == "equal"
        except Exception:  # it does not work for this input, and nor would the student's
            return False
        if nearly and within and self._wrong(replace(case, got=wrong)) is not None:
            rtol = atol = within
        return _same_or_nan(case.got, wrong, rtol, atol)

    def _names(self, count: int) -> list[str]:
        try:
            names = list(inspect.signature(self.solution).parameters)
        except ValueError:  # some built-in functions have none
            names = []
        return names[:count] + [f"argument {i + 1}" for i in range(len(names), count)]

    def _input(self, arguments: tuple[Any, ...]) -> list[str]:
        if all(isinstance(argument, sp.Symbol) for argument in arguments):
            return []  # there are none, or they say no more than their names
        names = self._names(len(arguments))
        shown = (f"{n} = {show(a)}" for n, a in zip(names, arguments, strict=True))
        return [f"for {', '.join(shown)}:"]


def _is_formula(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_is_formula, value))
    return isinstance(value, FORMULA)


def _sides(got: Any, expected: Any) -> tuple[Any, Any]:
    """Both as sides of an equation, in the same symbols.

    The student may have made the symbols himself, without their assumptions.
    """
    left, right = as_side(got, "the answer"), as_side(expected, "the solution")
    if getattr(left, "shape", None) != getattr(right, "shape", None):
        wanted = f"shape {right.shape}" if hasattr(right, "shape") else "one expression"
        raise ValueError(f"{wanted} is asked for, got {show(got)}")
    named = {symbol.name: symbol for symbol in right.free_symbols}
    return left.subs({s: named[s.name] for s in left.free_symbols if s.name in named}), right


def _diagnosed(check: Check) -> str | None:
    # It tries the solution on arguments for which that was not made, and must not hang on them.
    try:
        return run_forked(lambda: diagnose(check), _DIAGNOSIS_SECONDS).value
    except (TimeLimitExceeded, ProcessDied):
        return None


def _is_finite(value: Any) -> bool:
    """Whether a result holds no nan and no infinity."""
    if isinstance(value, (tuple, list, set)):
        return all(map(_is_finite, value))
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    found = numbers(value)
    return found is None or bool(np.isfinite(found).all())


def _is_exact(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_exact, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iu"
    return isinstance(value, (Rational, np.integer)) and not isinstance(value, bool)


def _same_or_nan(got: Any, wrong: Any, rtol: float, atol: float) -> bool:
    """Whether a result is a mistake's, which may hold nan."""
    a, b = numbers(got), numbers(wrong)
    if a is None or b is None or a.shape != b.shape or isinstance(got, Rational):
        return same(got, wrong, rtol, atol)
    return bool(np.allclose(a, b, rtol, atol, equal_nan=True))


# --- the exercises of an article ---------------------------------------------------------------


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
