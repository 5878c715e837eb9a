"""Run a function under a limit of time and memory, whatever the function does.

On Linux `run_forked` runs it in a forked process, which can be killed. `run_limited` runs it in a
thread, which can only be asked to stop; it serves where a process cannot be forked.
"""

import builtins
import contextlib
import ctypes
import faulthandler
import gc
import io
import logging
import mmap
import os
import pickle
import selectors
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar, cast

T = TypeVar("T")

# Deep recursion (sympy's, a student's) must not overflow a small default stack.
_STACK_BYTES = 64 * 1024 * 1024
_STOPS = 10
_PRINTED_BYTES = 16 * 1024
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1
_stack_lock = threading.Lock()


class TimeLimitExceeded(Exception):
    """The function had not returned when its time was up; `printed` is what it printed."""

    printed: str = ""


class ProcessDied(Exception):
    """The process of the function ended without a result; `printed` is what it printed."""

    printed: str = ""


class FunctionFailed(Exception):
    """The function raised; the message names the exception."""


class _Stop(BaseException):
    """Raised inside an overdue thread; a BaseException, so that `except Exception` lets it out."""


@dataclass(frozen=True)
class Failure:
    """An exception, as text: the exception itself may not survive the way between processes."""

    kind: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an exception whose own `__str__` may fail."""
        try:
            message = str(error)
        except Exception as second:
            message = f"its message cannot be shown ({type(second).__name__})"
        return cls(type(error).__name__, message, "".join(traceback.format_tb(error.__traceback__)))


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of a function: its value or its failure, and what it printed."""

    value: T | None
    failure: Failure | None
    printed: str

    def result(self) -> T:
        """The value.

        Raises:
            FunctionFailed: if the function raised.
        """
        if self.failure is not None:
            raise FunctionFailed(f"{self.failure.kind}: {self.failure.message}")
        return cast(T, self.value)


class _Prints(io.StringIO):
    """Text kept in shared memory: it outlives the process that printed it."""

    def __init__(self, memory: mmap.mmap) -> None:
        super().__init__()
        self._memory = memory

    def write(self, text: str) -> int:
        room = len(self._memory) - self._memory.tell()
        self._memory.write(text.encode("utf8", "replace")[:room])
        return len(text)


def _text(memory: mmap.mmap) -> str:
    return memory[:].rstrip(b"\0").decode("utf8", "ignore")


def can_fork() -> bool:
    """Whether `run_forked` forks: on Linux, as long as CUDA is not in use (it does not survive)."""
    torch = sys.modules.get("torch")
    return sys.platform == "linux" and not (torch is not None and torch.cuda.is_initialized())


def run_forked(
    function: Callable[[], T], seconds: float, *, memory: int = 2 * 1024**3
) -> Outcome[T]:
    """Run `function()` in a forked process; nothing that it does changes this one.

    Where a process cannot be forked (`can_fork`) it runs in a thread, by `run_limited`.

    Args:
        function: takes no arguments. Its value is pickled on the way back.
        seconds: limit of the process's CPU time, positive. Behind it stands a limit of wall time,
            `wall_limit(seconds)`, for a function that waits.
        memory: how many bytes it may allocate beyond those of this process. Above that limit
            Python raises MemoryError inside the function. A thread is not limited.

    Returns:
        the value or the exception, the latter as text, and the first 16 kB of what was printed
        to stdout and stderr. A value that cannot be pickled counts as an exception.

    Raises:
        TimeLimitExceeded: the function was still running when its time was up.
        ProcessDied: its process ended itself or crashed.
        ValueError: if `seconds` or `memory` is not positive.
    """
    _check_seconds(seconds)
    if not memory > 0:
        raise ValueError(f"memory must be positive, got {memory!r}")
    printed = mmap.mmap(-1, _PRINTED_BYTES)
    try:
        if can_fork():
            value, failure = _unpickled(_fork(function, seconds, memory, printed))
        else:
            with _captured(printed):
                value, failure = run_limited(lambda: _attempt(function), seconds)
    except (TimeLimitExceeded, ProcessDied) as error:
        error.printed = _text(printed)
        raise
    return Outcome(value, failure, _text(printed))


def wall_limit(seconds: float) -> float:
    """The wall time after which a function ends that is allowed `seconds` of CPU time."""
    return min(4 * seconds + 2, threading.TIMEOUT_MAX)


def _check_seconds(seconds: float) -> None:
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds!r}")


def _attempt(function: Callable[[], T]) -> tuple[T | None, Failure | None]:
    try:
        return function(), None
    except _Stop:
        raise
    except BaseException as error:
        return None, Failure.of(error)


@contextlib.contextmanager
def _captured(printed: mmap.mmap) -> Iterator[None]:
    prints = _Prints(printed)
    with contextlib.redirect_stdout(prints), contextlib.redirect_stderr(prints):
        yield


def _fork(function: Callable[[], T], seconds: float, memory: int, printed: mmap.mmap) -> bytes:
    """The pickled `_attempt` of the child."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns that other threads' locks stay locked in the child: it uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _live_as_child(function, seconds, memory, printed, writer)
    try:
        os.close(writer)
        with contextlib.suppress(OSError):  # the child does it too; whoever comes first
            os.setpgid(child, child)
        message = _receive(reader, child, wall_limit(seconds))
    except TimeoutError as error:
        raise TimeLimitExceeded(str(error)) from None
    finally:
        status = _end(child)
        os.close(reader)
    if message is not None:
        return message
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        raise TimeLimitExceeded(f"still running after {seconds:g} s")
    raise ProcessDied(_cause_of_death(status))


def _receive(reader: int, child: int, seconds: float) -> bytes | None:
    """The child's message, or None if it died; raises TimeoutError after `seconds`.

    The end of the pipe alone would not do: a process that the child has started may keep it open.
    """
    received = bytearray()
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            gone = _is_gone(child)
            if selector.select(_POLL_SECONDS):
                part = os.read(reader, 1 << 20)
                received += part
                if len(received) >= 8 and len(received) - 8 == int.from_bytes(received[:8]):
                    return bytes(received[8:])
                if not part:
                    return None
            elif gone:
                return None
    raise TimeoutError(f"no result within {seconds:g} s of wall time")


def _is_gone(child: int) -> bool:
    try:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, child, options) is not None
    except ChildProcessError:  # someone else has collected it
        return True


def _end(child: int) -> int:
    """Kill the child and all that it has started; collect it and return its exit status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    try:
        return os.waitpid(child, 0)[1]
    except ChildProcessError:
        return 0


def _cause_of_death(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"the process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"the process ended itself with exit status {os.WEXITSTATUS(status)}"


def _live_as_child(
    function: Callable[[], T], seconds: float, memory: int, printed: mmap.mmap, writer: int
) -> NoReturn:
    try:
        _leave_the_parent()
        _limit_memory(memory)
        # The default action of SIGPROF ends the process, which no code of the function can catch.
        signal.setitimer(signal.ITIMER_PROF, min(max(seconds, 1e-3), 1e8))
        with _captured(printed):
            message = _pickled(_attempt(function))
        unsent = memoryview(len(message).to_bytes(8) + message)
        while unsent:
            unsent = unsent[os.write(writer, unsent) :]
    finally:
        # Not by an exception or exit handlers: they belong to the parent.
        os._exit(0)


def _leave_the_parent() -> None:
    """Take from the child what it shares with its parent: handlers, terminal, threads, garbage."""
    gc.freeze()  # the parent's garbage is its own to finalise, and its pages stay shared
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPROF, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    faulthandler.disable()
    logging.disable()  # a kernel logs each picture that its fork tries to display
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.stdin = io.StringIO()
    builtins.input = _no_input  # a kernel's own would ask the browser
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # the threads of its pool were not forked


def _no_input(prompt: object = "", /) -> NoReturn:
    raise EOFError("there is no one to answer input()")


def _limit_memory(memory: int) -> None:
    # Not of the address space: torch reserves much more of it than it uses.
    import resource

    with open("/proc/self/status") as status:
        present = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
    for kind, soft in (
        (resource.RLIMIT_DATA, 1024 * present + memory),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(kind, (soft, hard))


def _pickled(attempt: tuple[T | None, Failure | None]) -> bytes:
    try:
        return pickle.dumps(attempt)
    except BaseException as error:
        return pickle.dumps((None, Failure.of(error)))


def _unpickled(message: bytes) -> tuple[Any, Failure | None]:
    try:
        return cast(tuple[Any, Failure | None], pickle.loads(message))
    except Exception as error:
        return None, Failure.of(error)


def run_limited(function: Callable[[], T], seconds: float) -> T:
    """Return `function()`, or give up on it after `seconds` of CPU time.

    It runs in a thread of its own, which is asked to stop when its time is up. That ends a Python
    loop at once; a single blocking call (a sleep, a long BLAS call) is left behind.

    Args:
        function: takes no arguments.
        seconds: limit of the thread's CPU time, positive; of wall time, where a thread has no
            clock of its own. Behind it stands a limit of wall time, `wall_limit(seconds)`.

    Raises:
        TimeLimitExceeded: the function was still running after `seconds`.
        ValueError: if `seconds` is not positive.
        Exception: whatever the function itself raises.
        RuntimeError: if it tries to end the interpreter (`SystemExit` and the like).
    """
    _check_seconds(seconds)
    outcome: list[T] = []
    failure: list[BaseException] = []
    clock: list[int] = []

    def target() -> None:
        try:
            if hasattr(time, "pthread_getcpuclockid"):
                clock.append(time.pthread_getcpuclockid(threading.get_ident()))
            outcome.append(function())
        except _Stop:
            pass
        except BaseException as error:
            failure.append(error)

    thread = _start(target)
    if not _ends_in_time(thread, clock, seconds):
        _stop(thread)
        raise TimeLimitExceeded(f"still running after {seconds:g} s")
    for error in failure:
        ordinary = isinstance(error, Exception)
        raise error if ordinary else RuntimeError(f"{type(error).__name__} was raised")
    return outcome[0]


def _start(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    with _stack_lock:
        usual = threading.stack_size(_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)
    return thread


def _ends_in_time(thread: threading.Thread, clock: list[int], seconds: float) -> bool:
    """Wait for the thread; `clock` holds its CPU clock, if the platform has one."""
    start = time.monotonic()
    while thread.is_alive():
        thread.join(min(_POLL_SECONDS, seconds))
        wall = time.monotonic() - start
        used = wall
        if clock:
            with contextlib.suppress(OSError):  # the thread has ended, and its clock with it
                used = time.clock_gettime(clock[0])
        if thread.is_alive() and (used >= seconds or wall >= wall_limit(seconds)):
            return False
    return True


def _stop(thread: threading.Thread) -> None:
    # More than once: the first may be swallowed, by a bare `except:` or a callback of the garbage
    # collector.
    for _ in range(_STOPS):
        if not thread.is_alive() or thread.ident is None:
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Stop)
        )
        thread.join(0.05)
