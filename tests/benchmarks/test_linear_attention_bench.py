"""Causal linear attention in chunks against its recurrence and scaled_dot_product_attention.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_linear_attention_bench.py --benchmark-only
-s`. float32, d = 64, 4 heads, one thread. A ratio is the peer's time over ours, from the fastest
round of each; the recurrence is `linear_attention_step`, one token after another. Softmax attention
computes another function: only its time is compared. Memory is what the process grew by at its peak
(one fresh process a case), outputs included, inputs not.
"""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor

from kexue_lab.attention.linear_attention import (
    elu_feature_map,
    linear_attention,
    linear_attention_step,
)

HEADS, D = 4, 64
PEAK = """
import re, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from kexue_lab.attention.linear_attention import linear_attention

torch.set_num_threads(1)
method, n = sys.argv[1], int(sys.argv[2])
attend = {
    "chunks": lambda q, k, v: linear_attention(q, k, v, is_causal=True),
    "SDPA": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
}[method]


def peak_mib():  # of this process; getrusage would inherit the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


attend(*torch.randn(3, 1, 1, 128, 64))  # what a first call loads is not counted
inputs = torch.randn(3, 1, 4, n, 64)
before = peak_mib()
attend(*inputs)
print(peak_mib() - before)
"""


def recurrence(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    state, outputs = None, []
    phi_q, phi_k = elu_feature_map(q), elu_feature_map(k)
    for token in zip(phi_q.unbind(-2), phi_k.unbind(-2), v.unbind(-2), strict=True):
        out, state = linear_attention_step(*token, state)
        outputs.append(out)
    return torch.stack(outputs, -2)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest over all tokens of |actual − expected| / |expected|."""
    error = torch.linalg.vector_norm(actual - expected, dim=-1)
    return (error / torch.linalg.vector_norm(expected, dim=-1)).max().item()


@pytest.mark.parametrize("n", [1024, 2048, 4096, 8192, 16384])
def test_time_against_recurrence_and_softmax(benchmark: BenchmarkFixture, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, n, D, generator=generator)

    def ours() -> Tensor:
        return linear_attention(q, k, v, is_causal=True)

    error = relative_error(ours(), recurrence(q, k, v))
    exact = relative_error(ours().double(), recurrence(q.double(), k.double(), v.double()))
    assert max(error, exact) < 1e-4
    softmax = fastest(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), 3)
    steps = fastest(lambda: recurrence(q, k, v), 1)
    # Measured as the peers are; the fixture's own figures go to pytest-benchmark's table.
    own = fastest(ours, 10)
    benchmark.pedantic(ours, rounds=10)
    benchmark.extra_info.update(
        ours_ms=1e3 * own,
        ratio_sdpa=softmax / own,
        ratio_recurrence=steps / own,
        relative_error=error,
    )
    print(
        f"\nn = {n}: chunks {1e3 * own:.1f} ms, SDPA {1e3 * softmax:.1f} ms, recurrence "
        f"{1e3 * steps:.1f} ms; ratio to SDPA {softmax / own:.1f}, to the recurrence "
        f"{steps / own:.1f}; error to the recurrence in float32 {error:.0e}, in float64 {exact:.0e}"
    )
    assert steps > own
    if n >= 4096:
        assert softmax > own


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_peak_memory(benchmark: BenchmarkFixture) -> None:
    def peak(method: str, n: int) -> float:
        command = [sys.executable, "-c", PEAK, method, str(n)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(found)

    lengths = (4096, 8192, 16384, 32768)
    ours = benchmark.pedantic(lambda: [peak("chunks", n) for n in lengths])
    theirs = [peak("SDPA", n) for n in lengths[:-1]]
    benchmark.extra_info.update(lengths=lengths, ours_mib=ours, sdpa_mib=theirs)
    for name, peaks in (("chunks", ours), ("SDPA", theirs)):
        found = ", ".join(f"{mib:.0f} at {n}" for n, mib in zip(lengths, peaks, strict=False))
        print(f"\n{name}: peak MiB {found}")
    assert ours[-1] < 1.1 * 2 * ours[-2]
