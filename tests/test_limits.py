"""The time limit, whatever the function does."""

import contextlib
import ctypes
import itertools
import math
import os
import re
import signal
import sys
import threading
import time
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch

from kexue_lab import limits
from kexue_lab.limits import (
    FunctionFailed,
    ProcessDied,
    TimeLimitExceeded,
    can_fork,
    run_forked,
    run_limited,
    wall_limit,
)


def test_returns_what_the_function_returns():
    assert run_limited(lambda: 7, 1) == 7
    assert run_limited(lambda: None, 1) is None


def test_raises_what_the_function_raises():
    error = KeyError("mine")

    def fails():
        raise error

    with pytest.raises(KeyError) as caught:
        run_limited(fails, 1)
    assert caught.value is error


@pytest.mark.parametrize("status", [0, 1, "message"])
def test_sys_exit_does_not_end_the_interpreter(status):
    with pytest.raises(RuntimeError, match="SystemExit"):
        run_limited(lambda: sys.exit(status), 1)


def test_keyboard_interrupt_raised_inside_is_an_error():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        run_limited(interrupted, 1)


def until_gone(thread, seconds=5):
    thread.join(seconds)
    return not thread.is_alive()


def test_an_endless_loop_is_stopped():
    running = []

    def endless():
        running.append(threading.current_thread())
        while True:
            try:
                sum(range(100))
            except Exception:  # must not keep the loop alive
                continue

    start = time.perf_counter()
    with pytest.raises(TimeLimitExceeded, match=r"still running after 0.2 s"):
        run_limited(endless, 0.2)
    assert time.perf_counter() - start < 2
    assert until_gone(running[0])


def test_a_blocking_call_is_left_behind():
    release = threading.Event()
    start = time.perf_counter()
    with pytest.raises(TimeLimitExceeded):
        run_limited(lambda: release.wait(10), 0.1)
    assert time.perf_counter() - start < wall_limit(0.1) + 2
    release.set()


def test_deep_recursion_ends_in_a_recursion_error():
    def deeper(n):
        return deeper(n + 1)

    with pytest.raises(RecursionError):
        run_limited(lambda: deeper(0), 5)


def test_the_stack_of_other_threads_stays_as_it_was():
    before = threading.stack_size()
    run_limited(lambda: 1, 1)
    assert threading.stack_size() == before


def test_calls_may_be_nested():
    assert run_limited(lambda: run_limited(lambda: 5, 1), 1) == 5


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_the_limit_must_be_positive(seconds):
    with pytest.raises(ValueError, match="seconds must be positive"):
        run_limited(lambda: 1, seconds)


def test_a_limit_may_be_as_long_as_one_likes():
    assert run_limited(lambda: 1, math.inf) == 1


def test_a_thread_is_limited_by_its_own_processor_time():
    def waits_then_returns():
        time.sleep(0.4)
        return 1

    assert run_limited(waits_then_returns, 0.2) == 1


needs_fork = pytest.mark.skipif(not can_fork(), reason="no process can be forked here")


def test_a_forked_function_returns_its_value_and_its_prints(capsys):
    def talks():
        print("to stdout")
        print("to stderr", file=sys.stderr)
        return [1, "two", Fraction(1, 3), np.arange(3.0), torch.ones(2), sp.Symbol("x", real=True)]

    outcome = run_forked(talks, 5)
    one, two, third, array, tensor, symbol = outcome.result()
    assert (one, two, third, symbol) == (1, "two", Fraction(1, 3), sp.Symbol("x", real=True))
    assert array.tolist() == [0, 1, 2]
    assert tensor.tolist() == [1, 1]
    assert outcome.printed == "to stdout\nto stderr\n"
    assert capsys.readouterr() == ("", "")


def test_an_exception_arrives_as_text():
    def fails():
        print("before")
        raise KeyError("mine")

    outcome = run_forked(fails, 5)
    assert (outcome.failure.kind, outcome.failure.message) == ("KeyError", "'mine'")
    assert 'raise KeyError("mine")' in outcome.failure.traceback
    assert outcome.printed == "before\n"
    with pytest.raises(FunctionFailed, match="KeyError: 'mine'"):
        outcome.result()


def test_an_exception_whose_text_fails_is_named():
    class Shy(Exception):
        def __str__(self):
            raise ZeroDivisionError

    def fails():
        raise Shy

    failure = run_forked(fails, 5).failure
    assert failure.kind == "Shy"
    assert "ZeroDivisionError" in failure.message


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_the_interpreter_is_an_exception_of_the_function(error):
    def ends():
        raise error

    assert run_forked(ends, 5).failure.kind == error.__name__


@needs_fork
def test_a_value_that_cannot_be_pickled_is_a_failure():
    assert "pickle" in run_forked(lambda: lambda: 1, 5).failure.message


class Treacherous:
    """Pickled without complaint, and not to be read again."""

    def __reduce__(self):
        return int, ("no number",)


@needs_fork
def test_a_value_that_cannot_be_unpickled_is_a_failure():
    assert run_forked(Treacherous, 5).failure.kind == "ValueError"


def swallows_everything():
    print("started")
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


class EndlessText(Exception):
    def __str__(self):
        while True:
            pass


def raises_endless_text():
    raise EndlessText


class EndlessPickle:
    def __reduce__(self):
        while True:
            pass


def waits_with_a_thread():
    threading.Thread(target=time.sleep, args=(1000,)).start()
    time.sleep(1000)


@needs_fork
@pytest.mark.parametrize(
    "hangs",
    [
        lambda: 7**7**9,
        lambda: sum(itertools.count()),
        lambda: math.factorial(3 * 10**6),
        lambda: re.match("(a+)+$", "a" * 40 + "b"),
        swallows_everything,
        raises_endless_text,
        EndlessPickle,
        lambda: time.sleep(1000),
        waits_with_a_thread,
    ],
)
def test_what_hangs_is_killed(hangs):
    start = time.perf_counter()
    with pytest.raises(TimeLimitExceeded):
        run_forked(hangs, 0.1)
    # Wall time: others may be using the processor.
    assert time.perf_counter() - start < wall_limit(0.1) + 5


@needs_fork
def test_what_was_printed_before_a_hang_is_kept():
    with pytest.raises(TimeLimitExceeded) as caught:
        run_forked(swallows_everything, 0.1)
    assert caught.value.printed == "started\n"


def crashes():
    ctypes.string_at(0)


@needs_fork
@pytest.mark.parametrize(
    ("dies", "cause"),
    [
        (lambda: os._exit(0), "exit status 0"),
        (lambda: os._exit(3), "exit status 3"),
        (os.abort, "SIGABRT"),
        (crashes, "SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda: os.closerange(3, 1000), "SIGKILL|exit status"),
    ],
)
def test_a_process_that_dies_is_noticed(dies, cause):
    with pytest.raises(ProcessDied, match=cause):
        run_forked(dies, 5)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@needs_fork
@pytest.mark.parametrize("end", [lambda: os._exit(0), lambda: None])
def test_a_process_left_behind_neither_holds_the_result_nor_lives_on(end):
    reader, writer = os.pipe()

    def forks():
        left_behind = os.fork()
        if left_behind == 0:
            time.sleep(1000)
        os.write(writer, f"{left_behind}\n".encode())
        end()

    start = time.perf_counter()
    with contextlib.suppress(ProcessDied):
        run_forked(forks, 5)
    assert time.perf_counter() - start < 10
    left_behind = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    for _ in range(100):
        if not alive(left_behind):
            return
        time.sleep(0.05)
    pytest.fail("it lives on")


@needs_fork
def test_nothing_that_the_function_changes_is_changed_here():
    kept = []

    def changes():
        math.pi = 3
        np.allclose = None
        os.environ["CHANGED"] = "1"
        torch.set_default_dtype(torch.float64)
        kept.append(1)
        return os.getpid()

    assert run_forked(changes, 5).result() != os.getpid()
    assert math.pi > 3
    assert callable(np.allclose)
    assert "CHANGED" not in os.environ
    assert torch.get_default_dtype() == torch.float32
    assert kept == []


def children_of(pid):
    """The processes, zombies included, that a process has started and not yet waited for."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(child for task in tasks for child in (task / "children").read_text().split())


@needs_fork
def test_no_zombies_and_no_descriptors_are_left():
    before, children = len(os.listdir("/proc/self/fd")), children_of(os.getpid())
    for _ in range(5):
        run_forked(lambda: 1, 5)
        with pytest.raises(ProcessDied):
            run_forked(lambda: os._exit(1), 5)
    assert len(os.listdir("/proc/self/fd")) == before
    assert children_of(os.getpid()) == children


@needs_fork
@pytest.mark.parametrize(
    "greedy", [lambda: bytearray(400_000_000), lambda: np.ones(10**8), lambda: torch.ones(10**8)]
)
def test_memory_is_limited(greedy):
    failure = run_forked(greedy, 20, memory=200_000_000).failure
    assert failure.kind in ("MemoryError", "RuntimeError", "_ArrayMemoryError")


@needs_fork
def test_a_large_value_comes_whole():
    array = np.random.default_rng(0).normal(size=2_000_000)
    assert (run_forked(lambda: 2 * array, 30).result() == 2 * array).all()


@needs_fork
def test_torch_and_numpy_work_after_their_threads_have_started():
    torch.ones(500, 500) @ torch.ones(500, 500)

    def trains():
        weight = torch.ones(300, 300, requires_grad=True)
        (weight @ weight).sum().backward()
        return float(weight.grad[0, 0]), float(np.linalg.svd(np.ones((200, 200)))[1][0])

    gradient, singular = run_forked(trains, 20).result()
    assert gradient == 600
    assert singular == pytest.approx(200)


@needs_fork
def test_an_interrupt_here_kills_the_process(monkeypatch):
    children = []

    def interrupted(reader, child, seconds):
        children.append(child)
        raise KeyboardInterrupt

    monkeypatch.setattr(limits, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_forked(lambda: time.sleep(1000), 100)
    assert not alive(children[0])


def test_no_one_answers_input():
    assert run_forked(lambda: input("?"), 5).failure.kind in ("EOFError", "OSError")


def test_prints_are_clipped():
    outcome = run_forked(lambda: print("é" * 10**6), 5)
    assert outcome.failure is None
    assert 1000 < len(outcome.printed) < 10**5


def test_deep_recursion_of_a_forked_function_is_its_failure():
    def deeper(n):
        return deeper(n + 1)

    assert run_forked(lambda: deeper(0), 20).failure.kind == "RecursionError"


def test_forked_calls_may_be_nested():
    assert run_forked(lambda: run_forked(lambda: 5, 1).result() + 1, 5).result() == 6


def test_a_thread_takes_over_where_no_process_can_be_forked(monkeypatch):
    monkeypatch.setattr(limits, "can_fork", lambda: False)

    def talks():
        print("hello")
        return os.getpid()

    def loops_after_hello():
        print("hello")
        while True:
            pass

    outcome = run_forked(talks, 5)
    assert outcome.result() == os.getpid()
    assert outcome.printed == "hello\n"
    assert run_forked(lambda: 1 / 0, 5).failure.kind == "ZeroDivisionError"
    with pytest.raises(TimeLimitExceeded) as caught:
        run_forked(loops_after_hello, 0.2)
    assert caught.value.printed == "hello\n"


def test_no_warning_of_the_fork_reaches_the_reader():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_forked(lambda: 1, 5).result() == 1


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_the_limit_of_a_forked_function_must_be_positive(seconds):
    with pytest.raises(ValueError, match="seconds must be positive"):
        run_forked(lambda: 1, seconds)


@pytest.mark.parametrize("memory", [0, -1])
def test_the_limit_of_memory_must_be_positive(memory):
    with pytest.raises(ValueError, match="memory must be positive"):
        run_forked(lambda: 1, 1, memory=memory)


@pytest.mark.parametrize("seconds", [1e-9, 1e20, math.inf])
def test_any_positive_limit_is_taken(seconds):
    if seconds > 1:
        assert run_forked(lambda: 1, seconds).result() == 1
    else:
        with pytest.raises(TimeLimitExceeded):
            run_forked(lambda: sum(itertools.count()), seconds)
