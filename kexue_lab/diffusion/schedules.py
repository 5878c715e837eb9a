"""Noise schedules, and data whose diffused densities are known exactly: Gaussian mixtures.

Convention of the series: p(x_t | x_0) = N(ᾱ_t x_0, β̄_t² I) with ᾱ_t² + β̄_t² = 1 and t in [0, 1].
DDPM's ᾱ_t is the square ᾱ_t² of ours; the score is −ε/β̄_t; EDM's noise level is σ = β̄_t/ᾱ_t.
The variance-preserving SDE with these kernels is dx = f_t x dt + g_t dw with f_t = d ln ᾱ_t/dt and
g_t² = −2 f_t (Song et al., "Score-Based Generative Modeling through SDEs", arXiv:2011.13456).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from kexue_lab.precision import holds, narrowed, widened
from kexue_lab.validation import check_floating

Score = Callable[[Tensor, float], Tensor]
"""A score model: points (B, d) and one time to ∇ log p_t at these points, (B, d)."""

Number = TypeVar("Number", float, Tensor)


def _evaluate(function: Callable[[Tensor], Tensor], name: str, value: Number) -> Number:
    """Apply a tensor function to a float (in float64) or to a tensor."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
        return function(widened(value)).to(value.dtype)
    if not isinstance(value, float | int):
        raise TypeError(f"{name} must be a float or a tensor, got {type(value).__name__}")
    return float(function(torch.tensor(value, dtype=torch.float64)))


@dataclass(frozen=True)
class NoiseSchedule(ABC):
    """A variance-preserving schedule ᾱ_t, β̄_t = √(1 − ᾱ_t²) on t in [0, 1].

    Make one with `NoiseSchedule.linear` or `NoiseSchedule.cosine`. Every method takes a float and
    returns a float, or takes a floating-point tensor and keeps its shape, dtype and device; each is
    accurate to rounding near t = 0 also, and infinite where it is beyond the dtype. Call the
    methods outside `torch.func.vmap`: they look at the values of t to validate them.

    Raises:
        ValueError: (all methods) if t is outside [0, 1] or not a number.
        TypeError: (all methods) if t is neither a float nor a floating-point tensor.
    """

    @staticmethod
    def linear(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
        """Return the schedule whose rate grows linearly, g_t² = β_min + (β_max − β_min) t.

        ᾱ_t = exp(−¼ (β_max − β_min) t² − ½ β_min t); `linear(0, 20)` is exp(−5t²).
        Source: Song et al., arXiv:2011.13456, equation 33.

        Raises:
            ValueError: unless 0 ≤ beta_min ≤ beta_max < ∞ and beta_max > 0.
        """
        return _LinearSchedule(beta_min, beta_max)

    @staticmethod
    def cosine(offset: float = 0.008) -> NoiseSchedule:
        """Return the schedule ᾱ_t = cos(½π (t + o)/(1 + o)) / cos(½π o/(1 + o)), o the offset.

        Offset 0 gives cos(½πt). ᾱ_1 = 0 exactly, so at t = 1 drift, rate and σ are infinite.
        Source: Nichol & Dhariwal, arXiv:2102.09672, equation 17.

        Raises:
            ValueError: if offset is negative or not finite.
        """
        return _CosineSchedule(offset)

    @abstractmethod
    def _alpha_bar(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _beta_bar(self, t: Tensor) -> Tensor: ...

    def _sigma(self, t: Tensor) -> Tensor:
        return self._beta_bar(t) / self._alpha_bar(t)

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2 * (self._alpha_bar(t).log() - self._beta_bar(t).log())

    @abstractmethod
    def _drift(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _time(self, sigma: Tensor) -> Tensor: ...

    def _at(self, function: Callable[[Tensor], Tensor], t: Number) -> Number:
        def checked(times: Tensor) -> Tensor:
            if not ((times >= 0) & (times <= 1)).all():
                raise ValueError(f"t must lie in [0, 1], got {t}")
            return function(times)

        return _evaluate(checked, "t", t)

    def alpha_bar(self, t: Number) -> Number:
        """Return ᾱ_t, the factor by which the data is shrunk at time t."""
        return self._at(self._alpha_bar, t)

    def beta_bar(self, t: Number) -> Number:
        """Return β̄_t = √(1 − ᾱ_t²), the standard deviation of the noise at time t."""
        return self._at(self._beta_bar, t)

    def drift(self, t: Number) -> Number:
        """Return f_t = d ln ᾱ_t/dt, the coefficient of the linear drift f_t x."""
        return self._at(self._drift, t)

    def diffusion_squared(self, t: Number) -> Number:
        """Return g_t² = dβ̄_t²/dt − 2 f_t β̄_t², which is −2 f_t here."""
        return self._at(lambda times: -2 * self._drift(times), t)

    def sigma(self, t: Number) -> Number:
        """Return the noise level σ = β̄_t/ᾱ_t, increasing in t (EDM's variable)."""
        return self._at(self._sigma, t)

    def log_snr(self, t: Number) -> Number:
        """Return log(ᾱ_t²/β̄_t²), the log signal-to-noise ratio; it is infinite at t = 0."""
        return self._at(self._log_snr, t)

    def t_from_sigma(self, sigma: Number) -> Number:
        """Return the time t at which β̄_t/ᾱ_t equals `sigma` (closed form, inverse of `sigma`).

        Raises:
            ValueError: if sigma is negative, not a number, or beyond `sigma(1)`.
            TypeError: if sigma is neither a float nor a floating-point tensor.
        """

        def inverse(levels: Tensor) -> Tensor:
            times = self._time(levels)
            rounding = 16 * torch.finfo(levels.dtype).eps
            if not ((levels >= 0) & (times <= 1 + rounding)).all():
                raise ValueError(f"sigma must lie in [0, {self.sigma(1.0):g}], got {sigma}")
            return times.clamp(max=1)

        return _evaluate(inverse, "sigma", sigma)

    def times(self, n: int, t_max: float = 1.0, t_min: float = 0.0) -> Tensor:
        """Return n + 1 equally spaced times falling from `t_max` to `t_min`, (n+1,) float64.

        Raises:
            ValueError: if n < 1, or unless 0 ≤ t_min < t_max ≤ 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if not 0 <= t_min < t_max <= 1:
            raise ValueError(f"t_min and t_max must satisfy 0 <= {t_min} < {t_max} <= 1")
        return torch.linspace(t_max, t_min, n + 1, dtype=torch.float64)


def _root(product: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """√product, or √a √b where the product ab is so small that it loses its digits."""
    safe = torch.where(product > 0, product, 1)
    lost = product < 1e10 * torch.finfo(product.dtype).tiny
    return torch.where(lost, a.sqrt() * b.sqrt(), safe.sqrt())


@dataclass(frozen=True)
class _LinearSchedule(NoiseSchedule):
    """g_t² = β_min + (β_max − β_min) t; with B its integral, ᾱ² = e^{−B} and σ² = e^B − 1."""

    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min <= self.beta_max < math.inf or self.beta_max == 0:
            raise ValueError(
                "beta_min and beta_max must satisfy 0 <= beta_min <= beta_max and beta_max > 0, "
                f"got {self.beta_min} and {self.beta_max}"
            )

    def _rate(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _alpha_bar(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._integral(t))

    def _beta_bar(self, t: Tensor) -> Tensor:
        mean_rate = self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t
        return _root(-torch.expm1(-self._integral(t)), t, mean_rate)

    def _log_snr(self, t: Tensor) -> Tensor:
        # ᾱ itself may underflow where ln ᾱ² = −B does not.
        return -self._integral(t) - 2 * self._beta_bar(t).log()

    def _drift(self, t: Tensor) -> Tensor:
        return -0.5 * self._rate(t)

    def _time(self, sigma: Tensor) -> Tensor:
        # The root of ½Δt² + β_min t = B in the form that does not cancel for small B;
        # the clamp makes it 0, not 0/0, at B = 0 when β_min = 0.
        integral = torch.log1p(sigma**2)
        rate = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + rate).clamp_min(torch.finfo(sigma.dtype).tiny)


@dataclass(frozen=True)
class _CosineSchedule(NoiseSchedule):
    """ᾱ = cos(ωt + φ)/cos φ with φ = ½πo/(1 + o) and ω = ½π − φ."""

    offset: float

    def __post_init__(self) -> None:
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"offset must be non-negative and finite, got {self.offset}")

    @property
    def _omega(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    @property
    def _phi(self) -> float:
        return self._omega * self.offset

    def _alpha_bar(self, t: Tensor) -> Tensor:
        # cos(ωt + φ) = sin(ω(1 − t)), which is exactly 0 at t = 1.
        return torch.sin(self._omega * (1 - t)) / math.cos(self._phi)

    def _beta_bar(self, t: Tensor) -> Tensor:
        # cos²φ − cos²(ωt + φ) = sin(ωt) sin(ωt + 2φ), which does not cancel near t = 0.
        angle = self._omega * t
        near, far = torch.sin(angle), torch.sin(angle + 2 * self._phi)
        return _root(near * far, near, far) / math.cos(self._phi)

    def _drift(self, t: Tensor) -> Tensor:
        return -self._omega / torch.tan(self._omega * (1 - t))

    def _time(self, sigma: Tensor) -> Tensor:
        # With ψ = arctan σ and θ = ωt + φ: cos θ = cos φ cos ψ. The sine of θ − φ is written
        # without cancellation; the clamp makes it 0, not 0/0, at σ = 0 when φ = 0.
        psi = torch.atan(sigma)
        cos_phi, sin_phi = math.cos(self._phi), math.sin(self._phi)
        sin_theta = torch.sqrt(sin_phi**2 + (cos_phi * psi.sin()) ** 2)
        denominator = (sin_theta + sin_phi * psi.cos()).clamp_min(torch.finfo(sigma.dtype).tiny)
        sine = cos_phi * psi.sin() ** 2 / denominator
        cosine = cos_phi**2 * psi.cos() + sin_phi * sin_theta
        return torch.atan2(sine, cosine) / self._omega


class _Diffused(NamedTuple):
    """A mixture after x_t = ᾱx_0 + β̄ε, seen from given points."""

    alpha_bar: Tensor  # (1, 1) or (B, 1)
    beta_bar: Tensor  # (1, 1) or (B, 1)
    variances: Tensor  # (1, K) or (B, K): ᾱ²v_k + β̄²
    residuals: Tensor  # (B, K, d): x − ᾱμ_k
    log_joint: Tensor  # (B, K): log of w_k N(x; ᾱμ_k, ᾱ²v_k + β̄²)
    centres: Tensor  # (1, K, d) or (B, K, d): ᾱμ_k
    offsets: Tensor  # (1, K) or (B, K): log_joint without the squared residuals

    def responsibilities(self) -> Tensor:
        """The probabilities of the components, (B, K), also far out, where squares would cancel.

        With z_k = (x − ᾱμ_k)/s_k and r the likeliest one, z_k² − z_r² = (z_k − z_r)·(z_k + z_r)
        and z_k − z_r = z_r (s_r/s_k − 1) + ᾱ(μ_r − μ_k)/s_k.
        """
        if not holds(self.log_joint.amax(-1) > -math.inf):
            raise ValueError("x must lie within 1e150 standard deviations of a component")
        rows, best = torch.arange(len(self.log_joint)), self.log_joint.argmax(-1)
        scales = self.variances.sqrt().expand(self.log_joint.shape)
        centres = self.centres.expand(self.residuals.shape)
        own = scales[rows, best][:, None]
        z = self.residuals[rows, best] / own
        gap = z[:, None] * (own / scales - 1)[..., None]
        gap = gap + (centres[rows, best][:, None] - centres) / scales[..., None]
        further = (gap * (gap + 2 * z[:, None])).sum(-1)
        return (self.offsets - 0.5 * further).softmax(-1)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """The mixture Σ_k w_k N(μ_k, v_k I) in d dimensions, and everything exact about its diffusion.

    All methods but `sample` speak about x_t = ᾱx_0 + β̄ε, where `alpha_bar` and `beta_bar` are
    numbers or tensors of shape (B,), one for each point; the defaults 1 and 0 mean the data itself.
    Any pair is allowed, not only ᾱ² + β̄² = 1: (1, σ) is the variance-exploding process. Points x
    have shape (B, d); results keep their dtype and device. Zero variances (points) are allowed
    wherever β̄ > 0. Source: Gaussian conditioning; e.g. Bishop, "Pattern Recognition", 2.3.

    Args:
        weights: (K,), non-negative, of sum 1.
        means: (K, d).
        variances: (K,), non-negative; component k has covariance v_k I.

    Raises:
        ValueError: if shapes disagree, or weights, means or variances are out of range; in the
            methods, if x is not (B, d), alpha_bar or beta_bar is negative, not finite or neither a
            number nor (B,), or a component of x_t has variance 0.
        TypeError: if an argument is not a floating-point tensor, or the dtypes disagree.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def __post_init__(self) -> None:
        check_floating(weights=self.weights, means=self.means, variances=self.variances)
        if self.means.ndim != 2 or 0 in self.means.shape:
            raise ValueError(f"means must have shape (K, d), got {tuple(self.means.shape)}")
        for name, value in (("weights", self.weights), ("variances", self.variances)):
            if value.shape != self.means.shape[:1]:
                raise ValueError(
                    f"{name} must have shape ({len(self.means)},), got {tuple(value.shape)}"
                )
            if not (value >= 0).all() or not value.isfinite().all():
                raise ValueError(f"{name} must be non-negative and finite, got {value.tolist()}")
        if not self.means.isfinite().all():
            raise ValueError(f"means must be finite, got {self.means.tolist()}")
        total = float(self.weights.sum())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"weights must sum to 1, got sum {total:g}")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points of the data, (n, d) in the dtype of the means.

        Raises:
            ValueError: if n < 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        means = self.means[chosen]
        noise = torch.randn(
            means.shape, generator=generator, dtype=means.dtype, device=means.device
        )
        return means + self.variances[chosen].sqrt()[:, None] * noise

    def log_prob(
        self, x: Tensor, alpha_bar: float | Tensor = 1.0, beta_bar: float | Tensor = 0.0
    ) -> Tensor:
        """Return log p(x_t) at x, (B,)."""
        log_prob = self._diffuse(x, alpha_bar, beta_bar).log_joint.logsumexp(-1)
        return narrowed(log_prob, x.dtype, "the log density")

    def cdf(
        self, x: Tensor, alpha_bar: float | Tensor = 1.0, beta_bar: float | Tensor = 0.0
    ) -> Tensor:
        """Return the distribution function P(x_t ≤ x) in one dimension, (B, 1) to (B,).

        Raises:
            ValueError: if the mixture is not one-dimensional.
        """
        if self.means.shape[1] != 1:
            raise ValueError(f"means must have d = 1 for a cdf, got d = {self.means.shape[1]}")
        diffused = self._diffuse(x, alpha_bar, beta_bar)
        # erfc keeps its relative accuracy in the lower tail, torch.special.ndtr does not.
        below = 0.5 * torch.erfc(-diffused.residuals[..., 0] / (2 * diffused.variances).sqrt())
        return (self.weights.to(below) * below).sum(-1).clamp(max=1).to(x.dtype)

    def score(
        self, x: Tensor, alpha_bar: float | Tensor = 1.0, beta_bar: float | Tensor = 0.0
    ) -> Tensor:
        """Return ∇ log p(x_t) at x, (B, d)."""
        diffused = self._diffuse(x, alpha_bar, beta_bar)
        pull = diffused.responsibilities() / diffused.variances
        return narrowed(-(pull[..., None] * diffused.residuals).sum(1), x.dtype, "the score")

    def noise(
        self, x: Tensor, alpha_bar: float | Tensor = 1.0, beta_bar: float | Tensor = 0.0
    ) -> Tensor:
        """Return E[ε | x_t = x] = −β̄ ∇ log p(x_t), (B, d): the ideal noise network."""
        check_floating(x=x)
        score = self.score(x.double(), alpha_bar, beta_bar)
        noise = -_column("beta_bar", beta_bar, x).double() * score
        return narrowed(noise, x.dtype, "the noise")

    def posterior_mean(
        self, x: Tensor, alpha_bar: float | Tensor = 1.0, beta_bar: float | Tensor = 0.0
    ) -> Tensor:
        """Return E[x_0 | x_t = x], (B, d): the ideal denoiser."""
        diffused = self._diffuse(x, alpha_bar, beta_bar)
        means = self._conditional_means(diffused)
        mean = (diffused.responsibilities()[..., None] * means).sum(1)
        return narrowed(mean, x.dtype, "the posterior mean")

    def posterior_cov(
        self, x: Tensor, alpha_bar: float | Tensor = 1.0, beta_bar: float | Tensor = 0.0
    ) -> Tensor:
        """Return Cov[x_0 | x_t = x], (B, d, d): within components plus between them."""
        diffused = self._diffuse(x, alpha_bar, beta_bar)
        weights = diffused.responsibilities()
        means = self._conditional_means(diffused)
        centred = means - (weights[..., None] * means).sum(1, keepdim=True)
        between = torch.einsum("bk,bki,bkj->bij", weights, centred, centred)
        within = weights * self.variances.to(weights) * diffused.beta_bar**2 / diffused.variances
        identity = torch.eye(x.shape[1], dtype=weights.dtype, device=x.device)
        covariance = between + within.sum(-1)[:, None, None] * identity
        return narrowed(covariance, x.dtype, "the posterior covariance")

    def _conditional_means(self, diffused: _Diffused) -> Tensor:
        """E[x_0 | x_t = x, component k], (B, K, d)."""
        gain = diffused.alpha_bar * self.variances.to(diffused.variances) / diffused.variances
        return self.means.to(diffused.residuals) + gain[..., None] * diffused.residuals

    def _diffuse(self, x: Tensor, alpha_bar: float | Tensor, beta_bar: float | Tensor) -> _Diffused:
        d = self.means.shape[1]
        check_floating(x=x)
        if x.ndim != 2 or x.shape[1] != d:
            raise ValueError(f"x must have shape (B, {d}), got {tuple(x.shape)}")
        x = x.double()
        alpha = _column("alpha_bar", alpha_bar, x)
        beta = _column("beta_bar", beta_bar, x)
        variances = alpha**2 * self.variances.to(x) + beta**2
        if not (variances > 0).all():
            raise ValueError(f"beta_bar must be positive for components of variance 0: {beta_bar}")
        centres = alpha[..., None] * self.means.to(x)
        residuals = x[:, None, :] - centres
        offsets = self.weights.to(x).log() - 0.5 * d * torch.log(2 * math.pi * variances)
        log_joint = offsets - 0.5 * residuals.square().sum(-1) / variances
        return _Diffused(alpha, beta, variances, residuals, log_joint, centres, offsets)


def marginal_score(mixture: GaussianMixture, schedule: NoiseSchedule) -> Score:
    """Return the exact score (x: (B, d), t) ↦ ∇ log p_t(x), (B, d), of a diffused mixture.

    Source: p_t is again a Gaussian mixture, of means ᾱ_t μ_k and variances ᾱ_t² v_k + β̄_t².

    Example:
        >>> weights, means = torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]])
        >>> data = GaussianMixture(weights, means, torch.tensor([0.04, 0.04]))
        >>> marginal_score(data, NoiseSchedule.cosine())(torch.tensor([[0.5]]), 0.0)
        tensor([[12.5000]])
    """

    def score(x: Tensor, t: float) -> Tensor:
        return mixture.score(x, schedule.alpha_bar(t), schedule.beta_bar(t))

    return score


def _column(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """A coefficient as (1, 1) or (B, 1), in the dtype and on the device of x."""
    column = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if column.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"{name} must be a number or have shape ({len(x)},), got {tuple(column.shape)}"
        )
    if not (column >= 0).all() or not column.isfinite().all():
        raise ValueError(f"{name} must be non-negative and finite, got {value}")
    return column.reshape(-1, 1)
