"""The 38 articles: titles, dates, series, prerequisites, papers; read from catalog.toml."""

import difflib
import functools
import tomllib
from dataclasses import dataclass
from datetime import date
from typing import Literal

from kexue_lab.course.places import PACKAGE

SERIES = (
    "mathematics",
    "diffusion",
    "generative",
    "attention",
    "text",
    "losses",
    "optimization",
)


class UnknownArticle(LookupError):
    """No article has this name; the message gives the nearest ones."""


@dataclass(frozen=True)
class Article:
    """One article of the course.

    Attributes:
        name: "series/slug": the notebook, module, test, solutions and pictures carry it.
        title: English title.
        title_zh: Chinese title.
        number: its number in the blog's archive.
        date: day of publication.
        prerequisites: names of the articles to read first.
        papers: what to read beside it.
        state: "planned"; "landed" once its notebook is there; "lesson" once the notebook keeps
            every rule of a lesson (`tests/test_contract.py`).
        seconds: run time of its notebook on one core; None while it is planned.
        picture: file name in figures/<series>/ of the picture that stands for it.
    """

    name: str
    title: str
    title_zh: str
    number: int
    date: date
    prerequisites: tuple[str, ...]
    papers: tuple[str, ...]
    state: Literal["planned", "landed", "lesson"] = "planned"
    seconds: int | None = None
    picture: str = ""

    @property
    def series(self) -> str:
        """The part of the name before the slash."""
        return self.name.split("/")[0]

    @property
    def source(self) -> str:
        """Address of the original article."""
        return f"https://kexue.fm/archives/{self.number}"

    @property
    def finished(self) -> bool:
        """Whether its notebook is part of the course already."""
        return self.state != "planned"


@functools.cache
def catalog() -> dict[str, Article]:
    """All articles by name, in the order of reading."""
    entries = tomllib.loads((PACKAGE / "course" / "catalog.toml").read_text("utf8"))["article"]
    articles = [
        Article(
            **{
                **entry,
                "prerequisites": tuple(entry["prerequisites"]),
                "papers": tuple(entry["papers"]),
            }
        )
        for entry in entries
    ]
    return {article.name: article for article in articles}


def find(name: str) -> Article:
    """Return the article of that name; the slug alone is enough.

    Raises:
        UnknownArticle: with the nearest names.
    """
    articles = catalog()
    by_slug = {full.split("/")[1]: article for full, article in articles.items()}
    wanted = name.strip().removesuffix(".ipynb").removeprefix("notebooks/").lower()
    if wanted in articles:
        return articles[wanted]
    if wanted in by_slug:
        return by_slug[wanted]
    near = difflib.get_close_matches(wanted, [*articles, *by_slug], n=3, cutoff=0.5)
    names = dict.fromkeys(by_slug[n].name if n in by_slug else n for n in near)
    hint = f"; did you mean {' or '.join(names)}?" if names else "; see `kexue-lab list`"
    raise UnknownArticle(f"there is no article {name!r}{hint}")


def next_articles(article: Article) -> list[Article]:
    """The articles that name this one as a prerequisite."""
    return [other for other in catalog().values() if article.name in other.prerequisites]
