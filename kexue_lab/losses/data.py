"""Data that the lessons on losses share: pairs of handwritten digits, and what a network sees.

Source: the digits of `kexue_lab.data.digits`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kexue_lab.validation import check_count, check_data


class Pairs(NamedTuple):
    """Pairs of images.

    Attributes:
        features: what `pair_features` makes of them, (n, 4 d).
        first: classes of the first images, (n,), int64.
        second: classes of the second images, (n,), int64.
    """

    features: Tensor
    first: Tensor
    second: Tensor


def digit_pairs(
    x: Tensor,
    y: Tensor,
    count: int,
    *,
    same: float | None = None,
    generator: torch.Generator | None = None,
) -> Pairs:
    """Return pairs of two different images, drawn at random.

    Args:
        x: images, (n, d).
        y: their classes, (n,), integers.
        count: how many pairs.
        same: the share of pairs of one class, rounded to whole pairs, which come first; as chance
            has it if None.
        generator: of the draws; torch's global one by default.

    Raises:
        TypeError: if count is not an integer.
        ValueError: if count is below 1, same outside [0, 1], there are fewer than two images, or
            too few of one class or of different classes.

    Example:
        >>> x, y = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> pairs = digit_pairs(x, y, 4, same=0.5)
        >>> (pairs.first == pairs.second).tolist()
        [True, True, False, False]
    """
    check_data(x=x)
    check_count(count=count)
    if y.shape != x.shape[:1] or len(y) < 2:
        raise ValueError(f"y must have shape ({len(x)},), at least 2, got {tuple(y.shape)}")
    if same is not None and not 0 <= same <= 1:
        raise ValueError(f"same must lie in [0, 1], got {same}")
    if same is None:
        i, j = _of_kind(~torch.eye(len(y), dtype=torch.bool), count, generator)
    else:
        equal = y[:, None] == y
        equal.fill_diagonal_(False)
        positives = round(same * count)
        drawn = [
            _of_kind(kind, number, generator)
            for kind, number in ((equal, positives), (y[:, None] != y, count - positives))
        ]
        i, j = (torch.cat(ends) for ends in zip(*drawn, strict=True))
    return Pairs(pair_features(x[i], x[j]), y[i], y[j])


def pair_features(a: Tensor, b: Tensor) -> Tensor:
    """Return a, b, |a − b| and a·b side by side, what a network on pairs is given.

    Args:
        a: (..., d).
        b: of the same shape.

    Returns:
        (..., 4 d).

    Raises:
        ValueError: if the shapes disagree.

    Example:
        >>> pair_features(torch.tensor([1.0]), torch.tensor([3.0]))
        tensor([1., 3., 2., 3.])
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return torch.cat([a, b, (a - b).abs(), a * b], -1)


def _of_kind(kind: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Numbers of so many pairs, with replacement, among those where `kind` is true."""
    i, j = kind.nonzero(as_tuple=True)
    if count and not len(i):
        raise ValueError(f"y must have pairs of the kind asked for, got none for {count}")
    chosen = torch.randint(max(len(i), 1), (count,), generator=generator)
    return i[chosen], j[chosen]
