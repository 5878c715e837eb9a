"""Exact and entropic transport, against POT, linear programming and their own laws."""

import math
import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from small_texts import (
    F64,
    UNIFORM_X,
    UNIFORM_Y,
    X,
    Y,
    by_linprog,
    central_difference,
    random_text,
    seeds,
    sizes,
    tensor,
)
from torch import Tensor

from kexue_lab.text import word_movers as wm

EUCLIDEAN = tensor(cdist(X, Y))


def test_two_by_two() -> None:
    value, plan = wm.emd([0.7, 0.3], [0.4, 0.6], [[1.0, 2.0], [4.0, 3.0]], return_plan=True)
    assert value.item() == pytest.approx(1.9, abs=1e-6)
    torch.testing.assert_close(plan, torch.tensor([[0.4, 0.3], [0, 0.3]]))
    assert value.dtype == plan.dtype == torch.float32


@given(
    *(st.floats(0, 1) for _ in range(2)),
    st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=4, max_size=4),
)
@settings(deadline=None, max_examples=60)
def test_two_by_two_is_the_better_endpoint(p: float, q: float, entries: list[float]) -> None:
    def cost_at(t: float) -> float:
        return float(np.dot([t, p - t, q - t, 1 - p - q + t], entries))

    best = min(cost_at(max(0.0, p + q - 1)), cost_at(min(p, q)))
    cost = tensor(entries).reshape(2, 2)
    assert wm.emd(tensor([p, 1 - p]), tensor([q, 1 - q]), cost).item() == pytest.approx(
        best, abs=1e-12
    )


@given(seeds, sizes, sizes)
@settings(deadline=None, max_examples=40)
def test_plan_is_feasible_and_sparse(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = tensor(rng.dirichlet(np.ones(m))), tensor(rng.dirichlet(np.ones(n)))
    cost = tensor(rng.uniform(size=(m, n)))
    value, plan = wm.emd(p, q, cost, return_plan=True)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), p, rtol=0, atol=1e-12)
    torch.testing.assert_close(plan.sum(0), q, rtol=0, atol=1e-12)
    assert (plan > 0).sum() <= m + n - 1
    assert value.item() == pytest.approx((plan * cost).sum().item(), abs=1e-12)
    assert value.item() == pytest.approx(by_linprog(*(t.numpy() for t in (p, q, cost))), abs=1e-9)


def test_negative_costs() -> None:
    shifted = wm.emd(UNIFORM_X, UNIFORM_Y, EUCLIDEAN - 5).item()
    assert shifted == pytest.approx(wm.emd(UNIFORM_X, UNIFORM_Y, EUCLIDEAN).item() - 5, abs=1e-12)
    assert wm.emd(tensor([1]), tensor([1]), tensor([[-2]])).item() == -2


def rotator_problem(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p, q = x.norm(dim=1), y.norm(dim=1)
    return p / p.sum(), q / q.sum(), tensor(cdist(x, y, "cosine"))


@pytest.mark.parametrize(
    ("problem", "epsilon", "known"),
    [
        ((UNIFORM_X, UNIFORM_Y, EUCLIDEAN), 1, 0.8610980988),
        ((UNIFORM_X, UNIFORM_Y, EUCLIDEAN), 0.3, 0.5132340762),
        ((UNIFORM_X, UNIFORM_Y, EUCLIDEAN), 0.1, 0.4548509774),
        (rotator_problem(X, Y), 0.1, 0.0881808035),
    ],
)
def test_known_entropic_costs(
    problem: tuple[Tensor, Tensor, Tensor], epsilon: float, known: float
) -> None:
    value, plan = wm.sinkhorn_distance(
        *problem, epsilon, max_iter=20000, tol=1e-13, return_plan=True
    )
    p, q, cost = problem
    assert value.item() == pytest.approx(known, abs=6e-11)
    torch.testing.assert_close(plan.sum(1), p, rtol=0, atol=1e-13)
    torch.testing.assert_close(plan.sum(0), q, rtol=0, atol=1e-13)
    # The optimality condition: ε log γ + D is a sum of potentials f_i + g_j.
    potentials = epsilon * plan.log() + cost
    mixed = potentials[1:, 1:] - potentials[:1, 1:] - potentials[1:, :1] + potentials[0, 0]
    torch.testing.assert_close(mixed, torch.zeros_like(mixed), rtol=0, atol=1e-12)


def test_entropic_plan_against_pot() -> None:
    _, plan = wm.sinkhorn_distance(
        UNIFORM_X, UNIFORM_Y, EUCLIDEAN, 0.3, max_iter=5000, tol=1e-13, return_plan=True
    )
    theirs = ot.sinkhorn(
        UNIFORM_X, UNIFORM_Y, EUCLIDEAN, 0.3, method="sinkhorn_log", stopThr=1e-13, numItermax=5000
    )
    torch.testing.assert_close(plan, theirs, rtol=0, atol=1e-12)


@given(seeds, sizes, sizes, st.floats(0.2, 3))
@settings(deadline=None, max_examples=30)
def test_entropic_excess(seed: int, m: int, n: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    p, q = tensor(rng.dirichlet(np.ones(m))), tensor(rng.dirichlet(np.ones(n)))
    cost = tensor(rng.uniform(size=(m, n)))
    value = wm.sinkhorn_distance(p, q, cost, epsilon, max_iter=5000)
    entropy = min(torch.special.entr(t).sum().item() for t in (p, q))
    excess = value.item() - ot.emd2(p.numpy(), q.numpy(), cost.numpy())
    assert -1e-8 <= excess <= epsilon * entropy + 1e-8


def test_batch_and_padding() -> None:
    rng = np.random.default_rng(2)
    problems = [
        rotator_problem(random_text(rng, m), random_text(rng, n)) for m, n in ((3, 5), (6, 2))
    ]
    p, q, cost = torch.zeros(2, 6, dtype=F64), torch.zeros(2, 5, dtype=F64), torch.ones(2, 6, 5)
    cost = cost.double() * 7
    for b, (p_b, q_b, cost_b) in enumerate(problems):
        p[b, : len(p_b)], q[b, : len(q_b)] = p_b, q_b
        cost[b, : len(p_b), : len(q_b)] = cost_b
    cost.requires_grad_()
    p.requires_grad_()
    values, plans = wm.sinkhorn_distance(p, q, cost, 0.3, tol=1e-13, return_plan=True)
    alone = [wm.sinkhorn_distance(*problem, 0.3, tol=1e-13).item() for problem in problems]
    assert values.tolist() == pytest.approx(alone, abs=1e-11)
    assert (plans[0, 3:] == 0).all()
    assert (plans[1, :, 2:] == 0).all()
    for gradient in torch.autograd.grad(values.sum(), (p, cost)):
        assert gradient.isfinite().all()


def test_gradient_of_the_entropic_cost() -> None:
    def distance(cost: Tensor) -> Tensor:
        return wm.sinkhorn_distance(UNIFORM_X, UNIFORM_Y, cost, 0.3, tol=1e-13)

    cost = EUCLIDEAN.clone().requires_grad_()
    (ours,) = torch.autograd.grad(distance(cost), cost)
    expected = central_difference(distance, EUCLIDEAN, 1e-5)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-8)


def test_leading_axes_broadcast() -> None:
    costs = torch.stack([EUCLIDEAN, 2 * EUCLIDEAN])
    values = wm.sinkhorn_distance(UNIFORM_X, UNIFORM_Y, costs, 0.5)
    single = wm.sinkhorn_distance(UNIFORM_X, UNIFORM_Y, 2 * EUCLIDEAN, 0.5)
    assert values.shape == (2,)
    assert values[1].item() == pytest.approx(single.item(), abs=1e-8)


def test_float32_converges_to_its_own_rounding() -> None:
    arguments = [t.float() for t in (UNIFORM_X, UNIFORM_Y, EUCLIDEAN)]
    value = wm.sinkhorn_distance(*arguments, 0.3)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.5132340762, abs=1e-5)


def test_an_infeasible_plan_is_told() -> None:
    with pytest.warns(RuntimeWarning, match="stopped after 5 iterations"):
        value = wm.sinkhorn_distance(UNIFORM_X, UNIFORM_Y, EUCLIDEAN, 0.03, max_iter=5)
    assert value.isfinite()


def problem(**changes: object) -> dict[str, object]:
    return {"p": UNIFORM_X, "q": UNIFORM_Y, "cost": EUCLIDEAN} | changes


BAD_PROBLEMS = [
    (problem(p=2 * UNIFORM_X), ValueError, "p must sum to 1 .*got sum 2"),
    (problem(q=UNIFORM_Y + 1e-6), ValueError, "q must sum to 1"),
    (problem(p=tensor([-0.5, 0.5, 0.5, 0.5])), ValueError, "p must be non-negative, got -0.5"),
    (problem(p=torch.zeros(0, dtype=F64)), ValueError, "p must have shape"),
    (problem(q=tensor([math.nan] * 6)), ValueError, "q must be finite"),
    (problem(p=UNIFORM_X.float()), ValueError, "p must have the dtype"),
    (problem(cost=EUCLIDEAN.mT), ValueError, r"cost must have shape \(..., 4, 6\)"),
    (problem(cost=EUCLIDEAN / 0), ValueError, "cost must be finite"),
    (problem(cost=EUCLIDEAN.long()), TypeError, "cost must be floating point"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD_PROBLEMS)
def test_bad_problems(arguments: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        wm.emd(**arguments)
    with pytest.raises(error, match=match):
        wm.sinkhorn_distance(**arguments, epsilon=1.0)


@pytest.mark.parametrize("change", [{"cost": EUCLIDEAN[None]}, {"p": UNIFORM_X[None]}])
def test_emd_takes_one_problem(change: dict[str, Tensor]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must have . axes"):
        wm.emd(**problem(**change))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"epsilon": 0}, ValueError, "epsilon must be positive and finite, got 0"),
        ({"epsilon": -1.0}, ValueError, "epsilon"),
        ({"epsilon": math.nan}, ValueError, "epsilon"),
        ({"tol": 0.0}, ValueError, "tol"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"max_iter": 2.5}, TypeError, "max_iter"),
        (
            {"p": UNIFORM_X.expand(2, -1), "q": UNIFORM_Y.expand(3, -1)},
            ValueError,
            "p, q and cost must have leading axes that broadcast",
        ),
    ],
)
def test_bad_sinkhorn_options(
    change: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        wm.sinkhorn_distance(**(problem(epsilon=1.0) | change))


def test_random_problems_keep_their_margin() -> None:
    """Masses that differ from 1 by rounding in float32 are balanced, not refused."""
    rng = np.random.default_rng(8)
    p = torch.tensor(rng.dirichlet(np.ones(50)), dtype=torch.float32)
    q = torch.tensor(rng.dirichlet(np.ones(40)), dtype=torch.float32)
    cost = torch.tensor(rng.uniform(size=(50, 40)), dtype=torch.float32)
    value, plan = wm.emd(p, q, cost, return_plan=True)
    torch.testing.assert_close(plan.sum(0), q, rtol=0, atol=1e-6)
    expected = by_linprog(*((t.double() / t.double().sum()).numpy() for t in (p, q)), cost.numpy())
    assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("forbidden", [1e6, 1e12, 1e16, 1e200])
def test_costs_that_forbid_do_not_drown_the_others(forbidden: float) -> None:
    third = [1 / 3] * 3
    cost = tensor([[forbidden, 6, 2], [4, forbidden, 2], [4, forbidden, 0]])
    value, plan = wm.emd(third, third, cost, return_plan=True)
    assert value.item() == pytest.approx(10 / 3, rel=1e-12)
    assert (plan * cost).sum().item() == pytest.approx(10 / 3, rel=1e-12)


def test_a_forced_cost_counts_in_full() -> None:
    assert wm.emd([1.0], [0.5, 0.5], tensor([[1e16, 2]])).item() == pytest.approx(5e15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-6])
def test_sinkhorn_never_falls_below_the_exact_distance(dtype: torch.dtype, epsilon: float) -> None:
    cost = torch.tensor([[0, 1], [1, 0]], dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = wm.sinkhorn_distance([0.5, 0.5], [0.25, 0.75], cost, epsilon)
    assert value.item() >= 0.25 * (1 - 1e-6)


def test_sinkhorn_refuses_an_epsilon_that_rounding_would_decide() -> None:
    cost = tensor([[1, 3], [2, 5]])
    with pytest.raises(ValueError, match=r"epsilon must be larger .* got 1e-12"):
        wm.sinkhorn_distance([0.5, 0.5], [0.5, 0.5], cost, 1e-12, max_iter=2)
