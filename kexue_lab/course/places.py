"""Where the course's files lie: its root folder, notebooks, solutions, modules and tests."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def course_root() -> Path:
    """Return the folder that holds `notebooks/index.ipynb`.

    It is the current folder or one above it, or else the checkout this package lies in.

    Raises:
        FileNotFoundError: if the package was installed without the course's notebooks.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, PACKAGE.parent):
        if (folder / "notebooks" / "index.ipynb").is_file():
            return folder
    raise FileNotFoundError(
        "no notebooks/index.ipynb here or above: run this inside a clone of the course"
    )


def notebook_path(article: str) -> Path:
    """The notebook of an article."""
    return course_root() / "notebooks" / f"{article}.ipynb"


def solutions_path(article: str) -> Path:
    """The notebook with the worked exercises of an article."""
    return course_root() / "notebooks" / "solutions" / f"{article}.ipynb"
