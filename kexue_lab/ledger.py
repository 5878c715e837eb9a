"""A claim as it is shown where it is stated, the ledger of all of them, and the reader of both."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["proved", "refuted", "quoted", "checked", "measured", "estimated", "observed"]


@dataclass(frozen=True)
class Mark:
    """How a kind of claim is marked: its sign, the word beside it, and what they mean."""

    sign: str
    word: str
    meaning: str


MARKS: dict[Kind, Mark] = {
    "proved": Mark("✓", "proved", "sympy brings the difference of both sides to 0"),
    "refuted": Mark("✗", "ruled out", "a false sentence, with a point at which it fails"),
    "quoted": Mark("≡", "quoted", "taken on trust, with its source"),
    "checked": Mark("✓", "checked", "equal to an independent oracle within the stated tolerance"),
    "measured": Mark("✓", "measured", "every computed value lies within the stated bounds"),
    "estimated": Mark("✓", "estimated", "a random sample agrees within its own standard error"),
    "observed": Mark("✓", "observed", "seen in an experiment over several seeds"),
}

_KINDS = {mark.word: kind for kind, mark in MARKS.items()}
_SHOWN = re.compile(
    r"(?P<sign>\S) \*\*(?P<key>\w+)\*\* · \*(?P<word>[a-z ]+)\* — (?P<statement>.+?)"
    r"(?: <small>\[(?P<detail>.*)\]</small>)?"
)


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger.

    Attributes:
        key: the number of the step, such as "D2".
        kind: what kind of evidence stands behind it.
        statement: what is asserted; of a refuted claim, the false sentence.
        detail: what stands in brackets behind it: numbers, a source, a counter-example.
        formula: the whole equation in LaTeX.
        short_formula: the same, short enough to be read at a glance.
        conditions: assumptions, domain and arrows of limits.
        point: a counter-example that is too long for the bracket.
    """

    key: str
    kind: Kind
    statement: str
    detail: str = ""
    formula: str = ""
    short_formula: str = ""
    conditions: str = ""
    point: str = ""
    lhs: str = field(default="", repr=False)
    rhs: str = field(default="", repr=False)
    domain: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return f"{self.line()} [{self.detail}]" if self.detail else self.line()

    def line(self) -> str:
        """The claim without what stands in brackets behind it."""
        mark = MARKS[self.kind]
        return f"{mark.sign} {self.key} {mark.word}: {self.statement}"

    def _repr_markdown_(self) -> str:
        mark = MARKS[self.kind]
        line = f"{mark.sign} **{self.key}** · *{mark.word}* — {self.statement}"
        if self.detail:
            line += f" <small>[{self.detail}]</small>"
        return "\n\n".join([line, *self._below()])

    def _below(self) -> list[str]:
        """The formula under the line: short ones open, long ones and refuted ones folded."""
        if self.kind == "refuted":
            parts = [*([self.point] if self.point else []), *_displayed(self.formula)]
            return [_folded("both sides", parts)] if parts else []
        if self.formula == self.short_formula:
            return _displayed(self.formula)
        whole = _displayed(self.formula)
        return [
            *_displayed(self.short_formula),
            *([_folded("the whole formula", whole)] if whole else []),
        ]


def read_claim(shown: str) -> Claim | None:
    """Read a claim back from the markdown that shows it; None if it shows something else.

    Key, kind, statement and detail are those of the claim; formulas are not read.
    """
    match = _SHOWN.fullmatch(shown.split("\n", 1)[0])
    if match is None or match["word"] not in _KINDS:
        return None
    return Claim(match["key"], _KINDS[match["word"]], match["statement"], match["detail"] or "")


class MarksLine:
    """The line before a notebook's first claim: what the marks mean, and where it is told."""

    def __repr__(self) -> str:
        return (
            "What the marks mean: ✓ a machine has checked it (the word beside it says how), "
            "✗ a false sentence with a point at which it fails, ≡ taken on trust with its source."
        )

    def _repr_markdown_(self) -> str:
        return f"<small>{self!r} More in the [index](../index.ipynb).</small>"


@dataclass(frozen=True)
class Ledger:
    """All claims of a notebook as a folded table; the visible line counts the kinds."""

    entries: tuple[Claim, ...]

    def _summary(self) -> str:
        counts = Counter(claim.kind for claim in self.entries)
        listed = ", ".join(f"{counts[kind]} {MARKS[kind].word}" for kind in MARKS if counts[kind])
        return f"{len(self.entries)} claims: {listed}"

    def __repr__(self) -> str:
        return "\n".join([self._summary(), *(claim.line() for claim in self.entries)])

    def _repr_markdown_(self) -> str:
        table = ["| | evidence | claim | given |", "|---|---|---|---|"]
        for claim in self.entries:
            mark = MARKS[claim.kind]
            cells = [claim.key, f"{mark.sign} {mark.word}", claim.statement, claim.conditions]
            table.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        kinds = {claim.kind for claim in self.entries}
        legend = [f"*{MARKS[k].word}*: {MARKS[k].meaning}." for k in MARKS if k in kinds]
        parts = ["\n".join(table), "<small>" + " ".join(legend) + "</small>"]
        return _folded(f"<b>{self._summary()}</b>", parts)


def _displayed(formula: str) -> list[str]:
    return [f"$${formula}$$"] if formula else []


def _folded(summary: str, parts: list[str]) -> str:
    # Markdown inside an HTML block is read only between empty lines.
    return "\n\n".join([f"<details><summary>{summary}</summary>", *parts, "</details>"])
