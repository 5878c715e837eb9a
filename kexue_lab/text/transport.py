"""Optimal transport between discrete masses: exact, and Sinkhorn's with an entropy.

    W_D(p, q) = min ⟨γ, D⟩ over γ ≥ 0 with γ1 = p and γᵀ1 = q,

found by the network simplex of POT (Flamary et al., "POT: Python Optimal Transport", JMLR 2021), in
float64 whatever the input's dtype. Inputs are tensors or anything that `torch.as_tensor` takes, all
of one dtype and on one device.
"""

import math
import warnings
from typing import Literal, overload

import numpy as np
import ot
import torch
from numpy.typing import NDArray

# `ot.emd2` spends two thirds of its time around this call when masses are ten to thirty.
from ot.lp.emd_wrap import emd_c
from torch import Tensor

from kexue_lab.precision import narrowed
from kexue_lab.validation import (
    TensorLike,
    as_floating,
    as_masses,
    check_count,
    check_positive,
    check_same_place,
)

_MASS_TOLERANCE = 1e-6
_MAX_PIVOTS = 10**7
_OPTIMAL = 1
# Costs up to so many times the distance leave it its digits in the solver.
_CAPPED = 2.0**20
# A sum of row errors that makes a plan of Sinkhorn's none.
_NO_PLAN = 0.01
# The rounding error of a row of Sinkhorn's plan beyond which it is refused.
_LARGEST_ROUNDING = 1e-6


@overload
def emd(
    p: TensorLike, q: TensorLike, cost: TensorLike, *, return_plan: Literal[False] = False
) -> Tensor: ...


@overload
def emd(
    p: TensorLike, q: TensorLike, cost: TensorLike, *, return_plan: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def emd(
    p: TensorLike, q: TensorLike, cost: TensorLike, *, return_plan: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the earth mover's distance min ⟨γ, D⟩ between two discrete distributions, exactly.

    Differentiable: the gradient is the optimal plan with respect to `cost` and the dual potentials,
    up to a constant, with respect to `p` and `q` (a subgradient where these are not unique).

    Args:
        p: source masses, shape (m,), non-negative, summing to 1 within 1e-6.
        q: target masses, shape (n,), likewise.
        cost: cost D_ij of moving a unit of mass from i to j, shape (m, n), of any sign.
        return_plan: whether to return the optimal plan too.

    Returns:
        The distance, a scalar, or (distance, plan of shape (m, n)), of the dtype of `cost`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes, dtypes or devices disagree, an entry is not finite, or `p` or `q` is
            not a distribution.

    Source: Rubner, Tomasi and Guibas, "The Earth Mover's Distance as a Metric for Image Retrieval",
    IJCV 2000.

    Example:
        >>> half = [0.5, 0.5]
        >>> emd(half, half, [[0.0, 3.0], [3.0, 1.0]])
        tensor(0.5000)
    """
    p, q, cost = _checked_problem(p, q, cost)
    for name, tensor, ndim in (("p", p, 1), ("q", q, 1), ("cost", cost, 2)):
        if tensor.ndim != ndim:
            raise ValueError(f"{name} must have {ndim} axes, got shape {tuple(tensor.shape)}")
    exact = cost.double()
    # POT 0.9.7 takes a problem with negative costs for infeasible.
    lowest = min(exact.min().item(), 0.0)
    raised = exact - lowest
    if not bool(raised.isfinite().all()):
        raise ValueError(f"cost must span a range within float64, got from {lowest:g} up")
    cap = _useful_cost(p.detach().double(), q.detach().double(), raised.detach())
    raised = raised.clamp(max=cap)
    unit = solver_unit(raised)
    value, log = ot.emd2(
        p.double(), q.double(), raised / unit, numItermax=_MAX_PIVOTS, return_matrix=True
    )
    value = narrowed(value * unit + lowest * p.double().sum(), cost.dtype, "the distance")
    return (value, log["G"].to(cost.dtype)) if return_plan else value


@overload
def sinkhorn_distance(
    p: TensorLike,
    q: TensorLike,
    cost: TensorLike,
    epsilon: float,
    *,
    max_iter: int = 1000,
    tol: float = 1e-9,
    return_plan: Literal[False] = False,
) -> Tensor: ...


@overload
def sinkhorn_distance(
    p: TensorLike,
    q: TensorLike,
    cost: TensorLike,
    epsilon: float,
    *,
    max_iter: int = 1000,
    tol: float = 1e-9,
    return_plan: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def sinkhorn_distance(
    p: TensorLike,
    q: TensorLike,
    cost: TensorLike,
    epsilon: float,
    *,
    max_iter: int = 1000,
    tol: float = 1e-9,
    return_plan: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the transport cost ⟨γ, D⟩ of the plan with entropic regularisation, in log domain.

    γ minimises ⟨γ, D⟩ + ε Σ γ (log γ - 1) and is γ_ij = exp((f_i + g_j - D_ij)/ε). Its cost, from
    which the entropy is left out, exceeds the exact distance by at most ε min(H(p), H(q)). It is
    not 0 for equal distributions. Differentiable by unrolling the iterations.

    A `RuntimeWarning` tells that `max_iter` iterations did not bring the row sums of every plan
    within `tol` of `p`; the cost of such an infeasible plan can be below the exact distance. One
    whose row errors sum to more than 1 % is no plan: it is mended to a near one that has the masses
    p and q, the cost of which is at least the exact distance.

    Args:
        p: source masses, shape (..., m), each summing to 1 within 1e-6. A word of mass 0 is
            padding: its costs have no effect.
        q: target masses, shape (..., n), likewise.
        cost: costs, shape (..., m, n); leading axes broadcast.
        epsilon: strength ε of the regularisation, in the units of `cost`.
        max_iter: largest number of iterations.
        tol: largest sum of the row errors |Σ_j γ_ij - p_i| at which to stop, or what rounding
            in float64 allows if that is larger.
        return_plan: whether to return the plans too.

    Returns:
        The costs, shape (...), or (costs, plans of shape (..., m, n)), of the dtype of `cost`.

    Raises:
        TypeError: if a tensor is not floating point, or `max_iter` is not an integer.
        ValueError: if shapes, dtypes or devices disagree, an entry is not finite, `p` or `q` is not
            a distribution, `epsilon` or `tol` is not positive and finite, `max_iter` < 1, or
            `epsilon` is so small beside the costs that rounding would decide the plan.

    Source: Cuturi, Sinkhorn Distances, NeurIPS 2013, arXiv:1306.0895.

    Example:
        >>> half = [0.5, 0.5]
        >>> sinkhorn_distance(half, half, [[0.0, 1.0], [1.0, 0.0]], epsilon=0.1)
        tensor(4.5398e-05)
    """
    p, q, cost = _checked_problem(p, q, cost)
    check_positive(epsilon=epsilon, tol=tol)
    check_count(max_iter=max_iter)
    dtype = cost.dtype
    p, q, cost = p.double(), q.double(), cost.double()
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    log_p, log_q, kernel = _log(p), _log(q), -cost / epsilon
    if not bool(kernel.isfinite().all()):
        raise ValueError(f"epsilon must be larger beside the costs, got {epsilon}")
    a = log_p - torch.logsumexp(kernel + log_q[..., None, :], -1)
    for _ in range(max_iter):
        b = log_q - torch.logsumexp(kernel + a[..., None], -2)
        # Columns now sum to q, and row i to p_i exp(a_i - next_a_i).
        next_a = log_p - torch.logsumexp(kernel + b[..., None, :], -1)
        ratio = torch.where(p > 0, a - next_a, 0).detach().expm1()
        error = (p.detach() * ratio.abs()).sum(-1).max().item()
        rounding = _rounding(next_a, b)
        if error <= max(tol, rounding):
            break
        a = next_a
    if not rounding <= _LARGEST_ROUNDING:
        raise ValueError(
            f"epsilon must be larger beside the costs, got {epsilon}: plans would be noise"
        )
    if not error <= max(tol, rounding):
        warnings.warn(
            f"sinkhorn_distance stopped after {max_iter} iterations with a row error of {error:.1e}"
            f" > {tol:.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    # After a break `a` is still the potential of which the error is known.
    plan = (kernel + a[..., None] + b[..., None, :]).exp()
    if error > _NO_PLAN:
        plan = _feasible(plan, p, q)
    value = narrowed((plan * cost).sum((-2, -1)), dtype, "the cost")
    return (value, plan.to(dtype)) if return_plan else value


def solver_unit(cost: Tensor) -> float:
    """Return the power of 2 in which costs are of the order of 1; 1 where they nearly are.

    The solver stops at an absolute tolerance of about 1e-14.
    """
    largest = cost.max().item()
    return (
        1.0
        if largest == 0 or 1 <= largest < 2**20
        else math.ldexp(1, min(math.frexp(largest)[1], 1023))
    )


def _useful_cost(p: Tensor, q: Tensor, cost: Tensor) -> float:
    """A bound of the costs that an optimal plan uses; larger ones may be lowered to it.

    A plan exists whose costs are at most b. Against it an optimal plan differs by cycles, each of
    which would replace one entry by at most min(m, n) of cost b: no entry above min(m, n) b is
    used. Costs far above would drown the others in the rounding of the solver's potentials.
    """
    cap = cost.max().item()
    while True:
        capped = cost.clamp(max=cap)
        unit = solver_unit(capped)
        plan, value = _plan(p, q, capped / unit)
        if cap <= _CAPPED * value * unit:
            return cap
        used = cost[torch.from_numpy(plan) > 0].max().item()
        lower = 2 * min(cost.shape) * used
        if not lower < cap / 2:
            return cap
        cap = lower


def _plan(p: Tensor, q: Tensor, cost: Tensor) -> tuple[NDArray[np.float64], float]:
    """Solve one problem on the CPU in float64, without gradient."""
    arrays = (array.cpu().contiguous().numpy() for array in (p, q * (p.sum() / q.sum()), cost))
    plan, value, _, _, code = emd_c(*arrays, _MAX_PIVOTS, 1)
    if code != _OPTIMAL:
        raise RuntimeError(f"the transport solver failed with code {code} on shape {cost.shape}")
    return plan, float(value)


def least_cost(p: Tensor, q: Tensor, cost: Tensor) -> float:
    """Return the least cost of one problem with positive masses, for callers with many of them.

    Nothing is checked: tensors are on the CPU in float64, costs in [0, 1] of their `solver_unit`.
    """
    _, value, _, _, code = emd_c(p.numpy(), q.numpy(), cost.numpy(), _MAX_PIVOTS, 1)
    if code != _OPTIMAL:
        raise RuntimeError(f"the transport solver failed with code {code} on shape {cost.shape}")
    largest = cost.max().item()
    if largest <= _CAPPED * value:
        return float(value)
    cap = _useful_cost(p, q, cost)
    if cap == largest:
        return float(value)
    capped = cost.clamp(max=cap)
    unit = solver_unit(capped)
    return _plan(p, q, capped / unit)[1] * unit


def _feasible(plan: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """A plan of masses p and q near one that has others.

    Source: Altschuler, Weed, Rigollet, arXiv:1705.09634, algorithm 2.
    """
    plan = plan * (p / plan.sum(-1).clamp_min(1e-300)).clamp(max=1)[..., None]
    plan = plan * (q / plan.sum(-2).clamp_min(1e-300)).clamp(max=1)[..., None, :]
    rows, columns = (p - plan.sum(-1)).clamp_min(0), (q - plan.sum(-2)).clamp_min(0)
    missing = rows.sum(-1)[..., None, None].clamp_min(1e-300)
    return plan + rows[..., None] * columns[..., None, :] / missing


def _rounding(a: Tensor, b: Tensor) -> float:
    """How far rounding of the potentials may move a row sum, relative to it."""
    largest = max(potential[potential.isfinite()].abs().max().item() for potential in (a, b))
    return 4 * torch.finfo(a.dtype).eps * (1 + largest)


def _log(p: Tensor) -> Tensor:
    """The logarithm with log 0 = -∞ and gradient 0 there."""
    return torch.where(p > 0, p, 1).log().masked_fill(p <= 0, -math.inf)


def _checked_problem(
    p: TensorLike, q: TensorLike, cost: TensorLike
) -> tuple[Tensor, Tensor, Tensor]:
    cost = as_floating("cost", cost)
    p, q = as_masses("p", p, cost), as_masses("q", q, cost)
    for name, masses in (("p", p), ("q", q)):
        check_same_place(name, masses, "cost", cost)
        if masses.ndim < 1 or masses.numel() == 0:
            raise ValueError(f"{name} must have shape (..., m), m >= 1, got {tuple(masses.shape)}")
        if bool((masses < 0).any()):
            raise ValueError(f"{name} must be non-negative, got {masses.min().item():g}")
        sums = masses.double().sum(-1)
        if bool(((sums - 1).abs() > _MASS_TOLERANCE).any()):
            worst = sums.flatten()[(sums - 1).abs().argmax()].item()
            raise ValueError(f"{name} must sum to 1 within {_MASS_TOLERANCE:g}, got sum {worst:g}")
    if cost.ndim < 2 or cost.shape[-2:] != (p.shape[-1], q.shape[-1]):
        raise ValueError(
            f"cost must have shape (..., {p.shape[-1]}, {q.shape[-1]}), got {tuple(cost.shape)}"
        )
    try:
        np.broadcast_shapes(p.shape[:-1], q.shape[:-1], cost.shape[:-2])
    except ValueError as error:
        raise ValueError(
            f"p, q and cost must have leading axes that broadcast, got {tuple(p.shape)},"
            f" {tuple(q.shape)} and {tuple(cost.shape)}"
        ) from error
    return p, q, cost
