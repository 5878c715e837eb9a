"""How a peer is timed beside a benchmark."""

import time
from collections.abc import Callable


def fastest(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of so many rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
