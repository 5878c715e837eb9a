"""Pairs of digits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_lab.losses.data import digit_pairs, pair_features

X, Y = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4


@given(share=st.floats(0, 1), count=st.integers(1, 50))
def test_the_share_is_kept(share, count):
    pairs = digit_pairs(X, Y, count, same=share)
    same = pairs.first == pairs.second
    assert int(same.sum()) == round(share * count)
    assert pairs.features.shape == (count, 12)
    apart = pairs.features[:, 6:9].abs().sum(1)
    assert bool((apart > 0).all())  # never an image with itself


def test_by_chance_and_by_seed():
    pairs, again = (
        digit_pairs(X, Y, 4000, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(pairs.features, again.features)
    assert float((pairs.first == pairs.second).double().mean()) == pytest.approx(0.22, abs=0.03)


def test_features():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert pair_features(a, b).tolist() == [[1, 2, 3, -1, 2, 3, 3, -2]]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="same must lie"):
        digit_pairs(X, Y, 3, same=1.5)
    with pytest.raises(ValueError, match="count must be at least 1"):
        digit_pairs(X, Y, 0)
    with pytest.raises(ValueError, match="y must have shape"):
        digit_pairs(X, Y[:3], 3)
    with pytest.raises(ValueError, match="y must have pairs"):
        digit_pairs(X[:2], torch.tensor([0, 1]), 3, same=0.5)
    with pytest.raises(ValueError, match="one shape"):
        pair_features(torch.zeros(2), torch.zeros(3))
