"""The drawn map of the course: every article as a box, every prerequisite as an arrow."""

import html
from collections.abc import Mapping, Sequence

from kexue_lab.course.catalog import Article

_WIDTH, _HEIGHT = 176, 36
_GAP_X, _GAP_Y, _TOP = 36, 14, 34


def course_map(series: Mapping[str, Sequence[Article]], place: str = "") -> str:
    """An SVG with a row for each series; boxes are links.

    Within a series an article stands right of those that it needs, with arrows; what it needs of
    another series it names. Colours are the page's own, so that both themes suit.

    Args:
        series: the articles of each, in the order of reading.
        place: the way from the page to the site's root, such as "../".
    """
    places: dict[str, tuple[float, float]] = {}
    rows, y = [], 0.0
    for name, articles in series.items():
        rows.append(f'<text class="kx-series" x="0" y="{y + 20:.0f}">{name.capitalize()}</text>')
        cells = _cells(articles)
        for article, (column, row) in cells.items():
            top = y + _TOP + row * (_HEIGHT + _GAP_Y)
            places[article] = column * (_WIDTH + _GAP_X), top
        y += _TOP + (1 + max(row for _, row in cells.values())) * (_HEIGHT + _GAP_Y) + 10
    everyone = [article for articles in series.values() for article in articles]
    arrows = [
        _arrow(places[name], places[article.name])
        for article in everyone
        for name in article.prerequisites
        if name.split("/")[0] == article.series
    ]
    boxes = [_box(article, *places[article.name], place) for article in everyone]
    width = max(x for x, _ in places.values()) + _WIDTH + 2
    return (
        f'<div class="kx-scroll"><svg class="kx-map" viewBox="-1 0 {width:.0f} {y:.0f}" role="img" '
        f'aria-label="The articles of the course, with arrows from each to those that need it">'
        '<defs><marker id="kx-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        + "".join([*rows, *arrows, *boxes])
        + "</svg></div>"
    )


def _cells(articles: Sequence[Article]) -> dict[str, tuple[int, int]]:
    """Column and row of each article of a series.

    The column says how long a chain of prerequisites leads to it within the series; the row is
    the first free one from that of its first prerequisite on.
    """
    cells: dict[str, tuple[int, int]] = {}
    for article in articles:  # in the order of reading: what it needs has its cell already
        before = [cells[name] for name in article.prerequisites if name in cells]
        column = 1 + max((x for x, _ in before), default=-1)
        row = before[0][1] if before else 0
        while (column, row) in cells.values():
            row += 1
        cells[article.name] = column, row
    return cells


def _box(article: Article, x: float, y: float, place: str) -> str:
    elsewhere = [p for p in article.prerequisites if p.split("/")[0] != article.series]
    middle = x + _WIDTH / 2
    box = (
        f'<title>{html.escape(article.title)}</title><rect x="{x:.0f}" y="{y:.0f}" rx="6" '
        f'width="{_WIDTH}" height="{_HEIGHT}"/><text x="{middle:.0f}" '
        f'y="{y + (16 if elsewhere else 23):.0f}">{_slug(article.name)}</text>'
    )
    if elsewhere:
        needs = "after " + ", ".join(map(_slug, elsewhere))
        box += f'<text class="kx-needs" x="{middle:.0f}" y="{y + 30:.0f}">{needs}</text>'
    if not article.finished:
        return f'<g class="kx-planned">{box}</g>'
    return f'<a href="{place}{article.name}.html">{box}</a>'


def _slug(name: str) -> str:
    return html.escape(name.split("/")[1].replace("_", " "))


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x0, y0 = start[0] + _WIDTH, start[1] + _HEIGHT / 2
    x1, y1 = end[0] - 1, end[1] + _HEIGHT / 2
    bend = max(abs(x1 - x0) / 2, _GAP_X)
    return (
        f'<path class="kx-arrow" marker-end="url(#kx-tip)" d="M{x0:.0f} {y0:.0f}'
        f'C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"/>'
    )
