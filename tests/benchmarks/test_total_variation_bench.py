"""TaiLr's losses forward and backward, against their naive form and torch's cross entropy.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_total_variation_bench.py --benchmark-only
-s`. The naive form takes the softmax, picks the label's probability and writes the formula down,
without a check and without care for small probabilities. Float32, one thread, γ = 0.1 (GCE: s =
0.7); values and gradients agree beforehand. The ratio is the peer's time over ours, from the
fastest round of each. No speed is asserted.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor

from kexue_lab.losses.total_variation import (
    generalized_cross_entropy,
    tailr_loss,
    tailr_potential_loss,
)

ROUNDS, GAMMA, EXPONENT = 30, 0.1, 0.7
Loss = Callable[[Tensor, Tensor], Tensor]


def probability(logits: Tensor, target: Tensor) -> Tensor:
    return logits.softmax(-1).gather(1, target[:, None])[:, 0]


def naive_weighted(logits: Tensor, target: Tensor) -> Tensor:
    p = probability(logits, target)
    w = (p / (GAMMA + (1 - GAMMA) * p)).detach()
    return -(w * p.log()).mean()


def naive_potential(logits: Tensor, target: Tensor) -> Tensor:
    return -(GAMMA + (1 - GAMMA) * probability(logits, target)).log().mean() / (1 - GAMMA)


def naive_generalized(logits: Tensor, target: Tensor) -> Tensor:
    return (1 - probability(logits, target) ** EXPONENT).mean() / EXPONENT


PAIRS: dict[str, tuple[Loss, Loss]] = {
    "weighted": (lambda mu, y: tailr_loss(mu, y, GAMMA), naive_weighted),
    "potential": (lambda mu, y: tailr_potential_loss(mu, y, GAMMA), naive_potential),
    "generalized": (lambda mu, y: generalized_cross_entropy(mu, y, EXPONENT), naive_generalized),
}


@pytest.mark.parametrize(("batch", "classes"), [(64, 10), (512, 100), (512, 10_000)])
@pytest.mark.parametrize("name", PAIRS)
def test_forward_and_backward(
    benchmark: BenchmarkFixture,
    name: str,
    batch: int,
    classes: int,
    request: pytest.FixtureRequest,
) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, generator=g).requires_grad_()
    target = torch.randint(classes, (batch,), generator=g)

    def both(loss: Loss) -> tuple[Tensor, Tensor]:
        value = loss(logits, target)
        return value.detach(), torch.autograd.grad(value, logits)[0]

    ours, naive = PAIRS[name]
    torch.testing.assert_close(both(ours), both(naive), rtol=1e-3, atol=1e-6)
    own = fastest(lambda: both(ours), ROUNDS)
    ratios = {
        "naive": fastest(lambda: both(naive), ROUNDS) / own,
        "cross entropy": fastest(lambda: both(F.cross_entropy), ROUNDS) / own,
    }
    benchmark.pedantic(lambda: both(ours), rounds=ROUNDS)
    benchmark.extra_info.update(ratios)
    print(
        f"\n{request.node.callspec.id}: ms {1e3 * own:.3f}, "
        + ", ".join(f"{peer} ratio {ratio:.2f}" for peer, ratio in ratios.items())
    )
