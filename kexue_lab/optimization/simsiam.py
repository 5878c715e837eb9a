"""Why SimSiam does not collapse: three scalar flows, a linear model, the loss, and how to see it.

A predictor φ follows an encoder θ, both numbers: l = ½(φθ − θ)². The gradient of l by θ has two
parts, through the prediction φθ and through the target θ; stopping the gradient keeps the first.

- "stop_gradient": φ' = (1 − φ)θ²,  θ' = (1 − φ)φθ;    θ² − φ² stays what it is.
- "full":          φ' = (1 − φ)θ²,  θ' = −(1 − φ)²θ;   (φ − 1)² − θ² stays.
- "target_only":   φ' = (1 − φ)θ²,  θ' = −(1 − φ)θ;    θ² + 2φ stays.

Source: Chen and He, arXiv:2011.10566; Tian, Chen, Ganguli, arXiv:2102.06810;
kexue.fm/archives/7980.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from kexue_lab.losses.batch import Reduction, reduced
from kexue_lab.precision import length, widened
from kexue_lab.validation import (
    check_choice,
    check_floating,
    check_non_negative,
    check_points,
    check_positive,
)

Flow = Literal["stop_gradient", "full", "target_only"]
Array = NDArray[np.float64]


# --- two numbers -------------------------------------------------------------------------------


def toy_limit(phi0: float, theta0: float, mode: Flow = "stop_gradient") -> tuple[float, float]:
    """Return where φ and θ come to rest, in closed form.

    θ keeps its sign, and 0 means that the encoder has collapsed.

    Args:
        phi0: predictor at the start.
        theta0: encoder at the start; from 0 nothing moves.
        mode: which gradient of θ drives it; see the module.

    Raises:
        ValueError: if a start is not finite, or mode is unknown.
        TypeError: if a start is no real number.

    Source: the conserved quantities of the module; kexue.fm/archives/7980.

    Example:
        >>> phi, theta = toy_limit(0.6, 0.1)
        >>> round(phi, 4), round(theta, 4)
        (1.0, 0.8062)
    """
    _check_start(phi0=phi0, theta0=theta0)
    check_choice(Flow, mode=mode)
    if theta0 == 0 or phi0 == 1:
        return float(phi0), float(theta0)
    limit = {"stop_gradient": _stopped, "full": _full, "target_only": _target_only}[mode]
    phi, theta = limit(float(phi0), abs(float(theta0)))
    return phi, math.copysign(theta, theta0)


def _check_start(**numbers: object) -> None:
    for name, value in numbers.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
        if not math.isfinite(float(value)):
            raise ValueError(f"{name} must be finite, got {value}")


def _root_of_difference(a: float, b: float) -> float:
    """√(a² − b²) for a ≥ b ≥ 0, also where the squares would overflow."""
    return math.sqrt(a - b) * math.sqrt(a + b)


def _stopped(phi: float, theta: float) -> tuple[float, float]:
    size = abs(phi)
    if theta > size:  # θ² − φ² > 0: θ cannot reach 0
        return 1.0, math.hypot(1, _root_of_difference(theta, size))
    border = _root_of_difference(size, theta)  # where θ would be 0: |φ| = border
    if phi <= 0:
        return -border, 0.0
    if phi > 1 and border >= 1:
        return border, 0.0
    return 1.0, math.sqrt((1 - border) * (1 + border))


def _full(phi: float, theta: float) -> tuple[float, float]:
    miss = abs(phi - 1)
    if theta <= miss:
        return 1 + math.copysign(_root_of_difference(miss, theta), phi - 1), 0.0
    return 1.0, _root_of_difference(theta, miss)


def _target_only(phi: float, theta: float) -> tuple[float, float]:
    root = math.sqrt(2) * math.sqrt(abs(phi - 1))
    if phi > 1:
        return 1.0, math.hypot(theta, root)
    if theta > root:
        return 1.0, _root_of_difference(theta, root)
    return 1 - 0.5 * (root - theta) * (root + theta), 0.0


def toy_flow(phi0: float, theta0: float, mode: Flow, t: Sequence[float] | Array) -> Array:
    """Integrate the flow numerically.

    Args:
        phi0: predictor at time 0.
        theta0: encoder at time 0.
        mode: which gradient of θ drives it; see the module.
        t: times, (n,), increasing from 0 or later.

    Returns:
        φ and θ at the times, (2, n).

    Raises:
        ValueError: if a start is not finite, mode is unknown, times do not increase from 0 or
            later, or the solver fails.
    """
    _check_start(phi0=phi0, theta0=theta0)
    check_choice(Flow, mode=mode)
    times = np.asarray(t, dtype=float)
    if times.ndim != 1 or not len(times) or not (np.diff(times, prepend=-0.0) >= 0).all():
        raise ValueError(f"t must be increasing times from 0 or later, got {t}")

    def slope(_: float, state: Array) -> list[float]:
        phi, theta = state
        push = {"stop_gradient": phi, "full": phi - 1, "target_only": -1.0}[mode]
        return [(1 - phi) * theta**2, (1 - phi) * push * theta]

    return _integrated(slope, np.array([phi0, theta0], dtype=float), times)


def _integrated(slope: Callable[[float, Array], Any], start: Array, times: Array) -> Array:
    """States at the times, (len(start), len(times))."""
    if times[-1] == 0:
        return np.repeat(start[:, None], len(times), 1)
    options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-12}
    found = solve_ivp(slope, (0.0, float(times[-1])), start, t_eval=times, **options)
    if not found.success:
        raise ValueError(f"the flow is lost before its last time: {found.message}")
    states: Array = found.y
    return states


# --- one mode and the matrices of the linear model ----------------------------------------------


def mode_fixed_points(sigma2: float, eta: float) -> tuple[float, ...]:
    """Return where one mode of the linear model rests: p (p (1 − (1 + σ²) p) − η) = 0, p ≥ 0.

    With three of them the middle one is the border: below it the mode dies, above it grows to the
    last. Beyond η = 1/(4 (1 + σ²)) only 0 is left.

    Args:
        sigma2: variance σ² that the augmentation adds, ≥ 0.
        eta: weight decay η ≥ 0.

    Returns:
        the fixed points, ascending; equal ones once.

    Raises:
        ValueError: if an argument is negative or not finite.

    Source: Tian, Chen, Ganguli, arXiv:2102.06810, section 3.

    Example:
        >>> [round(p, 4) for p in mode_fixed_points(0.2, 0.05)]
        [0.0, 0.0534, 0.7799]
    """
    check_non_negative(sigma2=sigma2, eta=eta)
    spread = 1 + sigma2
    rest = 1 - 4 * eta * spread
    if rest < 0 or eta > 0.25:  # the product may have overflowed
        return (0.0,)
    top = (1 + math.sqrt(rest)) / (2 * spread)
    return tuple(sorted({0.0, eta / spread / top, top}))


class LinearNetworks(NamedTuple):
    """Encoder and predictor of the linear model.

    Attributes:
        encoder: W, (k, d).
        predictor: W_p, (k, k).
    """

    encoder: Tensor
    predictor: Tensor


def linear_flow(
    W0: Tensor,
    Wp0: Tensor,
    X: Tensor,
    X_aug: Tensor,
    eta: float,
    t_end: float,
    *,
    stop_gradient: bool = True,
    predictor_lr: float = 1.0,
) -> LinearNetworks:
    """Integrate the gradient flow of SimSiam with f = Wx and h = W_p f under the squared loss.

    With E = W_p W (X + X') − W X, W_p' = −α E Wᵀ − η W_p and, with the gradient stopped,
    W' = −W_pᵀ E − η W. Then W Wᵀ − W_pᵀ W_p/α falls as e^{−2ηt}.

    Args:
        W0: encoder at the start, (k, d), float64.
        Wp0: predictor at the start, (k, k), float64.
        X: second moment of the mean view, (d, d), symmetric.
        X_aug: mean covariance X' of a sample's views, (d, d), symmetric.
        eta: weight decay ≥ 0.
        t_end: time ≥ 0.
        stop_gradient: whether the target is held fixed; otherwise W' is the full gradient.
        predictor_lr: α > 0, how much faster the predictor learns.

    Raises:
        TypeError: if a matrix is not float64.
        ValueError: if shapes disagree, an entry is not finite, X or X_aug is not symmetric, or a
            number is out of range.

    Source: Tian, Chen, Ganguli, arXiv:2102.06810, theorem 1.
    """
    _check_matrices(W0, Wp0, X, X_aug)
    check_non_negative(eta=eta, t_end=t_end)
    check_positive(predictor_lr=predictor_lr)
    (k, d), identity = W0.shape, np.eye(len(W0))
    mean, own = X.numpy(), X_aug.numpy()

    def slope(_: float, state: Array) -> Array:
        W, P = state[: k * d].reshape(k, d), state[k * d :].reshape(k, k)
        error = P @ W @ (mean + own) - W @ mean
        if stop_gradient:
            by_W = P.T @ error
        else:
            miss = identity - P
            by_W = miss.T @ miss @ W @ mean + (identity + P.T @ P) @ W @ own
        moves = -by_W - eta * W, -predictor_lr * error @ W.T - eta * P
        return np.concatenate([move.ravel() for move in moves])

    start = np.concatenate([W0.numpy().ravel(), Wp0.numpy().ravel()])
    end = torch.from_numpy(_integrated(slope, start, np.array([float(t_end)]))[:, 0].copy())
    return LinearNetworks(end[: k * d].reshape(k, d), end[k * d :].reshape(k, k))


def _check_matrices(W0: Tensor, Wp0: Tensor, X: Tensor, X_aug: Tensor) -> None:
    named = {"W0": W0, "Wp0": Wp0, "X": X, "X_aug": X_aug}
    check_points(**named)
    k, d = W0.shape
    for (name, matrix), shape in zip(named.items(), [(k, d), (k, k), (d, d), (d, d)], strict=True):
        if matrix.dtype != torch.float64:
            raise TypeError(f"{name} must be float64, got {matrix.dtype}")
        if matrix.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(matrix.shape)}")
        if not matrix.isfinite().all():
            raise ValueError(f"{name} must be finite, got nan or infinity")
        if name.startswith("X") and not torch.allclose(matrix, matrix.T):
            raise ValueError(f"{name} must be symmetric, got {matrix.tolist()}")


# --- networks ----------------------------------------------------------------------------------


def simsiam_loss(
    p1: Tensor,
    p2: Tensor,
    z1: Tensor,
    z2: Tensor,
    *,
    stop_gradient: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return −½ (cos(p₁, z₂) + cos(p₂, z₁)): each view's prediction against the other's features.

    Args:
        p1: predictions from the first view, (B, d).
        p2: from the second.
        z1: features of the first view, (B, d).
        z2: of the second.
        stop_gradient: whether the features are held fixed.
        reduction: "mean", "sum" or "none".

    Returns:
        (B,) or a scalar, in the inputs' dtype. A vector of zeros has the cosine 0 to all.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or dtypes disagree.
        ValueError: if shapes disagree or are not (B, d), or reduction is unknown.

    Source: Chen and He, arXiv:2011.10566, equation 4.

    Example:
        >>> east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> simsiam_loss(east, east, east, north)
        tensor(-0.5000)
    """
    check_choice(Reduction, reduction=reduction)
    named = {"p1": p1, "p2": p2, "z1": z1, "z2": z2}
    check_points(**named)
    for name, value in named.items():
        if value.shape != p1.shape or not value.numel():
            raise ValueError(
                f"{name} must have the shape of p1, (B, d), got {tuple(value.shape)} "
                f"for {tuple(p1.shape)}"
            )
    first, second, third, fourth = (
        _directions(v.detach() if stop_gradient and name[0] == "z" else v)
        for name, v in named.items()
    )
    each = -0.5 * ((first * fourth).sum(-1) + (second * third).sum(-1))
    return reduced(each, reduction, p1.dtype)


def _directions(x: Tensor) -> Tensor:
    """Rows of length 1, in float32 or more; a row of zeros stays one."""
    x = widened(x)
    x = x / x.detach().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / length(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


class CollapseMetrics(NamedTuple):
    """How far features are from collapse.

    Attributes:
        std: mean standard deviation per dimension of the directions, times √d: 1 if they are
            spread evenly, 0 if all are one (complete collapse).
        effective_rank: (Σλ)²/Σλ² of their covariance's eigenvalues: small where few dimensions
            are used (dimensional collapse); 0 without any spread.
        mean_cosine: mean over pairs of different samples.
    """

    std: float
    effective_rank: float
    mean_cosine: float


def collapse_metrics(z: Tensor) -> CollapseMetrics:
    """Measure both kinds of collapse, complete and dimensional, on the features' directions.

    Args:
        z: features, (B, d) with B ≥ 2.

    Raises:
        TypeError: if z is not a floating-point tensor.
        ValueError: if z is not (B, d) with B ≥ 2, or not finite.

    Source: Chen and He, arXiv:2011.10566, section 4.1; Jing et al., arXiv:2110.09348.

    Example:
        >>> corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(collapse_metrics(corners).effective_rank, 6)
        2.0
    """
    check_floating(z=z)
    if z.ndim != 2 or len(z) < 2 or not z.shape[1]:
        raise ValueError(f"z must have shape (B, d) with B >= 2, got {tuple(z.shape)}")
    if not z.isfinite().all():
        raise ValueError("z must be finite, got nan or infinity")
    with torch.no_grad():
        unit = _directions(z.double())
        count, d = unit.shape
        centred = unit - unit.mean(0)
        covariance = centred.T @ centred / (count - 1)
        trace, square = covariance.trace(), covariance.square().sum()
        rank = trace.square() / square if square > 0 else torch.zeros(())
        std = covariance.diagonal().sqrt().mean() * math.sqrt(d)
        together = unit.sum(0).square().sum() - unit.square().sum()
        cosine = together / (count * (count - 1))
    return CollapseMetrics(float(std), float(rank), float(cosine))
