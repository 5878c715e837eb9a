"""What is made from the catalogue: README's table, index, each notebook's links at its end."""

import re
from pathlib import Path
from typing import Any

import nbformat

from kexue_lab.course.catalog import SERIES, Article, catalog, next_articles
from kexue_lab.course.notebooks import normalise
from kexue_lab.course.places import course_root, own_root

_ONWARD = "onward"
_BEGIN, _END = "<!-- articles: begin -->", "<!-- articles: end -->"

_INTRODUCTION = """# kexue_lab: the map of the course

38 articles of the Chinese blog 科学空间 (Scientific Spaces, by 苏剑林 Jianlin Su), each as a
notebook in which every equation is checked by sympy, every figure answers to a slider, and every
claim is run again with numbers.

Open an article, read it top to bottom, and run it with *Run → Run All Cells*. Nothing needs the
internet, and a GPU is used only where you ask for one. The times are those of one laptop core.

| mark | meaning |
|---|---|
| ✓ **D2** · *proved* | sympy brought the difference of both sides to 0, and numbers agree |
| ✗ *ruled out* | a false sentence, with a point at which it fails |
| ≡ *quoted* | taken on trust, with its source |
| ✓ *checked*, *measured* | computed, and held against an independent oracle or a bound |
| ✓ *estimated*, *observed* | a random sample within its own error; an experiment over seeds |

The letter and number name the step to which a claim belongs: D for derivations, N for numerical
checks, E for experiments.
"""


def articles_table(link: str = "{name}") -> str:
    """A markdown table of all articles by series.

    Args:
        link: where a finished notebook lies, with `{name}` for the article's name.
    """
    lines = []
    for series in SERIES:
        lines += [
            f"### {series.capitalize()}",
            "",
            "| article | read first | state |",
            "|---|---|---|",
        ]
        lines += [_row(a, link) for a in catalog().values() if a.series == series]
        lines.append("")
    return "\n".join(lines).rstrip()


def _row(article: Article, link: str) -> str:
    title = article.title
    if article.finished:
        title = f"[{title}]({link.format(name=article.name)})"
    before = ", ".join(p.split("/")[1] for p in article.prerequisites) or "–"
    mark = "✓ " if article.state == "lesson" else ""
    state = f"{mark}{article.seconds} s" if article.finished else "planned"
    return f"| {title} · [{article.title_zh}]({article.source}) | {before} | {state} |"


def readme_with_table(readme: str) -> str:
    """The README's text with its table of articles brought up to date.

    Raises:
        ValueError: if the text lacks the marks between which the table stands.
    """
    table = articles_table("notebooks/{name}.ipynb")
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"the README lacks {_BEGIN} … {_END}")
    return pattern.sub(lambda _: f"{_BEGIN}\n{table}\n{_END}", readme)


def index_notebook() -> Any:
    """The notebook `notebooks/index.ipynb`: how to read, all articles, an opening of each series.

    A series' opening is the README.md in its folder of notebooks, if there is one.
    """
    texts = [_INTRODUCTION.strip(), articles_table("{name}.ipynb")]
    for series in SERIES:
        opening = course_root() / "notebooks" / series / "README.md"
        if opening.is_file():
            text = opening.read_text("utf8").strip()
            texts.append(re.sub(r"\]\((\w+\.ipynb)\)", rf"]({series}/\1)", text))
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    return normalise(nbformat.v4.new_notebook(cells=cells))


def onward(article: Article) -> str:
    """The markdown at the end of an article's notebook: what comes before and after it.

    After an article come those that name it as a prerequisite, or else the next of the catalogue.
    """
    before = [catalog()[name] for name in article.prerequisites]
    articles = list(catalog().values())
    after = next_articles(article) or articles[articles.index(article) + 1 :][:1]
    lines = [f"**Before:** {_links(before) or 'nothing is needed'}."]
    if after:
        lines.append(f"**Next:** {_links(after)}.")
    return "  \n".join(lines)


def _links(articles: list[Article]) -> str:
    return "; ".join(
        f"[{a.title}](../{a.name}.ipynb)" if a.finished else f"{a.title} (planned)"
        for a in articles
    )


def put_onward(notebook: Any, article: Article) -> Any:
    """Put the links of `onward` into the last cell of a notebook, in place."""
    cells = [c for c in notebook.cells if _ONWARD not in c.metadata.get("tags", ())]
    links = nbformat.v4.new_markdown_cell(onward(article), metadata={"tags": [_ONWARD]})
    notebook.cells = [*cells, links]
    return normalise(notebook)


def write_pages() -> None:
    """Bring everything that is made from the catalogue up to date; what is stays untouched."""
    root = own_root()
    for article in catalog().values():
        path = root / "notebooks" / f"{article.name}.ipynb"
        if article.finished and path.is_file():
            _store(path, put_onward(nbformat.read(path, as_version=4), article))
    readme = root / "README.md"
    readme.write_text(readme_with_table(readme.read_text("utf8")), "utf8")
    _store(root / "notebooks" / "index.ipynb", index_notebook())


def _store(path: Path, notebook: Any) -> None:
    """Write a notebook if it is new: a file's time says whether its last report is old."""
    text = nbformat.writes(notebook) + "\n"
    if not path.is_file() or path.read_text("utf8") != text:
        path.write_text(text, "utf8")
