"""The glossary: English, Chinese, and the lesson in which a term is first explained.

The lessons give the Chinese of a key term in brackets behind its first use: "the *marginal*
(边缘分布)", "a weight decay (权重衰减)". From there it is taken.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CHINESE = r"\((?P<chinese>[\u4e00-\u9fff][\u4e00-\u9fff·]*)\)"
_EMPHASISED = rf"\*{{1,2}}(?P<term>[A-Za-z][\w\-–' ]+?)\*{{1,2}} {_CHINESE}"
# People and places keep their capital within a sentence.
_NAMES = {"Cauchy", "Chinese", "Fréchet", "Pareto", "Poisson", "Schur"}
# Without emphasis a term begins behind an article, and has at most three words.
_PLAIN = rf"\b(?:[Aa]n?|[Tt]he) (?P<term>[A-Za-z][\w\-–']*(?: [\w\-–']+){{0,2}}) {_CHINESE}"


@dataclass(frozen=True)
class Term:
    """A term, its Chinese, and the article that explains it first."""

    english: str
    chinese: str
    article: str


def terms_of(notebook: Any, article: str) -> list[Term]:
    """The terms whose Chinese a notebook gives, in the order of the text."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = [match for form in (_EMPHASISED, _PLAIN) for match in re.finditer(form, text)]
    found.sort(key=lambda match: match.start("chinese"))
    terms = [Term(_plain(match["term"]), match["chinese"], article) for match in found]
    return list({term.chinese: term for term in reversed(terms)}.values())[::-1]


def _plain(term: str) -> str:
    """A term as it stands within a sentence: names keep their capital."""
    words = term.split()
    first = words[0]
    name = first in _NAMES or "'" in first or not first[1:].islower()
    return " ".join([first if name else first[0].lower() + first[1:], *words[1:]])


def glossary_page(terms: list[Term], titles: Mapping[str, str]) -> str:
    """The page: a table by the English alphabet; of equal Chinese the first lesson counts.

    Args:
        terms: in the order of the course.
        titles: of the articles, by name.
    """
    first: dict[str, Term] = {}
    for term in terms:
        first.setdefault(term.chinese, term)
    lines = ["# Glossary", "", f"{len(first)} terms, each with the lesson that explains it first."]
    lines += ["", "| English | 中文 | explained in |", "|---|---|---|"]
    for term in sorted(first.values(), key=lambda term: term.english.lower()):
        link = f"[{titles[term.article]}]({term.article}.ipynb)"
        lines.append(f"| {term.english} | {term.chinese} | {link} |")
    return "\n".join(lines)
