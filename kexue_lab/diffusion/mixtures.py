"""Gaussian mixtures: data whose diffused densities, scores and denoisers are known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kexue_lab.precision import holds, narrowed
from kexue_lab.validation import check_floating


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

    Example:
        >>> weights, means = torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]])
        >>> data = GaussianMixture(weights, means, torch.tensor([0.04, 0.04]))
        >>> data.posterior_mean(torch.tensor([[0.5]]), alpha_bar=0.6, beta_bar=0.8)
        tensor([[0.4377]])
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
