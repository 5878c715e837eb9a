"""Notebooks: one normal form, a fresh kernel; and the pages made from the catalogue."""

import copy
import os
import random
import re
import shutil
import time
from itertools import pairwise

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kexue_lab.course import pages, places, reports
from kexue_lab.course.catalog import SERIES, catalog, find, next_articles
from kexue_lab.course.notebooks import execute, normalise, refresh

VIEW = "application/vnd.jupyter.widget-view+json"


def code(source, count=None, outputs=(), **metadata):
    cell = new_code_cell(source, execution_count=count, metadata=metadata)
    cell.outputs = [nbformat.from_dict(o) for o in outputs]
    return cell


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def sample():
    """A notebook as an editor leaves it: odd ids, counts, widget views, metadata everywhere."""
    picture = {"image/png": "aGVsbG8=", "text/plain": "Explorer(...)", VIEW: {"model_id": "abc"}}
    cells = [
        new_markdown_cell("# Title", metadata={"editable": True}),
        code("SEED = 0", 7, tags=["parameters"], collapsed=True),
        code("print(1)", 9, [stream("1\n"), stream("2\n"), stream("e\n", "stderr"), stream("3\n")]),
        code("picture", 12, [new_output("display_data", picture, metadata={"width": 3})]),
        code("1 + 1", 30, [new_output("execute_result", {"text/plain": "2"}, execution_count=30)]),
        code("not_run"),
        code("print(1)", 31),
        new_markdown_cell("# Title"),
    ]
    metadata = {"kernelspec": {"name": "mine", "display_name": "Mine"}, "widgets": {"state": {}}}
    notebook = new_notebook(cells=cells, metadata=metadata)
    notebook.cells[1].metadata["execution"] = {"iopub.execute_input": "2020-01-01T00:00:00Z"}
    return notebook


def test_normalise_is_idempotent_and_works_in_place():
    notebook = sample()
    once = normalise(notebook)
    assert once is notebook
    text = nbformat.writes(once)
    assert nbformat.writes(normalise(copy.deepcopy(once))) == text
    assert nbformat.writes(normalise(nbformat.reads(text, as_version=4))) == text
    nbformat.validate(once)


def test_counts_run_from_1_to_n_and_results_agree():
    cells = normalise(sample()).cells
    counts = [c.execution_count for c in cells if c.cell_type == "code"]
    assert counts == [1, 2, 3, 4, None, 5]
    assert cells[4].outputs[0].execution_count == 4


def test_ids_come_from_the_sources_alone():
    one, other = normalise(sample()), sample()
    for cell in other.cells:
        cell.id = f"other{random.randrange(10**9)}"
    ids = [c.id for c in one.cells]
    assert ids == [c.id for c in normalise(other).cells]
    assert len(set(ids)) == len(ids)  # also for cells of the same source
    other.cells[2].source += "  # changed"
    changed = [c.id for c in normalise(other).cells]
    assert [i for i, (a, b) in enumerate(zip(ids, changed, strict=True)) if a != b] == [2, 6]


def test_widget_views_go_and_pictures_stay():
    (output,) = normalise(sample()).cells[3].outputs
    assert dict(output.data) == {"image/png": "aGVsbG8=", "text/plain": "Explorer(...)"}
    assert output.metadata == {}


def test_neighbouring_pieces_of_one_stream_are_joined():
    outputs = normalise(sample()).cells[2].outputs
    assert [(o.name, o.text) for o in outputs] == [
        ("stdout", "1\n2\n"),
        ("stderr", "e\n"),
        ("stdout", "3\n"),
    ]


def test_only_tags_stay_of_the_metadata():
    notebook = normalise(sample())
    assert [dict(c.metadata) for c in notebook.cells] == [{}, {"tags": ["parameters"]}] + [{}] * 6
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)


def test_code_that_may_be_skipped_is_folded():
    notebook = sample()
    notebook.cells[2].metadata = {"tags": ["hide-input"], "jupyter": {"outputs_hidden": True}}
    folded = normalise(notebook).cells[2].metadata
    assert folded == {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    folded.tags = ["other"]
    assert normalise(notebook).cells[2].metadata == {"tags": ["other"]}


def test_sources_and_attachments_stay():
    notebook = sample()
    notebook.cells[0].attachments = {"a.png": {"image/png": "aGVsbG8="}}
    before = [c.source for c in notebook.cells]
    after = normalise(notebook)
    assert [c.source for c in after.cells] == before
    assert after.cells[0].attachments["a.png"]


def be_the_course(root, monkeypatch):
    """Stand in a course of its own, to which the package belongs."""
    shutil.copy(places.PACKAGE.parent / "pyproject.toml", root)
    (root / "notebooks/index.ipynb").write_text("{}")
    monkeypatch.setattr(places, "PACKAGE", root / "kexue_lab")
    monkeypatch.chdir(root)


def write(path, *sources):
    cells = [new_markdown_cell("# Tiny"), *(new_code_cell(s) for s in sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_execute_and_refresh(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    path = write(
        tmp_path / "tiny.ipynb",
        "import os, sys\nfrom pathlib import Path",
        "print(Path.cwd().name)\nprint(os.environ['OMP_NUM_THREADS'], flush=True)\nprint('end')",
        "1 / 2",
    )
    stored = path.read_bytes()
    run = execute(path)
    assert path.read_bytes() == stored
    assert run.cells[2].outputs[0].text.startswith(f"{tmp_path.name}\n1\n")
    assert run.cells[3].outputs[0].data["text/plain"] == "0.5"

    assert refresh(path) > 0
    once = path.read_bytes()
    assert once != stored
    cells = nbformat.read(path, as_version=4).cells
    assert [c.execution_count for c in cells[1:]] == [1, 2, 3]
    assert len(cells[2].outputs) == 1
    assert path.read_bytes() == once


def test_the_kernel_gets_the_environment_it_is_given(tmp_path):
    path = write(tmp_path / "tiny.ipynb", "import os\nos.environ['KEXUE_CLAIMS_DIR']")
    run = execute(path, {"KEXUE_CLAIMS_DIR": "elsewhere"})
    assert run.cells[1].outputs[0].data["text/plain"] == "'elsewhere'"


def test_a_report_is_made_anew_only_when_the_notebook_has_changed(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    source = """from kexue_lab.claims import Claims
claims = Claims("tiny/one")
claims.bound("N1", "a half", 0.5, below=1)
claims.ledger()"""
    path = write(tmp_path / "tiny/one.ipynb", source)
    monkeypatch.setattr(reports, "notebook_path", lambda article: tmp_path / f"{article}.ipynb")
    monkeypatch.setenv("KEXUE_CLAIMS_DIR", str(tmp_path / "reports"))
    assert [c["statement"] for c in reports.read_report("tiny/one")["claims"]] == ["a half"]
    monkeypatch.setattr(reports, "execute", lambda *_: pytest.fail("ran without need"))
    reports.read_report("tiny/one")
    os.utime(path, (time.time() + 60,) * 2)
    with pytest.raises(pytest.fail.Exception, match="ran without need"):
        reports.read_report("tiny/one")


def test_a_failing_cell_is_reported_and_the_file_kept(tmp_path):
    path = write(tmp_path / "tiny.ipynb", "1 + 1", "assert False, 'on purpose'")
    stored = path.read_bytes()
    with pytest.raises(CellExecutionError, match="on purpose"):
        refresh(path)
    assert path.read_bytes() == stored


# --- pages -------------------------------------------------------------------------------------

TABLE = pages.articles_table("here/{name}.ipynb")


def test_the_table_holds_every_article_once_with_source_and_state():
    rows = [line for line in TABLE.splitlines() if "kexue.fm/archives" in line]
    assert len(rows) == 38
    for article, row in zip(catalog().values(), rows, strict=True):
        assert article.title in row
        assert f"[{article.title_zh}]({article.source})" in row
        assert (f"](here/{article.name}.ipynb)" in row) is article.finished
        assert ("planned" in row) is not article.finished
        assert row.count("|") == 4
        assert all(before.split("/")[1] in row for before in article.prerequisites)
    assert re.findall(r"^### (\w+)$", TABLE, re.M) == [s.capitalize() for s in SERIES]


def test_the_readme_keeps_all_but_its_table():
    readme = "before\n<!-- articles: begin -->\nold \\1 table\n<!-- articles: end -->\nafter\n"
    new = pages.readme_with_table(readme)
    assert new.startswith("before\n<!-- articles: begin -->\n### Mathematics")
    assert new.endswith("<!-- articles: end -->\nafter\n")
    assert "old" not in new
    assert pages.readme_with_table(new) == new


@pytest.mark.parametrize(
    "text",
    ["", "no marks", "<!-- articles: begin -->", "<!-- articles: end --> <!-- articles: begin -->"],
)
def test_a_readme_without_the_marks(text):
    with pytest.raises(ValueError, match="the README lacks"):
        pages.readme_with_table(text)


def test_the_index_is_a_valid_notebook_of_markdown():
    index = pages.index_notebook()
    nbformat.validate(index)
    assert {c.cell_type for c in index.cells} == {"markdown"}
    assert index.cells[0].source.startswith("# ")
    assert "38 articles" in index.cells[0].source
    assert nbformat.writes(pages.index_notebook()) == nbformat.writes(index)


def test_write_pages(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text("a <!-- articles: begin --><!-- articles: end --> b", "utf8")
    be_the_course(tmp_path, monkeypatch)
    pages.write_pages()
    assert "从最大似然到EM算法" in readme.read_text("utf8")
    assert nbformat.read(tmp_path / "notebooks/index.ipynb", as_version=4).cells


def test_readme_and_index_are_up_to_date():
    root = places.PACKAGE.parent
    readme = (root / "README.md").read_text("utf8")
    assert pages.readme_with_table(readme) == readme, "run make notebooks"
    stored = (root / "notebooks/index.ipynb").read_text("utf8")
    assert stored.rstrip() == nbformat.writes(pages.index_notebook()).rstrip(), "run make notebooks"


def test_before_and_next_follow_the_prerequisites():
    links = pages.onward(find("diffusion/ddim"))
    assert "**Before:** [The probability-flow ODE" in links
    assert "](../diffusion/probability_flow.ipynb)" in links
    for after in next_articles(find("diffusion/ddim")):
        assert after.title in links.split("**Next:**")[1]
    assert "**Before:** nothing is needed." in pages.onward(find("mathematics/em"))


def test_without_followers_the_next_of_the_catalogue_follows():
    articles = list(catalog().values())
    for article, following in pairwise(articles):
        if not next_articles(article):
            assert following.title in pages.onward(article).split("**Next:**")[1]
    assert "**Next:**" not in pages.onward(articles[-1])


def test_links_at_the_end_are_replaced_not_repeated():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A title")])
    pages.put_onward(notebook, find("ddim"))
    pages.put_onward(notebook, find("em"))
    assert [c.source for c in notebook.cells] == ["# A title", pages.onward(find("em"))]


@pytest.mark.parametrize(
    "article", [a for a in catalog().values() if a.finished], ids=lambda a: a.name
)
def test_every_notebook_ends_with_its_links(article):
    path = places.notebook_path(article.name)
    assert nbformat.read(path, as_version=4).cells[-1].source == pages.onward(article), (
        "run make notebooks"
    )
    for name in re.findall(r"\]\(([^)]*\.ipynb)\)", pages.onward(article)):
        assert (path.parent / name).is_file()


def test_links_of_the_index_lead_to_files():
    root = places.PACKAGE.parent
    for cell in pages.index_notebook().cells:
        for name in re.findall(r"\]\(([^)]*\.ipynb)\)", cell.source):
            assert (root / "notebooks" / name).is_file(), name


def test_the_index_opens_a_series_with_its_readme(tmp_path, monkeypatch):
    (tmp_path / "notebooks/text").mkdir(parents=True)
    (tmp_path / "notebooks/text/README.md").write_text("Read [words](word_movers.ipynb) first.")
    be_the_course(tmp_path, monkeypatch)
    *_, opening = pages.index_notebook().cells
    assert opening.source == "Read [words](text/word_movers.ipynb) first."


def test_the_opening_of_a_series_links_its_finished_articles_in_order():
    for opening in (places.PACKAGE.parent / "notebooks").glob("*/README.md"):
        series = opening.parent.name
        linked = re.findall(r"^\d+\. \[(\w+)\]\(\1\.ipynb\)", opening.read_text("utf8"), re.M)
        ours = [a.name.split("/")[1] for a in catalog().values() if a.series == series]
        assert linked == [slug for slug in ours if find(slug).finished]
