"""Expectation-maximisation as one alternating minimisation of a joint KL divergence.

`joint_kl` holds the chain rule which everything else follows from: minimising
KL(p̃(x) q(y|x) ‖ p_θ(x, y)) over q alone is the E-step, over θ alone the M-step. Gaussian mixtures,
pLSA, Rao's linkage data and the symmetric two-component mixture are cases of it; `em_rate` tells
how fast any of them converges.

Gaussian mixtures take parameters with leading batch axes (one entry per restart) while all
restarts share the data `x (N, d)`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from kexue_lab.precision import distances, narrowed, power_of_two
from kexue_lab.validation import check_count, check_floating, check_precise

# Elements of one temporary (components x d x N): half a MB of float64. It stays in cache, and below
# the size from which an allocator fetches fresh pages at every use (measured: three times slower).
_CHUNK = 2**16
# A variance is lost in rounding once it is this many machine epsilons of what it is computed from.
_ROUNDING = 100.0
# Beyond so many standard deviations from it, 0 carries no weight in float64.
_FARTHEST = 60.0
# Log densities below this come from squares whose differences would lose digits.
_FAR = -1e8


# Weights (B, K), centred means (B, K, d), covariances and their Cholesky factors (B, K, d, d).
_State = tuple[Tensor, ...]


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


def joint_kl(p_x: Tensor, q_y_given_x: Tensor, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute KL(p̃(x) q(y|x) ‖ p(x, y)) and its two parts, in nats.

    KL(p̃(x) q(y|x) ‖ p(x, y)) = KL(p̃(x) ‖ p(x)) + E_p̃(x) KL(q(y|x) ‖ p(y|x)), the chain rule of the
    KL divergence, with 0 log 0 = 0. The second part is zero exactly at the posterior q = p(y|x).

    Args:
        p_x: data distribution p̃, shape (N,), summing to 1.
        q_y_given_x: conditional distribution of the latent variable, shape (N, K), rows sum to 1.
        joint: model probabilities p(x_n, y=k), shape (N, K), positive, summing to at most 1.

    Returns:
        (joint KL, marginal KL, mean conditional KL), three scalars; the first is computed from its
        definition and not as the sum of the others.

    Raises:
        TypeError: if an argument is not a floating point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, or a distribution is negative or not normalised.

    Reference: Csiszár and Tusnády, Information Geometry and Alternating Minimization, 1984.

    Example:
        >>> p, q = torch.tensor([0.5, 0.5]), torch.full((2, 2), 0.5)
        >>> joint, marginal, conditional = joint_kl(p, q, torch.full((2, 2), 0.25))
        >>> joint, marginal, conditional
        (tensor(0.), tensor(0.), tensor(0.))
    """
    check_floating(p_x=p_x, q_y_given_x=q_y_given_x, joint=joint)
    if p_x.ndim != 1 or p_x.numel() == 0:
        raise ValueError(f"p_x must have shape (N,) with N >= 1, got {tuple(p_x.shape)}")
    if q_y_given_x.ndim != 2 or q_y_given_x.shape[0] != p_x.shape[0] or not q_y_given_x.numel():
        raise ValueError(
            f"q_y_given_x must have shape ({p_x.shape[0]}, K), got {tuple(q_y_given_x.shape)}"
        )
    if joint.shape != q_y_given_x.shape:
        raise ValueError(
            f"joint must have shape {tuple(q_y_given_x.shape)}, got {tuple(joint.shape)}"
        )
    _check_distribution("p_x", p_x)
    _check_distribution("q_y_given_x", q_y_given_x)
    if not bool((joint > 0).all()):
        raise ValueError(f"joint must be positive, got smallest entry {joint.min().item():g}")
    if joint.double().sum().item() > 1 + _tolerance(joint.dtype):
        raise ValueError(f"joint must sum to at most 1, got sum {joint.sum().item():g}")

    dtype = p_x.dtype
    p_x, q_y_given_x, joint = p_x.double(), q_y_given_x.double(), joint.double()
    data_joint = p_x[:, None] * q_y_given_x
    marginal = joint.sum(-1)
    joint_part = (torch.xlogy(data_joint, data_joint) - data_joint * joint.log()).sum()
    marginal_part = (torch.xlogy(p_x, p_x) - p_x * marginal.log()).sum()
    log_posterior = joint.log() - marginal.log()[:, None]
    per_x = (torch.xlogy(q_y_given_x, q_y_given_x) - q_y_given_x * log_posterior).sum(-1)
    return joint_part.to(dtype), marginal_part.to(dtype), (p_x * per_x).sum().to(dtype)


def gmm_log_joint(x: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Compute log π_k + log N(x_n; μ_k, Σ_k) of a Gaussian mixture, in nats.

    Args:
        x: data, shape (N, d).
        weights: mixing weights, shape (..., K), summing to 1 over K.
        means: component means, shape (..., K, d).
        covariances: symmetric positive definite covariances, shape (..., K, d, d). The leading
            axes of the three parameters broadcast against each other.

    Returns:
        Log joint densities, shape (..., N, K); -inf where one is beyond the dtype.

    Raises:
        TypeError: if an argument is not a floating point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, `x` or `means` is not finite, weights are not a
            distribution, or a covariance is not symmetric positive definite.
    """
    dtype = x.dtype
    x, weights, means, covariances = _doubled(x, weights, means, covariances)
    weights, means, covariances, chol = _checked_mixture(x, weights, means, covariances, dtype)
    return _log_joint(*_centred(x, means), weights, chol).mT.to(dtype)


def gmm_e_step(
    x: Tensor, weights: Tensor, means: Tensor, covariances: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the responsibilities p(k|x_n) and the average log-likelihood of a Gaussian mixture.

    Normalised in log space, so that points far from every component keep finite responsibilities.

    Args:
        x: data, shape (N, d).
        weights: mixing weights, shape (..., K).
        means: component means, shape (..., K, d).
        covariances: component covariances, shape (..., K, d, d).

    Returns:
        (responsibilities of shape (..., N, K) with rows that sum to 1, average log-likelihood
        (1/N) Σ_n log p(x_n) in nats of shape (...), infinite where it is beyond the dtype).

    Raises:
        TypeError: if an argument is not a floating point tensor.
        ValueError: as in `gmm_log_joint`.

    Example:
        >>> x = torch.tensor([[0.0], [4.0]])
        >>> means, one = torch.tensor([[0.0], [4.0]]), torch.ones(2, 1, 1)
        >>> resp, average = gmm_e_step(x, torch.tensor([0.5, 0.5]), means, one)
        >>> resp.argmax(-1)
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
    return resp.to(dtype), average.to(dtype)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the Gaussian mixture which maximises Q for given responsibilities.

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
        (weights (..., K), means (..., K, d), covariances (..., K, d, d)).

    Raises:
        TypeError: if `x` or `resp` is not a floating point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, `resp` is negative or not normalised, a component
            has zero mass, or `reg` or `prior` is negative or not finite.

    Reference: Dempster, Laird, Rubin, Maximum Likelihood from Incomplete Data via the EM
    Algorithm, 1977.
    """
    check_floating(x=x, resp=resp)
    dtype = x.dtype
    _check_data(x)
    _check_regularisation(reg, prior)
    if resp.ndim < 2 or resp.shape[-2] != x.shape[0] or resp.numel() == 0:
        raise ValueError(f"resp must have shape (..., {x.shape[0]}, K), got {tuple(resp.shape)}")
    _check_distribution("resp", resp)
    if not bool((resp.sum(-2) > 0).all()):
        raise ValueError("resp gives a component zero mass: its mean and covariance are undefined")
    x, resp = x.double(), resp.double()
    centre = x.mean(0)
    weights, means, covariances = _m_step((x - centre).mT, resp.mT, reg, prior)
    results = {"weights": weights, "means": means + centre, "covariances": covariances}
    weights, means, covariances = (narrowed(v, dtype, name) for name, v in results.items())
    return weights, means, covariances


def gmm_log_prior(covariances: Tensor, prior: tuple[float, float]) -> Tensor:
    """Compute the log inverse-Wishart penalty -Σ_k [λ/2 tr Σ_k⁻¹ + ν/2 log|Σ_k|], in nats.

    MAP-EM, `fit_gmm` with `prior`, never decreases the average log-likelihood plus 1/N times this.

    Args:
        covariances: positive definite covariances, shape (..., K, d, d).
        prior: (λ, ν), both non-negative.

    Returns:
        The penalty up to a constant, shape (...).

    Raises:
        TypeError: if `covariances` is not a floating point tensor.
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
    `gmm_e_step(x, ...)[1]`.

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


def soft_kmeans_energy(x: Tensor, weights: Tensor, means: Tensor, variance: float) -> Tensor:
    """Compute -2σ² Σ_n log Σ_k π_k exp(-‖x_n - μ_k‖² / 2σ²), which tends to K-means' inertia.

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


def plsa_em_step(counts: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one EM step of pLSA, which never decreases Σ_iy C_iy log(AB)_iy.

    r_iyz ∝ A_iz B_zy, then A_iz ∝ Σ_y C_iy r_iyz and B_zy ∝ Σ_i C_iy r_iyz, without forming r.
    Cells without counts take no part, so that factors which have vanished there do no harm; a
    document without counts and a topic which no document uses keep their rows.

    Args:
        counts: co-occurrence counts C, shape (I, J), non-negative with a positive sum.
        a: p(topic|document), shape (I, K), rows sum to 1.
        b: p(word|topic), shape (K, J), rows sum to 1.

    Returns:
        The new (a, b).

    Raises:
        TypeError: if an argument is not a floating point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, `counts` is negative or all zero, or rows of `a`
            or `b` are not distributions.

    Reference: Hofmann, Probabilistic Latent Semantic Indexing, 1999.
    """
    check_floating(counts=counts, a=a, b=b)
    if counts.ndim != 2 or counts.numel() == 0:
        raise ValueError(f"counts must have shape (I, J), got {tuple(counts.shape)}")
    if a.ndim != 2 or a.shape[0] != counts.shape[0] or a.shape[1] == 0:
        raise ValueError(f"a must have shape ({counts.shape[0]}, K), got {tuple(a.shape)}")
    if b.shape != (a.shape[1], counts.shape[1]):
        raise ValueError(
            f"b must have shape ({a.shape[1]}, {counts.shape[1]}), got {tuple(b.shape)}"
        )
    if not bool((counts >= 0).all()) or not 0 < counts.max().item() < math.inf:
        raise ValueError("counts must be non-negative and finite with a positive sum")
    _check_distribution("a", a)
    _check_distribution("b", b)

    dtype = a.dtype
    counts, a, b = counts.double(), a.double(), b.double()
    # The floor turns 0 / 0 into 0 where nothing was counted, and frequencies of at most 1 over
    # sqrt(tiny) and sums of such ratios cannot overflow.
    floor = math.sqrt(torch.finfo(a.dtype).tiny)
    frequency = counts / counts.max()
    frequency = frequency / frequency.sum()
    ratio = frequency / (a @ b).clamp(min=floor)
    new_a, new_b = _rows_or(a * (ratio @ b.mT), a), _rows_or(b * (a.mT @ ratio), b)
    return new_a.to(dtype), new_b.to(dtype)


def em_rate(update: Callable[[Tensor], Tensor], theta_star: Tensor) -> float:
    """Compute the spectral radius of the Jacobian of an EM map at its fixed point.

    It is the factor by which the distance to the fixed point shrinks per step in the long run. By
    Dempster, Laird and Rubin the Jacobian is I - I_c⁻¹ I_obs, the fraction of missing information.

    Args:
        update: one step of EM, from a tensor of shape (p,) to one of the same shape, built from
            differentiable torch operations.
        theta_star: the fixed point, shape (p,). That it is one is not checked.

    Returns:
        The largest modulus of an eigenvalue.

    Raises:
        TypeError: if `theta_star` is not a floating point tensor.
        ValueError: if `theta_star` or the value of `update` has the wrong shape.

    Reference: Dempster, Laird, Rubin, 1977, section 3.
    """
    check_floating(theta_star=theta_star)
    if theta_star.ndim != 1 or theta_star.numel() == 0:
        raise ValueError(f"theta_star must have shape (p,), got {tuple(theta_star.shape)}")
    jacobian = torch.func.jacrev(update)(theta_star)
    if jacobian.shape != (len(theta_star), len(theta_star)):
        raise ValueError(
            f"update must map shape {tuple(theta_star.shape)} to itself, "
            f"got a Jacobian of shape {tuple(jacobian.shape)}"
        )
    if not bool(jacobian.isfinite().all()):
        raise ValueError("update must have a finite Jacobian at theta_star, got nan or infinity")
    return float(torch.linalg.eigvals(jacobian.double()).abs().max())


def linkage_em_step(theta: Tensor, counts: Sequence[float]) -> Tensor:
    """Compute one EM step for Rao's linkage data.

    Cells have probabilities (1/2 + θ/4, (1-θ)/4, (1-θ)/4, θ/4); the latent variable splits the
    first into 1/2 and θ/4. M(θ) = (x + d) / (x + b + c + d) with x = a θ / (2 + θ).

    Args:
        theta: θ in [0, 1], any shape.
        counts: the four cell counts (a, b, c, d), non-negative, with b + c > 0.

    Returns:
        The new θ, of the same shape.

    Raises:
        TypeError: if `theta` is not a floating point tensor.
        ValueError: if `theta` leaves [0, 1] or `counts` is not as described.

    Reference: Rao, Linear Statistical Inference and its Applications, 1965; Dempster, Laird,
    Rubin, 1977, section 1.

    Example:
        >>> linkage_em_step(torch.tensor(0.5), [125, 18, 20, 34])
        tensor(0.6082)
    """
    check_floating(theta=theta)
    if not bool(((theta >= 0) & (theta <= 1)).all()):
        raise ValueError(
            f"theta must lie in [0, 1], got {theta.min().item()} to {theta.max().item()}"
        )
    a, b, c, d = _checked_linkage_counts(counts)
    wide = theta.double()
    from_theta = a * wide / (2 + wide)
    return ((from_theta + d) / (from_theta + b + c + d)).to(theta.dtype)


def linkage_mle(counts: Sequence[float]) -> float:
    """Compute the maximum-likelihood θ of Rao's linkage data, the fixed point of `linkage_em_step`.

    The larger root of the score's numerator n θ² - (a - 2b - 2c - d) θ - 2d, n = a + b + c + d.

    Args:
        counts: the four cell counts (a, b, c, d), non-negative, with b + c > 0.

    Returns:
        θ* in [0, 1).

    Raises:
        ValueError: if `counts` is not as described.

    Example:
        >>> round(linkage_mle([125, 18, 20, 34]), 4)
        0.6268
    """
    a, b, c, d = _checked_linkage_counts(counts)
    linear = a - 2 * b - 2 * c - d
    root = math.sqrt(linear * linear + 8 * (a + b + c + d) * d)
    # Of two equal expressions the one without cancellation.
    if linear > 0:
        return (linear + root) / (2 * (a + b + c + d))
    return 4 * d / (root - linear) if d > 0 else 0.0


def linkage_rate(counts: Sequence[float]) -> float:
    """Compute the rate M'(θ*) at which EM converges on Rao's linkage data, in closed form.

    M'(θ) = x'(θ) (b + c) / (x + b + c + d)² with x = a θ / (2 + θ) and x' = 2a / (2 + θ)².

    Args:
        counts: the four cell counts (a, b, c, d), non-negative, with b + c > 0.

    Returns:
        The rate, in [0, 1].

    Raises:
        ValueError: if `counts` is not as described.
    """
    a, b, c, d = _checked_linkage_counts(counts)
    theta = linkage_mle(counts)
    slope = 2 * a / (2 + theta) ** 2
    return slope * (b + c) / (a * theta / (2 + theta) + b + c + d) ** 2


def symmetric_mixture_step(m: Tensor, x: Tensor) -> Tensor:
    """Compute one EM step M(m) = mean_n x_n tanh(m x_n) for ½N(-m, 1) + ½N(m, 1).

    Args:
        m: current means, any shape; each entry is a step of its own.
        x: data, shape (N,).

    Returns:
        The new means, of the shape of `m`.

    Raises:
        TypeError: if an argument is not a floating point tensor, or the dtypes disagree.
        ValueError: if `x` is not one-dimensional or empty.

    Reference: Balakrishnan, Wainwright, Yu, arXiv:1408.2156.
    """
    check_floating(m=m, x=x)
    if x.ndim != 1 or x.numel() == 0:
        raise ValueError(f"x must have shape (N,) with N >= 1, got {tuple(x.shape)}")
    unit = power_of_two(x.abs().max())
    wide = x.double()
    mean = torch.tanh(m.double()[..., None] * wide) @ (wide / unit) / len(x) * unit
    return mean.to(x.dtype)


def symmetric_mixture_population(m: float, mu: float) -> float:
    """Compute the population EM map E[x tanh(m x)] for data from ½N(-μ, 1) + ½N(μ, 1).

    m = μ, m = -μ and m = 0 are its fixed points.

    Args:
        m: current mean.
        mu: true mean μ.

    Returns:
        The new mean, by adaptive quadrature.

    Raises:
        ValueError: if an argument is not finite.
    """
    _check_finite_numbers(m=m, mu=mu)
    return _normal_mean(lambda x: x * math.tanh(m * x), mu, m)


def symmetric_mixture_rate(mu: float, m: float | None = None) -> float:
    """Compute the slope M'(m) = E[x² sech²(m x)] of `symmetric_mixture_population`.

    At the default m = μ it is the rate at which EM converges. At m = 0 it is 1 + μ² > 1: the merged
    solution repels.

    Args:
        mu: true mean μ.
        m: where to take the slope; None for μ.

    Returns:
        The slope, by adaptive quadrature.

    Raises:
        ValueError: if an argument is not finite.

    Example:
        >>> round(symmetric_mixture_rate(2.0), 4)
        0.0217
    """
    point = mu if m is None else m
    _check_finite_numbers(mu=mu, m=point)

    def integrand(x: float) -> float:
        decay = math.exp(-2 * abs(point * x))
        return x * x * 4 * decay / (1 + decay) ** 2 if decay > 0 else 0.0

    return _normal_mean(integrand, mu, point)


def _normal_mean(f: Callable[[float], float], mu: float, m: float) -> float:
    """Integrate an even `f` of m x against N(mu, 1), which is its mean under ½N(-mu,1) + ½N(mu,1).

    Twelve standard deviations to each side leave out less than 1e-30.
    """
    centre = abs(mu)
    # Far out 0 is so unlikely that only the distance from the centre counts.
    origin = centre if centre > _FARTHEST else 0.0
    centre -= origin
    # f decays at most as exp(-2|m x|), which moves the weight from the centre towards 0.
    peak = max(centre - 2 * abs(m), 0.0) if not origin else centre
    low, high = peak - 12, centre + 12
    # Panels narrow enough for the rule's error estimate to be honest; f bends within a few 1/m of
    # 0, which the rule would step over unless told where it is.
    panels = [middle + step for middle in {peak, centre} for step in (-8, -4, 0, 4, 8)]
    bends = [-origin, -20 / abs(m) - origin, 20 / abs(m) - origin] if m else []
    inner = sorted(point for point in panels + bends if low < point < high)
    value = quad(
        lambda x: f(origin + x) * math.exp(-0.5 * (x - centre) ** 2),
        low,
        high,
        # A bend and a panel's end that differ by rounding alone leave an interval quad warns about.
        points=[b for a, b in zip([low, *inner], inner, strict=False) if b - a > 1e-12],
        epsabs=0,
        epsrel=1e-12,
        limit=200,
    )[0]
    return float(value / math.sqrt(2 * math.pi))


def _centred(x: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Shift data and means by the data's mean; the data comes back transposed, (d, N).

    Differences x - μ are all that counts, and they lose digits when both are far from the origin.
    """
    centre = x.mean(0)
    return (x - centre).mT.contiguous(), means - centre


def _log_joint(x_t: Tensor, means: Tensor, weights: Tensor, chol: Tensor) -> Tensor:
    """Compute log joint densities (..., K, N) from centred data (d, N) and Cholesky factors."""
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


def _rows_or(rows: Tensor, fallback: Tensor) -> Tensor:
    """Normalise rows to sum 1; a row of zeros is replaced by the fallback's."""
    total = rows.sum(-1, keepdim=True)
    return torch.where(total > 0, rows / total, fallback)


def _tolerance(dtype: torch.dtype) -> float:
    """Return how far a sum may be from 1: half of the dtype's digits."""
    return math.sqrt(torch.finfo(dtype).eps)


def _check_distribution(name: str, p: Tensor, dtype: torch.dtype | None = None) -> None:
    """Check masses, as exact as a dtype makes them; their own by default."""
    if not bool((p >= 0).all()):
        raise ValueError(f"{name} must be non-negative, got smallest entry {p.min().item():g}")
    total = p.double().sum(-1)
    worst = total.flatten()[(total - 1).abs().argmax()]
    if not abs(worst.item() - 1) <= _tolerance(dtype or p.dtype):
        raise ValueError(f"{name} must sum to 1 over its last axis, got sum {worst.item():g}")


def _check_data(x: Tensor) -> None:
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"x must have shape (N, d) with N, d >= 1, got {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError("x must be finite, got nan or infinity")


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
    if bool((asymmetry > _tolerance(dtype) * scale).any()):
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
    _check_data(x)
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
    _check_distribution("weights", weights, dtype)
    chol = _checked_cholesky(covariances, dtype or x.dtype)
    return (
        weights.expand(*batch, k),
        means.expand(*batch, k, d),
        covariances.expand(*batch, k, d, d),
        chol.expand(*batch, k, d, d),
    )


def _check_spherical(x: Tensor, weights: Tensor, means: Tensor, variance: float) -> None:
    check_floating(x=x, weights=weights, means=means)
    _check_data(x)
    if weights.ndim != 1 or weights.numel() == 0:
        raise ValueError(f"weights must have shape (K,), got {tuple(weights.shape)}")
    if means.shape != (len(weights), x.shape[1]):
        raise ValueError(
            f"means must have shape ({len(weights)}, {x.shape[1]}), got {tuple(means.shape)}"
        )
    _check_distribution("weights", weights)
    if not 0 < variance < math.inf:
        raise ValueError(f"variance must be positive and finite, got {variance}")


def _checked_linkage_counts(counts: Sequence[float]) -> tuple[float, float, float, float]:
    values = tuple(float(value) for value in counts)
    if len(values) != 4:
        raise ValueError(f"counts must be four numbers, got {len(values)}")
    if not all(0 <= value < math.inf for value in values):
        raise ValueError(f"counts must be non-negative and finite, got {values}")
    if values[1] + values[2] == 0:
        raise ValueError(f"counts must have b + c > 0, got {values}")
    # Only their ratios count.
    unit = 1.0 if 1e-100 < max(values) < 1e100 else max(values)
    a, b, c, d = (value / unit for value in values)
    if b + c == 0:
        raise ValueError(f"counts must not differ by more than 1e300, got {tuple(counts)}")
    return a, b, c, d


def _check_finite_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
