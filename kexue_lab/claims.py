"""What a notebook asserts: each claim is checked on the spot, shown, and kept in a ledger."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import sympy as sp
from IPython.display import display
from numpy.typing import NDArray

from kexue_lab import evidence
from kexue_lab.evidence import Comparison, Expectation, Finding
from kexue_lab.formulas import READABLE, conditions, formula, ruled_out, short_formula
from kexue_lab.ledger import Claim, Kind, Ledger, MarksLine
from kexue_lab.recorded import Recorder, columns, figure, read_rows, recorded_path
from kexue_lab.symbolic import Domain

_KEY = re.compile(r"[A-Z]\d+[a-z]?")


class ClaimFailed(AssertionError):
    """The statement is false."""


class ClaimUndecided(AssertionError):
    """Neither a proof nor a counter-example was found: not a pass."""


class ClaimRefused(ValueError):
    """The check could not have failed, or has nothing to check."""


class Claims:
    """The claims of one article, in the order in which they are made.

    Every method checks its statement at once, shows it, and raises if it does not hold:
    `ClaimFailed` if it is false, `ClaimUndecided` if a symbolic one cannot be decided, and
    `ClaimRefused` if there was nothing to check.

    Args:
        article: the article's name, such as "mathematics/em".
        scale: the notebook's `SCALE`: with which recorded seeds this run is compared.
    """

    def __init__(self, article: str, *, scale: str = "cpu") -> None:
        if not re.fullmatch(r"[a-z]+/[a-z_0-9]+", article):
            raise ValueError(f'article must look like "series/name", got {article!r}')
        self.article = article
        self.scale = scale
        self.entries: list[Claim] = []
        self._recorder = Recorder.from_environment()

    def prove(
        self,
        key: str,
        statement: str,
        lhs: Any,
        rhs: Any,
        *,
        domain: Domain | None = None,
        seconds: float = 10,
    ) -> None:
        """State that two symbolic expressions (or matrices) are equal, and have sympy prove it.

        Pass integrals, derivatives and sums unevaluated, so that sympy does the work.

        Args:
            key: the derivation's number, such as "D2".
            statement: what is asserted, in words (markdown, one line).
            lhs: one side: expression, exact number, matrix or list.
            rhs: the other side.
            domain: open intervals for symbols whose assumptions do not say enough.
            seconds: the time limit.

        Raises:
            ClaimFailed: with a counter-example, if the sides differ.
            ClaimUndecided: if sympy finds neither a proof nor a counter-example in time.
            ClaimRefused: if the sides are the same expression to begin with.
        """
        __tracebackhide__ = True
        if self._recorder:
            return  # nothing symbolic depends on the seed
        with _stating(key, statement):
            found = evidence.compared(lhs, rhs, domain, seconds)
        if found.verdict.outcome == "different":
            counterexample = f"counter-example {found.verdict.counterexample}"
            _fail(key, statement, *_sides(found), counterexample)
        _require_decision(key, statement, found)
        detail = "" if found.verdict.confirmed else "proved by sympy alone"
        self._add(_symbolic_claim(key, "proved", statement, found, domain, detail))

    def refute(
        self,
        key: str,
        statement: str,
        lhs: Any,
        rhs: Any,
        *,
        domain: Domain | None = None,
        seconds: float = 10,
    ) -> None:
        """Rule out a false sentence: the two sides of which it says that they are equal differ.

        Args and errors are those of `prove`; `statement` is the false sentence itself, in the
        affirmative, and `ClaimFailed` means that it is true.
        """
        __tracebackhide__ = True
        if self._recorder:
            return
        with _stating(key, statement):
            found = evidence.compared(lhs, rhs, domain, seconds)
        if found.verdict.outcome == "equal":
            _fail(key, statement, *_sides(found), "the two sides are equal")
        _require_decision(key, statement, found)
        self._add(_symbolic_claim(key, "refuted", statement, found, domain, ""))

    def quote(self, key: str, statement: str, *, source: str) -> None:
        """State what the argument needs and no machine has checked, with its source.

        Args:
            key: the derivation's number.
            statement: what is taken on trust, in words.
            source: who has proved it and where.

        Raises:
            ClaimRefused: without a source.
        """
        __tracebackhide__ = True
        with _stating(key, statement):
            if not source.strip():
                raise ValueError("the source must be named")
        self._add(Claim(key, "quoted", statement, source))

    def agree(
        self,
        key: str,
        statement: str,
        ours: Any,
        theirs: Any,
        *,
        oracle: str,
        rtol: float = 0.0,
        atol: float = 0.0,
    ) -> None:
        """State that numbers equal those of an independent oracle.

        Passes if |ours - theirs| <= atol + rtol |theirs| everywhere. `Fraction` and `int` on
        both sides with both tolerances 0 are compared exactly.

        Args:
            key: the check's number, such as "N1".
            statement: what is asserted, in words.
            ours: a number, or an array, tensor or sequence of numbers.
            theirs: the oracle's, of the same shape; computed, not a literal.
            oracle: where `theirs` comes from: shown as "ours against theirs by <oracle>".
            rtol: relative tolerance.
            atol: absolute tolerance.

        Raises:
            ClaimFailed: naming the worst entry.
            ClaimRefused: for empty, non-finite or differently shaped input, or the same object.
        """
        __tracebackhide__ = True
        check = partial(evidence.agreement, ours, theirs, oracle, rtol, atol)
        self._settle(key, "checked", statement, check)

    def bound(
        self,
        key: str,
        statement: str,
        values: Any,
        *,
        above: float | None = None,
        below: float | None = None,
    ) -> None:
        """State that every value lies strictly above and/or below a bound.

        Args:
            key: the check's number.
            statement: what is asserted, in words.
            values: a number, or an array, tensor or sequence of numbers.
            above: strict lower bound.
            below: strict upper bound.

        Raises:
            ClaimFailed: naming the worst value.
            ClaimRefused: without a bound, or for empty or non-finite values.
        """
        __tracebackhide__ = True
        self._settle(key, "measured", statement, partial(evidence.bounds, values, above, below))

    def estimate(
        self, key: str, statement: str, samples: Any, exact: float, *, sigmas: float = 4
    ) -> None:
        """State that a Monte Carlo estimate agrees with an exact value within its own error.

        Args:
            key: the check's number.
            statement: what is asserted, in words.
            samples: independent draws (at least 2) whose mean estimates `exact`, or the pair
                `(estimate, standard_error)` as a tuple.
            exact: the value they should have.
            sigmas: how many standard errors are allowed.

        Raises:
            ClaimFailed: if the estimate is further away.
            ClaimRefused: for an empty sample, a non-finite number or a zero standard error.
        """
        __tracebackhide__ = True
        check = partial(evidence.estimation, samples, exact, sigmas)
        self._settle(key, "estimated", statement, check)

    def compare(
        self,
        key: str,
        statement: str,
        ours: Any,
        baseline: Any,
        *,
        expect: Expectation = "higher",
        paired: bool = True,
        margin: float = 0.0,
    ) -> None:
        """State how figures of several seeds compare with a baseline's, at p < 0.01.

        "higher" and "lower": a one-sided t-test of the mean difference against `margin`. "equal":
        two of them, one against each end of the interval from -margin to margin.

        Args:
            key: the experiment's number, such as "E1".
            statement: what is asserted, in words.
            ours: one figure per seed, at least 3.
            baseline: one figure per seed; the same seeds in the same order if `paired`.
            expect: what is asserted of `ours` relative to `baseline`.
            paired: whether the test is that of the per-seed differences, or else Welch's.
            margin: the difference that must be passed; for "equal" it must be positive.

        Raises:
            ClaimFailed: stating the difference, its spread and p.
            ClaimRefused: for fewer than 3 seeds, non-finite figures, mismatched shapes, or a
                difference without any spread.
        """
        __tracebackhide__ = True
        check = partial(evidence.difference, ours, baseline, expect, paired, margin)
        self._settle(key, "observed", statement, check)

    def hold(self, key: str, statement: str, each: Any) -> None:
        """State what holds on at least nine of ten seeds, and show on how many.

        Args:
            key: the experiment's number.
            statement: what is asserted of a seed, in words.
            each: for each seed, whether it holds; at least 3.

        Raises:
            ClaimFailed: stating on how many seeds it holds.
            ClaimRefused: for fewer than 3 seeds, or what is not true or false.
        """
        __tracebackhide__ = True
        self._settle(key, "observed", statement, partial(evidence.share, each))

    def record(self, key: str, /, **figures: Any) -> None:
        """Hand over what this run of an experiment gave, and compare it with the recorded seeds.

        `kexue-lab record` runs the notebook over many seeds and collects these figures; in any
        other run each of them must lie within 5 standard deviations of the recorded mean. At a
        scale at which nothing is recorded there is nothing to compare with, and nothing claimed.

        Args:
            key: the experiment's number, such as "E1".
            figures: by name: numbers, or arrays of the same shape for every seed.

        Raises:
            ClaimFailed: naming the figure that lies outside.
            ClaimRefused: for figures that are not finite numbers, or where at the scale "cpu" none
                are recorded.
        """
        __tracebackhide__ = True
        with _stating(key, "figures of an experiment"):
            mine = {name: figure(value, name) for name, value in figures.items()}
            if self._recorder:
                self._recorder.figures[key] = mine
                return
            rows = read_rows(recorded_path(self.article), self.scale)
            if not rows and self.scale == "cpu":
                raise ValueError(f"no seeds are recorded: run kexue-lab record {self.article}")
        if rows:
            statement = f"The figures of this run lie within the spread of the {len(rows)} seeds"
            self._settle(key, "observed", statement, partial(evidence.spread, key, mine, rows))

    def recorded(self, key: str) -> dict[str, NDArray[np.float64]]:
        """Return an experiment's figures over the recorded seeds: arrays of shape (seeds, …).

        Those of this notebook's scale, or else of "cpu".

        Raises:
            ClaimRefused: if none are recorded.
        """
        if self._recorder:
            return self._recorder.stand_in(key)
        path = recorded_path(self.article)
        rows = read_rows(path, self.scale) or read_rows(path)
        with _stating(key, "figures of an experiment"):
            return columns(rows, key)

    def ledger(self) -> Ledger:
        """Return the table of all claims, for the notebook's last cell.

        With the environment variable `KEXUE_CLAIMS_DIR` set, also writes a report there.

        Raises:
            ClaimRefused: if nothing was claimed.
        """
        if not self.entries:
            raise ClaimRefused("the ledger is empty: nothing was claimed")
        directory = os.environ.get("KEXUE_CLAIMS_DIR")
        if self._recorder:
            self._recorder.write()
        elif directory:
            # Only here: reports draw every explorer, and need what draws them.
            from kexue_lab.report import write_report

            write_report(self.article, self.entries, Path(directory))
        return Ledger(tuple(self.entries))

    def _settle(self, key: str, kind: Kind, statement: str, check: Callable[[], Finding]) -> None:
        __tracebackhide__ = True
        if self._recorder and self._recorder.speaks_of_all_seeds(key):
            return
        with _stating(key, statement):
            found = check()
        if self._recorder:
            self._recorder.note(key, found.holds)
        elif not found.holds:
            _fail(key, statement, *found.lines)
        self._add(Claim(key, kind, statement, found.shown))

    def _add(self, claim: Claim) -> None:
        if not self.entries:
            display(MarksLine())
        self.entries.append(claim)
        display(claim)


@contextmanager
def _stating(key: str, statement: str) -> Iterator[None]:
    """Refuse a bad key or statement, and whatever the check inside refuses, under the key."""
    __tracebackhide__ = True
    if not _KEY.fullmatch(key):
        raise ClaimRefused(f'the key must look like "D2" or "N1", got {key!r}')
    if len(statement.split()) < 2 or "\n" in statement:
        raise ClaimRefused(f"{key}: the statement must be a sentence on one line: {statement!r}")
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ClaimRefused(f"{key}: {error}") from error


def _symbolic_claim(
    key: str, kind: Kind, statement: str, found: Comparison, domain: Domain | None, detail: str
) -> Claim:
    left, right = found.left, found.right
    relation = "=" if kind == "proved" else r"\neq"
    point = ""
    if found.verdict.counterexample is not None:
        point, values = ruled_out(found.verdict.counterexample)
        detail = _example(point, values)
    return Claim(
        key,
        kind,
        statement,
        detail,
        formula=formula(left, right, relation),
        short_formula=short_formula(left, right, relation),
        conditions=conditions(left, right, domain),
        point="" if len(point) <= READABLE else f"at {point}",
        lhs=sp.srepr(left),
        rhs=sp.srepr(right),
        domain=tuple(
            (sp.srepr(symbol), str(low), str(high))
            for symbol, (low, high) in (domain or {}).items()
        ),
    )


def _example(point: str, values: str) -> str:
    if not point:
        return values
    where = point if len(point) <= READABLE else "the point below"
    return f"e.g. at {where}: {values}"


def _require_decision(key: str, statement: str, found: Comparison) -> None:
    __tracebackhide__ = True
    if found.verdict.outcome == "undecided":
        raise ClaimUndecided(_message(f"{key} could not be decided", statement, *_sides(found)))


def _fail(key: str, statement: str, *lines: str) -> NoReturn:
    __tracebackhide__ = True
    raise ClaimFailed(_message(f"{key} does not hold", statement, *lines))


def _sides(found: Comparison) -> Sequence[str]:
    verdict = found.verdict
    return (
        f"left:  {_clip(found.left)}",
        f"right: {_clip(found.right)}",
        f"left - right, simplified: {_clip(verdict.difference)}",
        *([verdict.reason] if verdict.reason else []),
    )


def _clip(expression: Any, longest: int = 400) -> str:
    text: str = sp.sstr(expression, order="none")
    return text if len(text) <= longest else text[:longest] + " …"


def _message(head: str, statement: str, *lines: str) -> str:
    return "\n  ".join([f"{head}: {statement}", *lines])
