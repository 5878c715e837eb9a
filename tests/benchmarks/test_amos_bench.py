"""A step of Amos and of the scaled step, against torch's AdamW.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_amos_bench.py --benchmark-only -s`. Eight
square matrices in float32, one thread, gradients in place; AdamW once with a loop over the tensors,
as ours has, and once with its multi-tensor kernels (`foreach`). The ratio is the peer's time over
ours, from the fastest round of each. No speed is asserted.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor

from kexue_lab.optimization.amos import Amos, ScaleAdaptive

ROUNDS, TENSORS = 30, 8
Make = Callable[[list[Tensor]], torch.optim.Optimizer]

OURS: dict[str, Make] = {
    "Amos": lambda w: Amos([{"params": w, "eta": 0.1, "reduce_dims": (0,)}], xi=0.01),
    "Amos, momentum": lambda w: Amos(
        [{"params": w, "eta": 0.1, "reduce_dims": (0,)}], xi=0.01, momentum=0.9
    ),
    "scaled": lambda w: ScaleAdaptive([{"params": w, "sigma": 0.1}], alpha0=0.01, kappa=0.001),
}
PEERS: dict[str, Make] = {
    "AdamW": lambda w: torch.optim.AdamW(w, foreach=False),
    "AdamW foreach": lambda w: torch.optim.AdamW(w, foreach=True),
}


def stepper(make: Make, side: int) -> Callable[[], object]:
    g = torch.Generator().manual_seed(0)
    w = [torch.randn(side, side, generator=g).requires_grad_() for _ in range(TENSORS)]
    for p in w:
        p.grad = torch.randn(side, side, generator=g)
    return make(w).step


@pytest.mark.parametrize("side", [32, 256, 1024])
@pytest.mark.parametrize("name", OURS)
def test_step(
    benchmark: BenchmarkFixture, name: str, side: int, request: pytest.FixtureRequest
) -> None:
    ours = stepper(OURS[name], side)
    own = fastest(ours, ROUNDS)
    ratios = {peer: fastest(stepper(make, side), ROUNDS) / own for peer, make in PEERS.items()}
    benchmark.pedantic(ours, rounds=ROUNDS)
    benchmark.extra_info.update(ratios)
    print(
        f"\n{request.node.callspec.id}: ms {1e3 * own:.3f}, "
        + ", ".join(f"{peer} ratio {ratio:.2f}" for peer, ratio in ratios.items())
    )
