"""CoSENT forward and backward: over all pairs, and sorted, against the published form.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_cosent_bench.py --benchmark-only -s`. The
peer is the loss as github.com/bojone/CoSENT writes it, in torch: all differences, minus 10^12 where
no comparison is wanted, one logsumexp. Float32, one thread, five grades, scale 20; values and
gradients agree beforehand. The ratio is the peer's time over ours, from the fastest round of each.
No speed is asserted.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor

from kexue_lab.losses.cosent import cosent_loss, cosent_loss_sorted

ROUNDS, SCALE = 20, 20.0


def published(scores: Tensor, labels: Tensor) -> Tensor:
    differences = SCALE * (scores[None, :] - scores[:, None])
    differences = differences - (labels[:, None] <= labels[None, :]).float() * 1e12
    return torch.logsumexp(torch.cat([torch.zeros(1), differences.flatten()]), 0)


@pytest.mark.parametrize("batch", [64, 512, 4096])
def test_forward_and_backward(
    benchmark: BenchmarkFixture, batch: int, request: pytest.FixtureRequest
) -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(batch, generator=g).requires_grad_()
    labels = torch.randint(1, 6, (batch,), generator=g)

    def both(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        value = loss(scores, labels)
        return value.detach(), torch.autograd.grad(value, scores)[0]

    value, slope = both(published)
    times = {}
    for name, loss in (("all pairs", cosent_loss), ("sorted", cosent_loss_sorted)):
        torch.testing.assert_close(both(loss), (value, slope), rtol=1e-3, atol=1e-4)
        times[name] = fastest(lambda loss=loss: both(loss), ROUNDS)
    peer = fastest(lambda: both(published), ROUNDS)
    benchmark.pedantic(lambda: both(cosent_loss_sorted), rounds=ROUNDS)
    ratios = {name: peer / own for name, own in times.items()}
    benchmark.extra_info.update(ratios, published_ms=1e3 * peer)
    print(
        f"\n{request.node.callspec.id}: ms published {1e3 * peer:.3f}, "
        + ", ".join(
            f"{name} {1e3 * own:.3f} (ratio {ratios[name]:.1f})" for name, own in times.items()
        )
    )
