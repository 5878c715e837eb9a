"""Accuracy as a differentiable objective, and a three-point problem that is solved exactly.

Accuracy is piecewise constant in the logits. Adding noise to them and taking the expectation makes
it smooth: Gaussian noise gives EXACT (Karpukhin et al.), Gumbel noise gives the softmax probability
of the label. The three points x = -1/4, 0, 1/4 with labels -1, -1, +1 and the classifier
sign(x - b) show, in closed form, where each loss puts its optimum; accuracy is 1 for 0 < b < 1/4.

References:
    I. Karpukhin, S. Dereka, S. Kolesnikov, "EXACT: How to Train Your Accuracy", 2022,
    arXiv:2205.09615.
    J. Su, "如何训练你的准确率?", 2022, https://kexue.fm/archives/9098.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtr
from torch import Tensor

from kexue_lab.losses.batch import Reduction, check_batch, reduced
from kexue_lab.precision import over, widened
from kexue_lab.validation import check_choice, check_positive

Noise = Literal["gaussian", "gumbel"]
ThreePointKind = Literal["accuracy", "cross_entropy", "hinge", "gaussian", "gumbel"]

# Below, logits are divided relative to the largest: their quotients would lose digits.
_SMALL_SCALE = 1e-3

_POINTS = np.array([-0.25, 0.0, 0.25])
_LABELS = np.array([-1.0, -1.0, 1.0])


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the share of samples whose label has the strictly largest logit.

    A tie for the first place counts as wrong, so that constant logits score 0.

    Args:
        logits: Floating-point tensor of shape (B, C), B ≥ 1, C ≥ 2.
        target: Integer labels of shape (B,), from 0 to C - 1.

    Returns:
        A scalar in [0, 1], of the logits' dtype.

    Raises:
        TypeError: If `logits` is not a floating-point or `target` not an integer tensor.
        ValueError: For wrong shapes, B = 0, C < 2, or a label outside the range.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor(0.5000)
    """
    check_batch(target, infinite=True, logits=logits)
    own, others = _split(logits, target)
    return (own[:, None] > others).all(-1).double().mean().to(logits.dtype)


def expected_accuracy(
    logits: Tensor,
    target: Tensor,
    sigma: float = 1.0,
    *,
    noise: Noise = "gaussian",
    n_nodes: int = 64,
) -> Tensor:
    """Return the probability that each label still wins when noise is added to the logits.

    With s = μ + σε, the probability that s_y > s_j for all j ≠ y. For standard normal ε, given
    ε_y = t the other comparisons are independent, so that
    P_y = ∫ φ(t) Π_{j≠y} Φ((μ_y - μ_j)/σ + t) dt, here by Gauss-Hermite quadrature. For standard
    Gumbel ε it is softmax(μ/σ)_y. Differentiable in `logits`. Under `torch.func.vmap` the values
    of `target` cannot be checked, and torch computes Gaussian noise by a slow loop.

    The error of the quadrature grows with C: at 32 nodes it is about 1e-10 for C = 4 and 1e-5 for
    C = 100. Memory and time grow as B (C - 1) `n_nodes`.

    Args:
        logits: Floating-point tensor of shape (B, C), B ≥ 1, C ≥ 2.
        target: Integer labels of shape (B,), from 0 to C - 1.
        sigma: Scale of the noise, in the units of the logits, positive and finite.
        noise: "gaussian" (EXACT) or "gumbel" (softmax with temperature `sigma`).
        n_nodes: Number of quadrature nodes for Gaussian noise, from 1 to 256.

    Returns:
        Probabilities of shape (B,), of the logits' dtype and device.

    Raises:
        TypeError: If `logits` is not a floating-point or `target` not an integer tensor, or
            `n_nodes` is not an int.
        ValueError: For wrong shapes, B = 0, C < 2, a label outside the range, `sigma` not
            positive and finite, an unknown `noise`, or `n_nodes` outside its range.

    Source:
        Karpukhin, Dereka, Kolesnikov, arXiv:2205.09615, section 3 (there by Genz's sampling of the
        orthant probability; the one-dimensional integral is exact for independent noise).

    Example:
        >>> expected_accuracy(torch.zeros(1, 4), torch.tensor([2]))
        tensor([0.2500])
    """
    check_batch(target, infinite=True, logits=logits)
    check_positive(sigma=sigma)
    check_choice(Noise, noise=noise)
    if noise == "gumbel":
        return torch.exp(_log_softmax(logits, target, sigma)).to(logits.dtype)
    if isinstance(n_nodes, bool) or not isinstance(n_nodes, int):
        raise TypeError(f"n_nodes must be an int, got {type(n_nodes).__name__}")
    if not 1 <= n_nodes <= 256:
        raise ValueError(f"n_nodes must lie between 1 and 256, got {n_nodes}")
    wide = widened(logits)
    own, others = _split(wide, target)
    nodes, weights = (wide.new_tensor(v) for v in _normal_rule(n_nodes))
    margins = over(own[:, None] - others, sigma)
    # Summed logarithms: the product of many small factors would underflow on the way.
    log_wins = torch.special.log_ndtr(margins[..., None] + nodes).sum(-2)
    return (torch.exp(log_wins) @ weights).clamp(max=1).to(logits.dtype)


def exact_loss(
    logits: Tensor,
    target: Tensor,
    sigma: float = 1.0,
    *,
    n_nodes: int = 64,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the EXACT loss, 1 - P_y with Gaussian noise on the logits.

    Args:
        logits: Floating-point tensor of shape (B, C), B ≥ 1, C ≥ 2.
        target: Integer labels of shape (B,), from 0 to C - 1.
        sigma: Standard deviation of the noise, positive and finite.
        n_nodes: Number of quadrature nodes, from 1 to 256.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or shape (B,) for "none".

    Raises:
        TypeError: As `expected_accuracy`.
        ValueError: As `expected_accuracy`, or for an unknown `reduction`.

    References:
        Karpukhin, Dereka, Kolesnikov, arXiv:2205.09615.

    Example:
        >>> exact_loss(torch.zeros(1, 4), torch.tensor([2]))
        tensor(0.7500)
    """
    check_choice(Reduction, reduction=reduction)
    lost = 1 - expected_accuracy(logits, target, sigma, n_nodes=n_nodes)
    return reduced(lost, reduction, logits.dtype)


def soft_accuracy_loss(
    logits: Tensor, target: Tensor, tau: float = 1.0, *, reduction: Reduction = "mean"
) -> Tensor:
    """Return 1 - p_y, with p = softmax(μ/τ): smooth accuracy by Gumbel noise.

    It is half the mean absolute error Σ_j |p_j - 1[j = y]|. Small values keep their relative
    accuracy.

    Args:
        logits: Floating-point tensor of shape (B, C), B ≥ 1, C ≥ 2.
        target: Integer labels of shape (B,), from 0 to C - 1.
        tau: Temperature τ, positive and finite.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or shape (B,) for "none".

    Raises:
        TypeError: If `logits` is not a floating-point or `target` not an integer tensor.
        ValueError: For wrong shapes, B = 0, C < 2, a label outside the range, `tau` not positive
            and finite, or an unknown `reduction`.

    References:
        Z. Zhang, M. Sabuncu, "Generalized Cross Entropy Loss", 2018, arXiv:1805.07836.

    Example:
        >>> soft_accuracy_loss(torch.zeros(1, 4), torch.tensor([2]))
        tensor(0.7500)
    """
    check_batch(target, infinite=True, logits=logits)
    check_positive(tau=tau)
    check_choice(Reduction, reduction=reduction)
    losses = -torch.expm1(_log_softmax(logits, target, tau))
    return reduced(losses, reduction, logits.dtype)


def three_point_objective(
    b: ArrayLike, kind: ThreePointKind, scale: float = 1.0
) -> NDArray[np.float64]:
    """Return one of five objectives of the threshold b on the three points.

    With margins m_i = l_i (x_i - b) / scale: "accuracy" is the mean of 1[m > 0],
    "cross_entropy" the sum of log(1 + e^-m), "hinge" the sum of max(0, 1 - m), "gaussian" the mean
    of Φ(m/√2), "gumbel" the mean of 1/(1 + e^-m). The two sums are losses, to be minimised; the
    means are (expected) accuracies of the two-class logits (0, x - b). Dividing by `scale` is
    adding noise of that scale, or giving the classifier the slope 1/`scale`.

    Args:
        b: Thresholds, finite, of any shape.
        kind: Which objective.
        scale: Scale of the noise, temperature, or inverse slope; positive and finite.

    Returns:
        The objective, of the shape of `b`.

    Raises:
        ValueError: If `b` is not finite, `kind` is unknown or `scale` not positive and finite.

    Example:
        >>> three_point_objective([-0.1, 0.1, 0.4], "accuracy")
        array([0.66666667, 1.        , 0.66666667])
    """
    thresholds = np.asarray(b, dtype=np.float64)
    if not np.isfinite(thresholds).all():
        raise ValueError(f"b must be finite, got {b!r}")
    check_choice(ThreePointKind, kind=kind)
    check_positive(scale=scale)
    with np.errstate(over="ignore"):
        m = _LABELS * (_POINTS - thresholds[..., None]) / scale
    if kind == "accuracy":
        return np.asarray((m > 0).mean(-1))
    if kind in ("cross_entropy", "hinge"):
        with np.errstate(over="ignore"):
            losses = np.logaddexp(0, -m) if kind == "cross_entropy" else np.maximum(0, 1 - m)
            total = np.asarray(losses.sum(-1))
        if not np.isfinite(total).all():
            raise ValueError(f"b / scale must be finite, got scale {scale} for b = {b!r}")
        return total
    smooth = ndtr(m / math.sqrt(2)) if kind == "gaussian" else expit(m)
    return np.asarray(smooth.mean(-1))


def three_point_optimum(kind: ThreePointKind, scale: float = 1.0) -> float | tuple[float, float]:
    """Return the best threshold b on the three points, in closed form.

    Cross entropy and Gumbel noise lead to polynomials in e^(b/scale) with one sign change, hence
    one positive root; Gaussian noise to a quadratic. From scale 1/(4 ln((1+√5)/2)) = 0.5195 on,
    the expected accuracy under Gumbel noise has no maximum: it rises to 2/3 as b → ∞.

    Args:
        kind: As in `three_point_objective`.
        scale: As there.

    Returns:
        The only optimum (`inf` where the objective rises for ever); for "hinge" the ends of the
        closed interval of minimisers, for "accuracy" those of the open interval of maximisers.

    Raises:
        ValueError: If `kind` is unknown or `scale` not positive and finite.
    """
    check_choice(ThreePointKind, kind=kind)
    check_positive(scale=scale)
    if kind == "accuracy":
        return 0.0, 0.25
    if kind == "hinge":
        # The slope rises from -2 by one at each kink, so it is 0 between the upper two.
        _, low, high = sorted((scale - 0.25, scale, 0.25 - scale))
        return low, high
    if kind == "gaussian":
        return _gaussian_optimum(scale)
    # r = e^(-1/(4 scale)) and y = e^((b - 1/8)/scale) stay in range however small the scale.
    r = math.exp(-0.25 / scale)
    if kind == "cross_entropy":
        y = _largest_root([2 * r**1.5, 1 + r + r**2, 0, -1])
        return 0.125 - scale * math.log(y)
    leading = 1 - r - r**2
    if leading <= 0:
        return math.inf
    y = _largest_root(
        [-leading, 4 * r**2.5, 1 + 4 * r**2 + r**4, 4 * r**1.5, r**2 * (1 + r - r**2)]
    )
    return 0.125 + scale * math.log(y)


def _gaussian_optimum(sigma: float) -> float:
    """The root of c z² - z - c = 0, z = e^(ub/2), u = 1/(4σ²), c = e^(-u/16), as b."""
    if sigma < 1e-100:
        return 0.125
    if sigma > 1e150:
        raise ValueError(f"scale must be at most 1e150 for kind 'gaussian', got {sigma}")
    u = 0.25 / sigma**2
    c = math.exp(-u / 16)
    # log(1/c) = u/16 is taken out by hand: c itself may underflow.
    return 0.125 + 2 / u * math.log((1 + math.hypot(1, 2 * c)) / 2)


def _largest_root(coefficients: list[float]) -> float:
    """The only positive root of a polynomial whose coefficients change sign once."""
    return float(np.roots(coefficients).real.max())


@lru_cache(maxsize=16)
def _normal_rule(n_nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of Gauss-Hermite quadrature for the standard normal law."""
    nodes, weights = hermegauss(n_nodes)
    return nodes, weights / weights.sum()


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit, shape (B,), and those of the other classes, shape (B, C - 1)."""
    own = logits.gather(-1, target.long()[:, None])[:, 0]
    classes = torch.arange(logits.shape[-1] - 1, device=logits.device)
    others = logits.gather(-1, classes + (classes >= target[:, None]).long())
    return own, others


def _log_softmax(logits: Tensor, target: Tensor, tau: float) -> Tensor:
    wide = widened(logits)
    if tau < _SMALL_SCALE:
        wide = wide - wide.detach().amax(-1, keepdim=True)
    scaled = torch.log_softmax(over(wide, tau), -1)
    return scaled.gather(-1, target.long()[:, None])[:, 0]
