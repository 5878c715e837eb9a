"""Where the course's files lie: its root folder, notebooks, solutions, modules and tests."""

import tomllib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# The notebooks that a wheel brings along; a clone has its own.
_MATERIAL = PACKAGE / "course" / "material"


def course_root() -> Path:
    """Return the folder of the course: that of its `pyproject.toml` and `notebooks/index.ipynb`.

    It is the current folder or one above it, or the checkout this package lies in, or else what
    was installed with the package.

    Raises:
        FileNotFoundError: if the package was installed without the course's notebooks.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, PACKAGE.parent):
        if _is_course(folder):
            return folder
    if (_MATERIAL / "notebooks" / "index.ipynb").is_file():
        return _MATERIAL
    raise FileNotFoundError(
        "the course's notebooks are neither here nor above: run this inside a clone of the course"
    )


def _is_course(folder: Path) -> bool:
    """Whether it is this course: other projects have notebooks/index.ipynb as well."""
    if not (folder / "notebooks" / "index.ipynb").is_file():
        return False
    try:
        settings = tomllib.loads((folder / "pyproject.toml").read_text("utf8"))
    except (OSError, ValueError):
        return False
    return bool(settings.get("project", {}).get("name") == "kexue-lab")


def is_installed() -> bool:
    """Whether the course is what pip has installed, and no clone: nothing is written there."""
    return course_root() == _MATERIAL


def own_root() -> Path:
    """Return the course's folder, for what writes into it.

    Raises:
        ValueError: if it is no clone, or another one than that whose code is running: what is
            written would come from here and belong there.
    """
    root = course_root()
    if is_installed():
        raise ValueError("this command writes into a clone of the course, and this is none")
    if root.resolve() != PACKAGE.parent.resolve():
        raise ValueError(
            f"this command writes into its own clone, {PACKAGE.parent}, and not into {root}: "
            "use the one that is installed for that"
        )
    return root


def notebook_path(article: str) -> Path:
    """The notebook of an article."""
    return course_root() / "notebooks" / f"{article}.ipynb"


def solutions_path(article: str) -> Path:
    """The notebook with the worked exercises of an article."""
    return course_root() / "notebooks" / "solutions" / f"{article}.ipynb"
