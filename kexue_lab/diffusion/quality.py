"""How good samples are, in numbers that need no downloaded network."""

from __future__ import annotations

import torch
from torch import Tensor

from kexue_lab.precision import distances, narrowed, power_of_two
from kexue_lab.validation import check_finite, check_floating


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return ‖m_x − m_y‖² + tr(C_x + C_y − 2 (C_x C_y)^½) of two samples.

    It is the squared 2-Wasserstein distance of the Gaussians with these means and covariances,
    the formula of the FID in whatever coordinates x and y are given in.

    Args:
        x: (N, d), N ≥ 2.
        y: (M, d), M ≥ 2.

    Returns:
        The distance, accurate to rounding of the traces: two samples that nearly agree have one
        of about 1e-16 of these, not of 0.

    Raises:
        TypeError: if x or y is not a floating-point tensor, or their dtypes disagree.
        ValueError: if the shapes disagree, an entry is not finite, a sample has fewer than two
            rows, or the distance is beyond float64.

    Source: Dowson and Landau 1982; Heusel et al., arXiv:1706.08500.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3)
        9.0
    """
    _check_samples(2, x=x, y=y)
    # Only differences count: they are taken first, and brought to a size that can be squared.
    x, y = x.double(), y.double()
    unit = power_of_two(torch.stack([x.abs().max(), y.abs().max()]).max())
    centre = (x / unit).mean(0)
    x, y = x / unit - centre, y / unit - centre
    spread = power_of_two(torch.stack([x.abs().max(), y.abs().max()]).max())
    x, y = x / spread, y / spread
    # tr (C_x C_y)^½ is the nuclear norm of A_x A_yᵀ for factors C = AᵀA: no matrix root.
    factors = [(z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y)]
    traces = sum(a.square().sum() for a in factors)
    triangles = [torch.linalg.qr(a, mode="r").R for a in factors]
    overlap = torch.linalg.matrix_norm(triangles[0] @ triangles[1].T, "nuc")
    shift = (x.mean(0) - y.mean(0)).square().sum()
    scale = unit * spread
    squared = (shift + traces - 2 * overlap).clamp_min(0) * scale * scale
    return float(narrowed(squared, squared.dtype, "frechet_distance"))


def nearest_distance(x: Tensor, reference: Tensor) -> Tensor:
    """Return each sample's Euclidean distance to the nearest of the reference points, (N,).

    Distances well below those of held-out data mean that samples were memorised. Computed in
    float64 from differences, and returned in the dtype of x.

    Args:
        x: (N, d).
        reference: (M, d), usually the training data.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree, a sample is empty or not finite, or a distance is too
            large for the dtype.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([2.])
    """
    _check_samples(1, x=x, reference=reference)
    return narrowed(distances(x, reference).amin(-1), x.dtype, "nearest_distance")


def _check_samples(minimum: int, **samples: Tensor) -> None:
    check_floating(**samples)
    check_finite(**samples)
    for name, value in samples.items():
        if value.ndim != 2 or len(value) < minimum or value.shape[1] < 1:
            raise ValueError(
                f"{name} must have shape (N, d) with N >= {minimum}, got {tuple(value.shape)}"
            )
    shapes = [value.shape[1] for value in samples.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"{', '.join(samples)} must share the dimension d, got {shapes}")
