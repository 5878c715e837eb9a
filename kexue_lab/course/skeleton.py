"""What `kexue-lab new ARTICLE` lays down: the files of an article, ready to be filled."""

import textwrap
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kexue_lab.course.catalog import Article
from kexue_lab.course.notebooks import normalise

SECTIONS = (
    "Setting",
    "Derivation",
    "Numerical checks",
    "Experiment",
    "Explore",
    "Exercises",
    "Beyond",
    "Appendix",
    "Ledger",
)
# An explorer may stand beside the claim that it illustrates; not every lesson has an appendix.
OPTIONAL_SECTIONS = {"Explore", "Appendix"}

_IMPORTS = """\
import sympy as sp

from kexue_lab.claims import Claims
from kexue_lab.figures import use_style
"""

_PARAMETERS = """\
SEED = 0
DEVICE = "auto"  # "cpu", "cuda", …
SCALE = "cpu"  # "gpu" for the larger experiment"""

_START = """\
ARTICLE = "{name}"
claims = Claims(ARTICLE, scale=SCALE)
use_style()"""

_FIRST_CLAIM = """\
x = sp.Symbol("x")
claims.prove("D1", "The square has the slope $2x$", sp.Derivative(x**2, x), 2 * x)"""

_MODULE = '''\
"""The mathematics of {name}.

{title}
Source: {source}

{papers}
"""
'''

_EXERCISES = '''\
"""What the exercises of {name} check."""

from kexue_lab.exercises import Exercise

EXERCISES: tuple[Exercise, ...] = ()
'''

_TEST = '''\
"""Unit, property and bad-input tests of {module}."""

import kexue_lab.{module} as article


def test_the_module_has_functions():
    public = [name for name in vars(article) if not name.startswith("_")]
    assert public, "write the mathematics of the article and its tests first"
'''


def lay_down(article: Article, root: Path) -> list[Path]:
    """Write notebook, solutions, module, exercises and test of an article below `root`.

    Raises:
        FileExistsError: if any of them exists; then nothing is written.
    """
    name = article.name
    series, slug = name.split("/")
    words = {
        "name": name,
        "module": name.replace("/", "."),
        "title": "\n".join(textwrap.wrap(article.title, 96)),
        "source": article.source,
        "papers": "\n".join(line for paper in article.papers for line in textwrap.wrap(paper, 96)),
    }
    texts = {
        root / f"kexue_lab/{name}.py": _MODULE.format(**words),
        root / f"kexue_lab/{name}_exercises.py": _EXERCISES.format(**words),
        root / f"tests/{series}/test_{slug}.py": _TEST.format(**words),
        root / f"notebooks/{name}.ipynb": nbformat.writes(_notebook(article)),
        root / f"notebooks/solutions/{name}.ipynb": nbformat.writes(_solutions(article)),
    }
    package = root / f"kexue_lab/{series}/__init__.py"
    if not package.exists():
        texts[package] = f'"""The {series} series."""\n'
    for path in texts:
        if path.exists():
            raise FileExistsError(f"{path.relative_to(root)} exists already; nothing was written")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf8")
    return list(texts)


def _notebook(article: Article) -> Any:
    title = (
        f"# {article.title}\n\n*{article.title_zh}*\n\nAfter this notebook you can …\n\n"
        f"**Read first:** {', '.join(article.prerequisites) or 'nothing'}. "
        "**Reading:** … minutes. **Run time:** … s.\n\n"
        f"**Source:** [kexue.fm/archives/{article.number}]({article.source}). "
        f"**Papers:** {'; '.join(article.papers)}."
    )
    parameters = new_code_cell(_PARAMETERS, metadata={"tags": ["parameters"]})
    hidden = {"tags": ["hide-input"]}
    imports = new_code_cell(_IMPORTS.strip(), metadata=hidden)
    start = new_code_cell(_START.format(name=article.name), metadata=hidden)
    cells = [new_markdown_cell(title), imports, parameters, start]
    for section in SECTIONS:
        cells.append(new_markdown_cell(f"## {section}\n\n…"))
        if section == "Derivation":
            cells.append(new_code_cell(_FIRST_CLAIM))
    return normalise(new_notebook(cells=[*cells, new_code_cell("claims.ledger()")]))


def _solutions(article: Article) -> Any:
    title = f"# Worked exercises: {article.title}\n\n*{article.title_zh}*"
    return normalise(new_notebook(cells=[new_markdown_cell(title)]))
