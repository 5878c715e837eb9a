"""Weights of several losses with shared parameters, and what leaves them unchanged.

Multiplying a loss by a constant (its unit), or adding one, does not change the task. Dividing by
the loss at the start, by that of the best blind guess, or by the loss of the moment takes out the
unit; the last is the gradient of the geometric mean, which uncertainty weighting (Kendall et al.)
reaches at its inner optimum. Dividing each gradient by its norm takes out both.

Losses are scalars of one floating-point dtype on one device. Means, logarithms and norms are
computed in float64; a result that is beyond the losses' dtype is refused.

References:
    J. Su, "多任务学习漫谈(一):以损失之名", 2022, https://kexue.fm/archives/8870.
    A. Kendall, Y. Gal, R. Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics", 2018, arXiv:1705.07115.
    Z. Chen et al., "GradNorm", 2018, arXiv:1711.02257.
    S. Chennupati et al., "MultiNet++", 2019, arXiv:1904.08492.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kexue_lab.precision import holds, length, narrowed
from kexue_lab.validation import (
    TensorLike,
    as_floating,
    check_choice,
    check_count,
    check_distribution,
    check_finite,
    check_floating,
    check_non_negative,
)

Method = Literal["sum", "inverse", "geometric", "power"]
Kind = Literal["regression", "classification"]
Prior = Literal["l2", "l1"]

# Below it a mean of powers is the geometric one to all digits; below the next, expm1 is exact.
_NO_POWER, _SMALL_POWER = 1e-30, 1e-4


def combine_losses(
    losses: Sequence[Tensor],
    method: Method = "sum",
    *,
    reference: Sequence[float] | Tensor | None = None,
    gamma: float | None = None,
    weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Return one loss for several.

    "sum" is Σ α_i L_i, "inverse" Σ α_i L_i / reference_i, "geometric" Σ α_i log L_i (whose gradient
    is Σ α_i ∇L_i / L_i), and "power" the generalised mean of `generalized_mean`.

    Args:
        losses: n ≥ 1 scalars.
        method: one of those.
        reference: for "inverse", n positive numbers: the losses at the start, or prior losses.
        gamma: for "power", the exponent γ.
        weights: n numbers α_i ≥ 0, not all 0; 1 each by default.

    Returns:
        A scalar of the losses' dtype.

    Raises:
        TypeError: if the losses are no floating-point tensors of one dtype.
        ValueError: for a loss that is not finite and scalar, or not positive where a logarithm is
            taken; for references or weights of another number or out of range; for an argument
            that the method does not take or lacks; or if the result is beyond the dtype.

    Example:
        >>> combine_losses([torch.tensor(2.0), torch.tensor(8.0)], "inverse", reference=[1, 4])
        tensor(4.)
        >>> combine_losses([torch.tensor(2.0), torch.tensor(8.0)], "power", gamma=0.0)
        tensor(4.)
    """
    check_choice(Method, method=method)
    for name, value, owner in (("reference", reference, "inverse"), ("gamma", gamma, "power")):
        if (value is not None) != (method == owner):
            raise ValueError(f"{name} must be given for method {owner!r} only, got {value}")
    if method == "power":
        assert gamma is not None
        return generalized_mean(losses, gamma, weights=weights)
    values, dtype = _stacked(losses)
    alpha = _alphas(weights, values)
    if method == "inverse":
        assert reference is not None
        scale = _numbers("reference", reference, values)
        if not holds(scale > 0):
            raise ValueError(f"reference must be positive, got {scale.tolist()}")
        values = values / scale
    elif method == "geometric":
        _check_positive(values, method)
        values = values.log()
    return narrowed((alpha * values).sum(), dtype, "the combined loss")


def generalized_mean(
    losses: Sequence[Tensor],
    gamma: float,
    *,
    weights: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Return (Σ α_i L_i^γ / Σ α_i)^(1/γ), which grows with γ.

    γ = 1 is the mean, 0 the geometric mean (the limit), −1 the harmonic one; ±∞ are maximum and
    minimum.

    Args:
        losses: n ≥ 1 scalars; positive for γ < 1, non-negative for γ > 1.
        gamma: γ, which may be infinite.
        weights: n numbers α_i ≥ 0, not all 0; 1 each by default.

    Returns:
        A scalar between the least and the largest loss.

    Raises:
        TypeError: as `combine_losses`.
        ValueError: as `combine_losses`, or if gamma is nan.

    Example:
        >>> [round(float(generalized_mean(torch.tensor([1.0, 4.0]), g)), 3) for g in (-1, 0, 1)]
        [1.6, 2.0, 2.5]
    """
    values, dtype = _stacked(losses)
    alpha = _alphas(weights, values)
    if not isinstance(gamma, int | float) or math.isnan(gamma):
        raise ValueError(f"gamma must be a number, got {gamma!r}")
    if gamma < 1:
        _check_positive(values, f"power with gamma = {gamma:g}")
    elif gamma > 1 and not holds(values >= 0):
        raise ValueError(f"losses must be non-negative for gamma > 1, got {values.tolist()}")
    values, share = values[alpha > 0], (alpha / alpha.sum())[alpha > 0]
    if gamma == 1:
        mean = (share * values).sum()
    elif math.isinf(gamma):
        mean = values.max() if gamma > 0 else values.min()
    elif gamma > 1:
        top = values.detach().max()
        unit = torch.where(top > 0, top, 1)
        ratios = (share * (values / unit) ** gamma).sum()
        mean = unit * ratios ** (1 / gamma) if holds(top > 0) else values.max()
    else:
        mean = _power_mean(values, share, float(gamma))
    return narrowed(mean, dtype, "the mean")


def grad_norm_weights(
    losses: Sequence[Tensor], shared_params: Iterable[Tensor], *, eps: float = 0.0
) -> Tensor:
    """Return 1 / (‖∇L_i‖ + eps), the norms of the gradients by the shared parameters.

    One backward pass for each loss; the graph is kept, and the weights are detached from it.

    Args:
        losses: n ≥ 1 scalars with a graph.
        shared_params: the parameters that the norm is taken over, such as a trunk's.
        eps: added to the norms, ≥ 0.

    Returns:
        Weights (n,).

    Raises:
        TypeError: as `combine_losses`.
        ValueError: as `combine_losses`; if there is no parameter, a gradient is 0 with eps = 0, or
            not finite, or a weight beyond the dtype.

    Example:
        >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> grad_norm_weights([x.square().sum() / 2, 10 * x[0]], [x])
        tensor([0.2000, 0.1000])
    """
    check_non_negative(eps=eps)
    losses = list(losses)
    _, dtype = _stacked(losses)
    params = list(shared_params)
    if not params:
        raise ValueError("shared_params must hold at least one tensor, got none")
    norms = torch.stack([_gradient_norm(loss, params) for loss in losses])
    if not holds(norms.isfinite()):
        raise ValueError(f"gradients must be finite, got norms {norms.tolist()}")
    if not holds(norms + eps > 0):
        raise ValueError(f"gradients must not be 0 with eps = 0, got norms {norms.tolist()}")
    return narrowed(1 / (norms + eps), dtype, "the weights")


def prior_loss_classification(freq: TensorLike) -> float:
    """Return the cross entropy of the best blind guess, the classes' frequencies: −Σ f log f.

    Args:
        freq: frequencies f of the classes, (K,), which sum to 1.

    Returns:
        The loss in nats, at most log K.

    Raises:
        TypeError: if freq holds no floats.
        ValueError: if it is not a distribution over one axis.

    Example:
        >>> round(prior_loss_classification([0.5, 0.2, 0.2, 0.1]), 4)
        1.2206
    """
    f = as_floating("freq", freq)
    if f.ndim != 1 or not len(f):
        raise ValueError(f"freq must have shape (K,) with K >= 1, got {tuple(f.shape)}")
    check_distribution(freq=f)
    return max(float(torch.special.entr(f.double()).sum()), 0.0)


def prior_loss_regression(y: TensorLike, kind: Prior = "l2") -> float:
    """Return the loss of the best constant guess, summed over the outputs.

    Args:
        y: targets (N, d), or (N,) for d = 1, with N ≥ 1.
        kind: "l2", squared errors, best guessed by the mean; "l1", absolute ones, by the median.

    Returns:
        The mean over the N targets.

    Raises:
        TypeError: if y holds no floats.
        ValueError: for another shape or kind, values that are not finite, or a loss beyond float64.

    Example:
        >>> y = torch.tensor([1.0, 2.0, 4.0, 9.0])
        >>> prior_loss_regression(y), prior_loss_regression(y, "l1")
        (9.5, 2.5)
    """
    check_choice(Prior, kind=kind)
    targets = as_floating("y", y).double()
    if targets.ndim not in (1, 2) or not targets.numel():
        raise ValueError(f"y must have shape (N,) or (N, d), got {tuple(targets.shape)}")
    targets = targets.reshape(len(targets), -1)
    guess = targets.mean(0) if kind == "l2" else targets.median(0).values
    away = targets - guess
    loss = (away.square() if kind == "l2" else away.abs()).mean(0).sum()
    return float(narrowed(loss, torch.float64, "the prior loss"))


class UncertaintyWeights(nn.Module):
    """Weights by learnt variances.

    The sum of ½ e^(−s) L + s/2 for tasks of regression, and of e^(−s) L + s/2 for classification,
    with s = log σ², one for each task, a parameter that starts at 0.

    Args:
        n_tasks: n ≥ 1.
        kinds: for each task "regression" or "classification".

    Raises:
        TypeError: if n_tasks is not an integer.
        ValueError: if it is below 1, or kinds of another length or unknown.

    Example:
        >>> weigh = UncertaintyWeights(2, ["regression", "classification"])
        >>> weigh([torch.tensor(4.0), torch.tensor(2.0)])
        tensor(4., grad_fn=<ToCopyBackward0>)
        >>> weigh.optimal([torch.tensor(4.0), torch.tensor(2.0)])
        tensor([1.3863, 1.3863])

    Source: Kendall, Gal, Cipolla, arXiv:1705.07115, equations (7) and (10).
    """

    factor: Tensor

    def __init__(self, n_tasks: int, kinds: Sequence[Kind]) -> None:
        super().__init__()
        check_count(n_tasks=n_tasks)
        if len(kinds) != n_tasks:
            raise ValueError(f"kinds must have length {n_tasks}, got {kinds}")
        for kind in kinds:
            check_choice(Kind, kinds=kind)
        self.s = nn.Parameter(torch.zeros(n_tasks))
        factors = [0.5 if kind == "regression" else 1.0 for kind in kinds]
        self.register_buffer("factor", torch.tensor(factors))

    def forward(self, losses: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the losses, with the price of the variances.

        Raises:
            TypeError: as `combine_losses`.
            ValueError: as `combine_losses`, or for another number of losses.
        """
        values, dtype = self._of_tasks(losses)
        s = self.s.to(values)
        total = (self.factor.to(values) * torch.exp(-s) * values + s / 2).sum()
        return narrowed(total, dtype, "the weighted loss")

    def optimal(self, losses: Sequence[Tensor]) -> Tensor:
        """Return the s (n,) that minimises the weighted sum for given, positive losses.

        Raises:
            TypeError: as `combine_losses`.
            ValueError: as `forward`, or if a loss is not positive.
        """
        values, dtype = self._of_tasks(losses)
        _check_positive(values, "the optimal s")
        return (values.detach().log() + (2 * self.factor.to(values)).log()).to(dtype)

    def _of_tasks(self, losses: Sequence[Tensor]) -> tuple[Tensor, torch.dtype]:
        values, dtype = _stacked(losses)
        if len(values) != len(self.s):
            raise ValueError(f"losses must be {len(self.s)}, got {len(values)}")
        return values, dtype


def _stacked(losses: Sequence[Tensor]) -> tuple[Tensor, torch.dtype]:
    """The losses as one tensor (n,) in float64, and their dtype."""
    parts = list(losses)
    if not parts:
        raise ValueError("losses must hold at least one loss, got none")
    check_floating(**{f"losses[{i}]": loss for i, loss in enumerate(parts)})
    for i, loss in enumerate(parts):
        if loss.ndim:
            raise ValueError(f"losses[{i}] must be a scalar, got shape {tuple(loss.shape)}")
    values = torch.stack(parts)
    check_finite(losses=values)
    return values.double(), values.dtype


def _numbers(name: str, given: Sequence[float] | Tensor, values: Tensor) -> Tensor:
    """Numbers, one for each loss, in float64 and detached."""
    numbers = torch.as_tensor(given, dtype=torch.float64, device=values.device).detach()
    if numbers.shape != values.shape:
        raise ValueError(f"{name} must be {len(values)} numbers, got shape {tuple(numbers.shape)}")
    check_finite(**{name: numbers})
    return numbers


def _alphas(weights: Sequence[float] | Tensor | None, values: Tensor) -> Tensor:
    if weights is None:
        return torch.ones_like(values)
    alpha = _numbers("weights", weights, values)
    if not holds(alpha >= 0) or not holds(alpha.sum().isfinite() & (alpha.sum() > 0)):
        raise ValueError(f"weights must be non-negative and not all 0, got {alpha.tolist()}")
    return alpha


def _check_positive(values: Tensor, what: str) -> None:
    if not holds(values > 0):
        raise ValueError(f"losses must be positive for {what}, got {values.tolist()}")


def _power_mean(values: Tensor, share: Tensor, gamma: float) -> Tensor:
    """The mean of positive values for γ < 1, from their logarithms less that of the leading one."""
    lead = values.detach().min() if gamma < 0 else values.detach().max()
    logs = values.log() - lead.log()
    middle = (share * logs).sum()
    if abs(gamma) < _NO_POWER:
        log_mean = middle
    elif abs(gamma) < _SMALL_POWER:
        excess = (share * torch.expm1(gamma * (logs - middle))).sum()
        log_mean = middle + torch.log1p(excess) / gamma
    else:
        log_mean = torch.logsumexp(gamma * logs + share.log(), 0) / gamma
    half = torch.exp(log_mean / 2)  # in two steps, since the whole may overflow or vanish
    return lead * half * half


def _gradient_norm(loss: Tensor, params: list[Tensor]) -> Tensor:
    if not loss.requires_grad:
        raise ValueError("losses must depend on parameters, got one without a graph")
    slopes = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    parts = [slope.double().flatten() for slope in slopes if slope is not None]
    return length(torch.cat(parts)) if parts else loss.new_zeros((), dtype=torch.float64)
