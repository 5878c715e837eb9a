"""The explorers of one article as a page of their own, served by Voilà."""

import importlib.util
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import matplotlib.pyplot as plt
import nbformat
from IPython.utils.capture import capture_output
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kexue_lab.course.catalog import Article
from kexue_lab.course.notebooks import KERNEL_ENVIRONMENT, normalise
from kexue_lab.course.places import notebook_path
from kexue_lab.explore import Explorer, all_explorers

_START = """\
from kexue_lab.course.app import run_silently

explorers = iter(run_silently("{name}"))"""


def serve(article: Article, port: int, browser: bool) -> NoReturn:
    """Serve the article's explorers at http://localhost:PORT until interrupted.

    Raises:
        ModuleNotFoundError: if Voilà is not installed.
        OSError: if the port cannot be had.
    """
    if importlib.util.find_spec("voila") is None:
        raise ModuleNotFoundError("the app needs Voilà: pip install 'kexue-lab[app]'")
    _try_port(port)
    folder = Path(tempfile.mkdtemp(prefix="kexue-lab-"))
    page = folder / f"{article.name.split('/')[1]}.ipynb"
    nbformat.write(app_notebook(article), page)
    os.environ.update(KERNEL_ENVIRONMENT)
    command = [sys.executable, "-m", "voila", str(page), f"--port={port}"]
    command.append("--Voila.port_retries=0")  # another port would not be where the reader looks
    if not browser:
        command.append("--no-browser")
    os.execv(sys.executable, command)


def _try_port(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("localhost", port))
        except OSError as error:
            raise OSError(f"port {port} cannot be had ({error.strerror}): choose another") from None


def app_notebook(article: Article) -> Any:
    """The article's explorers without their code, each below the text that asks its question."""
    title = f"# {article.title}\n\n*{article.title_zh}* · [source]({article.source})"
    cells = [new_markdown_cell(title), new_code_cell(_START.format(name=article.name))]
    question = ""
    for cell in nbformat.read(notebook_path(article.name), as_version=4).cells:
        if cell.cell_type == "markdown":
            question = _from_last_heading(cell.source)
        elif "explore(" in cell.source:
            cells += [new_markdown_cell(question), new_code_cell("next(explorers)")]
    return normalise(new_notebook(cells=cells))


def _from_last_heading(text: str) -> str:
    """The end of a cell that may begin with what belongs to the section before."""
    headings = [match.start() for match in re.finditer(r"^#+ ", text, re.MULTILINE)]
    return text[headings[-1] :] if headings else text


def run_silently(name: str) -> list[Explorer]:
    """Run the notebook's code up to its last explorer without showing anything; return them all."""
    path = notebook_path(name)
    os.chdir(path.parent)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    last = max((i for i, cell in enumerate(cells) if "explore(" in cell.source), default=-1)
    for cell in cells[: last + 1]:
        if ").check(" not in cell.source:
            with capture_output():
                exec(compile(cell.source, str(path), "exec"), namespace)
                plt.close("all")  # else they would be shown at the end of the cell
    return all_explorers()
