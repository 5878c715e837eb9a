"""Noise schedules: how much of the data is left, and how much noise there is, at each time.

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
from typing import TypeVar

import torch
from torch import Tensor

from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.precision import widened

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

    Example:
        >>> schedule = NoiseSchedule.cosine(0)
        >>> round(schedule.alpha_bar(0.5), 6), round(schedule.sigma(0.5), 6)
        (0.707107, 1.0)
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
