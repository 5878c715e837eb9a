"""A lesson's pictures on its page: what they show in words, and the frames of its explorers."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

from kexue_lab.course.catalog import Article
from kexue_lab.course.reports import frames_folder

_EXPLORER = re.compile(r"Explorer\((?P<name>.+?): ")
_FRAME_LIMIT = 300_000
_MATHS = re.compile(r"\$([^$]*)\$")


def in_words(text: str) -> str:
    """A picture's text without the marks of LaTeX, for those who hear it."""
    plain = _MATHS.sub(lambda match: _spoken(match[1]), text)
    return " ".join(plain.removeprefix("Picture: ").split())


def _spoken(formula: str) -> str:
    formula = re.sub(r"\\(?:mathbb|mathrm|mathcal|text)\b|\\[,;! ]", " ", formula)
    return re.sub(r"[{}]", "", formula).replace("\\", " ")


def name_pictures(notebook: Any) -> None:
    """Give every picture the text that its notebook stores for those who do not see it."""
    for cell in notebook.cells:
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        texts = [in_words(data["text/plain"]) for data in shown if "image/png" in data]
        if texts:
            cell.metadata["mystnb"] = {"image": {"alt": "; ".join(texts)}}


def put_frames(notebook: Any, article: Article, stage: Path) -> None:
    """Replace each explorer's standing picture by its frames and a slider."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown = _EXPLORER.match(output.get("data", {}).get("text/plain", ""))
            if shown:
                folder = frames_folder(article.name) / shown["name"]
                output["data"] = {"text/html": frames_html(folder, article, stage)}


def frames_html(folder: Path, article: Article, stage: Path) -> str:
    """The slider over the frames in `folder`, which are copied to the site.

    Raises:
        ValueError: if they are too heavy for a page.
    """
    size = sum(frame.stat().st_size for frame in folder.glob("*.png"))
    if size > _FRAME_LIMIT:
        raise ValueError(f"the frames of {folder} take {size} bytes, more than {_FRAME_LIMIT}")
    place = f"_static/frames/{article.name}/{folder.name}"
    shutil.copytree(folder, stage / place, ignore=shutil.ignore_patterns("*.json"))
    record = json.loads((folder / "frames.json").read_text("utf8"))
    start, control = record["start"], html.escape(record["control"])
    values = html.escape(json.dumps(record["values"], ensure_ascii=False))
    shows = html.escape(in_words(record["shows"]))
    return (
        f'<div class="kx-frames" data-folder="../{place}" data-control="{control}" '
        f'data-values="{values}">'
        f'<img src="../{place}/{start:02d}.png" alt="{shows}">'
        f'<label><input type="range" min="0" max="{len(record["values"]) - 1}" value="{start}" '
        f'aria-label="{control}"><output></output></label>'
        "<p>These frames were drawn in advance. In JupyterLab every control can be moved: "
        f"<code>kexue-lab open {article.name}</code></p></div>"
    )
