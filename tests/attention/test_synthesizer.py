"""The Synthesizer against loops in plain Python, torch's convolution and the shared attention."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import seeded, t64
from torch import nn

from kexue_lab.attention.synthesizer import (
    SynthesizerAttention,
    dense_logits,
    factorized_dense_logits,
    logit_parameter_count,
    synthetic_attention,
    toeplitz_logits,
)
from kexue_lab.training import fit
from kexue_lab.transformer import SelfAttention, Transformer

KINDS = ("dot", "dense", "random", "random_fixed", "factorized_random", "factorized_dense")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _torch_state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def det(n, m, a):
    """Numbers that every machine makes alike."""
    i, c = np.meshgrid(np.arange(n), np.arange(m), indexing="ij")
    return torch.from_numpy(np.sin(a * i + c) + 0.3 * np.cos(i * c + a))


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0.0)


def layer(*arguments, **options):
    return SynthesizerAttention(*arguments, **options).double()


# ---------------------------------------------------------------------------- known values
# From an independent program, in numpy.

X, W1, B1 = det(4, 3, 1), det(3, 5, 0.4), 0.1 * torch.arange(5, dtype=torch.float64)
W2, B2, V = det(5, 4, 1.7), t64(0.2, -0.1, 0, 0.3), det(4, 2, 0.6)


def test_dense_values():
    logits = dense_logits(X, W1, B1, W2, B2)
    close(logits[0], t64(1.8329753190, 0.3227905300, -0.6999340585, -1.4731379661), 1e-9)
    output = synthetic_attention(logits, V)
    close(output[0], t64(0.4229554167, 1.0128452217), 1e-9)
    assert output.sum().item() == pytest.approx(5.9704821751, abs=1e-9)


def test_factorized_dense_values():
    hidden = (X @ W1 + B1).relu()
    p, q = hidden @ det(5, 2, 0.9), hidden @ det(5, 2, 1.3)
    repeated = factorized_dense_logits(p, q, tiling="repeat")
    close(repeated[0], t64(11.1295223902, 7.2954964285, 11.1295223902, 7.2954964285), 1e-9)
    woven = factorized_dense_logits(p, q)
    close(woven[0], t64(11.1295223902, 7.2916573400, 11.1353821310, 7.2954964285), 1e-9)
    sums = [synthetic_attention(logits, V).sum().item() for logits in (repeated, woven)]
    assert sums == pytest.approx([6.1557930232, 5.9459921460], abs=1e-9)


def test_table_values():
    close(synthetic_attention(det(4, 4, 0.3), V)[3], t64(0.6874623630, 0.8734258689), 1e-9)
    product = det(4, 2, 0.8) @ det(4, 2, 1.1).mT
    close(synthetic_attention(product, V)[0], t64(0.6338810440, 0.9338390751), 1e-9)


def test_convolution_values():
    output = synthetic_attention(toeplitz_logits(t64(-1, 0.5, 2, 0.3, -0.7), 10), det(10, 3, 0.5))
    close(output[0], t64(0.3785927141, 1.0687395356, 0.9946727173), 1e-9)
    close(output[5], t64(0.8235771057, -0.1631432542, -0.9898173968), 1e-9)


# ---------------------------------------------------------------------------- functions


def test_dense_logits_by_loops():
    ours = dense_logits(X, W1, B1, W2, B2)
    for i, row in enumerate(X.tolist()):
        hidden = [
            max(0.0, sum(a * w for a, w in zip(row, column, strict=True)) + float(b))
            for column, b in zip(W1.mT.tolist(), B1, strict=True)
        ]
        expected = [
            sum(a * w for a, w in zip(hidden, column, strict=True)) + float(b)
            for column, b in zip(W2.mT.tolist(), B2, strict=True)
        ]
        close(ours[i], t64(*expected))


def test_dense_logits_broadcast():
    x, w1 = randn(2, 1, 4, 3), randn(5, 3, 6, seed=1)
    b1, w2, b2 = randn(5, 1, 6, seed=2), randn(5, 6, 7, seed=3), randn(7, seed=4)
    ours = dense_logits(x, w1, b1, w2, b2)
    assert ours.shape == (2, 5, 4, 7)
    close(ours[1, 3], dense_logits(x[1, 0], w1[3], b1[3, 0], w2[3], b2))


@settings(max_examples=40, deadline=None)
@given(a=st.integers(1, 8), b=st.integers(1, 8))
def test_tilings_by_index(a, b):
    p, q = randn(2, a), randn(2, b, seed=1)
    woven = factorized_dense_logits(p, q)
    repeated = factorized_dense_logits(p, q, tiling="repeat")
    for j in range(a * b):
        close(woven[:, j], p[:, j // b] * q[:, j % b])
        close(repeated[:, j], p[:, j % a] * q[:, j % b])
    # Random factors: products are equal only if the pairs are.
    assert len(set(woven[0].tolist())) == a * b
    assert len(set(repeated[0].tolist())) == math.lcm(a, b)
    if math.gcd(a, b) == 1:
        close(repeated.sort(-1).values, woven.sort(-1).values)


@settings(max_examples=30, deadline=None)
@given(w=st.integers(0, 4), n=st.integers(1, 12), seed=st.integers(0, 9))
def test_toeplitz_attention_is_a_quotient_of_convolutions(w, n, seed):
    r, v = randn(2 * w + 1, seed=seed), randn(n, 3, seed=seed + 10)
    kernel = r.exp().expand(1, 1, -1)

    def convolved(channels):
        return F.conv1d(channels.mT[:, None], kernel, padding=w)[:, 0].mT

    expected = convolved(v) / convolved(torch.ones_like(v))
    close(synthetic_attention(toeplitz_logits(r, n), v), expected)


def test_attention_is_torchs_with_a_bias():
    """torch's attention with zero queries and the logits as its additive mask."""
    logits, v = randn(2, 3, 5, 7), randn(2, 3, 7, 4, seed=1)
    mask = torch.rand(2, 1, 5, 7, generator=seeded(2)) > 0.3
    mask[..., 0] = True
    none = torch.zeros(2, 3, 5, 4, dtype=torch.float64)
    bias = logits.masked_fill(~mask, -math.inf)
    expected = F.scaled_dot_product_attention(none, torch.zeros_like(v), v, attn_mask=bias)
    close(synthetic_attention(logits, v, mask=mask), expected)


def test_causal_rows_see_the_past():
    logits, v = randn(6, 6), randn(6, 2, seed=1)
    full = synthetic_attention(logits, v, is_causal=True)
    close(full[:4], synthetic_attention(logits[:4, :4], v[:4], is_causal=True))
    close(full[0], v[0])


def test_a_mask_may_have_more_dimensions():
    logits, v = randn(5, 5), randn(5, 2, seed=1)
    mask = torch.ones(3, 5, 5, dtype=torch.bool)
    mask[2, :, 4] = False
    output = synthetic_attention(logits, v, mask=mask)
    close(output[0], synthetic_attention(logits, v))
    close(output[2], synthetic_attention(logits[:, :4], v[:4]))


def test_mixed_logits_are_a_product_of_experts():
    first, second = dense_logits(X, W1, B1, W2, B2), det(4, 4, 0.3)
    ours = (0.3 * first + 0.7 * second).softmax(-1)
    product = first.softmax(-1) ** 0.3 * second.softmax(-1) ** 0.7
    close(ours, product / product.sum(-1, keepdim=True), 1e-15)
    known = t64(0.2907822996, 0.3331354382, 0.2570344857, 0.1190477765)
    close(ours[0], known, 1e-9)


# ---------------------------------------------------------------------------- the layer


def test_dot_is_the_shared_attention():
    ours, theirs = layer(8, 2, 6, ("dot",)), SelfAttention(8, 2).double()
    with torch.no_grad():
        weights = (ours.makers[0].q_proj, ours.makers[0].k_proj, ours.v_proj)
        theirs.qkv_proj.weight.copy_(torch.cat([part.weight for part in weights]))
        theirs.o_proj.weight.copy_(ours.o_proj.weight)
    x = randn(3, 5, 8)
    keep = torch.tensor([True, True, False, True, True])
    close(ours(x), theirs(x))
    close(ours(x, mask=keep), theirs(x, mask=keep))


def test_dense_rows_are_those_of_the_function():
    attention = layer(8, 2, 6, ("dense",))
    x, maker = randn(3, 5, 8), attention.makers[0]
    for head in range(2):
        own = slice(4 * head, 4 * head + 4)
        w1, b1 = maker.hidden.weight[own].T, maker.hidden.bias[own]
        expected = dense_logits(x, w1, b1, maker.w2[0][head], maker.b2[0][head, 0])
        close(attention.logits(x)[:, head], expected[..., :5])


@every_kind
def test_weights_are_those_of_the_output(kind):
    attention = layer(8, 2, 6, (kind,))
    x = randn(3, 5, 8)
    output, weights = attention(x, need_weights=True)
    close(weights.sum(-1), torch.ones(3, 2, 5, dtype=torch.float64))
    heads = attention.v_proj(x).unflatten(-1, (2, 4))
    mixed = torch.einsum("bhij,bjhc->bihc", weights, heads)
    close(output, attention.o_proj(mixed.flatten(-2)))
    close(weights, attention.logits(x).softmax(-1))


@every_kind
def test_what_a_row_depends_on(kind):
    """The Jacobian of the logits with respect to a token, block by block."""
    attention = layer(4, 1, 4, (kind,))
    x = randn(4, 4)
    jacobian = torch.autograd.functional.jacobian(lambda y: attention.logits(y[None])[0, 0], x)
    seen = jacobian.abs().amax(-1) > 0  # (row, column, token)
    for i, j, k in itertools.product(range(4), repeat=3):
        if kind == "dot":
            assert seen[i, j, k] == (k in (i, j))
        elif kind in ("dense", "factorized_dense"):
            assert not seen[i, j, k] or k == i
        else:
            assert not seen[i, j, k]


@every_kind
def test_logits_of_a_shorter_sequence_are_the_first_ones(kind):
    attention = layer(8, 2, 6, (kind,), factors=(2, 3))
    x = randn(2, 6, 8)
    close(attention.logits(x[:, :4]), attention.logits(x)[..., :4, :4])


@every_kind
def test_masked_tokens_are_not_seen(kind):
    attention = layer(8, 2, 5, (kind,))
    x = randn(2, 5, 8)
    changed = x.clone()
    changed[:, 3:] += 1
    keep = torch.tensor([True, True, True, False, False])
    close(attention(x, keep)[:, :3], attention(changed, keep)[:, :3])
    close(attention(x, keep)[:, :3], attention(x[:, :3]))


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@every_kind
def test_parameters_are_counted(kind, num_heads):
    options = {"rank": 3, "factors": (3, 4)}
    attention = layer(8, num_heads, 12, (kind,), **options)
    counted = sum(
        parameter.numel()
        for name, parameter in attention.makers.named_parameters()
        if "bias" not in name and "b2" not in name
    )
    assert counted == logit_parameter_count(kind, 8, 12, num_heads=num_heads, **options)


@pytest.mark.parametrize(
    ("kind", "one_head", "heads"),
    [
        ("dot", 1179648, 1179648),
        ("random", 262144, 3145728),
        ("factorized_random", 8192, 98304),
        ("dense", 983040, 983040),
        ("factorized_dense", 626688, 626688),
        ("random_fixed", 0, 0),
    ],
)
def test_parameters_of_a_layer_of_bert(kind, one_head, heads):
    sizes = {"rank": 8, "factors": (16, 32)}
    assert logit_parameter_count(kind, 768, 512, **sizes) == one_head
    assert logit_parameter_count(kind, 768, 512, num_heads=12, **sizes) == heads


def test_a_layer_takes_the_factors_closest_together():
    assert [tuple(w.shape) for w in layer(4, 2, 12, ("factorized_dense",)).makers[0].w2] == [
        (2, 2, 3),
        (2, 2, 4),
    ]


@pytest.mark.parametrize(("factors", "period"), [((2, 6), 6), ((4, 6), 12), ((3, 4), 12)])
def test_tiling_shows_in_the_columns(factors, period):
    n = math.prod(factors)
    x = randn(1, n, 4)
    for tiling, distinct in (("repeat", period), ("interleave", n)):
        attention = layer(4, 2, n, ("factorized_dense",), factors=factors, tiling=tiling)
        with torch.no_grad():
            for maker in attention.makers:
                maker.hidden.bias += 2  # no unit is off
        row = attention.logits(x)[0, 0, 0]
        assert len(set(row.tolist())) == distinct


def test_mixture_is_the_weighted_sum():
    attention = layer(8, 2, 6, ("random", "dot", "dense"))
    with torch.no_grad():
        attention.mixture.copy_(t64(0.0, math.log(2), math.log(3)))
    x = randn(3, 5, 8)
    parts = [maker(x) for maker in attention.makers]
    close(attention.logits(x), (parts[0] + 2 * parts[1] + 3 * parts[2]) / 6)


def test_a_frozen_table_is_no_parameter():
    frozen = layer(8, 2, 6, ("random_fixed",))
    assert [name for name, _ in frozen.named_parameters()] == ["v_proj.weight", "o_proj.weight"]
    assert "makers.0.table" in frozen.state_dict()


@pytest.mark.parametrize("kind", ["random", "random_fixed", "factorized_random"])
def test_tables_start_with_variance_one(kind):
    logits = layer(4, 4, 100, (kind,), rank=5).logits(randn(1, 100, 4))
    assert logits.var().item() == pytest.approx(1, abs=0.1)


@every_kind
def test_seeds_train_together_as_alone(kind):
    def make_model(_):
        return Transformer([SynthesizerAttention(8, 2, 4, (kind,))], 8, vocabulary=5, max_length=4)

    def make_batch(g):
        return (torch.randint(5, (4, 4), generator=g),)

    def loss(model, tokens):
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    run = {"steps": 3, "device": "cpu", "progress": False}
    together = fit(make_model, make_batch, loss, seeds=(1, 2), **run)
    alone = fit(make_model, make_batch, loss, seeds=(2,), **run)
    torch.testing.assert_close(together.losses[:, 1:], alone.losses, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------- precision, refusals


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_agrees(dtype):
    arguments = [tensor.to(dtype) for tensor in (X, W1, B1, W2, B2)]
    exact = dense_logits(*(tensor.double() for tensor in arguments))
    ours = dense_logits(*arguments)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    v = V.to(dtype)
    output = synthetic_attention(ours, v)
    exact = synthetic_attention(ours.double(), v.double())
    torch.testing.assert_close(output.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_logits_of_any_size():
    logits = torch.tensor([[6e4, -6e4], [0.0, -6e4]], dtype=torch.float16)
    output = synthetic_attention(logits, torch.tensor([[6e4], [1.0]], dtype=torch.float16))
    assert output.flatten().tolist() == torch.tensor([6e4, 6e4], dtype=torch.float16).tolist()


def nothing(*shape):
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: dense_logits(nothing(2, 3), nothing(4, 5), *map(nothing, (5, (5, 2), 2))),
            ValueError,
            "w1 must have length = 3, got 4",
        ),
        (lambda: dense_logits(X, W1, B1, W2, B2.float()), TypeError, "must share one dtype"),
        (lambda: dense_logits(X, W1, B1, W2, B2.tolist()), TypeError, "b2 must be a floating"),
        (lambda: dense_logits(X[0], W1, B1, W2, B2), ValueError, r"x must have shape \(..., n, d"),
        (lambda: dense_logits(X, W1, B1[:3], W2, B2), ValueError, "b1 must have length = 5, got 3"),
        (lambda: dense_logits(X, W1, B1, W2[:2], B2), ValueError, "w2 must have length = 5, got 2"),
        (lambda: dense_logits(X, W1, B1, W2, B2[:2]), ValueError, "b2 must have length = 4, got 2"),
        (
            lambda: dense_logits(X.expand(2, 4, 3), W1.expand(3, 3, 5), B1, W2, B2),
            ValueError,
            "leading dimensions that broadcast",
        ),
        (lambda: dense_logits(1e300 * X, 1e300 * W1, B1, W2, B2), ValueError, "logits must fit"),
        (
            lambda: factorized_dense_logits(B1, B2, tiling="transpose"),
            ValueError,
            "tiling must be one of .*, got 'transpose'",
        ),
        (lambda: factorized_dense_logits(t64(), B2), ValueError, r"a must have shape \(..., A\)"),
        (
            lambda: factorized_dense_logits(X[:2], W2),
            ValueError,
            r"a, b must have leading dimensions that broadcast, got \(2,\), \(5,\)",
        ),
        (lambda: toeplitz_logits(t64(1, 2), 3), ValueError, r"r must have shape \(2w \+ 1,\)"),
        (lambda: toeplitz_logits(X, 3), ValueError, r"r must have shape .*, got \(4, 3\)"),
        (lambda: toeplitz_logits(t64(1), 0), ValueError, "n must be at least 1, got 0"),
        (lambda: toeplitz_logits(t64(1), 1.0), TypeError, "n must be an integer, got 1.0"),
        (lambda: synthetic_attention(X, V), ValueError, "v must have m = 3, got 4"),
        (lambda: synthetic_attention(X, V[:3], is_causal=True), ValueError, "logits must have n"),
        (
            lambda: synthetic_attention(X, V[:3], mask=torch.ones(3)),
            TypeError,
            "mask must be boolean, got torch.float32",
        ),
        (
            lambda: synthetic_attention(X, V[:3], mask=torch.ones(2, 2, dtype=torch.bool)),
            ValueError,
            r"mask must broadcast to \(4, 3\), got \(2, 2\)",
        ),
        (
            lambda: synthetic_attention(X, V[:3], mask=torch.arange(4)[:, None] > 0),
            ValueError,
            "mask must let each row see a column, got a row that sees none",
        ),
        (lambda: logit_parameter_count("conv", 4, 4), ValueError, "kind must be one of .*'conv'"),
        (lambda: logit_parameter_count("dot", 0, 4), ValueError, "d_model must be at least 1"),
        (lambda: logit_parameter_count("dot", 4, 4.0), TypeError, "max_length must be an integer"),
        (
            lambda: logit_parameter_count("dot", 4, 4, num_heads=3),
            ValueError,
            "num_heads must divide d_model = 4, got 3",
        ),
        (
            lambda: logit_parameter_count("factorized_dense", 4, 6, factors=(2, 2)),
            ValueError,
            r"factors must multiply to max_length = 6, got \(2, 2\)",
        ),
        (
            lambda: logit_parameter_count("factorized_dense", 4, 6, factors=(-2, -3)),
            ValueError,
            r"factors\[0\] must be at least 1, got -2",
        ),
        (lambda: SynthesizerAttention(4, 2, 6, ()), ValueError, "kinds must name at least one"),
        (lambda: SynthesizerAttention(4, 2, 6, "dense"), ValueError, "kinds must be one of .*'d'"),
        (lambda: SynthesizerAttention(4, 3, 6), ValueError, "num_heads must divide"),
        (lambda: SynthesizerAttention(4, 2, 6, tiling="x"), ValueError, "tiling must be one of"),
        (lambda: SynthesizerAttention(4, 2, 6, rank=0), ValueError, "rank must be at least 1"),
        (
            lambda: SynthesizerAttention(4, 2, 6)(nothing(1, 7, 4)),
            ValueError,
            "x must have length at most 6, got 7",
        ),
        (
            lambda: SynthesizerAttention(4, 2, 6)(nothing(1, 3, 4), torch.arange(3) > 5),
            ValueError,
            "mask must let each row see a column",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_gradients_are_right():
    attention = layer(4, 2, 4, ("dense", "factorized_dense", "random", "dot"))
    x = randn(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: attention(y), x)


def test_state_is_kept():
    first, second = (layer(4, 2, 4, ("random_fixed", "dense")) for _ in range(2))
    second.load_state_dict(first.state_dict())
    x = randn(1, 3, 4)
    close(first(x), second(x))
    assert isinstance(first.makers, nn.ModuleList)
