"""What the losses do with every batch: check logits and labels, and reduce the samples' losses."""

from typing import Literal

import torch
from torch import Tensor

from kexue_lab.precision import holds, narrowed
from kexue_lab.validation import check_finite, check_floating

Reduction = Literal["mean", "sum", "none"]

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_batch(
    target: Tensor, *, infinite: bool = False, ignored: int | None = None, **logits: Tensor
) -> None:
    """Check one tensor of logits, under the name the caller gives it, and its labels.

    Under `torch.func.vmap`, where no value can be looked at, shapes and dtypes are checked only.

    Args:
        target: labels, (B,), integers from 0 to C - 1.
        infinite: whether logits may be infinite.
        ignored: a label that does not count; at least one other must be there.
        **logits: floating-point numbers, (B, C), with B ≥ 1 and C ≥ 2.

    Raises:
        TypeError: if logits are no floating-point tensor or labels no integer one.
        ValueError: for other shapes, labels out of range, or logits that are nan or infinite.

    Source: the conventions of `torch.nn.functional.cross_entropy`.

    Example:
        >>> check_batch(torch.tensor([0, 3]), scores=torch.zeros(2, 3))
        Traceback (most recent call last):
        ...
        ValueError: target must lie in 0..2, got 3
    """
    ((name, values),) = logits.items()
    check_floating(**logits)
    if not isinstance(target, Tensor) or target.dtype not in _WHOLE:
        kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target must be an integer tensor, got {kind}")
    shape = tuple(values.shape)
    if values.ndim != 2 or shape[0] < 1 or shape[1] < 2:
        raise ValueError(f"{name} must have shape (B, C) with B ≥ 1, C ≥ 2, got {shape}")
    if target.shape != shape[:1]:
        raise ValueError(
            f"target must have shape (B,), got {tuple(target.shape)} for {name} {shape}"
        )
    if infinite:
        if not holds(~values.isnan()):
            raise ValueError(f"{name} must be numbers, got nan")
    # Far cheaper than looking at each logit; huge ones may have no finite sum.
    elif not holds(values.detach().sum().isfinite()):
        check_finite(**logits)
    labels = target.long()
    counts = torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored
    wrong = counts & ((labels < 0) | (labels >= shape[1]))
    if not holds(~wrong):
        raise ValueError(f"target must lie in 0..{shape[1] - 1}, got {int(labels[wrong][0])}")
    if not holds(counts.any()):
        raise ValueError(f"target must have a label that counts, got only {ignored}")


def reduced(
    each: Tensor, reduction: Reduction, dtype: torch.dtype, *, count: Tensor | int | None = None
) -> Tensor:
    """The losses of the samples, (B,), their sum, or their mean, in `dtype`.

    Args:
        each: losses, (B,).
        reduction: "mean", "sum" or "none".
        dtype: of the result.
        count: how many samples count in the mean; all by default.

    Raises:
        ValueError: if a loss is beyond the dtype.

    Source: the conventions of `torch.nn.functional.cross_entropy`.

    Example:
        >>> reduced(torch.tensor([1.0, 3.0]), "mean", torch.float32)
        tensor(2.)
    """
    if reduction == "mean":  # divided first: the sum of huge losses may be beyond the dtype
        each = (each / (len(each) if count is None else count)).sum()
    elif reduction == "sum":
        each = each.sum()
    return narrowed(each, dtype, "the loss")
