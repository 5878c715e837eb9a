"""Run articles with other parameters; keep the executed copies, as notebook and as HTML."""

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import filelock
import nbformat
import papermill
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

from kexue_lab.course.catalog import Article
from kexue_lab.course.notebooks import attempt
from kexue_lab.course.places import course_root, notebook_path

# Pages load MathJax and require.js from the internet by default: here the one is inside, and the
# other, which only live widgets need, is left out. A picture's text says what it shows.
_PAGE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script>
MathJax = {tex: {inlineMath: [['$', '$'], ['\\\\(', '\\\\)']], processEscapes: true}};
</script>
<script>{{ resources.mathjax }}</script>
{%- endblock -%}
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}">
<img src="data:image/png;base64,{{ output.data['image/png'] }}"
     alt="{{ output.data.get('text/plain', '') | escape_html }}">
</div>
{%- endblock -%}"""
_MATHJAX = "sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js"


def parameters_from(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values of parameters, given as text.

    Raises:
        ValueError: for a value that its parameter cannot have, or a name that comes twice.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise ValueError(f"the parameter {name} is given twice")
        values[name] = _READERS[name](text) if name in _READERS else text
    return values


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(f"SEED must be a whole number from 0 to 999999999, got {text!r}")
    return int(text)


def _scale(text: str) -> str:
    if text not in ("cpu", "gpu"):
        raise ValueError(f'SCALE must be "cpu" or "gpu", got {text!r}')
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise ValueError(f"DEVICE must be auto, cpu, mps, cuda or cuda:N, got {text!r}")
    return text


_READERS: Mapping[str, Callable[[str], Any]] = {"SEED": _seed, "SCALE": _scale, "DEVICE": _device}


def check(article: Article, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the article's notebook does not have.

    Raises:
        ValueError: naming those that it has.
    """
    known = papermill.inspect_notebook(str(notebook_path(article.name)))
    for name in parameters:
        if name not in known:
            raise ValueError(f"{article.name} has no parameter {name}; it has {', '.join(known)}")


def usual_folder() -> Path:
    """`runs` in the course, or in the working directory if that is outside the course."""
    root, here = course_root().resolve(), Path.cwd().resolve()
    return root / "runs" if here.is_relative_to(root) else Path("runs")


def check_folder(folder: Path) -> None:
    """Refuse a folder in which copies would lie among the course's own files.

    Raises:
        ValueError: if it lies inside the course, other than in `runs` or `build`.
    """
    root, target = course_root().resolve(), folder.resolve()
    own = (root / "runs", root / "build")
    if target.is_relative_to(root) and not any(target.is_relative_to(place) for place in own):
        raise ValueError(
            f"{folder} lies inside the course; choose a folder outside it, or one in `runs`"
        )


@contextlib.contextmanager
def reserved(folder: Path, articles: Sequence[Article]) -> Iterator[None]:
    """Keep other runs from writing the same copies.

    Raises:
        BlockingIOError: if another run is at it.
    """
    with contextlib.ExitStack() as stack:
        for article in articles:
            target = str(folder.resolve() / article.name)
            mark = hashlib.sha256(target.encode()).hexdigest()[:16]
            lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"kexue-lab-{mark}.lock")
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except filelock.Timeout:
                raise BlockingIOError(f"another run is writing {target}.ipynb") from None
        yield


def run(
    article: Article, parameters: Mapping[str, Any], folder: Path
) -> tuple[list[Path], CellExecutionError | DeadKernelError | None]:
    """Execute an article's notebook and put its copy, its page and its pictures into a folder.

    They take the place of those of an earlier run at the end, all at once; until then nothing is
    changed.

    Args:
        article: a finished article.
        parameters: values for names of the notebook's parameters' cell.
        folder: where the copies go; it is made.

    Returns:
        the copy and the page, and what ended the run early, if anything did: then they reach as
        far as it came.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".run-", dir=folder) as name:
        draft = Path(name)
        # A run with other parameters must not overwrite the course's own pictures.
        environment = {"KEXUE_FIGURES_DIR": str(draft / "figures")}
        notebook, error = attempt(notebook_path(article.name), environment, parameters)
        copy = draft / f"{article.name}.ipynb"
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, copy)
        page = copy.with_suffix(".html")
        page.write_text(_page(copy), "utf8")
        _replace(article, draft, folder)
    return [folder / path.relative_to(draft) for path in (copy, page)], error


def _replace(article: Article, draft: Path, folder: Path) -> None:
    for old in (folder / "figures").glob(f"{article.name}-*"):
        old.unlink()
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _page(notebook: Path) -> str:
    """The notebook as HTML that needs nothing else, the mathematics included."""
    package, script = _MATHJAX
    mathjax = Path(str(distribution(package).locate_file(script))).read_text("utf8")
    exporter = HTMLExporter(raw_template=_PAGE)
    body, _ = exporter.from_filename(str(notebook), resources={"mathjax": mathjax})
    return str(body)
