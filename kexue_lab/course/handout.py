"""Hand articles out as nbgrader assignments: a graded cell per exercise, no solutions inside."""

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell

from kexue_lab.course.places import course_root, notebook_path

_CONFIG = '''\
"""nbgrader's settings for assignments that `kexue-lab handout` has made."""

from kexue_lab.course.grading import configure

configure(get_config())  # noqa: F821 (nbgrader defines it)
'''
_SCHEMA = 3  # of nbgrader's metadata
# "; worked answers: [solutions](…)" and "; worked answers are in the [solutions](…)"
_TO_SOLUTIONS = re.compile(r";? ?[Ww]orked answers[^.]*?\]\([^)]*solutions/[^)]*\)")
_TO_NOTEBOOK = re.compile(r"\[([^\]]+)\]\([^)\s]*\.ipynb[^)]*\)")


def hand_out(article: str, folder: Path, points: int = 1) -> Path:
    """Write an article as an assignment into a folder that nbgrader takes for its course.

    Each exercise becomes two cells: the stub, for the student, and its check, which he cannot
    change and which gives the points. The lesson's own cells are locked, so that grading runs them
    as they are handed out.

    Args:
        article: the article's name, such as "diffusion/ddim".
        folder: nbgrader's course; made if it is missing. Its settings are written beside.
        points: for each exercise.

    Returns:
        the notebook: `<folder>/source/<article>/<article>.ipynb`, without the series.

    Raises:
        ValueError: if the folder lies in the course, holds other settings of nbgrader, or has
            this assignment already; or if the notebook has no exercises.
    """
    check_handout(article, folder)
    notebook = assignment(nbformat.read(notebook_path(article), as_version=4), points)
    name = article.split("/")[1]
    place, draft = folder / "source" / name, folder / f".{name}.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    nbformat.write(notebook, draft / f"{name}.ipynb")
    place.parent.mkdir(exist_ok=True)
    (folder / "nbgrader_config.py").write_text(_CONFIG, "utf8")
    draft.replace(place)
    return place / f"{name}.ipynb"


def check_handout(article: str, folder: Path) -> None:
    """See that `hand_out` will do no harm.

    Raises:
        ValueError: as `hand_out`.
    """
    if folder.resolve().is_relative_to(course_root().resolve()):
        raise ValueError(f"FOLDER must lie outside the course, got {folder}")
    settings = folder / "nbgrader_config.py"
    if settings.exists() and settings.read_text("utf8") != _CONFIG:
        raise ValueError(f"{settings} holds settings of your own: choose another folder")
    place = folder / "source" / article.split("/")[1]
    if place.exists():
        raise ValueError(f"{place} is there already; it may be in use, remove it yourself")


def assignment(notebook: Any, points: int = 1) -> Any:
    """The notebook as an assignment, in place: stubs and checks apart, the rest locked."""
    cells: list[Any] = []
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = _without_links(cell.source)
            cells.append(cell)
        elif (parts := _exercise_in(cell.source)) is not None:
            cells += _stub_and_check(*parts, points)
        else:
            _mark(cell, f"lesson-{place}", locked=True)
            cells.append(cell)
    if not any(cell.metadata.get("nbgrader", {}).get("grade") for cell in cells):
        raise ValueError("the notebook has no exercises")
    notebook.cells = cells
    return notebook


def _exercise_in(source: str) -> tuple[str, int, str] | None:
    """Stub, number and the answer's name of a cell that ends in `exercise(…, n).check(f)`."""
    match ast.parse(source).body:
        case [
            *_,
            ast.Expr(
                ast.Call(
                    ast.Attribute(ast.Call(ast.Name("exercise"), [_, ast.Constant(int(number))])),
                    [ast.Name(answer)],
                )
            ) as check,
        ]:
            stub = "\n".join(source.splitlines()[: check.lineno - 1]).rstrip()
            return stub, number, answer
    return None


def _stub_and_check(stub: str, number: int, answer: str, points: int) -> tuple[Any, Any]:
    mine = new_code_cell(stub)
    _mark(mine, f"exercise-{number}", solution=True)
    # nbgrader takes the number below a graded cell for its points, and shows no traceback then.
    check = new_code_cell(
        f"checked = exercise(ARTICLE, {number}).check({answer})\n"
        "print(checked)\n"
        f"{points} if checked.passed else 0"
    )
    _mark(check, f"check-{number}", grade=True, locked=True, points=points)
    return mine, check


def _mark(cell: Any, name: str, **settings: Any) -> None:
    defaults = {"grade": False, "locked": False, "solution": False, "task": False}
    cell.metadata["nbgrader"] = defaults | settings | {"grade_id": name, "schema_version": _SCHEMA}


def _without_links(text: str) -> str:
    """The text without the way to the solutions; other notebooks are named, they are not there."""
    return _TO_NOTEBOOK.sub(r"\1", _TO_SOLUTIONS.sub("", text))
