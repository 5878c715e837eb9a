"""JupyterLab on the learner's own copies of the notebooks, which no update touches."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from kexue_lab.course.places import PACKAGE, course_root, is_installed

# Beside the course's folder `notebooks`, and as deep, so that links between notebooks hold; or,
# where pip has installed the course, in the current folder.
_OWN, _OWN_HERE = "my", "kexue-lab"
# Which version of the course's file each copy was made from.
_ORIGINS = ".origins.json"


def own_folder() -> Path:
    """The folder of the learner's copies."""
    if not is_installed():
        return course_root() / _OWN
    here = Path.cwd()
    begun = (folder for folder in (here, *here.parents) if (folder / _ORIGINS).exists())
    return next(begun, here / _OWN_HERE)


def lay_out(fresh: str | None = None) -> list[Path]:
    """Bring the learner's folder up to date without touching what he has changed.

    Copies that are missing are made; those that are as they were made follow the course.

    Args:
        fresh: an article that is to start again; the old copy is kept beside the new one, as
            `<article>.before.ipynb`.

    Returns:
        the changed copies of which the course has a newer version by now.
    """
    course, own = course_root() / "notebooks", own_folder()
    own.mkdir(exist_ok=True)
    if fresh is not None:
        _set_aside(own / f"{fresh}.ipynb")
    origins = _read_origins(own)
    outdated = []
    for original in _notebooks(course):
        name = original.relative_to(course).as_posix()
        copy, mark = own / name, _mark(original)
        if not copy.exists() or _mark(copy) == origins.get(name):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, copy)
            origins[name] = mark
        elif origins.get(name) != mark:
            outdated.append(copy)
    draft = own / f"{_ORIGINS}.new"
    draft.write_text(json.dumps(origins, indent=1), "utf8")
    draft.replace(own / _ORIGINS)
    return outdated


def _notebooks(course: Path) -> Iterable[Path]:
    found = sorted(course.rglob("*.ipynb"))
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def _mark(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _read_origins(own: Path) -> dict[str, str]:
    path = own / _ORIGINS
    origins: dict[str, str] = json.loads(path.read_text("utf8")) if path.exists() else {}
    return origins


def _set_aside(copy: Path) -> None:
    if copy.exists():
        copy.replace(copy.with_suffix(".before.ipynb"))


def command(notebook: Path, browser: bool) -> list[str]:
    """How to start JupyterLab with a notebook of the course open, and no window on its news."""
    root = own_folder().parent
    arguments = [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{notebook.relative_to(root).as_posix()}",
        # Defaults that a learner's own settings override: no question about news, no updates.
        f"--LabApp.app_settings_dir={PACKAGE / 'course' / 'jupyterlab'}",
    ]
    if not browser:
        arguments.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")
    return arguments


def environment() -> dict[str, str]:
    """Variables for kernels that run the learner's copies: their pictures are not the course's."""
    return {"KEXUE_FIGURES_DIR": str(own_folder() / "figures")}
