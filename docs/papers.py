"""The bibliography: the papers of all articles, each once, with the lessons that rest on it."""

import re
from collections.abc import Sequence

from kexue_lab.course.catalog import Article

_ARXIV = re.compile(r"(?<![\w/\[])arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")


def linked(text: str) -> str:
    """The text with each arXiv number a link, unless it is one already."""
    return _ARXIV.sub(lambda m: f"[arXiv:{m[1]}](https://arxiv.org/abs/{m[1]})", text)


def bibliography(articles: Sequence[Article]) -> str:
    """The page, by first author."""
    cited: dict[str, list[Article]] = {}
    texts: dict[str, str] = {}
    for article in articles:
        for paper in article.papers:
            cited.setdefault(_key(paper), []).append(article)
            texts[_key(paper)] = paper
    lines = ["# Papers", "", "What the articles and the lessons rest on."]
    for key in sorted(cited):
        links = ", ".join(f"[{a.title}]({a.name}.ipynb)" for a in cited[key])
        lines += ["", f"- {linked(texts[key])}  ", f"  in: {links}"]
    return "\n".join(lines)


def _key(paper: str) -> str:
    """What two ways of writing a paper have in common: its number, or its words."""
    number = _ARXIV.search(paper)
    words = re.sub(r"[\W_]+", " ", paper).lower()
    return f"{words.split()[0]} {number[1]}" if number else words
