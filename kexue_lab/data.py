"""Data sets that come with the dependencies, so that nothing is downloaded."""

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from kexue_lab.validation import check_count


class Split(NamedTuple):
    """Rows to train on and rows to test on."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def digits(n_train: int = 1000, generator: torch.Generator | None = None) -> Split:
    """Return scikit-learn's 1797 handwritten digits, shuffled and split.

    Args:
        n_train: number of rows to train on, 1 … 1796; the others are for testing.
        generator: of the shuffle; torch's global one by default.

    Returns:
        Pixels (n, 64) as float32 in [0, 1], in steps of 1/16, and classes (n,) as int64.

    Raises:
        TypeError: if n_train is not an integer.
        ValueError: if n_train is out of range.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
    """
    check_count(n_train=n_train)
    data = load_digits()
    if n_train >= len(data.data):
        raise ValueError(f"n_train must be below {len(data.data)}, got {n_train}")
    order = torch.randperm(len(data.data), generator=generator)
    x = torch.tensor(data.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(data.target)[order]
    return Split(x[:n_train], y[:n_train], x[n_train:], y[n_train:])
