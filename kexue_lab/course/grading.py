"""nbgrader's settings for assignments of this course, and a guard around the students' cells.

A cell that kills its kernel costs a student the marks of the whole notebook, and one that hangs in
C is never ended. So each cell that is not locked runs in a forked process first, under a limit.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from nbgrader.preprocessors import ClearOutput, ClearSolutions, Execute, NbGraderPreprocessor
from traitlets import Float

from kexue_lab.limits import ProcessDied, TimeLimitExceeded, can_fork, run_forked

_HANDED_IN = "handed_in"  # the metadata in which a guarded cell keeps its code


class CellRefused(Exception):
    """The cell would have hung or ended the kernel."""


class Guard(NbGraderPreprocessor):  # type: ignore[misc]
    """Let every cell that is not locked be tried out before it runs."""

    seconds = Float(10.0, help="CPU time that a student's cell may take").tag(config=True)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Put a call of `run_tried` in the place of the cell's code."""
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("locked", False):
            cell.metadata[_HANDED_IN] = cell.source
            cell.source = (
                "from kexue_lab.course.grading import run_tried\n"
                f"run_tried({cell.source!r}, get_ipython(), {self.seconds})"
            )
        return cell, resources


class Unguard(NbGraderPreprocessor):  # type: ignore[misc]
    """Give back the code: teacher and student see the cells as they were handed in."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Undo what `Guard` has done to the cell."""
        cell.source = cell.metadata.pop(_HANDED_IN, cell.source)
        return cell, resources


def run_tried(source: str, shell: Any, seconds: float) -> None:
    """Run a cell, after a trial in a forked process, where it can do no harm.

    An ordinary exception is no harm: it comes again, and is shown, when the cell runs.

    Args:
        source: the cell's code, magics included.
        shell: the kernel's IPython shell, in whose names it runs.
        seconds: of CPU time.

    Raises:
        CellRefused: if the cell does not end in time, or ends its process.
    """
    if can_fork():
        try:
            run_forked(lambda: exec(shell.transform_cell(source), shell.user_ns), seconds)
        except TimeLimitExceeded:
            raise CellRefused(f"this cell did not end within {seconds:g} s") from None
        except ProcessDied as error:
            raise CellRefused(f"this cell ends its process: {error}") from None
    shell.run_cell(source)


def configure(c: Any) -> None:
    """Set nbgrader up for assignments that `kexue-lab handout` has made.

    Args:
        c: nbgrader's configuration, as `get_config()` gives it.
    """
    from nbgrader.converters import Autograde, GenerateAssignment

    # Pictures stay, so that the lesson can be read at once; and nothing is there to be cleared.
    usual = GenerateAssignment.preprocessors.default()
    kept = [step for step in usual if step not in (ClearSolutions, ClearOutput)]
    c.GenerateAssignment.preprocessors = kept
    steps = Autograde.autograde_preprocessors.default()
    at = steps.index(Execute)
    c.Autograde.autograde_preprocessors = [
        *steps[:at],
        Guard,
        Execute,
        Unguard,
        *steps[at + 1 :],
    ]
    c.Execute.timeout = 600
    # The lesson's cells save their pictures: not among what is handed back.
    os.environ["KEXUE_FIGURES_DIR"] = str(Path(tempfile.gettempdir()) / "kexue-lab-figures")
