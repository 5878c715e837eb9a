"""Noise, gradient penalties and adversaries at the input: one idea at several orders.

All penalise how fast the output moves with the input. To second order in the size σ or ε,

- Gaussian noise at the input adds ½σ² Δl to the loss l;
- the divergence KL(p(x) ‖ p(x + noise)) is ½σ² Σ_i p_i ‖∇ log p_i‖², on average;
- the worst input within ε in a norm adds ε times the dual norm of ∇_x l;
- the worst input for that divergence lies along the top eigenvector of its Hessian.

`model` maps inputs (B, …) to logits (B, m), sample by sample: put it into `eval()` if it holds
batch normalisation or dropout. Source: Miyato et al., arXiv:1704.03976; kexue.fm/archives/7466.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from kexue_lab.losses.batch import Reduction, check_batch, reduced
from kexue_lab.precision import length
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_positive,
)

Model = Callable[[Tensor], Tensor]
Norm = Literal["l2", "linf"]


# --- noise -------------------------------------------------------------------------------------


def noise_penalty(model: Model, x: Tensor, sigma: float) -> Tensor:
    """Return ½σ² Σ_i p_i ‖∇_x log p_i‖², what noise N(0, σ²) costs in KL(p(x) ‖ p(x + noise)).

    It is ½σ² times the trace of the Fisher information of the classes in x.

    Args:
        model: logits (B, m) of inputs (B, …).
        x: inputs.
        sigma: standard deviation σ > 0.

    Returns:
        (B,), differentiable by the model's parameters.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if x is empty or not finite, sigma is not positive, or the logits are not
            (B, m) with m ≥ 2.

    Source: second order of KL; kexue.fm/archives/7466.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> noise_penalty(lambda x: x @ weights.T, torch.zeros(1, 2), sigma=0.1).detach()
        tensor([0.0050])
    """
    check_positive(sigma=sigma)
    log_p, x = _log_probabilities(model, x)
    squares = [_squared_slope(log_p[:, i], x) for i in range(log_p.shape[1])]
    return 0.5 * sigma**2 * (log_p.exp() * torch.stack(squares, -1)).sum(-1)


def jacobian_penalty(
    outputs_fn: Model,
    x: Tensor,
    n_samples: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return ‖J‖_F², the sum of the squared slopes of all outputs by all inputs.

    Since E ‖∇ Σ_i η_i f_i‖² = ‖J‖_F² for independent signs η_i, a few random signs do instead of
    all outputs.

    Args:
        outputs_fn: outputs (B, m) of inputs (B, …).
        x: inputs.
        n_samples: how many draws of signs; None for the exact sum over the outputs.
        generator: source of the signs.

    Returns:
        (B,), differentiable by the parameters.

    Raises:
        TypeError: if x is not a floating-point tensor, or n_samples is no integer.
        ValueError: if x is empty or not finite, n_samples is below 1, or the outputs are not
            (B, m).

    Source: Hutchinson 1990; kexue.fm/archives/7466.

    Example:
        >>> jacobian_penalty(lambda x: 3 * x, torch.zeros(1, 2)).detach()
        tensor([18.])
    """
    if n_samples is not None:
        check_count(n_samples=n_samples)
    f, x = _outputs(outputs_fn, x)
    if n_samples is None:
        return torch.stack([_squared_slope(f[:, i], x) for i in range(f.shape[1])]).sum(0)
    draws = torch.randint(2, (n_samples, *f.shape), generator=generator, device=f.device)
    signs = (2 * draws - 1).to(f)
    return torch.stack([_squared_slope((sign * f).sum(-1), x) for sign in signs]).mean(0)


# --- adversaries that know the label -----------------------------------------------------------


def fast_gradient_perturbation(
    model: Model, x: Tensor, y: Tensor, epsilon: float, norm: Norm = "l2"
) -> Tensor:
    """Return the worst small change of each input to first order: ε ∇l/‖∇l‖ or ε sign ∇l.

    Args:
        model: logits (B, m) of inputs (B, …).
        x: inputs.
        y: labels, (B,).
        epsilon: size ε > 0 of the change in the norm.
        norm: "l2" (FGM) or "linf" (FGSM).

    Returns:
        of the shape of x, detached; 0 where the loss has no slope.

    Raises:
        TypeError: if x is not a floating-point tensor, or y is no integer one.
        ValueError: if x is empty or not finite, y does not fit, epsilon is not positive, or norm is
            unknown.

    Source: Goodfellow, Shlens, Szegedy, arXiv:1412.6572; Miyato, Dai, Goodfellow, arXiv:1605.07725.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> label = torch.tensor([0])
        >>> fast_gradient_perturbation(lambda x: x @ weights.T, torch.zeros(1, 2), label, 0.5)
        tensor([[-0.5000,  0.0000]])
    """
    check_positive(epsilon=epsilon)
    check_choice(Norm, norm=norm)
    slope = _loss_slope(model, x, y, create_graph=False)
    return epsilon * (_per_sample_unit(slope) if norm == "l2" else slope.sign())


def gradient_penalty_loss(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    squared: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return ½ε ‖∇_x l‖² or ε ‖∇_x l‖ of each sample, without the loss l itself.

    The first has the parameters' gradient of a step ε ∇_x l that is held fixed, the second that of
    a step of length ε, both to first order.

    Args:
        model: logits (B, m) of inputs (B, …).
        x: inputs.
        y: labels, (B,).
        epsilon: ε > 0.
        squared: which of the two.
        reduction: "mean", "sum" or "none".

    Returns:
        (B,) or a scalar, differentiable by the parameters.

    Raises:
        TypeError, ValueError: as `fast_gradient_perturbation`; for an unknown reduction.

    Source: Ross and Doshi-Velez, arXiv:1711.09404; kexue.fm/archives/7466.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> model, label = (lambda x: x @ weights.T), torch.tensor([0])
        >>> gradient_penalty_loss(model, torch.zeros(1, 2), label, 0.5, squared=False).detach()
        tensor(0.5000)
    """
    check_positive(epsilon=epsilon)
    check_choice(Reduction, reduction=reduction)
    slope = _loss_slope(model, x, y, create_graph=True).flatten(1)
    each = 0.5 * slope.square().sum(1) if squared else length(slope)
    return reduced(epsilon * each, reduction, x.dtype)


# --- adversaries that do not --------------------------------------------------------------------


def virtual_adversarial_direction(
    model: Model,
    x: Tensor,
    xi: float = 1e-2,
    n_iter: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return for each input a unit direction along which KL(p(x) ‖ p(x + ·)) grows fastest.

    Power iteration: ∇ KL at ξu is nearly ξHu. The result's sign is that of chance.

    Args:
        model: logits (B, m) of inputs (B, …).
        x: inputs.
        xi: length ξ > 0 of the trial step; in float32 not below about 1e-3 of the inputs' size.
        n_iter: iterations; with 0 the direction is random.
        generator: source of the start.

    Returns:
        of the shape of x, detached, of length 1 per sample; the parameters' `.grad` stay as they
        are.

    Raises:
        TypeError: if x is not a floating-point tensor, or n_iter is no integer.
        ValueError: if x is empty or not finite, xi is not positive, n_iter is negative, or the
            logits are not (B, m) with m ≥ 2.

    Source: Miyato et al., arXiv:1704.03976, algorithm 1.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> u = virtual_adversarial_direction(lambda x: x @ weights.T, torch.zeros(1, 2))
        >>> u.abs()
        tensor([[1., 0.]])
    """
    check_positive(xi=xi)
    check_count(0, n_iter=n_iter)
    _check_inputs(x)
    draws = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    u = _per_sample_unit(draws)
    with torch.no_grad():
        base = _checked_logits(model(x.detach())).log_softmax(-1)
    for _ in range(n_iter):
        step = (xi * u).requires_grad_()
        divergence = _divergence(base, model(x.detach() + step)).sum()
        (slope,) = torch.autograd.grad(divergence, step)
        u = torch.where(_sizes(slope) > 0, _per_sample_unit(slope), u)
    return u


def virtual_adversarial_loss(
    model: Model,
    x: Tensor,
    epsilon: float,
    xi: float = 1e-2,
    n_iter: int = 1,
    *,
    generator: torch.Generator | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return KL(p(x) ‖ p(x + εu)) with p(x) held fixed and u the virtual adversarial direction.

    No label is needed.

    Args:
        model: logits (B, m) of inputs (B, …).
        x: inputs.
        epsilon: length ε > 0 of the change.
        xi: as in `virtual_adversarial_direction`.
        n_iter: as in `virtual_adversarial_direction`.
        generator: as in `virtual_adversarial_direction`.
        reduction: "mean", "sum" or "none".

    Returns:
        (B,) or a scalar, differentiable by the parameters.

    Raises:
        TypeError, ValueError: as `virtual_adversarial_direction`; if epsilon is not positive or
            reduction is unknown.

    Source: Miyato et al., arXiv:1704.03976, equation 8.
    """
    check_positive(epsilon=epsilon)
    check_choice(Reduction, reduction=reduction)
    u = virtual_adversarial_direction(model, x, xi, n_iter, generator=generator)
    with torch.no_grad():
        base = model(x).log_softmax(-1)
    return reduced(_divergence(base, model(x + epsilon * u)), reduction, x.dtype)


# --- what they share ---------------------------------------------------------------------------


def _check_inputs(x: Tensor) -> None:
    check_floating(x=x)
    check_finite(x=x)
    if x.ndim < 2 or not x.numel():
        raise ValueError(f"x must have shape (B, …), not empty, got {tuple(x.shape)}")


def _checked_logits(logits: Tensor, least: int = 2) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < least:
        shape = tuple(logits.shape)
        raise ValueError(f"model must return (B, m) with m >= {least}, got {shape}")
    return logits


def _outputs(function: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs, and the inputs by which they can be differentiated."""
    _check_inputs(x)
    x = x.detach().requires_grad_()
    return _checked_logits(function(x), least=1), x


def _log_probabilities(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    logits, x = _outputs(model, x)
    return _checked_logits(logits).log_softmax(-1), x


def _squared_slope(each: Tensor, x: Tensor) -> Tensor:
    """‖∇_x‖² of one number per sample, (B,)."""
    (slope,) = torch.autograd.grad(each.sum(), x, create_graph=True)
    return slope.flatten(1).square().sum(1)


def _loss_slope(model: Model, x: Tensor, y: Tensor, *, create_graph: bool) -> Tensor:
    """∇_x of each sample's own cross entropy."""
    logits, x = _outputs(model, x)
    check_batch(y, logits=logits)
    loss = cross_entropy(logits, y, reduction="sum")
    (slope,) = torch.autograd.grad(loss, x, create_graph=create_graph)
    return slope


def _divergence(base: Tensor, logits: Tensor) -> Tensor:
    """KL of the classes' laws, from log probabilities (B, m) and logits, (B,)."""
    return kl_div(logits.log_softmax(-1), base, log_target=True, reduction="none").sum(-1)


def _sizes(x: Tensor) -> Tensor:
    """The Euclidean length of each sample, in a shape that broadcasts to x."""
    return length(x.flatten(1)).view(-1, *[1] * (x.ndim - 1))


def _per_sample_unit(x: Tensor) -> Tensor:
    """Samples of length 1; 0 stays 0."""
    largest = x.flatten(1).abs().amax(1).view(-1, *[1] * (x.ndim - 1))
    x = x / torch.where(largest > 0, largest, 1)
    return x / _sizes(x).clamp_min(torch.finfo(x.dtype).tiny)
