"""What pip installs, without a clone: built, and tried in an environment of its own."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from kexue_lab.course.catalog import catalog

ROOT = Path(__file__).parents[1]
MATERIAL = "kexue_lab/course/material/notebooks"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    source = folder / "source"
    for name in filter(None, tracked.split("\0")):
        if name.startswith(("kexue_lab/", "notebooks/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([sys.executable, *command, "-w", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment that has the wheel, and takes what it requires from this one."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Of a folder that is named in a .pth file the .pth files are not read: no editable install.
    (packages / "requirements.pth").write_text(sysconfig.get_paths()["purelib"])
    target = ["--no-deps", "--no-index", "-q", "--target", str(packages)]
    subprocess.run([sys.executable, "-m", "pip", "install", *target, str(wheel)], check=True)
    return folder / "bin" / "python"


def _run(python, folder, *arguments):
    return subprocess.run(
        [str(python), "-I", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_wheel_carries_every_lesson_and_its_solutions(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    finished = [article.name for article in catalog().values() if article.finished]
    for name in ("index", *finished, *(f"solutions/{name}" for name in finished)):
        assert f"{MATERIAL}/{name}.ipynb" in names
    assert not any(part.startswith(".") for name in names for part in name.split("/"))
    assert wheel.stat().st_size < 25e6


def test_an_installed_course_is_laid_out_in_the_current_folder(python, tmp_path):
    code = "from kexue_lab.course import lab; lab.lay_out(); print(lab.own_folder())"
    done = _run(python, tmp_path, "-c", code)
    assert done.stdout.strip() == str(tmp_path / "kexue-lab"), done.stderr
    mine = tmp_path / "kexue-lab" / "mathematics" / "em.ipynb"
    original = ROOT / "notebooks" / "mathematics" / "em.ipynb"
    assert mine.read_bytes() == original.read_bytes()
    # From a folder inside, it is the same one.
    again = _run(python, mine.parent, "-c", code)
    assert again.stdout.strip() == str(tmp_path / "kexue-lab"), again.stderr


def test_commands_that_write_into_the_course_need_a_clone(python, tmp_path):
    for command in (["record", "em"], ["refresh", "em"], ["open", "--original"]):
        done = _run(python, tmp_path, "-m", "kexue_lab.course.cli", *command)
        assert done.returncode == 2
        assert "clone" in done.stderr
    listed = _run(python, tmp_path, "-m", "kexue_lab.course.cli", "list")
    assert "random_sector" in listed.stdout
