"""The small transformer against torch's own layers, and its contract."""

import pytest
import torch
import torch.nn.functional as F
from tensors import seeded
from torch import nn

from kexue_lab.training import fit
from kexue_lab.transformer import SelfAttention, Transformer, TransformerBlock


@pytest.fixture(autouse=True)
def _torch_state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def torch_layer(block, d_model, num_heads):
    """torch's encoder layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(
        d_model, num_heads, 2 * d_model, dropout=0.0, batch_first=True, norm_first=True
    )
    attention, ours = layer.self_attn, block.attention
    pairs = [
        (attention.in_proj_weight, ours.qkv_proj.weight),
        (attention.out_proj.weight, ours.o_proj.weight),
        *zip(layer.norm1.parameters(), block.attention_norm.parameters(), strict=True),
        *zip(layer.norm2.parameters(), block.feed_forward[0].parameters(), strict=True),
        *zip(layer.linear1.parameters(), block.feed_forward[1].parameters(), strict=True),
        *zip(layer.linear2.parameters(), block.feed_forward[3].parameters(), strict=True),
    ]
    with torch.no_grad():
        attention.in_proj_bias.zero_()
        attention.out_proj.bias.zero_()
        for theirs, mine in pairs:
            theirs.copy_(mine)
    return layer.double()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_block_equals_torchs_encoder_layer(num_heads, is_causal):
    block = TransformerBlock(SelfAttention(8, num_heads, is_causal=is_causal), 8)
    layer = torch_layer(block, 8, num_heads)
    x = torch.randn(3, 6, 8, generator=seeded(1), dtype=torch.float64)
    blocked = torch.ones(6, 6, dtype=torch.bool).triu(1) if is_causal else None
    expected = layer(x, src_mask=blocked)
    torch.testing.assert_close(block.double()(x), expected)


def test_attention_equals_the_plain_formula():
    attention = SelfAttention(6, 2).double()
    x = torch.randn(2, 5, 6, generator=seeded(2), dtype=torch.float64)
    q, k, v = (attention.qkv_proj(x)[..., 6 * i : 6 * i + 6] for i in range(3))
    heads = []
    for a in (slice(0, 3), slice(3, 6)):
        weights = (q[..., a] @ k[..., a].mT / 3**0.5).softmax(-1)
        heads.append(weights @ v[..., a])
    expected = torch.cat(heads, -1) @ attention.o_proj.weight.T
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("is_causal", [False, True])
def test_numbers_by_distance_equal_torchs_mask_of_floats(is_causal):
    attention = SelfAttention(6, 2, is_causal=is_causal, max_distance=2).double()
    table = torch.tensor([[0.0, 1.0, -2.0], [0.5, 0.0, 3.0]], dtype=torch.float64)
    attention.bias.data = table
    x = torch.randn(2, 5, 6, generator=seeded(2), dtype=torch.float64)
    bias = torch.stack(
        [torch.stack([t[[min(abs(i - j), 2) for j in range(5)]] for i in range(5)]) for t in table]
    )
    if is_causal:
        bias = bias.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf)
    q, k, v = (
        part.unflatten(-1, (2, 3)).transpose(1, 2) for part in attention.qkv_proj(x).chunk(3, -1)
    )
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    expected = attention.o_proj(heads.transpose(1, 2).flatten(-2))
    torch.testing.assert_close(attention(x), expected)


def test_masked_tokens_are_not_seen():
    attention = SelfAttention(8, 2)
    x = torch.randn(2, 5, 8, generator=seeded(3))
    keep = torch.tensor([True, True, True, False, False])
    changed = x.clone()
    changed[:, 3:] += 1
    seen = attention(x, keep), attention(changed, keep)
    torch.testing.assert_close(seen[0][:, :3], seen[1][:, :3])
    torch.testing.assert_close(seen[0][:, :3], attention(x[:, :3]))


def test_causal_mask_joins_a_mask():
    attention = SelfAttention(8, 2, is_causal=True)
    x = torch.randn(1, 4, 8, generator=seeded(4))
    keep = torch.tensor([True, False, True, True])
    torch.testing.assert_close(attention(x, keep)[:, 2], attention(x[:, [0, 2]])[:, 1])


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_token_that_sees_nothing_is_refused(is_causal):
    attention = SelfAttention(8, 2, is_causal=is_causal)
    keep = torch.tensor([False, True, True]) if is_causal else torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="a row that sees none"):
        attention(torch.zeros(2, 3, 8), keep)


def test_causal_transformer_ignores_the_future():
    model = Transformer([SelfAttention(8, 2, is_causal=True)] * 2, 8, vocabulary=7, max_length=9)
    tokens = torch.randint(7, (2, 9), generator=seeded(5))
    later = tokens.clone()
    later[:, 6:] = (later[:, 6:] + 1) % 7
    torch.testing.assert_close(model(tokens)[:, :6], model(later)[:, :6])
    torch.testing.assert_close(model(tokens)[:, :6], model(tokens[:, :6]))


def test_without_positions_order_is_not_seen():
    model = Transformer([SelfAttention(8, 2)], 8, vocabulary=7, classes=3)
    tokens = torch.randint(7, (2, 9), generator=seeded(6))
    assert model(tokens).shape == (2, 9, 3)
    torch.testing.assert_close(model(tokens.flip(-1)), model(tokens).flip(-2))


def test_seeds_train_together_as_alone():
    def make_model(_):
        return Transformer([SelfAttention(8, 2)], 8, vocabulary=5, max_length=4)

    def make_batch(g):
        return (torch.randint(5, (4, 4), generator=g),)

    def loss(model, tokens):
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    run = {"steps": 3, "device": "cpu", "progress": False}
    together = fit(make_model, make_batch, loss, seeds=(1, 2), **run)
    alone = fit(make_model, make_batch, loss, seeds=(2,), **run)
    torch.testing.assert_close(together.losses[:, 1:], alone.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SelfAttention(8, 3), "num_heads must divide d_model = 8, got 3"),
        (lambda: SelfAttention(0, 1), "d_model must be at least 1, got 0"),
        (lambda: TransformerBlock(nn.Identity(), 4, 0), "hidden must be at least 1, got 0"),
        (lambda: Transformer([], 4, vocabulary=0), "vocabulary must be at least 1, got 0"),
        (
            lambda: Transformer([], 4, vocabulary=3, max_length=2)(torch.zeros(1, 3).long()),
            "tokens must have length at most 2, got 3",
        ),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
