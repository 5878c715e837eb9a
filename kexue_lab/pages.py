"""What is made from the catalogue: the table in the README and notebooks/index.ipynb."""

import re
from typing import Any

import nbformat

from kexue_lab.catalog import SERIES, Article, catalog
from kexue_lab.course import PACKAGE
from kexue_lab.notebooks import normalise

_BEGIN, _END = "<!-- articles: begin -->", "<!-- articles: end -->"

_INTRODUCTION = """# kexue_lab: the map of the course

38 articles of the Chinese blog 科学空间 (Scientific Spaces, by 苏剑林 Jianlin Su), each as a
notebook in which every equation is checked by sympy, every figure answers to a slider, and every
claim is run again with numbers.

Open an article, read it top to bottom, and run it with *Run → Run All Cells*. Nothing needs the
internet, and a GPU is used only where you ask for one. The times are those of one laptop core.

| mark | meaning |
|---|---|
| ✓ **D2** · *proved* | sympy brought the difference of both sides to 0 |
| *refuted* | the near miss next to it: shown to be wrong |
| *checked*, *measured* | computed, and held against an independent oracle or a bound |
| *estimated*, *observed* | a random sample within its own error; an experiment over several seeds |
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
    state = f"✓ {article.seconds} s" if article.finished else "planned"
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
    """The notebook `notebooks/index.ipynb`: one markdown cell per part."""
    cells = [
        nbformat.v4.new_markdown_cell(text)
        for text in (_INTRODUCTION.strip(), articles_table("{name}.ipynb"))
    ]
    return normalise(nbformat.v4.new_notebook(cells=cells))


def write_pages() -> None:
    """Write the README's table and the index from the catalogue."""
    readme = PACKAGE.parent / "README.md"
    readme.write_text(readme_with_table(readme.read_text("utf8")), "utf8")
    nbformat.write(index_notebook(), PACKAGE.parent / "notebooks" / "index.ipynb")
