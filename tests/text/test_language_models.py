"""The two language models: what may see what, lengths, ties and bad input."""

import pytest
import torch
from tensors import seeded

from kexue_lab.text.language_models import CausalLM, MaskedLM


@pytest.fixture(autouse=True)
def _torch_state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def ids_of(batch, length, seed=0):
    return torch.randint(12, (batch, length), generator=seeded(seed))


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_later_tokens_do_not_change_earlier_logits(position):
    model = CausalLM(12, 16, 2, position=position, max_distance=3).double()
    ids, segments = ids_of(2, 9), ids_of(2, 9, 1) % 2
    whole = model(ids, segments)
    torch.testing.assert_close(whole[:, :5], model(ids[:, :5], segments[:, :5]))
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 12
    torch.testing.assert_close(whole[:, :5], model(changed, segments)[:, :5])


def test_relative_places_do_not_know_where_they_are():
    """Behind padding that nobody sees, a text gets the logits that it gets in front."""
    model = CausalLM(12, 16, 2, max_distance=4).double()
    with torch.no_grad():
        for block in model.transformer.blocks:
            block.attention.bias.normal_(generator=seeded(2))
    ids = ids_of(3, 20)
    padded = torch.cat([torch.zeros(3, 5, dtype=torch.int64), ids], 1)
    seen = torch.arange(25) >= 5
    # The padding itself sees itself, since a row must see something.
    mask = seen | torch.eye(25, dtype=torch.bool)
    torch.testing.assert_close(model(padded, mask=mask)[:, 5:], model(ids))


def test_distances_beyond_the_longest_count_as_it():
    attention = CausalLM(12, 16, 2, max_distance=2).transformer.blocks[0].attention
    assert attention.bias.shape == (2, 3)


def test_segments_are_told_to_the_model():
    model = CausalLM(12, 16, 2)
    ids = ids_of(1, 6)
    zeros, ones = torch.zeros_like(ids), torch.ones_like(ids)
    assert not torch.allclose(model(ids, zeros), model(ids, ones))
    assert not torch.allclose(model(ids), model(ids, ones))


def test_absolute_places_end():
    model = CausalLM(12, 16, 2, position="absolute", max_length=8)
    assert model(ids_of(1, 8)).shape == (1, 8, 12)
    with pytest.raises(ValueError, match="length at most 8, got 9"):
        model(ids_of(1, 9))
    assert CausalLM(12, 16, 2, max_length=8)(ids_of(1, 40)).shape == (1, 40, 12)


def test_the_masked_model_sees_both_sides_and_shares_its_table():
    model = MaskedLM(12, 16, 2, max_length=9)
    ids = ids_of(2, 9)
    changed = ids.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 12
    assert not torch.allclose(model(ids)[:, 0], model(changed)[:, 0])
    assert model.transformer.read_out.weight is model.embedding.weight
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    torch.testing.assert_close(model(embeddings=model.embedding(ids)), model(ids))


def test_both_learn_by_heart():
    ids = torch.arange(8)[None] % 12
    for model, inputs, targets in [
        (CausalLM(12, 16, 2), ids[:, :-1], ids[:, 1:]),
        (MaskedLM(12, 16, 2, max_length=8), ids.masked_fill(ids % 3 == 1, 11), ids),
    ]:
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(60):
            loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert model(inputs).argmax(-1).tolist() == targets.tolist()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CausalLM(0), ValueError, "vocabulary must be at least 1"),
        (lambda: CausalLM(9, 10, 4), ValueError, "num_heads must divide d_model = 10"),
        (lambda: CausalLM(9, position="rotary"), ValueError, "position must be one of"),
        (lambda: CausalLM(9, max_distance=0), ValueError, "max_distance must be at least 1"),
        (lambda: CausalLM(9, num_layers=0), ValueError, "num_layers must be at least 1"),
        (
            lambda: CausalLM(12, 8, 2)(ids_of(1, 3), torch.tensor([[0, 1, 2]])),
            ValueError,
            "segments must be 0 or 1, got 2",
        ),
        (
            lambda: CausalLM(12, 8, 2)(ids_of(1, 3), torch.zeros(3, dtype=torch.int64)),
            ValueError,
            r"segments must have the shape of ids, \(1, 3\), got \(3,\)",
        ),
        (lambda: MaskedLM(9)(), ValueError, "tokens or embeddings must be given.*got neither"),
        (
            lambda: MaskedLM(12, 8, 2)(ids_of(1, 3), torch.zeros(1, 3, 8)),
            ValueError,
            "tokens or embeddings .* got both",
        ),
        (lambda: MaskedLM(12, max_length=2)(ids_of(1, 3)), ValueError, "length at most 2, got 3"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
