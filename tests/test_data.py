"""Tests of the bundled data sets."""

import pytest
import torch
from sklearn.datasets import load_digits
from tensors import seeded

from kexue_lab.data import digits


def test_the_split_holds_every_digit_once():
    split = digits(1400, seeded(0))
    assert split.x_train.shape == (1400, 64)
    assert split.x_test.shape == (397, 64)
    rows = torch.cat([split.x_train, split.x_test])
    labels = torch.cat([split.y_train, split.y_test])
    source = load_digits()
    ours = {(*row.tolist(), label.item()) for row, label in zip(rows * 16, labels, strict=True)}
    theirs = {(*row, int(label)) for row, label in zip(source.data, source.target, strict=True)}
    assert ours == theirs
    assert len(ours) == 1797
    assert rows.min() == 0
    assert rows.max() == 1


def test_types():
    split = digits(generator=seeded(0))
    assert len(split.x_train) == 1000
    assert split.x_train.dtype == torch.float32
    assert split.y_train.dtype == torch.int64


def test_the_generator_decides_the_shuffle():
    same = digits(1000, seeded(3)).x_test, digits(1000, seeded(3)).x_test
    assert torch.equal(*same)
    assert not torch.equal(same[0], digits(1000, seeded(4)).x_test)


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n_train must be at least 1, got 0"),
        (1797, ValueError, "n_train must be below 1797, got 1797"),
        (0.8, TypeError, "n_train must be an integer, got 0.8"),
    ],
)
def test_bad_sizes(n, error, message):
    with pytest.raises(error, match=message):
        digits(n)
