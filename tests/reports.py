"""What a notebook reports about itself: its claims, its explorers, its run time."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from kexue_lab.catalog import catalog
from kexue_lab.course import PACKAGE, notebook_path
from kexue_lab.notebooks import execute

CLAIMS = Path(os.environ["KEXUE_CLAIMS_DIR"])


def finished() -> list[str]:
    return [article.name for article in catalog().values() if article.finished]


@functools.cache
def read_report(article: str) -> dict[str, Any]:
    """The report of the notebook's last run, or of a new run if it or the library has changed."""
    path = CLAIMS / f"{article}.json"
    sources = [notebook_path(article), *PACKAGE.rglob("*.py")]
    newest = max(source.stat().st_mtime for source in sources)
    if not path.exists() or path.stat().st_mtime < newest:
        execute(notebook_path(article))
    return json.loads(path.read_text("utf8"))
