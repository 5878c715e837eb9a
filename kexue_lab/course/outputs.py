"""Compare a notebook's stored outputs with fresh ones as a reader would.

Words, whole numbers, signs, `nan`, layout and every formula must be equal. Processors differ in
the last bit, so a number with a decimal point may differ by one unit of its last printed place.
Where training or sampling amplifies that bit its decimals are *free*: in cells tagged
`experiment`, and in the brackets of claims that are *estimated* or *observed*.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

# A formula, or a decimal number with the blanks that pad it. What lies between is words.
_FORMULA = r"\$\$.*?\$\$|\$[^$\n]*\$"
_DECIMAL = r"(?<![\w.])[-+−]?(?:\d+\.\d*|\.\d+)(?:e[-+−]?\d+)?(?![\w.]*\w)"
_TOKEN = re.compile(
    rf"(?P<formula>{_FORMULA})|(?P<before> *)(?P<decimal>{_DECIMAL})(?P<after> *)", re.DOTALL
)
# A claim of chance, as text or as markdown; its last bracket holds what was drawn.
_CHANCE = re.compile(
    r"^\W*[A-Z]\d+[a-z]?\W+(?:estimated|observed)\W.*?(?P<bracket>\[[^\[\]]*\])\W*(?:</small>)?$"
)
# In such a bracket a rounded figure may have lost its decimal point, and "p < 0.001" is a figure.
_FREE = re.compile(
    r"(?:[<>=≈] *)?[-+−]?(?:\d+\.\d*(?:e[-+−]?\d+)?|\d+e[-+−]?\d+|\d+(?= ±)|(?<=± )\d+)"
)
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class _Piece:
    """A number with a decimal point and its padding, or text that must be equal."""

    text: str
    decimal: bool = False
    before: int = 0
    after: int = 0


def outputs_differ(
    stored: Sequence[Any], fresh: Sequence[Any], *, experiment: bool = False
) -> str | None:
    """Return what a reader would notice between two lists of a cell's outputs, or None.

    Pictures other than SVG are not compared, but must be there, and the text that stands in for one
    has free decimals; views of widgets are not stored.

    Args:
        stored: the outputs in the file, as nbformat has them.
        fresh: those of a new run.
        experiment: whether the cell prints results of training: then its decimals are free.
    """
    for name in ("stdout", "stderr"):
        difference = text_differs(_stream(stored, name), _stream(fresh, name), free=experiment)
        if difference:
            return f"{name}: {difference}"
    old, new = _shown(stored), _shown(fresh)
    if len(old) != len(new):
        return f"{len(old)} outputs are stored, {len(new)} came"
    for before, after in zip(old, new, strict=True):
        if before.keys() != after.keys():
            return f"stored is {', '.join(sorted(before))}; {', '.join(sorted(after))} came"
        picture = any(mime.startswith("image/") for mime in before)
        for mime in before:
            difference = _content_differs(mime, before[mime], after[mime], experiment or picture)
            if difference:
                return f"{mime}: {difference}"
    return None


def _content_differs(mime: str, stored: Any, fresh: Any, experiment: bool) -> str | None:
    if mime in ("text/latex", "image/svg+xml"):
        return _first_line(stored, fresh)
    if mime.startswith("image/"):
        return None
    return text_differs(str(stored), str(fresh), free=experiment)


def text_differs(stored: str, fresh: str, *, free: bool = False) -> str | None:
    """Return the first difference between two texts that a reader would notice, or None.

    Args:
        stored: the text in the file.
        fresh: that of a new run.
        free: whether decimals may have any value.
    """
    old, new = _without_chance(stored), _without_chance(fresh)
    if free:
        old, new = _blank_decimals(old), _blank_decimals(new)
    before, after = _pieces(old), _pieces(new)
    if len(before) == len(after) and all(map(_same_piece, before, after)):
        return None
    return _first_line(old, new, close=True)


def _stream(outputs: Sequence[Any], name: str) -> str:
    parts = [o["text"] for o in outputs if o["output_type"] == "stream" and o["name"] == name]
    return "".join(parts)


def _shown(outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """What each output other than a stream shows, by kind of content."""
    shown = []
    for output in outputs:
        if output["output_type"] == "error":
            shown.append({"error": f"{output['ename']}: {output['evalue']}"})
        elif output["output_type"] != "stream":
            shown.append({k: v for k, v in output["data"].items() if k != _WIDGET_VIEW})
    return shown


def _without_chance(text: str) -> str:
    """The text with the figures of estimated and observed claims blanked."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        found = _CHANCE.match(line)
        if found:
            start, end = found.span("bracket")
            lines[number] = line[:start] + _FREE.sub("#", line[start:end]) + line[end:]
    return "\n".join(lines)


def _blank_decimals(text: str) -> str:
    return re.sub(rf" *{_DECIMAL} *", " # ", text)


def _pieces(text: str) -> list[_Piece]:
    pieces, end = [], 0
    for match in _TOKEN.finditer(text):
        if match["decimal"] is None:
            continue  # a formula: it stays part of the words
        pieces.append(_Piece(text[end : match.start()]))
        before, after = len(match["before"]), len(match["after"])
        pieces.append(_Piece(match["decimal"], decimal=True, before=before, after=after))
        end = match.end()
    return [*pieces, _Piece(text[end:])]


def _same_piece(old: _Piece, new: _Piece) -> bool:
    if not (old.decimal and new.decimal):
        return old == new
    return _same_place(old, new) and _same_number(old.text, new.text)


def _same_place(old: _Piece, new: _Piece) -> bool:
    """Whether the padding is equal, or makes up for one digit more or less."""
    if (old.before, old.after) == (new.before, new.after):
        return True
    return _width(old) == _width(new) and (old.before == new.before or old.after == new.after)


def _width(piece: _Piece) -> int:
    return piece.before + len(piece.text) + piece.after


def _same_number(old: str, new: str) -> bool:
    a, b = (Decimal(text.replace("−", "-")) for text in (old, new))
    if a and b and a.is_signed() != b.is_signed():
        return False
    # "1." is numpy's way of printing 1.000 in an array: its last place is the other number's.
    places = [_last_place(text) for text in (old, new) if not text.endswith(".")]
    return abs(a - b) <= (Decimal(10) ** max(places) if places else 0)


def _last_place(text: str) -> int:
    exponent = Decimal(text.replace("−", "-")).as_tuple().exponent
    assert isinstance(exponent, int)  # a number, not nan or infinity: see _DECIMAL
    return exponent


def _first_line(stored: str, fresh: str, *, close: bool = False) -> str | None:
    """The first pair of lines that differ (with `close`, more than the decimals may)."""
    if stored == fresh:
        return None
    old, new = stored.split("\n"), fresh.split("\n")
    for number in range(max(len(old), len(new))):
        a, b = (lines[number] if number < len(lines) else None for lines in (old, new))
        if a == b:
            continue
        if close and a is not None and b is not None:
            before, after = _pieces(a), _pieces(b)
            if len(before) == len(after) and all(map(_same_piece, before, after)):
                continue
        return f"line {number + 1}: stored {a!r}, came {b!r}"
    return f"stored {stored!r}, came {fresh!r}"
