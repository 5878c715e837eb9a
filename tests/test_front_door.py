"""What a newcomer meets first: the README's session, `import kexue_lab`, `help` of a series."""

import doctest
import importlib
import re
import shlex
import subprocess
import sys

import pytest

import kexue_lab
from kexue_lab.course.catalog import SERIES, find
from kexue_lab.course.cli import _parser
from kexue_lab.course.places import PACKAGE

README = PACKAGE.parent / "README.md"
GUIDE = PACKAGE.parent / "docs" / "guide.md"
_COMMAND = re.compile(r"(?:^|`)kexue-lab ([a-z][^`#\n]*)", re.MULTILINE)


def test_the_session_in_the_readme_runs_as_printed(monkeypatch):
    monkeypatch.delenv("KEXUE_CLAIMS_DIR", raising=False)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(str(README), module_relative=False, optionflags=options)
    assert tried >= 8
    assert failed == 0


def test_the_readme_fits_on_a_screen_or_two():
    words, _ = README.read_text("utf8").split("<details>")
    assert len([line for line in words.splitlines() if line.strip()]) < 70


@pytest.mark.parametrize("command", _COMMAND.findall(GUIDE.read_text("utf8")))
def test_the_command_line_takes_what_the_guide_says(command):
    options = vars(_parser().parse_args(shlex.split(command)))
    for name in [options.get("article"), *options.get("articles", [])]:
        assert name is None or find(name).finished


@pytest.mark.parametrize("name", kexue_lab.__all__)
def test_the_vocabulary_is_that_of_its_modules(name):
    offered = getattr(kexue_lab, name)
    assert offered.__module__.startswith("kexue_lab.")
    assert offered is getattr(sys.modules[offered.__module__], name)
    assert name in dir(kexue_lab)
    assert f"`{name}`" in (kexue_lab.__doc__ or "")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Claim'"):
        kexue_lab.Claim  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, kexue_lab; print(sorted({'torch', 'numpy', 'sympy'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("series", SERIES)
def test_help_of_a_series_names_its_modules(series):
    if not (PACKAGE / series).is_dir():
        pytest.skip("nothing of this series has landed")
    text = importlib.import_module(f"kexue_lab.{series}").__doc__ or ""
    modules = {path.stem for path in (PACKAGE / series).glob("[a-z]*.py")}
    for name in sorted(m for m in modules if not m.endswith("_exercises")):
        assert f"- `{name}`: " in text
