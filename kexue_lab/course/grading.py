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

_GUARD = (
    "from kexue_lab.course.grading import try_out; try_out({source!r}, get_ipython(), {seconds})\n"
)


class CellRefused(Exception):
    """The cell would have hung or ended the kernel."""


class Guard(NbGraderPreprocessor):  # type: ignore[misc]
    """Let every cell that is not locked be tried out before it runs."""

    seconds = Float(10.0, help="CPU time that a student's cell may take").tag(config=True)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Put the trial before the cell's code."""
        locked = cell.metadata.get("nbgrader", {}).get("locked", False)
        if cell.cell_type == "code" and not locked and not cell.source.startswith("%%"):
            cell.source = _GUARD.format(source=cell.source, seconds=self.seconds) + cell.source
        return cell, resources


class Unguard(NbGraderPreprocessor):  # type: ignore[misc]
    """Take the trials out again: teacher and student see the cells as they were handed in."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Remove what `Guard` has put before the cell's code."""
        head, _, rest = cell.source.partition("\n")
        if head.startswith(_GUARD.partition("{")[0] + repr(rest)):
            cell.source = rest
        return cell, resources


def try_out(source: str, shell: Any, seconds: float) -> None:
    """Run a cell in a forked process, where it can do no harm.

    An ordinary exception is no harm: it will come again, and be shown, when the cell runs.

    Args:
        source: the cell's code.
        shell: the kernel's IPython shell, in whose names it runs.
        seconds: of CPU time.

    Raises:
        CellRefused: if the cell does not end in time, or ends its process.
    """
    if not can_fork():
        return
    code = shell.transform_cell(source)
    try:
        run_forked(lambda: exec(code, shell.user_ns), seconds)
    except TimeLimitExceeded:
        raise CellRefused(f"this cell did not end within {seconds:g} s") from None
    except ProcessDied as error:
        raise CellRefused(f"this cell ends its process: {error}") from None


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
