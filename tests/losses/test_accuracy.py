"""Smooth accuracy by Gaussian and Gumbel noise, and the three points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import accuracy_score, mean_absolute_error
from torch import Tensor

from kexue_lab.losses import accuracy as acc

F64 = torch.float64
MU = torch.tensor([1, 0.2, -0.5, 0.7], dtype=F64)
P = [0.46554560719, 0.16142519839, 0.05088516482, 0.32214402960]
GRADIENT = [0.388013229, -0.117167386, -0.031667904, -0.239177938]
SQRT2 = math.sqrt(2)
KINDS = ("accuracy", "cross_entropy", "hinge", "gaussian", "gumbel")
GOLDEN_SCALE = 1 / (4 * math.log((1 + math.sqrt(5)) / 2))

logit_rows = arrays(np.float64, st.tuples(st.just(1), st.integers(2, 6)), elements=st.floats(-4, 4))
scales = st.floats(0.05, 5)


def all_classes(mu: Tensor, sigma: float = 1.0, **options: object) -> Tensor:
    """The probabilities of every class of one row of logits."""
    classes = len(mu)
    return acc.expected_accuracy(mu.expand(classes, -1), torch.arange(classes), sigma, **options)


def by_quad(mu: np.ndarray, y: int, sigma: float) -> float:
    d = (mu[y] - np.delete(mu, y)) / sigma
    return quad(lambda t: norm.pdf(t) * norm.cdf(d + t).prod(), -12, 12, epsabs=1e-13)[0]


# Gaussian noise


def test_known_probabilities() -> None:
    torch.testing.assert_close(all_classes(MU), torch.tensor(P, dtype=F64), rtol=0, atol=1e-11)
    assert abs(float(all_classes(MU).sum()) - 1) < 1e-14


def test_against_the_orthant_probability() -> None:
    for y in range(4):
        differences = (MU[y] - torch.cat([MU[:y], MU[y + 1 :]])).numpy()
        expected = multivariate_normal.cdf(
            differences, np.zeros(3), np.eye(3) + 1, abseps=1e-9, releps=0, rng=0
        )
        assert float(all_classes(MU)[y]) == pytest.approx(expected, abs=1e-7)


@given(logit_rows, st.floats(0.3, 5), st.data())
@settings(deadline=None, max_examples=30)
def test_against_quad(mu: np.ndarray, sigma: float, data: st.DataObject) -> None:
    y = data.draw(st.integers(0, mu.shape[1] - 1))
    ours = acc.expected_accuracy(torch.from_numpy(mu), torch.tensor([y]), sigma)
    assert ours.item() == pytest.approx(by_quad(mu[0], y, sigma), abs=1e-9)


@pytest.mark.parametrize(("nodes", "error"), [(16, 1.1304e-6), (32, 9.217e-11)])
def test_error_of_few_nodes(nodes: int, error: float) -> None:
    found = (all_classes(MU, n_nodes=nodes) - all_classes(MU, n_nodes=128)).abs().max()
    assert float(found) == pytest.approx(error, rel=1e-3)


def test_error_of_many_classes() -> None:
    mu = torch.randn(50, 100, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = torch.zeros(50, dtype=torch.long)
    exact = [by_quad(row, 0, 1.0) for row in mu.numpy()]
    for nodes, error in ((32, 5e-5), (64, 5e-7)):
        ours = acc.expected_accuracy(mu, y, n_nodes=nodes).numpy()
        assert np.abs(ours - exact).max() < error


@pytest.mark.parametrize("nodes", [1, 2, 16, 64, 256])
def test_the_nodes_have_the_moments_of_the_normal_law(nodes: int) -> None:
    # With two classes of equal logits each pair of opposite nodes adds up to its weight.
    mu = torch.zeros(1, 2, dtype=F64)
    half = acc.expected_accuracy(mu, torch.tensor([0]), n_nodes=nodes).item()
    assert half == pytest.approx(0.5, abs=1e-13)


@given(st.floats(-6, 6), scales)
@settings(deadline=None)
def test_two_classes(margin: float, sigma: float) -> None:
    mu = torch.tensor([[margin, 0.0]], dtype=F64)
    p = acc.expected_accuracy(mu, torch.tensor([0]), sigma).item()
    assert p == pytest.approx(norm.cdf(margin / (sigma * SQRT2)), abs=1e-9)


@pytest.mark.parametrize("noise", ["gaussian", "gumbel"])
@given(logit_rows, scales)
@settings(deadline=None)
def test_laws_of_a_probability(noise: str, mu: np.ndarray, sigma: float) -> None:
    row = torch.from_numpy(mu[0])
    p = all_classes(row, sigma, noise=noise)
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(all_classes(row + 3, sigma, noise=noise), p, rtol=0, atol=1e-9)
    torch.testing.assert_close(all_classes(row / sigma, noise=noise), p)
    torch.testing.assert_close(all_classes(row.flip(0), sigma, noise=noise).flip(0), p)
    order = row.argsort()
    assert (p[order].diff() > -1e-9).all(), "a larger logit has the larger probability"


@pytest.mark.parametrize("noise", ["gaussian", "gumbel"])
def test_equal_logits_and_vanishing_noise(noise: str) -> None:
    for classes in (2, 3, 7):
        p = all_classes(torch.zeros(classes, dtype=F64), noise=noise)
        torch.testing.assert_close(p, torch.full_like(p, 1 / classes), rtol=0, atol=1e-9)
    cold = all_classes(MU, 1e-3, noise=noise)
    torch.testing.assert_close(cold, torch.tensor([1.0, 0, 0, 0], dtype=F64), rtol=0, atol=1e-12)


def test_monte_carlo_of_both_noises() -> None:
    gen = torch.Generator().manual_seed(1)
    draws = 200_000
    uniform = torch.rand(draws, 4, generator=gen, dtype=F64)
    samples = {
        "gaussian": torch.randn(draws, 4, generator=gen, dtype=F64),
        "gumbel": -torch.log(-torch.log(uniform)),
    }
    for noise, eps in samples.items():
        p = all_classes(MU, 0.7, noise=noise)
        hits = torch.bincount((MU + 0.7 * eps).argmax(-1), minlength=4) / draws
        assert ((hits - p).abs() < 5 * (p * (1 - p) / draws).sqrt()).all()


# Gradients


def test_known_gradient() -> None:
    mu = MU[None].clone().requires_grad_()
    acc.expected_accuracy(mu, torch.tensor([0]), 0.8).sum().backward()
    expected = torch.tensor([GRADIENT], dtype=F64)
    torch.testing.assert_close(mu.grad, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("noise", ["gaussian", "gumbel"])
def test_gradcheck(noise: str) -> None:
    mu = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(
        lambda m: acc.expected_accuracy(m, y, 0.6, noise=noise), mu.requires_grad_()
    )


def test_far_logits_give_finite_gradients() -> None:
    mu = torch.tensor([[-80.0, 80, 0], [80, -80, 0]], requires_grad=True)
    acc.exact_loss(mu, torch.tensor([0, 0]), 0.5).backward()
    assert torch.isfinite(mu.grad).all()


# Losses and accuracy


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(40, 5, generator=gen), torch.randint(5, (40,), generator=gen)


def test_accuracy_against_scikit_learn() -> None:
    mu, y = batch()
    assert acc.accuracy(mu, y).item() == pytest.approx(accuracy_score(y, mu.argmax(-1)))


def test_a_tie_is_wrong() -> None:
    mu = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0]])
    assert acc.accuracy(mu, torch.tensor([0, 0])).item() == 0.5


@pytest.mark.parametrize("function", [acc.accuracy, acc.expected_accuracy, acc.exact_loss])
def test_logits_that_are_no_numbers_are_refused(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="logits must be numbers, got nan"):
        function(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_agrees_with_single(dtype: torch.dtype) -> None:
    mu, y = batch()
    mu = mu.to(dtype)
    for function in (acc.expected_accuracy, acc.exact_loss, acc.soft_accuracy_loss):
        value = function(mu, y)
        assert value.dtype == dtype
        assert torch.allclose(value.float(), function(mu.float(), y), atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1e-5])
def test_tiny_noise_leaves_the_accuracy(scale: float) -> None:
    mu, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]), torch.tensor([0, 0, 0])
    for noise in ("gaussian", "gumbel"):
        p = acc.expected_accuracy(mu, y, scale, noise=noise)  # type: ignore[arg-type]
        assert p.tolist() == pytest.approx([1, 0, 0.5], abs=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e149])
def test_the_gaussian_optimum_at_extreme_scales(scale: float) -> None:
    assert math.isfinite(acc.three_point_optimum("gaussian", scale))  # type: ignore[arg-type]


def test_soft_accuracy_is_half_the_mean_absolute_error() -> None:
    mu, y = batch()
    p = torch.softmax(mu / 0.7, -1)
    onehot = torch.nn.functional.one_hot(y, 5)
    half_mae = 5 / 2 * mean_absolute_error(onehot, p)
    assert acc.soft_accuracy_loss(mu, y, 0.7).item() == pytest.approx(half_mae, rel=1e-5)


def test_soft_accuracy_keeps_small_losses() -> None:
    mu = torch.tensor([[50.0, 0.0]])
    loss = acc.soft_accuracy_loss(mu, torch.tensor([0])).item()
    assert loss == pytest.approx(math.exp(-50), rel=1e-5)


def test_soft_accuracy_is_cross_entropy_weighted_by_confidence() -> None:
    mu, y = batch()
    mu.requires_grad_()
    soft = torch.autograd.grad(acc.soft_accuracy_loss(mu, y, reduction="sum"), mu)[0]
    ce = torch.autograd.grad(torch.nn.functional.cross_entropy(mu, y, reduction="sum"), mu)[0]
    p = torch.softmax(mu.detach(), -1).gather(1, y[:, None])
    torch.testing.assert_close(soft, p * ce)


@pytest.mark.parametrize("loss", [acc.exact_loss, acc.soft_accuracy_loss])
def test_reductions(loss: object) -> None:
    mu, y = batch()
    each = loss(mu, y, 0.5, reduction="none")
    assert each.shape == (40,)
    torch.testing.assert_close(loss(mu, y, 0.5), each.mean())
    torch.testing.assert_close(loss(mu, y, 0.5, reduction="sum"), each.sum())
    noise = "gaussian" if loss is acc.exact_loss else "gumbel"
    torch.testing.assert_close(each, 1 - acc.expected_accuracy(mu, y, 0.5, noise=noise))


@pytest.mark.parametrize("noise", ["gaussian", "gumbel"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("integers", [torch.uint8, torch.int32, torch.int64])
def test_dtypes(noise: str, dtype: torch.dtype, integers: torch.dtype) -> None:
    y = torch.tensor([0, 1, 2, 3]).to(integers)
    p = acc.expected_accuracy(MU.expand(4, -1).to(dtype), y, noise=noise)
    assert p.dtype == dtype
    assert acc.accuracy(MU.expand(4, -1).to(dtype), y).dtype == dtype
    torch.testing.assert_close(p.double(), all_classes(MU, noise=noise), rtol=0, atol=1e-6)


def test_seeds_at_once_under_vmap() -> None:
    mu = torch.stack([batch(seed)[0] for seed in range(3)])
    y = torch.stack([batch(seed)[1] for seed in range(3)])
    for function in (acc.soft_accuracy_loss, acc.accuracy):
        together = torch.vmap(function)(mu, y)
        alone = torch.stack([function(m, t) for m, t in zip(mu, y, strict=True)])
        torch.testing.assert_close(together, alone)


# The three points


def slope(b: float, kind: str, scale: float) -> float:
    """The objective's derivative, written for each kind on its own."""
    x, label = np.array([-0.25, 0, 0.25]), np.array([-1, -1, 1])
    m = label * (x - b) / scale
    if kind == "cross_entropy":
        return float((label / (1 + np.exp(m))).sum())
    density = norm.pdf(m / SQRT2) if kind == "gaussian" else 1 / np.cosh(m / 2) ** 2
    return float((-label * density).sum())


@pytest.mark.parametrize(
    ("kind", "scale", "b", "value", "tolerance"),
    [
        ("cross_entropy", 1, 0.7000875241, 1.6733913992, 1e-9),
        ("gaussian", 0.05 / SQRT2, 0.125, None, 1e-9),
        ("gaussian", 0.2 / SQRT2, 0.151203620, 0.814031396, 1e-8),
        ("gaussian", 0.5 / SQRT2, 0.539952079, None, 1e-8),
        ("gaussian", 1 / SQRT2, 1.981450637, None, 1e-8),
        ("gaussian", 0.2201862654, 0.25, None, 1e-9),
        ("gumbel", 0.2051272412, 0.25, None, 1e-9),
        ("gumbel", 0.3, 0.46975, None, 5e-5),
        ("gumbel", 0.3, 0.4697663494, 0.689532967, 1e-8),
    ],
)
def test_known_optima(
    kind: str, scale: float, b: float, value: float | None, tolerance: float
) -> None:
    found = acc.three_point_optimum(kind, scale)
    assert found == pytest.approx(b, abs=tolerance)
    if value is not None:
        assert acc.three_point_objective(found, kind, scale) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("kind", ["cross_entropy", "gaussian", "gumbel"])
@given(scale=st.floats(0.02, 0.5))
@settings(deadline=None, max_examples=60)
def test_the_optimum_is_the_root_of_the_slope(kind: str, scale: float) -> None:
    root = brentq(slope, 0.1, 0.13 + 8 * scale, args=(kind, scale), xtol=1e-14)
    assert acc.three_point_optimum(kind, scale) == pytest.approx(root, abs=1e-8)


@pytest.mark.parametrize("kind", ["cross_entropy", "hinge", "gaussian", "gumbel"])
@given(scale=st.floats(0.03, 2), b=st.floats(-3, 5))
@settings(deadline=None)
def test_no_other_threshold_is_better(kind: str, scale: float, b: float) -> None:
    best = np.max(acc.three_point_optimum(kind, scale))
    if math.isinf(best):
        assert acc.three_point_objective(b, kind, scale) <= 2 / 3
        return
    sign = -1 if kind in ("cross_entropy", "hinge") else 1
    values = sign * acc.three_point_objective([best, b], kind, scale)
    assert values[0] >= values[1] - 1e-12


@pytest.mark.parametrize("kind", ["cross_entropy", "gaussian", "gumbel"])
@pytest.mark.parametrize("scale", [1e-300, 1e-8, 1e-4])
def test_the_optimum_of_little_noise_is_the_middle(kind: str, scale: float) -> None:
    if kind == "gaussian":
        scale = max(scale, 1e-8)
    assert acc.three_point_optimum(kind, scale) == pytest.approx(0.125, abs=1e-7)


def test_gumbel_noise_runs_away_beyond_the_golden_ratio() -> None:
    assert pytest.approx(0.5195217303, abs=1e-10) == GOLDEN_SCALE
    assert acc.three_point_optimum("gumbel", GOLDEN_SCALE * (1 + 1e-9)) == math.inf
    near = acc.three_point_optimum("gumbel", GOLDEN_SCALE * (1 - 1e-3))
    assert 3 < near < math.inf
    far = acc.three_point_objective([5.0, 10, 20], "gumbel", 0.6)
    assert (np.diff(far) > 0).all()
    assert far[-1] < 2 / 3


def test_hinge_values_and_interval() -> None:
    values = acc.three_point_objective([0.5, 0.75, 0.875, 1, 1.1], "hinge")
    np.testing.assert_allclose(values, [2, 1.75, 1.75, 1.75, 1.85], atol=1e-14)
    assert acc.three_point_optimum("hinge") == (0.75, 1.0)


@given(scale=st.floats(0.01, 3))
@settings(deadline=None)
def test_the_hinge_interval_is_flat_and_ends_where_it_says(scale: float) -> None:
    low, high = acc.three_point_optimum("hinge", scale)
    step = 1e-3 * scale
    inside = acc.three_point_objective([low, (low + high) / 2, high], "hinge", scale)
    outside = acc.three_point_objective([low - step, high + step], "hinge", scale)
    np.testing.assert_allclose(inside, inside[0], atol=1e-12)
    assert (outside > inside[0] + 1e-4).all()


def test_the_accuracy_is_1_in_the_band_only() -> None:
    low, high = acc.three_point_optimum("accuracy")
    values = acc.three_point_objective([-0.3, -0.1, low, 0.001, 0.249, high, 0.3], "accuracy")
    np.testing.assert_allclose(values, np.array([1, 2, 2, 3, 3, 2, 2]) / 3)


@pytest.mark.parametrize("noise", ["gaussian", "gumbel"])
def test_the_objective_is_the_expected_accuracy_of_two_logits(noise: str) -> None:
    b, scale = 0.4, 0.3
    f = torch.tensor([-0.25, 0, 0.25], dtype=F64) - b
    logits = torch.stack([torch.zeros(3, dtype=F64), f], -1)
    p = acc.expected_accuracy(logits, torch.tensor([0, 0, 1]), scale, noise=noise)
    assert acc.three_point_objective(b, noise, scale) == pytest.approx(p.mean().item(), abs=1e-12)


def test_cross_entropy_and_hinge_against_torch() -> None:
    f = (torch.tensor([-0.25, 0, 0.25], dtype=F64) - 0.4) / 0.3
    label = torch.tensor([-1.0, -1, 1], dtype=F64)
    ce = torch.nn.functional.soft_margin_loss(f, label, reduction="sum").item()
    hinge = torch.nn.functional.multi_margin_loss(
        torch.stack([torch.zeros(3, dtype=F64), f], -1), (label > 0).long(), reduction="sum"
    )
    assert acc.three_point_objective(0.4, "cross_entropy", 0.3) == pytest.approx(ce)
    # torch divides the multi-class hinge by the number of classes.
    assert acc.three_point_objective(0.4, "hinge", 0.3) == pytest.approx(2 * hinge.item())


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind: str) -> None:
    assert acc.three_point_objective(np.zeros((2, 3)), kind).shape == (2, 3)
    assert acc.three_point_objective(0.1, kind).shape == ()
    assert acc.three_point_objective(np.zeros(4, dtype=np.float32), kind).dtype == np.float64


# Bad input

LOGITS, TARGET = torch.zeros(2, 3), torch.tensor([0, 2])
BAD_BATCHES = [
    (LOGITS.long(), TARGET, TypeError, "logits"),
    (LOGITS.tolist(), TARGET, TypeError, "logits"),
    (LOGITS, TARGET.float(), TypeError, "target"),
    (LOGITS, TARGET.bool(), TypeError, "target"),
    (LOGITS, [0, 2], TypeError, "target"),
    (LOGITS[0], TARGET, ValueError, "logits"),
    (LOGITS[:, :1], TARGET, ValueError, "logits"),
    (LOGITS[:0], TARGET[:0], ValueError, "logits"),
    (LOGITS, TARGET[:1], ValueError, "target"),
    (LOGITS, TARGET[:, None], ValueError, "target"),
    (LOGITS, torch.tensor([0, 3]), ValueError, "target .*3"),
    (LOGITS, torch.tensor([0, -1]), ValueError, "target .*-1"),
]


@pytest.mark.parametrize(
    "function", [acc.accuracy, acc.expected_accuracy, acc.exact_loss, acc.soft_accuracy_loss]
)
@pytest.mark.parametrize(("logits", "target", "error", "match"), BAD_BATCHES)
def test_bad_batches(
    function: object, logits: object, target: object, error: type, match: str
) -> None:
    with pytest.raises(error, match=match):
        function(logits, target)


@pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan])
def test_bad_scales(scale: float) -> None:
    for function in (acc.expected_accuracy, acc.exact_loss):
        with pytest.raises(ValueError, match="sigma"):
            function(LOGITS, TARGET, scale)
    with pytest.raises(ValueError, match="tau"):
        acc.soft_accuracy_loss(LOGITS, TARGET, scale)
    with pytest.raises(ValueError, match="scale"):
        acc.three_point_objective(0.1, "gaussian", scale)
    with pytest.raises(ValueError, match="scale"):
        acc.three_point_optimum("gaussian", scale)


@pytest.mark.parametrize("function", [acc.expected_accuracy, acc.exact_loss])
@pytest.mark.parametrize(
    ("nodes", "error"),
    [(0, ValueError), (257, ValueError), (3.0, TypeError), (True, TypeError)],
)
def test_bad_nodes(function: object, nodes: object, error: type) -> None:
    with pytest.raises(error, match="n_nodes"):
        function(LOGITS, TARGET, n_nodes=nodes)


def test_bad_choices() -> None:
    with pytest.raises(ValueError, match=r"noise .*'cauchy'"):
        acc.expected_accuracy(LOGITS, TARGET, noise="cauchy")
    for function in (acc.exact_loss, acc.soft_accuracy_loss):
        with pytest.raises(ValueError, match=r"reduction .*'max'"):
            function(LOGITS, TARGET, reduction="max")
    with pytest.raises(ValueError, match=r"kind .*'log'"):
        acc.three_point_objective(0.1, "log")
    with pytest.raises(ValueError, match=r"kind .*'log'"):
        acc.three_point_optimum("log")
    with pytest.raises(ValueError, match="b must be finite"):
        acc.three_point_objective([0.0, math.nan], "hinge")
