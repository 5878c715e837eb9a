import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from kexue_lab.attention.linear_attention import (
    LinearSelfAttention,
    attention_matrix,
    efficient_attention,
    elu_feature_map,
    linear_attention,
    linear_attention_step,
    normalized_taylor_feature_map,
    random_softmax_features,
)
from kexue_lab.transformer import SelfAttention

FEATURE_MAPS = {"elu": elu_feature_map, "taylor": normalized_taylor_feature_map}
KINDS = ["softmax", "elu", "taylor", "efficient"]
every_map = pytest.mark.parametrize("kind", FEATURE_MAPS)


def randn(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def qkv(*leading, n=37, d=5, dv=3, seed=0, dtype=torch.float64):
    shapes = ((*leading, n, d), (*leading, n, d), (*leading, n, dv))
    return tuple(randn(*shape, seed=3 * seed + i, dtype=dtype) for i, shape in enumerate(shapes))


def close(actual, expected, atol=1e-12, rtol=0.0):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def brute_force(q, k, v, similarity, is_causal):
    """The definition, pair by pair, in plain Python on one sequence."""
    rows = []
    for i, query in enumerate(q.tolist()):
        seen = range(i + 1 if is_causal else len(k))
        weights = [similarity(query, k[j].tolist()) for j in seen]
        mix = sum(w * v[j].numpy() for w, j in zip(weights, seen, strict=True))
        rows.append(mix / math.fsum(weights))
    return torch.from_numpy(np.stack(rows))


def elu_similarity(a, b):
    return math.fsum(
        (1 + x if x > 0 else math.exp(x)) * (1 + y if y > 0 else math.exp(y))
        for x, y in zip(a, b, strict=True)
    )


def taylor_similarity(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return 1 + dot / (math.hypot(*a) * math.hypot(*b))


SIMILARITIES = {"elu": elu_similarity, "taylor": taylor_similarity}


def recurrence(phi_q, phi_k, v):
    """Outputs of all tokens, (..., n, dv), one step after another, and the last state."""
    state, outputs = None, []
    for token in zip(phi_q.unbind(-2), phi_k.unbind(-2), v.unbind(-2), strict=True):
        out, state = linear_attention_step(*token, state)
        outputs.append(out)
    return torch.stack(outputs, -2), state


@pytest.fixture
def small():
    i = torch.arange(5, dtype=torch.float64)[:, None]
    c = torch.arange(3, dtype=torch.float64)
    return torch.sin(1 + i + 2 * c), torch.cos(i / 2 - c), torch.sin(0.3 * i * (c + 1))


# ---------------------------------------------------------------------------- known values


def test_double_softmax_values_and_the_pairs_mistaken_for_it(small):
    q, k, v = small
    ours = efficient_attention(q, k, v)
    close(ours[-1], row(0.5633100478, 0.6866176959, 0.3722201848), 1e-10)

    def as_features(phi_q, phi_k):
        return linear_attention(phi_q, phi_k, v, feature_map=None)

    exp_pair = as_features(q.softmax(-1), k.exp())
    close(exp_pair[-1], row(0.5583020005, 0.6851199479, 0.3803107200), 1e-10)
    assert (exp_pair - ours).abs().max().item() == pytest.approx(8.090535e-3, abs=1e-9)
    softmax_pair = as_features(q.softmax(-1), k.softmax(-1))
    close(softmax_pair[-1], row(0.5577642291, 0.6679391652, 0.3415640525), 1e-10)
    assert (softmax_pair - ours).abs().max().item() == pytest.approx(3.640315e-2, abs=1e-8)
    close(as_features(q.softmax(-1) / k.exp().sum(-2), k.exp()), ours, 1e-15)


def test_the_exp_pair_is_double_softmax_when_all_channels_weigh_the_same(small):
    q, k, v = small
    level = k - k.logsumexp(-2)
    pair = linear_attention(q.softmax(-1), level.exp(), v, feature_map=None)
    close(pair, efficient_attention(q, level, v), 1e-15)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3**-0.5])
def test_softmax_matrix_against_torch(small, is_causal, scale):
    q, k, v = small
    ours = attention_matrix(q, k, kind="softmax", is_causal=is_causal, scale=scale) @ v
    close(ours, F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=is_causal), 1e-15)


def test_with_few_different_keys_softmax_attention_is_linear(small):
    # φ(k) says which key it is, φ(q) knows exp(q·key) for each.
    q, _, v = small
    keys = randn(2, 3)
    which = torch.tensor([0, 1, 1, 0, 1])
    phi_k = F.one_hot(which, 2).double()
    for is_causal in (False, True):
        ours = linear_attention(
            (q @ keys.mT).exp(), phi_k, v, feature_map=None, is_causal=is_causal, chunk_size=2
        )
        oracle = F.scaled_dot_product_attention(q, keys[which], v, scale=1.0, is_causal=is_causal)
        close(ours, oracle, 1e-15)


# ---------------------------------------------------------------------------- equal forms


@every_map
@pytest.mark.parametrize("is_causal", [False, True])
def test_against_the_definition(kind, is_causal):
    q, k, v = qkv(n=11)
    expected = brute_force(q, k, v, SIMILARITIES[kind], is_causal)
    ours = linear_attention(
        q, k, v, feature_map=FEATURE_MAPS[kind], is_causal=is_causal, chunk_size=4
    )
    close(ours, expected, 1e-12)
    close(attention_matrix(q, k, kind=kind, is_causal=is_causal) @ v, expected, 1e-12)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 20),
    d=st.integers(1, 5),
    dv=st.integers(1, 4),
    chunk_size=st.integers(1, 24),
    leading=st.sampled_from([(), (2,), (2, 3)]),
    seed=st.integers(0, 2**30),
)
def test_chunks_are_the_recurrence_and_the_masked_square(n, d, dv, chunk_size, leading, seed):
    q, k, v = qkv(*leading, n=n, d=d, dv=dv, seed=seed)
    chunked = linear_attention(q, k, v, is_causal=True, chunk_size=chunk_size)
    stepped, (total, normalizer) = recurrence(elu_feature_map(q), elu_feature_map(k), v)
    close(chunked, stepped, 1e-12)
    close(chunked, attention_matrix(q, k, kind="elu", is_causal=True) @ v, 1e-12)
    close(total, elu_feature_map(k).mT @ v, 1e-12)
    close(normalizer, elu_feature_map(k).sum(-2), 1e-12)
    # The last token sees everything.
    close(chunked[..., -1:, :], linear_attention(q[..., -1:, :], k, v), 1e-12)


def test_single_precision_over_a_long_sequence():
    q, k, v = qkv(n=16384, d=16, dv=8)
    exact = linear_attention(q, k, v, is_causal=True)
    single = linear_attention(q.float(), k.float(), v.float(), is_causal=True)
    error = torch.linalg.vector_norm(single.double() - exact, dim=-1)
    assert (error / torch.linalg.vector_norm(exact, dim=-1)).max() < 1e-4
    assert (single.double() - exact).abs().max() < 1e-6


def test_leading_dimensions_broadcast():
    q = randn(2, 4, 9, 5)
    k, v = randn(2, 1, 9, 5, seed=1), randn(2, 1, 9, 3, seed=2)
    for is_causal in (False, True):
        shared = linear_attention(q, k, v, is_causal=is_causal, chunk_size=4)
        every = linear_attention(
            q, k.expand(2, 4, 9, 5), v.expand(2, 4, 9, 3), is_causal=is_causal, chunk_size=4
        )
        assert shared.shape == (2, 4, 9, 3)
        close(shared, every, 1e-14)


def test_fewer_queries_than_keys():
    q, k, v = qkv()
    close(linear_attention(q[:2], k, v), linear_attention(q, k, v)[:2], 1e-14)
    close(efficient_attention(q[:2], k, v), efficient_attention(q, k, v)[:2], 1e-14)
    assert attention_matrix(q[:2], k, kind="softmax").shape == (2, 37)


# ---------------------------------------------------------------------------- laws


@every_map
@settings(deadline=None, max_examples=30)
@given(cut=st.integers(1, 36), chunk_size=st.integers(1, 40))
def test_the_past_does_not_see_the_future(kind, cut, chunk_size):
    q, k, v = qkv()
    options = {"feature_map": FEATURE_MAPS[kind], "is_causal": True, "chunk_size": chunk_size}
    before = linear_attention(q, k, v, **options)
    q[cut:], k[cut:], v[cut:] = 7.0, 3.0, 1e3
    after = linear_attention(q, k, v, **options)
    close(after[:cut], before[:cut], 1e-12)
    assert (after[cut:] - before[cut:]).abs().amax(-1).min() > 1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**30), spread=st.floats(0.01, 20), is_causal=st.booleans())
def test_outputs_are_averages_of_values(seed, spread, is_causal):
    q, k, v = qkv(n=9, seed=seed)
    for feature_map in FEATURE_MAPS.values():
        out = linear_attention(spread * q, spread * k, v, feature_map=feature_map)
        assert (out <= v.amax(0) + 1e-12).all()
        assert (out >= v.amin(0) - 1e-12).all()
    # Linear in v, and constants pass unchanged.
    out = linear_attention(q, k, v, is_causal=is_causal)
    close(linear_attention(q, k, 3 * v + 2, is_causal=is_causal), 3 * out + 2, 1e-11)


def test_order_of_keys_matters_only_under_the_mask():
    q, k, v = qkv()
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    for attend in (linear_attention, efficient_attention):
        close(attend(q, k[order], v[order]), attend(q, k, v), 1e-13)
    shuffled = linear_attention(q, k[order], v[order], is_causal=True)
    assert (shuffled - linear_attention(q, k, v, is_causal=True)).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_matrix_sum_to_one(kind):
    q, k, v = qkv(2)
    weights = attention_matrix(q, k, kind=kind)
    assert (weights > 0).all()
    close(weights.sum(-1), torch.ones(2, 37, dtype=torch.float64), 1e-14)
    if kind == "efficient":
        close(weights @ v, efficient_attention(q, k, v), 1e-14)
    else:
        causal = attention_matrix(q, k, kind=kind, is_causal=True)
        close(causal.sum(-1), torch.ones(2, 37, dtype=torch.float64), 1e-14)
        assert torch.equal(causal, causal.tril())
        # Masking keeps the ratios of the weights that are left.
        close(causal / causal[..., :1], (weights / weights[..., :1]).tril(), 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_scale_multiplies_the_queries(kind):
    q, k, _ = qkv()
    scaled = attention_matrix(q, k, kind=kind, scale=2.5)
    close(scaled, attention_matrix(2.5 * q, k, kind=kind), 1e-14)
    change = (scaled - attention_matrix(q, k, kind=kind)).abs().max()
    assert change < 1e-14 if kind == "taylor" else change > 1e-3


@pytest.mark.parametrize("d", [4, 8, 16])
def test_rank_is_the_feature_dimension_until_masked(d):
    q, k = randn(64, d), randn(64, d, seed=1)

    def rank(kind, is_causal=False):
        weights = attention_matrix(q, k, kind=kind, is_causal=is_causal)
        return torch.linalg.matrix_rank(weights, rtol=1e-10).item()

    assert [rank(kind) for kind in KINDS] == [64, d, d + 1, d]
    assert rank("elu", is_causal=True) == 64
    below = attention_matrix(q, k, kind="elu", is_causal=True)[32:, :32]
    assert torch.linalg.matrix_rank(below, rtol=1e-10) == d


@pytest.mark.parametrize("n", [5, 12, 100])
def test_keys_on_a_circle_are_told_apart_by_a_margin_only(n):
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    x = torch.stack([angle.cos(), angle.sin()], -1)
    weights = attention_matrix(x, x, kind="taylor")
    others = weights.masked_fill(torch.eye(n, dtype=torch.bool), 0).amax(-1)
    margin = n * (weights.diagonal() - others)
    close(margin, torch.full_like(margin, 1 - math.cos(2 * math.pi / n)), 1e-12)
    close(n * weights.diagonal(), torch.full((n,), 2.0, dtype=torch.float64), 1e-12)
    distance = (weights - torch.eye(n, dtype=torch.float64)).square().sum().item()
    assert distance == pytest.approx(n - 2.5, abs=1e-11)


# ---------------------------------------------------------------------------- feature maps


@pytest.mark.parametrize(("n", "d"), [(5, 2), (12, 3), (9, 20)])
def test_on_average_the_key_asked_for_has_at_most_two_shares(n, d):
    q, k = randn(2, n, d, seed=n)
    assert attention_matrix(q, k, kind="taylor").diagonal().mean() < 2 / n
    # The queries that make each share largest, and with them equality.
    unit = k / k.norm(dim=-1, keepdim=True)
    mean = unit.mean(0)
    scale = 2 * (1 - unit @ mean) / (1 - mean @ mean)
    best = unit - scale[:, None] * mean
    shares = attention_matrix(best, k, kind="taylor").diagonal()
    close(shares, scale / n)
    close(shares.mean(), torch.tensor(2 / n, dtype=torch.float64))


def test_one_feature_can_copy_under_the_mask():
    phi = 100.0 ** torch.arange(8, dtype=torch.float64)[:, None]
    weights = linear_attention(phi, phi, torch.eye(8).double(), feature_map=None, is_causal=True)
    assert weights.diagonal().min() >= 0.99
    assert (weights - torch.eye(8)).square().sum() < 0.002


def test_elu_feature_map_against_torch():
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    close(elu_feature_map(x), F.elu(x) + 1, 1e-15)


def test_elu_feature_map_does_not_round_to_zero():
    x = row(-300.0, -40.0, -1e-20)
    close(elu_feature_map(x), x.exp(), 0.0, 1e-15)
    assert elu_feature_map(torch.tensor(-60.0)).item() == pytest.approx(math.exp(-60), rel=1e-5)
    # Hence attention among very negative keys still knows which is the larger.
    out = linear_attention(row(0.0)[:, None], row(-50.0, -49.0)[:, None], row(0.0, 1.0)[:, None])
    assert out.item() == pytest.approx(math.e / (1 + math.e), rel=1e-12)


def test_elu_feature_map_gradient():
    x = row(-1e3, -2.0, 0.0, 2.0, 1e3).requires_grad_()
    (gradient,) = torch.autograd.grad(elu_feature_map(x).sum(), x)
    close(gradient, row(0.0, math.exp(-2), 1.0, 1.0, 1.0), 1e-15)


def test_taylor_feature_map_values():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    assert torch.equal(
        normalized_taylor_feature_map(x),
        torch.tensor([[1.0, 0.6, 0.8], [1.0, 0.0, 0.0], [1.0, 0.0, -1.0]]),
    )
    # eps is a smallest length: it leaves longer rows alone.
    close(
        normalized_taylor_feature_map(x, eps=4.0),
        torch.tensor([[1.0, 0.6, 0.8], [1.0, 0.0, 0.0], [1.0, 0.0, -0.5]]),
        1e-7,
    )


@settings(deadline=None)
@given(exponent=st.integers(-35, 37), seed=st.integers(0, 2**30))
def test_taylor_feature_map_does_not_depend_on_length(exponent, seed):
    x = randn(3, 6, seed=seed, dtype=torch.float32)
    scaled = normalized_taylor_feature_map(x * 10.0**exponent)
    close(scaled, normalized_taylor_feature_map(x), 1e-6)
    close(scaled[:, 1:].square().sum(-1), torch.ones(3), 1e-6)


def test_taylor_feature_map_gradient():
    x = randn(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(normalized_taylor_feature_map, (x,))
    assert torch.autograd.gradcheck(lambda y: normalized_taylor_feature_map(y, 1.5), (x,))
    zero = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(normalized_taylor_feature_map(zero).sum(), zero)
    assert gradient.isfinite().all()


def test_taylor_attention_without_any_weight_is_nan_unless_eps():
    q, k, v = row(1.0, 0.0)[None], row(-1.0, 0.0)[None], row(3.0)[None]
    options = {"feature_map": normalized_taylor_feature_map, "is_causal": True}
    assert linear_attention(q, k, v, **options).isnan().all()
    assert attention_matrix(q, k, kind="taylor").isnan().all()
    assert linear_attention(q, k, v, **options, eps=1e-6).item() == 0


def test_eps_is_added_to_the_denominator():
    q, k, v = qkv()
    phi = elu_feature_map(q) @ elu_feature_map(k).mT
    for is_causal, weights in ((False, phi), (True, phi.tril())):
        expected = weights @ v / (weights.sum(-1, keepdim=True) + 2.0)
        close(linear_attention(q, k, v, is_causal=is_causal, eps=2.0), expected, 1e-13)


def test_a_padding_mask_belongs_on_the_features():
    q, k, v = qkv()
    kept = torch.arange(37) % 3 > 0
    masked = elu_feature_map(k) * kept[:, None]
    out = linear_attention(elu_feature_map(q), masked, v, feature_map=None)
    close(out, linear_attention(q, k[kept], v[kept]), 1e-13)
    wrong = linear_attention(q, k * kept[:, None], v)
    assert (wrong - out).abs().max() > 0.01


# ---------------------------------------------------------------------------- random features


def test_moments_of_random_features_by_quadrature():
    # Gauss–Hermite nodes in place of the draw: exact up to 1e-12 at these lengths.
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    projection = torch.from_numpy(np.stack(np.meshgrid(nodes, nodes)).reshape(2, -1))
    chance = torch.from_numpy(np.outer(weights, weights).ravel() / (2 * math.pi))
    q, k = row(1.0, 0.0), row(0.5, 0.75**0.5)
    m = projection.shape[1]
    phi, same = random_softmax_features(torch.stack([q, k]), m, projection=projection)
    assert same is projection
    products = m * phi[0] * phi[1]
    assert (chance @ products).item() == pytest.approx(math.exp(0.5), rel=1e-10)
    relative = (chance @ products.square()).item() / math.e - 1
    assert relative == pytest.approx(math.exp(3) - 1, rel=1e-10)


def test_random_features_share_a_draw():
    q, k, v = qkv(2, n=6, d=3)
    generator = torch.Generator().manual_seed(0)
    phi_q, projection = random_softmax_features(0.3 * q, 50_000, generator=generator)
    phi_k, same = random_softmax_features(0.3 * k, 50_000, projection=projection)
    assert same is projection
    again, _ = random_softmax_features(0.3 * q, 50_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(phi_q, again)
    exact = attention_matrix(0.3 * q, 0.3 * k, kind="softmax") @ v
    close(linear_attention(phi_q, phi_k, v, feature_map=None), exact, 0.03)
    phi_other, _ = random_softmax_features(0.3 * k, 50_000, generator=generator)
    kernel = (0.09 * q @ k.mT).exp()
    assert (phi_q @ phi_k.mT - kernel).abs().max() < 0.05
    assert (phi_q @ phi_other.mT - kernel).abs().max() > 0.2


# ---------------------------------------------------------------------------- state


def test_a_step_goes_on_where_the_last_one_stopped():
    q, k, v = qkv(2, n=8)
    phi_q, phi_k = elu_feature_map(q), elu_feature_map(k)
    _, state = recurrence(phi_q[:, :5], phi_k[:, :5], v[:, :5])
    kept = tuple(part.clone() for part in state)
    for t in (5, 6, 7):
        out, state = linear_attention_step(phi_q[:, t], phi_k[:, t], v[:, t], state)
        close(out, linear_attention(q, k, v, is_causal=True)[:, t], 1e-13)
        if t == 5:
            _, first_state = linear_attention_step(phi_q[:, 5], phi_k[:, 5], v[:, 5], kept)
            close(first_state[0], state[0], 0.0)
    close(kept[0], phi_k[:, :5].mT @ v[:, :5], 1e-13)
    assert state[0].shape == (2, 5, 3)
    assert state[1].shape == (2, 5)


def test_a_step_neither_changes_nor_shares_its_arguments():
    phi_q, phi_k, v = row(1.0, 2.0), row(3.0, 4.0), row(5.0)
    out, state = linear_attention_step(phi_q, phi_k, v)
    assert torch.equal(out, v)
    kept = [part.clone() for part in state]
    phi_k += 1
    linear_attention_step(phi_q, phi_k, v, state)
    assert torch.equal(state[0], kept[0])
    assert torch.equal(state[1], kept[1])


# ---------------------------------------------------------------------------- cost, dtype, autograd


class Allocated(TorchDispatchMode):
    """Counts the elements of everything that any operation returns."""

    def __init__(self):
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else [out]:
            if isinstance(part, torch.Tensor):
                self.total += part.numel()
                self.largest = max(self.largest, part.numel())
        return out


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_linear_in_length(is_causal, backward):
    totals, largest = [], []
    for n in (512, 1024, 2048):
        q, k, v = (x.requires_grad_(backward) for x in qkv(n=n, d=8, dv=8))
        with Allocated() as allocated:
            out = linear_attention(q, k, v, is_causal=is_causal, chunk_size=32)
            if backward:
                out.sum().backward()
        largest.append(allocated.largest)
        totals.append(allocated.total)
    # Everything that was ever made, freed or not, bounds the peak from above.
    assert totals[2] - totals[1] <= 2.05 * (totals[1] - totals[0])
    assert totals[2] <= 2.05 * totals[1]
    assert largest[2] <= 2 * largest[1] <= 4 * largest[0]


@every_map
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients(kind, is_causal):
    inputs = [x.requires_grad_() for x in qkv(2, n=7, d=3, dv=2)]

    def attend(q, k, v):
        return linear_attention(
            q, k, v, feature_map=FEATURE_MAPS[kind], is_causal=is_causal, chunk_size=3
        )

    assert torch.autograd.gradcheck(attend, inputs)


def test_under_vmap():
    q, k, v = qkv(3, n=9)
    mapped = torch.func.vmap(lambda *x: linear_attention(*x, is_causal=True, chunk_size=4))
    close(mapped(q, k, v), linear_attention(q, k, v, is_causal=True, chunk_size=4), 1e-14)
    close(torch.func.vmap(efficient_attention)(q, k, v), efficient_attention(q, k, v), 1e-14)
    taylor = torch.func.vmap(normalized_taylor_feature_map)
    close(taylor(q), normalized_taylor_feature_map(q), 1e-15)


@pytest.mark.parametrize("is_causal", [False, True])
def test_heads_against_torch_and_the_dense_weights(is_causal):
    x = randn(2, 9, 8)
    torch.manual_seed(0)
    plain = SelfAttention(8, 2, is_causal=is_causal).double()
    for kind in ("softmax", "elu", "taylor"):
        ours = LinearSelfAttention(8, 2, kind, is_causal=is_causal).double()
        ours.load_state_dict(plain.state_dict())
        q, k, v = (
            part.unflatten(-1, (2, 4)).transpose(1, 2)
            for part in (x @ ours.qkv_proj.weight.mT).chunk(3, -1)
        )
        if kind == "softmax":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
            close(ours(x), plain(x), 0.0)
        else:
            mixed = attention_matrix(q, k, kind=kind, is_causal=is_causal) @ v
        expected = mixed.transpose(1, 2).flatten(-2) @ ours.o_proj.weight.mT
        close(ours(x), expected, 1e-13)


def test_heads_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match=r"kind must be one of .*'efficient'"):
        LinearSelfAttention(8, 2, "efficient")
    with pytest.raises(ValueError, match="num_heads must divide"):
        LinearSelfAttention(8, 3)
    mask = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="mask must be None"):
        LinearSelfAttention(8, 2)(torch.ones(1, 4, 8), mask=mask)
    softmax = LinearSelfAttention(8, 2, "softmax")
    assert softmax(torch.ones(1, 4, 8), mask=mask).shape == (1, 4, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    q, k, v = qkv(2, n=6, dtype=dtype)
    results = [
        elu_feature_map(q),
        normalized_taylor_feature_map(q),
        linear_attention(q, k, v),
        linear_attention(q, k, v, is_causal=True),
        linear_attention_step(q[:, 0], k[:, 0], v[:, 0])[0],
        efficient_attention(q, k, v),
        *(attention_matrix(q, k, kind=kind) for kind in KINDS),
        *random_softmax_features(q, 4),
    ]
    assert {result.dtype for result in results} == {dtype}
    _, state = linear_attention_step(q[:, 0], k[:, 0], v[:, 0])
    wide = torch.promote_types(dtype, torch.float32)
    assert [part.dtype for part in state] == [wide, wide]
    out, _ = linear_attention_step(q[:, 1], k[:, 1], v[:, 1], state)
    assert out.dtype == dtype


@pytest.mark.parametrize("is_causal", [False, True])
def test_half_precision_is_summed_in_single(is_causal):
    # Sums of 2048 x 100 leave float16, and bfloat16 stops counting ones at 256.
    ones = torch.ones(2048, 1)
    for dtype in (torch.float16, torch.bfloat16):
        v = (100 * ones).to(dtype)
        out = linear_attention(ones.to(dtype), ones.to(dtype), v, is_causal=is_causal)
        assert torch.equal(out, v)
    q, k, v = qkv(n=4096, dtype=torch.bfloat16)
    phi_q, phi_k = elu_feature_map(q), elu_feature_map(k)
    out = linear_attention(phi_q, phi_k, v, feature_map=None, is_causal=is_causal)
    exact = linear_attention(
        phi_q.double(), phi_k.double(), v.double(), feature_map=None, is_causal=is_causal
    )
    close(out.double(), exact, 1e-6, 2**-8)


# ---------------------------------------------------------------------------- bad input

X = torch.ones(4, 3)
V = torch.ones(4, 2)
INTEGERS = torch.ones(4, 3, dtype=torch.int64)
STATE = (torch.ones(3, 2), torch.ones(3))


def attend(q=X, k=X, v=V, **options):
    return linear_attention(q, k, v, **options)


def step(phi_q=X[0], phi_k=X[0], v=V[0], state=None):
    return linear_attention_step(phi_q, phi_k, v, state)


def matrix(q=X, k=X, kind="elu", **options):
    return attention_matrix(q, k, kind=kind, **options)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: elu_feature_map(INTEGERS), TypeError, "x must be a floating-point.*int64"),
        (lambda: elu_feature_map([1.0]), TypeError, "x must be a floating-point tensor, got list"),
        (lambda: normalized_taylor_feature_map(INTEGERS), TypeError, "x must be"),
        (lambda: normalized_taylor_feature_map(torch.tensor(1.0)), ValueError, "x must have"),
        (lambda: normalized_taylor_feature_map(X[:, :0]), ValueError, r"x must have.*\(4, 0\)"),
        (lambda: normalized_taylor_feature_map(X, -1.0), ValueError, "eps .*-1"),
        (lambda: normalized_taylor_feature_map(X, math.nan), ValueError, "eps .*nan"),
        (lambda: attend(q=INTEGERS), TypeError, "q must be a floating-point"),
        (lambda: attend(k=INTEGERS), TypeError, "k must be a floating-point"),
        (lambda: attend(v=INTEGERS), TypeError, "v must be a floating-point"),
        (lambda: attend(v=V.double()), TypeError, "q, k, v must share one dtype.*float64"),
        (lambda: attend(q=X[0]), ValueError, r"q must have at least 2.*\(3,\)"),
        (lambda: attend(k=X[:0], v=V[:0]), ValueError, r"k must have.*\(0, 3\)"),
        (lambda: attend(v=V[:, :0]), ValueError, r"v must have.*\(4, 0\)"),
        (lambda: attend(k=X[:, :2]), ValueError, "k must have d = 3, got 2"),
        (lambda: attend(v=V[:3]), ValueError, "v must have n = 4, got 3"),
        (lambda: attend(q=X[:3], is_causal=True), ValueError, "q must have n_q = n .* 4, got 3"),
        (
            lambda: attend(q=X.expand(2, 4, 3), v=V.expand(5, 4, 2)),
            ValueError,
            r"q, k, v must have leading dimensions that broadcast, got \(2,\), \(\), \(5,\)",
        ),
        (lambda: attend(chunk_size=0), ValueError, "chunk_size must be at least 1, got 0"),
        (lambda: attend(chunk_size=2.0), TypeError, "chunk_size must be an integer"),
        (lambda: attend(eps=-1.0), ValueError, "eps .*-1"),
        (lambda: attend(eps=math.inf), ValueError, "eps .*inf"),
        (lambda: attend(feature_map="elu"), TypeError, "feature_map must be callable.*str"),
        (lambda: attend(feature_map=lambda x: x.mT), ValueError, r"feature_map must keep.*\(3, 4"),
        (lambda: attend(feature_map=lambda x: 1), TypeError, r"feature_map\(q\) must be a float"),
        (
            lambda: attend(k=2 * X, feature_map=lambda x: x[:, : int(x[0, 0])]),
            ValueError,
            r"feature_map\(k\) must have D = 1, got 2",
        ),
        (lambda: step(phi_q=INTEGERS[0]), TypeError, "phi_q must be a floating-point"),
        (lambda: step(v=V[0].double()), TypeError, "phi_q, phi_k, v must share one dtype"),
        (lambda: step(phi_q=torch.tensor(1.0)), ValueError, "phi_q must have at least 1"),
        (lambda: step(phi_k=X[0, :2]), ValueError, "phi_k must have D = 3, got 2"),
        (lambda: step(phi_q=X, phi_k=X[:3]), ValueError, "phi_q, phi_k, v must have leading"),
        (lambda: step(state=(STATE[1], STATE[1])), ValueError, r"state\[0\] must have shape"),
        (lambda: step(state=(STATE[0], X[0, :2])), ValueError, r"state\[1\] must have shape"),
        (lambda: step(state=(STATE[0].double(), STATE[1])), TypeError, r"state\[0\].*float32"),
        (lambda: step(state=(STATE[0], 1.0)), TypeError, r"state\[1\] must be a floating"),
        (
            lambda: step(X, X, V, (torch.ones(5, 3, 2), torch.ones(5, 3))),
            ValueError,
            r"state\[0\], state\[1\] must have leading dimensions",
        ),
        (lambda: efficient_attention(X, X, V, is_causal=True), ValueError, "is_causal .*future"),
        (lambda: efficient_attention(X, X, INTEGERS), TypeError, "v must be a floating-point"),
        (lambda: efficient_attention(X, X[:, :2], V), ValueError, "k must have d = 3, got 2"),
        (lambda: efficient_attention(X, X, V[:2]), ValueError, "v must have n = 4, got 2"),
        (lambda: matrix(kind="linear"), ValueError, "kind must be one of .*'linear'"),
        (lambda: matrix(kind="efficient", is_causal=True), ValueError, "is_causal .*future"),
        (lambda: matrix(q=INTEGERS), TypeError, "q must be a floating-point"),
        (lambda: matrix(k=X[:, :2]), ValueError, "k must have d = 3, got 2"),
        (lambda: matrix(q=X[:2], is_causal=True), ValueError, "q must have n_q = n"),
        (lambda: matrix(scale=math.inf), ValueError, "scale must be finite, got inf"),
        (lambda: random_softmax_features(INTEGERS, 4), TypeError, "x must be a floating-point"),
        (lambda: random_softmax_features(torch.tensor(1.0), 4), ValueError, "x must have"),
        (lambda: random_softmax_features(X, 0), ValueError, "n_features must be at least 1"),
        (lambda: random_softmax_features(X, 4.0), TypeError, "n_features must be an int"),
        (
            lambda: random_softmax_features(X, 4, projection=torch.ones(4, 3)),
            ValueError,
            r"projection must have shape \(3, 4\), got \(4, 3\)",
        ),
        (
            lambda: random_softmax_features(X, 4, projection=torch.ones(3, 4).double()),
            TypeError,
            "x, projection must share one dtype",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("kind", ["softmax", "elu", "taylor", "efficient"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_many_wide_keys_sum_to_one(kind, dtype):
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, 64, generator=g).to(dtype) for n in (8, 1024))
    rows = attention_matrix(q, k, kind=kind).double().sum(-1)
    assert torch.allclose(rows, torch.ones_like(rows), atol=10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shift", [-1e3, -1e30, 1e30])
def test_attention_of_features_of_any_size(is_causal, shift):
    q, k, v = (torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for query, key in ((q + shift, k), (q, k + shift), (q + shift, k + shift)):
        out = linear_attention(query, key, v, is_causal=is_causal)
        dense = attention_matrix(query, key, kind="elu", is_causal=is_causal) @ v
        assert bool(out.isfinite().all())
        assert torch.allclose(out, dense, atol=1e-5)


def test_softmax_of_products_beyond_the_dtype_is_one_hot():
    q = torch.tensor([[1e30, 0.0]])
    k = torch.tensor([[1e30, 1.0], [2e30, 0.0]])
    assert attention_matrix(q, k, kind="softmax").tolist() == [[0, 1]]
