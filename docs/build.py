"""Build the course as a static site: `python docs/build.py` writes build/site.

The pages come from the stored outputs of the notebooks. Only the frames of the explorers come from
a run: the last one of the tests, or a new one where notebook or library have changed since.
"""

import ast
import gc
import inspect
import re
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import nbformat
from check_links import problems
from equations import equations_of, with_equations
from front import of_series, reading_minutes, series_page, start_page
from glossary import glossary_page, symbols_of, terms_of
from nbformat.v4 import new_markdown_cell
from papers import bibliography, linked
from pictures import name_pictures, put_frames
from sphinx.cmd.build import main as sphinx_build
from teaching import teachers_page

from kexue_lab.course.catalog import SERIES, Article, catalog
from kexue_lab.course.places import PACKAGE, course_root, notebook_path, solutions_path
from kexue_lab.course.record import is_stale
from kexue_lab.course.reports import read_report
from kexue_lab.ledger import MARKS, Claim, read_claim

ROOT = course_root()
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
STAGE, SITE = BUILD / "docs", BUILD / "site"
SHARED = (
    *("claims", "evidence", "symbolic", "recorded", "exercises", "diagnosis", "limits"),
    *("explore", "figures", "training", "transformer", "tasks", "data"),
)
SHARE = re.compile(r"\d+ of \d+ seeds|\d+ paired seeds")
STALE = "*(The recorded seeds of this lesson's experiment are older than its code.)*"
WORKERS = 2  # notebooks that run side by side


def main() -> int:
    """Stage the pages, run Sphinx with warnings as errors, and check every link."""
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    STAGE.mkdir(parents=True)
    # Sphinx makes millions of nodes that live to the end: looking for garbage there is in vain.
    gc.set_threshold(200_000, 20, 20)
    for page in ("conf.py", "guide.md", "citing.md"):
        shutil.copy(DOCS / page, STAGE)
    shutil.copytree(DOCS / "_static", STAGE / "_static")
    finished = [article for article in catalog().values() if article.finished]
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(read_report, [article.name for article in finished]))
    claims = {article.name: stage_article(article) for article in finished}
    stage_api(uses([article.name for article in finished]))
    write("verified.md", verified_page(claims))
    stage_front([article.name for article in finished])
    status = sphinx_build(["-q", "-W", "--keep-going", "-b", "html", str(STAGE), str(SITE)])
    for article in finished:  # the download button's: as it is in the course, not as it was staged
        place = SITE / "_sources" / f"{article.name}.ipynb"
        shutil.copyfile(notebook_path(article.name), place)
    broken = problems(SITE)
    for problem in broken:
        print(f"error: {problem}", file=sys.stderr)
    if not status and not broken:
        print(f"{SITE.relative_to(ROOT)}/index.html: {len(finished)} articles")
    return int(bool(status or broken))


def write(name: str, text: str) -> None:
    """Write a page below the stage."""
    path = STAGE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf8")


# --- one article -------------------------------------------------------------------------------


def stage_article(article: Article) -> dict[str, Claim]:
    """Write the page of an article and return its claims by their anchors.

    Raises:
        ValueError: if the page shows other claims than the notebook's last run made.
    """
    notebook = nbformat.read(notebook_path(article.name), as_version=4)
    put_frames(notebook, article, STAGE)
    name_pictures(notebook)
    if is_stale(article.name):
        notebook.cells.insert(1, new_markdown_cell(STALE))
    claims = anchor_claims(notebook)
    made = len(read_report(article.name)["claims"])
    if len(claims) != made:
        raise ValueError(f"{article.name} shows {len(claims)} claims, its run made {made}")
    fold_solutions(notebook, article)
    equations = equations_of(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(with_equations(cell.source, equations))
    notebook.cells.append(new_markdown_cell(functions_used(notebook)))
    write(f"{article.name}.ipynb", nbformat.writes(notebook))
    return claims


def anchor_claims(notebook: Any) -> dict[str, Claim]:
    """Give every claim an anchor in the page, and return what it says by that anchor.

    The line on marks, which links to the notebooks' index, gets the page that explains them here.
    """
    claims: dict[str, Claim] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            claim = read_claim(text)
            if claim is not None:
                anchor = f"claim-{len(claims) + 1}"
                output["data"]["text/markdown"] = f'<span id="{anchor}"></span>{text}'
                claims[anchor] = claim
            elif "](../index.ipynb)" in text:
                # A link in an output's markdown would be read as one to an anchor.
                link = '<a href="../verified.html">index</a>'
                output["data"]["text/markdown"] = text.replace("[index](../index.ipynb)", link)
    return claims


def fold_solutions(notebook: Any, article: Article) -> None:
    """Put each worked solution, folded away, under the check of its exercise."""
    solutions = worked_solutions(article)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        match = re.search(r'exercise\((?:ARTICLE|"[^"]+"), (\d+)\)\.check', cell.source)
        if cell.cell_type == "code" and match:
            if int(match[1]) not in solutions:
                raise ValueError(f"exercise {match[1]} of {article.name} has no worked solution")
            cells.append(new_markdown_cell(solutions[int(match[1])]))
        elif "../solutions/" in cell.source:
            cell.source = re.sub(
                r"([Ww]orked answers)(?: are in\s+(?:the )?|: )\[solutions\]\([^)]*\)",
                r"\1 are folded under each",
                cell.source,
            )
    notebook.cells = cells


def worked_solutions(article: Article) -> dict[int, str]:
    """The solutions by number, as folded boxes."""
    boxes: dict[int, list[str]] = {}
    number = 0
    for cell in nbformat.read(solutions_path(article.name), as_version=4).cells:
        match = re.match(r"\*\*Exercise (\d+)\.\*\*", cell.source)
        if match:
            number = int(match[1])
        if number:
            text = cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
            boxes.setdefault(number, []).append(text)
    return {
        n: "::::{dropdown} Worked solution\n" + "\n\n".join(parts) + "\n::::"
        for n, parts in boxes.items()
    }


def functions_used(notebook: Any) -> str:
    """Links to the library's functions that the notebook uses."""
    lines = ["---", "", "**From the library:**"]
    links = [
        f'<a href="../api/{module}.html#kexue_lab.{module.replace("/", ".")}.{name}">'
        f"<code>{name}</code></a>"
        for module, name in sorted(library_names(notebook))
    ]
    lines.append(", ".join(links) + ".")
    return "\n".join(lines)


def library_names(notebook: Any) -> set[tuple[str, str]]:
    """(module, name) of the series' functions and classes that the notebook's code uses.

    The module is the one that defines them: some are offered by a neighbour, too.
    """
    names: set[tuple[str, str]] = set()
    modules: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kexue_lab."):
                module = node.module.removeprefix("kexue_lab.").replace(".", "/")
                names |= {(module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("kexue_lab.") and alias.asname:
                        path = alias.name.removeprefix("kexue_lab.").replace(".", "/")
                        modules[alias.asname] = path
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names.add((modules.get(node.value.id, ""), node.attr))
    found = {(module, name): offered(module, name) for module, name in names if "/" in module}
    return {
        (home_of(module, thing), name)
        for (module, name), thing in found.items()
        if inspect.isroutine(thing) or inspect.isclass(thing)
    }


def offered(module: str, name: str) -> Any:
    """What a module, given as a path, offers by a name."""
    return getattr(import_module(f"kexue_lab.{module.replace('/', '.')}"), name)


def home_of(module: str, thing: Any) -> str:
    """The module, as a path, that defines what a module offers."""
    dotted: str = getattr(thing, "__module__", None) or ""
    if not dotted.startswith("kexue_lab."):
        return module
    return dotted.removeprefix("kexue_lab.").replace(".", "/")


# --- the pages around them ---------------------------------------------------------------------


def uses(articles: list[str]) -> dict[str, dict[str, list[str]]]:
    """For each module and each of its names, the articles whose notebooks use it."""
    found: dict[str, dict[str, list[str]]] = {}
    for article in articles:
        notebook = nbformat.read(notebook_path(article), as_version=4)
        for module, name in sorted(library_names(notebook)):
            found.setdefault(module, {}).setdefault(name, []).append(article)
    return found


def used_in(names: dict[str, list[str]]) -> list[str]:
    """A table of a module's names and the articles that use them, as lines of markdown."""
    if not names:
        return []
    lines = ["", "## Used in", "", "| name | lessons |", "|---|---|"]
    for name, articles in sorted(names.items()):
        links = ", ".join(f"[{catalog()[a].title}](../../{a}.ipynb)" for a in articles)
        lines.append(f"| `{name}` | {links} |")
    return lines


def stage_api(used: dict[str, dict[str, list[str]]]) -> None:
    """A reference page for every module of a series and for the shared ones."""
    pages: dict[str, list[str]] = {"shared": list(SHARED)}
    for series in SERIES:
        modules = sorted((PACKAGE / series).glob("[a-z]*.py"))
        pages[series] = [f"{series}/{m.stem}" for m in modules if not m.stem.endswith("_exercises")]
    lines = ["# Library reference", ""]
    for series, modules in pages.items():
        if modules:
            toctree = ["```{toctree}", f":caption: {series.capitalize()}", ":maxdepth: 1", ""]
            lines += [*toctree, *modules, "```", ""]
        for module in modules:
            dotted = f"kexue_lab.{module.replace('/', '.')}"
            write(
                f"api/{module}.md",
                f"# {dotted.removeprefix('kexue_lab.')}\n\n```{{eval-rst}}\n"
                f".. automodule:: {dotted}\n   :members:\n   :ignore-module-all:\n```\n"
                + "\n".join(used_in(used.get(module, {}))),
            )
    write("api/index.md", "\n".join(lines))


def verified_page(claims: dict[str, dict[str, Claim]]) -> str:
    """All ledgers on one page: how much is proved, ruled out, quoted, checked and so on."""
    words = [mark.word for mark in MARKS.values()]
    total = Counter(claim.kind for ledger in claims.values() for claim in ledger.values())
    lines = [
        "# What is verified",
        "",
        f"{total.total()} claims in {len(claims)} articles, each checked when its notebook runs, "
        "and each linked to its place.",
        "",
        "| article | " + " | ".join(words) + " |",
        "|---|" + "---|" * len(words),
    ]
    for name, ledger in claims.items():
        counts = Counter(claim.kind for claim in ledger.values())
        cells = " | ".join(str(counts[kind] or "–") for kind in MARKS)
        lines.append(f"| [{catalog()[name].title}]({name}.ipynb) | {cells} |")
    lines.append("| **all** | " + " | ".join(f"**{total[kind]}**" for kind in MARKS) + " |")
    lines += ["", *(f"- {m.sign} *{m.word}*: {m.meaning}." for m in MARKS.values()), ""]
    lines += ['<div class="kx-filter"></div>', ""]
    for name, ledger in claims.items():
        lines += [
            f"::::{{dropdown}} {catalog()[name].title} ({len(ledger)})",
            ":class-body: kx-ledger",
        ]
        lines += ["", "| | evidence | claim | |", "|---|---|---|---|"]
        for anchor, claim in ledger.items():
            mark = MARKS[claim.kind]
            place = f'<a href="{name}.html#{anchor}">{claim.key}</a>'
            statement = claim.statement.replace("|", r"\|")
            share = SHARE.search(claim.detail)
            seeds = share[0] if share else ""
            lines.append(f"| {place} | {mark.sign} {mark.word} | {statement} | {seeds} |")
        lines += ["::::", ""]
    return "\n".join(lines)


def stage_front(finished: list[str]) -> None:
    """The pages before the lessons."""
    notebooks = {name: nbformat.read(notebook_path(name), as_version=4) for name in finished}
    titles = {article.name: article.title for article in catalog().values()}
    terms = [term for name, notebook in notebooks.items() for term in terms_of(notebook, name)]
    minutes = {name: reading_minutes(notebook) for name, notebook in notebooks.items()}
    write("index.md", start_page())
    for series in SERIES:
        write(f"{series}/index.md", series_page(series, card_picture, minutes))
        articles = [article for article in of_series(series) if article.name in notebooks]
        write(f"{series}/teaching.md", teachers_page(series, articles, notebooks))
    symbols = {name: symbols_of(notebook) for name, notebook in notebooks.items()}
    write("glossary.md", glossary_page(terms, titles, symbols))
    write("papers.md", bibliography([catalog()[name] for name in finished]))


def card_picture(article: Article) -> str:
    """Copy the picture that stands for an article; return its address from its series' page."""
    place = STAGE / "_static" / "cards" / article.series / article.picture
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "figures" / article.series / article.picture, place)
    return f"../{place.relative_to(STAGE)}"


if __name__ == "__main__":
    sys.exit(main())
