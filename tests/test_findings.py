"""A finding says no more than the stored outputs show."""

import re
from decimal import Decimal

import nbformat
import pytest

from kexue_lab.course.places import notebook_path

# Also ".5"; not a version, a section or the end of a sentence.
NUMBER = re.compile(r"(?<![\w.])(\d*\.\d+(?:e[-+]?\d+)?)(?![\w.]*\w)")
PER_CENT = re.compile(r"(\d+\.\d+)(?=(?: to [\d.]+|–[\d.]+)? ?(?:\\,)?(?:%|\\%|per cent))")

MOST_WORDS, MOST_DECIMALS = 420, 28  # of a lesson's findings together


def decimals(text):
    return [Decimal(found) for found in NUMBER.findall(text)]


def shares(text):
    """The per cents of a text as parts of 1."""
    return [Decimal(found) / 100 for found in PER_CENT.findall(text)]


def stands_in(number, shown):
    """Whether one of the shown numbers, rounded to as many places, is this one."""
    place = Decimal(1).scaleb(number.as_tuple().exponent)
    return any(
        abs(other - number) <= place / 2 and other.as_tuple().exponent <= place.adjusted()
        for other in shown
    )


def texts_of_outputs(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield output.get("text", "")
            data = output.get("data", {})
            yield from (text for mime, text in data.items() if mime.startswith("text/"))


def findings(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "**Finding" in cell.source:
            found = cell.source[cell.source.index("**Finding") :]
            yield re.split(r"^#", found, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("number", "shown", "stands"),
    [
        ("0.98", "accuracy 0.9812", True),
        ("0.98", "accuracy 0.9861", False),
        ("0.98", "accuracy 0.98", True),
        ("0.980", "accuracy 0.98", False),
        ("1.0", "1", False),
        (".5", "p = 0.50", True),
        ("2.5e-4", "error 2.51e-04", True),
        ("2.5e-4", "error 2.61e-04", False),
    ],
)
def test_a_decimal_stands_in_an_output_if_rounding_gives_it(number, shown, stands):
    assert stands_in(*decimals(number), decimals(shown)) is stands


def test_every_decimal_of_a_finding_stands_in_an_output(article):
    notebook = nbformat.read(notebook_path(article), as_version=4)
    shown = [number for text in texts_of_outputs(notebook) for number in decimals(text)]
    missing = [
        f"{number} in {text[:60]!r}…"
        for text in findings(notebook)
        for number in [*decimals(PER_CENT.sub("", text)), *shares(text)]
        if not stands_in(number, shown)
    ]
    assert not missing


def test_a_reader_keeps_its_findings_in_mind(article):
    found = list(findings(nbformat.read(notebook_path(article), as_version=4)))
    assert found
    for text in found:
        assert re.match(r"\*\*Finding[^:*]*: .{25,}?\.\*\*\s", text), "no headline that answers"
    assert sum(len(decimals(text)) for text in found) <= MOST_DECIMALS
    assert sum(len(text.split()) for text in found) <= MOST_WORDS
