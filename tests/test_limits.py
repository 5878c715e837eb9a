"""The time limit, whatever the function does."""

import math
import sys
import threading
import time

import pytest

from kexue_lab.limits import TimeLimitExceeded, run_limited


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
    assert time.perf_counter() - start < 2
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
