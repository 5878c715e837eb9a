import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import entropy, norm
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from kexue_lab.generative.finite_scalar_quantization import (
    FSQ,
    VectorQuantizer,
    codebook_usage,
    level_probabilities,
    lloyd_max,
    round_ste,
)
from kexue_lab.training import generator

POINT = (0.3, -1.2, 2.0, -0.1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# --- rounding


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_rounding_is_numpys_and_its_gradient_the_identitys(values):
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    cotangent = torch.arange(1.0, len(values) + 1, dtype=torch.float64)
    rounded = round_ste(x)
    assert rounded.tolist() == np.round(values).tolist()
    rounded.backward(cotangent)
    assert torch.equal(x.grad, cotangent)


def test_halves_go_to_even():
    assert round_ste(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


# --- finite scalar quantisation


def test_mixed_radix():
    fsq = FSQ([8, 5, 5, 5])
    assert fsq.codebook_size == 1000
    assert fsq.basis.tolist() == [1, 8, 40, 200]
    assert fsq.codes_to_indices(torch.tensor([3, 0, 4, 2])).item() == 563
    assert fsq.indices_to_codes(torch.tensor(777)).tolist() == [1, 2, 4, 3]
    numbers = torch.arange(1000)
    codes = fsq.indices_to_codes(numbers)
    assert torch.equal(fsq.codes_to_indices(codes), numbers)
    theirs = np.stack(np.unravel_index(numbers.numpy(), (8, 5, 5, 5), order="F"), -1)
    assert np.array_equal(codes.numpy(), theirs)


def test_a_point_by_the_sigmoid():
    z = torch.tensor(POINT, dtype=torch.float64, requires_grad=True)
    z_hat, index = FSQ([8, 5, 5, 5])(z)
    assert index.item() == 572
    assert z_hat.tolist() == pytest.approx([1 / 7, -0.5, 1, 0], abs=1e-12)
    z_hat.sum().backward()
    slopes = [1.71120818, 0.71157776, 0.41997434, 0.99750416]  # of the levels
    assert (z.grad * torch.tensor([3.5, 2, 2, 2])).tolist() == pytest.approx(slopes, abs=1e-8)


def test_a_point_by_the_papers_tanh():
    z = torch.tensor(POINT, dtype=torch.float64, requires_grad=True)
    z_hat, index = FSQ([8, 5, 5, 5], bound="tanh")(z)
    assert z_hat.tolist() == [0.25, -1, 1, 0]
    assert FSQ([8, 5, 5, 5]).indices_to_codes(index).tolist() == [5, 0, 4, 2]
    z_hat.sum().backward()
    reach = np.array([3.4965, 1.998, 1.998, 1.998])
    moved = np.array(POINT) + np.tan(np.array([0.5, 0, 0, 0]) / reach)
    expected = reach / np.array([4, 2, 2, 2]) / np.cosh(moved) ** 2
    assert z.grad.tolist() == pytest.approx(expected.tolist(), abs=1e-12)


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=5),
    st.sampled_from(["sigmoid", "tanh"]),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from([0.1, 1.0, 30.0, 1e4]),
    st.integers(0, 100),
)
def test_output_and_index_name_one_code(levels, bound, dtype, scale, seed):
    fsq = FSQ(levels, bound=bound)
    z_hat, indices = fsq((scale * random(7, len(levels), seed=seed)).to(dtype))
    assert z_hat.dtype == dtype
    assert indices.dtype == torch.int64
    codes, sizes = fsq.indices_to_codes(indices).double(), torch.tensor(levels)
    values = 2 * codes / (sizes - 1) - 1 if bound == "sigmoid" else codes / (sizes // 2) - 1
    tolerance = 2 * torch.finfo(dtype).eps
    assert torch.allclose(z_hat.double(), values.double(), rtol=0, atol=tolerance)
    assert float(z_hat.abs().max()) <= 1


@pytest.mark.parametrize("bound", ["sigmoid", "tanh"])
@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8, 999, 1000])
def test_the_outer_levels_are_reached(levels, bound):
    _, indices = FSQ([levels], bound=bound)(torch.tensor([[-50.0], [50.0]]))
    assert indices.tolist() == [0, levels - 1]


# --- usage


def drawn(levels, std, bound, draws=1_000_000):
    z = std * torch.randn(draws, 1, generator=generator(0))
    return np.bincount(FSQ([levels], bound=bound)(z)[1], minlength=levels) / draws


@pytest.mark.parametrize("bound", ["sigmoid", "tanh"])
@pytest.mark.parametrize(("levels", "std"), [(2, 1.0), (4, 1.0), (5, 1.0), (5, 2.3), (8, 0.4)])
def test_probabilities_are_frequencies(levels, std, bound):
    p = level_probabilities(levels, std, bound=bound)
    assert p.sum() == pytest.approx(1, abs=1e-14)
    errors = np.sqrt(p * (1 - p) / 1_000_000)
    assert np.all(np.abs(drawn(levels, std, bound) - p) <= 4.5 * errors + 1e-6)


@pytest.mark.parametrize("levels", [2, 5, 8])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_probabilities_are_those_of_mpmath(levels, std):
    at_most = [0]
    for level in range(levels - 1):
        w = mpmath.mpf(2 * level + 1) / (2 * levels - 2)
        at_most.append(mpmath.ncdf(mpmath.log(w / (1 - w)) / std))
    theirs = [float(b - a) for a, b in itertools.pairwise([*at_most, 1])]
    assert level_probabilities(levels, std) == pytest.approx(theirs, abs=1e-14)


def test_probabilities_of_single_cases():
    p = level_probabilities(5, 1.0)
    assert entropy(p, base=2) == pytest.approx(1.829841, abs=1e-6)
    p = level_probabilities(5, 2.0)
    assert entropy(p, base=2) == pytest.approx(2.304812, abs=1e-6)
    assert entropy(level_probabilities(8, 2.0), base=2) == pytest.approx(2.979398, abs=1e-6)
    assert math.exp(entropy(level_probabilities(5, 2.29981))) == pytest.approx(4.98795, abs=1e-5)
    lopsided = level_probabilities(4, 1.0, bound="tanh")
    assert lopsided == pytest.approx([0.124548, 0.239888, 0.312553, 0.323012], abs=1e-6)
    assert level_probabilities(2, 1.0, bound="tanh")[1] == pytest.approx(0.940719, abs=1e-6)
    tanh = math.exp(entropy(level_probabilities(5, 1.0, bound="tanh")))
    assert tanh == pytest.approx(4.939709, abs=1e-6)


@settings(deadline=None)
@given(st.integers(2, 30), st.floats(1e-300, 1e300))
def test_the_sigmoid_is_fair_to_both_sides(levels, std):
    p = level_probabilities(levels, std)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p == pytest.approx(p[::-1], rel=1e-9, abs=1e-15)


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_usage_is_scipys_entropy(indices):
    used, perplexity = codebook_usage(torch.tensor(indices), 7)
    assert used == len(set(indices))
    assert perplexity == pytest.approx(math.exp(entropy(np.bincount(indices))), rel=1e-12)


# --- vector quantisation


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1e-200, 1e-3, 1.0, 1e100]))
def test_nearest_code_is_sklearns(seed, scale):
    vq = VectorQuantizer(9, 3, generator=generator(seed)).double()
    z = random(20, 3, seed=seed) / 9
    with torch.no_grad():
        vq.codebook.mul_(scale)
    z_q, indices, _ = vq(z * scale)
    assert (
        indices.tolist()
        == pairwise_distances_argmin(z.numpy(), (vq.codebook.detach() / scale).numpy()).tolist()
    )
    assert torch.equal(z_q, vq.codebook[indices])


def test_codes_far_from_0_are_told_apart():
    vq = VectorQuantizer(2, 1)
    with torch.no_grad():
        vq.codebook.copy_(torch.tensor([[1e4], [1e4 + 0.01]]))
    assert vq(torch.tensor([[1e4 - 1], [1e4 + 1]]))[1].tolist() == [0, 1]


def test_gradients_by_hand():
    vq = VectorQuantizer(12, 2, beta=1.5, gamma=0.4, generator=generator(1)).double()
    z = random(5, 2, seed=2).requires_grad_()
    z_q, indices, loss = vq(z)
    weight = random(5, 2, seed=3)
    ((weight * z_q).sum() + loss).backward()
    gap = z.detach() - vq.codebook.detach()[indices]
    assert float(loss.detach()) == pytest.approx(1.9 * float(gap.square().mean()), abs=1e-12)
    assert torch.allclose(z.grad, weight + 0.4 * 2 * gap / 10, atol=1e-12)
    rows = torch.zeros(12, 2).double().index_add(0, indices, -1.5 * 2 * gap / 10)
    assert torch.allclose(vq.codebook.grad, rows, atol=1e-12)
    unused = [k for k in range(12) if k not in indices.tolist()]
    assert unused
    assert float(vq.codebook.grad[unused].abs().max()) == 0


def test_equal_weights_are_the_plain_square():
    vq = VectorQuantizer(4, 2, beta=1.0, gamma=1.0, generator=generator(1)).double()
    z = random(6, 2).requires_grad_()
    _, indices, loss = vq(z)
    ours = torch.autograd.grad(loss, [z, vq.codebook])
    plain = (z - vq.codebook[indices]).square().mean()
    theirs = torch.autograd.grad(plain, [z, vq.codebook])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_a_step_on_the_codes_is_a_moving_average():
    vq = VectorQuantizer(3, 2, generator=generator(1)).double()
    z = random(8, 2)
    before, rate = vq.codebook.detach().clone(), 0.7
    _, indices, loss = vq(z)
    loss.backward()
    for k in range(3):
        chosen = z[indices == k]
        share = 2 * rate * len(chosen) / z.numel()
        mean = chosen.mean(0) if len(chosen) else before[k]
        expected = (1 - share) * before[k] + share * mean
        assert torch.allclose(before[k] - rate * vq.codebook.grad[k], expected, atol=1e-12)


def test_restarts_move_idle_codes_only():
    vq = VectorQuantizer(6, 2, restart_every=2, restarts=1, generator=generator(0)).double()
    before, z = vq.codebook.detach().clone(), 5 + random(4, 2)
    used = set(vq(z)[1].tolist()) | set(vq(z)[1].tolist())
    moved = (vq.codebook != before).any(1).nonzero()[:, 0].tolist()
    assert set(moved) == set(range(6)) - used
    nearest = torch.cdist(vq.codebook.detach()[moved], z).amin(1)
    assert float(nearest.max()) < 0.06
    later = vq.codebook.detach().clone()
    for _ in range(4):
        vq(-z)
    assert torch.equal(vq.codebook, later)  # only one restart was allowed


def test_evaluation_restarts_nothing():
    vq = VectorQuantizer(6, 2, restart_every=1).eval()
    before = vq.codebook.detach().clone()
    vq(5 + torch.zeros(4, 2))
    assert torch.equal(vq.codebook, before)


# --- the best scalar quantiser


@pytest.mark.parametrize(
    ("levels", "mse"),
    [(1, 1.0), (2, 0.363380), (3, 0.190174), (4, 0.117482), (5, 0.079941), (8, 0.034548)],
)
def test_known_errors(levels, mse):
    centres, found = lloyd_max(levels)
    assert found == pytest.approx(mse, abs=1e-6)
    by_area, _ = quad(
        lambda x: norm.pdf(x) * np.abs(x - centres).min() ** 2, -9, 9, limit=500, epsabs=1e-10
    )
    assert found == pytest.approx(by_area, abs=1e-8)


def test_two_levels_exactly():
    centres, mse = lloyd_max(2)
    assert centres[1] == pytest.approx(math.sqrt(2 / math.pi), abs=1e-12)
    assert mse == pytest.approx(1 - 2 / math.pi, abs=1e-12)


def test_k_means_finds_it_too():
    x = np.random.default_rng(0).standard_normal((100_000, 1))
    found = KMeans(5, n_init=1, tol=1e-8, max_iter=2000, random_state=0).fit(x)
    assert np.sort(found.cluster_centers_[:, 0]) == pytest.approx(lloyd_max(5).centres, abs=0.05)
    assert found.inertia_ / len(x) == pytest.approx(lloyd_max(5).mse, rel=0.02)


def test_many_levels_have_the_error_of_panter_and_dite():
    limit = math.pi * math.sqrt(3) / 2
    assert 1000**2 * lloyd_max(1000).mse == pytest.approx(limit, rel=0.01)


# --- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FSQ([]), "levels must be at least one number"),
        (lambda: FSQ([5, 1]), "levels must be at least 2"),
        (lambda: FSQ([1001]), "levels must be at most 1000"),
        (lambda: FSQ([512] * 7), r"product below 2\^63"),
        (lambda: FSQ([5], bound="clip"), "bound"),
        (lambda: FSQ([5, 5])(torch.zeros(3, 3)), r"z must have shape \(..., 2\)"),
        (lambda: FSQ([5])(torch.tensor([math.nan])), "z must be finite"),
        (lambda: FSQ([5, 5]).codes_to_indices(torch.tensor([1, 5])), "codes must lie in 0"),
        (lambda: FSQ([5, 5]).codes_to_indices(torch.tensor([1])), "codes must have shape"),
        (lambda: FSQ([5, 5]).indices_to_codes(torch.tensor([25])), "indices must lie in 0 … 24"),
        (lambda: round_ste(torch.tensor([math.inf])), "x must be finite"),
        (lambda: VectorQuantizer(0, 2), "n_codes"),
        (lambda: VectorQuantizer(2, 2, beta=-1.0), "beta"),
        (lambda: VectorQuantizer(2, 2, restart_every=0), "restart_every"),
        (lambda: VectorQuantizer(2, 2)(torch.zeros(3, 3)), r"z must be \(..., 2\)"),
        (lambda: VectorQuantizer(2, 2)(torch.zeros(0, 2)), "not empty"),
        (lambda: VectorQuantizer(2, 2)(torch.full((1, 2), 1e30)), "loss must fit"),
        (lambda: level_probabilities(1, 1.0), "levels must be at least 2"),
        (lambda: level_probabilities(5, 0.0), "std must be positive"),
        (lambda: codebook_usage([], 3), "indices"),
        (lambda: codebook_usage([3], 3), "indices must lie in 0 … 2, got 3"),
        (lambda: codebook_usage([-1], 3), "got -1"),
        (lambda: lloyd_max(0), "levels"),
        (lambda: lloyd_max(1001), "at most 1000"),
        (lambda: lloyd_max(3, tol=0.0), "tol"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FSQ([5.0]), "levels must be an integer"),
        (lambda: FSQ([5])(torch.tensor([1])), "z must be a floating-point tensor"),
        (lambda: FSQ([5]).codes_to_indices(torch.tensor([1.0])), "codes must be integers"),
        (lambda: FSQ([5]).indices_to_codes(torch.tensor(True)), "indices must be integers"),
        (lambda: round_ste(torch.tensor([1])), "x must be a floating-point tensor"),
        (lambda: VectorQuantizer(2, 2)(torch.zeros(3, 2).double()), "dtype"),
        (lambda: codebook_usage([0.5], 3), "indices must be integers"),
        (lambda: lloyd_max(2.0), "levels must be an integer"),
    ],
)
def test_bad_types_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()
