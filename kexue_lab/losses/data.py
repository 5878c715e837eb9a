"""Data that the lessons on losses share: pairs of handwritten digits, and labels with noise.

And how a classifier's confidence compares with its accuracy on them.

Source: the digits of `kexue_lab.data.digits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kexue_lab.precision import widened
from kexue_lab.validation import check_count, check_data, check_distribution, check_floating


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


def noisy_labels(
    y: Tensor,
    eta: float,
    num_classes: int,
    *,
    wrong: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return labels each of which is replaced by a wrong one with probability η.

    Args:
        y: labels of any shape, integers in 0 … C − 1.
        eta: η in [0, 1].
        num_classes: C ≥ 2.
        wrong: for each class the one that takes its place (itself: no noise); by default any other
            class, with equal probabilities.
        generator: of the draws; torch's global one by default.

    Returns:
        Labels of the shape and dtype of y.

    Raises:
        TypeError: if y is not of integers.
        ValueError: if eta is outside [0, 1], or a label or a wrong class out of range.

    Example:
        >>> noisy_labels(torch.tensor([0, 1, 2]), 1.0, 3, wrong=[1, 2, 0])
        tensor([1, 2, 0])
    """
    _check_labels(y, num_classes)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    flipped = torch.rand(y.shape, generator=generator, dtype=torch.float64) < eta
    if wrong is None:
        steps = torch.randint(1, num_classes, y.shape, generator=generator)
        other = (y.long() + steps.to(y.device)) % num_classes
    else:
        if len(wrong) != num_classes or not all(0 <= k < num_classes for k in wrong):
            raise ValueError(f"wrong must be {num_classes} classes, got {wrong}")
        other = torch.tensor(list(wrong), device=y.device)[y.long()]
    return torch.where(flipped.to(y.device), other.to(y.dtype), y)


def expected_calibration_error(p: Tensor, y: Tensor, bins: int = 15) -> float:
    """Return the mean distance of confidence and accuracy, over bins of equal confidence.

    The confidence is the largest probability. Bin k of M holds the samples whose confidence lies in
    ((k − 1)/M, k/M]; the distance of its mean confidence and its accuracy counts by its share of
    the samples. A tie goes to the first class.

    Args:
        p: probabilities, (n, C).
        y: labels, (n,), integers in 0 … C − 1.
        bins: M.

    Returns:
        The error, in [0, 1].

    Raises:
        TypeError: if p is not floating-point, y not of integers, or bins no integer.
        ValueError: if p is not made of distributions, the shapes disagree, or a label is out of
            range.

    Source: Guo et al., arXiv:1706.04599, equation (3).

    Example:
        >>> p = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> expected_calibration_error(p, torch.tensor([0, 1]))
        0.25
    """
    check_floating(p=p)
    check_count(bins=bins)
    check_data(p=p)
    check_distribution(p=p)
    _check_labels(y, p.shape[1])
    if y.shape != p.shape[:1]:
        raise ValueError(f"y must have shape ({len(p)},), got {tuple(y.shape)}")
    confidence, answer = widened(p).double().max(-1)
    gaps = confidence - (answer == y).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=p.device)[1:-1]
    sums = torch.zeros(bins, dtype=torch.float64, device=p.device)
    sums.index_add_(0, torch.bucketize(confidence, edges), gaps)
    return min(float(sums.abs().sum()) / len(p), 1.0)


def _check_labels(y: Tensor, num_classes: int) -> None:
    check_count(2, num_classes=num_classes)
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must be an integer tensor, got {y.dtype}")
    if y.numel() and not (int(y.min()) >= 0 and int(y.max()) < num_classes):
        raise ValueError(
            f"y must lie in 0..{num_classes - 1}, got {int(y.min())} to {int(y.max())}"
        )


def _of_kind(kind: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Numbers of so many pairs, with replacement, among those where `kind` is true."""
    i, j = kind.nonzero(as_tuple=True)
    if count and not len(i):
        raise ValueError(f"y must have pairs of the kind asked for, got none for {count}")
    chosen = torch.randint(max(len(i), 1), (count,), generator=generator)
    return i[chosen], j[chosen]
