"""Gradients of an expectation over a discrete variable: Gumbel noise, relaxation, score function.

p = softmax(θ) over K classes, G_k independent Gumbel variables (distribution exp(−e^{−g})):
argmax(θ + G) has the law p exactly, softmax((θ + G)/τ) is its relaxation (the Concrete law).
With f_k = f(e_k) and J = Σ p_k f_k the exact gradient is ∂J/∂θ_k = p_k (f_k − J).
Sources: kexue.fm/archives/6705; Jang, Gu, Poole, arXiv:1611.01144; Maddison, Mnih, Teh,
arXiv:1611.00712; Williams, "Simple statistical gradient-following algorithms", 1992.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from scipy.integrate import quad
from torch import Tensor

from kexue_lab.precision import narrowed, over, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_positive,
)

Baseline = Literal["none", "mean", "optimal", "leave_one_out"]


class RelaxationMoments(NamedTuple):
    """Exact moments of a binary relaxation y = σ((l + Λ)/τ), Λ logistic.

    `mean` is E y, `slope` is d E y/dl (the mean of the per-sample gradient σ'((l + Λ)/τ)/τ), and
    `second_moment` is that of the per-sample gradient.
    """

    mean: float
    slope: float
    second_moment: float


def sample_gumbel(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw standard Gumbel noise −log E, E ~ Exp(1); every entry is finite.

    The same law as −log(−log U), but −log U is infinite at U = 0 and rounds to 0 near U = 1: with
    float32 uniforms the upper tail would stop near 16.6.

    Args:
        shape: of the result.
        generator: source of randomness; torch's global one by default.
        dtype: floating point; torch's default if None.
        device: torch's default if None.

    Raises:
        TypeError: if dtype is not floating point.
        ValueError: if shape has a negative entry.

    Source: Maddison, Mnih, Teh, arXiv:1611.00712, section 2.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating point, got {dtype}")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape must be non-negative, got {tuple(shape)}")
    result = torch.empty(tuple(shape), dtype=dtype, device=device)
    # Half precision has no exponentials small enough for the upper tail.
    exponential = torch.empty_like(result, dtype=widened(result).dtype)
    exponential.exponential_(generator=generator)
    return -exponential.clamp_min(torch.finfo(exponential.dtype).tiny).log().to(result.dtype)


def gumbel_max(
    logits: Tensor, *, n_samples: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw classes from softmax(logits) over the last axis: the argmax of logits + Gumbel noise.

    Args:
        logits: (..., K), −inf allowed for impossible classes.
        n_samples: None for one draw, else the size of a new first axis.
        generator: source of randomness.

    Returns:
        (...) or (n_samples, ...), int64.

    Raises:
        TypeError: if logits is not a floating-point tensor, or n_samples not an integer.
        ValueError: if logits is empty, has nan or +inf, or n_samples < 1.

    Source: Yellott, "The relationship between Luce's choice axiom …", 1977.

    Example:
        >>> gumbel_max(torch.tensor([0.0, 100.0]))
        tensor(1)
    """
    _check_logits(logits)
    if n_samples is not None:
        check_count(n_samples=n_samples)
    shape = logits.shape if n_samples is None else (n_samples, *logits.shape)
    wide = _from_largest(widened(logits))
    noise = sample_gumbel(shape, generator=generator, dtype=wide.dtype, device=logits.device)
    return (wide + noise).argmax(-1)


def gumbel_softmax(
    logits: Tensor,
    tau: float = 1.0,
    *,
    hard: bool = False,
    generator: torch.Generator | None = None,
    gumbels: Tensor | None = None,
) -> Tensor:
    """Draw from the Gumbel-softmax law over the last axis: softmax((logits + G)/τ).

    As `torch.nn.functional.gumbel_softmax`, with a generator or the noise itself as an argument.

    Args:
        logits: (..., K).
        tau: temperature τ > 0.
        hard: return one-hot vectors whose gradient is that of the soft ones (straight-through,
            Bengio et al., arXiv:1308.3432).
        generator: source of randomness.
        gumbels: the noise G, of the shape of logits; drawn if None.

    Raises:
        TypeError: if logits or gumbels is not a floating-point tensor, or their dtypes disagree.
        ValueError: if tau ≤ 0, logits has nan or +inf, or gumbels has another shape.

    Example:
        >>> gumbel_softmax(torch.tensor([1.0, 0.0]), 0.5, gumbels=torch.zeros(2))
        tensor([0.8808, 0.1192])
    """
    _check_logits(logits)
    check_positive(tau=tau)
    if gumbels is None:
        gumbels = sample_gumbel(
            logits.shape, generator=generator, dtype=logits.dtype, device=logits.device
        )
    check_finite(gumbels=gumbels)
    check_floating(logits=logits, gumbels=gumbels)
    if gumbels.shape != logits.shape:
        raise ValueError(
            f"gumbels must have the shape of logits, {tuple(logits.shape)}, "
            f"got {tuple(gumbels.shape)}"
        )
    noisy = widened(logits) + widened(gumbels)
    # From the largest: divided first, near ties would lose their digits, or all leave the dtype.
    soft = over(noisy - noisy.detach().amax(-1, keepdim=True), tau).softmax(-1).to(logits.dtype)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    # In this order the value is one-hot exactly: the difference of equal numbers is 0.
    return one_hot + (soft - soft.detach())


def concrete_log_prob(y: Tensor, logits: Tensor, tau: float) -> Tensor:
    """Return the log density of the Gumbel-softmax law at y, with respect to K − 1 coordinates.

    p(y) = Γ(K) τ^{K−1} Π α_k y_k^{−τ−1} / (Σ α_k y_k^{−τ})^K with α = e^logits; adding a constant
    to the logits changes nothing.

    Args:
        y: (..., K), inside the simplex.
        logits: (..., K), broadcast against y.
        tau: temperature τ > 0.

    Returns:
        (...).

    Raises:
        TypeError: if y or logits is not a floating-point tensor, or their dtypes disagree.
        ValueError: if tau ≤ 0, logits has nan or +inf, the shapes do not broadcast, or y is not
            positive with sum 1.

    Source: Maddison, Mnih, Teh, arXiv:1611.00712, equation 10.
    """
    check_floating(y=y, logits=logits)
    _check_logits(logits)
    check_positive(tau=tau)
    if y.shape[-1:] != logits.shape[-1:]:
        raise ValueError(f"y must have shape (..., {logits.shape[-1]}), got {tuple(y.shape)}")
    tolerance = 16 * y.shape[-1] * torch.finfo(y.dtype).eps
    if not ((y > 0).all() and ((y.sum(-1) - 1).abs() <= tolerance).all()):
        raise ValueError("y must be positive with sum 1 over its last axis")
    k = y.shape[-1]
    log_y, wide = y.double().log(), logits.double()
    wide = wide - wide.detach().amax(-1, keepdim=True)
    density = (
        math.lgamma(k)
        + (k - 1) * math.log(tau)
        + (wide - (tau + 1) * log_y).sum(-1)
        - k * (wide - tau * log_y).logsumexp(-1)
    )
    return density.to(y.dtype)


def exact_gradient(logits: Tensor, values: Tensor) -> Tensor:
    """Return ∂/∂θ of J = Σ p_k f_k, which is p_k (f_k − J), (K,).

    Args:
        logits: θ, (K,).
        values: f, (K,): the function at the one-hot vectors.

    Raises:
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
        ValueError: if the shapes disagree, logits has nan or +inf, or values is not finite.

    Example:
        >>> exact_gradient(torch.zeros(2), torch.tensor([1.0, 3.0]))
        tensor([-0.5000,  0.5000])
    """
    p = _distribution(logits, values)
    # The gradient does not change with a constant, which would cancel.
    wide = values.double() - values[p.argmax()].double()
    return narrowed(p * (wide - p @ wide), values.dtype, "the gradient")


def score_function_variance(logits: Tensor, values: Tensor, baseline: float = 0.0) -> Tensor:
    """Return tr Cov of one score-function sample (f_z − b)(e_z − p), by enumeration, a scalar.

    Args:
        logits: θ, (K,).
        values: f, (K,).
        baseline: b, a constant; it leaves the mean as it is.

    Raises:
        TypeError, ValueError: as `exact_gradient`; ValueError also if baseline is not finite.

    Example:
        >>> score_function_variance(torch.zeros(2), torch.tensor([1.0, 3.0]))
        tensor(2.)
    """
    p = _distribution(logits, values)
    if not math.isfinite(baseline):
        raise ValueError(f"baseline must be finite, got {baseline}")
    samples = (values.double() - baseline)[:, None] * _scores(p)
    variance = p @ (samples - p @ samples).square().sum(-1)
    return narrowed(variance, values.dtype, "the variance")


def optimal_baseline(logits: Tensor, values: Tensor) -> Tensor:
    """Return the constant b of least `score_function_variance`, a scalar.

    It is the mean of f under weights p_z ‖e_z − p‖², not under p.

    Raises:
        TypeError, ValueError: as `exact_gradient`; ValueError also if p has one class only.

    Example:
        >>> optimal_baseline(torch.zeros(3), torch.tensor([1.0, 2.0, 6.0]))
        tensor(3.)
    """
    p = _distribution(logits, values)
    weights = p * _scores(p).square().sum(-1)
    if not weights.sum() > 0:
        raise ValueError("logits must leave at least two classes possible: the score is 0")
    return narrowed(weights @ values.double() / weights.sum(), values.dtype, "the baseline")


def score_function_gradient(
    logits: Tensor,
    f: Callable[[Tensor], Tensor],
    n_samples: int,
    *,
    baseline: Baseline = "none",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimate ∂/∂θ E f(z), z ~ softmax(θ), by the mean of (f(z) − b)(e_z − p) over samples, (K,).

    Unbiased for each baseline: "none" (b = 0), "mean" (b = J) and "optimal" are constants found by
    enumeration; "leave_one_out" takes for each sample the mean of f over the others.

    Args:
        logits: θ, (K,).
        f: from one-hot vectors (N, K) to (N,).
        n_samples: N ≥ 1, at least 2 for "leave_one_out".
        baseline: see above.
        generator: source of randomness.

    Raises:
        TypeError: if logits is not a floating-point tensor, or n_samples not an integer.
        ValueError: if logits is not (K,) or has nan or +inf, n_samples is too small, the baseline
            is unknown, or f returns another shape.

    Source: Williams 1992; leave-one-out: Kool, van Hoof, Welling, "Buy 4 REINFORCE Samples, Get a
    Baseline for Free!", 2019.
    """
    _check_vector(logits)
    check_count(n_samples=n_samples)
    check_choice(Baseline, baseline=baseline)
    if baseline == "leave_one_out" and n_samples < 2:
        raise ValueError(f"n_samples must be at least 2 for leave_one_out, got {n_samples}")
    p = widened(logits).softmax(-1)
    one_hot = torch.eye(len(p), dtype=logits.dtype, device=p.device)
    chosen = gumbel_max(logits, n_samples=n_samples, generator=generator)
    values = f(one_hot[chosen])
    if values.shape != (n_samples,):
        raise ValueError(f"f must return shape ({n_samples},), got {tuple(values.shape)}")
    values = values.to(p.dtype)
    check_finite(f=values)
    if baseline == "leave_one_out":
        values = values - (values.sum() - values) / (n_samples - 1)
    elif baseline != "none":
        table = f(one_hot).to(p.dtype)
        check_finite(f=table)
        best = p @ table if baseline == "mean" else optimal_baseline(logits.to(p.dtype), table)
        values = values - best
    gradient = values @ _scores(p)[chosen] / n_samples
    return narrowed(gradient, logits.dtype, "the gradient")


def binary_relaxation_moments(l: float, tau: float) -> RelaxationMoments:  # noqa: E741 (the symbol of the mathematics)
    """Return exact mean, slope and second moment of the slope for K = 2, l = θ_1 − θ_2.

    By quadrature over w = (l + Λ)/τ, in which the integrands stay smooth as τ → 0.

    Args:
        l: difference of the two logits.
        tau: temperature τ > 0.

    Raises:
        ValueError: if tau ≤ 0 or l is not finite.

    Example:
        >>> m = binary_relaxation_moments(0.0, 1.0)
        >>> round(m.mean, 4), round(m.slope, 4)
        (0.5, 0.1667)
    """
    if not math.isfinite(l):
        raise ValueError(f"l must be finite, got {l}")
    check_positive(tau=tau)
    centre = l / tau
    if not tau > 1e-150 or not math.isfinite(abs(centre) + 40 / tau):
        raise ValueError(f"tau must be at least 1e-150 and l/tau finite, got {tau = }, {l = }")

    # Of the size of the mean and its slope, which are exponentially small for large |l|.
    smallest = 1e-13 * 4 * _logistic(l) * _logistic(-l)

    def integral(g: Callable[[float], float]) -> float:
        # In w the integrand is smooth and of unit width: density τ σ'(τw − l) dw.
        def integrand(w: float) -> float:
            s = tau * w - l
            return g(w) * tau * _logistic(s) * _logistic(-s)

        # Break points where g and where the density live; beyond them both are below e⁻⁴⁰.
        points = sorted({-40.0, 0.0, 40.0, centre, centre - 40 / tau, centre + 40 / tau})
        return math.fsum(
            quad(integrand, a, b, epsabs=smallest, epsrel=1e-11, limit=200)[0]
            for a, b in pairwise(points)
        )

    def slope(w: float) -> float:
        return _logistic(w) * _logistic(-w) / tau

    return RelaxationMoments(
        integral(_logistic), integral(slope), integral(lambda w: slope(w) ** 2)
    )


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _scores(p: Tensor) -> Tensor:
    """∇_θ log p_z for each class z: the rows of I − 1 pᵀ, (K, K)."""
    return torch.eye(len(p), dtype=p.dtype, device=p.device) - p


def _distribution(logits: Tensor, values: Tensor) -> Tensor:
    """softmax(logits), after checking both arguments."""
    check_floating(logits=logits, values=values)
    _check_vector(logits)
    if values.shape != logits.shape:
        shapes = f"{tuple(values.shape)} for logits {tuple(logits.shape)}"
        raise ValueError(f"values must have the shape of logits, got {shapes}")
    check_finite(values=values)
    return logits.double().softmax(-1)


def _from_largest(logits: Tensor) -> Tensor:
    """Logits of the same law of which the largest is 0: noise beside huge ones would be lost."""
    return logits - logits.detach().amax(-1, keepdim=True)


def _check_vector(logits: Tensor) -> None:
    _check_logits(logits)
    if logits.ndim != 1:
        raise ValueError(f"logits must have shape (K,), got {tuple(logits.shape)}")


def _check_logits(logits: Tensor) -> None:
    check_floating(logits=logits)
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"logits must have shape (..., K), got {tuple(logits.shape)}")
    # −inf is a class of probability 0; a row of nothing else has no law.
    if not bool((logits < math.inf).all()) or bool((logits.amax(-1) == -math.inf).any()):
        raise ValueError("logits must be below infinity, not nan, and not all -inf in a row")
