"""Arithmetic that keeps its digits: sums in half precision, norms and distances of any size."""

import math

import torch
from torch import Tensor

# Squares of distances outside are lost: below to 0, above to infinity.
_SMALLEST, _LARGEST = 1e-140, 1e150
# Numbers from here to its inverse are far within float32.
_EVERY_DTYPE = 1e-20


def widened(x: Tensor) -> Tensor:
    """Return x in float32 if it is a half precision, else x itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def narrowed(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return the value of a computation in the dtype of its input.

    Raises:
        ValueError: if the value of finite inputs is too large for the dtype, or for float64.
    """
    result = value.to(dtype)
    if not holds(result.isfinite()):
        raise ValueError(f"{name} must fit {dtype}, got a value beyond it, such as {_worst(value)}")
    return result


def holds(condition: Tensor) -> bool:
    """Tell whether a condition holds everywhere; True where no value can be looked at (`vmap`)."""
    try:
        return bool(condition.all())
    except RuntimeError:
        return True


def power_of_two(x: Tensor) -> Tensor:
    """Return the largest power of two below or at each |x|, and 1 for 0.

    Dividing by it is exact, so that a computation that scales gives the same digits.
    """
    size = x.detach().abs()
    size = torch.where(size > 0, size, 1)
    return torch.exp2(torch.log2(size).floor())


def over(x: Tensor, scale: float) -> Tensor:
    """Return x / scale for a scale > 0 of any size; at most the dtype's largest number."""
    if _EVERY_DTYPE < scale < 1 / _EVERY_DTYPE:
        return x / scale
    largest = torch.finfo(x.dtype).max
    return (x.double() / scale).clamp(-largest, largest).to(x.dtype)


def length(x: Tensor, dim: int = -1, *, keepdim: bool = False) -> Tensor:
    """Return Euclidean norms along an axis; squares neither overflow nor vanish on the way."""
    unit = power_of_two(x.detach().abs().amax(dim, keepdim=True))
    scaled: Tensor = torch.linalg.vector_norm(x / unit, dim=dim, keepdim=True) * unit
    return scaled if keepdim else scaled.squeeze(dim)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distances ‖x_i − y_j‖, (N, M) in float64, from differences.

    A matrix product would cancel for points that lie close together far from the origin. Of
    gradient 0 for equal points.
    """
    x, y = x.double(), y.double()
    direct = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    i, j = ((direct < _SMALLEST) | ~(direct < _LARGEST)).nonzero(as_tuple=True)
    if not len(i):
        return direct
    return direct.index_put((i, j), length(x[i] - y[j]))


def relative_entropy(excess: Tensor, log_ratio: Tensor) -> Tensor:
    """Return r − 1 − ln r ≥ 0, given r − 1 and ln r; without cancellation near r = 1."""
    near = excess.clamp(-0.1, 0.1)
    series = torch.zeros_like(near)
    for k in range(20, 1, -1):
        series = (-1) ** k / k + near * series
    return torch.where(excess.abs() < 0.1, series * near.square(), excess - log_ratio)


def squared_ratio(**numbers: float) -> float:
    """Return (a/b)² of two named numbers.

    Raises:
        ValueError: if it is beyond float64.
    """
    (first, a), (second, b) = numbers.items()
    ratio = a / b
    if not math.isfinite(ratio * ratio):
        raise ValueError(f"({first}/{second})^2 must be finite, got {first} = {a}, {second} = {b}")
    return ratio * ratio


def _worst(value: Tensor) -> float:
    """The entry that is largest, or not a number."""
    flat = value.detach().flatten()
    return float(flat[flat.abs().nan_to_num(math.inf).argmax()])
