r"""Numbered equations on a lesson's page: each has an anchor, and "(3)" in the text leads to it.

The notebooks number them themselves, by `\tag{3}` in a displayed formula.
"""

import re
from collections.abc import Iterator, Set
from typing import Any

_DISPLAY = re.compile(r"^(?P<indent>[ >]*)\$\$(?:(?!\$\$).)*?\\tag\{(?P<number>\d+)\}", re.M | re.S)
# Where "(3)" is no reference: code, formulas, what a link says, and HTML.
_APART = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<[^>]*>", re.S
)
_NUMBER = re.compile(r"(?<![\w)\]])\((?P<number>\d{1,2})\)")
_ELSEWHERE = re.compile(r"\s+of\s+\[[^\]]*\]\((?P<page>[\w/.]+)\.ipynb\)")
_BEFORE_A_POINT = re.compile(r"(?:^|[:;?.,*>])\s*\*?$")
# The number in a title, such as "Optimisation as dynamics (6)".
_TITLE = "dynamics "


def equations_of(notebook: Any) -> set[str]:
    """The numbers of a notebook's equations."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return {match["number"] for match in _DISPLAY.finditer(text)}


def with_equations(text: str, equations: Set[str]) -> str:
    """The text of a cell with its equations anchored, and linked where it names them.

    A list that counts its points by (1), (2), … stays as it is. "(4) of [DDIM](ddim.ipynb)" leads
    to the other lesson.

    Args:
        text: in markdown.
        equations: the numbers of the lesson's equations.
    """
    points = _points(text)
    parts, end = [], 0
    for match in _references(text):
        number, elsewhere = match["number"], _ELSEWHERE.match(text, match.end())
        if elsewhere:
            target = f"{elsewhere['page']}.html#equation-{number}"
        elif number in equations and match.start() not in points:
            target = f"#equation-{number}"
        else:
            continue
        parts += [text[end : match.start()], f'<a href="{target}">({number})</a>']
        end = match.end()
    linked = "".join([*parts, text[end:]])
    return _DISPLAY.sub(
        lambda m: f'{m["indent"]}<span id="equation-{m["number"]}"></span>\n\n{m[0]}', linked
    )


def _references(text: str) -> Iterator[re.Match[str]]:
    """Each "(3)" that stands in words."""
    apart = [match.span() for match in _APART.finditer(text)]
    for match in _NUMBER.finditer(text):
        inside = any(start <= match.start() < end for start, end in apart)
        if not inside and not text[: match.start()].endswith(_TITLE):
            yield match


def _points(text: str) -> set[int]:
    """Where a list counts its points: behind a stop, from (1) on, and more than one."""
    places: list[int] = []
    found: set[int] = set()
    for match in _references(text):
        if not _BEFORE_A_POINT.search(text[: match.start()]):
            continue
        number = int(match["number"])
        if number == 1:
            places = []
        if number == len(places) + 1:
            places.append(match.start())
            if number > 1:
                found |= set(places)
    return found
