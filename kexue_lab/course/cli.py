"""The command `kexue-lab`: list, open, run, record, app, new, refresh."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from kexue_lab.course.catalog import SERIES, Article, UnknownArticle, catalog, find
from kexue_lab.course.places import course_root, notebook_path, solutions_path

_TAIL = 12


class _Failure(Exception):
    """Ends the command with one clear message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (_Failure, UnknownArticle, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"kexue-lab: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kexue-lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the articles: finished and planned")
    listing.set_defaults(command=_list)

    opening = commands.add_parser("open", help="open an article (or the map) in JupyterLab")
    opening.add_argument("article", nargs="?", metavar="ARTICLE")
    opening.set_defaults(command=_open)

    running = commands.add_parser("run", help="execute articles; keep executed copies and HTML")
    running.add_argument("articles", nargs="+", metavar="ARTICLE")
    running.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter of the notebook: SEED, DEVICE or SCALE",
    )
    running.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="where the copies go (default: %(default)s)",
    )
    running.set_defaults(command=_run)

    recording = commands.add_parser(
        "record", help="run articles over many seeds and store what their experiments gave"
    )
    recording.add_argument("articles", nargs="+", metavar="ARTICLE")
    recording.add_argument("--seeds", type=int, default=20, help="how many (default: %(default)s)")
    recording.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    recording.add_argument(
        "--workers", type=int, default=2, help="notebooks at once (default: %(default)s)"
    )
    recording.set_defaults(command=_record)

    serving = commands.add_parser("app", help="serve an article's explorers as a page (Voilà)")
    serving.add_argument("article", metavar="ARTICLE")
    serving.add_argument("--port", type=int, default=8866, help="default: %(default)s")
    serving.set_defaults(command=_app)

    making = commands.add_parser("new", help="lay down the skeleton of a planned article")
    making.add_argument("article", metavar="ARTICLE")
    making.set_defaults(command=_new)

    refreshing = commands.add_parser(
        "refresh", help="execute notebooks in place, in normal form; update index and README"
    )
    refreshing.add_argument("articles", nargs="*", metavar="ARTICLE")
    refreshing.set_defaults(command=_refresh)
    return parser


def _list(_options: argparse.Namespace) -> int:
    articles = catalog().values()
    for series in SERIES:
        print(series)
        for article in (a for a in articles if a.series == series):
            seconds = f"{article.seconds} s" if article.finished else ""
            slug = article.name.split("/")[1]
            print(f"  {article.state:<8}{seconds:>5}  {slug:<28} {article.title}")
    counts = Counter(article.state for article in articles)
    print(", ".join(f"{counts[state]} {state}" for state in ("lesson", "landed", "planned")))
    return 0


def _open(options: argparse.Namespace) -> NoReturn:
    name = "index" if options.article is None else _finished(options.article).name
    command = [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={course_root()}",
        f"--LabApp.default_url=/lab/tree/notebooks/{name}.ipynb",
    ]
    if not _has_screen():
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    # In place of this process, so that Ctrl-C reaches JupyterLab alone.
    os.execv(sys.executable, command)


def _app(options: argparse.Namespace) -> NoReturn:
    from kexue_lab.course.app import serve

    serve(_finished(options.article), options.port, _has_screen())


def _has_screen() -> bool:
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        print("No screen here: open the address below in a browser.", flush=True)
        return False
    return True


def _run(options: argparse.Namespace) -> int:
    articles = [_finished(name) for name in options.articles]
    parameters = {name: _value(text) for name, text in options.parameter}
    for article in articles:
        _check_run(article, parameters, options.output)
    return max([_run_one(article, parameters, options.output) for article in articles])


def _check_run(article: Article, parameters: dict[str, Any], output: Path) -> None:
    """Refuse what cannot work before anything runs."""
    import papermill

    source = notebook_path(article.name)
    known = papermill.inspect_notebook(str(source))
    for name in parameters:
        if name not in known:
            raise _Failure(f"{article.name} has no parameter {name}; it has {', '.join(known)}")
    if (output / f"{article.name}.ipynb").resolve() == source.resolve():
        raise _Failure(f"{output} holds the course's own notebooks; choose another folder with -o")


def _run_one(article: Article, parameters: dict[str, Any], output: Path) -> int:
    import papermill
    from nbclient.exceptions import DeadKernelError

    from kexue_lab.course.notebooks import KERNEL_ENVIRONMENT

    source = notebook_path(article.name)
    copy = output / f"{article.name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    # A run with other parameters must not overwrite the course's own pictures.
    os.environ.update(KERNEL_ENVIRONMENT, KEXUE_FIGURES_DIR=str((output / "figures").resolve()))
    print(article.name, flush=True)
    status = 0
    try:
        papermill.execute_notebook(
            str(source), str(copy), parameters, cwd=str(source.parent), kernel_name="python3"
        )
    except papermill.PapermillExecutionError as error:
        print(f"FAILED in cell {error.exec_count}: {error.ename}", file=sys.stderr)
        if error.ename.startswith("Claim"):
            lines = error.evalue.splitlines()[:_TAIL]
        else:
            lines = [*"\n".join(error.traceback).splitlines()[-_TAIL:], error.evalue]
        print("\n".join(f"  {line}" for line in lines), file=sys.stderr)
        status = 1
    except DeadKernelError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        status = 1
    page = _write_html(copy)
    print(f"  {copy}\n  {page}")
    return status


def _write_html(notebook: Path) -> Path:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(notebook))
    page = notebook.with_suffix(".html")
    page.write_text(body, "utf8")
    return page


def _record(options: argparse.Namespace) -> int:
    from kexue_lab.course.record import rarely_held, record

    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise _Failure(f"--{name} must be at least 1, got {getattr(options, name)}")
    status = 0
    for article in [_finished(name) for name in options.articles]:
        print(article.name, flush=True)
        rows = record(
            article.name,
            range(options.seeds),
            scale=options.scale,
            workers=options.workers,
            report=lambda line: print(f"  {line}", flush=True),
        )
        for key, count in rarely_held(rows).items():
            print(f"  {key} held on {count} of {len(rows)} seeds only: restate it")
            status = 1
        status |= any(row.failed for row in rows.values())
    return status


def _new(options: argparse.Namespace) -> int:
    from kexue_lab.course.skeleton import lay_down

    article = find(options.article)
    if article.finished:
        raise _Failure(f"{article.name} is finished already")
    try:
        paths = lay_down(article, course_root())
    except FileExistsError as error:
        raise _Failure(str(error)) from error
    for path in paths:
        print(path.relative_to(course_root()))
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from kexue_lab.course.notebooks import refresh
    from kexue_lab.course.pages import write_pages

    articles = [find(name) for name in options.articles]
    write_pages()
    for article in articles or [a for a in catalog().values() if a.finished]:
        for path in (notebook_path(article.name), solutions_path(article.name)):
            print(f"{refresh(path):6.1f} s  {path.relative_to(course_root())}", flush=True)
    return 0


def _finished(name: str) -> Article:
    article = find(name)
    if not article.finished:
        raise _Failure(f"{article.name} is planned, not finished yet; see `kexue-lab list`")
    return article


def _value(text: str) -> Any:
    """A parameter's value as Python reads it: a number where it is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
