"""Expectation-maximisation as one alternating minimisation of a joint KL divergence.

`joint_kl` holds the chain rule which everything else follows from: minimising
KL(p̃(x) q(y|x) ‖ p_θ(x, y)) over q alone is the E-step, over θ alone the M-step. Gaussian mixtures,
pLSA, Rao's linkage data and the symmetric two-component mixture are cases of it; `em_rate` tells
how fast any of them converges. Gaussian mixtures live in `gaussian_mixture`, those with fixed
spherical covariances in `soft_kmeans`; both are offered here too.
"""

import math
from collections.abc import Callable, Sequence

import torch
from scipy.integrate import quad
from torch import Tensor

from kexue_lab.mathematics.gaussian_mixture import (
    EStep,
    GMMResult,
    Mixture,
    fit_gmm,
    gmm_e_step,
    gmm_log_joint,
    gmm_log_prior,
    gmm_m_step,
)
from kexue_lab.mathematics.soft_kmeans import fit_spherical_gmm, soft_kmeans_energy
from kexue_lab.precision import power_of_two
from kexue_lab.validation import check_distribution, check_floating, sum_tolerance

# Beyond so many standard deviations from it, 0 carries no weight in float64.
_FARTHEST = 60.0

__all__ = [
    "EStep",
    "GMMResult",
    "Mixture",
    "em_rate",
    "fit_gmm",
    "fit_spherical_gmm",
    "gmm_e_step",
    "gmm_log_joint",
    "gmm_log_prior",
    "gmm_m_step",
    "joint_kl",
    "linkage_em_step",
    "linkage_mle",
    "linkage_rate",
    "plsa_em_step",
    "soft_kmeans_energy",
    "symmetric_mixture_population",
    "symmetric_mixture_rate",
    "symmetric_mixture_step",
]


def joint_kl(p_x: Tensor, q_y_given_x: Tensor, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return KL(p̃(x) q(y|x) ‖ p(x, y)) and its two parts, in nats.

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
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, or a distribution is negative or not normalised.

    Source: Csiszár and Tusnády, Information Geometry and Alternating Minimization, 1984.

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
    check_distribution(p_x=p_x)
    check_distribution(q_y_given_x=q_y_given_x)
    if not bool((joint > 0).all()):
        raise ValueError(f"joint must be positive, got smallest entry {joint.min().item():g}")
    if joint.double().sum().item() > 1 + sum_tolerance(joint.dtype):
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


def plsa_em_step(counts: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return one EM step of pLSA, which never decreases Σ_iy C_iy log(AB)_iy.

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
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if shapes disagree, `counts` is negative or all zero, or rows of `a`
            or `b` are not distributions.

    Source: Hofmann, Probabilistic Latent Semantic Indexing, 1999.
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
    check_distribution(a=a)
    check_distribution(b=b)

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
    """Return the spectral radius of the Jacobian of an EM map at its fixed point.

    It is the factor by which the distance to the fixed point shrinks per step in the long run. By
    Dempster, Laird and Rubin the Jacobian is I - I_c⁻¹ I_obs, the fraction of missing information.

    Args:
        update: one step of EM, from a tensor of shape (p,) to one of the same shape, built from
            differentiable torch operations.
        theta_star: the fixed point, shape (p,). That it is one is not checked.

    Returns:
        The largest modulus of an eigenvalue.

    Raises:
        TypeError: if `theta_star` is not a floating-point tensor.
        ValueError: if `theta_star` or the value of `update` has the wrong shape.

    Source: Dempster, Laird, Rubin, 1977, section 3.
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
    """Return one EM step for Rao's linkage data.

    Cells have probabilities (1/2 + θ/4, (1-θ)/4, (1-θ)/4, θ/4); the latent variable splits the
    first into 1/2 and θ/4. M(θ) = (x + d) / (x + b + c + d) with x = a θ / (2 + θ).

    Args:
        theta: θ in [0, 1], any shape.
        counts: the four cell counts (a, b, c, d), non-negative, with b + c > 0.

    Returns:
        The new θ, of the same shape.

    Raises:
        TypeError: if `theta` is not a floating-point tensor.
        ValueError: if `theta` leaves [0, 1] or `counts` is not as described.

    Source: Rao, Linear Statistical Inference and its Applications, 1965; Dempster, Laird,
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
    """Return the maximum-likelihood θ of Rao's linkage data, the fixed point of `linkage_em_step`.

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
    """Return the rate M'(θ*) at which EM converges on Rao's linkage data, in closed form.

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
    """Return one EM step M(m) = mean_n x_n tanh(m x_n) for ½N(-m, 1) + ½N(m, 1).

    Args:
        m: current means, any shape; each entry is a step of its own.
        x: data, shape (N,).

    Returns:
        The new means, of the shape of `m`.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if `x` is not one-dimensional or empty.

    Source: Balakrishnan, Wainwright, Yu, arXiv:1408.2156.
    """
    check_floating(m=m, x=x)
    if x.ndim != 1 or x.numel() == 0:
        raise ValueError(f"x must have shape (N,) with N >= 1, got {tuple(x.shape)}")
    unit = power_of_two(x.abs().max())
    wide = x.double()
    mean = torch.tanh(m.double()[..., None] * wide) @ (wide / unit) / len(x) * unit
    return mean.to(x.dtype)


def symmetric_mixture_population(m: float, mu: float) -> float:
    """Return the population EM map E[x tanh(m x)] for data from ½N(-μ, 1) + ½N(μ, 1).

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
    """Return the slope M'(m) = E[x² sech²(m x)] of `symmetric_mixture_population`.

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


def _rows_or(rows: Tensor, fallback: Tensor) -> Tensor:
    """Normalise rows to sum 1; a row of zeros is replaced by the fallback's."""
    total = rows.sum(-1, keepdim=True)
    return torch.where(total > 0, rows / total, fallback)


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
