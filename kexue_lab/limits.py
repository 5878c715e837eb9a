"""Run a function under a time limit, on any platform and whatever the function does."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Deep recursion (sympy's, a student's) must not overflow the small default stack of a thread.
_STACK_BYTES = 64 * 1024 * 1024
_STOPS = 10
_stack_lock = threading.Lock()


class TimeLimitExceeded(Exception):
    """The function had not returned when its time was up."""


class _Stop(BaseException):
    """Raised inside an overdue thread; a BaseException, so that `except Exception` lets it out."""


def run_limited(function: Callable[[], T], seconds: float) -> T:
    """Return `function()`, or give up on it after `seconds`.

    The function runs in a thread of its own. When the time is up that thread is asked to stop,
    which ends a Python loop at once; a single blocking call (a sleep, a long BLAS call) is left
    behind and ends by itself.

    Args:
        function: takes no arguments.
        seconds: the limit, positive.

    Raises:
        TimeLimitExceeded: the function was still running after `seconds`.
        ValueError: if `seconds` is not positive.
        Exception: whatever the function itself raises.
        RuntimeError: if it tries to end the interpreter (`SystemExit` and the like).
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds!r}")
    outcome: list[T] = []
    failure: list[Exception] = []

    def target() -> None:
        try:
            outcome.append(function())
        except _Stop:
            pass
        except Exception as error:
            failure.append(error)
        except BaseException as error:
            failure.append(RuntimeError(f"{type(error).__name__} was raised"))

    thread = _start(target)
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if thread.is_alive():
        _stop(thread)
        raise TimeLimitExceeded(f"still running after {seconds:g} s")
    if failure:
        raise failure[0]
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
