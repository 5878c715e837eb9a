"""`kexue-lab record`: a small notebook over several seeds, interrupted, failing, stale."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from kexue_lab.course import pools
from kexue_lab.course import record as record_module
from kexue_lab.course.notebooks import normalise
from kexue_lab.course.record import fingerprint, is_stale, rarely_held, record
from kexue_lab.recorded import Row, read_rows, recorded_path, write_rows

ARTICLE = "mathematics/em"
CELLS = (
    "from kexue_lab.claims import Claims",
    'SEED = 7\nDEVICE = "cpu"\nSCALE = "cpu"',
    'claims = Claims("mathematics/em", scale=SCALE)',
    "assert SEED != 2, 'this seed fails'",
    'claims.record("E1", a=SEED / 2)\nclaims.bound("N1", "it is below one", SEED, below=1)',
    "claims.ledger()",
)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course with one article, whose record lies beside its module."""
    notebook, module = tmp_path / "em.ipynb", tmp_path / "mathematics/em.py"
    cells = [new_code_cell(source) for source in CELLS]
    cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(normalise(new_notebook(cells=cells)), notebook)
    module.parent.mkdir()
    module.write_text('"""The mathematics."""\n')
    monkeypatch.setattr(record_module, "notebook_path", lambda _article: notebook)
    monkeypatch.setattr(record_module, "PACKAGE", tmp_path)
    monkeypatch.setattr(record_module, "course_root", lambda: tmp_path)
    monkeypatch.setattr(record_module, "recorded_path", lambda _article: tmp_path / "em.json")
    return tmp_path


@pytest.fixture
def kernelless(course, monkeypatch):
    """Runs without a kernel; the list of seeds that ran."""
    ran = []

    def run(_path, environment, parameters):
        ran.append(parameters["SEED"])
        if parameters["SEED"] == 3 and ran.count(3) == 1:
            raise KeyboardInterrupt
        handed = {"figures": {"E1": {"a": parameters["SEED"]}}, "held": {"N1": True}}
        with open(environment["KEXUE_RECORD"], "w") as file:
            json.dump(handed, file)

    monkeypatch.setattr(record_module, "execute", run)
    return ran


def test_the_notebook_itself_is_run_with_each_seed(course):
    said = []
    rows = record(ARTICLE, [0, 1, 2], report=said.append)
    assert rows == read_rows(course / "em.json")
    assert [rows[seed].figures for seed in (0, 1)] == [{"E1": {"a": 0.0}}, {"E1": {"a": 0.5}}]
    assert [rows[seed].held for seed in (0, 1)] == [{"N1": True}, {"N1": False}]
    assert "this seed fails" in rows[2].failed
    assert not rows[2].figures
    assert "torch" in rows[0].made
    assert sorted(line.split(":")[0] for line in said) == ["seed 0", "seed 1", "seed 2"]


def test_an_interrupted_recording_goes_on_where_it_stopped(kernelless, course):
    with pytest.raises(KeyboardInterrupt):
        record(ARTICLE, range(6), workers=1, report=lambda _: None)
    assert not (course / "em.json").exists(), "nothing half-done is stored"
    rows = record(ARTICLE, range(6), workers=1, report=lambda _: None)
    assert sorted(rows) == list(range(6))
    assert [kernelless.count(seed) for seed in (0, 1, 2)] == [1, 1, 1]


def test_rows_of_another_notebook_are_run_again_and_are_stale(kernelless, course):
    record(ARTICLE, [0, 1], report=lambda _: None)
    assert not is_stale(ARTICLE)
    module = course / "mathematics/em.py"
    module.write_text(module.read_text() + "x = 1\n")
    assert is_stale(ARTICLE)
    record(ARTICLE, [0, 1], report=lambda _: None)
    assert not is_stale(ARTICLE)
    assert kernelless.count(0) == 2


def test_a_change_of_text_or_outputs_makes_nothing_stale(course):
    before = fingerprint(ARTICLE)
    path = course / "em.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# A title"))
    nbformat.write(notebook, path)
    assert fingerprint(ARTICLE) == before
    notebook.cells[1].source += "\nx = 1"
    nbformat.write(notebook, path)
    assert fingerprint(ARTICLE) != before


def test_code_behind_the_last_figure_and_claim_of_a_run_makes_nothing_stale(course):
    path = course / "em.ipynb"
    notebook = nbformat.read(path, as_version=4)

    def mark_with(source):
        notebook.cells[-1].source = source
        nbformat.write(notebook, path)
        return fingerprint(ARTICLE)

    before = fingerprint(ARTICLE)
    assert mark_with('claims.hold("E1a", "so it is", claims.recorded("E1")["a"] > 0)') == before
    assert mark_with("explore(draw, k=(1, 3))") == before
    assert mark_with('claims.bound("N2", "another", SEED, below=9)') != before


def test_a_comment_or_docstring_makes_nothing_stale_but_code_does(course):
    module = course / "mathematics/em.py"

    def mark(source):
        module.write_text(source)
        return fingerprint(ARTICLE)

    plain = mark('def f(x):\n    """Twice."""\n    return 2 * x\n')
    longer = '"""Anew."""\n\n\ndef f(x):\n    """Twice.\n\n    >>> f(1)\n    2\n    """\n'
    assert mark(f"{longer}    # Why not.\n    return 2 * x\n") == plain
    assert mark(f"{longer}    return 3 * x\n") != plain


def test_claims_that_hold_too_rarely_are_named():
    seeds = {seed: Row(held={"N1": True, "N2": seed < 18, "E1": seed < 17}) for seed in range(20)}
    assert rarely_held(seeds | {20: Row(failed="no")}) == {"E1": 17}


def test_every_record_of_the_course_is_whole(article):
    rows = read_rows(recorded_path(article))
    failed = {seed: row.failed for seed, row in rows.items() if row.failed}
    assert not failed
    assert not rows or sorted(rows) == list(range(20))
    assert not rarely_held(rows)


def test_the_records_lines_change_seed_by_seed(tmp_path):
    path = tmp_path / "record.json"
    write_rows(path, {seed: Row(figures={"E1": {"a": 1.0}}) for seed in range(3)})
    before = path.read_text("utf8").splitlines()
    write_rows(path, {seed: Row(figures={"E1": {"a": 1.0 + (seed == 1)}}) for seed in range(3)})
    after = path.read_text("utf8").splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


# --- on a cluster ------------------------------------------------------------------------------

KILLS_ITS_WORKER = """
import os, signal
from pathlib import Path
mark = Path("killed")
if SEED == 1 and not mark.exists():
    mark.touch()
    os.kill(os.getppid(), signal.SIGKILL)  # the kernel's parent is the worker
"""


def test_a_local_cluster_records_and_survives_a_dead_worker(course):
    path = course / "em.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(2, new_code_cell(KILLS_ITS_WORKER))
    nbformat.write(normalise(notebook), path)
    said = []
    rows = record(ARTICLE, [0, 1, 2], cluster="local", report=said.append)
    assert (course / "killed").exists()
    assert [rows[seed].figures for seed in (0, 1)] == [{"E1": {"a": 0.0}}, {"E1": {"a": 0.5}}]
    assert "this seed fails" in rows[2].failed
    assert said[-1].endswith("(3 of 3, 1 failed)")


def test_a_running_cluster_is_taken_by_its_address(course):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        rows = record(ARTICLE, [0, 1], cluster=cluster.scheduler_address, report=lambda _: None)
    assert [row.failed for row in rows.values()] == ["", ""]


def test_a_cluster_that_is_not_there_is_named(course, monkeypatch):
    monkeypatch.setattr(pools, "_PATIENCE", "1s")
    with pytest.raises(OSError, match=r"tcp://127\.0\.0\.1:9"):
        record(ARTICLE, [0], cluster="tcp://127.0.0.1:9", report=lambda _: None)
