"""The contract that every notebook keeps."""

import ast
import copy
import importlib
import re
import symtable
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from reports import finished

from kexue_lab.course.catalog import catalog, find
from kexue_lab.course.notebooks import normalise
from kexue_lab.course.pages import index_notebook, readme_with_table
from kexue_lab.course.places import notebook_path, solutions_path
from kexue_lab.course.skeleton import OPTIONAL_SECTIONS, SECTIONS
from kexue_lab.exercises import exercises_of

ROOT = Path(__file__).parents[1]
IMPORT_NAMES = {"scikit-learn": "sklearn", "ipython": "IPython", "pillow": "PIL", "pot": "ot"}
FORBIDDEN = {
    "an address": r"0x[0-9a-f]{6,}",
    "a path": r"(?<!\w)/(?:home|root|tmp|usr|Users|opt|var|work|mnt)/",
    "a path of Windows": r"[A-Z]:\\\\",
    "a progress bar": r"\d%\|",
    "a duration": r"\d ?(?:ms|µs|seconds?|minutes?)\b|\d\d:\d\d:\d\d",
}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def notebook(article):
    return read(notebook_path(article))


@pytest.fixture
def both(article, notebook):
    return [notebook, read(solutions_path(article))]


def trees(notebook):
    return [ast.parse(cell.source) for cell in code_cells(notebook)]


def text_outputs(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            for mime, data in output.get("data", {}).items():
                if mime.startswith("text/"):
                    yield data


def test_the_catalogue_and_the_files_agree():
    stored = {
        str(path.relative_to(ROOT / "notebooks").with_suffix(""))
        for path in (ROOT / "notebooks").glob("*/*.ipynb")
    }
    assert stored == set(finished()), "a finished notebook states its seconds in catalog.toml"


def test_every_file_of_the_article_exists(article):
    series, slug = article.split("/")
    files = [
        f"kexue_lab/{article}.py",
        f"kexue_lab/{article}_exercises.py",
        f"tests/{series}/test_{slug}.py",
        f"notebooks/solutions/{article}.ipynb",
    ]
    missing = [file for file in files if not (ROOT / file).is_file()]
    assert not missing
    picture = find(article).picture
    assert picture.startswith(f"{slug}-"), "name a picture in catalog.toml"
    assert (ROOT / "figures" / series / picture).is_file(), "no such picture was saved"


def test_it_begins_with_both_titles_and_the_source(article, notebook):
    first = notebook.cells[0]
    entry = find(article)
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {entry.title}\n")
    assert entry.title_zh in first.source
    assert entry.source in first.source
    for word in ("**Read first:**", "**Run time:**", "**Papers:**"):
        assert word in first.source


def headings(notebook):
    return [
        line.removeprefix("## ").strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]


def test_its_sections_stand_in_order(notebook):
    found = headings(notebook)
    assert found == [section for section in SECTIONS if section in found]
    assert set(SECTIONS) - set(found) <= OPTIONAL_SECTIONS


def test_its_parameters_stand_second(notebook):
    cell = code_cells(notebook)[1]
    assert cell.metadata.get("tags") == ["parameters"]
    names = [target.id for node in ast.parse(cell.source).body for target in node.targets]
    assert names == ["SEED", "DEVICE", "SCALE"]
    assert sum("parameters" in c.metadata.get("tags", []) for c in notebook.cells) == 1


def test_every_cell_was_executed_in_order_without_error(both):
    for notebook in both:
        cells = code_cells(notebook)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        kinds = {output.output_type for cell in cells for output in cell.outputs}
        assert "error" not in kinds
        assert not any(
            output.get("name") == "stderr" for cell in cells for output in cell.outputs
        ), "warnings on stderr"


def test_no_time_path_or_address_is_stored(both):
    for notebook in both:
        for text in text_outputs(notebook):
            for name, pattern in FORBIDDEN.items():
                match = re.search(pattern, text)
                assert match is None, f"{name}: {text[max(0, match.start() - 40) : match.end()]!r}"


def test_imports_stand_in_the_first_cell_and_are_declared(both):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    allowed = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared}
    allowed |= sys.stdlib_module_names | {"kexue_lab"}
    for notebook in both:
        first, *rest = trees(notebook)
        for tree in rest:
            for node in ast.walk(tree):
                assert not isinstance(node, (ast.Import, ast.ImportFrom)), ast.unparse(node)
        for node in ast.walk(first):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {node.module.split(".")[0]}
            else:
                continue
            assert roots <= allowed, ast.unparse(node)


def test_every_library_name_it_uses_exists_and_is_public(both):
    for notebook in both:
        first, *rest = trees(notebook)
        modules = {}
        for node in ast.walk(first):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kexue_lab"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert not alias.name.startswith("_"), alias.name
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("kexue_lab"):
                        modules[alias.asname or alias.name] = importlib.import_module(alias.name)
        for tree in rest:
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    module = modules.get(node.value.id)
                    if module is not None:
                        assert not node.attr.startswith("_"), node.attr
                        assert hasattr(module, node.attr), f"{module.__name__}.{node.attr}"


def test_its_claims_hold_and_near_misses_are_refuted(article, notebook, report):
    kinds = [claim["kind"] for claim in report["claims"]]
    assert report["article"] == article
    assert kinds.count("refuted") >= 2
    assert kinds.count("proved") >= 5
    assert "checked" in kinds
    assert code_cells(notebook)[-1].source == "claims.ledger()"
    stored = code_cells(notebook)[-1].outputs[0]["data"]["text/plain"]
    assert stored.startswith(f"{len(kinds)} claims: "), "the stored ledger is another one"


def test_its_explorers_draw_everywhere(report):
    assert report["explorers"]
    for explorer in report["explorers"]:
        assert explorer["points"] >= 3
        assert explorer["exact"], "a redraw of what moves differs from a full one"


def test_what_an_explorer_draws_with_is_not_bound_again(notebook):
    """A slider that is moved after the last cell has run would draw on another figure's axes."""
    sources = [cell.source for cell in code_cells(notebook)]
    cells = [symtable.symtable(source, "cell", "exec") for source in sources]
    functions = {f.get_name(): f for cell in cells for f in cell.get_children()}
    for place, source in enumerate(sources):
        used = names_used([functions[name] for name in explored(source)], functions)
        later = {name for after in cells[place + 1 :] for name in names_bound(after)}
        assert used & later == set()


def explored(source):
    """The names of the functions that a cell gives to `explore`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "explore":
            yield from (n.id for n in ast.walk(node.args[0]) if isinstance(n, ast.Name))


def names_used(tables, functions):
    """The global names that functions use, and the functions that these call."""
    used, waiting = set(), list(tables)
    while waiting:
        table = waiting.pop()
        found = set(table.get_globals()) - used if table.get_type() == "function" else set()
        used |= found
        waiting += [*table.get_children(), *(functions[name] for name in found & functions.keys())]
    return used


def names_bound(cell):
    return {s.get_name() for s in cell.get_symbols() if s.is_assigned() or s.is_imported()}


def test_its_exercises_are_there_and_solved(article, both):
    numbers = list(exercises_of(article))
    assert 3 <= len(numbers) <= 6
    notebook, solutions = both
    for n in numbers:
        call = re.compile(rf'exercise\((?:ARTICLE|"{article}"), {n}\)\.check\(')
        assert any(call.search(cell.source) for cell in code_cells(notebook))
        assert any(call.search(cell.source) for cell in code_cells(solutions))
    unsolved = [t for t in text_outputs(notebook) if t.startswith("○ Exercise")]
    solved = [t for t in text_outputs(solutions) if t.startswith("✓ Exercise")]
    assert len(unsolved) == len(solved) == len(numbers)


def test_its_file_is_small_and_normal(article, both):
    for path, notebook in zip((notebook_path(article), solutions_path(article)), both, strict=True):
        assert path.stat().st_size < 2_000_000
        again = normalise(copy.deepcopy(notebook))
        assert nbformat.writes(again) == path.read_text("utf8").rstrip("\n")


def test_readme_and_index_follow_the_catalogue():
    readme = (ROOT / "README.md").read_text("utf8")
    assert readme_with_table(readme) == readme, "run `make notebooks`"
    stored = (ROOT / "notebooks" / "index.ipynb").read_text("utf8")
    assert stored.rstrip("\n") == nbformat.writes(index_notebook()), "run `make notebooks`"
    assert len(catalog()) == 38
