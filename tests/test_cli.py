"""The command line, on a small course of its own; and the skeleton that `new` lays down."""

import html
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook, new_output

from kexue_lab.course import catalog as catalog_module
from kexue_lab.course import cli, pages, places
from kexue_lab.course import notebooks as notebooks_module
from kexue_lab.course import run as run_module
from kexue_lab.course.catalog import SERIES, catalog
from kexue_lab.course.notebooks import KERNEL_ENVIRONMENT, execute, normalise
from kexue_lab.course.skeleton import SECTIONS, lay_down

REAL = catalog()
CHECKOUT = places.PACKAGE.parent


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    """`run` sets these for its kernels; put them back afterwards."""
    for name in (*KERNEL_ENVIRONMENT, "KEXUE_FIGURES_DIR", "KEXUE_CLAIMS_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("KEXUE_CLAIMS_DIR", str(tmp_path / "claims"))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A course in which two articles are finished and two are planned."""
    root = tmp_path / "course"
    (root / "notebooks/mathematics").mkdir(parents=True)
    (root / "notebooks/index.ipynb").write_text("{}")
    shutil.copy(CHECKOUT / "pyproject.toml", root)
    names = ("mathematics/em", "mathematics/random_sector", "diffusion/ddim", "diffusion/unified")
    articles = {n: replace(REAL[n], state="planned", seconds=None) for n in names}
    for name, seconds in (("mathematics/em", 3), ("mathematics/random_sector", 16)):
        articles[name] = replace(REAL[name], state="landed", seconds=seconds)
    monkeypatch.chdir(root)
    monkeypatch.setattr(places, "PACKAGE", root / "kexue_lab")
    monkeypatch.setattr(catalog_module, "catalog", lambda: articles)
    monkeypatch.setattr(cli, "catalog", lambda: articles)
    return root


def write(path, *sources):
    cells = [new_code_cell(source) for source in sources]
    if len(cells) > 1:
        cells[1].metadata["tags"] = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(normalise(new_notebook(cells=cells)), path)


TINY = (
    "import os",
    'SEED = 0\nSCALE = "cpu"',
    "print(SEED + 1, SCALE, os.environ['KEXUE_FIGURES_DIR'])",
)


@pytest.fixture
def kernelless(small, monkeypatch):
    """Record what a kernel is asked for instead of starting one."""
    calls = []

    def attempt(path, environment, parameters):
        calls.append(SimpleNamespace(path=path, environment=environment, parameters=parameters))
        return nbformat.read(path, as_version=4), None

    monkeypatch.setattr(run_module, "attempt", attempt)
    write(small / "notebooks/mathematics/em.ipynb", *TINY)
    write(small / "notebooks/mathematics/random_sector.ipynb", *TINY)
    return calls


# --- list and open -----------------------------------------------------------------------------


def test_list_shows_every_article_and_its_state(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for article in REAL.values():
        (line,) = [li for li in out.splitlines() if f" {article.name.split('/')[1]} " in li]
        assert article.title in line
        assert line.split()[0] == article.state
    counts = [sum(a.state == s for a in REAL.values()) for s in ("lesson", "landed", "planned")]
    assert out.splitlines()[-1] == "{} lesson, {} landed, {} planned".format(*counts)
    assert [li for li in out.splitlines() if li in SERIES] == list(SERIES)


def test_list_needs_no_torch():
    """The command answers at once: neither torch nor matplotlib is imported."""
    script = (
        "import sys; from kexue_lab.course.cli import main; main(['list'])\n"
        "print(sorted({'torch', 'matplotlib', 'sympy', 'papermill'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["open", "run", "new", "refresh"])
def test_an_unknown_article_gets_the_nearest_names(small, capsys, command):
    assert cli.main([command, "randm_sector"]) == 2
    out, err = capsys.readouterr()
    assert err == (
        "kexue-lab: there is no article 'randm_sector'; did you mean mathematics/random_sector?\n"
    )
    assert out == ""


@pytest.mark.parametrize("command", ["open", "run"])
def test_a_planned_article_is_refused(small, capsys, command):
    assert cli.main([command, "ddim"]) == 2
    assert "diffusion/ddim is planned, not finished yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["run"], ["new"], ["run", "em", "-p", "SEED"]]
)
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: kexue-lab" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [None, '[project]\nname = "another"', "no = [toml"])
def test_a_foreign_folder_is_not_taken_for_the_course(
    small, tmp_path, monkeypatch, capsys, settings
):
    (small / "pyproject.toml").unlink()
    if settings is not None:
        (small / "pyproject.toml").write_text(settings)
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "site-packages/kexue_lab")
    before = files(small)
    for command in (["open"], ["new", "ddim"], ["refresh"], ["run", "em"]):
        assert cli.main(command) == 2
        assert "run this inside a clone of the course" in capsys.readouterr().err
    assert files(small) == before


@pytest.mark.parametrize("command", [["new", "ddim"], ["refresh", "em"], ["record", "em"]])
def test_what_writes_into_the_course_refuses_another_clone(
    small, tmp_path, monkeypatch, capsys, command
):
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "another/kexue_lab")
    before = files(small)
    assert cli.main(command) == 2
    assert "writes into its own clone" in capsys.readouterr().err
    assert files(small) == before


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kexue-lab {version('kexue-lab')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["app", "em", "--port", "99999999"],
        ["app", "em", "--port", "0"],
        ["app", "em", "--port", "many"],
        ["record", "em", "--seeds", "0"],
        ["record", "em", "--workers", "-1"],
        ["record", "em", "--seeds", "1.5"],
    ],
)
def test_a_number_out_of_range_is_refused_before_anything_runs(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "must be a whole number from 1 to" in capsys.readouterr().err


def test_an_interrupted_command_ends_with_one_line(monkeypatch, capsys):
    def interrupted(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "find", interrupted)
    assert cli.main(["run", "em"]) == 130
    assert capsys.readouterr().err == "kexue-lab: interrupted\n"


# --- run ---------------------------------------------------------------------------------------


def test_run_with_parameters_leaves_a_copy_and_html(small, tmp_path, capsys):
    source = small / "notebooks/mathematics/em.ipynb"
    write(source, *TINY)
    stored = source.read_bytes()
    out = tmp_path / "out"
    assert cli.main(["run", "em", "-p", "SEED", "41", "-p", "SCALE", "gpu", "-o", str(out)]) == 0
    copy, page = out / "mathematics/em.ipynb", out / "mathematics/em.html"
    text = nbformat.read(copy, as_version=4).cells[-1].outputs[0].text
    assert text.startswith("42 gpu ")
    assert Path(text.split()[-1]).is_relative_to(out)
    assert "42 gpu" in page.read_text("utf8")
    assert source.read_bytes() == stored
    printed = capsys.readouterr()
    assert str(copy) in printed.out
    assert str(page) in printed.out


def test_a_failed_claim_gives_status_1_and_keeps_the_copy(small, tmp_path, capsys):
    write(
        small / "notebooks/mathematics/em.ipynb",
        "from kexue_lab.claims import Claims",
        "SEED = 0",
        'print("so far")',
        'Claims("mathematics/em").bound("N1", "stays small", 2, below=1)',
        'print("never")',
    )
    out = tmp_path / "out"
    assert cli.main(["run", "em", "-o", str(out)]) == 1
    printed = capsys.readouterr()
    assert "FAILED: ClaimFailed" in printed.err
    assert "N1 does not hold: stays small" in printed.err
    assert "largest value 2, not < 1" in printed.err
    assert str(out / "mathematics/em.html") in printed.out
    copy = (out / "mathematics/em.ipynb").read_text("utf8")
    assert "so far\\n" in copy
    page = (out / "mathematics/em.html").read_text("utf8")
    assert "so far" in page
    assert "stays small" in page


def test_another_error_shows_its_traceback(small, tmp_path, capsys):
    write(small / "notebooks/mathematics/em.ipynb", "def solve():\n    return 1 / 0", "solve()")
    assert cli.main(["run", "em", "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "FAILED: ZeroDivisionError" in err
    assert "division by zero" in err


def test_a_kernel_that_dies_gives_status_1_and_keeps_the_copy(small, tmp_path, capsys):
    write(small / "notebooks/mathematics/em.ipynb", "print('so far')", "import os\nos._exit(1)")
    out = tmp_path / "out"
    assert cli.main(["run", "em", "-o", str(out)]) == 1
    assert "FAILED: DeadKernelError" in capsys.readouterr().err
    assert "so far" in (out / "mathematics/em.html").read_text("utf8")


def test_parameters_reach_the_notebook(kernelless, tmp_path):
    arguments = ["-p", "SEED", "7", "-p", "SCALE", "gpu", "-o", str(tmp_path / "out")]
    assert cli.main(["run", "em", "random_sector", "em", *arguments]) == 0
    assert [c.parameters for c in kernelless] == [{"SEED": 7, "SCALE": "gpu"}] * 2
    assert [c.path.stem for c in kernelless] == ["em", "random_sector"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SPEED", "1", "mathematics/em has no parameter SPEED; it has SEED, SCALE"),
        ("SEED", "abc", "SEED must be a whole number from 0 to 999999999, got 'abc'"),
        ("SEED", "1e3", "SEED must be a whole number from 0 to 999999999, got '1e3'"),
        ("SEED", "-1", "SEED must be a whole number from 0 to 999999999, got '-1'"),
        ("SCALE", "huge", 'SCALE must be "cpu" or "gpu", got \'huge\''),
        ("DEVICE", "nan", "DEVICE must be auto, cpu, mps, cuda or cuda:N, got 'nan'"),
    ],
)
def test_values_are_checked_before_anything_runs(
    kernelless, tmp_path, capsys, name, value, message
):
    out = tmp_path / "out"
    assert cli.main(["run", "random_sector", "em", "-p", name, value, "-o", str(out)]) == 2
    assert capsys.readouterr().err.replace("random_sector", "em") == f"kexue-lab: {message}\n"
    assert kernelless == []
    assert not out.exists()


def test_a_repeated_parameter_is_refused(kernelless, capsys):
    assert cli.main(["run", "em", "-p", "SEED", "1", "-p", "SEED", "2"]) == 2
    assert capsys.readouterr().err == "kexue-lab: the parameter SEED is given twice\n"
    assert kernelless == []


def test_all_names_and_parameters_are_checked_before_anything_runs(kernelless, small, tmp_path):
    out = str(tmp_path / "out")
    assert cli.main(["run", "em", "ddim", "-o", out]) == 2
    write(small / "notebooks/mathematics/random_sector.ipynb", "import os", "SEED = 0")
    assert cli.main(["run", "em", "random_sector", "-p", "SCALE", "gpu", "-o", out]) == 2
    assert kernelless == []


def test_one_failure_among_several_gives_status_1(kernelless, small, tmp_path, monkeypatch):
    done = []

    def attempt(path, *_):
        done.append(path)
        error = DeadKernelError("Kernel died") if len(done) == 1 else None
        return nbformat.read(path, as_version=4), error

    monkeypatch.setattr(run_module, "attempt", attempt)
    assert cli.main(["run", "em", "random_sector", "-o", str(tmp_path / "out")]) == 1
    assert len(done) == 2


@pytest.mark.parametrize(
    "folder", [".", "notebooks", "notebooks/solutions", "figures", "kexue_lab/x", "runs/.."]
)
def test_the_copies_never_lie_among_the_course(kernelless, small, capsys, folder):
    before = files(small)
    assert cli.main(["run", "em", "-o", folder]) == 2
    assert "lies inside the course" in capsys.readouterr().err
    assert kernelless == []
    assert files(small) == before


def test_the_usual_folder(kernelless, small, tmp_path, monkeypatch):
    monkeypatch.chdir(small / "notebooks/mathematics")
    assert cli.main(["run", "em"]) == 0
    assert (small / "runs/mathematics/em.html").is_file()


@pytest.mark.parametrize("odd", ["run{1}", "run %s", "läufe 跑"])
def test_any_name_of_a_folder_will_do(kernelless, tmp_path, odd):
    assert cli.main(["run", "em", "-o", str(tmp_path / odd)]) == 0
    assert (tmp_path / odd / "mathematics/em.ipynb").is_file()


def test_a_folder_that_cannot_be_written_is_one_line(kernelless, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert cli.main(["run", "em", "-o", str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("kexue-lab: ")
    assert err.count("\n") == 1
    assert kernelless == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_run_that_is_cut_off_leaves_the_earlier_copies_whole(
    kernelless, tmp_path, monkeypatch, capsys, error
):
    out = tmp_path / "out"
    assert cli.main(["run", "em", "-o", str(out)]) == 0
    before = files(out)

    def cut_off(*_):
        raise error

    monkeypatch.setattr(run_module, "_page", cut_off)
    assert cli.main(["run", "em", "-p", "SEED", "3", "-o", str(out)]) in (2, 130)
    assert capsys.readouterr().err.count("\n") == 1
    assert files(out) == before


def test_a_run_takes_the_place_of_an_earlier_one_with_its_pictures(
    kernelless, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    def draws(name):
        def attempt(path, environment, _parameters):
            picture = Path(environment["KEXUE_FIGURES_DIR"]) / f"mathematics/em-{name}.svg"
            picture.parent.mkdir(parents=True)
            picture.write_text(name)
            return nbformat.read(path, as_version=4), None

        return attempt

    for name in ("first", "second"):
        monkeypatch.setattr(run_module, "attempt", draws(name))
        assert cli.main(["run", "em", "-o", str(out)]) == 0
    pictures = [path.name for path in (out / "figures").rglob("*.svg")]
    assert pictures == ["em-second.svg"]


def test_two_runs_into_one_folder_do_not_mix(kernelless, tmp_path, capsys):
    out = tmp_path / "out"
    with run_module.reserved(out, [REAL["mathematics/em"]]):
        assert cli.main(["run", "em", "-o", str(out)]) == 2
        assert "another run is writing" in capsys.readouterr().err
        assert cli.main(["run", "random_sector", "-o", str(out)]) == 0
    assert cli.main(["run", "em", "-o", str(out)]) == 0


def test_the_page_needs_nothing_from_the_internet(kernelless, tmp_path):
    out = tmp_path / "out"
    assert cli.main(["run", "em", "-o", str(out)]) == 0
    page = (out / "mathematics/em.html").read_text("utf8")
    assert "MathJax" in page
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?:", page)


def test_the_pages_pictures_say_what_they_show(kernelless, small, tmp_path):
    path = small / "notebooks/mathematics/em.ipynb"
    notebook = nbformat.read(path, as_version=4)
    data = {"image/png": "aGVsbG8=", "text/plain": 'Picture: "a" falls below 1 & <b'}
    notebook.cells[2].outputs = [new_output("display_data", data)]
    nbformat.write(notebook, path)
    assert cli.main(["run", "em", "-o", str(tmp_path)]) == 0
    page = (tmp_path / "mathematics/em.html").read_text("utf8")
    (picture,) = re.findall(r"<img[^>]*>", page)
    assert 'src="data:image/png;base64,aGVsbG8="' in picture
    assert f"alt='{data['text/plain']}'" in html.unescape(picture)


def test_a_notebook_that_fails_is_named_by_refresh(small, monkeypatch, capsys):
    monkeypatch.setattr(pages, "write_pages", lambda: None)
    path = small / "notebooks/mathematics/em.ipynb"
    write(path, "1 / 0")
    stored = path.read_bytes()
    assert cli.main(["refresh", "em"]) == 1
    assert "notebooks/mathematics/em.ipynb FAILED: ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == stored


def test_refresh_executes_notebooks_and_solutions(small, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(notebooks_module, "refresh", lambda path: done.append(path) or 1.5)
    monkeypatch.setattr(pages, "write_pages", lambda: done.append("pages"))
    assert cli.main(["refresh"]) == 0
    assert done[0] == "pages"
    assert [str(p.relative_to(small / "notebooks")) for p in done[1:]] == [
        "mathematics/em.ipynb",
        "solutions/mathematics/em.ipynb",
        "mathematics/random_sector.ipynb",
        "solutions/mathematics/random_sector.ipynb",
    ]
    assert "   1.5 s  notebooks/mathematics/em.ipynb" in capsys.readouterr().out


# --- new ---------------------------------------------------------------------------------------

FIVE = [
    "kexue_lab/diffusion/ddim.py",
    "kexue_lab/diffusion/ddim_exercises.py",
    "tests/diffusion/test_ddim.py",
    "notebooks/diffusion/ddim.ipynb",
    "notebooks/solutions/diffusion/ddim.ipynb",
]


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_new_lays_down_five_files(small, capsys):
    (small / "kexue_lab/diffusion").mkdir(parents=True)
    (small / "kexue_lab/diffusion/__init__.py").write_text('"""Diffusion."""\n')
    before = files(small)
    assert cli.main(["new", "ddim"]) == 0
    assert capsys.readouterr().out.splitlines() == FIVE
    assert sorted(files(small).keys() - before.keys()) == sorted(FIVE)
    assert before.items() <= files(small).items()


def test_new_makes_the_series_a_package(small):
    assert cli.main(["new", "ddim"]) == 0
    assert (small / "kexue_lab/diffusion/__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize("existing", FIVE)
def test_new_overwrites_nothing(small, capsys, existing):
    path = small / existing
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = files(small)
    assert cli.main(["new", "ddim"]) == 2
    assert capsys.readouterr().err == f"kexue-lab: {existing} exists already; nothing was written\n"
    assert files(small) == before


def test_new_refuses_a_finished_article(small, capsys):
    assert cli.main(["new", "em"]) == 2
    assert "mathematics/em is finished already" in capsys.readouterr().err


def test_the_skeleton_notebook_has_the_sections_and_parameters(small):
    cli.main(["new", "ddim"])
    notebook = nbformat.read(small / FIVE[3], as_version=4)
    nbformat.validate(notebook)
    headings = [c.source.split("\n")[0] for c in notebook.cells if c.source.startswith("## ")]
    assert headings == [f"## {section}" for section in SECTIONS]
    title = notebook.cells[0].source
    article = REAL["diffusion/ddim"]
    assert title.startswith(f"# {article.title}\n")
    for part in (article.title_zh, article.source, *article.papers, *article.prerequisites):
        assert part in title
    (parameters,) = [c for c in notebook.cells if c.metadata.get("tags") == ["parameters"]]
    assert all(name in parameters.source for name in ("SEED", "DEVICE", "SCALE"))


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory):
    """Every article's skeleton in one course with this project's settings."""
    root = tmp_path_factory.mktemp("skeletons")
    shutil.copy(CHECKOUT / "pyproject.toml", root)
    (root / "kexue_lab").mkdir()
    for module in places.PACKAGE.glob("*.py"):  # so that ruff knows them as this project's own
        (root / "kexue_lab" / module.name).write_text('"""Stands for a shared module."""\n')
    for article in REAL.values():
        lay_down(article, root)
    return root


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_accepts_every_skeleton(skeletons, command):
    arguments = [sys.executable, "-m", "ruff", *command, "--no-cache", "-q", "."]
    done = subprocess.run(arguments, cwd=skeletons, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[:3000]


def test_the_skeleton_notebook_runs(skeletons):
    execute(skeletons / "notebooks/diffusion/ddim.ipynb")


def test_the_skeletons_test_asks_for_mathematics(skeletons):
    text = (skeletons / "tests/diffusion/test_ddim.py").read_text("utf8")
    assert "import kexue_lab.diffusion.ddim as article" in text
    assert "assert" in text
