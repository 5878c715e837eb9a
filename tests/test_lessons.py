"""What a lesson keeps beyond the contract: its length, its first picture, its claims in order.

An article is held to it once its state in the catalogue is "lesson". The ones that landed earlier
are excused until they are rewritten.
"""

import itertools
import re
import statistics

import nbformat
import pytest
from reports import cached_report

from kexue_lab.course.catalog import catalog
from kexue_lab.course.places import notebook_path
from kexue_lab.formulas import READABLE, visible_length
from kexue_lab.recorded import read_rows, recorded_path

LESSONS = [article.name for article in catalog().values() if article.state == "lesson"]
WORDS, VISIBLE_LINES, HIDDEN_LINES, CELLS, CLAIMS = 3500, 600, 400, 80, 45
APPENDIX_WORDS, APPENDIX_LINES = 1500, 200
CELL_LINES, MEDIAN_LINES = 30, 15
FIRST_PICTURE = 6
CLAIM = re.compile(r"claims\.(?:prove|refute|quote|agree|bound|estimate|compare|hold|record)\(")


@pytest.fixture(params=LESSONS)
def lesson(request):
    return request.param


@pytest.fixture
def cells(lesson):
    return nbformat.read(notebook_path(lesson), as_version=4).cells


def part(cells, *, appendix):
    """The lesson without its appendix and ledger, or these alone."""
    starts = [
        number
        for number, cell in enumerate(cells)
        if cell.cell_type == "markdown"
        and re.search(r"^## (Appendix|Ledger)", cell.source, re.MULTILINE)
    ]
    if not appendix:
        # The section may begin inside a cell that ends the section before it.
        first = cells[starts[0]].copy()
        first.source = re.split(r"^## (?:Appendix|Ledger)", first.source, flags=re.MULTILINE)[0]
        return [*cells[: starts[0]], first]
    return cells[starts[0] : starts[-1]]


def words(cells):
    return sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")


def code(cells, *, hidden):
    return [
        cell
        for cell in cells
        if cell.cell_type == "code" and ("hide-input" in cell.metadata.get("tags", ())) == hidden
    ]


def lines(cells):
    return [len(cell.source.splitlines()) for cell in cells]


def test_it_can_be_read_in_half_an_hour(cells):
    body = part(cells, appendix=False)
    assert words(body) <= WORDS
    assert len(body) <= CELLS
    assert sum(lines(code(body, hidden=False))) <= VISIBLE_LINES
    assert sum(lines(code(body, hidden=True))) <= HIDDEN_LINES
    claims = sum(len(CLAIM.findall(cell.source)) for cell in body if cell.cell_type == "code")
    assert claims <= CLAIMS
    assert re.search(r"\*\*Reading:\*\* (2[0-9]|3[0-5]) minutes", cells[0].source)


def test_its_appendix_is_short(cells):
    appendix = part(cells, appendix=True)
    assert words(appendix) <= APPENDIX_WORDS
    assert sum(lines(code(appendix, hidden=False) + code(appendix, hidden=True))) <= APPENDIX_LINES


def test_its_visible_cells_are_short(cells):
    visible = lines(code(cells, hidden=False))
    assert max(visible) <= CELL_LINES
    assert statistics.median(visible) <= MEDIAN_LINES


def test_its_pictures_say_in_words_what_they_show(cells):
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    texts = [data["text/plain"] for data in shown if "image/png" in data]
    assert texts
    for text in texts:
        assert re.match(r"Picture: .{10}|Explorer\(", text), text


def test_a_picture_comes_first(cells):
    drawn = [
        number
        for number, cell in enumerate(cells)
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))
    ]
    assert drawn[0] < FIRST_PICTURE


def test_text_comes_before_code(cells):
    """No sentence is completed by a code cell."""
    for cell, after in itertools.pairwise(cells):
        if cell.cell_type == "markdown" and after.cell_type == "code":
            last = cell.source.rstrip().splitlines()[-1].rstrip()
            ends = re.search(r"^#|[.:?!|>$)*`]$", last)
            assert ends, f"not the end of a sentence: {last!r}"


def test_its_claims_stand_in_order(lesson):
    claims = cached_report(lesson)["claims"]
    order = [(claim["key"][0], int(re.search(r"\d+", claim["key"])[0])) for claim in claims]
    for letter in "DNE":
        steps = [number for kind, number in order if kind == letter]
        assert steps == sorted(steps), f"{letter}: {steps}"
    keys = [claim["key"] for claim in claims if claim["kind"] != "observed"]
    assert len(set(keys)) == len(keys), "each claim has a number of its own"


def test_its_claims_say_what_they_mean(lesson):
    claims = cached_report(lesson)["claims"]
    statements = [claim["statement"] for claim in claims]
    assert all(len(statement.split()) >= 4 for statement in statements)
    assert all(visible_length(claim["short_formula"]) <= READABLE for claim in claims)
    assert [claim["kind"] for claim in claims].count("refuted") >= 2


def test_its_experiment_is_recorded(lesson):
    assert len(read_rows(recorded_path(lesson))) == 20
