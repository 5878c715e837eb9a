"""Combined losses, means, priors, gradient norms and uncertainty weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import entropy, gmean, pmean
from torch import Tensor

from kexue_lab.losses import multi_task as mt

F64 = torch.float64
ONE = torch.tensor([0.2, 1.5, 4.0], dtype=F64)
sizes = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)
exponents = st.one_of(st.sampled_from([-1e-6, 0.0, 1e-9, 1.0]), st.floats(-20, 20))


def two_tasks(scale: float = 1.0, shift: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
    """Losses of a linear two-task model, and its trunk and heads."""
    rng = default_rng(3)
    x, y, trunk, heads = (
        torch.tensor(rng.normal(size=shape)) for shape in ((30, 4), (30, 2), (4, 3), (3, 2))
    )
    trunk.requires_grad_()
    heads.requires_grad_()
    errors = (x @ trunk @ heads - y).square().mean(0)
    return [errors[0], scale * errors[1] + shift], [trunk, heads]


# Means


@given(losses=sizes, gamma=exponents)
@settings(deadline=None)
def test_means_against_scipy(losses: list[float], gamma: float) -> None:
    found = float(mt.generalized_mean(torch.tensor(losses, dtype=F64), gamma))
    exact = gmean(losses) if abs(gamma) < 1e-8 else None
    if exact is None and abs(gamma) > 1e-2:
        exact = pmean(losses, gamma)
    if exact is not None:
        assert found == pytest.approx(exact, rel=1e-6)
    assert min(losses) * (1 - 1e-12) <= found <= max(losses) * (1 + 1e-12)


@given(losses=sizes, low=exponents, high=exponents)
@settings(deadline=None)
def test_means_grow_with_the_exponent(losses: list[float], low: float, high: float) -> None:
    values = torch.tensor(losses, dtype=F64)
    low, high = sorted((low, high))
    lower, upper = (float(mt.generalized_mean(values, g)) for g in (low, high))
    assert lower <= upper * (1 + 1e-9)


@pytest.mark.parametrize(
    ("gamma", "mean", "slope"),
    [
        (-2.0, 0.3429504754, 0.2484098137),
        (-1.0, 0.5070422535, 0.5766654107),
        (0.0, 1.0626585692, 0.7775706700),
        (0.5, 1.4981421092, 0.5801358460),
        (1.0, 1.9, 0.3812141005),
        (2.0, 2.4691429012, 0.1776059753),
    ],
)
def test_known_means_and_their_growth(gamma: float, mean: float, slope: float) -> None:
    assert float(mt.generalized_mean(ONE, gamma)) == pytest.approx(mean, abs=1e-9)
    h = 1e-4
    ends = [math.log(float(mt.generalized_mean(ONE, gamma + s * h))) for s in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, abs=1e-6)


def test_the_growth_is_a_relative_entropy() -> None:
    for gamma in (-3.0, 0.3, 2.0):
        w = ONE.numpy() ** gamma
        expected = entropy(w / w.sum(), np.full(3, 1 / 3)) / gamma**2
        h = 1e-5
        ends = [math.log(float(mt.generalized_mean(ONE, gamma + s * h))) for s in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(expected, abs=1e-6)


def test_the_ends_of_the_means() -> None:
    assert float(mt.generalized_mean(ONE, math.inf)) == 4
    assert float(mt.generalized_mean(ONE, -math.inf)) == 0.2
    assert float(mt.generalized_mean(ONE, 1e308)) == pytest.approx(4)
    assert float(mt.generalized_mean(ONE, -1e308)) == pytest.approx(0.2)
    assert float(mt.generalized_mean(torch.zeros(3), 2.0)) == 0
    far = torch.tensor([1e-300, 1e300], dtype=F64)
    assert float(mt.generalized_mean(far, 0.0)) == pytest.approx(1)
    assert float(mt.generalized_mean(far, -5.0)) == pytest.approx(1e-300 * 2**0.2)


def test_weighted_means_count_copies() -> None:
    copies = torch.tensor([0.2, 1.5, 1.5, 4.0], dtype=F64)
    for gamma in (-2.0, 0.0, 0.7, 1.0, 3.0, math.inf):
        weighted = mt.generalized_mean(ONE, gamma, weights=[1, 2, 1])
        torch.testing.assert_close(weighted, mt.generalized_mean(copies, gamma))
        left_out = mt.generalized_mean(ONE, gamma, weights=[1, 0, 1])
        torch.testing.assert_close(left_out, mt.generalized_mean(ONE[[0, 2]], gamma))


@pytest.mark.parametrize("gamma", [-3.0, -1e-6, 0.0, 1e-6, 0.5, 1.0, 2.5])
def test_gradcheck(gamma: float) -> None:
    leaf = ONE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: mt.generalized_mean(v, gamma), leaf)
    assert torch.autograd.gradcheck(lambda v: mt.combine_losses(v, "geometric"), leaf)


# Combined losses


def test_combined_losses() -> None:
    total = mt.combine_losses(ONE, "inverse", reference=[0.1, 3.0, 4.0], weights=[1, 2, 3])
    assert float(total) == pytest.approx(2 + 1 + 3)
    assert float(mt.combine_losses(ONE)) == pytest.approx(5.7)
    logs = mt.combine_losses(ONE, "geometric", weights=[1, 0, 2])
    assert float(logs) == pytest.approx(math.log(0.2) + 2 * math.log(4))
    power = mt.combine_losses(ONE, "power", gamma=0.5)
    assert float(power) == float(mt.generalized_mean(ONE, 0.5))


def test_the_weights_of_the_geometric_mean() -> None:
    leaf = ONE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(mt.combine_losses(leaf, "geometric"), leaf)
    torch.testing.assert_close(slope, 1 / ONE)
    share = slope / slope.sum()
    expected = torch.tensor([0.84507, 0.11268, 0.04225], dtype=F64)
    torch.testing.assert_close(share, expected, atol=1e-5, rtol=0)


def directions(method: str, scale: float, shift: float) -> Tensor:
    losses, parameters = two_tasks(scale, shift)
    if method == "gradient":
        loss = mt.combine_losses(losses, weights=mt.grad_norm_weights(losses, parameters[:1]))
    elif method == "inverse":
        loss = mt.combine_losses(losses, "inverse", reference=[float(v.detach()) for v in losses])
    elif method == "uncertainty":
        weigh = mt.UncertaintyWeights(2, ["regression", "classification"])
        weigh.s.data = weigh.optimal(losses).float()
        loss = weigh(losses)
    else:
        loss = mt.combine_losses(losses, method)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(loss, parameters[0])
    return slope / slope.norm()


@pytest.mark.parametrize(
    ("method", "scale", "shift"),
    [
        ("sum", False, True),
        ("inverse", True, False),
        ("geometric", True, False),
        ("gradient", True, True),
        ("uncertainty", True, False),
    ],
)
def test_which_directions_stay(method: str, scale: bool, shift: bool) -> None:
    plain = directions(method, 1.0, 0.0)
    for kept, other in (
        (scale, directions(method, 1e3, 0.0)),
        (shift, directions(method, 1.0, 10.0)),
    ):
        apart = float((other - plain).norm())
        assert apart < 1e-6 if kept else apart > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_agrees(dtype: torch.dtype) -> None:
    losses = list(ONE.to(dtype))
    for method, extra in (("sum", {}), ("geometric", {}), ("power", {"gamma": -1.5})):
        value = mt.combine_losses(losses, method, **extra)  # type: ignore[arg-type]
        assert value.dtype == dtype
        exact = mt.combine_losses([v.double() for v in losses], method, **extra)  # type: ignore[arg-type]
        torch.testing.assert_close(value.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_the_bifurcation() -> None:
    for a, minima in ((0.1, (0.1127016654, 0.8872983346)), (0.25, (0.5,)), (0.4, (0.5,))):
        grid = torch.linspace(-0.5, 1.5, 20001, dtype=F64)
        height = ((grid**2 + a).log() + ((grid - 1) ** 2 + a).log()).numpy()
        inner = (height[1:-1] < height[:-2]) & (height[1:-1] < height[2:])
        np.testing.assert_allclose(grid[1:-1].numpy()[inner], minima, atol=1e-4)
    losses = [torch.tensor(v, dtype=F64) for v in (0.1127016654**2 + 0.1, 0.8872983346**2 + 0.1)]
    assert float(mt.combine_losses(losses, "geometric")) == pytest.approx(math.log(0.1), abs=1e-9)


# Prior losses


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8))
def test_prior_of_classes_against_scipy(masses: list[float]) -> None:
    f = np.array(masses) / sum(masses)
    found = mt.prior_loss_classification(f)
    assert found == pytest.approx(entropy(f), abs=1e-12)
    assert found <= math.log(len(f)) + 1e-12


def test_prior_of_classes_is_the_best_blind_guess() -> None:
    f = np.array([0.5, 0.2, 0.2, 0.1])
    best = minimize(lambda u: -f @ (u - np.log(np.exp(u).sum())), np.zeros(4)).fun
    assert mt.prior_loss_classification(f) == pytest.approx(best, abs=1e-8)
    assert mt.prior_loss_classification(f) == pytest.approx(1.2206072646, abs=1e-9)
    assert mt.prior_loss_classification([1.0, 0.0]) == 0


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12))
@settings(deadline=None)
def test_prior_of_numbers_is_the_best_blind_guess(values: list[float]) -> None:
    y = np.array(values)
    found = mt.prior_loss_regression(y), mt.prior_loss_regression(y, "l1")
    assert found[0] == pytest.approx(y.var(), abs=1e-9)
    assert found[1] == pytest.approx(min(np.abs(y - u).mean() for u in y), abs=1e-9)
    best = minimize_scalar(
        lambda u: ((y - u) ** 2).mean(), bounds=(-50, 50), method="bounded", options={"xatol": 1e-9}
    ).fun
    assert found[0] <= best + 1e-6


def test_prior_sums_over_outputs() -> None:
    y = torch.from_numpy(default_rng(0).normal(size=(50, 3)))
    for kind in ("l2", "l1"):
        alone = [mt.prior_loss_regression(y[:, k], kind) for k in range(3)]  # type: ignore[arg-type]
        assert mt.prior_loss_regression(y, kind) == pytest.approx(sum(alone))  # type: ignore[arg-type]


# Gradient norms


def test_two_known_gradients() -> None:
    x = torch.zeros(2, dtype=F64, requires_grad=True)
    losses = [3 * x[0] + 4 * x[1], -0.1 * x[1]]
    weights = mt.grad_norm_weights(losses, [x])
    torch.testing.assert_close(weights, torch.tensor([0.2, 10.0], dtype=F64))
    assert not weights.requires_grad
    (slope,) = torch.autograd.grad(mt.combine_losses(losses, weights=weights), x)
    torch.testing.assert_close(slope, torch.tensor([0.6, -0.2], dtype=F64))


def test_norms_over_several_parameters() -> None:
    losses, parameters = two_tasks()
    weights = mt.grad_norm_weights(losses, parameters, eps=0.3)
    for loss, weight in zip(losses, weights, strict=True):
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True)
        total = torch.cat([v.flatten() for v in slopes]).norm()
        assert float(weight) == pytest.approx(1 / (float(total) + 0.3))


def test_an_unused_parameter_counts_as_zero() -> None:
    x, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert mt.grad_norm_weights([3 * x[0]], [x, other]).tolist() == pytest.approx([1 / 3])
    assert mt.grad_norm_weights([3 * x[0]], [other], eps=0.5).tolist() == [2.0]


def test_norms_of_any_size() -> None:
    x = torch.ones(2, dtype=F64, requires_grad=True)
    for size in (1e-200, 1e200):
        weight = mt.grad_norm_weights([size * 3 * x[0] + size * 4 * x[1]], [x])
        assert float(weight * size) == pytest.approx(0.2)


# Uncertainty weights


def test_the_optimum_is_a_minimum_and_the_geometric_mean() -> None:
    losses = list(ONE)
    weigh = mt.UncertaintyWeights(3, ["regression", "classification", "regression"])
    weigh.double().s.data = weigh.optimal(losses)
    least = float(weigh(losses).detach())
    (slope,) = torch.autograd.grad(weigh(losses), weigh.s)
    torch.testing.assert_close(slope, torch.zeros(3, dtype=F64), atol=1e-12, rtol=0)
    best = minimize(
        lambda s: sum(
            k * np.exp(-v) * loss + v / 2
            for k, v, loss in zip((0.5, 1, 0.5), s, ONE.numpy(), strict=True)
        ),
        np.zeros(3),
    ).fun
    assert least == pytest.approx(best, abs=1e-8)
    expected = float(mt.combine_losses(losses, "geometric")) / 2 + 1.5 + math.log(2) / 2
    assert least == pytest.approx(expected)
    leaves = [v.clone().requires_grad_() for v in ONE]
    slopes = torch.autograd.grad(weigh(leaves), leaves)
    torch.testing.assert_close(torch.stack(slopes), 1 / (2 * ONE))


# Bad input

GOOD = [torch.tensor(1.0), torch.tensor(2.0)]


@pytest.mark.parametrize(
    ("losses", "error", "match"),
    [
        ([], ValueError, "losses must hold"),
        ([torch.tensor(1)], TypeError, r"losses\[0\]"),
        ([1.0, 2.0], TypeError, r"losses\[0\]"),
        ([torch.tensor(1.0), torch.tensor(1.0).double()], TypeError, "dtype"),
        ([torch.ones(2)], ValueError, "scalar"),
        ([torch.tensor(math.nan)], ValueError, "losses must be finite"),
    ],
)
def test_bad_losses(losses, error, match) -> None:  # type: ignore[no-untyped-def]
    weigh = mt.UncertaintyWeights(max(len(losses), 1), ["regression"] * max(len(losses), 1))
    for function in (
        mt.combine_losses,
        lambda v: mt.generalized_mean(v, 2.0),
        lambda v: mt.grad_norm_weights(v, [torch.ones(1)]),
        weigh,
        weigh.optimal,
    ):
        with pytest.raises(error, match=match):
            function(losses)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"method": "product"}, "method must be one of"),
        ({"method": "inverse"}, "reference must be given"),
        ({"reference": [1, 1]}, "reference must be given"),
        ({"method": "power"}, "gamma must be given"),
        ({"gamma": 1.0}, "gamma must be given"),
        ({"method": "power", "gamma": math.nan}, "gamma must be a number"),
        ({"method": "inverse", "reference": [1, 0]}, "reference must be positive"),
        ({"method": "inverse", "reference": [1]}, "reference must be 2 numbers"),
        ({"method": "inverse", "reference": [1, math.inf]}, "reference must be finite"),
        ({"weights": [1, 2, 3]}, "weights must be 2 numbers"),
        ({"weights": [1, -1]}, "weights must be non-negative"),
        ({"weights": [0, 0]}, "weights must be non-negative and not all 0"),
    ],
)
def test_bad_arguments(arguments, match) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=match):
        mt.combine_losses(GOOD, **arguments)


def test_losses_without_a_logarithm() -> None:
    for value in (0.0, -1.0):
        bad = [torch.tensor(1.0), torch.tensor(value)]
        with pytest.raises(ValueError, match="losses must be positive"):
            mt.combine_losses(bad, "geometric")
        with pytest.raises(ValueError, match="losses must be positive"):
            mt.generalized_mean(bad, 0.5)
        with pytest.raises(ValueError, match="losses must be positive"):
            mt.UncertaintyWeights(2, ["regression"] * 2).optimal(bad)
    with pytest.raises(ValueError, match="losses must be non-negative"):
        mt.generalized_mean([torch.tensor(-1.0)], 2.0)
    assert float(mt.generalized_mean([torch.tensor(-1.0)], 1.0)) == -1


def test_other_bad_input() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="gradients must not be 0"):
        mt.grad_norm_weights([(x * 0).sum()], [x])
    with pytest.raises(ValueError, match="without a graph"):
        mt.grad_norm_weights(GOOD, [x])
    with pytest.raises(ValueError, match="shared_params must hold"):
        mt.grad_norm_weights([x.sum()], [])
    with pytest.raises(ValueError, match="eps must be non-negative"):
        mt.grad_norm_weights([x.sum()], [x], eps=-1)
    with pytest.raises(ValueError, match="freq must sum to 1"):
        mt.prior_loss_classification([0.5, 0.6])
    with pytest.raises(ValueError, match="freq must have shape"):
        mt.prior_loss_classification([[1.0]])
    with pytest.raises(TypeError, match="freq"):
        mt.prior_loss_classification([1, 0])
    with pytest.raises(ValueError, match="kind must be one of"):
        mt.prior_loss_regression(torch.ones(2), "huber")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="y must have shape"):
        mt.prior_loss_regression(torch.ones(0))
    with pytest.raises(ValueError, match="the prior loss must fit"):
        mt.prior_loss_regression(torch.tensor([1e300, -1e300], dtype=F64))
    with pytest.raises(ValueError, match="kinds must have length 2"):
        mt.UncertaintyWeights(2, ["regression"])
    with pytest.raises(ValueError, match="kinds must be one of"):
        mt.UncertaintyWeights(1, ["ranking"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="n_tasks must be at least 1"):
        mt.UncertaintyWeights(0, [])
    with pytest.raises(ValueError, match="losses must be 1"):
        mt.UncertaintyWeights(1, ["regression"])(GOOD)
    half = torch.tensor(6e4, dtype=torch.float16)
    with pytest.raises(ValueError, match="the combined loss must fit"):
        mt.combine_losses([half, half])
