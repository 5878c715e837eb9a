"""Gaussian mixtures by EM: log densities, E-step, M-step, and fits of many starts at once.

Parameters may have leading batch axes (one entry per restart) while all restarts share the data
`x (N, d)`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kexue_lab.precision import narrowed
from kexue_lab.validation import (
    check_count,
    check_data,
    check_distribution,
    check_floating,
    check_precise,
    sum_tolerance,
)

# Elements of one temporary (components x d x N): half a MB of float64. It stays in cache, and below
# the size from which an allocator fetches fresh pages at every use (measured: three times slower).
_CHUNK = 2**16
# A variance is lost in rounding once it is this many machine epsilons of what it is computed from.
_ROUNDING = 100.0
# Log densities below this come from squares whose differences would lose digits.
_FAR = -1e8
# Weights (B, K), centred means (B, K, d), covariances and their Cholesky factors (B, K, d, d).
_State = tuple[Tensor, ...]


class Mixture(NamedTuple):
    """The parameters of Gaussian mixtures, one for each entry of the leading axes."""

    weights: Tensor
    """Mixing weights, shape (..., K), summing to 1 over K."""
    means: Tensor
    """Component means, shape (..., K, d)."""
    covariances: Tensor
    """Component covariances, shape (..., K, d, d)."""


class EStep(NamedTuple):
    """What the E-step computes."""

    resp: Tensor
    """Responsibilities p(k|x_n), shape (..., N, K), rows sum to 1."""
    log_likelihood: Tensor
    """Average log-likelihood (1/N) Σ_n log p(x_n) in nats, shape (...)."""


@dataclass(frozen=True)
class GMMResult:
    """Where `fit_gmm` ended, for each restart.

    Attributes:
        weights: mixing weights, shape (..., K).
        means: component means, shape (..., K, d).
        covariances: component covariances, shape (..., K, d, d).
        log_likelihoods: average log-likelihood in nats before each step, shape (..., T) for the T
            steps taken; nan after the step in which a restart collapsed.
        collapsed: bool, shape (...): whether an M-step gave a singular covariance or a component
            without mass. The parameters of such a restart are the last sound ones, those at which
            its last log-likelihood that is not nan was measured.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    log_likelihoods: Tensor
    collapsed: Tensor

    @property
    def mixture(self) -> Mixture:
        """The parameters together."""
        return Mixture(self.weights, self.means, self.covariances)


def gmm_log_joint(x: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Return log π_k + log N(x_n; μ_k, Σ_k) of a Gaussian mixture, in nats.

    Args:
        x: data, shape (N, d).
        weights: mixing weights, shape (..., K), summing to 1 over K.
        means: component means, shape (..., K, d).
        covariances: symmetric positive definite covariances, shape (..., K, d, d). The leading
            axes of the three parameters broadcast against each other.

    Returns:
        Log joint densities, shape (..., N, K); -inf where one is beyond the dtype.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, `x` or `means` is not finite, weights are not a
            distribution, or a covariance is not symmetric positive definite.
    """
    dtype = x.dtype
    x, weights, means, covariances = _doubled(x, weights, means, covariances)
    weights, means, covariances, chol = _checked_mixture(x, weights, means, covariances, dtype)
    return _log_joint(*_centred(x, means), weights, chol).mT.to(dtype)


def gmm_e_step(x: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> EStep:
    """Return the responsibilities p(k|x_n) and the average log-likelihood of a Gaussian mixture.

    Normalised in log space, so that points far from every component keep finite responsibilities.

    Args:
        x: data, shape (N, d).
        weights: mixing weights, shape (..., K).
        means: component means, shape (..., K, d).
        covariances: component covariances, shape (..., K, d, d).

    Returns:
        Responsibilities and average log-likelihood; that is infinite where it is beyond the dtype.

    Raises:
        TypeError: if an argument is not a floating-point tensor.
        ValueError: as in `gmm_log_joint`.

    Example:
        >>> x = torch.tensor([[0.0], [4.0]])
        >>> means, one = torch.tensor([[0.0], [4.0]]), torch.ones(2, 1, 1)
        >>> gmm_e_step(x, torch.tensor([0.5, 0.5]), means, one).resp.argmax(-1)
        tensor([0, 1])
    """
    dtype = x.dtype
    x, weights, means, covariances = _doubled(x, weights, means, covariances)
    weights, means, covariances, chol = _checked_mixture(x, weights, means, covariances, dtype)
    log_joint = _log_joint(*_centred(x, means), weights, chol)
    largest = log_joint.amax(-2)
    if not bool(largest.isfinite().all()):
        raise ValueError("x must lie within 1e150 standard deviations of a component, got more")
    resp, average = _posterior(log_joint)
    resp = resp.mT
    far = (largest < _FAR).nonzero(as_tuple=True)
    if len(far[0]):
        resp = resp.index_put(
            far, _far_responsibilities(x, weights, means, chol, log_joint.mT, far)
        )
    return EStep(resp.to(dtype), average.to(dtype))


def _far_responsibilities(
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    chol: Tensor,
    log_joint: Tensor,
    far: tuple[Tensor, ...],
) -> Tensor:
    """Responsibilities (F, K) of points (batch…, n) so far out that squares would cancel.

    With z_k = W_k (x − μ_k), W_k the inverse factor, and r the likeliest component, z_k² − z_r² is
    (z_k − z_r)·(z_k + z_r), and z_k − z_r = (W_k − W_r)(x − μ_r) + W_k (μ_r − μ_k).
    """
    *batch, rows = far
    whitening = _inverse_triangular(chol)[tuple(batch)]  # (F, K, d, d), or (K, d, d) without batch
    means, weights, half = (p[tuple(batch)] for p in (means, weights, _half_log_det(chol)))
    f = torch.arange(len(rows), device=x.device)
    if not batch:
        whitening, means, weights, half = (
            p.expand(len(rows), *p.shape) for p in (whitening, means, weights, half)
        )
    best = log_joint[far].argmax(-1)
    away = x[rows] - means[f, best]
    own = whitening[f, best]
    gap = ((whitening - own[:, None]) @ away[:, None, :, None])[..., 0]
    gap = gap + (whitening @ (means[f, best][:, None] - means)[..., None])[..., 0]
    z = (own @ away[..., None])[..., 0]
    squares = (gap * (gap + 2 * z[:, None])).sum(-1)
    return (weights.log() - half - 0.5 * squares).softmax(-1)


def _doubled(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in float64, once they are known to be floating-point ones of one dtype."""
    names = ("x", "weights", "means", "covariances")
    check_floating(**dict(zip(names, tensors, strict=True)))
    return tuple(tensor.double() for tensor in tensors)


def gmm_m_step(
    x: Tensor, resp: Tensor, reg: float = 0.0, prior: tuple[float, float] = (0.0, 0.0)
) -> Mixture:
    """Return the Gaussian mixture which maximises Q for given responsibilities.

    π_k = Σ_n r_nk / N, μ_k = Σ_n r_nk x_n / Σ_n r_nk and
    Σ_k = (Σ_n r_nk (x_n - μ_k)(x_n - μ_k)ᵀ + λI) / (Σ_n r_nk + ν) + reg I.
    With reg = 0 this is the exact M-step of the objective with the inverse-Wishart prior of
    `gmm_log_prior` (plain maximum likelihood for λ = ν = 0), hence never decreases it. With
    reg > 0 it is the M-step of no fixed objective, and the likelihood may fall.

    Args:
        x: data, shape (N, d).
        resp: responsibilities, shape (..., N, K), rows sum to 1.
        reg: added to the diagonal of each covariance.
        prior: (λ, ν), both non-negative. Keep ν > 0 where λ > 0: with ν = 0 a component which
            loses its mass gets λI / 0.

    Returns:
        The mixture, unpacked as weights, means, covariances.

    Raises:
        TypeError: if `x` or `resp` is not a floating-point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, `resp` is negative or not normalised, a component
            has zero mass, or `reg` or `prior` is negative or not finite.

    Source: Dempster, Laird, Rubin, Maximum Likelihood from Incomplete Data via the EM
    Algorithm, 1977.
    """
    check_floating(x=x, resp=resp)
    dtype = x.dtype
    check_data(x=x)
    _check_regularisation(reg, prior)
    if resp.ndim < 2 or resp.shape[-2] != x.shape[0] or resp.numel() == 0:
        raise ValueError(f"resp must have shape (..., {x.shape[0]}, K), got {tuple(resp.shape)}")
    check_distribution(resp=resp)
    if not bool((resp.sum(-2) > 0).all()):
        raise ValueError("resp gives a component zero mass: its mean and covariance are undefined")
    x, resp = x.double(), resp.double()
    centre = x.mean(0)
    weights, means, covariances = _m_step((x - centre).mT, resp.mT, reg, prior)
    results = {"weights": weights, "means": means + centre, "covariances": covariances}
    return Mixture(*(narrowed(v, dtype, name) for name, v in results.items()))


def gmm_log_prior(covariances: Tensor, prior: tuple[float, float]) -> Tensor:
    """Return the log inverse-Wishart penalty -Σ_k [λ/2 tr Σ_k⁻¹ + ν/2 log|Σ_k|], in nats.

    MAP-EM, `fit_gmm` with `prior`, never decreases the average log-likelihood plus 1/N times this.

    Args:
        covariances: positive definite covariances, shape (..., K, d, d).
        prior: (λ, ν), both non-negative.

    Returns:
        The penalty up to a constant, shape (...).

    Raises:
        TypeError: if `covariances` is not a floating-point tensor.
        ValueError: if a covariance is not symmetric positive definite, or `prior` is negative.
    """
    check_floating(covariances=covariances)
    dtype, covariances = covariances.dtype, covariances.double()
    if covariances.ndim < 3 or covariances.shape[-1] != covariances.shape[-2]:
        raise ValueError(
            f"covariances must have shape (..., K, d, d), got {tuple(covariances.shape)}"
        )
    _check_regularisation(0.0, prior)
    chol = _checked_cholesky(covariances, dtype)
    lam, nu = prior
    trace = _inverse_triangular(chol).square().sum((-2, -1))
    penalty = -(0.5 * lam * trace + nu * _half_log_det(chol)).sum(-1)
    return narrowed(penalty, dtype, "the penalty")


@torch.no_grad()
def fit_gmm(
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    max_iter: int = 100,
    tol: float = 0.0,
    reg: float = 0.0,
    *,
    prior: tuple[float, float] = (0.0, 0.0),
) -> GMMResult:
    """Fit a Gaussian mixture with full covariances by EM, all restarts of a batch at once.

    Steps until `max_iter`, or until the average log-likelihood of every restart which has not
    collapsed changes by less than `tol` between two steps. The average log-likelihood of the
    returned parameters is one E-step later than the last entry of `log_likelihoods`:
    `gmm_e_step(x, *result.mixture).log_likelihood`.

    The likelihood of a mixture is unbounded, so without `reg` or `prior` a component may shrink to
    a point or a plane through a few points. A restart to which this happens, or of which a
    component loses all its mass, is *collapsed*: it keeps its last sound parameters, its
    log-likelihoods are nan from the next step on, and the other restarts go on. A fit without batch
    axes behaves in the same way and returns (it does not raise); look at `collapsed`. A covariance
    counts as singular when a squared pivot of its Cholesky factor is within 100 machine epsilons
    of the entry it was computed from, or a standard deviation within 100 machine epsilons of that
    of the data.

    Args:
        x: data, shape (N, d), shared by all restarts.
        weights: mixing weights at the start, shape (..., K).
        means: component means at the start, shape (..., K, d).
        covariances: component covariances at the start, shape (..., K, d, d). The leading axes of
            the three parameters broadcast against each other.
        max_iter: largest number of steps.
        tol: smallest change of the average log-likelihood, in nats; 0 never stops early.
        reg: added to the diagonal of each covariance at each step.
        prior: (λ, ν) of an inverse-Wishart prior on each covariance (MAP-EM), see `gmm_m_step`.

    Returns:
        The parameters reached, without gradients, and the log-likelihoods on the way.

    Raises:
        TypeError: if a tensor is not floating point or `max_iter` is not an int.
        ValueError: as in `gmm_log_joint` and `gmm_m_step`, also if a covariance at the start is
            singular, `max_iter` < 1 or `tol` is negative.
    """
    _check_regularisation(reg, prior)
    check_count(max_iter=max_iter)
    check_precise(x=x)
    if not tol >= 0:
        raise ValueError(f"tol must be non-negative, got {tol}")
    weights, means, covariances, chol = _checked_mixture(x, weights, means, covariances)
    batch = weights.shape[:-1]
    x_t, shifted = _centred(x, means)
    state: _State = tuple(
        p.reshape(-1, *p.shape[len(batch) :]) for p in (weights, shifted, covariances, chol)
    )
    spread = x.var(0, correction=0)
    if not bool(_is_sound(state, spread).all()):
        raise ValueError("covariances must not be singular to rounding at the start")

    final = tuple(p.clone() for p in state)
    trace = x.new_full((len(state[0]), max_iter), math.nan)
    active = torch.arange(len(trace), device=x.device)
    for step in range(max_iter):
        new_state, trace[active, step] = _em_step(x_t, state, reg, prior)
        sound = _is_sound(new_state, spread)
        if not bool(sound.all()):
            _store(final, active[~sound], tuple(p[~sound] for p in state))
            active, new_state = active[sound], tuple(p[sound] for p in new_state)
        state = new_state
        change = trace[active, step] - trace[active, max(step - 1, 0)]
        if len(active) == 0 or (step > 0 and bool((change.abs() < tol).all())):
            break
    _store(final, active, state)
    collapsed = torch.ones(len(trace), dtype=torch.bool, device=x.device)
    collapsed[active] = False
    return GMMResult(
        weights=final[0].reshape(weights.shape),
        means=(final[1] + x.mean(0)).reshape(means.shape),
        covariances=final[2].reshape(covariances.shape),
        log_likelihoods=trace[:, : step + 1].reshape(*batch, step + 1),
        collapsed=collapsed.reshape(batch),
    )


def _centred(x: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Shift data and means by the data's mean; the data comes back transposed, (d, N).

    Differences x - μ are all that counts, and they lose digits when both are far from the origin.
    """
    centre = x.mean(0)
    return (x - centre).mT.contiguous(), means - centre


def _log_joint(x_t: Tensor, means: Tensor, weights: Tensor, chol: Tensor) -> Tensor:
    """Return log joint densities (..., K, N) from centred data (d, N) and Cholesky factors."""
    d, n = x_t.shape
    whitening = _inverse_triangular(chol)
    rows = whitening.reshape(-1, d)
    shifts = -(whitening @ means[..., None]).reshape(-1, 1)
    size = d * _chunk_size(x_t)
    squared = torch.cat(
        [
            torch.addmm(shifts[i : i + size], rows[i : i + size], x_t)
            .reshape(-1, d, n)
            .square_()
            .sum(1)
            for i in range(0, len(rows), size)
        ]
    )
    offset = weights.log() - _half_log_det(chol) - 0.5 * d * math.log(2 * math.pi)
    return torch.add(offset[..., None], squared.reshape(*offset.shape, n), alpha=-0.5)


def _posterior(log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """Return responsibilities (..., K, N) and average log-likelihoods (...)."""
    return torch.softmax(log_joint, -2), torch.logsumexp(log_joint, -2).mean(-1)


def _m_step(
    x_t: Tensor, resp: Tensor, reg: float, prior: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Maximise Q given centred data (d, N) and responsibilities (..., K, N)."""
    d, n = x_t.shape
    lam, nu = prior
    mass = resp.sum(-1)
    means = resp @ x_t.mT / mass[..., None]
    size = _chunk_size(x_t)
    flat_means, flat_resp = means.reshape(-1, d, 1), resp.reshape(-1, 1, n)
    scatter = torch.cat(
        [
            _weighted_scatter(x_t - flat_means[i : i + size], flat_resp[i : i + size])
            for i in range(0, len(flat_means), size)
        ]
    )
    scatter = scatter.reshape(*means.shape, d)
    eye = torch.eye(d, dtype=x_t.dtype, device=x_t.device)
    covariances = (scatter + lam * eye) / (mass + nu)[..., None, None] + reg * eye
    return mass / n, means, covariances


def _weighted_scatter(deviation: Tensor, resp: Tensor) -> Tensor:
    return (deviation * resp) @ deviation.mT


def _chunk_size(x_t: Tensor) -> int:
    """Return how many components' deviations (d, N) to hold at once."""
    return max(1, _CHUNK // x_t.numel())


def _inverse_triangular(chol: Tensor) -> Tensor:
    eye = torch.eye(chol.shape[-1], dtype=chol.dtype, device=chol.device)
    inverse: Tensor = torch.linalg.solve_triangular(chol, eye, upper=False)
    return inverse


def _half_log_det(chol: Tensor) -> Tensor:
    return chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _em_step(
    x_t: Tensor, state: _State, reg: float, prior: tuple[float, float]
) -> tuple[_State, Tensor]:
    """Step all restarts; the new Cholesky factors may have failed, which `_is_sound` tells."""
    weights, means, _, chol = state
    resp, average = _posterior(_log_joint(x_t, means, weights, chol))
    weights, means, covariances = _m_step(x_t, resp, reg, prior)
    return (weights, means, covariances, torch.linalg.cholesky_ex(covariances).L), average


def _is_sound(state: _State, spread: Tensor) -> Tensor:
    """Tell for each restart (B,) whether no covariance is singular to rounding; nan is unsound."""
    _, _, covariances, chol = state
    eps = _ROUNDING * torch.finfo(chol.dtype).eps
    own = covariances.diagonal(dim1=-2, dim2=-1)
    pivots = chol.diagonal(dim1=-2, dim2=-1)
    # A failed factorisation leaves a pivot at zero or below, or nan.
    sound = (pivots > 0) & (pivots.square() > eps * own) & (own > eps**2 * spread)
    return sound.flatten(1).all(1)


def _store(final: _State, where: Tensor, state: _State) -> None:
    for target, source in zip(final, state, strict=True):
        target[where] = source


def _check_regularisation(reg: float, prior: tuple[float, float]) -> None:
    if not 0 <= reg < math.inf:
        raise ValueError(f"reg must be non-negative and finite, got {reg}")
    if len(prior) != 2 or not all(0 <= value < math.inf for value in prior):
        raise ValueError(f"prior must be two non-negative finite numbers (lambda, nu), got {prior}")


def _checked_cholesky(covariances: Tensor, dtype: torch.dtype) -> Tensor:
    if not bool(covariances.isfinite().all()):
        raise ValueError("covariances must be finite, got nan or infinity")
    scale = covariances.diagonal(dim1=-2, dim2=-1).abs().amax(-1)[..., None, None]
    asymmetry = (covariances - covariances.mT).abs()
    if bool((asymmetry > sum_tolerance(dtype) * scale).any()):
        raise ValueError(f"covariances must be symmetric, got asymmetry {asymmetry.max().item():g}")
    chol: Tensor
    chol, info = torch.linalg.cholesky_ex(covariances)
    if bool((info != 0).any()):
        raise ValueError(
            "covariances must be positive definite, "
            f"got {int((info != 0).sum())} of {info.numel()} that are not"
        )
    return chol


def _checked_mixture(
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Validate a mixture given in a dtype, broadcast its batch axes and factor its covariances."""
    check_floating(x=x, weights=weights, means=means, covariances=covariances)
    check_data(x=x)
    d = x.shape[1]
    if weights.ndim < 1 or weights.numel() == 0:
        raise ValueError(f"weights must have shape (..., K), got {tuple(weights.shape)}")
    k = weights.shape[-1]
    if means.ndim < 2 or means.shape[-2:] != (k, d):
        raise ValueError(f"means must have shape (..., {k}, {d}), got {tuple(means.shape)}")
    if covariances.ndim < 3 or covariances.shape[-3:] != (k, d, d):
        raise ValueError(
            f"covariances must have shape (..., {k}, {d}, {d}), got {tuple(covariances.shape)}"
        )
    batches = weights.shape[:-1], means.shape[:-2], covariances.shape[:-3]
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError as error:
        raise ValueError(
            f"leading axes of weights, means and covariances must broadcast, got {batches}"
        ) from error
    if not bool(means.isfinite().all()):
        raise ValueError("means must be finite, got nan or infinity")
    check_distribution(dtype, weights=weights)
    chol = _checked_cholesky(covariances, dtype or x.dtype)
    return (
        weights.expand(*batch, k),
        means.expand(*batch, k, d),
        covariances.expand(*batch, k, d, d),
        chol.expand(*batch, k, d, d),
    )
