"""The page of an article's explorers: each below its question, without the code."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kexue_lab import explore
from kexue_lab.course import app
from kexue_lab.course.catalog import find

CELLS = (
    new_markdown_cell("# Title\n\n## Derivation\n\nSome text."),
    new_code_cell("x = 1"),
    new_markdown_cell("The end of a step.\n\n### 2. Steps\n\n**Question: where does it go?**"),
    new_code_cell("explore(draw, x=(0, 1))"),
    new_markdown_cell("## Explore\n\nAnother one."),
    new_code_cell("explore(other, y=(0, 1))"),
)


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "em.ipynb"
    nbformat.write(new_notebook(cells=list(CELLS)), path)
    monkeypatch.setattr(app, "notebook_path", lambda _name: path)
    return app.app_notebook(find("em")).cells


def test_each_explorer_stands_below_its_question(page):
    assert [cell.source for cell in page[2:]] == [
        "### 2. Steps\n\n**Question: where does it go?**",
        "next(explorers)",
        "## Explore\n\nAnother one.",
        "next(explorers)",
    ]


def test_the_page_begins_with_title_and_source(page):
    title, start = (cell.source for cell in page[:2])
    assert title.startswith(f"# {find('em').title}\n")
    assert find("em").source in title
    assert 'run_silently("mathematics/em")' in start
    assert "from kexue_lab.course.app import run_silently" in start


def test_what_comes_after_the_last_explorer_is_not_run(tmp_path, monkeypatch):
    lines = [
        "import matplotlib.pyplot as plt\nfrom kexue_lab.explore import explore",
        "def draw(x=1):\n    figure, _ = plt.subplots()\n    return figure",
        "explore(draw, x=(0, 3))",
        "raise RuntimeError('this takes long, and no explorer needs it')",
    ]
    path = tmp_path / "em.ipynb"
    nbformat.write(new_notebook(cells=list(map(new_code_cell, lines))), path)
    monkeypatch.setattr(app, "notebook_path", lambda _name: path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explore, "_explorers", {})
    assert [explorer.name for explorer in app.run_silently("mathematics/em")] == ["draw"]
