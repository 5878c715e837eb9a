"""Kernels for test runs: each forked from a process that has loaded what every notebook imports.

Torch, sympy, matplotlib and widgets take three seconds to import; thirty notebooks and their
solutions would pay it one by one. A forked kernel is as fresh as another: nothing has been computed
in the process it comes from, and it ends with its notebook.
"""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from typing import Any

import matplotlib
from ipykernel.kernelapp import launch_new_instance

LOADED = (
    *("ipykernel.kernelapp", "ipywidgets", "matplotlib.pyplot"),
    *("matplotlib.backends.backend_svg", "mpl_toolkits.mplot3d", "ot", "scipy.integrate"),
    *("scipy.optimize", "scipy.special", "scipy.stats", "sklearn.datasets", "sympy"),
    *("sympy.combinatorics", "sympy.physics.units", "sympy.tensor.tensor", "torch"),
    *("torch._dynamo", "torch.func", "tqdm.auto", "kexue_lab.claims", "kexue_lab.exercises"),
    *("kexue_lab.explore", "kexue_lab.training", "kexue_lab.validation"),
)
_SECONDS_TO_START = 120
_BACKEND = "module://matplotlib_inline.backend_inline"


class ForkedKernel:
    """A forked kernel, with those methods of `subprocess.Popen` for which jupyter_client asks."""

    stdin = stdout = stderr = None

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while the kernel lives."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end and return the exit status."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel alone."""
        if self.pid is not None and self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the kernel at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the kernel to end."""
        self.send_signal(signal.SIGTERM)


def can_fork() -> bool:
    """Whether this system has what forked kernels need; torch is not safe to fork on macOS."""
    return sys.platform == "linux"


def launch_forked_kernel(
    cmd: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None, **_: Any
) -> ForkedKernel:
    """Start a Python kernel as `jupyter_client.launcher.launch_kernel` does, but by forking.

    Args:
        cmd: the command line of an ipykernel; what follows its `-f` is the connection file.
        env: the kernel's environment; this process's when None.
        cwd: the kernel's folder.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    apart = context.Event()
    connection = cmd[cmd.index("-f") + 1]
    arguments = (connection, dict(os.environ if env is None else env), cwd, apart)
    process = context.Process(target=_run_kernel, args=arguments)
    process.start()
    # Signals go to the kernel's process group: until it has its own, that would be ours.
    apart.wait(_SECONDS_TO_START)
    return ForkedKernel(process)


def _run_kernel(connection: str, env: dict[str, str], cwd: str | None, apart: Event) -> None:
    gc.freeze()  # a collection that looked at all that is loaded would copy every page of it
    os.setsid()
    apart.set()
    os.environ.clear()
    os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # Not before: the backend looks for a running kernel when it is loaded, at the first figure.
    matplotlib.rcParams["backend"] = _BACKEND
    sys.argv = ["ipykernel_launcher", "-f", connection]
    launch_new_instance()
