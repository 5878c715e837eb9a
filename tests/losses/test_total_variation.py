"""TaiLr: the distance, the losses, their minimiser and the noise it ignores."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.spatial.distance import cityblock
from torch import Tensor

from kexue_lab.losses import total_variation as tv
from kexue_lab.losses.accuracy import soft_accuracy_loss

F64 = torch.float64
LOGITS = torch.tensor([[1.0, -0.5, 0.3, 0.0]], dtype=F64)
ONE = torch.tensor([1])
LOSSES = (tv.tailr_loss, tv.tailr_potential_loss, tv.generalized_cross_entropy)
gammas = st.one_of(st.sampled_from([0.0, 1e-9, 0.5, 1 - 1e-12, 1.0]), st.floats(0, 1))


def batch(seed: int = 0, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(40, 5, generator=g, dtype=dtype), torch.randint(5, (40,), generator=g)


def laws(count: int, classes: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(classes), count))


def gradient(loss, logits: Tensor, target: Tensor, *args: float) -> Tensor:  # type: ignore[no-untyped-def]
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, target, *args), logits)[0]


# The distance


def test_distance_against_scipy() -> None:
    p, q = laws(20, 6), laws(20, 6, 1)
    expected = [cityblock(a, b) / 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    np.testing.assert_allclose(tv.total_variation(p, q), expected, atol=1e-15)
    np.testing.assert_allclose(tv.total_variation(p.T, q.T, 0), expected, atol=1e-15)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_distance_is_the_largest_difference_over_events(classes: int, seed: int) -> None:
    p, q = laws(1, classes, seed)[0], laws(1, classes, seed + 1)[0]
    events = torch.tensor([[i >> k & 1 for k in range(classes)] for i in range(2**classes)]).to(F64)
    assert float(tv.total_variation(p, q)) == pytest.approx(float((events @ (p - q)).max()))


def test_distance_is_below_pinskers_bound() -> None:
    p, q = laws(50, 4), laws(50, 4, 1)
    entropy = F.kl_div(q.log(), p, reduction="none").sum(-1)
    assert bool((tv.total_variation(p, q) <= (entropy / 2).sqrt()).all())


# The losses


@pytest.mark.parametrize(
    ("gamma", "weighted", "potential"),
    [
        (0.0, 2.2360126402, 2.2360126402),
        (0.1, 1.2181404316, 1.8096043238),
        (0.5, 0.4318314334, 1.1831969289),
    ],
)
def test_known_values(gamma: float, weighted: float, potential: float) -> None:
    assert tv.tailr_loss(LOGITS, ONE, gamma).item() == pytest.approx(weighted, abs=1e-10)
    assert tv.tailr_potential_loss(LOGITS, ONE, gamma).item() == pytest.approx(potential, abs=1e-10)


@given(gamma=gammas, seed=st.integers(0, 50))
@settings(deadline=None)
def test_both_forms_have_one_gradient(gamma: float, seed: int) -> None:
    logits, y = batch(seed)
    slopes = [gradient(loss, logits, y, gamma) for loss in LOSSES[:2]]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-14)
    p = logits.softmax(-1)
    w = tv.tailr_weight(p.gather(1, y[:, None]), gamma)
    by_hand = w * (p - F.one_hot(y, 5)) / len(y)
    torch.testing.assert_close(slopes[0], by_hand, rtol=1e-9, atol=1e-14)


@given(gamma=st.floats(0.001, 0.999), p=st.floats(1e-6, 1))
@settings(deadline=None)
def test_the_potential_is_the_integral_of_the_slope(gamma: float, p: float) -> None:
    logits = torch.tensor([[math.log(p), math.log1p(-p) if p < 1 else -800.0]], dtype=F64)
    expected = quad(lambda t: 1 / (gamma + (1 - gamma) * t), p, 1, epsabs=1e-12)[0]
    ours = tv.tailr_potential_loss(logits, torch.tensor([0]), gamma)
    assert ours.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_ends_are_cross_entropy_and_soft_accuracy(loss) -> None:  # type: ignore[no-untyped-def]
    logits, y = batch()
    torch.testing.assert_close(loss(logits, y, 0.0), F.cross_entropy(logits, y))
    if loss is not tv.tailr_loss:
        torch.testing.assert_close(loss(logits, y, 1.0), soft_accuracy_loss(logits, y))
    torch.testing.assert_close(
        gradient(loss, logits, y, 1.0),
        gradient(lambda m, t, _: soft_accuracy_loss(m, t), logits, y, 1.0),
    )


@pytest.mark.parametrize("gamma", [1e-9, 0.3, 0.4999, 0.5, 0.9, 1 - 1e-9])
def test_gradcheck(gamma: float) -> None:
    logits, y = batch()
    logits = logits[:6].requires_grad_()
    for loss in LOSSES[1:]:
        assert torch.autograd.gradcheck(lambda m, loss=loss: loss(m, y[:6], gamma), logits)


@pytest.mark.parametrize("loss", LOSSES)
def test_reductions_and_ignored_labels(loss) -> None:  # type: ignore[no-untyped-def]
    logits, y = batch()
    each = loss(logits, y, 0.3, reduction="none")
    y[::3] = -100
    kept = y != -100
    found = loss(logits, y, 0.3, reduction="none")
    torch.testing.assert_close(found, torch.where(kept, each, 0))
    torch.testing.assert_close(loss(logits, y, 0.3, reduction="sum"), each[kept].sum())
    torch.testing.assert_close(loss(logits, y, 0.3), each[kept].mean())
    y[~kept] = 7
    torch.testing.assert_close(loss(logits, y, 0.3, ignore_index=7), each[kept].mean())
    assert not gradient(lambda m, t, g: loss(m, t, g, ignore_index=7), logits, y, 0.3)[~kept].any()


def test_the_floor_of_the_weight() -> None:
    logits, y = batch()
    ce = F.cross_entropy(logits, y, reduction="none")
    w = tv.tailr_weight(torch.exp(-ce), 0.5)
    found = tv.tailr_loss(logits, y, 0.5, min_weight=0.2, reduction="none")
    torch.testing.assert_close(found, torch.maximum(w, torch.tensor(0.2, dtype=F64)) * ce)
    p_b = 0.2 * 0.5 / (1 - 0.2 * 0.5)
    assert tv.tailr_weight(torch.tensor(p_b, dtype=F64), 0.5).item() == pytest.approx(0.2)
    torch.testing.assert_close(tv.tailr_loss(logits, y, 0.5, min_weight=1.0), ce.mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.0, 1e-7, 0.1, 0.7, 1.0])
def test_lower_precision_agrees(dtype: torch.dtype, gamma: float) -> None:
    logits, y = batch(dtype=dtype)
    for loss in LOSSES:
        value = loss(logits, y, gamma)
        assert value.dtype == dtype
        tolerance = 4 * torch.finfo(dtype).eps
        expected = loss(logits.double(), y, gamma)
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("gamma", [1e-300, 1e-7, 0.3, 1.0])
def test_far_logits_give_finite_losses_and_gradients(dtype: torch.dtype, gamma: float) -> None:
    for size in (70, 1e4, torch.finfo(dtype).max):
        logits = torch.tensor([[-size, size, 0], [size, -size, 0]], dtype=dtype)
        for loss in LOSSES[:2]:
            assert bool(loss(logits, torch.tensor([0, 0]), gamma).isfinite())
            assert bool(gradient(loss, logits, torch.tensor([0, 0]), gamma).isfinite().all())


def test_the_potential_is_bounded_and_the_weighted_form_comes_back_to_zero() -> None:
    logits = torch.tensor([[-300.0, 300.0]], dtype=F64)
    y = torch.tensor([0])
    for gamma, top in ((0.01, 4.6516870566), (0.5, 1.3862943611), (0.9, 1.0536051566)):
        assert tv.tailr_potential_loss(logits, y, gamma).item() == pytest.approx(top, abs=1e-9)
        assert tv.tailr_loss(logits, y, gamma).item() < 1e-100


def test_a_loss_beyond_the_dtype_is_refused() -> None:
    far = torch.tensor([[-3e38, 3e38]])
    with pytest.raises(ValueError, match="the loss must fit"):
        tv.tailr_loss(far, torch.tensor([0]), 0.0)


def test_small_losses_keep_their_digits_for_large_gamma() -> None:
    logits = torch.tensor([[50.0, 0.0]])
    for gamma in (0.5, 0.9, 1.0):
        loss = tv.tailr_potential_loss(logits, torch.tensor([0]), gamma).item()
        assert loss == pytest.approx(math.exp(-50), rel=1e-5)


def test_seeds_at_once_under_vmap() -> None:
    pairs = [batch(seed) for seed in range(3)]
    logits, y = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    for loss in LOSSES:
        alone = torch.stack([loss(m, t) for m, t in pairs])
        torch.testing.assert_close(torch.vmap(loss)(logits, y), alone)


def test_known_weights() -> None:
    for gamma, w in ((0.01, 0.9174311927), (0.1, 0.5263157895), (0.9, 0.1098901099)):
        found = tv.tailr_weight(torch.tensor(0.1, dtype=F64), gamma).item()
        assert found == pytest.approx(w, abs=1e-10)
    ends = torch.tensor([0.0, 1.0])
    assert tv.tailr_weight(ends, 0.0).tolist() == [1, 1]
    assert tv.tailr_weight(ends, 0.3).tolist() == [0, 1]


# The minimiser


def by_slsqp(q: np.ndarray, gamma: float) -> np.ndarray:
    blended = lambda p: gamma + (1 - gamma) * p  # noqa: E731
    return minimize(
        lambda p: -q @ np.log(blended(p)) / (1 - gamma),
        np.full(len(q), 1 / len(q)),
        jac=lambda p: -q / blended(p),
        bounds=[(0, 1)] * len(q),
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    ).x


@given(classes=st.integers(2, 6), seed=st.integers(0, 300), gamma=st.floats(0.02, 0.95))
@settings(deadline=None, max_examples=60)
def test_minimiser_against_slsqp(classes: int, seed: int, gamma: float) -> None:
    q = laws(1, classes, seed)[0]
    found, theirs = tv.tailr_minimizer(q, gamma).numpy(), by_slsqp(q.numpy(), gamma)
    value = lambda p: -q.numpy() @ np.log(gamma + (1 - gamma) * p)  # noqa: E731
    assert value(found) <= value(theirs) + 1e-9
    np.testing.assert_allclose(found, theirs, atol=2e-3)


@given(classes=st.integers(1, 30), seed=st.integers(0, 1000), gamma=gammas)
@settings(deadline=None)
def test_laws_of_the_minimiser(classes: int, seed: int, gamma: float) -> None:
    q = laws(1, classes, seed)[0]
    p = tv.tailr_minimizer(q, gamma)
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    assert bool((p >= 0).all())
    order = q.argsort()
    assert bool((p[order].diff() >= -1e-12).all()), "the order of the classes is kept"
    assert float(p.max()) >= float(q.max()) - 1e-12, "it is sharper than the law of the labels"
    torch.testing.assert_close(tv.tailr_minimizer(q.flip(0), gamma).flip(0), p, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("gamma", "end"),
    [
        (0.0, [0.5, 0.3, 0.2]),
        (0.1, [5 / 9, 2.6 / 9, 1.4 / 9]),
        (0.2, [0.625, 0.275, 0.1]),
        (0.5, [0.875, 0.125, 0]),
        (0.8, [1, 0, 0]),
        (1.0, [1, 0, 0]),
    ],
)
def test_known_minimisers(gamma: float, end: list[float]) -> None:
    q = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    expected = torch.tensor(end, dtype=F64)
    torch.testing.assert_close(tv.tailr_minimizer(q, gamma), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(tv.tailr_minimizer(q.expand(2, 4, -1), gamma)[1, 2], expected)


@pytest.mark.parametrize("gamma", [0.3, 1 - 1e-16, 1 - 1e-12])
def test_equal_classes_stay_equal(gamma: float) -> None:
    for classes in (2, 3, 7):
        q = torch.full((classes,), 1 / classes, dtype=F64)
        torch.testing.assert_close(tv.tailr_minimizer(q, gamma), q)
    assert tv.tailr_minimizer(torch.tensor([0.2, 0.4, 0.4]), 1.0).tolist() == [0, 1, 0]


@given(eta=st.floats(0.01, 0.5), classes=st.integers(3, 30))
@settings(deadline=None)
def test_the_threshold_is_where_the_noise_is_ignored(eta: float, classes: int) -> None:
    q = torch.full((classes,), eta / (classes - 1), dtype=F64)
    q[0] = 1 - eta
    threshold = tv.noise_threshold(eta, classes)
    if threshold < 0.999:
        assert float(tv.tailr_minimizer(q, min(1.0, threshold * 1.0001))[0]) == pytest.approx(1)
    assert float(tv.tailr_minimizer(q, threshold * 0.99)[0]) < 1 - 1e-6


@pytest.mark.parametrize(
    ("gamma", "top"), [(0.01, 0.65050505), (0.05, 0.86315789), (0.07, 0.97634409)]
)
def test_known_confidence_under_noise(gamma: float, top: float) -> None:
    q = torch.tensor([0.6, *[0.4 / 9] * 9], dtype=F64)
    assert float(tv.tailr_minimizer(q, gamma)[0]) == pytest.approx(top, abs=1e-8)


# Bad input

ZEROS, Y = torch.zeros(2, 3), torch.tensor([0, 2])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("logits", "target", "error", "match"),
    [
        (ZEROS.long(), Y, TypeError, "logits"),
        (ZEROS, Y.float(), TypeError, "target"),
        (ZEROS, [0, 2], TypeError, "target"),
        (ZEROS[0], Y, ValueError, "logits"),
        (ZEROS[:, :1], Y, ValueError, "logits"),
        (ZEROS[:0], Y[:0], ValueError, "logits"),
        (ZEROS / 0, Y, ValueError, "logits"),
        (ZEROS, Y[:1], ValueError, "target"),
        (ZEROS, torch.tensor([0, 3]), ValueError, "target .*3"),
        (ZEROS, torch.tensor([-1, 0]), ValueError, "target .*-1"),
        (ZEROS, torch.tensor([-100, -100]), ValueError, "target .*-100"),
    ],
)
def test_bad_batches(loss, logits, target, error, match) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=match):
        loss(logits, target)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_bad_shares(share: float) -> None:
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"gamma|q must"):
            loss(ZEROS, Y, share)
    with pytest.raises(ValueError, match="min_weight"):
        tv.tailr_loss(ZEROS, Y, min_weight=share)
    with pytest.raises(ValueError, match="gamma"):
        tv.tailr_minimizer(torch.tensor([0.5, 0.5]), share)
    with pytest.raises(ValueError, match="gamma"):
        tv.tailr_weight(torch.tensor(0.5), share)
    with pytest.raises(ValueError, match="p must lie"):
        tv.tailr_weight(torch.tensor([0.5, share]))
    with pytest.raises(ValueError, match="eta"):
        tv.noise_threshold(share, 10)


def test_other_bad_input() -> None:
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"reduction .*'max'"):
            loss(ZEROS, Y, reduction="max")
    with pytest.raises(ValueError, match="eta must be below 1"):
        tv.noise_threshold(1.0, 10)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        tv.noise_threshold(0.3, 1)
    with pytest.raises(ValueError, match="q must sum to 1"):
        tv.tailr_minimizer(torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="q must have shape"):
        tv.tailr_minimizer(torch.tensor(1.0))
    with pytest.raises(TypeError, match="q must be a floating-point"):
        tv.tailr_minimizer(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="one shape"):
        tv.total_variation(torch.ones(1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="p must be non-negative"):
        tv.total_variation(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 0.5]))
