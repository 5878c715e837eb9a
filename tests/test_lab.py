"""The learner's own copies of the notebooks, and how JupyterLab is started on them."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from nbformat import read, write
from nbformat.v4 import new_markdown_cell, new_notebook

from kexue_lab.course import cli, places
from kexue_lab.course.lab import command, lay_out

CHECKOUT = places.PACKAGE.parent
EM = "mathematics/em"


def notebook(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(new_notebook(cells=[new_markdown_cell(text, id="text")]), path)


@pytest.fixture
def course(tmp_path, monkeypatch):
    root = tmp_path / "course"
    for name in ("index", EM, f"solutions/{EM}"):
        notebook(root / f"notebooks/{name}.ipynb", f"{name}, first")
    shutil.copy(CHECKOUT / "pyproject.toml", root)
    monkeypatch.chdir(root)
    return root


def text(path):
    return read(path, as_version=4).cells[0].source


def test_every_notebook_has_a_copy_as_deep_as_itself(course):
    assert lay_out() == []
    for name in ("index", EM, f"solutions/{EM}"):
        assert text(course / f"my/{name}.ipynb") == f"{name}, first"


def test_an_untouched_copy_follows_the_course(course):
    lay_out()
    notebook(course / f"notebooks/{EM}.ipynb", "second")
    assert lay_out() == []
    assert text(course / f"my/{EM}.ipynb") == "second"


def test_a_changed_copy_is_kept_and_named_when_the_course_moves_on(course):
    lay_out()
    mine = course / f"my/{EM}.ipynb"
    notebook(mine, "mine")
    assert lay_out() == []
    notebook(course / f"notebooks/{EM}.ipynb", "second")
    assert lay_out() == [mine]
    assert text(mine) == "mine"


def test_a_fresh_start_keeps_the_old_copy_beside_the_new_one(course):
    lay_out()
    mine = course / f"my/{EM}.ipynb"
    notebook(mine, "mine")
    notebook(course / f"notebooks/{EM}.ipynb", "second")
    assert lay_out(fresh=EM) == []
    assert text(mine) == "second"
    assert text(mine.with_suffix(".before.ipynb")) == "mine"


def test_a_copy_that_was_deleted_comes_back(course):
    lay_out()
    (course / f"my/{EM}.ipynb").unlink()
    lay_out()
    assert text(course / f"my/{EM}.ipynb") == f"{EM}, first"


def test_the_course_itself_is_never_changed(course):
    before = {path: path.read_bytes() for path in (course / "notebooks").rglob("*.ipynb")}
    lay_out()
    lay_out(fresh=EM)
    assert {path: path.read_bytes() for path in (course / "notebooks").rglob("*.ipynb")} == before


def test_copies_are_ignored_by_git_and_ruff():
    assert "my/" in (CHECKOUT / ".gitignore").read_text("utf8").splitlines()
    assert '"my"' in (CHECKOUT / "pyproject.toml").read_text("utf8")


class Started(Exception):
    """JupyterLab takes the place of the process."""


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ([], "my/index.ipynb"),
        (["em"], "my/mathematics/em.ipynb"),
        (["em", "--fresh"], "my/mathematics/em.ipynb"),
        (["em", "--original"], "notebooks/mathematics/em.ipynb"),
        (["--original"], "notebooks/index.ipynb"),
    ],
)
@pytest.mark.parametrize("screen", [True, False])
def test_open_starts_jupyterlab(course, monkeypatch, capsys, arguments, file, screen):
    calls = []

    def start(_program, started):
        calls.append(started)
        raise Started

    monkeypatch.setenv("KEXUE_FIGURES_DIR", "")
    monkeypatch.setattr(os, "execv", start)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    if not screen:
        monkeypatch.delenv("DISPLAY")
    with pytest.raises(Started):
        cli.main(["open", *arguments])
    (started,) = calls
    assert started[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={course}" in started
    assert f"--LabApp.default_url=/lab/tree/{file}" in started
    assert ("--no-browser" in started) is not screen
    assert ("open the address" in capsys.readouterr().out) is not screen
    own = str(course / "my/figures") if file.startswith("my/") else ""
    assert os.environ["KEXUE_FIGURES_DIR"] == own


def test_no_question_about_news_unless_the_learner_asks_for_it(course):
    (option,) = [a for a in command(course / "notebooks/index.ipynb", True) if "settings" in a]
    folder = Path(option.split("=")[1])
    settings = json.loads((folder / "overrides.json").read_text("utf8"))
    notification = settings["@jupyterlab/apputils-extension:notification"]
    assert notification == {"fetchNews": "false", "checkForUpdates": False}


def test_a_fresh_start_needs_a_name(course, capsys):
    assert cli.main(["open", "--fresh"]) == 2
    assert "--fresh needs the name" in capsys.readouterr().err
