"""How good samples are, in numbers that need no downloaded network."""

from __future__ import annotations

import torch
from torch import Tensor

from kexue_lab.validation import check_floating


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return ‖m_x − m_y‖² + tr(C_x + C_y − 2 (C_x C_y)^½) of two samples.

    It is the squared 2-Wasserstein distance of the Gaussians with these means and covariances,
    the formula of the FID in whatever coordinates x and y are given in.

    Args:
        x: (N, d), N ≥ 2.
        y: (M, d), M ≥ 2.

    Raises:
        TypeError: if x or y is not a floating-point tensor, or their dtypes disagree.
        ValueError: if the shapes disagree or a sample has fewer than two rows.

    Source: Dowson and Landau 1982; Heusel et al., arXiv:1706.08500.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3)
        9.0
    """
    _check_samples(2, x=x, y=y)
    x, y = x.double(), y.double()
    # tr (C_x C_y)^½ is the nuclear norm of A_x A_yᵀ for factors C = AᵀA: no matrix root.
    factors = [(z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y)]
    traces = sum(a.square().sum() for a in factors)
    triangles = [torch.linalg.qr(a, mode="r").R for a in factors]
    overlap = torch.linalg.matrix_norm(triangles[0] @ triangles[1].T, "nuc")
    return float((x.mean(0) - y.mean(0)).square().sum() + traces - 2 * overlap)


def nearest_distance(x: Tensor, reference: Tensor) -> Tensor:
    """Return each sample's Euclidean distance to the nearest of the reference points, (N,).

    Distances well below those of held-out data mean that samples were memorised.

    Args:
        x: (N, d).
        reference: (M, d), usually the training data.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree or a sample is empty.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([2.])
    """
    _check_samples(1, x=x, reference=reference)
    nearest: Tensor = torch.cdist(x, reference).amin(-1)
    return nearest


def _check_samples(minimum: int, **samples: Tensor) -> None:
    check_floating(**samples)
    for name, value in samples.items():
        if value.ndim != 2 or len(value) < minimum or value.shape[1] < 1:
            raise ValueError(
                f"{name} must have shape (N, d) with N >= {minimum}, got {tuple(value.shape)}"
            )
    shapes = [value.shape[1] for value in samples.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"{', '.join(samples)} must share the dimension d, got {shapes}")
