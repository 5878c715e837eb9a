"""Checks of arguments that the mathematics of every series shares.

Each takes its arguments by name, so that the message can name them: `check_floating(x=x)`.
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from numbers import Real
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kexue_lab.precision import holds

TensorLike = Tensor | ArrayLike
"""What `torch.as_tensor` takes."""


def check_floating(**tensors: Tensor) -> None:
    """Check floating-point tensors of one dtype on one device.

    Raises:
        TypeError: if one is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the devices disagree.
    """
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {found}")
    names = ", ".join(tensors)
    dtypes = [value.dtype for value in tensors.values()]
    if len(set(dtypes)) > 1:
        raise TypeError(f"{names} must share one dtype, got {', '.join(map(str, dtypes))}")
    devices = [value.device for value in tensors.values()]
    if len(set(devices)) > 1:
        raise ValueError(f"{names} must lie on one device, got {', '.join(map(str, devices))}")


def check_points(**tensors: Tensor) -> None:
    """Check floating-point tensors of shape (B, d), of one dtype and on one device.

    Raises:
        TypeError: as `check_floating`.
        ValueError: if one is not two-dimensional, or as `check_floating`.
    """
    check_floating(**tensors)
    for name, value in tensors.items():
        if value.ndim != 2:
            raise ValueError(f"{name} must have shape (B, d), got {tuple(value.shape)}")


def check_finite(**tensors: Tensor) -> None:
    """Check that no tensor holds nan or infinity.

    Raises:
        ValueError: if one does.
    """
    for name, value in tensors.items():
        if not holds(value.isfinite()):
            raise ValueError(f"{name} must be finite, got nan or infinity")


def check_data(**tensors: Tensor) -> None:
    """Check finite data of shape (N, d), N points in d dimensions, with N, d >= 1.

    Raises:
        ValueError: naming the argument, and its shape if that is wrong.
    """
    for name, x in tensors.items():
        if x.ndim != 2 or x.numel() == 0:
            raise ValueError(f"{name} must have shape (N, d) with N, d >= 1, got {tuple(x.shape)}")
    check_finite(**tensors)


def check_positive(**numbers: float | Fraction) -> None:
    """Check that numbers are positive and finite.

    Raises:
        TypeError: if one is no real number.
        ValueError: if one is not positive and finite.
    """
    for name, value in numbers.items():
        _check_real(name, value)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def check_non_negative(**numbers: float) -> None:
    """Check that numbers are at least 0 and finite.

    Raises:
        TypeError: if one is no real number.
        ValueError: if one is not.
    """
    for name, value in numbers.items():
        _check_real(name, value)
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be non-negative and finite, got {value}")


def check_count(minimum: int = 1, /, **numbers: int) -> None:
    """Check that numbers are integers of at least `minimum`.

    Raises:
        TypeError: if one is not an integer.
        ValueError: if one is too small.
    """
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_choice(choices: Any, /, **values: object) -> None:
    """Check that values are among the choices of a `Literal`.

    Raises:
        ValueError: if one is not.
    """
    for name, value in values.items():
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}")


def check_leading(**shapes: torch.Size) -> None:
    """Check that leading shapes broadcast against each other.

    Raises:
        ValueError: if they do not.
    """
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        found = ", ".join(str(tuple(shape)) for shape in shapes.values())
        raise ValueError(
            f"{', '.join(shapes)} must have leading dimensions that broadcast, got {found}"
        ) from None


def check_mask(shape: torch.Size, /, **masks: Tensor | None) -> None:
    """Check boolean masks, True where a row may see a column, that broadcast to a shape.

    None, no mask, passes.

    Raises:
        TypeError: if one is not boolean.
        ValueError: if one does not broadcast to the shape, or a row sees no column.
    """
    for name, mask in masks.items():
        if mask is None:
            continue
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"{name} must be boolean, got {found}")
        sizes = zip(reversed(mask.shape), reversed(shape), strict=False)
        if mask.ndim > len(shape) or any(own not in (1, full) for own, full in sizes):
            raise ValueError(f"{name} must broadcast to {tuple(shape)}, got {tuple(mask.shape)}")
        if not holds(mask.any(-1)):
            raise ValueError(f"{name} must let each row see a column, got a row that sees none")


def check_precise(**tensors: Tensor) -> None:
    """Check float32 or float64 tensors of one dtype, for work that half precision would spoil.

    Raises:
        TypeError: as `check_floating`, or for half precision.
        ValueError: as `check_floating`.
    """
    check_floating(**tensors)
    for name, value in tensors.items():
        if value.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")


def check_decreasing(high: float = math.inf, /, **sequences: Iterable[float]) -> list[float]:
    """Check a sequence of at least two numbers that strictly decreases to 0 or above.

    Args:
        high: largest first number; an infinite one is refused in any case.
        sequences: one sequence or tensor, by its name.

    Returns:
        The numbers as floats.

    Raises:
        ValueError: if they do not decrease in [0, high].
    """
    ((name, sequence),) = sequences.items()
    numbers = [float(number) for number in sequence]
    falls = all(0 <= low < top < math.inf for top, low in pairwise(numbers))
    if len(numbers) < 2 or not falls or numbers[0] > high:
        among = f"[0, {high:g}]" if high < math.inf else "[0, inf)"
        raise ValueError(f"{name} must be at least two, decreasing in {among}, got {numbers}")
    return numbers


def check_monotone(high: float = math.inf, /, **sequences: Iterable[float]) -> list[float]:
    """Check a sequence as `check_decreasing`, which may also strictly increase from 0 or above."""
    ((name, sequence),) = sequences.items()
    numbers = [float(number) for number in sequence]
    steps = [after - before for before, after in pairwise(numbers)]
    one_way = all(step < 0 for step in steps) or all(step > 0 for step in steps)
    if not steps or not one_way or not all(0 <= x <= high and x < math.inf for x in numbers):
        among = f"[0, {high:g}]" if high < math.inf else "[0, inf)"
        raise ValueError(
            f"{name} must be at least two, strictly increasing or decreasing in {among}, "
            f"got {numbers}"
        )
    return numbers


def floating(name: str, value: TensorLike) -> Tensor:
    """Return what `torch.as_tensor` takes as a floating-point tensor, whatever its entries.

    Raises:
        TypeError: if it holds no floating-point numbers.
    """
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or an array of floats: {error}") from error
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    return tensor


def as_floating(name: str, value: TensorLike) -> Tensor:
    """Return what `torch.as_tensor` takes as a finite floating-point tensor.

    Raises:
        TypeError: if it holds no floating-point numbers.
        ValueError: if it holds nan or infinity.
    """
    tensor = floating(name, value)
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, got nan or infinity")
    return tensor


def as_masses(name: str, value: TensorLike, like: Tensor) -> Tensor:
    """Return masses as a tensor; lists and whole numbers, such as counts, as `like` is.

    Raises:
        TypeError: as `as_floating`.
        ValueError: as `as_floating`.
    """
    listed = not isinstance(value, Tensor | np.ndarray)
    try:
        masses = torch.as_tensor(value, dtype=like.dtype if listed else None)
    except (TypeError, ValueError, RuntimeError):
        return as_floating(name, value)
    if listed or _is_whole(masses):
        masses = masses.to(like)
    return as_floating(name, masses)


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_same_place(name: str, tensor: Tensor, other: str, reference: Tensor) -> None:
    """Check that a tensor has the dtype and device of another.

    Raises:
        ValueError: if it has not.
    """
    if tensor.dtype != reference.dtype or tensor.device != reference.device:
        raise ValueError(
            f"{name} must have the dtype and device of {other}, {reference.dtype} on"
            f" {reference.device}, got {tensor.dtype} on {tensor.device}"
        )


def sum_tolerance(dtype: torch.dtype) -> float:
    """Return how far from 1 masses of a dtype may sum: half of its digits."""
    return math.sqrt(torch.finfo(dtype).eps)


def check_distribution(dtype: torch.dtype | None = None, /, **masses: Tensor) -> None:
    """Check non-negative masses that sum to 1 over the last axis, as exactly as a dtype makes them.

    Args:
        dtype: in which the masses were given; their own when None.
        masses: tensors by name.

    Raises:
        ValueError: if one is negative or a sum is off.
    """
    for name, p in masses.items():
        if not bool((p >= 0).all()):
            raise ValueError(f"{name} must be non-negative, got smallest entry {p.min().item():g}")
        total = p.double().sum(-1)
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        if not abs(worst - 1) <= sum_tolerance(dtype or p.dtype):
            raise ValueError(f"{name} must sum to 1 over its last axis, got sum {worst:g}")


def _check_real(name: str, value: object) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
