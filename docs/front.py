"""The pages before the lessons: the start page, and one for each series."""

import re
from collections.abc import Callable

from course_map import course_map
from nbformat import NotebookNode

from kexue_lab.course.catalog import SERIES, Article, catalog
from kexue_lab.course.places import course_root

BEGIN = {
    "mathematics/random_sector": "if you like a puzzle: four ducks on a pond",
    "losses/accuracy": "if you have trained a classifier and never asked what it listens to",
    "diffusion/probability_flow": "if you want to understand diffusion models from the ground up",
}
"""Three lessons that need no other, and for whom."""

_LINE = re.compile(r"^\d+\. \[(\w+)\]\(\1\.ipynb\):? ?(.*?)(?=^\d+\. |\n\n|\Z)", re.M | re.S)
_MERMAID = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)
_READING = re.compile(r"\*\*Reading:\*\* (\d+) minutes")


def of_series(series: str) -> list[Article]:
    """The articles of a series, in the order of reading."""
    return [article for article in catalog().values() if article.series == series]


def opening(series: str) -> str:
    """The series' opening, which is the README in its folder of notebooks."""
    text: str = (course_root() / "notebooks" / series / "README.md").read_text("utf8")
    return text.strip()


def in_a_line(series: str) -> dict[str, str]:
    """What the opening says about each of its articles, by name."""
    return {
        f"{series}/{slug}": " ".join(line.split())
        for slug, line in _LINE.findall(opening(series) + "\n\n")
    }


def _around_the_list(series: str) -> tuple[str, str]:
    """What an opening says before and after its list, without its heading and its diagram."""
    text = re.sub(r"^## .*\n", "", _MERMAID.sub("", opening(series))) + "\n\n"
    found = list(_LINE.finditer(text))
    before = text[: found[0].start()].replace("Read them in this order:", "")
    return before.strip(), text[found[-1].end() :].strip()


def reading_minutes(notebook: NotebookNode) -> int | None:
    """How long a lesson takes to read, as it says itself."""
    match = _READING.search(notebook.cells[0].source)
    return int(match[1]) if match else None


def start_page() -> str:
    """Where to begin, the drawn map, and the series."""
    series = {name: of_series(name) for name in SERIES}
    lines = [
        "# kexue_lab",
        "",
        "38 articles of the Chinese blog [科学空间 (Scientific Spaces)](https://kexue.fm), each as "
        "a notebook in which **every equation is checked by a machine, every figure answers to a "
        "slider, and every claim is run again with numbers**. Read them here; run them with "
        "`make lab`.",
        "",
        "**Begin here:**",
        "",
        *(f"- [{catalog()[name].title}]({name}.ipynb), {whom}" for name, whom in BEGIN.items()),
        "",
        "## The map",
        "",
        "An arrow leads from a lesson to one that needs it.",
        "",
        course_map(series),
        "",
        "## The series",
        "",
    ]
    for name, articles in series.items():
        titles = ", ".join(article.title.split(":")[0] for article in articles)
        lines.append(f"- **[{name.capitalize()}]({name}/index.md)**: {titles}")
    for caption, pages in (
        ("Lessons", [f"{name}/index" for name in SERIES]),
        ("Reference", ["guide", "verified", "glossary", "papers", "citing", "api/index"]),
    ):
        lines += ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]
    return "\n".join(lines)


def series_page(
    series: str, picture_of: Callable[[Article], str], minutes: dict[str, int | None]
) -> str:
    """A series: its opening, its part of the map, and a card for each article.

    Args:
        series: its name.
        picture_of: puts an article's picture into place and returns its address.
        minutes: of reading, by article.
    """
    articles, said = of_series(series), in_a_line(series)
    before, after = _around_the_list(series)
    lines = [f"# {series.capitalize()}", "", before, "", course_map({series: articles}, "../"), ""]
    lines += ["::::{grid} 1 2 2 3", ":gutter: 3", ""]
    for article in articles:
        if article.finished:
            lines += _card(article, said.get(article.name, ""), picture_of(article), minutes)
    lines += [
        "::::",
        "",
        after,
        "",
        "[For teachers](teaching.md)",
        "",
        "```{toctree}",
        ":hidden:",
        "",
    ]
    lines += [article.name.split("/")[1] for article in articles if article.finished]
    return "\n".join([*lines, "teaching", "```"])


def _card(article: Article, said: str, picture: str, minutes: dict[str, int | None]) -> list[str]:
    needs = ", ".join(catalog()[name].name.split("/")[1] for name in article.prerequisites)
    facts = [f"{minutes[article.name]} minutes of reading"] if minutes.get(article.name) else []
    facts += [f"after {needs}"] if needs else []
    return [
        f":::{{grid-item-card}} {article.title}",
        f":link: {article.name.split('/')[1]}",
        ":link-type: doc",
        f":img-top: {picture}",
        f":img-alt: a picture from the lesson {article.title}",
        "",
        f"{said[:1].upper()}{said[1:]}" if said else article.title_zh,
        "",
        f"*{'; '.join(facts)}*" if facts else "",
        ":::",
        "",
    ]
