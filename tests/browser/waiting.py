"""Waiting for states, with a limit that only ends what hangs."""

import time

SECONDS = 600


def wait_until(holds):
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
