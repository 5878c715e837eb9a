"""Two losses weighed by their gradients' norms, against the same by hand.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_multi_task_bench.py --benchmark-only -s`.
The peer takes the two gradients by the trunk with autograd, divides each by its norm and adds them,
without checks and in float32. A trunk of one hidden layer, batch 128; the directions agree
beforehand. The ratio is the peer's time over ours, from the fastest round of each. No speed is
asserted.
"""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor

from kexue_lab.losses.multi_task import combine_losses, grad_norm_weights

ROUNDS = 20


@pytest.mark.parametrize("hidden", [32, 256, 2048])
def test_normalised_step(
    benchmark: BenchmarkFixture, hidden: int, request: pytest.FixtureRequest
) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 64, generator=g), torch.randn(128, 2, generator=g)
    trunk = (torch.randn(64, hidden, generator=g) / 8).requires_grad_()
    heads = torch.randn(hidden, 2, generator=g) / hidden**0.5

    def losses() -> list[Tensor]:
        return list(((x @ trunk).relu() @ heads - y).square().mean(0))

    def ours() -> Tensor:
        pair = losses()
        total = combine_losses(pair, weights=grad_norm_weights(pair, [trunk]))
        return torch.autograd.grad(total, trunk)[0]

    def by_hand() -> Tensor:
        slopes = [torch.autograd.grad(v, trunk, retain_graph=True)[0] for v in losses()]
        return slopes[0] / slopes[0].norm() + slopes[1] / slopes[1].norm()

    torch.testing.assert_close(ours(), by_hand(), rtol=1e-3, atol=1e-5)
    own, peer = fastest(ours, ROUNDS), fastest(by_hand, ROUNDS)
    benchmark.pedantic(ours, rounds=ROUNDS)
    benchmark.extra_info.update(ratio=peer / own, by_hand_ms=1e3 * peer)
    name = request.node.callspec.id
    print(f"\n{name}: ms by hand {1e3 * peer:.3f}, ours {1e3 * own:.3f} (ratio {peer / own:.2f})")
