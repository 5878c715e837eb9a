"""Checks of arguments that the mathematics of every series shares.

Each takes its arguments by name, so that the message can name them: `check_floating(x=x)`.
"""

import math

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
