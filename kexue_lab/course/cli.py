"""The command `kexue-lab`: list, open, run, record, app, handout, new, refresh."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from kexue_lab.course.catalog import SERIES, Article, UnknownArticle, catalog, find
from kexue_lab.course.places import (
    course_root,
    is_installed,
    notebook_path,
    own_root,
    solutions_path,
)
from kexue_lab.course.pools import LOCAL

_TAIL = 12
_INTERRUPTED = 130  # what a shell expects of a command that Ctrl-C has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (UnknownArticle, ValueError, OSError, ModuleNotFoundError) as error:
        print(f"kexue-lab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kexue-lab: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kexue-lab", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('kexue-lab')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the articles: finished and planned")
    listing.set_defaults(command=_list)

    _add_open(commands)
    _add_run(commands)
    _add_record(commands)

    serving = commands.add_parser("app", help="serve an article's explorers as a page (Voilà)")
    serving.add_argument("article", metavar="ARTICLE")
    serving.add_argument("--port", type=_port, default=8866, help="default: %(default)s")
    serving.set_defaults(command=_app)

    _add_handout(commands)

    making = commands.add_parser("new", help="lay down the skeleton of a planned article")
    making.add_argument("article", metavar="ARTICLE")
    making.set_defaults(command=_new)

    refreshing = commands.add_parser(
        "refresh", help="execute notebooks in place, in normal form; update index and README"
    )
    refreshing.add_argument("articles", nargs="*", metavar="ARTICLE")
    refreshing.set_defaults(command=_refresh)
    return parser


def _add_open(commands: Any) -> None:
    opening = commands.add_parser(
        "open", help="open an article (or the map) in JupyterLab, as a copy of your own in `my`"
    )
    opening.add_argument("article", nargs="?", metavar="ARTICLE")
    which = opening.add_mutually_exclusive_group()
    which.add_argument(
        "--fresh",
        action="store_true",
        help="start the article's copy again; the old one stays beside it",
    )
    which.add_argument(
        "--original", action="store_true", help="open the course's own notebook, for authors"
    )
    opening.set_defaults(command=_open)


def _add_run(commands: Any) -> None:
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
        metavar="FOLDER",
        help="where the copies go (default: `runs` in the course, or here if this is outside it)",
    )
    running.set_defaults(command=_run)


def _add_record(commands: Any) -> None:
    recording = commands.add_parser(
        "record", help="run articles over many seeds and store what their experiments gave"
    )
    recording.add_argument("articles", nargs="+", metavar="ARTICLE")
    recording.add_argument(
        "--seeds", type=_count, default=20, help="how many (default: %(default)s)"
    )
    recording.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    recording.add_argument(
        "--workers", type=_count, default=2, help="notebooks at once (default: %(default)s)"
    )
    recording.add_argument(
        "--cluster",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="run on dask: on processes of this machine, or on the scheduler at ADDRESS",
    )
    recording.set_defaults(command=_record)


def _add_handout(commands: Any) -> None:
    handing = commands.add_parser(
        "handout", help="make nbgrader assignments: a graded cell per exercise, no solutions"
    )
    handing.add_argument("articles", nargs="+", metavar="ARTICLE")
    handing.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="nbgrader's course, outside this one; made if it is missing",
    )
    handing.add_argument(
        "--points", type=_count, default=1, help="for each exercise (default: %(default)s)"
    )
    handing.set_defaults(command=_handout)


def _count(text: str) -> int:
    return _whole(text, 1, 10_000)


def _port(text: str) -> int:
    return _whole(text, 1, 65535)


def _whole(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {low} to {high}, got {text!r}"
        )
    return int(text)


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
    from kexue_lab.course import lab

    name = "index" if options.article is None else _finished(options.article).name
    if options.fresh and options.article is None:
        raise ValueError("--fresh needs the name of the article that is to start again")
    if options.original and is_installed():
        raise ValueError("--original is for authors, who have a clone of the course")
    folder = course_root() / "notebooks"
    if not options.original:
        folder = lab.own_folder()
        for copy in lab.lay_out(name if options.fresh else None):
            place = copy.relative_to(folder).with_suffix("")
            print(f"{place} is newer in the course than in your copy; `--fresh {place}` takes it")
        os.environ.update(lab.environment())
    command = lab.command(folder / f"{name}.ipynb", _has_screen())
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
    from kexue_lab.course import run

    articles = [_finished(name) for name in dict.fromkeys(options.articles)]
    parameters = run.parameters_from([(name, text) for name, text in options.parameter])
    folder = options.output or run.usual_folder()
    run.check_folder(folder)
    for article in articles:
        run.check(article, parameters)
    status = 0
    with run.reserved(folder, articles):
        for article in articles:
            print(article.name, flush=True)
            paths, error = run.run(article, parameters, folder)
            if error is not None:
                print(_described(error), file=sys.stderr)
                status = 1
            print("".join(f"  {path}\n" for path in paths), end="", flush=True)
    return status


def _described(error: Exception) -> str:
    """What ended a notebook: for a claim its message, else the end of the traceback."""
    name = getattr(error, "ename", type(error).__name__)
    lines = str(error).strip().splitlines()
    if name.startswith("Claim"):
        lines = str(getattr(error, "evalue", error)).splitlines()[:_TAIL]
    return "\n  ".join([f"FAILED: {name}", *lines[-_TAIL:]])


def _record(options: argparse.Namespace) -> int:
    from kexue_lab.course.record import rarely_held, record

    own_root()
    status = 0
    for article in [_finished(name) for name in options.articles]:
        print(article.name, flush=True)
        rows = record(
            article.name,
            range(options.seeds),
            scale=options.scale,
            workers=options.workers,
            cluster=options.cluster,
            report=lambda line: print(f"  {line}", flush=True),
        )
        for key, count in rarely_held(rows).items():
            print(f"  {key} held on {count} of {len(rows)} seeds only: restate it")
            status = 1
        status |= any(row.failed for row in rows.values())
    return status


def _handout(options: argparse.Namespace) -> int:
    from kexue_lab.course.handout import check_handout, hand_out

    names = dict.fromkeys(_finished(name).name for name in options.articles)
    for name in names:
        check_handout(name, options.output)
    for name in names:
        print(hand_out(name, options.output, options.points))
    print(f"next, in {options.output}: nbgrader generate_assignment NAME")
    return 0


def _new(options: argparse.Namespace) -> int:
    from kexue_lab.course.skeleton import lay_down

    article = find(options.article)
    if article.finished:
        raise ValueError(f"{article.name} is finished already")
    root = own_root()
    for path in lay_down(article, root):
        print(path.relative_to(root))
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    from kexue_lab.course.notebooks import refresh
    from kexue_lab.course.pages import write_pages

    articles = [_finished(name) for name in dict.fromkeys(options.articles)]
    root = own_root()
    write_pages()
    for article in articles or [a for a in catalog().values() if a.finished]:
        for path in (notebook_path(article.name), solutions_path(article.name)):
            try:
                print(f"{refresh(path):6.1f} s  {path.relative_to(root)}", flush=True)
            except (CellExecutionError, DeadKernelError) as error:
                print(f"{path.relative_to(root)} {_described(error)}", file=sys.stderr)
                return 1
    return 0


def _finished(name: str) -> Article:
    article = find(name)
    if not article.finished:
        raise ValueError(f"{article.name} is planned, not finished yet; see `kexue-lab list`")
    return article


if __name__ == "__main__":
    sys.exit(main())
