"""TaiLr: cross entropy reweighted towards total variation, and what its optimum is.

The total variation distance TV(P, Q) = ½ Σ |P_i − Q_i| of a one-hot label and a softmax probability
is 1 − p_y. TaiLr lies between that and cross entropy: its gradient is w ∇(−log p_y) with the weight
w = p_y / (γ + (1 − γ) p_y), 0 ≤ γ ≤ 1. It belongs to an ordinary loss,
ℓ(p_y) = −log(γ + (1 − γ) p_y) / (1 − γ), whose minimiser for labels of the law q is sharper than q
and, from a threshold of γ on, ignores wrong labels altogether.

Logits have the shape (B, C), with B ≥ 1 and C ≥ 2, and labels the shape (B,). A loss that is beyond
the dtype is refused; half precision is computed in float32.

References:
    H. Ji, P. Ke, Z. Hu, R. Zhang, M. Huang, "Tailoring Language Generation Models under Total
    Variation Distance", ICLR 2023, arXiv:2302.13344.
    J. Su, "缓解交叉熵过度自信的一个简明方案", 2023, https://kexue.fm/archives/9526.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_lab.losses.batch import Reduction, check_batch, reduced
from kexue_lab.precision import holds, widened
from kexue_lab.tasks import IGNORED
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_distribution,
    check_floating,
    check_non_negative,
)


def total_variation(p: Tensor, q: Tensor, dim: int = -1) -> Tensor:
    """Return the total variation distance ½ Σ |p_i − q_i| of two laws.

    It is also 1 − Σ min(p_i, q_i): the largest difference of the probabilities of an event.

    Args:
        p: probabilities along `dim`.
        q: probabilities of the same shape.
        dim: the axis of the classes.

    Returns:
        Distances in [0, 1], without that axis.

    Raises:
        ValueError: if one is not a distribution, or the shapes disagree.

    Example:
        >>> total_variation(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6]))
        tensor(0.4000)
    """
    check_floating(p=p, q=q)
    if p.shape != q.shape or p.ndim < 1:
        raise ValueError(f"p and q must have one shape, got {tuple(p.shape)} and {tuple(q.shape)}")
    check_distribution(p=p.movedim(dim, -1), q=q.movedim(dim, -1))
    distance = (widened(p) - widened(q)).abs().sum(dim) / 2
    return distance.clamp(max=1).to(p.dtype)


def tailr_weight(p: Tensor, gamma: float = 0.1) -> Tensor:
    """Return TaiLr's weight p / (γ + (1 − γ) p) of samples whose label has the probability p.

    Args:
        p: probabilities in [0, 1], of any shape.
        gamma: γ in [0, 1]; 0 gives 1, cross entropy, and 1 gives p.

    Returns:
        Weights in [0, 1], of the shape of p.

    Raises:
        ValueError: if p or gamma lies outside [0, 1].

    Example:
        >>> tailr_weight(torch.tensor([0.0, 0.1, 1.0]), 0.5)
        tensor([0.0000, 0.1818, 1.0000])
    """
    check_floating(p=p)
    _check_share(gamma=gamma)
    if not holds((p >= 0) & (p <= 1)):
        raise ValueError(f"p must lie in [0, 1], got {p.min().item():g} to {p.max().item():g}")
    return _weight(widened(p).log(), gamma).to(p.dtype)


def tailr_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 0.1,
    *,
    min_weight: float = 0.0,
    reduction: Reduction = "mean",
    ignore_index: int = IGNORED,
) -> Tensor:
    """Return −w log p_y with TaiLr's weight w held fixed when differentiating.

    Its gradient is that of `tailr_potential_loss`, its value is another, which may rise while
    training succeeds.

    Args:
        logits: floating-point, (B, C).
        target: integer labels, (B,).
        gamma: γ in [0, 1].
        min_weight: the weight's floor, in [0, 1]: what a sample counts at least.
        reduction: "mean", "sum" or "none".
        ignore_index: labels with this value are left out, also of the mean.

    Returns:
        A scalar, or (B,) for "none".

    Raises:
        TypeError: if `logits` is not floating-point or `target` not of integers.
        ValueError: for a share outside [0, 1], wrong shapes, a label out of range, logits that are
            not finite, no label that counts, or a loss beyond the dtype.

    Source: Ji et al., arXiv:2302.13344, equation (9).

    Example:
        >>> tailr_loss(torch.tensor([[1.0, -0.5, 0.3, 0.0]]), torch.tensor([1]))
        tensor(1.2181)
    """
    _check_share(gamma=gamma, min_weight=min_weight)
    log_p, count = _log_probability(logits, target, reduction, ignore_index)
    w = _weight(log_p.detach(), gamma).clamp(min=min_weight)
    losses = torch.where(w > 0, -w * log_p, 0)
    return reduced(losses, reduction, logits.dtype, count=count)


def tailr_potential_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 0.1,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = IGNORED,
) -> Tensor:
    """Return ℓ(p_y) = −log(γ + (1 − γ) p_y) / (1 − γ), the loss with TaiLr's gradient.

    γ = 0 is cross entropy, γ = 1 is 1 − p_y; for γ > 0 it is at most −log γ / (1 − γ).

    Args:
        logits: floating-point, (B, C).
        target: integer labels, (B,).
        gamma: γ in [0, 1].
        reduction: "mean", "sum" or "none".
        ignore_index: labels with this value are left out, also of the mean.

    Returns:
        A scalar, or (B,) for "none".

    Raises:
        TypeError: as `tailr_loss`.
        ValueError: as `tailr_loss`.

    Example:
        >>> tailr_potential_loss(torch.tensor([[1.0, -0.5, 0.3, 0.0]]), torch.tensor([1]))
        tensor(1.8096)
    """
    _check_share(gamma=gamma)
    log_p, count = _log_probability(logits, target, reduction, ignore_index)
    rest = 1 - gamma
    if gamma == 0:
        losses = -log_p
    elif gamma == 1:
        losses = -torch.expm1(log_p)
    elif gamma < 0.5:
        floor = log_p.new_full((), math.log(gamma))
        losses = -torch.logaddexp(floor, math.log1p(-gamma) + log_p) / rest
    else:  # near γ = 1 the other form would cancel
        losses = -torch.log1p(rest * torch.expm1(log_p)) / rest
    return reduced(losses.clamp(min=0), reduction, logits.dtype, count=count)


def generalized_cross_entropy(
    logits: Tensor,
    target: Tensor,
    q: float = 0.7,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = IGNORED,
) -> Tensor:
    """Return (1 − p_y^q) / q: cross entropy for q = 0, and 1 − p_y for q = 1.

    Args:
        logits: floating-point, (B, C).
        target: integer labels, (B,).
        q: in [0, 1].
        reduction: "mean", "sum" or "none".
        ignore_index: labels with this value are left out, also of the mean.

    Returns:
        A scalar, or (B,) for "none".

    Raises:
        TypeError: as `tailr_loss`.
        ValueError: as `tailr_loss`.

    Source: Zhang and Sabuncu, arXiv:1805.07836, equation (6).

    Example:
        >>> generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), 0.5)
        tensor(1.)
    """
    _check_share(q=q)
    log_p, count = _log_probability(logits, target, reduction, ignore_index)
    losses = -torch.expm1(q * log_p) / q if q > 0 else -log_p
    return reduced(losses, reduction, logits.dtype, count=count)


def tailr_minimizer(q: Tensor, gamma: float = 0.1) -> Tensor:
    """Return the law p that minimises Σ q_i ℓ(p_i), with TaiLr's loss ℓ.

    p_i = max(0, (κ q_i − γ) / (1 − γ)), with κ such that the sum is 1; the m classes with p_i > 0
    are the most probable ones. Computed in float64.

    Args:
        q: laws of the labels over the last axis, (…, C).
        gamma: γ in [0, 1]; 0 gives q, and 1 all to the first of the most probable classes.

    Returns:
        Laws of the shape of q.

    Raises:
        ValueError: if q is not a distribution over the last axis, or gamma outside [0, 1].

    Example:
        >>> tailr_minimizer(torch.tensor([0.5, 0.3, 0.2]), 0.2)
        tensor([0.6250, 0.2750, 0.1000])
    """
    check_floating(q=q)
    _check_share(gamma=gamma)
    if q.ndim < 1 or q.shape[-1] < 1:
        raise ValueError(f"q must have shape (…, C) with C ≥ 1, got {tuple(q.shape)}")
    if not q.numel():
        return q.clone()
    check_distribution(q=q)
    if gamma == 1:
        return F.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)
    ordered = q.double().sort(-1, descending=True).values
    m = torch.arange(1, q.shape[-1] + 1, device=q.device)
    # Differences to the largest, so that equal classes stay equal when γ/(1 − γ) is large.
    sums, lags = ordered.cumsum(-1), (ordered - ordered[..., :1])
    excess = m * lags - lags.cumsum(-1)
    active = (ordered * (1 - gamma) + gamma * excess > 0).sum(-1, keepdim=True)
    total, lag = (x.gather(-1, active - 1) for x in (sums, lags.cumsum(-1)))
    excess = active * (q.double() - ordered[..., :1]) - lag
    p = (q.double() + gamma / (1 - gamma) * excess) / total
    return p.clamp(0, 1).to(q.dtype)


def noise_threshold(eta: float, num_classes: int) -> float:
    """Return the γ from which on TaiLr's minimiser ignores symmetric label noise.

    A share η of the labels is wrong, spread evenly over the other classes: η / ((C − 1)(1 − η)).

    Args:
        eta: η in [0, 1).
        num_classes: C ≥ 2.

    Returns:
        The threshold; above 1, where no γ does it, if the label is not the most frequent class.

    Raises:
        ValueError: if eta lies outside [0, 1) or num_classes is below 2.

    Example:
        >>> round(noise_threshold(0.4, 10), 4)
        0.0741
    """
    _check_share(eta=eta)
    check_count(2, num_classes=num_classes)
    if eta == 1:
        raise ValueError(f"eta must be below 1, got {eta}")
    return eta / ((num_classes - 1) * (1 - eta))


def _check_share(**shares: float) -> None:
    check_non_negative(**shares)
    for name, value in shares.items():
        if value > 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")


def _weight(log_p: Tensor, gamma: float) -> Tensor:
    """TaiLr's weight, from log p: 1 at γ = 0 also where p is 0."""
    if gamma == 0:
        return torch.ones_like(log_p)
    # γ/p may be infinite: then the weight is 0.
    return 1 / ((1 - gamma) + (math.log(gamma) - log_p).exp())


def _log_probability(
    logits: Tensor, target: Tensor, reduction: Reduction, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Log p_y, (B,), at least in float32 and 0 for ignored labels; and how many labels count."""
    check_choice(Reduction, reduction=reduction)
    check_batch(target, ignored=ignore_index, logits=logits)
    labels = target.long()
    log_p = -F.cross_entropy(widened(logits), labels, reduction="none", ignore_index=ignore_index)
    return log_p, (labels != ignore_index).sum()
