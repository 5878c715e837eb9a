"""Shared by all tests: one thread per process, and nbval made to run and compare as a reader."""

import os
import tempfile
from pathlib import Path

from kexue_lab.course.kernels import can_fork, launch_forked_kernel
from kexue_lab.course.notebooks import KERNEL_ENVIRONMENT, kernel_address
from kexue_lab.course.outputs import outputs_differ

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


def _compare_outputs_as_a_reader_would() -> None:
    try:
        from nbval.plugin import IPyNbCell
    except ImportError:
        return

    def compare_outputs(self, test, ref, skip_compare=None):
        experiment = "experiment" in self.cell.metadata.get("tags", ())
        difference = outputs_differ(ref, test, experiment=experiment)
        self.comparison_traceback = [difference or ""]
        return difference is None

    IPyNbCell.compare_outputs = compare_outputs


def _give_each_kernel_its_own_sockets() -> None:
    """Let nbval's kernels talk through files, which no other worker's kernel can take."""
    try:
        import nbval.kernel
    except ImportError:
        return
    manager = nbval.kernel.KernelManager
    folder = tempfile.TemporaryDirectory(prefix="kernels-")

    def with_sockets(**options):
        return manager(**kernel_address(tempfile.mkdtemp(dir=folder.name)), **options)

    nbval.kernel.KernelManager = with_sockets


def _fork_kernels() -> None:
    """Let nbval's kernels start with what every notebook imports."""
    from jupyter_client.provisioning import local_provisioner

    local_provisioner.launch_kernel = launch_forked_kernel


_run_cells_as_jupyter_does()
_compare_outputs_as_a_reader_would()
_give_each_kernel_its_own_sockets()
if can_fork():
    _fork_kernels()
