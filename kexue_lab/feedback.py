"""What a check says, and how it shows values: plain text, and in JupyterLab colour and TeX."""

import contextlib
import html
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import sympy as sp

_PRINTED_LINES, _LINE_LENGTH = 10, 200


@dataclass(frozen=True)
class Feedback:
    """What a check says: `passed` is None where nothing was attempted."""

    title: str
    passed: bool | None
    lines: Sequence[str] = ()

    def __repr__(self) -> str:
        mark = {None: "○", True: "✓", False: "✗"}[self.passed]
        return "\n    ".join([f"{mark} {self.title}", *self.lines])

    def html(self) -> str:
        """The same in colour, its formulas in TeX."""
        colour = {None: "#888", True: "#2a7d2a", False: "#b3261e"}[self.passed]
        mark, _, title = repr(self).splitlines()[0].partition(" ")
        lines = "".join(f"<div>{_html_line(line)}</div>" for line in self.lines)
        return (
            f'<div style="border-left: 4px solid {colour}; padding-left: 0.8em">'
            f'<div><b style="color: {colour}">{mark}</b> <b>{html.escape(title)}</b></div>'
            f"{lines}</div>"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        plain = {"text/plain": repr(self)}
        # Set for kernels of JupyterLab's sessions only: what is stored or compared stays plain.
        return plain | {"text/html": self.html()} if "JPY_SESSION_NAME" in os.environ else plain


class Formula(str):
    """A line that ends in a formula, which a browser can set."""

    tex: str = ""

    @classmethod
    def of(cls, label: str, value: Any) -> "Formula":
        """The line of a label and a sympy expression."""
        line = cls(f"{label}{value}")
        line.tex = f"{html.escape(label)}${sp.latex(value)}$"
        return line


def _html_line(line: str) -> str:
    if isinstance(line, Formula):
        return line.tex
    label, colon, text = line.partition(": ")
    if colon and label == "hint":
        return f"<b>hint:</b> <i>{html.escape(text)}</i>"
    return f'<span style="font-family: monospace; white-space: pre-wrap">{html.escape(line)}</span>'


def shown_apart(expected: Any, got: Any) -> tuple[str, str]:
    """Both values, with as many digits as it takes to tell them apart."""
    texts = show(expected), show(got)
    return texts if texts[0] != texts[1] else (show(expected, 17), show(got, 17))


def show(value: Any, digits: int = 10) -> str:
    """A value as a short text; entries of arrays and lists with fewer digits."""
    if isinstance(value, Fraction):
        return as_text(value, str)
    if isinstance(value, (float, np.floating)):
        return f"{value:.{digits}g}"
    fewer = max(6, digits - 4)
    if type(value) in (list, tuple) and len(value) <= 12:
        inner = ", ".join(show(v, fewer) for v in value)
        return clipped(f"[{inner}]" if isinstance(value, list) else f"({inner})")
    with contextlib.suppress(Exception):  # of some tensors there is no array
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        shape = f" (shape {value.shape})" if value.ndim else ""
        text = np.array2string(value, precision=fewer, threshold=12).replace("\n", "")
        return clipped(text) + shape
    return clipped(as_text(value, repr))


def printed_lines(printed: str) -> list[str]:
    """The first lines of what was printed, under a heading; none if nothing was."""
    lines = printed.splitlines()
    if not lines:
        return []
    rest = len(lines) - _PRINTED_LINES
    shown = [f"    {clipped(line)}" for line in lines[:_PRINTED_LINES]]
    return ["you printed:", *shown, *([f"    … and {rest} more lines"] if rest > 0 else [])]


def clipped(text: str) -> str:
    """The text, or its beginning."""
    return text if len(text) <= _LINE_LENGTH else text[:_LINE_LENGTH] + " …"


def as_text(value: Any, form: Callable[[Any], str]) -> str:
    """The value as text, whatever its own methods do."""
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", form(value))  # an address says nothing
    except Exception as error:
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
