"""SimSiam: closed limits against a solver, the linear model's invariants, loss and metrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from kexue_lab.optimization.simsiam import (
    collapse_metrics,
    linear_flow,
    mode_fixed_points,
    simsiam_loss,
    toy_flow,
    toy_limit,
)
from kexue_lab.optimization.simsiam_exercises import EXERCISES

MODES = ("stop_gradient", "full", "target_only")
OFF = st.floats(-2.5, 2.5)


def conserved(mode, phi, theta):
    return {
        "stop_gradient": theta**2 - phi**2,
        "full": (phi - 1) ** 2 - theta**2,
        "target_only": theta**2 + 2 * phi,
    }[mode]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- two numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "start", "end"),
    [
        ("stop_gradient", (0.6, 0.1), (1, 0.80622577)),
        ("full", (0.6, 0.1), (0.61270167, 0)),
        ("target_only", (0.6, 0.1), (0.605, 0)),
        ("full", (0.6, 0.5), (1, 0.3)),
        ("stop_gradient", (1.5, 1.0), (1.11803399, 0)),
        ("stop_gradient", (1.5, 1.2), (1, 0.43588989)),
        ("stop_gradient", (-0.5, 0.4), (-0.3, 0)),
        ("stop_gradient", (-0.5, 0.6), (1, 1.05356538)),
        ("target_only", (1.3, -0.5), (1, -math.sqrt(0.85))),
    ],
)
def test_the_limit_is_where_the_flow_goes(mode, start, end):
    found = toy_limit(*start, mode)
    assert found == pytest.approx(end, abs=1e-7)
    assert toy_flow(*start, mode, [3000.0])[:, 0] == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
@given(phi=OFF, theta=OFF)
def test_the_limit_keeps_what_is_conserved_and_rests(mode, phi, theta):
    end = toy_limit(phi, theta, mode)
    assert conserved(mode, *end) == pytest.approx(conserved(mode, phi, theta), abs=1e-9)
    assert end[0] == 1 or end[1] == 0
    assert end[1] * theta >= 0


@given(phi=OFF, theta=st.floats(1e-3, 2.5))
def test_it_collapses_from_the_closed_form_sets_only(phi, theta):
    sets = {
        "stop_gradient": (phi <= -theta, phi - math.sqrt(1 + theta**2)),
        "full": (False, abs(1 - phi) - theta),
        "target_only": (False, 2 * (1 - phi) - theta**2),
    }
    for mode, (surely, past) in sets.items():
        if abs(past) > 1e-9 and abs(phi + theta) > 1e-9 and phi != 1:
            assert (toy_limit(phi, theta, mode)[1] == 0) == (surely or past > 0), mode


@pytest.mark.parametrize("mode", MODES)
def test_the_flow_keeps_what_is_conserved(mode):
    phi, theta = toy_flow(0.3, 0.7, mode, np.linspace(0, 20, 9))
    assert np.ptp(conserved(mode, phi, theta)) < 1e-9
    # ... and not what another flow conserves.
    other = MODES[MODES.index(mode) - 1]
    assert np.ptp(conserved(other, phi, theta)) > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_a_start_without_encoder_stays(mode):
    assert toy_limit(0.4, 0.0, mode) == (0.4, 0.0)
    assert toy_flow(0.4, 0.0, mode, [0.0, 5.0]).tolist() == [[0.4, 0.4], [0, 0]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", [(1e200, 1e200), (-1e300, 1e-300), (1.0, 1e300), (3e150, 1e10)])
def test_huge_starts_have_finite_limits(mode, start):
    assert all(map(math.isfinite, toy_limit(*start, mode)))


# --- the linear model --------------------------------------------------------------------------


@given(sigma2=st.floats(0, 5), eta=st.floats(0, 0.5))
def test_fixed_points_solve_their_equation_in_order(sigma2, eta):
    points = mode_fixed_points(sigma2, eta)
    assert list(points) == sorted(points)
    for p in points:
        assert p * (p * (1 - (1 + sigma2) * p) - eta) == pytest.approx(0, abs=1e-12)
    assert (len(points) == 1) == (4 * eta * (1 + sigma2) > 1)


def test_fixed_points_in_numbers():
    assert mode_fixed_points(0.2, 0.05) == pytest.approx((0, 0.05342509, 0.77990825), abs=1e-8)
    assert mode_fixed_points(0.2, 0.2) == pytest.approx((0, 1 / 3, 0.5))
    assert mode_fixed_points(0.2, 0.22) == (0.0,)
    assert mode_fixed_points(1.0, 0.0) == (0.0, 0.5)


@pytest.mark.parametrize("eta", [0.0, 0.02, 0.2])
def test_what_the_stopped_flow_forgets(eta):
    W, P, alpha = 0.3 * random(4, 6), 0.3 * random(4, 4, seed=1), 2.0
    root, other = random(6, 6, seed=2), 0.3 * random(6, 6, seed=3)
    X, X_aug = root @ root.T / 6, other @ other.T
    end = linear_flow(W, P, X, X_aug, eta, 5.0, predictor_lr=alpha)
    before = W @ W.T - P.T @ P / alpha
    after = end.encoder @ end.encoder.T - end.predictor.T @ end.predictor / alpha
    torch.testing.assert_close(after, math.exp(-2 * eta * 5) * before, atol=1e-9, rtol=0)


def test_one_mode_goes_to_its_upper_fixed_point_or_dies():
    sigma2, eta = 0.2, 0.05
    low, high = mode_fixed_points(sigma2, eta)[1:]
    one = torch.eye(1, dtype=torch.float64)
    for p0, end in ((0.9 * low, 0.0), (1.1 * low, high)):
        found = linear_flow(p0 * one, p0 * one, one, sigma2 * one, eta, 3000.0)
        assert found.predictor.item() == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize(
    ("p0", "s0", "lives"), [(0.03, 0.5, True), (0.0, 0.5, True), (0.06, 1e-4, False)]
)
def test_off_the_curve_the_encoder_decides_as_well(p0, s0, lives):
    high = mode_fixed_points(0.2, 0.05)[-1]
    one = torch.eye(1, dtype=torch.float64)
    end = linear_flow(math.sqrt(s0) * one, p0 * one, one, 0.2 * one, 0.05, 3000.0)
    assert end.predictor.item() == pytest.approx(high if lives else 0, abs=1e-6)


@pytest.mark.parametrize("sigma2", [0.0, 0.2, 1.0])
def test_unaligned_matrices_end_at_the_fixed_points_mode_by_mode(sigma2):
    W = 0.5 * random(3, 5) * torch.tensor([[1.0], [1.0], [0.3]], dtype=torch.float64)
    P = torch.tensor([0.7, 0.7, 0.2], dtype=torch.float64).diag() + 0.1 * random(3, 3, seed=1)
    one = torch.eye(5, dtype=torch.float64)
    for share in (0.4, 0.8, 1.2):
        eta = share / (4 * (1 + sigma2))
        end = linear_flow(W, P, one, sigma2 * one, eta, 300.0)
        top = mode_fixed_points(sigma2, eta)[-1]
        found = torch.linalg.svdvals(end.encoder).numpy()
        assert found.max() == pytest.approx(top, abs=1e-3)
        assert (np.minimum(abs(found - top), found) < 1e-3).all()


def test_without_stopping_or_predictor_the_linear_encoder_decays_as_said():
    W, one = random(3, 5), torch.eye(3, dtype=torch.float64)
    root = random(5, 5, seed=2)
    X, X_aug = root @ root.T / 5, torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)) / 10
    step = 1e-6
    end = linear_flow(W, one, X, X_aug, 0.05, step).encoder
    torch.testing.assert_close((end - W) / step, -W @ X_aug - 0.05 * W, atol=1e-3, rtol=1e-3)


def test_without_stopping_the_encoder_collapses_at_least_as_fast_as_proved():
    W, P = random(3, 5), random(3, 3, seed=1)
    root = random(5, 5, seed=2)
    X, X_aug = root @ root.T / 5, 0.1 * torch.eye(5, dtype=torch.float64)
    end = linear_flow(W, P, X, X_aug, 0.05, 10.0, stop_gradient=False)
    bound = math.exp(-(0.1 + 0.05) * 10) * W.norm()
    assert end.encoder.norm() <= bound


@pytest.mark.parametrize("stop", [True, False])
def test_the_flow_is_minus_autograds_gradient(stop):
    W, P = random(2, 3).requires_grad_(), random(2, 2, seed=1).requires_grad_()
    x, noise = random(400, 3, seed=2), 0.4 * random(400, 3, seed=3)
    X, X_aug = x.T @ x / 400, noise.T @ noise / 400
    own = X + X_aug

    def loss(W, target):
        # ½E‖P W x₁ − T x₂‖² in moments; two independent views share the mean view only.
        error = P @ W @ own @ W.T @ P.T - 2 * P @ W @ X @ target.T + target @ own @ target.T
        return 0.5 * error.trace()

    value = loss(W, W.detach() if stop else W)
    by_W, by_P = torch.autograd.grad(value, [W, P])
    step = 1e-6
    end = linear_flow(W.detach(), P.detach(), X, X_aug, 0.0, step, stop_gradient=stop)
    torch.testing.assert_close((end.encoder - W.detach()) / step, -by_W, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((end.predictor - P.detach()) / step, -by_P, atol=1e-4, rtol=1e-4)


# --- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_is_torchs_cosine(reduction):
    p1, p2, z1, z2 = (random(6, 4, seed=s) for s in range(4))
    each = -0.5 * (cosine_similarity(p1, z2) + cosine_similarity(p2, z1))
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(simsiam_loss(p1, p2, z1, z2, reduction=reduction), expected)


def test_stopping_the_gradient_stops_it_at_the_features():
    vectors = [random(3, 4, seed=s).requires_grad_() for s in range(4)]
    simsiam_loss(*vectors).backward()
    assert [v.grad is None for v in vectors] == [False, False, True, True]
    assert torch.autograd.gradcheck(
        lambda *v: simsiam_loss(*v, stop_gradient=False, reduction="none"), vectors
    )


def test_without_predictor_stopping_halves_the_gradient():
    weights = random(4, 4).requires_grad_()
    one, two = (random(5, 4, seed=s) @ weights for s in (1, 2))
    grads = [
        torch.autograd.grad(
            simsiam_loss(one, two, one, two, stop_gradient=stop), weights, retain_graph=True
        )[0]
        for stop in (True, False)
    ]
    torch.testing.assert_close(2 * grads[0], grads[1])


def test_metrics_tell_both_kinds_of_collapse():
    spread = collapse_metrics(random(4000, 8))
    assert spread.std == pytest.approx(1, abs=0.02)
    assert spread.effective_rank == pytest.approx(8, abs=0.1)
    complete = collapse_metrics(torch.ones(50, 8, dtype=torch.float64) + 1e-3 * random(50, 8))
    assert complete.std < 0.01
    assert complete.mean_cosine > 0.999
    line = collapse_metrics(random(4000, 1) * torch.ones(1, 8, dtype=torch.float64))
    assert line.std == pytest.approx(1, abs=0.02), "the spread alone does not see it"
    assert line.effective_rank == pytest.approx(1)


@given(scale=st.sampled_from([1e-300, 1e-8, 1.0, 1e8, 1e300]))
def test_metrics_do_not_depend_on_the_scale(scale):
    z = random(9, 3)
    assert collapse_metrics(scale * z) == pytest.approx(tuple(collapse_metrics(z)))


def test_the_metrics_are_numpys():
    z = random(20, 5)
    unit = (z / z.norm(dim=1, keepdim=True)).numpy()
    covariance = np.cov(unit.T)
    values = np.linalg.eigvalsh(covariance)
    cosines = (unit @ unit.T)[~np.eye(20, dtype=bool)]
    expected = (
        unit.std(0, ddof=1).mean() * math.sqrt(5),
        values.sum() ** 2 / (values**2).sum(),
        cosines.mean(),
    )
    assert collapse_metrics(z) == pytest.approx(expected)


def test_the_detector_of_exercise_5_accepts_the_librarys_spread():
    def by_the_library(z):
        found = collapse_metrics(torch.from_numpy(z))
        if found.std < 0.2:
            return 1
        return 2 if found.effective_rank < z.shape[1] / 3 else 0

    for seed in range(20):
        for inputs in EXERCISES[4].inputs(np.random.default_rng(seed)):
            assert EXERCISES[4].solution(*inputs) == by_the_library(*inputs)


ONE, TWO = torch.ones(2, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: toy_limit(math.nan, 1.0), ValueError, "phi0 must be finite"),
        (lambda: toy_limit("1", 1.0), TypeError, "phi0 must be a real number"),
        (lambda: toy_limit(0.0, 1.0, "half"), ValueError, "mode must be one of"),
        (lambda: toy_flow(0.0, 1.0, "full", [2.0, 1.0]), ValueError, "t must be increasing"),
        (lambda: mode_fixed_points(-1.0, 0.0), ValueError, "sigma2"),
        (lambda: linear_flow(ONE, TWO, ONE, ONE, 0.0, 1.0), ValueError, "Wp0 must have shape"),
        (lambda: linear_flow(ONE, ONE, ONE, random(2, 2), 0.0, 1.0), ValueError, "X_aug must be s"),
        (lambda: linear_flow(*[ONE.float()] * 4, 0.0, 1.0), TypeError, "W0 must be float64"),
        (lambda: linear_flow(*[ONE] * 4, -0.1, 1.0), ValueError, "eta"),
        (lambda: simsiam_loss(ONE, ONE, ONE, TWO), ValueError, "z2 must have the shape of p1"),
        (lambda: simsiam_loss(*[ONE] * 4, reduction="x"), ValueError, "reduction must be one of"),
        (lambda: collapse_metrics(ONE[:1]), ValueError, "z must have shape"),
        (lambda: collapse_metrics(ONE / 0), ValueError, "z must be finite"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
