"""Skip-Tuning: weights on the skip connections of a trained U-Net, and what few-step samplers need.

EDM's variables: y = x_0 + σε, denoiser D(y, σ), slope d = (y − D)/σ (the predicted noise), and the
Euler step y' = y + (σ' − σ) d, which is DDIM. For Gaussian data everything is known exactly:
Euler's step loses variance, Heun's large steps gain it, and a gain on d can mend either.
Sources: Ma et al., "The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling",
arXiv:2402.15170; Karras et al., arXiv:2206.00364; kexue.fm/archives/10077.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kexue_lab.diffusion.diffusion_ode import sigma_grid
from kexue_lab.precision import narrowed, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_decreasing,
    check_finite,
    check_floating,
    check_non_negative,
    check_positive,
    check_precise,
)

Method = Literal["euler", "heun", "ancestral"]
Denoiser = Callable[[Tensor, float], Tensor]
"""A denoiser: noised data (B, …) and one noise level σ to E[x_0 | y], (B, …)."""


def skip_weights(n_skips: int, rho_bottom: float, rho_top: float = 1.0) -> tuple[float, ...]:
    """Return weights from ρ_top (the skip nearest the input) to ρ_bottom, equally spaced.

    Args:
        n_skips: number of skip connections, ≥ 1; a single one gets rho_bottom.
        rho_bottom: weight of the skip nearest the bottleneck.
        rho_top: weight of the skip nearest the input.

    Raises:
        TypeError: if n_skips is not an integer.
        ValueError: if n_skips < 1 or a weight is not finite.

    Source: arXiv:2402.15170, equation 3.

    Example:
        >>> skip_weights(3, 0.7)
        (1.0, 0.85, 0.7)
    """
    check_count(n_skips=n_skips)
    for name, value in (("rho_bottom", rho_bottom), ("rho_top", rho_top)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    if n_skips == 1:
        return (rho_bottom,)
    step = (rho_bottom - rho_top) / (n_skips - 1)
    return tuple(rho_top + i * step for i in range(n_skips))


class _Block(nn.Module):
    """Two convolutions with group normalisation, a time embedding between them, a residual sum."""

    def __init__(self, channels_in: int, channels_out: int, emb: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(4, channels_in),
            nn.SiLU(),
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
        )
        self.time = nn.Linear(emb, channels_out)
        self.second = nn.Sequential(
            nn.GroupNorm(4, channels_out),
            nn.SiLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.first(x) + self.time(emb)[:, :, None, None]
        result: Tensor = self.shortcut(x) + self.second(h)
        return result


class TinyUNet(nn.Module):
    """A U-Net for small images: three resolutions, four skip connections, zero output at the start.

    Args:
        channels: channels at full resolution, a multiple of 4; twice as many below.
        emb: size of the time embedding, even.
        in_channels: channels of the images.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if an argument is below 1, channels no multiple of 4, or emb odd.

    Source: Ronneberger, Fischer, Brox, "U-Net", arXiv:1505.04597.
    """

    n_skips = 4

    def __init__(self, channels: int = 16, emb: int = 32, in_channels: int = 1) -> None:
        check_count(channels=channels, emb=emb, in_channels=in_channels)
        if channels % 4 or emb % 2:
            raise ValueError(
                f"channels must be a multiple of 4 and emb even, got {channels} and {emb}"
            )
        super().__init__()
        c = channels
        self.frequencies: Tensor
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0, math.log(100), emb // 2)) / 2
        )
        self.embed = nn.Sequential(nn.Linear(emb, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.entry = nn.Conv2d(in_channels, c, 3, padding=1)
        self.high = _Block(c, c, emb)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.low = _Block(2 * c, 2 * c, emb)
        self.down2 = nn.Conv2d(2 * c, 2 * c, 3, stride=2, padding=1)
        self.middle = _Block(2 * c, 2 * c, emb)
        self.up_low1 = _Block(4 * c, 2 * c, emb)
        self.up_low2 = _Block(4 * c, 2 * c, emb)
        self.up_high1 = _Block(3 * c, c, emb)
        self.up_high2 = _Block(2 * c, c, emb)
        self.norm = nn.GroupNorm(4, c)
        self.exit = nn.Conv2d(c, in_channels, 3, padding=1)
        for parameter in self.exit.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, skip_weights: Sequence[float] | None = None) -> Tensor:
        """Return the network's output at images x, (B, C, H, W), and times t, (B,).

        Args:
            x: H and W divisible by 4.
            t: a number for each image, such as ¼ ln σ.
            skip_weights: four weights, the one nearest the input first; all 1 by default.

        Raises:
            ValueError: if x or t has another shape, or the weights are not four.
        """
        if x.ndim != 4 or x.shape[1] != self.entry.in_channels or x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError(
                f"x must have shape (B, {self.entry.in_channels}, H, W) with H and W divisible "
                f"by 4, got {tuple(x.shape)}"
            )
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must have shape ({len(x)},), got {tuple(t.shape)}")
        weights = (1.0,) * self.n_skips if skip_weights is None else tuple(skip_weights)
        if len(weights) != self.n_skips:
            raise ValueError(f"skip_weights must be {self.n_skips} numbers, got {len(weights)}")
        angles = t[:, None] * self.frequencies
        emb = self.embed(torch.cat([angles.sin(), angles.cos()], -1))

        s0 = self.entry(x)
        s1 = self.high(s0, emb)
        s2 = self.down1(s1)
        s3 = self.low(s2, emb)
        h = self.middle(self.down2(s3), emb)
        w0, w1, w2, w3 = weights
        h = nn.functional.interpolate(h, scale_factor=2.0)
        h = self.up_low1(torch.cat([h, w3 * s3], 1), emb)
        h = self.up_low2(torch.cat([h, w2 * s2], 1), emb)
        h = nn.functional.interpolate(h, scale_factor=2.0)
        h = self.up_high1(torch.cat([h, w1 * s1], 1), emb)
        h = self.up_high2(torch.cat([h, w0 * s0], 1), emb)
        result: Tensor = self.exit(nn.functional.silu(self.norm(h)))
        return result


def edm_denoise(
    net: nn.Module,
    x: Tensor,
    sigma: float | Tensor,
    *,
    sigma_data: float = 0.6,
    skip_weights: Sequence[float] | None = None,
) -> Tensor:
    """Return D(x, σ) = c_skip x + c_out F(c_in x, ¼ ln σ) of a network F, EDM's preconditioning.

    Args:
        net: F, called as net(x, t, skip_weights).
        x: images with noise of level σ, (B, C, H, W).
        sigma: σ > 0, a number or (B,).
        sigma_data: standard deviation of the data, σ_d.
        skip_weights: handed to the network.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if sigma is not positive or has another shape, or sigma_data is not positive.

    Source: Karras et al., arXiv:2206.00364, equation 7 and table 1.
    """
    check_floating(x=x)
    check_positive(sigma_data=sigma_data)
    levels = torch.as_tensor(sigma, dtype=widened(x).dtype, device=x.device)
    if levels.shape not in ((), x.shape[:1]):
        shape = tuple(levels.shape)
        raise ValueError(f"sigma must be a number or have shape ({len(x)},), got {shape}")
    check_finite(sigma=levels)
    if not (levels > 0).all():
        raise ValueError(f"sigma must be positive, got minimum {levels.min():g}")
    return _precondition(net, x, levels.expand(len(x)), sigma_data, skip_weights)


def _precondition(
    net: nn.Module,
    x: Tensor,
    sigma: Tensor,
    sigma_data: float,
    skip_weights: Sequence[float] | None = None,
) -> Tensor:
    """D(x, σ) for σ of shape (B,), without a look at σ's values, which `vmap` would not allow."""
    s, wide = sigma.reshape(-1, *(1,) * (x.ndim - 1)), widened(x)
    total = s**2 + sigma_data * sigma_data
    root = _root(s, total, sigma_data)
    out = net((wide / root).to(x.dtype), (sigma.log() / 4).to(x.dtype), skip_weights)
    data_power, product = sigma_data * sigma_data, s * sigma_data
    kept = torch.where(_is_normal(total), data_power / total, (sigma_data / root) ** 2)
    scale = torch.where(_is_normal(product), product / root, s * (sigma_data / root))
    denoised: Tensor = kept * wide + scale * out
    return denoised.to(x.dtype)


def _root(s: Tensor, total: Tensor, sigma_data: float) -> Tensor:
    """√(σ² + σ_d²), where the sum of squares may have left the dtype."""
    return torch.where(_is_normal(total), total.sqrt(), s.hypot(torch.full_like(s, sigma_data)))


def _is_normal(x: Tensor) -> Tensor:
    return (x > torch.finfo(x.dtype).tiny) & (x < math.inf)


def edm_batch(
    x0: Tensor,
    *,
    p_mean: float = -0.8,
    p_std: float = 1.3,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw noise levels ln σ ~ N(p_mean, p_std²) and noised data x_0 + σε for `edm_error`.

    Args:
        x0: data, (B, …).
        p_mean: mean of ln σ.
        p_std: standard deviation of ln σ, > 0.
        generator: source of σ and ε.

    Returns:
        noised data, (B, …), and σ, (B,).

    Raises:
        TypeError: if x0 is not a floating-point tensor.
        ValueError: if p_std is not positive.

    Source: Karras et al., arXiv:2206.00364, table 1.
    """
    check_floating(x0=x0)
    check_positive(p_std=p_std)

    wide = widened(x0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=wide.dtype, device=x0.device)

    sigma = (p_mean + p_std * normal(len(x0))).exp()
    noised = wide + sigma.reshape(-1, *(1,) * (x0.ndim - 1)) * normal(*x0.shape)
    return narrowed(noised, x0.dtype, "noised data"), narrowed(sigma, x0.dtype, "sigma")


def edm_error(
    net: nn.Module, x0: Tensor, noised: Tensor, sigma: Tensor, *, sigma_data: float = 0.6
) -> Tensor:
    """Return (σ² + σ_d²)/(σ σ_d)² ‖D(noised, σ) − x_0‖² per pixel for each image, (B,).

    The weight makes it ‖F − its target‖², of size 1 at the start.

    Args:
        net: F, as in `edm_denoise`.
        x0: data, (B, C, H, W).
        noised: x_0 + σε, (B, C, H, W).
        sigma: σ > 0, (B,); its values are not checked, so that `torch.func.vmap` can be used.
        sigma_data: standard deviation of the data, σ_d.

    Raises:
        TypeError: if a tensor is not floating point, or the dtypes disagree.
        ValueError: if shapes disagree, or sigma_data is not positive.

    Source: Karras et al., arXiv:2206.00364, equation 8.
    """
    check_floating(x0=x0, noised=noised, sigma=sigma)
    check_positive(sigma_data=sigma_data)
    if noised.shape != x0.shape or sigma.shape != x0.shape[:1]:
        raise ValueError(
            f"noised and sigma must have shapes {tuple(x0.shape)} and ({len(x0)},), "
            f"got {tuple(noised.shape)} and {tuple(sigma.shape)}"
        )
    sigma = widened(sigma)
    error = widened(_precondition(net, noised, sigma, sigma_data)) - widened(x0)
    total, small = sigma**2 + sigma_data * sigma_data, (sigma * sigma_data) ** 2
    weight = total / small
    # Where a square has left the dtype the error is weighted before it is squared.
    within = _is_normal(total) & _is_normal(small) & _is_normal(weight)
    before = torch.where(within, 1, _root(sigma, total, sigma_data) / sigma / sigma_data)
    weight = torch.where(within, weight, 1)
    return weight * (before.reshape(-1, *(1,) * (x0.ndim - 1)) * error).square().flatten(1).mean(1)


def edm_loss(
    net: nn.Module,
    x0: Tensor,
    *,
    p_mean: float = -0.8,
    p_std: float = 1.3,
    sigma_data: float = 0.6,
    generator: torch.Generator | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return EDM's training loss: `edm_error` on a batch drawn by `edm_batch`.

    Args:
        net: F, as in `edm_denoise`.
        x0: data, (B, C, H, W).
        p_mean: mean of ln σ.
        p_std: standard deviation of ln σ, > 0.
        sigma_data: standard deviation of the data.
        generator: source of σ and ε.
        reduction: "mean" over the batch, or "none" for one loss per image, (B,).

    Raises:
        TypeError: if x0 is not a floating-point tensor.
        ValueError: if p_std or sigma_data is not positive, or the reduction is unknown.

    Source: Karras et al., arXiv:2206.00364, equation 8 and table 1.
    """
    check_choice(Literal["mean", "none"], reduction=reduction)
    noised, sigma = edm_batch(x0, p_mean=p_mean, p_std=p_std, generator=generator)
    losses = edm_error(net, x0, noised, sigma, sigma_data=sigma_data)
    return losses.mean() if reduction == "mean" else losses


def karras_sigmas(
    n: int, sigma_min: float = 0.02, sigma_max: float = 20.0, rho: float = 7.0
) -> Tensor:
    """Return EDM's n noise levels from σ_max to σ_min, equally spaced in σ^{1/ρ}, then 0: (n+1,).

    Args:
        n: number of steps, ≥ 1; n = 1 gives (σ_max, 0).
        sigma_min: last level before 0.
        sigma_max: first level.
        rho: exponent.

    Raises:
        TypeError, ValueError: as `sigma_grid`.

    Source: Karras et al., arXiv:2206.00364, equation 5.

    Example:
        >>> karras_sigmas(3)
        tensor([20.0000,  1.4354,  0.0200,  0.0000], dtype=torch.float64)
    """
    check_count(n=n)
    grid = sigma_grid(max(n - 1, 1), sigma_min, sigma_max, rho=rho)[:n]
    return torch.cat([grid, grid.new_zeros(1)])


@torch.no_grad()
def sample_edm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    method: Method = "euler",
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample with a denoiser along decreasing noise levels; the slope (x − D)/σ is times `gain`.

    "euler" is DDIM, "heun" EDM's second-order sampler (Euler in a step to 0), "ancestral" draws
    noise in each step as DDPM does.

    Args:
        denoise: (x: (B, …), σ) ↦ E[x_0 | x].
        x: (B, …), noise scaled to sigmas[0].
        sigmas: (m,), m ≥ 2, strictly decreasing, ≥ 0; see `karras_sigmas`.
        method: see above.
        gain: factor on the predicted noise ("epsilon scaling", Ning et al., arXiv:2308.15321).
        generator: source of the noise of "ancestral".

    Returns:
        (B, …) at sigmas[-1], without gradients.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if sigmas do not decrease, the method is unknown, or gain is not positive.

    Source: Karras et al., arXiv:2206.00364, algorithm 1; k-diffusion's `sample_euler_ancestral`.
    """
    check_precise(x=x)
    levels = check_decreasing(sigmas=sigmas)
    check_positive(gain=gain)
    check_choice(Method, method=method)

    def slope(points: Tensor, sigma: float) -> Tensor:
        return gain * (points - denoise(points, sigma)) / sigma

    for sigma, following in pairwise(levels):
        d = slope(x, sigma)
        if method == "ancestral":
            up = following * math.sqrt((1 - following / sigma) * (1 + following / sigma))
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + (following * (following / sigma) - sigma) * d + up * noise
        elif method == "heun" and following > 0:
            ahead = slope(x + (following - sigma) * d, following)
            x = x + 0.5 * (following - sigma) * (d + ahead)
        else:
            x = x + (following - sigma) * d
    return x


def gaussian_gain(variance: float, sigma: float, sigma_next: float) -> float:
    """Return the gain on the slope with which an Euler step is exact for N(0, l), in (0, 1).

    c* = (√((l + σ'²)(l + σ²)) − (l + σ²)) / ((σ' − σ) σ).

    Args:
        variance: l > 0.
        sigma: σ > 0.
        sigma_next: σ' in [0, σ).

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> round(gaussian_gain(1.0, 2.0, 1.0), 4)
        0.9189
    """
    check_positive(variance=variance, sigma=sigma)
    check_non_negative(sigma_next=sigma_next)
    if sigma_next >= sigma:
        raise ValueError(f"sigma_next must be below sigma = {sigma}, got {sigma_next}")
    deviation = math.sqrt(variance)
    now, then = math.hypot(deviation, sigma), math.hypot(deviation, sigma_next)
    # With squares: √(now·then) − now = √now (then − now)/(√then + √now), which does not cancel.
    return now / (then + now) * ((sigma + sigma_next) / sigma)


def gaussian_path_variance(
    variances: Tensor,
    sigmas: Sequence[float] | Tensor,
    *,
    method: Literal["euler", "heun"] = "euler",
    gain: float = 1.0,
    start: Tensor | None = None,
) -> Tensor:
    """Return the exact variance of samples of independent Gaussian modes at sigmas[-1], (d,).

    Args:
        variances: l of each mode, (d,), positive.
        sigmas: (m,), m ≥ 2, strictly decreasing, ≥ 0.
        method: as in `sample_edm`.
        gain: as in `sample_edm`.
        start: variance at sigmas[0], (d,); sigmas[0]² by default, as a sampler starts.

    Raises:
        TypeError: if a tensor is not floating point, or the dtypes disagree.
        ValueError: if shapes disagree, variances are not positive, start is negative, sigmas do
            not decrease, the method is unknown, or gain is not positive.
    """
    check_floating(variances=variances)
    if variances.ndim != 1 or not (variances > 0).all():
        raise ValueError(f"variances must be (d,) and positive, got {variances.tolist()}")
    levels = check_decreasing(sigmas=sigmas)
    check_positive(gain=gain)
    check_choice(Literal["euler", "heun"], method=method)
    check_finite(variances=variances)
    if start is None:
        start = narrowed(
            torch.full_like(variances, levels[0]).double() ** 2, variances.dtype, "start"
        )
    check_floating(variances=variances, start=start)
    if start.shape != variances.shape or not (start >= 0).all():
        raise ValueError(f"start must have shape {tuple(variances.shape)} and be non-negative")

    deviations = variances.double().sqrt()

    def rate(sigma: float) -> Tensor:
        """C σ/(l + σ²), whose squares may leave float64."""
        root = torch.hypot(deviations, torch.full_like(deviations, sigma))
        return gain / root * (sigma / root)

    factor = torch.ones_like(deviations)
    for sigma, following in pairwise(levels):
        h = following - sigma
        step = 1 + h * rate(sigma)
        if method == "heun" and following > 0:
            step = 1 + 0.5 * h * (rate(sigma) + rate(following) * step)
        factor = factor * step
    return narrowed(start.double() * factor.square(), variances.dtype, "the variance")
