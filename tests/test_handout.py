"""Assignments for nbgrader: their form, and one graded end to end."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kexue_lab.course import handout
from kexue_lab.course.catalog import catalog
from kexue_lab.course.cli import main
from kexue_lab.course.handout import assignment, hand_out
from kexue_lab.course.places import course_root, notebook_path
from kexue_lab.exercises import exercises_of

ARTICLE, NAME = "diffusion/ddim", "ddim"
FINISHED = [article.name for article in catalog().values() if article.finished]

RIGHT = """\
def other_pair(ab_t, bb_t, ab_u, bb_u, sigma):
    kappa = -np.sqrt(bb_u**2 - sigma**2) / bb_t
    return kappa, ab_u - ab_t * kappa
"""
ANSWERS = {
    1: RIGHT,
    2: "def border(p):\n    return 0.0\n",  # right for a fair coin only
    4: "%%time\nwhile True:\n    pass\n",
    5: "def heun(x, noise, times):\n    return 7**7**9\n",  # in C, inside the answer
    6: "import os\nos._exit(0)\n",
}
"""What a student wrote; exercise 3 is untouched."""


def _assignment(article):
    return assignment(nbformat.read(notebook_path(article), as_version=4))


def _named(notebook, name):
    (cell,) = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name]
    return cell


def _bound(source):
    """Names of the functions and variables that a cell defines."""
    parts = ast.parse(source).body
    functions = {part.name for part in parts if isinstance(part, ast.FunctionDef)}
    assigned = [part.targets[0] for part in parts if isinstance(part, ast.Assign)]
    return functions | {ast.unparse(target) for target in assigned}


@pytest.mark.parametrize("article", FINISHED)
def test_each_exercise_is_a_stub_and_a_graded_check(article):
    notebook = _assignment(article)
    for number in exercises_of(article):
        stub, check = _named(notebook, f"exercise-{number}"), _named(notebook, f"check-{number}")
        assert stub.metadata.nbgrader["solution"]
        assert not stub.metadata.nbgrader["locked"]
        answer = check.source.splitlines()[0].rpartition(".check(")[2].rstrip(")")
        assert answer in _bound(stub.source)
        assert check.metadata.nbgrader["points"] == 1
        assert check.metadata.nbgrader["locked"]
        assert ".check(" not in stub.source


@pytest.mark.parametrize("article", FINISHED)
def test_nothing_leads_to_the_solutions(article):
    text = "\n".join(cell.source for cell in _assignment(article).cells)
    assert "solutions/" not in text
    assert "orked answers" not in text
    assert ".ipynb)" not in text


def test_a_notebook_without_exercises_is_refused():
    cell = nbformat.v4.new_code_cell("1 + 1")
    with pytest.raises(ValueError, match="no exercises"):
        assignment(nbformat.v4.new_notebook(cells=[cell]))


def test_what_would_do_harm_is_refused(tmp_path, capsys):
    assert main(["handout", NAME, "-o", str(course_root() / "notebooks")]) == 2
    assert main(["handout", NAME, "-o", str(tmp_path)]) == 0
    assert main(["handout", "em", NAME, "-o", str(tmp_path)]) == 2  # ddim is there already
    assert not (tmp_path / "source" / "em").exists()
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()\n")
    with pytest.raises(ValueError, match="settings of your own"):
        hand_out("mathematics/em", tmp_path)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("kexue-lab: ") for line in lines)


def _short(folder: Path) -> Path:
    """The lesson's first picture and its exercises, without the rest, which takes its time."""
    notebook = nbformat.read(notebook_path(ARTICLE), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = code[:4] + [cell for cell in code if "exercise(" in cell.source]
    nbformat.write(notebook, folder / f"{NAME}.ipynb")
    return folder / f"{NAME}.ipynb"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """What nbgrader releases, the points of a student by exercise, and his notebook, graded."""
    pytest.importorskip("nbgrader")
    folder = tmp_path_factory.mktemp("class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handout, "notebook_path", lambda _: _short(tmp_path_factory.mktemp("short")))
        hand_out(ARTICLE, folder, points=2)
    _nbgrader(folder, "generate_assignment", NAME)
    released = folder / "release" / NAME / f"{NAME}.ipynb"
    notebook = nbformat.read(released, as_version=4)
    for number, answer in ANSWERS.items():
        _named(notebook, f"exercise-{number}").source = answer
    # He has changed a check as well, and a cell of the lesson.
    _named(notebook, "check-2").source = "2"
    _named(notebook, "lesson-2").source = "raise SystemExit"
    handed_in = folder / "submitted" / "ada" / NAME / f"{NAME}.ipynb"
    handed_in.parent.mkdir(parents=True)
    nbformat.write(notebook, handed_in)
    _nbgrader(folder, "autograde", NAME, "--student", "ada", "--create", "--Guard.seconds=2")
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        grades = book.find_submission_notebook(NAME, NAME, "ada").grades
        points = {int(g.name.removeprefix("check-")): g.auto_score for g in grades}
    after = nbformat.read(folder / "autograded" / "ada" / NAME / f"{NAME}.ipynb", as_version=4)
    return nbformat.read(released, as_version=4), points, after


def _nbgrader(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "nbgrader", *arguments]
    # nbgrader calls `alembic` by its name, as in an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_each_answer_is_graded_as_it_deserves(graded):
    _, points, _ = graded
    assert points == {1: 2, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0}


def test_the_student_sees_hints_and_no_traceback_of_a_wrong_answer(graded):
    *_, notebook = graded
    outputs = _named(notebook, "check-2").outputs
    assert [o.output_type for o in outputs] == ["stream", "execute_result"]
    assert outputs[0].text.startswith("✗ Exercise 2")
    assert "hint" in outputs[0].text
    assert "not attempted yet" in _named(notebook, "check-3").outputs[0].text


def test_cells_stand_as_they_were_handed_in(graded):
    *_, notebook = graded
    for number, answer in ANSWERS.items():
        assert _named(notebook, f"exercise-{number}").source == answer
    refused = {n: _named(notebook, f"exercise-{n}").outputs[0] for n in (4, 6)}
    assert "did not end within" in refused[4].evalue
    assert "ends its process" in refused[6].evalue


def test_what_is_released_keeps_signatures_and_pictures(graded):
    notebook, *_ = graded
    assert "def other_pair(ab_t, bb_t, ab_u, bb_u, sigma):" in _named(notebook, "exercise-1").source
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
