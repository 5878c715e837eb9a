"""InfoNCE and FlatNCE against torch, mpmath and hand-made gradients; their limits in each dtype."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn.functional import cross_entropy

from kexue_lab.generative.info_max import CorrelatedGaussian, mi_bound
from kexue_lab.losses import flat_nce as n

F64 = torch.float64
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LOSSES = (n.info_nce, n.flat_nce, n.flat_nce_stopgrad)

batches = st.tuples(st.integers(1, 6), st.integers(2, 7), st.integers(0, 99), st.floats(0.1, 30))


def made(drawn) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns, seed, size = drawn
    g = torch.Generator().manual_seed(seed)
    scores = size * torch.randn(rows, columns, generator=g, dtype=F64)
    return scores, torch.randint(columns, (rows,), generator=g)


def slope(loss, scores, target, **options) -> torch.Tensor:
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(loss(scores, target, **options), scores)[0]


# values


@given(batches)
@settings(deadline=None, max_examples=50)
def test_v_is_a_logsumexp_less_the_positive(drawn) -> None:
    s, t = made(drawn)
    expected = [
        logsumexp(np.delete(row, k)) - row[k] for row, k in zip(s.numpy(), t.tolist(), strict=True)
    ]
    assert np.allclose(n.xi_log(s, t), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(n.flat_nce(s, t, reduction="none"), n.xi_log(s, t))


@given(batches, st.sampled_from(["mean", "sum", "none"]))
@settings(deadline=None, max_examples=50)
def test_info_nce_is_cross_entropy_where_that_is_exact(drawn, reduction) -> None:
    s, t = made(drawn)
    theirs = cross_entropy(s, t, reduction=reduction)
    assert torch.allclose(n.info_nce(s, t, reduction=reduction), theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("gap", [0.5, 10, 16.7, 20, 40, 80, -30])
@pytest.mark.parametrize("K", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_info_nce_keeps_the_digits_of_tiny_losses(gap, K, dtype) -> None:
    s = torch.zeros(1, K, dtype=dtype)
    s[0, 1:] = -gap
    with mpmath.workdps(50):
        v = mpmath.log(K - 1) + mpmath.mpf(s[0, 1].item())
        exact = mpmath.log1p(mpmath.exp(v))
        share = 1 / (1 + mpmath.exp(-v))
    t = torch.tensor([0])
    rel = 4 * (1 + abs(gap)) * torch.finfo(dtype).eps
    assert n.info_nce(s, t).item() == pytest.approx(float(exact), rel=rel)
    found = slope(n.info_nce, s, t)[0]
    assert found[0].item() == pytest.approx(-float(share), rel=rel)
    assert found[1].item() == pytest.approx(float(share) / (K - 1), rel=rel)


def test_cross_entropy_falls_off_at_the_cliff() -> None:
    t = torch.tensor([0])
    for gap, gone in ((16.5, False), (16.7, True)):
        s = torch.tensor([[0.0, -gap]])
        assert (cross_entropy(s, t).item() == 0) == gone
        found = slope(cross_entropy, s, t)[0]
        assert (found[0].item() == 0) == gone
        assert found[1].item() == pytest.approx(math.exp(-gap), rel=1e-4)


# gradients


@given(batches)
@settings(deadline=None, max_examples=40)
def test_the_gradients_differ_by_a_weight_per_anchor(drawn) -> None:
    s, t = made(drawn)
    info, flat, published = (slope(loss, s, t, reduction="sum") for loss in LOSSES)
    p = s.softmax(1).gather(1, t[:, None])
    assert torch.allclose(info, (1 - p) * flat, atol=1e-9)
    assert torch.allclose(published, flat, atol=1e-12)
    assert torch.allclose(flat.sum(1), torch.zeros(len(s), dtype=F64), atol=1e-12)
    assert torch.allclose(flat.gather(1, t[:, None]), -torch.ones(len(s), 1, dtype=F64))


@pytest.mark.parametrize("loss", LOSSES[:2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(loss, reduction) -> None:
    s, t = made((4, 5, 3, 2.0))
    assert torch.autograd.gradcheck(lambda x: loss(x, t, reduction=reduction), s.requires_grad_())


@pytest.mark.parametrize("gap", [1.0, 110.0, 2000.0, -2000.0])
def test_flat_gradients_never_fade(gap) -> None:
    s = torch.full((1, 8), -gap)
    s[0, 0] = 0
    expected = torch.tensor([-1.0, *[1 / 7] * 7])
    rtol = 1e-6 + 1e-7 * abs(gap)  # log ξ itself is rounded
    for loss in LOSSES[1:]:
        assert torch.allclose(slope(loss, s, torch.tensor([0]))[0], expected, rtol=rtol)
    assert n.flat_nce(s, torch.tensor([0])).item() == pytest.approx(math.log(7) - gap, rel=1e-6)


@given(batches, st.floats(-100, 100))
@settings(deadline=None, max_examples=30)
def test_a_common_shift_changes_nothing(drawn, shift) -> None:
    s, t = made(drawn)
    for loss in LOSSES:
        assert torch.allclose(loss(s + shift, t), loss(s, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0, 6e3])
def test_every_dtype_agrees_with_float64(loss, dtype, size) -> None:
    g = torch.Generator().manual_seed(1)
    s, t = (size * torch.randn(5, 6, generator=g)).to(dtype), torch.randint(6, (5,), generator=g)
    value = loss(s, t, reduction="none")
    assert value.dtype == dtype
    exact = loss(s.double(), t, reduction="none")
    eps = torch.finfo(dtype).eps
    assert torch.allclose(value.double(), exact, rtol=8 * eps * (1 + size), atol=4 * eps * size)
    ours = slope(loss, s, t, reduction="sum").double()
    assert torch.allclose(ours, slope(loss, s.double(), t, reduction="sum"), atol=8 * eps)


def test_the_published_form_is_one() -> None:
    s, t = made((5, 4, 0, 200.0))
    assert n.flat_nce_stopgrad(s, t).item() == 1
    assert n.flat_nce_stopgrad(s, t, reduction="sum").item() == 5
    assert n.flat_nce_stopgrad(s, t, reduction="none").tolist() == [1] * 5


def test_beyond_the_dtype_is_refused() -> None:
    s, t = torch.tensor([[-1e308, 1e308]], dtype=F64), torch.tensor([0])
    for loss in LOSSES[:2]:
        with pytest.raises(ValueError, match="must fit"):
            loss(s, t)
    assert n.info_nce(s, 1 - t).item() == 0
    with pytest.raises(ValueError, match=r"log xi must fit torch.float16"):
        n.xi_log(torch.tensor([[-6e4, 6e4]], dtype=torch.float16), t)


def test_it_runs_under_vmap() -> None:
    s, t = made((4, 4, 2, 1.0))
    many = torch.stack([s, 2 * s, -s])
    for loss in LOSSES:
        together = torch.vmap(loss, (0, None))(many, t)
        assert torch.allclose(together, torch.stack([loss(one, t) for one in many]))


# scores, bounds, estimates


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_cosines(dtype) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 6, 5, generator=g)).to(dtype)
    expected = torch.tensor(cosine_similarity(a.double(), b.double())) / 0.1
    found = n.in_batch_scores(a, b, 0.1)
    assert torch.allclose(found.double(), expected, atol=40 * torch.finfo(dtype).eps)
    huge = a.double() * 1e307, b.double() * 1e-300
    assert torch.allclose(n.in_batch_scores(*huge, 0.1), expected, atol=1e-2)


def test_in_batch_scores_have_a_gradient() -> None:
    a, b = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.autograd.gradcheck(
        lambda x, y: n.in_batch_scores(x, y, 0.5), (a.requires_grad_(), b.requires_grad_())
    )


@pytest.mark.parametrize("K", [2, 8, 64])
def test_no_cosines_have_a_smaller_xi(K) -> None:
    g = torch.Generator().manual_seed(0)
    cosines = 2 * torch.rand(500, K, generator=g, dtype=F64) - 1
    target = torch.zeros(500, dtype=torch.int64)
    assert bool((n.xi_log(cosines / 0.2, target).exp() >= n.min_xi(0.2, K)).all())
    extreme = torch.full((1, K), -1.0, dtype=F64)
    extreme[0, 0] = 1
    assert n.xi_log(extreme / 0.2, target[:1]).exp().item() == pytest.approx(n.min_xi(0.2, K))


@pytest.mark.parametrize("K", [2, 8, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_above_the_critical_temperature_nothing_is_lost(K, dtype) -> None:
    tau = n.critical_temperature(K, dtype)
    for factor, lost in ((0.99, True), (1.01, False)):
        xi = torch.tensor(n.min_xi(factor * tau, K), dtype=dtype)
        assert bool(1 + xi == 1) == lost


def test_estimates_and_info_max() -> None:
    law = CorrelatedGaussian(1, 0.9)
    x, y = law.sample(64, torch.Generator().manual_seed(0))
    scores = law.log_ratio(x[:, None].double(), y.double())
    found = n.mi_estimates(scores, torch.arange(64))
    assert found["info_nce"].item() == pytest.approx(mi_bound(scores, "infonce").item())
    assert found["info_nce"] <= math.log(64)
    v = logsumexp(scores.masked_fill(torch.eye(64, dtype=torch.bool), -math.inf).numpy(), axis=1)
    expected = (scores.diagonal().numpy() - v).mean() + math.log(63)
    assert found["flat"].item() == pytest.approx(expected)


def test_light() -> None:
    g = torch.Generator().manual_seed(0)
    lit = n.in_changing_light(torch.zeros(4000, 64), g, noise=0)
    assert lit.square().mean().item() == pytest.approx(1, abs=0.05)
    assert np.linalg.matrix_rank(lit.double().numpy(), tol=1e-2) == 10
    noisy = n.in_changing_light(torch.zeros(4000, 64), g, light=0, noise=0.3)
    assert noisy.std().item() == pytest.approx(0.3, abs=0.01)
    x = torch.rand(3, 64, dtype=F64)
    assert torch.equal(n.in_changing_light(x, light=0, noise=0), x)


# bad input

S, T = torch.zeros(2, 3), torch.tensor([0, 2])
BAD = [
    ((torch.zeros(2, 3, dtype=torch.int64), T), TypeError, "scores must be a floating"),
    ((S, [0, 2]), TypeError, "target must be an integer tensor"),
    ((S, torch.tensor([0.0, 1.0])), TypeError, "target must be an integer tensor"),
    ((torch.zeros(2, 1), T), ValueError, "C ≥ 2"),
    ((torch.zeros(3), T), ValueError, r"shape \(B, C\)"),
    ((torch.zeros(0, 3), T[:0]), ValueError, "B ≥ 1"),
    ((S, T[:1]), ValueError, r"target must have shape \(B,\)"),
    ((S, torch.tensor([0, 3])), ValueError, r"target must lie in 0..2"),
    ((S, torch.tensor([-1, 0])), ValueError, r"target must lie in 0..2"),
    ((S + torch.nan, T), ValueError, "scores must be finite"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD)
@pytest.mark.parametrize("function", [*LOSSES, n.xi_log, n.mi_estimates])
def test_bad_batches_are_refused(function, arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        function(*arguments)


def test_bad_options_are_refused() -> None:
    for loss in LOSSES:
        with pytest.raises(ValueError, match="reduction must be one of"):
            loss(S, T, reduction="median")
    z = torch.ones(3, 2)
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="tau must be positive"):
            n.in_batch_scores(z, z, tau)
        with pytest.raises(ValueError, match="tau must be positive"):
            n.min_xi(tau, 2)
    with pytest.raises(ValueError, match="one shape"):
        n.in_batch_scores(z, z[:2], 0.1)
    with pytest.raises(ValueError, match="B >= 2"):
        n.in_batch_scores(z[:1], z[:1], 0.1)
    with pytest.raises(ValueError, match="z2 must have no row of zeros"):
        n.in_batch_scores(z, 0 * z, 0.1)
    with pytest.raises(TypeError, match="share one dtype"):
        n.in_batch_scores(z, z.double(), 0.1)
    for function in (lambda K: n.min_xi(0.1, K), n.critical_temperature):
        with pytest.raises(ValueError, match="K must be at least 2"):
            function(1)
    for dtype in (torch.int64, "float32"):
        with pytest.raises(TypeError, match="dtype must be a floating-point"):
            n.critical_temperature(2, dtype)
    with pytest.raises(ValueError, match=r"shape \(n, 64\)"):
        n.in_changing_light(torch.zeros(2, 63))
    with pytest.raises(ValueError, match="light must be non-negative"):
        n.in_changing_light(torch.zeros(2, 64), light=-1)
    with pytest.raises(TypeError, match="x must be a floating"):
        n.in_changing_light(torch.zeros(2, 64, dtype=torch.int64))
