"""What a fresh machine relies on: requirements, constraints, build files, quick imports."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import kexue_lab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
CONDA_NAMES = {"torch": "pytorch"}


def bounds(lines):
    """Name -> lower bound, for requirements of the form name>=version."""
    pairs = (re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line) for line in lines)
    return {match[1].lower(): match[2] for match in pairs}


def required():
    extras = PROJECT["optional-dependencies"]
    assert set(extras["app"]) <= set(extras["dev"])
    return bounds(PROJECT["dependencies"] + extras["dev"])


def version(text):
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def test_environment_yml_states_the_same_requirements():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    conda = bounds(line for line in [*lines, *pip] if ">=" in line)
    python = conda.pop("python")
    assert PROJECT["requires-python"] == f">={python}"
    assert conda == {CONDA_NAMES.get(name, name): low for name, low in required().items()}
    assert "-e ." in pip


def test_the_constraints_pin_every_requirement_at_or_above_its_bound():
    text = (ROOT / "constraints.txt").read_text("utf8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", line) for line in lines), "pins only"
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    for name, low in required().items():
        assert version(pinned[name]) >= version(low), name


def test_what_is_installed_meets_the_bounds():
    for name, low in required().items():
        assert version(metadata.version(name)) >= version(low), name


def test_the_package_is_typed_and_carries_its_catalogue():
    package = Path(kexue_lab.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "course" / "catalog.toml").is_file()


@pytest.mark.parametrize("module", ["kexue_lab", "kexue_lab.course.cli"])
def test_an_import_is_quick_and_light(module):
    heavy = {"torch", "matplotlib", "sympy", "numpy"}
    code = f"import sys, {module}; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.strip() == ""


def test_ci_runs_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text("utf8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf8")
    readme = (ROOT / "README.md").read_text("utf8")
    for text in (script, workflow, readme):
        assert "make test" in text
    assert "make lab" in readme


def test_text_files_name_no_machine():
    """No path of somebody's machine and no download address in what is stored."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    patterns = re.compile(r"/(?:home|Users|root)/\w|pypi\.org|files\.pythonhosted|file://")
    own = Path(__file__).name
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yml", ".cff"} and path.name != own:
            match = patterns.search(path.read_text("utf8"))
            assert match is None or name == "tests/test_contract.py", f"{name}: {match}"
