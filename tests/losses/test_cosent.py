"""CoSENT, its sorted form and RankNet against double loops; thresholds and optimal scores."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import Tensor

from kexue_lab.losses import cosent as c

F64 = torch.float64
HALVES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FORMS = (c.cosent_loss, c.cosent_loss_sorted)
BINARY = torch.tensor([0.9, 0.2, 0.6, 0.4, -0.1], dtype=F64), torch.tensor([1, 0, 1, 0, 0])
GRADED = torch.tensor([0.3, 0.8, 0.1, 0.5, 0.45, 0.2], dtype=F64), torch.tensor([3, 5, 1, 2, 4, 1])

scored = st.lists(
    st.tuples(st.floats(-50, 50), st.integers(0, 4), st.floats(0.1, 30)), min_size=1, max_size=12
)


def arrays(drawn: list[tuple[float, int, float]]) -> tuple[Tensor, Tensor, float]:
    f, y, scales = zip(*drawn, strict=True)
    return torch.tensor(f, dtype=F64), torch.tensor(y), scales[0]


def by_loop(f: Tensor, y: Tensor, scale: float) -> float:
    """A double loop over pairs, summed by SciPy."""
    pairs = itertools.product(zip(f.tolist(), y.tolist(), strict=True), repeat=2)
    return float(logsumexp([0.0, *(scale * (b - a) for (a, k), (b, m) in pairs if k > m)]))


# The loss


@pytest.mark.parametrize("form", FORMS)
@given(drawn=scored)
@settings(deadline=None, max_examples=60)
def test_it_is_the_double_loop(form, drawn) -> None:
    f, y, scale = arrays(drawn)
    assert form(f, y, scale).item() == pytest.approx(by_loop(f, y, scale), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("f", "y"), [BINARY, GRADED])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_its_gradient(form, f, y, scale) -> None:
    f = f.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: form(x, y, scale), f)
    (slope,) = torch.autograd.grad(form(f, y, scale), f)
    weights = c.pair_weights(f.detach(), y, scale)
    assert torch.allclose(slope, scale * (weights.sum(0) - weights.sum(1)), atol=1e-10)
    assert abs(slope.sum().item()) < 1e-12
    assert slope.abs().sum() < 2 * scale


@pytest.mark.parametrize("form", FORMS)
@given(drawn=scored, shift=st.floats(-1e3, 1e3))
@settings(deadline=None, max_examples=40)
def test_it_sees_differences_and_order_alone(form, drawn, shift) -> None:
    f, y, scale = arrays(drawn)
    loss = form(f, y, scale)
    assert torch.equal(form(f, y**3 + 7, scale), loss)
    assert torch.equal(form(f, y.double().exp(), scale), loss)
    assert torch.allclose(form(f + shift, y, scale), loss, atol=1e-9, rtol=1e-9)


@given(drawn=scored)
@settings(deadline=None, max_examples=60)
def test_its_bounds(drawn) -> None:
    f, y, scale = arrays(drawn)
    loss = c.cosent_loss(f, y, scale).item()
    worst = ((f - f[:, None]) * (y[:, None] > y)).max().clamp_min(0).item()
    pairs = (y[:, None] > y).sum().item()
    discordant = ((f > f[:, None]) & (y[:, None] > y)).sum().item()
    assert scale * worst - 1e-9 <= loss <= np.log1p(pairs) + scale * worst + 1e-9
    assert discordant <= np.expm1(min(loss, 700)) + 1e-9
    total = c.ranknet_loss(f, y, reduction="sum").item()
    assert c.cosent_loss(f, y, 1.0).item() <= total + 1e-9


def test_discordance_is_what_rank_correlations_count() -> None:
    f = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    discordant = ((f > f[:, None]) & (y[:, None] > y)).sum().item()
    assert kendalltau(f, y)[0] == pytest.approx(1 - 2 * discordant / 66)
    binary = (y > 5).long()
    wrong = ((f > f[:, None]) & (binary[:, None] > binary)).sum().item()
    assert roc_auc_score(binary, f) == pytest.approx(1 - wrong / 36)
    assert c.cosent_loss(y.double(), y, 60.0).item() < 1e-20
    assert spearmanr(y, y)[0] == 1


@pytest.mark.parametrize("form", FORMS)
def test_one_kind_of_label_gives_nothing(form) -> None:
    f = torch.tensor([3.0, -1.0], requires_grad=True)
    loss = form(f, torch.tensor([2, 2]))
    loss.backward()
    assert loss.item() == 0
    assert f.grad.tolist() == [0, 0]


def test_tiny_losses_keep_their_digits() -> None:
    f, y = torch.tensor([50.0, 0.0], dtype=F64), torch.tensor([1, 0])
    for form in FORMS:
        assert form(f, y, 1.0).item() == pytest.approx(np.exp(-50.0), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3, 1e4])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_every_dtype_agrees_with_float64(form, dtype, size, shift) -> None:
    g = torch.Generator().manual_seed(3)
    f = (size * torch.randn(20, generator=g) + shift).clamp(-6e4, 6e4).to(dtype)
    y = torch.randint(4, (20,), generator=g)
    loss, exact = form(f, y, 1.0), by_loop(f.double(), y, 1.0)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps)
    g1 = f.clone().requires_grad_()
    form(g1, y, 1.0).backward()
    g2 = f.double().requires_grad_()
    c.cosent_loss(g2, y, 1.0).backward()
    assert torch.allclose(g1.grad.double(), g2.grad, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("form", FORMS)
def test_beyond_the_dtype_is_refused(form) -> None:
    f = torch.tensor([-1e308, 1e308], dtype=F64)
    with pytest.raises(ValueError, match="must fit"):
        form(f, torch.tensor([1, 0]))
    assert c.cosent_loss(f, torch.tensor([0, 1])).item() == 0  # far in order
    half = torch.tensor([-6e4, 6e4], dtype=torch.float16)
    with pytest.raises(ValueError, match=r"loss must fit torch.float16"):
        form(half, torch.tensor([1, 0]))
    assert form(half, torch.tensor([0, 1])).item() == 0


def test_it_trains_under_vmap() -> None:
    f = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = torch.randint(3, (3, 8), generator=torch.Generator().manual_seed(1))
    for form in (c.cosent_loss, c.ranknet_loss):
        together = torch.vmap(form)(f, y)
        assert torch.allclose(
            together, torch.stack([form(a, b) for a, b in zip(f, y, strict=True)])
        )


# RankNet


@given(drawn=scored)
@settings(deadline=None, max_examples=40)
def test_ranknet_is_binary_cross_entropy_of_differences(drawn) -> None:
    f, y, _ = arrays(drawn)
    i, j = (y[:, None] > y).nonzero(as_tuple=True)
    for reduction in ("mean", "sum"):
        loss = c.ranknet_loss(f, y, reduction=reduction)
        if not len(i):
            assert loss.item() == 0
            continue
        theirs = torch.nn.functional.binary_cross_entropy_with_logits(
            f[i] - f[j], torch.ones(len(i), dtype=F64), reduction=reduction
        )
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_the_gradient_of_ranknet() -> None:
    f, y = GRADED
    for reduction in ("mean", "sum"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: c.ranknet_loss(x, y, reduction=r), f.clone().requires_grad_()
        )
    equal = torch.zeros(3, requires_grad=True)
    c.ranknet_loss(equal, torch.ones(3)).backward()
    assert equal.grad.tolist() == [0, 0, 0]


# Weights


def test_weights_of_two_pairs_out_of_order() -> None:
    f, y = torch.tensor([-1e308, 1e308], dtype=F64), torch.tensor([1, 0])
    assert c.pair_weights(f, y).tolist() == [[0, 1], [0, 0]]


@given(drawn=scored)
@settings(deadline=None, max_examples=40)
def test_weights_are_shares(drawn) -> None:
    f, y, scale = arrays(drawn)
    weights = c.pair_weights(f, y, scale)
    assert bool((weights[y[:, None] <= y] == 0).all())
    share = 1 - np.exp(-by_loop(f, y, scale))
    assert weights.sum().item() == pytest.approx(share, abs=1e-12)


# Thresholds


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=10))
@settings(deadline=None, max_examples=80)
def test_no_threshold_is_better(drawn) -> None:
    f, y = (np.array(v) for v in zip(*drawn, strict=True))
    f = f.astype(float)
    cut = c.best_threshold(f, y)
    assert accuracy_score(y, f > cut.threshold) == pytest.approx(cut.accuracy)
    every = [accuracy_score(y, f > t) for t in np.arange(-3.5, 4)]
    assert cut.accuracy == pytest.approx(max(every))


def test_thresholds_between_neighbouring_floats() -> None:
    low, high = 1.0, float(np.nextafter(1.0, 2))
    assert c.best_threshold(np.array([low, high]), [0, 1]) == (low, 1.0)
    assert c.best_threshold(np.array([-1.7e308, 1.7e308]), [0, 1]) == (0, 1.0)
    assert c.best_threshold(torch.tensor([1.0, 2.0]), [0, 0]).threshold == np.inf
    assert c.best_threshold(torch.tensor([1.0, 2.0]), [True, True]).threshold == -np.inf


# The optimum


def test_the_optimum_is_half_the_log_ratio() -> None:
    p, n = np.array([0.4, 0.3, 0.2, 0.05, 0.05]), np.array([0.05, 0.1, 0.2, 0.25, 0.4])
    loss = lambda f: np.log1p(1e4 * (n @ np.exp(f)) * (p @ np.exp(-f)))  # noqa: E731
    found = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    best = c.half_log_ratio(p, n).numpy()
    assert np.abs(found.x - found.x.mean() - best).max() < 1e-6
    assert (n @ np.exp(best)) * (p @ np.exp(-best)) == pytest.approx(np.sqrt(p * n).sum() ** 2)


# Bad input

BAD = [
    ((torch.tensor([1, 2]), torch.tensor([0, 1])), TypeError, "scores must be a floating"),
    ((torch.zeros(2), [0, 1]), TypeError, "labels must be a real tensor"),
    ((torch.zeros(2), torch.tensor([0j, 1])), TypeError, "labels must be a real tensor"),
    ((torch.zeros(2), torch.zeros(3)), ValueError, r"shape \(B,\)"),
    ((torch.zeros(0), torch.zeros(0)), ValueError, r"shape \(B,\)"),
    ((torch.zeros(2, 1), torch.zeros(2, 1)), ValueError, r"shape \(B,\)"),
    ((torch.tensor([0.0, torch.inf]), torch.zeros(2)), ValueError, "scores must be finite"),
    ((torch.zeros(2), torch.tensor([0.0, torch.nan])), ValueError, "labels must be numbers"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD)
@pytest.mark.parametrize("function", [*FORMS, c.ranknet_loss, c.pair_weights])
def test_bad_input_is_refused(function, arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        function(*arguments)


def test_bad_options_are_refused() -> None:
    f, y = BINARY
    for function in (*FORMS, c.pair_weights):
        for scale in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="scale must be positive"):
                function(f, y, scale)
    with pytest.raises(ValueError, match="reduction must be one of"):
        c.ranknet_loss(f, y, reduction="none")
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        c.best_threshold(f, torch.tensor([0, 1, 2, 0, 1]))
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        c.best_threshold(f, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="scores must be floating"):
        c.best_threshold([1, 2], [0, 1])
    with pytest.raises(ValueError, match="p must be positive"):
        c.half_log_ratio(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="n must sum to 1"):
        c.half_log_ratio(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.4]))
    with pytest.raises(ValueError, match=r"shape \(S,\)"):
        c.half_log_ratio(torch.tensor([0.5, 0.5]), torch.tensor([1.0]))
