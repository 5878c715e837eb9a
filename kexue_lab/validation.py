"""Checks of arguments that the mathematics of every series shares.

Each takes its arguments by name, so that the message can name them: `check_floating(x=x)`.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor


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
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, got nan or infinity")


def check_positive(**numbers: float) -> None:
    """Check that numbers are positive and finite.

    Raises:
        ValueError: if one is not.
    """
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def check_non_negative(**numbers: float) -> None:
    """Check that numbers are at least 0 and finite.

    Raises:
        ValueError: if one is not.
    """
    for name, value in numbers.items():
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
