"""The ledger in which a notebook states what it asserts and checks it on the spot."""

import json
import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import sympy as sp
from IPython.display import display
from numpy.typing import NDArray

from kexue_lab.symbolic import Domain, Verdict, as_side, decide

Kind = Literal["proved", "refuted", "checked", "measured", "estimated", "observed"]

MEANING: dict[Kind, str] = {
    "proved": "sympy brings the difference of both sides to 0",
    "refuted": "a near miss: the two sides differ at a point that was computed",
    "checked": "equal to an independent oracle within the stated tolerance",
    "measured": "every computed value lies within the stated bounds",
    "estimated": "a random sample agrees within its own standard error",
    "observed": "seen in an experiment over several seeds",
}

_KEY = re.compile(r"[A-Z]\d+[a-z]?")
_LONGEST_FORMULA = 700
# A spread below this share of the figures themselves is rounding.
_NOISE = 1e-12


class ClaimFailed(AssertionError):
    """The statement is false."""


class ClaimUndecided(AssertionError):
    """Neither a proof nor a counter-example was found: not a pass."""


class ClaimRefused(ValueError):
    """The check could not have failed, or has nothing to check."""


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger, shown where it is stated."""

    key: str
    kind: Kind
    statement: str
    detail: str = ""
    formula: str = ""
    lhs: str = field(default="", repr=False)
    rhs: str = field(default="", repr=False)
    domain: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        tail = f" [{self.detail}]" if self.detail else ""
        return f"✓ {self.key} {self.kind}: {self.statement}{tail}"

    def _repr_markdown_(self) -> str:
        line = f"✓ **{self.key}** · *{self.kind}* — {self.statement}"
        if self.detail:
            line += f" <small>[{self.detail}]</small>"
        return f"{line}\n\n$${self.formula}$$" if self.formula else line


class Claims:
    """The claims of one article, in the order in which they are made.

    Every method checks its statement at once, shows it, and raises if it does not hold.

    Args:
        article: the article's name, such as "mathematics/em".
    """

    def __init__(self, article: str) -> None:
        if not re.fullmatch(r"[a-z]+/[a-z_0-9]+", article):
            raise ValueError(f'article must look like "series/name", got {article!r}')
        self.article = article
        self.entries: list[Claim] = []

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
            statement: what is asserted, in words (markdown).
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
        left, right, verdict = self._decide(key, statement, lhs, rhs, domain, seconds)
        if verdict.outcome == "different":
            self._fail(key, statement, *_disagreement(left, right, verdict))
        if verdict.outcome == "undecided":
            raise ClaimUndecided(
                _message(f"{key} could not be decided", statement, *_sides(left, right, verdict))
            )
        self._add(key, "proved", statement, left, right, domain, "=")

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
        """State that two symbolic expressions differ: the near miss that must fail.

        Args and errors are those of `prove`; `ClaimFailed` means that the sides are equal.
        """
        __tracebackhide__ = True
        left, right, verdict = self._decide(key, statement, lhs, rhs, domain, seconds)
        if verdict.outcome == "equal":
            self._fail(key, statement, *_sides(left, right, verdict), "the two sides are equal")
        if verdict.outcome == "undecided":
            raise ClaimUndecided(
                _message(f"{key} could not be decided", statement, *_sides(left, right, verdict))
            )
        self._add(key, "refuted", statement, left, right, domain, r"\neq")

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
            theirs: the oracle's, of the same shape.
            oracle: where `theirs` comes from.
            rtol: relative tolerance.
            atol: absolute tolerance.

        Raises:
            ClaimFailed: naming the worst entry.
            ClaimRefused: for empty, non-finite or differently shaped input, or the same object.
        """
        __tracebackhide__ = True
        if ours is theirs and not isinstance(ours, (int, float, Fraction)):
            raise ClaimRefused(f"{key}: ours and theirs are the same object")
        if not oracle:
            raise ClaimRefused(f"{key}: the oracle must be named")
        if not (0 <= rtol < math.inf and 0 <= atol < math.inf):
            raise ClaimRefused(f"{key}: a tolerance is negative or not finite: {rtol}, {atol}")
        a, b = _numbers(ours, key, "ours"), _numbers(theirs, key, "theirs")
        if a.shape != b.shape:
            raise ClaimRefused(f"{key}: shapes differ, {a.shape} and {b.shape}")
        if not a.dtype == b.dtype == object:
            a, b = _inexact(a, key, "ours"), _inexact(b, key, "theirs")
        excess = np.asarray(abs(a - b) - (atol + rtol * abs(b) if rtol or atol else 0))
        if (excess > 0).any():
            worst = np.unravel_index(int(np.argmax(excess)), a.shape)
            at = f" at index {tuple(int(i) for i in worst)}" if a.ndim else ""
            self._fail(
                key,
                statement,
                f"ours  {a[worst]!s}{at}",
                f"{oracle}  {b[worst]!s}",
                f"difference {abs(a[worst] - b[worst])!s}, allowed: {_allowed(rtol, atol)}",
            )
        count = "1 value" if a.size == 1 else f"{a.size} values"
        self._add_numeric(
            key, "checked", statement, f"{count} against {oracle}; {_allowed(rtol, atol)}"
        )

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
        if above is None and below is None:
            raise ClaimRefused(f"{key}: a bound is needed, above or below")
        if not all(bound is None or math.isfinite(bound) for bound in (above, below)):
            raise ClaimRefused(f"{key}: a bound must be finite, got above {above}, below {below}")
        numbers = _real(values, key, "values")
        bounds = []
        if above is not None:
            bounds.append(f"> {above:g}")
            if not numbers.min() > above:
                self._fail(key, statement, f"smallest value {numbers.min():.6g}, not {bounds[-1]}")
        if below is not None:
            bounds.append(f"< {below:g}")
            if not numbers.max() < below:
                self._fail(key, statement, f"largest value {numbers.max():.6g}, not {bounds[-1]}")
        count = "1 value" if numbers.size == 1 else f"each of {numbers.size} values"
        self._add_numeric(key, "measured", statement, f"{count} {' and '.join(bounds)}")

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
        if not 0 < sigmas <= 6:
            raise ClaimRefused(f"{key}: sigmas must lie in (0, 6], got {sigmas}")
        if isinstance(samples, tuple):
            mean, error = (float(v) for v in _real(samples, key, "samples", size=2))
        else:
            mean, error = _mean_and_error(samples, key)
        if not _NOISE * abs(mean) < error < math.inf:
            raise ClaimRefused(f"{key}: the standard error is {error:g}; nothing can be told")
        target = float(_real(exact, key, "exact", size=1).ravel()[0])
        z = (mean - target) / error
        shown = f"{_rounded(mean, _decimals(error, 2))} ± {error:.2g}"
        found = f"{shown} against {target:.6g}, z = {_rounded(z, 1, '+')}"
        if abs(z) > sigmas:
            self._fail(key, statement, found, f"allowed |z|: {sigmas:g}")
        self._add_numeric(key, "estimated", statement, f"{found} (allowed {sigmas:g})")

    def compare(
        self,
        key: str,
        statement: str,
        ours: Any,
        baseline: Any,
        *,
        expect: Literal["higher", "lower", "equal"] = "higher",
        paired: bool = True,
        margin: float = 0.0,
        sigmas: float = 2,
    ) -> None:
        """State how figures of several seeds compare with a baseline's.

        "higher" and "lower" hold if the mean difference exceeds `margin` by `sigmas` standard
        errors; "equal" holds if the difference stays below `margin` with the same security.

        Args:
            key: the experiment's number, such as "E1".
            statement: what is asserted, in words.
            ours: one figure per seed, at least 3.
            baseline: one figure per seed; the same seeds in the same order if `paired`.
            expect: what is asserted of `ours` relative to `baseline`.
            paired: whether the standard error is that of the per-seed differences.
            margin: the difference that must be passed; for "equal" it must be positive.
            sigmas: how many standard errors the difference must be clear of the margin.

        Raises:
            ClaimFailed: stating the difference and its spread.
            ClaimRefused: for fewer than 3 seeds, non-finite figures, mismatched shapes, or a
                difference without any spread.
        """
        __tracebackhide__ = True
        a, b = _real(ours, key, "ours"), _real(baseline, key, "baseline")
        if expect not in ("higher", "lower", "equal"):
            raise ClaimRefused(f'{key}: expect "higher", "lower" or "equal", got {expect!r}')
        if not 0 < sigmas <= 6:
            raise ClaimRefused(f"{key}: sigmas must lie in (0, 6], got {sigmas}")
        if a.ndim != 1 or b.ndim != 1:
            raise ClaimRefused(f"{key}: one number per seed, got shapes {a.shape} and {b.shape}")
        if min(a.size, b.size) < 3:
            raise ClaimRefused(f"{key}: at least 3 seeds are needed, got {a.size} and {b.size}")
        if paired and a.size != b.size:
            raise ClaimRefused(f"{key}: paired figures differ in number, {a.size} and {b.size}")
        if not 0 <= margin < math.inf or (expect == "equal" and margin == 0):
            raise ClaimRefused(f'{key}: margin {margin} is no bound for "{expect}"')
        difference = a.mean() - b.mean()
        if paired:
            error = (a - b).std(ddof=1) / math.sqrt(a.size)
        else:
            error = math.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size)
        if not error > _NOISE * max(abs(a).max(), abs(b).max()):
            raise ClaimRefused(f"{key}: the difference has no spread over the seeds")
        holds = {
            "higher": difference > margin + sigmas * error,
            "lower": -difference > margin + sigmas * error,
            "equal": abs(difference) + sigmas * error < margin,
        }[expect]
        seeds = f"{a.size} paired seeds" if paired else f"{a.size} and {b.size} seeds"
        shown = _rounded(difference, _decimals(error, 1), "+")
        found = f"difference {shown} ± {error:.1g} over {seeds}"
        if not holds:
            self._fail(
                key,
                statement,
                found,
                f"asserted: {expect}, margin {margin:g}, {sigmas:g} standard errors",
            )
        asserted = f"; {expect}, margin {margin:g}" if margin else ""
        self._add_numeric(key, "observed", statement, found + asserted)

    def ledger(self) -> "Ledger":
        """Return the table of all claims, for the notebook's last cell.

        With the environment variable `KEXUE_CLAIMS_DIR` set, also writes there: the claims, the
        processor time so far and what the notebook's explorers measure, as JSON, and the
        explorers' frames for pages without a kernel.

        Raises:
            ClaimRefused: if nothing was claimed.
        """
        if not self.entries:
            raise ClaimRefused("the ledger is empty: nothing was claimed")
        directory = os.environ.get("KEXUE_CLAIMS_DIR")
        if directory:
            self._write(Path(directory))
        return Ledger(tuple(self.entries))

    def _write(self, directory: Path) -> None:
        from kexue_lab.explore import measure_explorers, save_frames

        cpu_seconds = time.process_time()
        frames = directory / self.article
        target = directory / f"{self.article}.json"
        frames.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "article": self.article,
            "claims": [asdict(claim) for claim in self.entries],
            "cpu_seconds": round(cpu_seconds, 2),
            "explorers": measure_explorers(),
        }
        # Another run of the same notebook may be writing: finish apart, then change places.
        fresh = directory / f"{self.article}.{os.getpid()}"
        save_frames(fresh)
        fresh.mkdir(exist_ok=True)  # without explorers there are no frames
        shutil.rmtree(frames, ignore_errors=True)
        fresh.replace(frames)
        target.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf8")

    def _decide(
        self, key: str, statement: str, lhs: Any, rhs: Any, domain: Domain | None, seconds: float
    ) -> tuple[Any, Any, Verdict]:
        self._check_words(key, statement)
        try:
            left, right = as_side(lhs, "lhs"), as_side(rhs, "rhs")
        except (TypeError, ValueError) as error:
            raise ClaimRefused(f"{key}: {error}") from error
        if isinstance(left, sp.MatrixBase) and right == 0:
            right = sp.ImmutableMatrix(sp.zeros(*left.shape))
        if getattr(left, "shape", ()) != getattr(right, "shape", ()):
            raise ClaimRefused(f"{key}: one side is a matrix of another shape than the other")
        if left == right:
            raise ClaimRefused(
                f"{key}: both sides are the same expression before any work is done, {left}; "
                "pass Integral, Derivative or Sum unevaluated"
            )
        return left, right, decide(left, right, domain, seconds)

    def _check_words(self, key: str, statement: str) -> None:
        if not _KEY.fullmatch(key):
            raise ClaimRefused(f'the key must look like "D2" or "N1", got {key!r}')
        if not statement.strip():
            raise ClaimRefused(f"{key}: the statement is empty")

    def _fail(self, key: str, statement: str, *lines: str) -> NoReturn:
        __tracebackhide__ = True
        raise ClaimFailed(_message(f"{key} does not hold", statement, *lines))

    def _add(
        self,
        key: str,
        kind: Kind,
        statement: str,
        left: Any,
        right: Any,
        domain: Domain | None,
        relation: str,
    ) -> None:
        claim = Claim(
            key,
            kind,
            statement,
            formula=_formula(left, right, relation),
            lhs=sp.srepr(left),
            rhs=sp.srepr(right),
            domain=tuple(
                (sp.srepr(symbol), str(low), str(high))
                for symbol, (low, high) in (domain or {}).items()
            ),
        )
        self.entries.append(claim)
        display(claim)

    def _add_numeric(self, key: str, kind: Kind, statement: str, detail: str) -> None:
        self._check_words(key, statement)
        claim = Claim(key, kind, statement, detail)
        self.entries.append(claim)
        display(claim)


@dataclass(frozen=True)
class Ledger:
    """All claims of a notebook as a table, with a count of each kind of evidence."""

    entries: tuple[Claim, ...]

    def _summary(self) -> str:
        counts = Counter(claim.kind for claim in self.entries)
        return ", ".join(f"{counts[kind]} {kind}" for kind in MEANING if counts[kind])

    def __repr__(self) -> str:
        return "\n".join(
            [f"{len(self.entries)} claims: {self._summary()}", *map(repr, self.entries)]
        )

    def _repr_markdown_(self) -> str:
        head = [f"**{len(self.entries)} claims: {self._summary()}**", ""]
        table = ["| | evidence | claim |", "|---|---|---|"]
        for claim in self.entries:
            words = claim.statement.replace("|", r"\|").replace("\n", " ")
            table.append(f"| {claim.key} | {claim.kind} | {words} |")
        kinds = dict.fromkeys(claim.kind for claim in self.entries)
        legend = [f"*{kind}*: {MEANING[kind]}." for kind in MEANING if kind in kinds]
        return "\n".join([*head, *table, "", "<small>" + " ".join(legend) + "</small>"])


def _numbers(value: Any, key: str, name: str, size: int | None = None) -> NDArray[Any]:
    """An array of finite numbers; of Python's exact ones if there is nothing else in it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ClaimRefused(f"{key}: {name} have no one shape: {error}") from error
    if array.dtype.kind in "iu":
        array = array.astype(object)  # Python's integers, which do not round
    if array.dtype != object or not all(isinstance(v, (int, Fraction)) for v in array.ravel()):
        array = _inexact(array, key, name)
    if array.size == 0 or (size is not None and array.size != size):
        wanted = "at least one number" if size is None else f"{size} numbers"
        raise ClaimRefused(f"{key}: {name} must hold {wanted}, got {array.size}")
    return array


def _inexact(array: NDArray[Any], key: str, name: str) -> NDArray[Any]:
    """The numbers as floats (or complex floats)."""
    try:
        array = array.astype(complex if np.iscomplexobj(array) else float)
    except (TypeError, ValueError, OverflowError) as error:
        raise ClaimRefused(f"{key}: {name} are no numbers of float's range: {array!r}") from error
    if not np.isfinite(array).all():
        raise ClaimRefused(f"{key}: {name} hold nan or infinity")
    return array


def _real(value: Any, key: str, name: str, size: int | None = None) -> NDArray[Any]:
    array = _numbers(value, key, name, size)
    if np.iscomplexobj(array):
        raise ClaimRefused(f"{key}: {name} must be real, got complex numbers")
    return _inexact(array, key, name)


def _mean_and_error(samples: Any, key: str) -> tuple[float, float]:
    draws = _real(samples, key, "samples").ravel()
    if draws.size < 2:
        raise ClaimRefused(f"{key}: one draw has no standard error")
    return float(draws.mean()), float(draws.std(ddof=1) / math.sqrt(draws.size))


def _formula(left: Any, right: Any, relation: str) -> str:
    """The equation in LaTeX; none where it is too large to be read."""
    if isinstance(left, sp.MatrixBase) and max(left.shape) > 4:
        return ""
    formula = f"{sp.latex(left)} {relation} {sp.latex(right)}"
    return formula if len(formula) <= _LONGEST_FORMULA else ""


def _decimals(error: float, digits: int) -> int:
    """Decimals that show a value down to so many digits of its error."""
    return max(0, digits - 1 - math.floor(math.log10(error)))


def _rounded(value: float, decimals: int, sign: Literal["", "+"] = "") -> str:
    """The value to so many decimals; a zero that is left of float noise has no sign."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"


def _allowed(rtol: float, atol: float) -> str:
    parts = [f"relative {rtol:g}"] if rtol else []
    parts += [f"absolute {atol:g}"] if atol else []
    return "tolerance " + " + ".join(parts) if parts else "exactly"


def _sides(left: Any, right: Any, verdict: Verdict) -> Sequence[str]:
    return (
        f"left:  {_clip(left)}",
        f"right: {_clip(right)}",
        f"left - right, simplified: {_clip(verdict.difference)}",
        *([verdict.reason] if verdict.reason else []),
    )


def _disagreement(left: Any, right: Any, verdict: Verdict) -> Sequence[str]:
    return (*_sides(left, right, verdict), f"counter-example {verdict.counterexample}")


def _clip(expression: Any, longest: int = 400) -> str:
    text: str = sp.sstr(expression, order="none")
    return text if len(text) <= longest else text[:longest] + " …"


def _message(head: str, statement: str, *lines: str) -> str:
    return "\n  ".join([f"{head}: {statement}", *lines])
