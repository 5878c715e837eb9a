import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, special
from torch import nn
from torch.nn import functional as F

from kexue_lab.attention.relative_position import (
    URPE,
    RelativeAttention,
    RelativeTransformer,
    apply_rope,
    attention_weights,
    probe_floor,
    toeplitz_bias,
)
from kexue_lab.exercises import exercise
from kexue_lab.transformer import SelfAttention

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = ("softmax", "l2", "none")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def by_offset(n, value):
    return torch.tensor([value(k) for k in range(1 - n, n)], dtype=torch.float64)


def probed(seed, *args, **kwargs):
    """The outputs (n, classes) of a random net in float64 on the constant sequence."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return RelativeTransformer(*args, **kwargs).double()()[0]


def spread(outputs):
    return float((outputs.amax(0) - outputs.amin(0)).max())


# ---------------------------------------------------------------- biases


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 99))
def test_biases_are_scipy_toeplitz_matrices(n, seed):
    values = randn(2, 2 * n - 1, seed=seed)
    for row, matrix in zip(values, toeplitz_bias(values, n), strict=True):
        middle = n - 1
        theirs = linalg.toeplitz(row[middle:].numpy(), row[: middle + 1].flip(0).numpy())
        assert np.array_equal(matrix.numpy(), theirs)


def test_biases_have_gradients_and_a_batch():
    values = randn(3, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: toeplitz_bias(v, 4), (values,))
    together = torch.vmap(lambda v: toeplitz_bias(v, 4))(values)
    assert torch.equal(together, toeplitz_bias(values, 4))


@pytest.mark.parametrize(
    ("values", "n", "error", "message"),
    [
        (torch.ones(4), 2, ValueError, r"last axis of 2n - 1 = 3, got shape \(4,\)"),
        (torch.tensor(1.0), 1, ValueError, "last axis"),
        ([1.0], 1, TypeError, "values must be a tensor, got list"),
        (torch.ones(1), 0, ValueError, "n must be at least 1"),
        (torch.ones(3), 2.0, TypeError, "n must be an integer"),
    ],
)
def test_bad_biases_are_refused(values, n, error, message):
    with pytest.raises(error, match=message):
        toeplitz_bias(values, n)


# ---------------------------------------------------------------- rotations


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 99), st.floats(2, 1e5))
def test_a_rotation_is_a_product_of_complex_numbers(n, pairs, seed, base):
    x, where = randn(n, 2 * pairs, seed=seed), randn(n, seed=seed + 1)
    numbers = x.numpy()[:, ::2] + 1j * x.numpy()[:, 1::2]
    turned = numbers * np.exp(
        1j * where.numpy()[:, None] * base ** (-np.arange(0, 2 * pairs, 2) / (2 * pairs))
    )
    result = apply_rope(x, where, base).numpy()
    assert np.allclose(result[:, ::2] + 1j * result[:, 1::2], turned, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("s", range(1, 6))
def test_products_of_rotated_tokens_depend_on_the_offset_only(s):
    q, k = randn(8, seed=1), randn(8, seed=2)
    logits = apply_rope(q.expand(12, 8)) @ apply_rope(k.expand(12, 8)).mT
    assert (logits[s:, s:] - logits[:-s, :-s]).abs().max() < 1e-12


def test_rotations_keep_lengths_and_far_positions_their_digits():
    x, where = randn(4, 6, dtype=torch.float32), torch.tensor([0, 1, 10**6, -(10**6)])
    result = apply_rope(x, where)
    assert torch.allclose(result.norm(dim=-1), x.norm(dim=-1), rtol=1e-6)
    assert torch.allclose(result.double(), apply_rope(x.double(), where), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotations_in_lower_precision(dtype):
    x = randn(2, 50, 8).to(dtype)
    eps = torch.finfo(dtype).eps
    assert apply_rope(x).dtype == dtype
    assert torch.allclose(apply_rope(x).double(), apply_rope(x.double()), rtol=eps, atol=4 * eps)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3, 5),), ValueError, r"an even d, got \(3, 5\)"),
        ((torch.ones(4),), ValueError, "an even d"),
        ((torch.ones(3, 4).int(),), TypeError, "x must be a floating-point tensor"),
        ((torch.ones(3, 4) * math.nan,), ValueError, "x must be finite"),
        ((torch.ones(3, 4), torch.arange(2)), ValueError, r"shape \(3,\), got \(2,\)"),
        ((torch.ones(3, 4), [0, 1, 2]), ValueError, r"positions must be a tensor"),
        ((torch.ones(1, 4), torch.tensor([math.inf])), ValueError, "positions must be finite"),
        ((torch.ones(3, 4), None, 0.0), ValueError, "base must be positive"),
        ((torch.full((2, 2), 60000.0).half(),), ValueError, "the rotated x must fit"),
    ],
)
def test_bad_rotations_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        apply_rope(*arguments)


# ---------------------------------------------------------------- weights


def weights_by_loops(b, kind, mask=None):
    result = torch.zeros_like(b)
    for i in range(b.shape[0]):
        seen = [j for j in range(b.shape[1]) if mask is None or mask[i, j]]
        powers = {j: math.exp(b[i, j]) for j in seen}
        over = {
            "softmax": sum(powers.values()),
            "l2": math.sqrt(sum(p * p for p in powers.values())),
            "none": len(seen),
        }[kind]
        for j in seen:
            result[i, j] = powers[j] / over
    return result


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_weights_agree_with_explicit_loops(kind, n, seed, masked):
    b = 2 * randn(n, n + 1, seed=seed)
    mask = torch.ones(n, n + 1, dtype=torch.bool).tril(seed % 2) if masked else None
    expected = weights_by_loops(b, kind, mask)
    assert torch.allclose(attention_weights(b, kind, mask), expected, rtol=1e-12, atol=0)


def test_softmax_is_scipys_and_l2_has_unit_rows():
    b = 5 * randn(3, 4, 6)
    assert np.allclose(attention_weights(b).numpy(), special.softmax(b.numpy(), -1), rtol=1e-13)
    lengths = np.linalg.norm(attention_weights(b, "l2").numpy(), axis=-1)
    assert np.allclose(lengths, 1, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 4), (1, 4), (4, 1), (4,), (1,), (2, 1, 4), (2, 4, 1)])
def test_masks_broadcast(kind, shape):
    b, mask = randn(2, 4, 4), torch.ones(shape, dtype=torch.bool)
    if shape[-1] == 4:
        mask[..., 1] = False
    full = mask.expand(2, 4, 4)
    assert torch.equal(attention_weights(b, kind, mask), attention_weights(b, kind, full))
    assert not attention_weights(b, kind, mask)[~full].any()


@pytest.mark.parametrize("kind", ["softmax", "l2"])
def test_adding_to_a_row_changes_nothing(kind):
    b, shift = randn(5, 5), 600 * randn(5, 1, seed=1)
    assert torch.allclose(attention_weights(b + shift, kind), attention_weights(b, kind), rtol=1e-9)


def test_without_a_denominator_a_shift_is_a_factor():
    b = randn(5, 5)
    shifted = attention_weights(b + math.log(3), "none")
    assert torch.allclose(shifted, 3 * attention_weights(b, "none"), rtol=1e-13)


def test_row_sums_of_six_tokens():
    """From the article's two norms, to the eight digits of an independent computation."""
    mirrored = toeplitz_bias(by_offset(6, lambda k: -0.3 * abs(k)), 6)
    sums = attention_weights(mirrored, "l2").sum(-1)
    half = torch.tensor([2.19341752, 2.29427361, 2.35468518], dtype=torch.float64)
    assert torch.allclose(sums, torch.cat([half, half.flip(0)]), rtol=0, atol=1e-7)
    slanted = toeplitz_bias(by_offset(6, lambda k: -0.3 * k if k >= 0 else 0.9 * k), 6)
    l2 = [1.53261902, 1.82140374, 2.04692138, 2.19937206, 2.25863247, 2.19341752]
    none = [0.27958446, 0.40120267, 0.48811732, 0.54467801, 0.56732723, 0.53675398]
    for kind, expected in (("l2", l2), ("none", none)):
        sums = attention_weights(slanted, kind).sum(-1)
        assert torch.allclose(sums, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def test_the_weight_of_a_first_token():
    bias = toeplitz_bias(by_offset(7, lambda k: -0.3 * k), 7)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    first = attention_weights(bias, "softmax", causal)[1:, 0]
    digits = [0.42555748, 0.23969448, 0.15079361, 0.10048537, 0.06928381, 0.04882089]
    assert torch.allclose(first, torch.tensor(digits, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_in_lower_precision_and_of_any_size(kind, dtype):
    b = randn(4, 300).to(dtype)
    eps = torch.finfo(dtype).eps
    weights = attention_weights(b, kind)
    assert weights.dtype == dtype
    exact = attention_weights(b.double(), kind)
    assert torch.allclose(weights.double(), exact, rtol=8 * eps, atol=torch.finfo(dtype).tiny)
    huge = torch.tensor([[torch.finfo(dtype).max, torch.finfo(dtype).min, 0.0]], dtype=dtype)
    assert bool(attention_weights(huge, kind).isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_gradients_also_beside_a_mask(kind):
    b = randn(3, 3).requires_grad_()
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    assert torch.autograd.gradcheck(lambda b: attention_weights(b, kind, mask), (b,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3),), ValueError, r"shape \(..., n, m\), not empty, got \(3,\)"),
        ((torch.ones(3, 0),), ValueError, "not empty"),
        ((torch.ones(3, 3).int(),), TypeError, "logits must be a floating-point tensor"),
        ((torch.ones(3, 3) * math.inf,), ValueError, "logits must be finite"),
        ((torch.ones(3, 3), "l1"), ValueError, "normalization must be one of"),
        ((torch.ones(3, 3), "l2", torch.ones(3, 3)), TypeError, "mask must be boolean"),
        ((torch.ones(3, 3), "l2", torch.ones(2, 3).bool()), ValueError, "mask must broadcast"),
        (
            (torch.ones(3, 3), "none", torch.eye(3).bool().tril(-1)),
            ValueError,
            "a row that sees none",
        ),
    ],
)
def test_bad_weights_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        attention_weights(*arguments)


# ---------------------------------------------------------------- a factor after the softmax


def test_urpe_begins_as_nothing_and_multiplies_by_offset():
    urpe, weights = URPE(2, 6).double(), randn(3, 2, 4, 4)
    assert torch.equal(urpe(weights), weights)
    with torch.no_grad():
        urpe.table.copy_(torch.arange(-5.0, 6.0).expand(2, -1))
    for i in range(4):
        for j in range(4):
            assert torch.equal(urpe(weights)[..., i, j], weights[..., i, j] * (i - j))


def test_urpe_solves_the_probe_by_a_step():
    """Zero logits and g(k) = [k ≥ 0]: token i gets i / n."""
    urpe = URPE(1, 7).double()
    with torch.no_grad():
        urpe.table.copy_((torch.arange(-6, 7) >= 0).double())
        weights = urpe(attention_weights(torch.zeros(1, 1, 7, 7).double()))
    assert torch.allclose(weights.sum(-1)[0, 0], torch.arange(1, 8).double() / 7, rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 5, 5), "at most max_len = 4 tokens, got 5"),
        ((1, 3, 4, 4), r"shape \(B, 2, n, n\), got \(1, 3, 4, 4\)"),
        ((2, 4, 4), "shape"),
        ((1, 2, 4, 3), "shape"),
    ],
)
def test_bad_weights_for_urpe_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        URPE(2, 4)(torch.ones(shape))


def test_bad_sizes_of_urpe_are_refused():
    with pytest.raises(ValueError, match="max_len must be at least 1"):
        URPE(1, 0)
    with pytest.raises(TypeError, match="num_heads must be an integer"):
        URPE("2", 3)


# ---------------------------------------------------------------- attention


def attention_by_loops(module, x):
    """One sequence x (n, d) through the module, token by token, without masks or broadcasting."""
    h, size = module.num_heads, x.shape[1] // module.num_heads
    wq, wk, wv = module.qkv_proj.weight.detach().chunk(3)
    outputs = []
    for i, token in enumerate(x):
        features = []
        for a in range(h):
            rows = slice(a * size, (a + 1) * size)
            others = range(i + 1) if module.causal else range(len(x))
            logits = []
            for j in others:
                q, k = wq[rows] @ token, wk[rows] @ x[j]
                if module.position == "rope":
                    turned = 0.0
                    for m in range(0, size, 2):
                        angle = (j - i) * 10000 ** (-m / size)
                        c, s = math.cos(angle), math.sin(angle)
                        turned += q[m] * (c * k[m] - s * k[m + 1])
                        turned += q[m + 1] * (s * k[m] + c * k[m + 1])
                    logits.append(turned / math.sqrt(size))
                else:
                    logits.append(q @ k / math.sqrt(size))
                if module.bias is not None:
                    middle = module.bias.shape[1] // 2
                    logits[-1] = logits[-1] + module.bias[a, middle + i - j].detach()
            powers = [math.exp(b) for b in logits]
            over = {
                "softmax": sum(powers),
                "l2": math.sqrt(sum(p * p for p in powers)),
                "none": len(powers),
            }[module.normalization]
            mixed = torch.zeros(size, dtype=x.dtype)
            for j, p in zip(others, powers, strict=True):
                if module.urpe is not None:
                    middle = module.urpe.max_len - 1
                    p = p * float(module.urpe.table[a, middle + i - j])
                mixed = mixed + p / over * (wv[rows] @ x[j])
            features.append(mixed)
        outputs.append(module.o_proj.weight.detach() @ torch.cat(features))
    return torch.stack(outputs)


@pytest.mark.parametrize("position", ["bias", "rope", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("urpe", "causal"), [(False, False), (True, False), (True, True)])
def test_attention_agrees_with_explicit_loops(position, kind, urpe, causal):
    torch.manual_seed(0)
    module = RelativeAttention(8, 2, 7, position, kind, urpe=urpe, causal=causal).double()
    if urpe:
        nn.init.normal_(module.urpe.table)
    x = randn(1, 5, 8)
    with torch.no_grad():
        assert torch.allclose(module(x)[0], attention_by_loops(module, x[0]), rtol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_without_positions_it_is_the_courses_self_attention(causal):
    torch.manual_seed(0)
    mine = RelativeAttention(8, 2, 6, "none", causal=causal).double()
    theirs = SelfAttention(8, 2, is_causal=causal).double()
    theirs.load_state_dict(mine.state_dict())
    x, mask = randn(3, 6, 8), torch.ones(6, 6, dtype=torch.bool).triu(-2)
    assert torch.allclose(mine(x, mask=mask), theirs(x, mask=mask), rtol=1e-12)


def test_half_precision_and_tables_that_are_too_short():
    module = RelativeAttention(8, 2, 4, "bias")
    assert module.half()(randn(1, 3, 8).half()).dtype == torch.float16
    with pytest.raises(ValueError, match="x must be of at most 4 tokens, got 5"):
        module(randn(1, 5, 8).half())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 4, 3), ValueError, "num_heads must divide d_model = 10, got 4"),
        ((6, 2, 3, "rope"), ValueError, "must be even for rope, got 6 / 2"),
        ((8, 2, 3, "shaw"), ValueError, "position must be one of"),
        ((8, 2, 3, "bias", "l1"), ValueError, "normalization must be one of"),
        ((8, 2, 0), ValueError, "num_tokens must be at least 1"),
        ((8.0, 2, 3), TypeError, "d_model must be an integer"),
    ],
)
def test_bad_attention_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        RelativeAttention(*arguments)


# ---------------------------------------------------------------- the probe


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("position", ["bias", "rope", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_that_sum_to_1_leave_all_positions_alike(position, causal, seed):
    outputs = probed(seed, 12, 16, 4, 4, position, causal=causal)
    assert outputs.shape == (12, 12)
    assert spread(outputs) < 1e-12


@pytest.mark.parametrize(
    "variant",
    [
        {"normalization": "l2"},
        {"normalization": "none"},
        {"position": "rope", "normalization": "l2"},
        {"special_token": True},
        {"position": "rope", "special_token": True},
        {"position": "none", "special_token": True, "causal": True},
        {"position": "absolute"},
    ],
)
def test_each_repair_tells_all_positions_apart(variant):
    outputs = probed(1, 9, 16, 4, 2, **variant)
    distances = torch.cdist(outputs, outputs) + torch.eye(9)
    assert distances.min() > 1e-5


def test_a_special_token_without_order_is_no_repair():
    assert spread(probed(0, 9, 16, 4, 3, "none", special_token=True)) < 1e-12


def test_urpe_is_a_repair_once_its_table_is_not_constant():
    torch.manual_seed(0)
    model = RelativeTransformer(9, 16, 4, 2, urpe=True).double()
    with torch.no_grad():
        assert spread(model()[0]) < 1e-12
        for layer in model.layers:
            nn.init.normal_(layer.attention.urpe.table)
        assert spread(model()[0]) > 1e-2


@pytest.mark.parametrize("kind", ["l2", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_a_symmetric_bias_cannot_tell_the_ends_apart(kind, seed):
    torch.manual_seed(seed)
    model = RelativeTransformer(8, 16, 4, 3, "bias", kind).double()
    with torch.no_grad():
        for layer in model.layers:
            table = layer.attention.bias
            table.copy_((table + table.flip(-1)) / 2)
        outputs = model()[0]
    assert (outputs - outputs.flip(0)).abs().max() < 1e-12
    assert spread(outputs) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_circle_all_rows_have_one_sum(kind):
    around = linalg.circulant(randn(6).numpy())
    sums = attention_weights(torch.from_numpy(around), kind).sum(-1)
    assert spread(sums[:, None]) < 1e-13


def test_a_batch_repeats_one_sequence_and_classes_may_be_few():
    torch.manual_seed(0)
    model = RelativeTransformer(5, 8, 2, 1, special_token=True, num_classes=3)
    outputs = model(4)
    assert outputs.shape == (4, 5, 3)
    assert torch.allclose(outputs, model().expand(4, -1, -1), atol=1e-6)
    assert model.layers[0].attention.bias.shape == (2, 11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 2, 1), "n must be at least 1"),
        ((4, 8, 2, 0), "num_layers must be at least 1"),
        ((4, 6, 2, 1, "rope"), "even for rope"),
        ((4, 8, 2, 1, "alibi"), "position must be one of"),
    ],
)
def test_bad_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelativeTransformer(*arguments)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        RelativeTransformer(3, 4, 1, 1)(0)


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_floors_are_losses_of_the_best_constant_output(n):
    numbers = torch.arange(1.0, n + 1).double()
    mse = F.mse_loss(numbers.mean().expand(n), numbers).item()
    entropy = F.cross_entropy(torch.zeros(n, n).double(), torch.arange(n)).item()
    assert probe_floor(n, "mse") == pytest.approx(mse, abs=1e-12)
    assert probe_floor(n, "cross_entropy") == pytest.approx(entropy, abs=1e-12)


def test_bad_floors_are_refused():
    with pytest.raises(ValueError, match="loss must be one of"):
        probe_floor(4, "mae")
    with pytest.raises(ValueError, match="n must be at least 1"):
        probe_floor(0, "mse")


# ---------------------------------------------------------------- what the exercises say


def solution(number):
    return exercise("attention/relative_position", number).solution


@pytest.mark.parametrize("n", [1, 2, 7, 10])
def test_floors_of_a_mirrored_net_by_the_best_table(n):
    """The best output of each mirror pair, by averages over the pair."""
    targets = torch.eye(n, dtype=torch.float64)
    best = (targets + targets.flip(0)) / 2
    entropy = -torch.log((best * targets).sum(1)).mean().item()
    numbers = torch.arange(1.0, n + 1).double()
    error = F.mse_loss((numbers + numbers.flip(0)) / 2, numbers).item()
    assert solution(1)(n) == pytest.approx((error, entropy), abs=1e-12)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_a_factor_for_squares(n):
    urpe = URPE(1, n).double()
    with torch.no_grad():
        urpe.table.copy_(torch.tensor(solution(2)(n)).double())
        weights = urpe(torch.full((1, 1, n, n), 1 / n, dtype=torch.float64))
    squares = torch.arange(1, n + 1).double() ** 2
    assert torch.allclose(weights.sum(-1)[0, 0], squares, rtol=1e-12)


def test_which_of_six_nets_can_solve_the_probe():
    """Random nets: how far apart are the outputs at any two places?"""
    n, x = 7, randn(8).expand(1, 7, 8)

    def symmetric(module):
        module.bias.data = (module.bias.data + module.bias.data.flip(-1)) / 2

    def on_a_circle(module):
        module.bias.data[:, : n - 1] = module.bias.data[:, n:]
        nn.init.normal_(module.urpe.table)
        module.urpe.table.data[:, : n - 1] = module.urpe.table.data[:, n:]

    special, found = randn(1, 1, 8, seed=9), []
    for args, options, change, tokens in (
        (("rope",), {"causal": True}, None, x),
        (("bias", "l2"), {}, symmetric, x),
        (("rope", "l2"), {}, None, x),
        (("bias",), {}, symmetric, torch.cat([special, x], 1)),
        (("bias",), {"urpe": True}, on_a_circle, x),
        (("bias",), {"causal": True}, None, torch.cat([x, special], 1)),
    ):
        torch.manual_seed(3)
        module = RelativeAttention(8, 2, tokens.shape[1], *args, **options).double()
        if change:
            change(module)
        with torch.no_grad():
            outputs = module(tokens)[0]
        outputs = outputs[1:] if len(found) == 3 else outputs[:n]
        found.append(bool(torch.pdist(outputs).min() > 1e-6))
    assert found == solution(3)()


def test_a_factor_with_a_long_table_is_urpe():
    urpe = URPE(2, 5).double()
    nn.init.normal_(urpe.table)
    logits = randn(2, 5, 5)
    with torch.no_grad():
        expected = urpe(logits.softmax(-1)[None])[0]
        assert torch.allclose(solution(4)(logits, urpe.table), expected, rtol=1e-13)


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("same", [False, True])
def test_two_special_tokens(n, same):
    places = torch.arange(n + 2, dtype=torch.float64)
    weights = attention_weights(-0.3 * (places[:, None] - places).abs())
    values = randn(1, 2).repeat(n + 2, 1)
    values[0], values[-1] = randn(2, seed=1), randn(2, seed=1 if same else 2)
    outputs = (weights @ values)[1:-1]
    distinct = {tuple(round(float(entry), 9) for entry in row) for row in outputs}
    assert len(distinct) == solution(5)(n, same)
