"""What pyproject.toml cannot say: a wheel carries the course's notebooks."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithNotebooks(build_py):
    """Copies `notebooks` into the package, where `kexue_lab.course.places` looks for them."""

    def run(self) -> None:
        """Build; an editable install finds the notebooks in its clone."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "kexue_lab" / "course" / "material" / "notebooks"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("notebooks", target, ignore=shutil.ignore_patterns(".*"))


setup(cmdclass={"build_py": WithNotebooks})
