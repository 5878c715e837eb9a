"""Check a built site: every local link, anchor, picture and script exists; nothing is remote."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("source", "src")}


class _Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.links.append((tag, name, value))


@cache
def _parsed(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text("utf8"))
    return page


def problems(site: Path) -> list[str]:
    """What is wrong with the links of all pages below `site`; empty if nothing is."""
    found = []
    pages = (path for path in site.rglob("*.html") if "_static" not in path.parts)
    for path in sorted(pages):
        for tag, attribute, link in _parsed(path).links:
            problem = _problem(path, tag, attribute, link)
            if problem:
                found.append(f"{path.relative_to(site)}: {problem}: {link}")
    return found


def _problem(path: Path, tag: str, attribute: str, link: str) -> str:
    parts = urlsplit(link)
    if parts.scheme in ("data", "mailto"):
        return ""
    if parts.scheme or parts.netloc:
        canonical = tag == "link"
        return "loads from another machine" if (tag, attribute) in LOADED and not canonical else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such file"
    if parts.fragment and target.suffix == ".html":
        fragment = unquote(parts.fragment)
        if fragment not in _parsed(target).anchors and fragment not in ("", "top"):
            return "no such anchor"
    return ""
