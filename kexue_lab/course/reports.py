"""What a notebook reports when it runs with `KEXUE_CLAIMS_DIR` set: claims, seconds, explorers."""

import json
import os
from pathlib import Path
from typing import Any

from kexue_lab.course.notebooks import execute
from kexue_lab.course.places import PACKAGE, course_root, notebook_path


def reports_folder() -> Path:
    """Where reports lie: `KEXUE_CLAIMS_DIR`, or build/claims in the course."""
    return Path(os.environ.get("KEXUE_CLAIMS_DIR", course_root() / "build" / "claims"))


def frames_folder(article: str) -> Path:
    """Where the frames of an article's explorers lie, a folder for each explorer."""
    return reports_folder() / article


def read_report(article: str) -> dict[str, Any]:
    """The report of the notebook's last run, or of a new run if it or the library has changed.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails in the new run.
    """
    path = reports_folder() / f"{article}.json"
    sources = [notebook_path(article), *PACKAGE.rglob("*.py")]
    newest = max(source.stat().st_mtime for source in sources)
    if not path.exists() or path.stat().st_mtime < newest:
        folders = {
            "KEXUE_CLAIMS_DIR": str(reports_folder()),
            "KEXUE_FIGURES_DIR": str(course_root() / "build" / "figures"),  # not the course's own
        }
        execute(notebook_path(article), folders)
    report: dict[str, Any] = json.loads(path.read_text("utf8"))
    return report
