"""Every toy task's answers, written again as a loop over Python lists."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tensors import seeded

from kexue_lab import tasks

sizes = st.integers(1, 7)
seeds = st.integers(0, 99)


def answered(drawn, answer):
    """Whether the targets are what `answer` says of each sequence."""
    inputs, targets = drawn
    assert inputs.shape == targets.shape
    return targets.tolist() == [answer(row) for row in inputs.tolist()]


@given(sizes, sizes, sizes, seeds)
def test_copy_reverse_and_sort(batch, length, symbols, seed):
    for task, answer in (
        (tasks.copy_task, list),
        (tasks.reverse_task, lambda row: row[::-1]),
        (tasks.sort_task, sorted),
    ):
        drawn = task(batch, length, symbols, seeded(seed))
        assert answered(drawn, answer)
        assert 0 <= drawn[0].min() <= drawn[0].max() < symbols


@given(sizes, st.integers(2, 7), sizes, seeds, st.data())
def test_shift(batch, length, symbols, seed, data):
    shifts = data.draw(st.integers(1, length - 1))

    def answer(row):
        amount, content = row[0] - symbols, row[1:]
        assert 0 <= amount < shifts
        return [tasks.IGNORED, *content[amount:], *content[:amount]]

    assert answered(tasks.shift_task(batch, length, symbols, shifts, seeded(seed)), answer)


@given(sizes, sizes, sizes, seeds, st.data())
def test_recall(batch, pairs, values, seed, data):
    queries = data.draw(st.integers(1, pairs))

    def answer(row):
        table = dict(divmod(token, values) for token in row[:pairs])
        asked = [token - pairs * values for token in row[pairs:]]
        assert sorted(table) == list(range(pairs))
        assert len(set(asked)) == queries
        return [tasks.IGNORED] * pairs + [table[key] for key in asked]

    assert answered(tasks.recall_task(batch, pairs, queries, values, seeded(seed)), answer)


@pytest.mark.parametrize("shifts", [1, 4])
def test_every_amount_and_symbol_is_drawn(shifts):
    inputs, _ = tasks.shift_task(500, 5, 3, shifts, seeded(0))
    assert set(inputs[:, 0].tolist()) == set(range(3, 3 + shifts))
    assert set(inputs[:, 1:].flatten().tolist()) == {0, 1, 2}


def test_loss_and_accuracy_of_what_is_asked():
    targets = torch.tensor([[0, tasks.IGNORED, 1], [tasks.IGNORED, 2, 2]])
    logits = torch.randn(2, 3, 4, generator=seeded(1))
    asked = [(0, 0, 0), (0, 2, 1), (1, 1, 2), (1, 2, 2)]
    nats = [-logits[b, i].log_softmax(-1)[c] for b, i, c in asked]
    torch.testing.assert_close(tasks.token_loss(logits, targets), torch.stack(nats).mean())
    right = sum(int(logits[b, i].argmax() == c) for b, i, c in asked)
    assert float(tasks.token_accuracy(logits, targets)) == pytest.approx(right / 4)
    perfect = F.one_hot(targets.clamp_min(0), 4).float()
    assert float(tasks.token_accuracy(perfect, targets)) == 1


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda g: tasks.copy_task(0, 3, 3, g), "batch must be at least 1, got 0"),
        (lambda g: tasks.sort_task(2, 3, 0, g), "symbols must be at least 1, got 0"),
        (lambda g: tasks.shift_task(2, 1, 3, 1, g), "length must be at least 2, got 1"),
        (lambda g: tasks.shift_task(2, 4, 3, 4, g), "shifts must be at most length - 1 = 3, got 4"),
        (lambda g: tasks.recall_task(2, 3, 4, 2, g), "queries must be at most pairs = 3, got 4"),
    ],
)
def test_bad_input_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(seeded(0))
