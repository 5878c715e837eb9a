"""Mixtures with fixed spherical covariances σ²I, which tend to K-means as σ shrinks."""

import math

import torch
from torch import Tensor

from kexue_lab.precision import distances, narrowed
from kexue_lab.validation import check_count, check_data, check_distribution, check_floating


def soft_kmeans_energy(x: Tensor, weights: Tensor, means: Tensor, variance: float) -> Tensor:
    """Return -2σ² Σ_n log Σ_k π_k exp(-‖x_n - μ_k‖² / 2σ²), which tends to K-means' inertia.

    For each n it lies between min_k ‖x_n - μ_k‖² and that plus 2σ² log(1/π_k*), k* the nearest
    mean; hence the limit as σ → 0.

    Args:
        x: data, shape (N, d).
        weights: mixing weights, shape (K,), summing to 1.
        means: component means, shape (K, d).
        variance: σ² of every component in every direction, positive.

    Returns:
        The energy in squared units of `x`, a scalar.

    Raises:
        TypeError: if a tensor is not floating point, or the dtypes disagree.
        ValueError: if shapes disagree, `weights` is not a distribution, or `variance` is
            not positive and finite.

    Example:
        >>> x, one, mean = torch.tensor([[0.0], [2.0]]), torch.tensor([1.0]), torch.tensor([[1.0]])
        >>> soft_kmeans_energy(x, one, mean, variance=0.5)  # one component: the inertia itself
        tensor(2.)
    """
    _check_spherical(x, weights, means, variance)
    log_joint, nearest = _spherical_log_joint(x, weights, means, variance)
    excess = -2 * variance * torch.logsumexp(log_joint, -1)
    return narrowed((nearest + excess).sum(), x.dtype, "the energy")


def fit_spherical_gmm(
    x: Tensor, weights: Tensor, means: Tensor, variance: float, max_iter: int = 100
) -> Tensor:
    """Fit the means of a mixture with fixed weights and fixed covariances σ²I by EM.

    Each step never increases `soft_kmeans_energy`; as σ → 0 it becomes a step of K-means (Lloyd).
    A mean to which no data belongs (zero mass in floating point) stays where it is.

    Args:
        x: data, shape (N, d).
        weights: fixed mixing weights, shape (K,), summing to 1.
        means: component means at the start, shape (K, d).
        variance: fixed σ², positive.
        max_iter: number of steps, at least 1; it stops earlier when a step moves no mean.

    Returns:
        The means, shape (K, d).

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: as in `soft_kmeans_energy`, also if `max_iter` < 1.
    """
    _check_spherical(x, weights, means, variance)
    check_count(max_iter=max_iter)
    dtype = x.dtype
    x, weights, means = x.double(), weights.double(), means.double()
    for _ in range(max_iter):
        resp = torch.softmax(_spherical_log_joint(x, weights, means, variance)[0], -1)
        mass = resp.sum(0)[:, None]
        new_means = torch.where(mass > 0, resp.mT @ x / mass, means)
        if torch.equal(new_means, means):
            break
        means = new_means
    return means.to(dtype)


def _spherical_log_joint(
    x: Tensor, weights: Tensor, means: Tensor, variance: float
) -> tuple[Tensor, Tensor]:
    """Logarithms of π_k exp(−d²/2σ²), (N, K), relative to the least d², and that, (N,).

    However small σ, one of them is then log π_k.
    """
    squares = distances(x, means).square()
    possible = squares.masked_fill(weights <= 0, math.inf)
    nearest = possible.amin(-1)
    if not bool(nearest.isfinite().all()):
        raise ValueError("x must lie within 1e150 of a mean, got a square beyond float64")
    further = (squares - nearest[:, None]) / (2 * variance)
    return weights.double().log() - further, nearest


def _check_spherical(x: Tensor, weights: Tensor, means: Tensor, variance: float) -> None:
    check_floating(x=x, weights=weights, means=means)
    check_data(x=x)
    if weights.ndim != 1 or weights.numel() == 0:
        raise ValueError(f"weights must have shape (K,), got {tuple(weights.shape)}")
    if means.shape != (len(weights), x.shape[1]):
        raise ValueError(
            f"means must have shape ({len(weights)}, {x.shape[1]}), got {tuple(means.shape)}"
        )
    check_distribution(weights=weights)
    if not 0 < variance < math.inf:
        raise ValueError(f"variance must be positive and finite, got {variance}")
