"""Soft top-k against what one would take instead, at equal error.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_soft_top_k_bench.py --benchmark-only -s`.

The sigmoid's threshold is an entropic transport plan; the peer is POT's `ot.sinkhorn` on one row,
stopped at the error that ours has been given: 1e-9. GradTopK and the threshold operator, forward
and backward over 64 rows, are compared with naive forms in torch: the recursion that goes item by
item and is differentiated through, and 60 bisections, of which the last threshold is differentiated
by the implicit function written by hand. Values and gradients agree beforehand. The ratio is the
peer's time over ours, from the fastest round of each. No speed is asserted.
"""

from collections.abc import Callable

import numpy as np
import ot
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor

from kexue_lab.losses.soft_top_k import grad_top_k, log_elementary_symmetric, threshold_top_k

ROUNDS = 5


@pytest.mark.parametrize("n", [64, 1024])
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_against_sinkhorn(
    benchmark: BenchmarkFixture, n: int, tau: float, request: pytest.FixtureRequest
) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = n // 8
    cost = np.stack([-x.numpy(), np.zeros(n)], -1)

    def own() -> Tensor:
        return threshold_top_k(x / tau, k)

    def peer(stop: float) -> np.ndarray:
        rooms = [k / n, 1 - k / n]
        plan = ot.sinkhorn(np.full(n, 1 / n), rooms, cost, tau, stopThr=stop, numItermax=100_000)
        return n * plan[:, 0]

    stop = next(
        s for s in np.geomspace(1e-6, 1e-15, 19) if np.abs(peer(s) - own().numpy()).max() < 1e-9
    )
    theirs = fastest(lambda: peer(stop), ROUNDS)
    ours = fastest(own, ROUNDS)
    benchmark.pedantic(own, rounds=ROUNDS)
    benchmark.extra_info.update(ratio=theirs / ours, pot_ms=1e3 * theirs)
    print(
        f"\n{request.node.callspec.id}: ms POT {1e3 * theirs:.3f}, ours {1e3 * ours:.3f} "
        f"(ratio {theirs / ours:.1f})"
    )


def by_recursion(x: Tensor, k: int) -> Tensor:
    """The gradient of log e_k, by differentiating through the table twice."""
    return torch.autograd.grad(log_elementary_symmetric(x, k)[..., -1].sum(), x, create_graph=True)[
        0
    ]


def by_bisection(x: Tensor, k: int) -> Tensor:
    with torch.no_grad():
        odds = np.log(k / (x.shape[-1] - k))
        low, high = (v(-1, keepdim=True) - odds for v in (x.amin, x.amax))
        for _ in range(60):
            at = (low + high) / 2
            more = torch.sigmoid(x - at).sum(-1, keepdim=True) > k
            low, high = torch.where(more, at, low), torch.where(more, high, at)
        s = torch.sigmoid(x - at) * torch.sigmoid(at - x)
        g = s / s.sum(-1, keepdim=True)
    moving = at + (g * (x - x.detach())).sum(-1, keepdim=True)
    return torch.sigmoid(x - moving)


@pytest.mark.parametrize("n", [64, 512])
@pytest.mark.parametrize(
    ("own", "naive"),
    [(grad_top_k, by_recursion), (threshold_top_k, by_bisection)],
    ids=["grad", "threshold"],
)
def test_forward_and_backward(
    benchmark: BenchmarkFixture,
    own: Callable[[Tensor, int], Tensor],
    naive: Callable[[Tensor, int], Tensor],
    n: int,
    request: pytest.FixtureRequest,
) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, n, generator=g, dtype=torch.float64).requires_grad_()
    v = torch.randn(64, n, generator=g, dtype=torch.float64)

    def both(soft: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
        p = soft(x, 8)
        return p.detach(), torch.autograd.grad((p * v).sum(), x)[0]

    torch.testing.assert_close(both(own), both(naive), rtol=1e-8, atol=1e-10)
    theirs = fastest(lambda: both(naive), ROUNDS)
    ours = fastest(lambda: both(own), ROUNDS)
    benchmark.pedantic(lambda: both(own), rounds=ROUNDS)
    benchmark.extra_info.update(ratio=theirs / ours, naive_ms=1e3 * theirs)
    print(
        f"\n{request.node.callspec.id}: ms naive {1e3 * theirs:.3f}, ours {1e3 * ours:.3f} "
        f"(ratio {theirs / ours:.1f})"
    )
