"""Run an article's notebook over many seeds and store the figures that it hands over."""

import ast
import hashlib
import json
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, as_completed
from datetime import date
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, DeadKernelError

from kexue_lab.course.notebooks import execute
from kexue_lab.course.places import PACKAGE, course_root, notebook_path
from kexue_lab.course.pools import pool
from kexue_lab.evidence import ENOUGH
from kexue_lab.recorded import Row, read_rows, recorded_path, write_rows

_HANDS_OVER = re.compile(r"\bclaims\.(?:record|prove|refute|agree|bound|estimate)\(")


def record(
    article: str,
    seeds: Iterable[int],
    *,
    scale: str = "cpu",
    workers: int = 2,
    cluster: str | None = None,
    report: Callable[[str], None] = print,
) -> dict[int, Row]:
    """Run the notebook once for each seed and store the rows beside the article's module.

    Each seed's row is kept as it comes, so that an interrupted recording goes on where it
    stopped. A seed that fails is kept as a failure.

    Args:
        article: the article's name, such as "optimization/gradient_clipping".
        seeds: values of the notebook's `SEED`.
        scale: its `SCALE`.
        workers: how many notebooks run at once.
        cluster: None, "local", or the address of a dask scheduler, as in `pools.pool`.
        report: is told what each seed gave, in a line.

    Returns:
        the rows by seed.
    """
    drafts = course_root() / "build" / "record" / article / scale
    source, wanted = fingerprint(article), sorted(set(seeds))
    rows = {seed: row for seed, row in _drafts(drafts).items() if row.source == source}
    rows = {seed: row for seed, row in rows.items() if seed in wanted}
    if rows:
        report(f"{len(rows)} seeds were recorded before")
    drafts.mkdir(parents=True, exist_ok=True)
    task = notebook_path(article), scale, source, drafts
    missing = [seed for seed in wanted if seed not in rows]
    with pool(workers, cluster) as executor:
        running = {executor.submit(_run, seed, *task): seed for seed in missing}
        for done in as_completed(running):
            rows[running[done]] = row = _row(done, source)
            report(f"seed {running[done]}: {row.failed or 'recorded'}{_progress(rows, wanted)}")
    write_rows(recorded_path(article), rows, scale)
    return rows


def rarely_held(rows: Mapping[int, Row]) -> dict[str, int]:
    """Claims that held on too few of the seeds, with the number on which they did."""
    good = [row for row in rows.values() if not row.failed]
    held = Counter(key for row in good for key, truth in row.held.items() if truth)
    keys = dict.fromkeys(key for row in good for key in row.held)
    return {key: held[key] for key in keys if held[key] < ENOUGH * len(good)}


def fingerprint(article: str) -> str:
    """A mark of what a run hands over: the article's module, and the notebook's code up to there.

    That is up to the last cell that records a figure or claims something of this run. Pictures of
    the recorded seeds, explorers and exercises come later. Comments and docstrings do not count.
    """
    notebook = nbformat.read(notebook_path(article), as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    last = max((place for place, cell in enumerate(cells) if _HANDS_OVER.search(cell)), default=-1)
    module = (PACKAGE / f"{article}.py").read_text("utf8")
    code = "\0".join(map(_without_comments, [module, *cells[: last + 1]]))
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def _without_comments(source: str) -> str:
    """The lines of code alone; as text, since a syntax tree's form depends on Python's version."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                end = first.end_lineno or first.lineno
                lines[first.lineno - 1 : end] = [""] * (end - first.lineno + 1)
    kept = (line.rstrip() for line in lines)
    return "\n".join(line for line in kept if line and not line.lstrip().startswith("#"))


def is_stale(article: str) -> bool:
    """Whether any recorded row is older than the notebook or the module."""
    sources = {row.source for row in read_rows(recorded_path(article)).values()}
    return not sources <= {fingerprint(article)}


def _progress(rows: Mapping[int, Row], wanted: list[int]) -> str:
    failed = sum(bool(row.failed) for row in rows.values())
    return f" ({len(rows)} of {len(wanted)}" + (f", {failed} failed)" if failed else ")")


def _row(done: "Future[Row]", source: str) -> Row:
    """What a run gave; if its worker has died again and again, that."""
    try:
        return done.result()
    except Exception as error:
        return Row(failed=f"{type(error).__name__}: {error}", source=source)


def _run(seed: int, notebook: Path, scale: str, source: str, drafts: Path) -> Row:
    """One seed's row, from the notebook itself; also stored as a draft."""
    handed = drafts / f"{seed}.handed"
    made = f"{date.today()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("kexue-lab", "torch", "numpy")
    )
    made += f", {platform.machine()}"
    environment = {
        "KEXUE_RECORD": str(handed),
        "KEXUE_FIGURES_DIR": str(drafts / "figures"),  # not the course's own
    }
    try:
        execute(notebook, environment, {"SEED": seed, "SCALE": scale})
        row = Row(**json.loads(handed.read_text("utf8")), source=source, made=made)
    except (CellExecutionError, DeadKernelError, FileNotFoundError) as error:
        last = str(error).strip().splitlines()[-1]
        row = Row(failed=f"{type(error).__name__}: {last}", source=source, made=made)
    finally:
        handed.unlink(missing_ok=True)
    write_rows(drafts / f"{seed}.json", {seed: row})
    return row


def _drafts(folder: Path) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for path in folder.glob("*.json"):
        rows |= read_rows(path)
    return rows
