"""InfoNCE and FlatNCE, forward and backward, against their naive forms.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_flat_nce_bench.py --benchmark-only -s`. The
peers, in torch: for InfoNCE log(1 + ξ) with exponentials of differences, and torch's own cross
entropy; for FlatNCE log ξ likewise; for its published form ξ / ξ.detach(). Float32, one thread,
square batches of cosines over τ = 0.1; values and gradients agree beforehand. The ratio is the
peer's time over ours, from the fastest round of each. No speed is asserted.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor
from torch.nn.functional import cross_entropy

from kexue_lab.losses.flat_nce import flat_nce, flat_nce_stopgrad, info_nce

ROUNDS = 20
Loss = Callable[[Tensor, Tensor], Tensor]


def xi(scores: Tensor, target: Tensor) -> Tensor:
    own = scores.gather(1, target[:, None])
    return torch.exp(scores - own).scatter(1, target[:, None], 0).sum(1)


def naive_info(scores: Tensor, target: Tensor) -> Tensor:
    return torch.log(1 + xi(scores, target)).mean()


def naive_flat(scores: Tensor, target: Tensor) -> Tensor:
    return torch.log(xi(scores, target)).mean()


def naive_stopgrad(scores: Tensor, target: Tensor) -> Tensor:
    sums = xi(scores, target)
    return (sums / sums.detach()).mean()


PAIRS: dict[str, tuple[Loss, Loss]] = {
    "info_nce": (info_nce, naive_info),
    "info_nce against cross entropy": (info_nce, cross_entropy),
    "flat_nce": (flat_nce, naive_flat),
    "flat_nce_stopgrad": (flat_nce_stopgrad, naive_stopgrad),
}


@pytest.mark.parametrize("batch", [16, 256, 2048])
@pytest.mark.parametrize("name", PAIRS)
def test_forward_and_backward(benchmark: BenchmarkFixture, name: str, batch: int) -> None:
    g = torch.Generator().manual_seed(0)
    scores = (10 * (2 * torch.rand(batch, batch, generator=g) - 1)).requires_grad_()
    target = torch.arange(batch)
    ours, peer = PAIRS[name]

    def both(loss: Loss) -> tuple[Tensor, Tensor]:
        value = loss(scores, target)
        return value.detach(), torch.autograd.grad(value, scores)[0]

    torch.testing.assert_close(both(ours), both(peer), rtol=1e-3, atol=1e-5)
    own, other = (fastest(lambda loss=loss: both(loss), ROUNDS) for loss in (ours, peer))
    benchmark.pedantic(lambda: both(ours), rounds=ROUNDS)
    benchmark.extra_info.update(ratio=other / own, peer_ms=1e3 * other)
    print(f"\n{name}, B = {batch}: ms naive {1e3 * other:.3f}, ours {1e3 * own:.3f}")
    print(f"  (ratio {other / own:.2f})")
