"""Write down what a notebook's run has shown, for the tests and for pages without a kernel."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kexue_lab.explore import measure_explorers, save_frames
from kexue_lab.ledger import Claim


def reference_ms(rounds: int = 5) -> float:
    """Time a fixed load, in milliseconds of processor time: the unit in which speeds compare.

    It sorts, multiplies and loops; a machine that is twice as slow takes twice as long.
    """
    times = []
    for _ in range(rounds):
        start = time.process_time()
        matrix = np.random.default_rng(0).standard_normal((200, 200))
        for _ in range(8):
            matrix = np.sort(matrix @ matrix, axis=0)
            matrix /= abs(matrix).max()
        sum(i * i for i in range(100_000))
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def write_report(article: str, claims: Sequence[Claim], directory: Path) -> None:
    """Write `<article>.json` and, in a folder of that name, the frames of the explorers.

    The file holds the claims, the processor time so far and what the explorers measure.

    Args:
        article: the article's name, such as "mathematics/em".
        claims: the entries of its ledger.
        directory: where reports lie; it is made if need be.
    """
    cpu_seconds = time.process_time()
    frames = directory / article
    target = directory / f"{article}.json"
    frames.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "article": article,
        "claims": [asdict(claim) for claim in claims],
        "cpu_seconds": round(cpu_seconds, 2),
        "reference_ms": round(reference_ms(), 2),
        "explorers": measure_explorers(),
    }
    # Another run of the same notebook may be writing: finish apart, then change places.
    fresh = directory / f"{article}.{os.getpid()}"
    save_frames(fresh)
    fresh.mkdir(exist_ok=True)  # without explorers there are no frames
    shutil.rmtree(frames, ignore_errors=True)
    fresh.replace(frames)
    target.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf8")
