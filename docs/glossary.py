"""The glossary: English, Chinese, symbol, and the lesson in which a term is first explained.

The lessons give the Chinese of a key term in brackets behind its first use: "the *marginal*
(边缘分布)", "a weight decay (权重衰减)". From there it is taken, with the symbol that stands before
it ("$f_t$ is the *drift* (漂移)") or behind it ("the *perplexity* (困惑度) $e^H$"). Below stand the
lessons' own tables of symbols.
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
_SYMBOL_BEFORE = re.compile(
    r"\$([^$]{1,30})\$\)?,? (?:\||(?:is|are) (?:called )?(?:the|its|an?)) $"
)
_SYMBOL_BEHIND = re.compile(r":?\s*\${1,2}([^$]{1,60})")
# What a formula says about its symbol: only the symbol itself goes into the glossary.
_RELATION = re.compile(r"(?:[=:<>]|\\(?:in|geq?|leq?|propto|approx|sim|mapsto|to)\b).*", re.S)
_TABLE = re.compile(r"^\| *symbol *\| *meaning *\|\n\|[-|: ]+\|\n(?:\|.*\|(?:\n|\Z))+", re.M)


@dataclass(frozen=True)
class Term:
    """A term, its Chinese, the article that explains it first, and its symbol there, if any."""

    english: str
    chinese: str
    article: str
    symbol: str = ""


def terms_of(notebook: Any, article: str) -> list[Term]:
    """The terms whose Chinese a notebook gives, in the order of the text."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = [match for form in (_EMPHASISED, _PLAIN) for match in re.finditer(form, text)]
    found.sort(key=lambda match: match.start("chinese"))
    terms = [
        Term(_plain(match["term"]), match["chinese"], article, _symbol(text, match))
        for match in found
    ]
    return list({term.chinese: term for term in reversed(terms)}.values())[::-1]


def symbols_of(notebook: Any) -> str:
    """A notebook's table of symbols, in markdown; empty if it has none."""
    for cell in notebook.cells:
        table = _TABLE.search(cell.source) if cell.cell_type == "markdown" else None
        if table:
            return table[0].strip()
    return ""


def _symbol(text: str, term: re.Match[str]) -> str:
    """The symbol that the text gives to a term."""
    before = _SYMBOL_BEFORE.search(text[: term.start()])
    behind = _SYMBOL_BEHIND.match(text, term.end())
    said = before[1] if before else _RELATION.sub("", behind[1]) if behind else ""
    said = said.strip(" ,.")
    return said if said.count("{") == said.count("}") else ""


def _plain(term: str) -> str:
    """A term as it stands within a sentence: names keep their capital."""
    words = term.split()
    first = words[0]
    name = first in _NAMES or "'" in first or not first[1:].islower()
    return " ".join([first if name else first[0].lower() + first[1:], *words[1:]])


def glossary_page(
    terms: list[Term], titles: Mapping[str, str], symbols: Mapping[str, str] | None = None
) -> str:
    """The page: a table by the English alphabet; of equal Chinese the first lesson counts.

    Args:
        terms: in the order of the course.
        titles: of the articles, by name.
        symbols: the articles' tables of symbols, by name.
    """
    first: dict[str, Term] = {}
    for term in terms:
        first.setdefault(term.chinese, term)
    lines = ["# Glossary", "", f"{len(first)} terms, each with the lesson that explains it first."]
    lines += ["", "| English | 中文 | symbol | explained in |", "|---|---|---|---|"]
    for term in sorted(first.values(), key=lambda term: term.english.lower()):
        link = f"[{titles[term.article]}]({term.article}.ipynb)"
        symbol = f"${term.symbol}$".replace("|", r"\vert ") if term.symbol else ""
        lines.append(f"| {term.english} | {term.chinese} | {symbol} | {link} |")
    lines += ["", "## Symbols", "", "A letter has one meaning in a lesson, not in the course."]
    for name, table in (symbols or {}).items():
        if table:
            lines += ["", f"::::{{dropdown}} {titles[name]}", "", table, "::::"]
    return "\n".join(lines)
