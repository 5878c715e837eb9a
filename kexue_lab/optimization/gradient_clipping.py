"""Gradient clipping as the step size that (L0, L1)-smooth functions ask for.

A function is (L0, L1)-smooth if |∇²f(θ)| ≤ L0 + L1 |∇f(θ)|, with the operator norm on the left and
the Euclidean norm over all parameters jointly on the right. L1 = 0 is ordinary L-smoothness. Where
the gradient G = |∇f| is large the curvature may be large too, so the step length that provably
decreases f stays bounded as G grows: that is clipping. The direction is that of the gradient;
clipping each coordinate by itself is another method.

References:
    J. Zhang, T. He, S. Sra, A. Jadbabaie, "Why Gradient Clipping Accelerates Training: A
    Theoretical Justification for Adaptivity", ICLR 2020, arXiv:1905.11881.
    D. Vankov, A. Rodomanov, A. Nedich, L. Sankar, S. Stich, "Optimizing (L0, L1)-Smooth Functions
    by Gradient Methods", 2024, arXiv:2410.10800.
    J. Su, "为什么梯度裁剪能加速训练过程?一个简明的分析", 2020, https://kexue.fm/archives/7469.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeVar

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from kexue_lab.precision import holds, length, narrowed, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_non_negative,
    check_positive,
)

Kind = Literal["hard", "soft"]
Number = TypeVar("Number", float, Fraction, sp.Expr)

# Taylor coefficients of (e^r - 1 - r) / r², enough for the last digit of float64 at r = 1.
_TAYLOR = [1 / math.factorial(n + 2) for n in range(18)]


@dataclass(frozen=True, eq=False)
class GDResult:
    """What a run of gradient descent left behind.

    Attributes:
        theta: The last point, of the shape of `theta0`.
        steps: Number n of updates made.
        grad_norms: Gradient norms at the points visited, first and last included, shape (n + 1,).
        converged: Whether the last of them is at most the tolerance.
        diverged: Whether the last of them is infinite or nan.
    """

    theta: Tensor
    steps: int
    grad_norms: Tensor
    converged: bool
    diverged: bool


def clip_factor(norm: Tensor, gamma: float, kind: Kind = "hard") -> Tensor:
    """Return the factor by which clipping at γ shortens a gradient of the given norm.

    "hard" is min(1, γ/G), "soft" is γ/(G + γ). The soft factor lies between half the hard one and
    the hard one, and is the half at G = γ only. An infinite norm gives 0, nan gives nan.

    Args:
        norm: Gradient norms G ≥ 0, any shape.
        gamma: Threshold γ, in the units of the norm, positive and finite.
        kind: "hard" or "soft".

    Returns:
        Factors in [0, 1], of the shape of `norm`; 1 where the norm is 0.

    Raises:
        TypeError: If `norm` is not a floating-point tensor, or `gamma` not a real number.
        ValueError: If a norm is negative, `gamma` not positive and finite, or `kind` unknown.

    Source: R. Pascanu, T. Mikolov, Y. Bengio, arXiv:1211.5063, algorithm 1 ("hard"); Zhang et al.,
    arXiv:1905.11881 (both).

    Example:
        >>> clip_factor(torch.tensor([0.5, 4.0]), 1.0)
        tensor([1.0000, 0.2500])
        >>> clip_factor(torch.tensor([0.5, 4.0]), 1.0, "soft")
        tensor([0.6667, 0.2000])
    """
    _check_nonnegative(norm, "norm")
    _check_clipping(gamma, kind)
    return _clip_factor(norm.double(), gamma, kind).to(norm.dtype)


def optimal_step_length(grad_norm: Tensor, L0: float, L1: float) -> Tensor:
    """Return the step length s* that minimises `descent_upper_bound`.

    s* = ln((L0 + 2 L1 G) / (L0 + L1 G)) / L1, or G/L0 for L1 = 0. It grows with G, stays below
    ln 2 / L1, and is shorter than the soft-clipped length G / (L0 + L1 G) for L1 > 0. A length, not
    a learning rate: the step is -s* ∇f/G. At G = 0 it is 0, also for L0 = 0, where every length is
    optimal.

    Args:
        grad_norm: Gradient norms G ≥ 0, finite, any shape.
        L0: Curvature allowed where the gradient vanishes, at least 0.
        L1: Growth of the allowed curvature with the gradient norm, at least 0; not both 0.

    Returns:
        Lengths in the units of the parameters, of the shape of `grad_norm`.

    Raises:
        TypeError: If `grad_norm` is not a floating-point tensor, or `L0` or `L1` not a real number.
        ValueError: If a norm is negative, `L0` or `L1` is negative or not finite, or both are 0.

    Source: Vankov et al., arXiv:2410.10800.

    Example:
        >>> optimal_step_length(torch.tensor([0.1, 10.0]), 1.0, 1.0)
        tensor([0.0870, 0.6466])
    """
    _check_nonnegative(grad_norm, "grad_norm")
    check_non_negative(L0=L0)
    check_non_negative(L1=L1)
    if L0 == L1 == 0:
        raise ValueError("L0 and L1 must not both be 0: the bound then has no minimum")
    check_finite(grad_norm=grad_norm)
    wide = grad_norm.double()
    if L1 == 0:
        return narrowed(wide / L0, grad_norm.dtype, "the length")
    # Divided by G: the curvature L0 + L1 G may leave the dtype where its ratio to G does not.
    soft_clipped = torch.where(wide > 0, 1 / (L0 / wide.clamp_min(1e-300) + L1), 0)
    turn = L1 * soft_clipped
    steps = soft_clipped * torch.where(turn > 0, torch.log1p(turn) / turn.clamp_min(1e-300), 1)
    return narrowed(steps, grad_norm.dtype, "the length")


def descent_upper_bound(grad_norm: Tensor, step_length: Tensor, L0: float, L1: float) -> Tensor:
    """Return an upper bound on the change of an (L0, L1)-smooth f by a gradient step of length s.

    f(θ - s ∇f/G) - f(θ) ≤ -G s + (L0 + L1 G) s² (e^r - 1 - r)/r² with r = L1 s. The last factor
    tends to ½ as r → 0, the classic descent lemma; with ½ in its place for all r the bound would be
    false, as small G and long steps show. It is evaluated without cancellation for small r.

    The inequality of which this is a case, for steps in any direction, is attained uphill; downhill
    it is not, so a positive bound does not mean that some f rises.

    Args:
        grad_norm: Gradient norms G ≥ 0, finite, any shape.
        step_length: Lengths s ≥ 0 of the steps, of a shape that broadcasts with it.
        L0: Curvature allowed where the gradient vanishes, at least 0.
        L1: Growth of the allowed curvature with the gradient norm, at least 0.

    Returns:
        The bound, of the broadcast shape; infinite where it is beyond the dtype.

    Raises:
        TypeError: If a tensor is not a floating-point one, or `L0` or `L1` not a real number.
        ValueError: If a norm or length is negative, the shapes do not broadcast, or `L0` or `L1` is
            negative or not finite.

    Source: Grönwall's inequality along the step; Vankov et al., arXiv:2410.10800.
    """
    _check_nonnegative(grad_norm, "grad_norm")
    _check_nonnegative(step_length, "step_length")
    try:
        np.broadcast_shapes(grad_norm.shape, step_length.shape)
    except ValueError:
        shapes = f"{tuple(step_length.shape)} and {tuple(grad_norm.shape)}"
        raise ValueError(f"step_length must broadcast with grad_norm, got {shapes}") from None
    check_non_negative(L0=L0)
    check_non_negative(L1=L1)
    check_finite(grad_norm=grad_norm)
    check_finite(step_length=step_length)
    norm, step = grad_norm.double(), step_length.double()
    growth = _exponential_remainder(L1 * step)
    curvature = L0 + L1 * norm
    # 0 times an infinite growth is 0.
    bend = torch.where((curvature > 0) & (step > 0), curvature * step**2 * growth, 0)
    return (-norm * step + bend).to(torch.promote_types(grad_norm.dtype, step_length.dtype))


def power_function_l0(k: int, L1: Number) -> Number:
    """Return the least L0 for which θ^(2k) is (L0, L1)-smooth: 2k (2(k-1)/L1)^(2k-2).

    It is the maximum of f'' - L1 |f'|, attained at |θ| = 2(k-1)/L1. No power function of this kind
    is L-smooth: the result grows without bound as L1 → 0.

    Args:
        k: Half the exponent, at least 2.
        L1: Growth of the allowed curvature with the gradient norm, positive and finite. A sympy
            expression or a `Fraction` gives an exact result of its kind.

    Returns:
        L0, a number of the kind of `L1` (a float for an int).

    Raises:
        TypeError: If `k` is not an int, or `L1` neither a real number nor a sympy expression.
        ValueError: If `k` < 2, or `L1` is not positive and finite.

    Source: the condition of Zhang et al., arXiv:1905.11881, definition 1.

    Example:
        >>> power_function_l0(2, Fraction(1))
        Fraction(16, 1)
    """
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if k < 2:
        raise ValueError(f"k must be at least 2, got {k}")
    if isinstance(L1, sp.Expr):
        # A symbol may leave its sign open, a number may not.
        if L1.is_positive is False or (L1.is_number and not L1.is_positive):
            raise ValueError(f"L1 must be positive and finite, got {L1}")
    else:
        check_positive(L1=L1)
    try:
        return 2 * k * (2 * (k - 1) / L1) ** (2 * k - 2)
    except OverflowError:
        raise ValueError(f"k and L1 must leave L0 finite, got {k} and {L1}") from None


def clipped_gradient_descent(
    grad_fn: Callable[[Tensor], Tensor],
    theta0: Tensor,
    lr: float,
    gamma: float | None = None,
    kind: Kind = "hard",
    tol: float = 0.0,
    max_steps: int = 1000,
) -> GDResult:
    """Return the iterates of θ ← θ - lr c(G) ∇f(θ), with c of `clip_factor`.

    Soft clipping with lr = 1/L0 and γ = L0/L1 is the update by ∇f / (L0 + L1 G), which decreases
    every (L0, L1)-smooth f by at least (3 - e) G² / (L0 + L1 G). For hard clipping
    `descent_upper_bound` is negative at half that learning rate, but not always at the full one.

    Args:
        grad_fn: The gradient ∇f; maps a tensor like `theta0` to one of its shape and dtype.
        theta0: Starting point, any shape; it is not changed.
        lr: Learning rate, positive and finite.
        gamma: Threshold γ, positive and finite; None is plain gradient descent.
        kind: "hard" or "soft".
        tol: Stop as soon as G ≤ `tol`; finite, at least 0.
        max_steps: Largest number of updates, at least 0.

    Returns:
        The last point, and the gradient norms on the way. Stops early, as diverged, where the
        gradient norm is infinite or nan.

    Raises:
        TypeError: If `grad_fn` is not callable or returns no tensor, `theta0` is not a
            floating-point tensor, `lr`, `gamma` or `tol` not a real number, or `max_steps` not an
            int.
        ValueError: If `lr` or `gamma` is not positive and finite, `kind` is unknown, `tol` negative
            or not finite, `max_steps` negative, or a gradient has another shape or dtype than
            `theta0`.

    Source: Zhang et al., arXiv:1905.11881.

    Example:
        >>> slope = lambda theta: 4 * theta**3
        >>> start = torch.tensor([10.0])
        >>> clipped_gradient_descent(slope, start, 1 / 16, gamma=16.0, tol=0.01).steps
        113
    """
    if not callable(grad_fn):
        raise TypeError(f"grad_fn must be callable, got {type(grad_fn).__name__}")
    check_floating(theta0=theta0)
    check_positive(lr=lr)
    _check_clipping(1.0 if gamma is None else gamma, kind)
    check_non_negative(tol=tol)
    check_count(0, max_steps=max_steps)
    theta = theta0.detach().clone()
    norms: list[float] = []
    while True:
        gradient = _checked_gradient(grad_fn, theta)
        # A gradient function may have asked for derivatives by its argument.
        theta = theta.detach()
        norm = length(widened(gradient).reshape(-1)) if gradient.numel() else gradient.sum()
        norms.append(norm.item())
        if not tol < norms[-1] < math.inf or len(norms) > max_steps:
            break
        factor = 1.0 if gamma is None else _clip_factor(norm, gamma, kind)
        theta = (theta - lr * factor * gradient).to(theta0.dtype)
    return GDResult(
        theta=theta,
        steps=len(norms) - 1,
        grad_norms=widened(theta).new_tensor(norms),
        converged=norms[-1] <= tol,
        diverged=not math.isfinite(norms[-1]),
    )


def hessian_spectral_norm(
    loss: Tensor,
    params: Iterable[Tensor],
    n_iter: int = 20,
    generator: torch.Generator | None = None,
) -> float:
    """Return the largest |eigenvalue| of the Hessian of a loss, by power iteration.

    v ← Hv/|Hv| from a random start, with Hessian-vector products by double backpropagation. The
    result is |Hv| for the last v of unit length: it never exceeds the true value, grows with
    `n_iter`, and unlike v·Hv also converges where λ and -λ are both extreme. Its relative error
    falls as (|λ2|/|λ1|)^(2 `n_iter`), |λ1| > |λ2| being the two largest distinct magnitudes. The
    graph of `loss` is kept.

    Args:
        loss: A scalar, twice differentiable by `params`.
        params: The tensors by which to differentiate, all on one device; read once.
        n_iter: Number of Hessian-vector products, at least 1.
        generator: Source of the random start, on any device; torch's global one if None.

    Returns:
        The estimate, in units of the loss per squared unit of the parameters; 0.0 for a loss that
        is linear in them.

    Raises:
        TypeError: If `loss` or one of `params` is not a floating-point tensor, or `n_iter` is not
            an int.
        ValueError: If `loss` is not a scalar or has no graph, `params` is empty or holds a tensor
            that does not require a gradient, or `n_iter` < 1.

    Source: B. Pearlmutter, "Fast Exact Multiplication by the Hessian", 1994.
    """
    tensors = list(params)
    _check_differentiable(loss, tensors)
    check_count(1, n_iter=n_iter)
    gradient = _flat(torch.autograd.grad(loss, tensors, create_graph=True, materialize_grads=True))
    if not gradient.requires_grad:
        return 0.0
    where = gradient.device if generator is None else generator.device
    v = torch.randn(len(gradient), generator=generator, device=where, dtype=gradient.dtype)
    v = v.to(gradient.device)
    for _ in range(n_iter):
        v = v / length(v)
        v = _flat(
            torch.autograd.grad(gradient, tensors, v, retain_graph=True, materialize_grads=True)
        )
        if not v.any():
            return 0.0
    return float(length(widened(v)))


def _clip_factor(norm: Tensor, gamma: float, kind: Kind) -> Tensor:
    ratio = norm / gamma
    return 1 / ratio.clamp(min=1) if kind == "hard" else 1 / (1 + ratio)


def _exponential_remainder(r: Tensor) -> Tensor:
    """(e^r - 1 - r) / r² for r ≥ 0; each branch is held finite where the other one counts."""
    small, large = r.clamp(max=1), r.clamp(min=1)
    series = torch.zeros_like(r)
    for coefficient in reversed(_TAYLOR):
        series = series * small + coefficient
    return torch.where(r < 1, series, (torch.expm1(large) - large) / large**2)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _checked_gradient(grad_fn: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    gradient = grad_fn(theta)
    if not isinstance(gradient, Tensor):
        raise TypeError(f"grad_fn must return a tensor, got {type(gradient).__name__}")
    if gradient.shape != theta.shape or gradient.dtype != theta.dtype:
        found = f"{gradient.dtype} {tuple(gradient.shape)}"
        wanted = f"{theta.dtype} {tuple(theta.shape)}"
        raise ValueError(f"grad_fn must keep shape and dtype, got {found} for {wanted}")
    return gradient.detach()


def _check_nonnegative(tensor: Tensor, name: str) -> None:
    check_floating(**{name: tensor})
    if not holds(~(tensor < 0)):
        raise ValueError(f"{name} must not be negative, got {tensor.min().item()}")


def _check_clipping(gamma: float, kind: str) -> None:
    check_positive(gamma=gamma)
    check_choice(Kind, kind=kind)


def _check_differentiable(loss: Tensor, params: list[Tensor]) -> None:
    check_floating(loss=loss)
    if loss.numel() != 1 or not loss.requires_grad:
        what = f"shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
        raise ValueError(f"loss must be a scalar that requires a gradient, got {what}")
    if not params:
        raise ValueError("params must hold at least one tensor, got none")
    for i, tensor in enumerate(params):
        check_floating(**{f"params[{i}]": tensor})
        if not tensor.requires_grad:
            shape = tuple(tensor.shape)
            raise ValueError(f"params[{i}] must require a gradient, got shape {shape} without")
