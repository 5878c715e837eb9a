import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import brentq, minimize
from scipy.special import expit, log_ndtr, log_softmax
from scipy.stats import laplace, norm

from kexue_lab.losses import soft_top_k as stk

F64 = torch.float64
KINDS = ("sigmoid", "exp", "laplace", "gauss", "clip")
SQUASH = {
    "sigmoid": expit,
    "exp": lambda z: np.exp(np.minimum(z, 0)),
    "laplace": laplace.cdf,
    "gauss": norm.cdf,
    "clip": lambda z: np.clip(z, 0, 1),
}
FOUR = torch.tensor([3.0, 2, 1, 4], dtype=F64)
PROPER = {
    "grad": stk.grad_top_k,
    **{
        kind: (lambda x, k, kind=kind: stk.threshold_top_k(x, k, kind))  # type: ignore[misc]
        for kind in KINDS
    },
}


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=g, dtype=F64)


def by_subsets(x: torch.Tensor, k: int) -> torch.Tensor:
    subsets = torch.tensor(list(combinations(range(len(x)), k)))
    weights = torch.softmax(x[subsets].sum(-1), 0)
    return torch.zeros_like(x).index_add(0, subsets.flatten(), weights.repeat_interleave(k))


scores = hnp.arrays(
    np.float64, st.integers(2, 7), elements=st.floats(-30, 30, allow_nan=False, width=32)
)


# Values


def test_known_values() -> None:
    expected = {
        "grad": (0.69441330, 0.30558670, 0.11920292, 0.88079708),
        "exp": (0.66524096, 0.24472847, 0.09003057, 1),
        "sigmoid": (0.62245933, 0.37754067, 0.18242552, 0.81757448),
        "laplace": (0.69673467, 0.30326533, 0.11156508, 0.88843492),
        "gauss": (0.69146246, 0.30853754, 0.06680720, 0.93319280),
        "clip": (1, 0, 0, 1),
    }
    for name, function in PROPER.items():
        assert function(FOUR, 2).tolist() == pytest.approx(expected[name], abs=1e-8)
    clipped = stk.threshold_top_k(FOUR / 10, 2, "clip")
    assert clipped.tolist() == pytest.approx([0.55, 0.45, 0.35, 0.65], abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 300.0])
def test_grad_top_k_against_all_subsets(n: int, scale: float) -> None:
    x = normal(n, seed=n, scale=scale)
    for k in range(1, n + 1):
        torch.testing.assert_close(stk.grad_top_k(x, k), by_subsets(x, k), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@given(x=scores, data=st.data())
@settings(deadline=None, max_examples=60)
def test_thresholds_against_root_finding(kind: str, x: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(x) - 1))
    p, at = stk.threshold_top_k(torch.from_numpy(x), k, kind, return_threshold=True)  # type: ignore[call-overload]
    squash = SQUASH[kind]
    assert squash(x - at.item()).sum() == pytest.approx(k, abs=1e-9)
    root = brentq(lambda v: squash(x - v).sum() - k, x.min() - 40, x.max() + 40, xtol=1e-13)
    np.testing.assert_allclose(p, squash(x - root), atol=1e-8)


def test_clip_is_the_nearest_point() -> None:
    x = normal(5, seed=3).numpy()
    best = minimize(
        lambda p: ((p - x) ** 2).sum(),
        np.full(5, 0.4),
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 2},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    p = stk.threshold_top_k(torch.from_numpy(x), 2, "clip")
    np.testing.assert_allclose(p, best.x, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_exp_is_the_projection_by_kl(k: int) -> None:
    x = normal(5, seed=4).numpy()
    best = minimize(
        lambda p: (p * (np.log(np.maximum(p, 1e-300)) - x) - p).sum(),
        np.full(5, k / 5),
        bounds=[(1e-9, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - k},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    p = stk.threshold_top_k(torch.from_numpy(x), k, "exp")
    np.testing.assert_allclose(p, best.x, atol=1e-5)


def test_the_sigmoid_is_a_transport_plan() -> None:
    cost = np.stack([-FOUR.numpy(), np.zeros(4)], -1)
    squared = np.stack([(FOUR.numpy() - 1) ** 2, FOUR.numpy() ** 2], -1)
    for matrix, tau in ((cost, 0.5), (squared, 0.25)):
        plan = ot.sinkhorn(np.full(4, 0.25), [0.5, 0.5], matrix, 0.5, stopThr=1e-14)
        p = stk.threshold_top_k(FOUR / tau, 2)
        np.testing.assert_allclose(p, 4 * plan[:, 0], atol=1e-9)


def test_for_one_place_three_are_softmax() -> None:
    x = normal(20, 6, scale=2)
    for soft in (
        stk.grad_top_k(x, 1),
        stk.threshold_top_k(x, 1, "exp"),
        stk.iterative_top_k(x, 1, "weights"),
        stk.iterative_top_k(x, 1, "subset"),
        stk.iterative_top_k(x, 1),
    ):
        torch.testing.assert_close(soft, x.softmax(-1))


def test_laplace_is_softmax_up_to_one_half() -> None:
    x = normal(500, 5, scale=1.5)
    q, p = x.softmax(-1), stk.threshold_top_k(x, 1, "laplace")
    low = q.amax(-1) <= 0.5
    assert 0 < low.sum() < 500
    torch.testing.assert_close(p[low], q[low])
    winner = p[~low].amax(-1)
    torch.testing.assert_close(q[~low].amax(-1), 1 / (1 + 4 * (1 - winner) ** 2))
    assert (winner < q[~low].amax(-1)).all()


def test_elementary_symmetric_polynomials() -> None:
    x = normal(6)
    found = stk.log_elementary_symmetric(x, 6)
    expected = [
        math.log(sum(math.exp(sum(x[list(S)].tolist())) for S in combinations(range(6), j)))
        for j in range(7)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    y = x.clone().requires_grad_()
    slope = torch.autograd.grad(stk.log_elementary_symmetric(y, 4)[4], y)[0]
    torch.testing.assert_close(slope, stk.grad_top_k(x, 4))


# What each promises


@pytest.mark.parametrize("name", PROPER)
@given(x=scores, data=st.data())
@settings(deadline=None, max_examples=60)
def test_the_proper_ones_keep_all_promises(name: str, x: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(x) - 1))
    soft = PROPER[name]
    ordered = torch.from_numpy(np.sort(x))
    p = soft(ordered, k)
    assert ((p >= 0) & (p <= 1)).all()
    assert p.sum().item() == pytest.approx(k, abs=1e-9)
    assert (p.diff() >= -1e-12).all()
    torch.testing.assert_close(soft(ordered + 1000, k), p, rtol=0, atol=1e-8)
    turned = torch.flip(ordered, (0,))
    torch.testing.assert_close(soft(turned, k), torch.flip(p, (0,)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", [*PROPER, "scores", "subset"])
def test_convergence(name: str) -> None:
    x = normal(30, 6, seed=1)
    for k in (1, 2, 4):
        if name in PROPER:
            cold = PROPER[name](x / 1e-6, k)
        else:
            cold = stk.iterative_top_k(x, k, name, tau=1e-6)  # type: ignore[arg-type]
        torch.testing.assert_close(cold, stk.hard_top_k(x, k), rtol=0, atol=1e-9)


@pytest.mark.parametrize("tau", [0.15, 0.01, 1e-5])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_weights_do_not_converge(k: int, tau: float) -> None:
    p = stk.iterative_top_k(FOUR, k - (k == 4), "weights", tau=tau)
    size = k - (k == 4)
    expected = torch.tensor([0.5, 0, 0, size - 0.5], dtype=F64)
    torch.testing.assert_close(p, expected, rtol=0, atol=5e-3)


def plain_iteration(x: np.ndarray, k: int, variant: str, tau: float) -> np.ndarray:
    p, left = np.zeros_like(x), np.zeros_like(x)
    for _ in range(k):
        if variant == "scores":
            q = np.exp(log_softmax((1 - p) * (x - x.min()) / tau))
        elif variant == "weights":
            q = (1 - p) * np.exp(x / tau)
            q = q / q.sum()
        else:
            q = np.exp(log_softmax((x + left) / tau))
            left = left + np.log1p(-q)
        p = p + q
    return p


@pytest.mark.parametrize("variant", ["scores", "weights", "subset"])
def test_iterations_against_their_definitions(variant: str) -> None:
    x = normal(6, seed=2)
    for k in (1, 2, 3):
        for tau in (0.5, 1.0, 3.0):
            p = stk.iterative_top_k(x, k, variant, tau=tau)  # type: ignore[arg-type]
            np.testing.assert_allclose(p, plain_iteration(x.numpy(), k, variant, tau), rtol=1e-9)
            assert p.sum().item() == pytest.approx(k)


def test_temperatures_in_a_tensor() -> None:
    x, taus = normal(3, 6), torch.tensor([[0.3], [1.0], [2.0]], dtype=F64)
    for variant in ("scores", "weights", "subset"):
        together = stk.iterative_top_k(x, 2, variant, tau=taus)
        for row, tau, p in zip(x, taus, together, strict=True):
            alone = stk.iterative_top_k(row, 2, variant, tau=tau.item())
            torch.testing.assert_close(p, alone)


def test_iterations_break_promises() -> None:
    p = stk.iterative_top_k(torch.tensor([2.0, 1, 0], dtype=F64), 2)
    assert p.tolist() == pytest.approx([1.049636, 0.663541, 0.286823], abs=1e-6)
    swapped = stk.iterative_top_k(torch.tensor([8.0, 7, 0], dtype=F64), 2)
    assert swapped[1] > 1 > swapped[0]
    assert stk.iterative_top_k(FOUR, 2, "subset", tau=0.8).max() > 1.05
    cold = stk.iterative_top_k(FOUR, 2, "subset", tau=0.1)
    assert cold[0] > cold[3] + 1e-5
    near_a_pole = torch.tensor([-3.94, -2.97, 0.79, 1.28], dtype=F64)
    assert stk.iterative_top_k(near_a_pole, 3, "weights").diff().min() < -10


@pytest.mark.parametrize("name", ["grad", "sigmoid", "laplace", "gauss", "clip"])
def test_the_complement(name: str) -> None:
    x = normal(8)
    other = 1 - PROPER[name](-x, 5)
    if name == "clip":  # f(z) + f(1 - z) = 1: the complement again, by a shift
        assert other.sum().item() == pytest.approx(3)
    torch.testing.assert_close(PROPER[name](x, 3), other, rtol=0, atol=1e-9)


def test_no_complement_for_exp() -> None:
    p, other = stk.threshold_top_k(FOUR, 2, "exp"), 1 - stk.threshold_top_k(-FOUR, 2, "exp")
    assert (p - other).abs().max().item() == pytest.approx(0.0900, abs=1e-4)


def test_equal_scores_share() -> None:
    x = torch.tensor([1.0, 1, 1, 0], dtype=F64)
    for soft in PROPER.values():
        p = soft(x / 1e-3, 2)
        assert p.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0], abs=1e-9)
    assert stk.hard_top_k(x, 2).tolist() == [1, 1, 0, 0]


# Gradients


def slopes(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    y = x.clone().requires_grad_()
    p = function(y)
    return torch.stack([torch.autograd.grad(v, y, retain_graph=True)[0] for v in p])


@pytest.mark.parametrize("name", PROPER)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_gradients(name: str, k: int) -> None:
    x = normal(2, 6, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: PROPER[name](v, k), (x,))


@pytest.mark.parametrize("variant", ["scores", "weights", "subset"])
def test_gradients_of_iterations(variant: str) -> None:
    x = normal(6, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: stk.iterative_top_k(v, 3, variant, tau=0.7),  # type: ignore[arg-type]
        (x,),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_jacobian(kind: str) -> None:
    x = normal(6, seed=6)
    J = stk.threshold_jacobian(x, 2, kind)  # type: ignore[arg-type]
    auto = slopes(lambda v: PROPER[kind](v, 2), x)
    torch.testing.assert_close(J, auto, rtol=0, atol=1e-12)
    torch.testing.assert_close(J, J.T)
    assert J.sum(-1).abs().max() < 1e-12
    assert torch.linalg.eigvalsh(J).min() > -1e-12


def test_known_slopes() -> None:
    J = stk.threshold_jacobian(FOUR, 2)
    assert J.diag().tolist() == pytest.approx([0.163122, 0.163122, 0.120193, 0.120193], abs=1e-6)
    assert [J[0, 1].item(), J[2, 3].item()] == pytest.approx([-0.071882, -0.028953], abs=1e-6)
    C = slopes(lambda v: stk.grad_top_k(v, 2), FOUR)
    found = [C[0, 0].item(), C[0, 1].item(), C[2, 3].item()]
    assert found == pytest.approx([0.21220347, -0.13290480, -0.02569492], abs=1e-8)


@pytest.mark.parametrize("name", PROPER)
@pytest.mark.parametrize("scale", [1e3, 1e10, 1e30, 1e100, 1e148])
def test_far_apart(name: str, scale: float) -> None:
    x = normal(20, seed=7, scale=scale).requires_grad_()
    p = PROPER[name](x, 5)
    torch.testing.assert_close(p, stk.hard_top_k(x, 5), rtol=0, atol=1e-9)
    slope = torch.autograd.grad((p * torch.arange(20)).sum(), x)[0]
    assert slope.isfinite().all()


@pytest.mark.parametrize("kind", ["sigmoid", "gauss", "laplace"])
def test_one_close_pair_among_far_scores(kind: str) -> None:
    x = torch.tensor([1e30, 1.0, 0.0, -1e30], dtype=F64)
    pair = stk.threshold_top_k(x[1:3], 1, kind)  # type: ignore[call-overload]
    p = stk.threshold_top_k(x, 2, kind)  # type: ignore[call-overload]
    torch.testing.assert_close(p, torch.cat([torch.ones(1), pair, torch.zeros(1)]))


def test_a_second_derivative_is_refused() -> None:
    x = FOUR.clone().requires_grad_()
    slope = torch.autograd.grad(stk.threshold_top_k(x, 2)[0], x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(slope[0], x)


def test_the_threshold_of_a_wide_gap() -> None:
    x = np.array([60.0, 50, -50, -70])
    _, at = stk.threshold_top_k(torch.from_numpy(x), 2, "gauss", return_threshold=True)
    assert np.isclose(log_ndtr(x[2] - at.item()), log_ndtr(at.item() - x[1]), rtol=1e-9)


# Shapes, dtypes, bad input


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype: torch.dtype) -> None:
    x = normal(2, 3, 6).to(dtype)
    functions = [
        *PROPER.values(),
        lambda v, k: stk.iterative_top_k(v, k),
        lambda v, k: stk.log_elementary_symmetric(v, k),
        stk.hard_top_k,
    ]
    for function in functions:
        p = function(x, 2)
        assert p.dtype == dtype
        exact = function(x.double(), 2)
        assert torch.allclose(p.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)
    p, at = stk.threshold_top_k(x, 2, return_threshold=True)
    assert p.shape == x.shape
    assert at.shape == (2, 3)
    assert stk.threshold_jacobian(x, 2).shape == (2, 3, 6, 6)


ALL = [
    *PROPER.values(),
    stk.hard_top_k,
    stk.iterative_top_k,
    stk.threshold_jacobian,
    stk.log_elementary_symmetric,
]


@pytest.mark.parametrize("function", ALL)
def test_bad_input(function) -> None:  # type: ignore[no-untyped-def]
    wrong = ((0, ValueError), (-1, ValueError), (5, ValueError), (1.0, TypeError))
    for k, error in wrong:
        with pytest.raises(error, match="k must"):
            function(FOUR, k)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        function(FOUR.long(), 2)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        function([3.0, 2.0], 1)
    with pytest.raises(ValueError, match="x must have shape"):
        function(FOUR[0], 1)
    with pytest.raises(ValueError, match="x must have shape"):
        function(FOUR[:1], 1)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="x must be finite"):
            function(torch.tensor([bad, 1.0, 2.0]), 1)


def test_all_of_n() -> None:
    assert stk.grad_top_k(FOUR, 4).tolist() == pytest.approx([1] * 4)
    for function in (stk.threshold_top_k, stk.iterative_top_k, stk.hard_top_k):
        with pytest.raises(ValueError, match="k must be at most 3 for n = 4, got 4"):
            function(FOUR, 4)


def test_bad_choices() -> None:
    with pytest.raises(ValueError, match=r"kind .*'cauchy'"):
        stk.threshold_top_k(FOUR, 2, "cauchy")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"kind .*'cauchy'"):
        stk.threshold_jacobian(FOUR, 2, "cauchy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"variant .*'sum'"):
        stk.iterative_top_k(FOUR, 2, "sum")  # type: ignore[arg-type]
    for tau in (0.0, -1.0, math.inf, torch.tensor([0.0])):
        with pytest.raises(ValueError, match="tau must be positive"):
            stk.iterative_top_k(FOUR, 2, tau=tau)


def test_a_logarithm_beyond_the_dtype() -> None:
    with pytest.raises(ValueError, match="log e_j must fit"):
        stk.log_elementary_symmetric(torch.full((4,), 65504.0, dtype=torch.float16), 2)


def test_gradients_of_the_smallest_score() -> None:
    """In "scores" the minimum is subtracted before 1 − p multiplies: it has a gradient."""
    x = FOUR.clone().requires_grad_()
    slope = torch.autograd.grad(stk.iterative_top_k(x, 2)[0], x)[0]
    step = torch.eye(4, dtype=F64) * 1e-6
    p = stk.iterative_top_k(FOUR + step, 2)[:, 0] - stk.iterative_top_k(FOUR - step, 2)[:, 0]
    torch.testing.assert_close(slope, p / 2e-6, rtol=1e-6, atol=1e-9)
