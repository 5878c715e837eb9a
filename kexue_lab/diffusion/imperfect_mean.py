"""The best variance of a reverse step when the denoiser is wrong, and three ways to learn it.

With x_0 − μ̄ = −(β̄/ᾱ)(ε − ε_θ) the variance of x_0 given x_t is measured on the scale of ε and
multiplied by β̄²/ᾱ² at the end. For ε_θ = E[ε | x_t] + b the best variance is
E[(ε − ε_θ)² | x_t] = Var(ε | x_t) + b². All squares are entry by entry.
Losses of half-precision inputs are computed and returned in float32, which their squares need.
Source: Bao et al., "Estimating the Optimal Covariance with Imperfect Mean in Diffusion
Probabilistic Models", arXiv:2206.07309; kexue.fm/archives/9246.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kexue_lab.precision import (
    narrowed,
    relative_entropy,
    squared_ratio,
    widened,
)
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_floating,
    check_non_negative,
    check_positive,
)

Reduction = Literal["mean", "sum", "none"]
Output = Literal["softplus", "raw", "log"]


def residual_variance(noise: Tensor, eps_pred: Tensor, *, per_dim: bool = False) -> Tensor:
    """Return the mean of (ε − ε_θ)², the best unconditional variance on the scale of ε.

    Unlike 1 − E ε_θ² it assumes nothing about ε_θ. For use in a sampler see `to_x0_variance`.

    Args:
        noise: ε, (B, …).
        eps_pred: ε_θ at the noised points, of the same shape.
        per_dim: return one variance for each entry of a sample instead of their mean.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree or are empty.

    Source: arXiv:2206.07309, theorem 3.2, averaged over x_t.

    Example:
        >>> residual_variance(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]))
        tensor(2.5000)
    """
    _check_same(noise=noise, eps_pred=eps_pred)
    squares = (noise.double() - eps_pred.double()).square().mean(0)
    return narrowed(squares if per_dim else squares.mean(), noise.dtype, "the variance")


def analytic_error(noise: Tensor, eps_pred: Tensor, *, per_dim: bool = False) -> Tensor:
    """Return the mean of 2 ε_θ (ε_θ − ε), by which 1 − E ε_θ² lies below E(ε − ε_θ)².

    Its expectation is 2 E[ε_θ b] with the bias b = ε_θ − E[ε | x_t]: 0 for the exact mean, and for
    any ε_θ whose multiples are no better than itself.

    Args:
        noise: ε, (B, …).
        eps_pred: ε_θ at the noised points, of the same shape.
        per_dim: return one number for each entry of a sample instead of their mean.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree or are empty.

    Source: kexue.fm/archives/9246, the difference of its estimates.

    Example:
        >>> analytic_error(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [2.0]]))
        tensor(0.)
    """
    _check_same(noise=noise, eps_pred=eps_pred)
    guess = eps_pred.double()
    overlap = (2 * guess * (guess - noise.double())).mean(0)
    return narrowed(overlap if per_dim else overlap.mean(), noise.dtype, "the error")


def npr_loss(
    g: Tensor,
    noise: Tensor,
    eps_pred: Tensor,
    *,
    scale: float | Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the loss (g − (ε − ε_θ)²)² of the noise-prediction residual.

    Its minimiser over all functions is the best variance. No gradient reaches ε_θ.

    Args:
        g: predicted variance, (B, …).
        noise: ε, of the same shape.
        eps_pred: ε_θ, of the same shape.
        scale: divides both g and the squared residual, for example by its mean at that time, so
            that times of small variance count as much; a positive number, or a tensor of them that
            broadcasts to g.
        reduction: "mean", "sum" or "none".

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, scale is a number ≤ 0, or the reduction is unknown.

    Source: arXiv:2206.07309, equation 14.
    """
    _check_same(g=g, noise=noise, eps_pred=eps_pred)
    check_choice(Reduction, reduction=reduction)
    g, noise, eps_pred = widened(g), widened(noise), widened(eps_pred)
    difference = g - (noise - eps_pred).detach().square()
    if scale is not None:
        # A tensor's values are not looked at, so that the loss works inside `torch.func.vmap`.
        if not isinstance(scale, Tensor):
            check_positive(scale=scale)
        difference = difference / scale
    return _reduce(difference.square(), reduction)


def sn_loss(h: Tensor, noise: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the loss (h − ε²)² of the squared-noise prediction; its minimiser is E[ε² | x_t].

    Args:
        h: predicted second moment, (B, …).
        noise: ε, of the same shape.
        reduction: "mean", "sum" or "none".

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree or the reduction is unknown.

    Source: arXiv:2206.07309, equation 10.
    """
    _check_same(h=h, noise=noise)
    check_choice(Reduction, reduction=reduction)
    return _reduce((widened(h) - widened(noise).square()).square(), reduction)


def sn_variance(h: Tensor, eps_pred: Tensor, *, floor: float = 0.0) -> Tensor:
    """Return h − ε_θ², at least `floor`; the error of this variance is −2 b ε_θ.

    Args:
        h: E[ε² | x_t] or its prediction, (B, …).
        eps_pred: ε_θ, of the same shape.
        floor: least value of the result; −∞ keeps negative values.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree or floor is not a number.

    Source: arXiv:2206.07309, section 3.1.

    Example:
        >>> sn_variance(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0]]))
        tensor([[0.7500, 1.0000]])
    """
    _check_same(h=h, eps_pred=eps_pred)
    if math.isnan(floor):
        raise ValueError("floor must be a number, got nan")
    variance = (h.double() - eps_pred.double().square()).clamp_min(floor)
    return narrowed(variance, h.dtype, "the variance")


def variance_nll(
    log_g: Tensor, noise: Tensor, eps_pred: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Return ½ ln g + (ε − ε_θ)²/(2g), a Gaussian negative log-likelihood without its constant.

    Same minimiser over all functions as `npr_loss`; its gradient is weighted by 1/(2g²). No
    gradient reaches ε_θ.

    Args:
        log_g: logarithm of the predicted variance, (B, …).
        noise: ε, of the same shape.
        eps_pred: ε_θ, of the same shape.
        reduction: "mean", "sum" or "none".

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree or the reduction is unknown.

    Source: Nix and Weigend, "Estimating the mean and variance of the target probability
    distribution", 1994.
    """
    _check_same(log_g=log_g, noise=noise, eps_pred=eps_pred)
    check_choice(Reduction, reduction=reduction)
    log_g, noise, eps_pred = widened(log_g), widened(noise), widened(eps_pred)
    squares = (noise - eps_pred).detach().square()
    # Where there is no residual 1/g has no weight, even if it is infinite.
    weight = torch.where(squares > 0, -log_g, 0).exp()
    return _reduce(0.5 * (log_g + squares * weight), reduction)


def gaussian_excess(g_true: Tensor, g: Tensor) -> Tensor:
    """Return ½ (g*/g − 1 − ln(g*/g)), the nats lost by the variance g in place of g*.

    Args:
        g_true: g*, positive, any shape.
        g: positive, broadcast against g_true.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if an entry is not positive.
    """
    check_floating(g_true=g_true, g=g)
    for name, value in (("g_true", g_true), ("g", g)):
        if not (value > 0).all():
            raise ValueError(f"{name} must be positive, got minimum {value.min():g}")
    true, other = g_true.double(), g.double()
    lost = 0.5 * relative_entropy((true - other) / other, true.log() - other.log())
    return narrowed(lost, g.dtype, "the excess")


def to_x0_variance(
    g: Tensor, alpha_bar: float, beta_bar: float, *, clip: tuple[float, float] | None = None
) -> Tensor:
    """Return (β̄²/ᾱ²) g, the variance of x_0 for a variance g on the scale of ε.

    Args:
        g: any shape.
        alpha_bar: ᾱ_t > 0.
        beta_bar: β̄_t ≥ 0.
        clip: (lower, upper) bounds of the result, such as (0, 1) for data in [−1, 1].

    Raises:
        TypeError: if g is not a floating-point tensor.
        ValueError: if alpha_bar is not positive, beta_bar negative, or clip not increasing.

    Example:
        >>> to_x0_variance(torch.tensor([1.0]), alpha_bar=0.8, beta_bar=0.6)
        tensor([0.5625])
    """
    check_floating(g=g)
    check_positive(alpha_bar=alpha_bar)
    check_non_negative(beta_bar=beta_bar)
    if clip is not None and not clip[0] <= clip[1]:
        raise ValueError(f"clip must be (lower, upper) with lower <= upper, got {clip}")
    variance = squared_ratio(beta_bar=beta_bar, alpha_bar=alpha_bar) * g.double()
    variance = variance if clip is None else variance.clamp(*clip)
    return narrowed(variance, g.dtype, "the variance")


class VarianceHead(nn.Module):
    """An MLP (x, t) ↦ one number for each entry of x: a variance, or its logarithm.

    Args:
        dim: d, entries of a point.
        width: hidden units of its two layers.
        output: "softplus" gives positive numbers; "raw" and "log" give any.

    Raises:
        TypeError: if dim or width is not an integer.
        ValueError: if one is below 1, or output is unknown.
    """

    def __init__(self, dim: int, width: int = 64, output: Output = "softplus") -> None:
        check_count(dim=dim, width=width)
        check_choice(Output, output=output)
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi * torch.tensor([1.0, 2.0, 4.0, 8.0]))
        self.net = nn.Sequential(
            nn.Linear(dim + 8, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, dim),
            nn.Softplus() if output == "softplus" else nn.Identity(),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the head's output (B, d) at points x, (B, d), and times t, (B,)."""
        angles = t[:, None] * self.frequencies
        result: Tensor = self.net(torch.cat([x, angles.sin(), angles.cos()], -1))
        return result


def _check_same(**tensors: Tensor) -> None:
    check_floating(**tensors)
    shapes = {tuple(value.shape) for value in tensors.values()}
    if len(shapes) > 1 or 0 in next(iter(shapes)):
        found = ", ".join(str(tuple(value.shape)) for value in tensors.values())
        raise ValueError(f"{', '.join(tensors)} must share one non-empty shape, got {found}")


def _reduce(loss: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
