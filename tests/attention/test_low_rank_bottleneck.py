import math

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from torch import nn
from torch.nn import functional as F

from kexue_lab.attention.low_rank_bottleneck import (
    MultiHeadAttention,
    attention_parameter_count,
    fit_low_rank_attention,
    low_rank_logits,
    minimal_key_size,
)
from kexue_lab.exercises import exercise

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TALKING = ("none", "pre", "post", "both")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def window(n, log_weight):
    """P_ij proportional to exp(log_weight(i - j))."""
    i = torch.arange(n, dtype=torch.float64)
    return log_weight(i[:, None] - i).softmax(-1)


def the_random_pattern():
    logits = 2 * np.random.default_rng(0).normal(size=(8, 8))
    return torch.from_numpy(special.softmax(logits, axis=1))


PATTERNS = {
    "random": (the_random_pattern(), 7),
    "nearly hard": ((2 * torch.eye(8)).double().softmax(-1), 7),
    "gaussian": (window(8, lambda t: -t.square() / 2), 2),
    "laplace": (window(8, lambda t: -t.abs()), 7),
    "quartic": (window(8, lambda t: -((t / 3) ** 4)), 4),
    "uniform": (torch.full((8, 8), 1 / 8, dtype=torch.float64), 0),
    "one token": (torch.ones(1, 1, dtype=torch.float64), 0),
    "two tokens": (torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64), 1),
}


def divergence(P, Q, K):
    """Mean row KL(P || softmax(Q Kᵀ)), by torch."""
    return F.kl_div((Q @ K.mT).log_softmax(-1), P, reduction="batchmean").item()


# ---------------------------------------------------------------- the key size of a pattern


@pytest.mark.parametrize("name", PATTERNS)
def test_key_sizes_of_patterns(name):
    P, size = PATTERNS[name]
    assert minimal_key_size(P) == size
    centred = P.log() - P.log().mean(-1, keepdim=True)
    assert minimal_key_size(P) == np.linalg.matrix_rank(centred.numpy(), tol=1e-9)
    assert minimal_key_size(P.float()) == size


def test_the_key_size_is_the_least_rank_over_all_shifts():
    """By exact rank in sympy: log P = L + c 1ᵀ, with L of rank 2 and every integer c near 0."""
    L = sp.Matrix([[1, 2, 4], [0, 1, 1], [2, 3, 7]])
    assert L.rank() == 2
    ranks = {
        (L + sp.Matrix([a, b, c]) * sp.ones(1, 3)).rank()
        for a in range(-3, 4)
        for b in range(-3, 4)
        for c in range(-5, 4)
    }
    P = torch.tensor(np.array(L, dtype=float)).softmax(-1)
    assert min(ranks) == minimal_key_size(P)
    assert max(ranks) == min(ranks) + 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 99))
def test_low_rank_logits_of_random_patterns(n, m, rank, seed):
    """Logits of rank r plus any shift of the rows: the key size is r, and at most m - 1."""
    logits = randn(n, rank, seed=seed) @ randn(m, rank, seed=seed + 100).T
    P = (logits + 3 * randn(n, 1, seed=seed + 200)).softmax(-1)
    size = min(rank, n, m - 1)
    assert minimal_key_size(P) == size
    Q, K = low_rank_logits(P, size)
    assert Q.shape == (n, size)
    assert K.shape == (m, size)
    assert torch.allclose((Q @ K.mT).softmax(-1), P, rtol=1e-9, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(0, 99))
def test_order_of_tokens_and_repeated_queries_do_not_matter(n, seed):
    P = (randn(n, 2, seed=seed) @ randn(2, n, seed=seed + 1)).softmax(-1)
    order = torch.randperm(n, generator=generator(seed))
    assert minimal_key_size(P[order]) == minimal_key_size(P[:, order]) == minimal_key_size(P)
    assert minimal_key_size(torch.cat([P, P])) == minimal_key_size(P)


def test_a_tolerance_counts_what_is_above_it():
    P = the_random_pattern()
    sizes = np.linalg.svd((P.log() - P.log().mean(-1, keepdim=True)).numpy(), compute_uv=False)
    expected = [8.117139, 6.740346, 4.944340, 4.135207, 1.940786, 1.342642, 1.035281, 0]
    assert sizes == pytest.approx(expected, abs=1e-6)
    assert [minimal_key_size(P, tol) for tol in (0.5, 1.2, 4.5, 9.0)] == [7, 6, 3, 0]


def test_a_float32_pattern_from_a_float32_softmax():
    for n, rank in ((12, 2), (40, 5), (64, 9)):
        logits = randn(n, rank, dtype=torch.float32) @ randn(rank, n, seed=1, dtype=torch.float32)
        assert minimal_key_size(logits.softmax(-1)) == rank


@pytest.mark.parametrize(
    ("P", "error", "message"),
    [
        (torch.ones(2, 2), ValueError, "rows that sum to 1, got 2"),
        (torch.tensor([[0.5, 0.5], [1.0, 0.0]]), ValueError, "P must be positive"),
        (torch.tensor([[0.5, 0.5], [1.5, -0.5]]), ValueError, "got -0.5"),
        (torch.tensor([[1.0, 1e-40]]), ValueError, "P must be positive, at least 1.18e-38"),
        (torch.tensor([0.5, 0.5]), ValueError, r"shape \(n, m\), not empty, got \(2,\)"),
        (torch.ones(0, 2), ValueError, "not empty"),
        (torch.tensor([[0.5, math.nan]]), ValueError, "P must be finite"),
        (torch.ones(2, 1).half(), TypeError, "P must be float32 or float64"),
        (torch.ones(2, 1).int(), TypeError, "P must be a floating-point tensor"),
        ([[1.0]], TypeError, "P must be a floating-point tensor, got list"),
    ],
)
def test_what_is_no_pattern_is_refused(P, error, message):
    for function in (
        minimal_key_size,
        lambda P: low_rank_logits(P, 1),
        lambda P: fit_low_rank_attention(P, 1),
    ):
        with pytest.raises(error, match=message):
            function(P)


def test_bad_numbers_are_refused():
    P = torch.ones(2, 2) / 2
    for tol in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="tol must be non-negative and finite"):
            minimal_key_size(P, tol)
    for function in (low_rank_logits, fit_low_rank_attention):
        with pytest.raises(ValueError, match="key_size must be at least 0, got -1"):
            function(P, -1)
        with pytest.raises(TypeError, match="key_size must be an integer"):
            function(P, 1.0)
    with pytest.raises(ValueError, match="n_restarts must be at least 0"):
        fit_low_rank_attention(P, 1, -1)
    with pytest.raises(ValueError, match="max_iter must be at least 1"):
        fit_low_rank_attention(P, 1, 0, 0)


# ---------------------------------------------------------------- less than the key size


def test_no_logits_of_that_rank_are_nearer():
    """Eckart and Young, against alternating least squares."""
    P = the_random_pattern()
    target = (P.log() - P.log().mean(-1, keepdim=True)).numpy()
    for rank in (1, 3, 5):
        Q, K = low_rank_logits(P, rank)
        error = np.square(Q.numpy() @ K.numpy().T - target).sum()
        right = np.random.default_rng(rank).normal(size=(8, rank))
        for _ in range(2000):
            left = np.linalg.lstsq(right, target.T)[0].T
            right = np.linalg.lstsq(left, target)[0].T
        assert error == pytest.approx(np.square(left @ right.T - target).sum(), rel=1e-6)


def test_divergences_of_the_random_pattern():
    P = the_random_pattern()
    truncated = [0.48025033, 0.25541375, 0.10819576, 0.04461512, 0.02787860, 0.00885260, 0]
    fitted = [0.341169, 0.0993548, 0.0372316, 0.0145763, 0.00552443, 0.000845354, 0]
    for size, (by_svd, best) in enumerate(zip(truncated, fitted, strict=True), 1):
        assert divergence(P, *low_rank_logits(P, size)) == pytest.approx(by_svd, abs=1e-8)
        Q, K, found = fit_low_rank_attention(P, size, generator=generator(0))
        assert found == pytest.approx(best, rel=1e-3, abs=1e-12)
        assert divergence(P, Q, K) == pytest.approx(found, abs=1e-12)


def test_one_of_three_words_gives_up():
    """With key size 1; the pairs (q, -q) and (k, -k) are then best where the mean keys agree."""
    P = (torch.ones(3, 3) + torch.eye(3)).double() / 4
    q = optimize.brentq(lambda q: 2 * math.sinh(q) / (1 + 2 * math.cosh(q)) - 1 / 4, 0, 1)
    rows = torch.outer(torch.tensor([q, -q, 0]), torch.tensor([1.0, -1.0, 0.0])).log_softmax(-1)
    expected = F.kl_div(rows.double(), P, reduction="batchmean").item()
    found = fit_low_rank_attention(P, 1, 8, generator=generator(0))[2]
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_fit_is_stationary():
    """Its gradient vanishes, by torch's autograd."""
    P = window(6, lambda t: -t.abs())
    Q, K, _ = fit_low_rank_attention(P, 2, generator=generator(1))
    Q.requires_grad_(), K.requires_grad_()
    loss = F.kl_div((Q @ K.mT).log_softmax(-1), P, reduction="batchmean")
    for slope in torch.autograd.grad(loss, (Q, K)):
        assert slope.abs().max() < 1e-6


def test_a_fit_agrees_with_another_optimiser():
    P = window(5, lambda t: -t.abs())

    def loss(flat):
        left, right = np.split(flat.reshape(10, 1), 2)
        return special.rel_entr(P.numpy(), special.softmax(left @ right.T, axis=1)).sum() / 5

    starts = np.random.default_rng(3).normal(size=(6, 10))
    best = min(optimize.minimize(loss, start, method="BFGS").fun for start in starts)
    assert fit_low_rank_attention(P, 1, 8, generator=generator(0))[2] == pytest.approx(
        best, rel=1e-4
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 6), st.integers(0, 99))
def test_a_fit_is_never_worse_than_the_truncated_svd(n, m, size, seed):
    P = (2 * randn(n, m, seed=seed)).softmax(-1)
    Q, K, found = fit_low_rank_attention(P, size, 1, 50, generator(seed))
    assert Q.shape == (n, size)
    assert K.shape == (m, size)
    assert 0 <= found <= divergence(P, *low_rank_logits(P, size)) + 1e-12


def test_random_starts_come_from_the_generator():
    P = the_random_pattern()
    before = torch.random.get_rng_state()
    one, two = (fit_low_rank_attention(P, 2, 1, 20, generator(5)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------- multi-head attention


def by_loops(module, x, mask=None):
    """Attention with loops over batch, heads and tokens, and Python's sums."""
    h, dk, dv = module.num_heads, module.key_size, module.value_size
    wq, wk, wv = (p.weight.detach() for p in (module.q_proj, module.k_proj, module.v_proj))
    eye = torch.eye(h, dtype=x.dtype)
    pre = eye if module.mix_pre is None else module.mix_pre.detach()
    post = eye if module.mix_post is None else module.mix_post.detach()
    outputs = torch.zeros_like(x)
    every = torch.zeros(len(x), h, x.shape[1], x.shape[1], dtype=x.dtype)
    for b, tokens in enumerate(x):
        for i, token in enumerate(tokens):
            raw = torch.zeros(h, len(tokens), dtype=x.dtype)
            for a in range(h):
                query = wq[a * dk : (a + 1) * dk] @ token
                for j, other in enumerate(tokens):
                    raw[a, j] = query @ (wk[a * dk : (a + 1) * dk] @ other) / math.sqrt(dk)
            weights = torch.zeros_like(raw)
            for a in range(h):
                logits = sum(pre[a, c] * raw[c] for c in range(h))
                seen = [j for j in range(len(tokens)) if mask is None or mask[i, j]]
                total = sum(math.exp(logits[j]) for j in seen)
                for j in seen:
                    weights[a, j] = math.exp(logits[j]) / total
            features = []
            for a in range(h):
                row = sum(post[a, c] * weights[c] for c in range(h))
                every[b, a, i] = row
                pieces = [wv[a * dv : (a + 1) * dv] @ other for other in tokens]
                features.append(sum(w * piece for w, piece in zip(row, pieces, strict=True)))
            outputs[b, i] = module.o_proj.weight.detach() @ torch.cat(features)
    return outputs, every


def scrambled(*args, seed=0, **kwargs):
    """A module in float64 whose parameters, mixings included, are random."""
    module = MultiHeadAttention(*args, **kwargs).double()
    g = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 2)
    return module


@pytest.mark.parametrize("talking", TALKING)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_agrees_with_explicit_loops(talking, masked):
    module = scrambled(6, 3, key_size=4, value_size=5, talking=talking)
    x = randn(2, 4, 6, seed=1)
    mask = torch.ones(4, 4, dtype=torch.bool).tril() if masked else None
    out, weights = module(x, mask, need_weights=True)
    expected, expected_weights = by_loops(module, x, mask)
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(weights, expected_weights, rtol=1e-12, atol=1e-12)
    assert torch.equal(module(x, mask), out)


@pytest.mark.parametrize("talking", TALKING)
@pytest.mark.parametrize(("heads", "key_size"), [(4, None), (4, 16), (1, 3), (2, 1)])
def test_at_first_it_is_torch_scaled_dot_product_attention(talking, heads, key_size):
    torch.manual_seed(0)
    module = MultiHeadAttention(8, heads, key_size, talking=talking).double()
    x = randn(3, 5, 8)
    mask = torch.rand(3, 1, 5, 5, generator=generator(2)) < 0.6
    mask = mask | torch.eye(5, dtype=torch.bool)
    q, k, v = (
        p(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for p in (module.q_proj, module.k_proj, module.v_proj)
    )
    for m in (None, mask):
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=m)
        expected = module.o_proj(expected.transpose(1, 2).flatten(2))
        assert torch.allclose(module(x, m), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_it_is_torch_multi_head_attention(heads):
    module = scrambled(8, heads)
    theirs = nn.MultiheadAttention(8, heads, bias=False, batch_first=True).double()
    with torch.no_grad():
        projections = (module.q_proj, module.k_proj, module.v_proj)
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.out_proj.weight.copy_(module.o_proj.weight)
    x, mask = randn(2, 6, 8, seed=3), torch.ones(6, 6, dtype=torch.bool).tril()
    for m in (None, mask):
        out, weights = module(x, m, need_weights=True)
        hidden = None if m is None else ~m  # there True means hidden
        expected, expected_weights = theirs(x, x, x, attn_mask=hidden, average_attn_weights=False)
        assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)
        assert torch.allclose(weights, expected_weights, rtol=1e-12, atol=1e-12)


def test_logits_of_a_head_have_rank_key_size_and_talking_heads_more():
    x = randn(1, 40, 32, seed=4)
    plain = scrambled(32, 8)(x, need_weights=True)[1][0]
    assert [minimal_key_size(P, 1e-6) for P in plain] == [4] * 8
    talking = scrambled(32, 8, talking="pre")(x, need_weights=True)[1][0]
    assert [minimal_key_size(P, 1e-6) for P in talking] == [32] * 8


def test_mixing_logits_is_a_product_of_experts():
    mix, logits = randn(2, 3, seed=5), randn(3, 5, 5, seed=6)
    weights = torch.einsum("ab,bij->aij", mix, logits).softmax(-1)
    product = (logits.softmax(-1)[None] ** mix[:, :, None, None]).prod(1)
    assert torch.allclose(weights, product / product.sum(-1, keepdim=True), rtol=1e-13)


@pytest.mark.parametrize("talking", TALKING)
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize(("key_size", "value_size"), [(None, None), (7, None), (3, 5)])
def test_parameters_are_counted(talking, heads, key_size, value_size):
    module = MultiHeadAttention(12, heads, key_size, value_size, talking)
    count = attention_parameter_count(12, heads, key_size, value_size, talking)
    assert count == sum(p.numel() for p in module.parameters())
    assert module(randn(2, 3, 12, dtype=torch.float32)).shape == (2, 3, 12)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(TALKING), st.integers(1, 6), st.integers(0, 50))
def test_the_order_of_tokens_does_not_matter(talking, n, seed):
    module = scrambled(6, 2, 3, talking=talking, seed=seed)
    x, order = randn(2, n, 6, seed=seed), torch.randperm(n, generator=generator(seed))
    assert torch.allclose(module(x[:, order]), module(x)[:, order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("talking", ["none", "pre"])
def test_hidden_tokens_are_hidden(talking):
    """What a token may not see changes nothing, whatever the signs of the mixing."""
    module, x = scrambled(6, 3, talking=talking), randn(1, 5, 6)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    changed = x.clone()
    changed[:, 3:] = 100 * randn(1, 2, 6, seed=9)
    assert torch.equal(module(x, mask)[:, :3], module(changed, mask)[:, :3])
    assert bool(module(x, mask).isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("talking", TALKING)
def test_lower_precision_agrees_with_float64(dtype, talking):
    module = scrambled(8, 2, talking=talking).to(dtype)
    x = randn(2, 300, 8).to(dtype)
    out, weights = module(x, need_weights=True)
    assert out.dtype == weights.dtype == dtype
    with torch.no_grad():
        exact, exact_weights = module.double()(x.double(), need_weights=True)
    eps = torch.finfo(dtype).eps
    assert torch.allclose(
        out.double(), exact, rtol=8 * eps, atol=8 * eps * float(exact.abs().max())
    )
    assert torch.allclose(weights.double(), exact_weights, rtol=16 * eps, atol=16 * eps)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e15])
def test_tokens_of_any_size(scale):
    module = scrambled(8, 2, talking="pre").float()
    x = scale * randn(2, 6, 8, dtype=torch.float32)
    assert bool(module(x).isfinite().all())


def test_half_precision_logits_do_not_overflow():
    module = scrambled(8, 1).half()
    x = 300 * randn(1, 4, 8, dtype=torch.float32).half()
    assert bool(module(x).isfinite().all())


def test_gradients_and_vmap():
    module = scrambled(4, 2, 3, talking="both")
    x = randn(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))
    inputs = randn(5, 2, 3, 4, seed=8)
    together = torch.vmap(module)(inputs)
    assert torch.allclose(together, torch.stack([module(part) for part in inputs]), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 4), ValueError, "d_model must be a multiple of num_heads.*got 10 and 4"),
        ((10, 4, 3), ValueError, "d_model must be a multiple of num_heads"),
        ((0, 1), ValueError, "d_model must be at least 1"),
        ((8, 0), ValueError, "num_heads must be at least 1"),
        ((8, 2.0), TypeError, "num_heads must be an integer"),
        ((8, 2, 0), ValueError, "key_size must be at least 1"),
        ((8, 2, 1, 0), ValueError, "value_size must be at least 1"),
        ((8, 2, None, None, "loudly"), ValueError, "talking must be one of"),
    ],
)
def test_bad_sizes_are_refused(arguments, error, message):
    for function in (MultiHeadAttention, attention_parameter_count):
        with pytest.raises(error, match=message):
            function(*arguments)
    assert attention_parameter_count(10, 4, 3, 3) == 480


@pytest.mark.parametrize(
    ("x", "mask", "error", "message"),
    [
        (torch.ones(2, 3), None, ValueError, r"x must have shape \(B, n, 4\), got \(2, 3\)"),
        (torch.ones(2, 3, 5), None, ValueError, r"x must have shape \(B, n, 4\)"),
        (torch.ones(2, 3, 4).double(), None, TypeError, "x must have the dtype torch.float32"),
        ([[[1.0] * 4]], None, TypeError, "x must have the dtype"),
        (torch.ones(2, 3, 4), torch.ones(3, 3), TypeError, "mask must be boolean"),
        (
            torch.ones(2, 3, 4),
            torch.ones(3, 2).bool(),
            ValueError,
            r"broadcast to \(2, 2, 3, 3\), got \(3, 2\)",
        ),
        (torch.ones(2, 3, 4), torch.ones(5, 1, 1, 3, 3).bool(), ValueError, "broadcast"),
        (torch.ones(2, 3, 4), torch.ones(3, 3).bool().tril(-1), ValueError, "a row that sees none"),
    ],
)
def test_bad_tokens_and_masks_are_refused(x, mask, error, message):
    with pytest.raises(error, match=message):
        MultiHeadAttention(4, 2)(x, mask)


# ---------------------------------------------------------------- what the exercises say


def solution(number):
    return exercise("attention/low_rank_bottleneck", number).solution


@pytest.mark.parametrize("p", [2, 4, 6])
@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8])
def test_key_size_of_a_window(p, n):
    P = window(n, lambda t: -((t / 3) ** p))
    assert solution(1)(p, n) == minimal_key_size(P)


@pytest.mark.parametrize("p", [2, 4, 6, 8, 10])
def test_key_size_of_a_window_in_whole_numbers(p):
    """Differences of neighbouring columns forget what is constant in a row."""
    for n in range(3, 15):
        powers = sp.Matrix(n, n, lambda i, j: (i - j) ** p)
        assert (powers[:, 1:] - powers[:, :-1]).rank() == solution(1)(p, n)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.booleans())
def test_key_size_of_groups(sizes, sink):
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    logits = 2.0 * (group[:, None] == group).double()
    if sink:
        logits[:, 0] += 3
    assert solution(5)(sizes, sink) == minimal_key_size(logits.softmax(-1))


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 9), st.integers(0, 99))
def test_who_can_win_by_trying_directions(n, seed):
    keys = np.random.default_rng(seed).normal(size=(n, 2)) + 3
    turns = np.linspace(0, 2 * np.pi, 100_000)
    queries = np.stack([np.cos(turns), np.sin(turns)], 1)
    assert solution(2)(keys) == sorted({int(token) for token in (queries @ keys.T).argmax(1)})
