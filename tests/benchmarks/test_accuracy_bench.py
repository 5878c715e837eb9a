"""Expected accuracy by quadrature against a Monte Carlo estimate of equal error.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_accuracy_bench.py --benchmark-only -s`.
Both run on one thread on the same logits. Monte Carlo gets as many draws as make its standard error
as small as the quadrature's error, each the root mean square over the batch. The ratio is Monte
Carlo's time over ours, from the fastest round of each.
"""

import math

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor

from kexue_lab.losses.accuracy import expected_accuracy

ROUNDS, BATCH, CHUNK = 3, 32, 4096


def monte_carlo(mu: Tensor, y: Tensor, draws: int) -> Tensor:
    """The share of draws of the noise under which each label has the largest logit (float32)."""
    mu = mu.float()
    gen = torch.Generator().manual_seed(0)
    hits = torch.zeros(len(mu), dtype=torch.long)
    for start in range(0, draws, CHUNK):
        eps = torch.randn(min(CHUNK, draws - start), *mu.shape, generator=gen, dtype=mu.dtype)
        hits += ((mu + eps).argmax(-1) == y).sum(0)
    return hits / draws


@pytest.mark.parametrize(
    ("classes", "nodes"),
    [
        pytest.param(4, 4, id="C4-4-nodes"),
        pytest.param(10, 6, id="C10-6-nodes"),
        pytest.param(10, 8, id="C10-8-nodes"),
        pytest.param(100, 8, id="C100-8-nodes"),
    ],
)
def test_time_at_equal_error(
    benchmark: BenchmarkFixture, classes: int, nodes: int, request: pytest.FixtureRequest
) -> None:
    gen = torch.Generator().manual_seed(1)
    mu = torch.randn(BATCH, classes, generator=gen, dtype=torch.float64)
    y = torch.randint(classes, (BATCH,), generator=gen)
    exact = expected_accuracy(mu, y, n_nodes=200)

    def ours() -> Tensor:
        return expected_accuracy(mu, y, n_nodes=nodes)

    error = (ours() - exact).square().mean().sqrt()
    draws = math.ceil((exact * (1 - exact)).mean() / error**2)
    sampled = monte_carlo(mu, y, draws)
    ratio_of_errors = ((sampled - exact).square().mean().sqrt() / error).item()
    assert 0.5 < ratio_of_errors < 2
    peer = fastest(lambda: monte_carlo(mu, y, draws), ROUNDS)
    own = fastest(ours, ROUNDS)
    benchmark.pedantic(ours, rounds=ROUNDS)
    ratio = peer / own
    benchmark.extra_info.update(ratio=ratio, ours_ms=1e3 * own, monte_carlo_ms=1e3 * peer)
    print(
        f"\n{request.node.callspec.id}: error {error:.1e}, ms ours {1e3 * own:.3f}, "
        f"Monte Carlo with {draws} draws {1e3 * peer:.1f}, ratio {ratio:.0f}"
    )
    assert ratio >= 1
