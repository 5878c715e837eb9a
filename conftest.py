"""Shared by all tests: one thread per process, and nbval made to run cells as Jupyter does."""

import itertools
import os
import tempfile
from pathlib import Path

from kexue_lab.notebooks import KERNEL_ENVIRONMENT

BUILD = Path(__file__).parent / "build"

# Before anything starts a thread or a kernel; kernels inherit it.
for name, value in KERNEL_ENVIRONMENT.items():
    os.environ.setdefault(name, value)
# Ledgers and pictures of a test run go here, not into the course.
os.environ.setdefault("KEXUE_CLAIMS_DIR", str(BUILD / "claims"))
os.environ.setdefault("KEXUE_FIGURES_DIR", str(BUILD / "figures"))


def _run_cells_as_jupyter_does() -> None:
    """Keep history: without it IPython ignores a trailing semicolon and shows the value."""
    try:
        from nbval.kernel import RunningKernel
    except ImportError:
        return

    def execute_cell_input(self, cell_input, allow_stdin=None):
        return self.kc.execute(
            cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
        )

    RunningKernel.execute_cell_input = execute_cell_input


def _talk_to_kernels_through_files() -> None:
    """Give each kernel sockets of its own in a temporary folder.

    Kernels that several workers start at once may be given the same free TCP port, and one dies
    (seen 1 time in 400).
    """
    try:
        import nbval.kernel
    except ImportError:
        return
    manager = nbval.kernel.KernelManager
    folder = tempfile.TemporaryDirectory(prefix="kernels-")
    number = itertools.count()

    def with_sockets(**options):
        return manager(transport="ipc", ip=f"{folder.name}/{next(number)}", **options)

    nbval.kernel.KernelManager = with_sockets


_run_cells_as_jupyter_does()
if os.name == "posix":
    _talk_to_kernels_through_files()
