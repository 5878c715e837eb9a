"""A small U-Net whose skip connections can be weighted, and two ways to train it.

`digit_unet` loads some for handwritten digits, which guess the noise, the datum or a velocity.
EDM's denoiser is D(y, σ) = c_skip y + c_out F(c_in y, ¼ ln σ) with y = x_0 + σε.
Sources: Ronneberger, Fischer, Brox, "U-Net", arXiv:1505.04597; Karras et al., arXiv:2206.00364.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kexue_lab.data import digits
from kexue_lab.diffusion.networks import velocity_batch
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.precision import narrowed, widened
from kexue_lab.training import fit, generator
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_positive,
)

Target = Literal["velocity", "noise", "datum"]
"""What a network guesses from x_t: v = ᾱ_t ε − β̄_t x_0, ε or x_0."""
_WEIGHTS = Path(__file__).parent / "recorded" / "skip_tuning.pt"
_STORED: dict[str, tuple[int, int]] = {"velocity": (3, 8), "noise": (1, 4), "datum": (1, 4)}


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
        _check_times(x, t)
        weights = _four_weights(skip_weights)
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


def _check_times(x: Tensor, t: Tensor) -> None:
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must have shape ({len(x)},), got {tuple(t.shape)}")


def _four_weights(skip_weights: Sequence[float] | None) -> tuple[float, ...]:
    weights = (1.0,) * 4 if skip_weights is None else tuple(skip_weights)
    if len(weights) != 4:
        raise ValueError(f"skip_weights must be 4 numbers, got {len(weights)}")
    return weights


def digit_unet(target: Target = "velocity", number: int = 0) -> TinyUNet:
    """Return a U-Net for scikit-learn's digits whose weights are stored with the course.

    It is called with images (B, 1, 8, 8) and times t of `NoiseSchedule.cosine()`. The weights are
    what `train_digit_unet(target, number, …)` returned on one CPU core, in half precision.

    Args:
        target: what it guesses.
        number: 0, 1 or 2 for "velocity" (8 channels); 0 for the others (4 channels).

    Raises:
        TypeError: if number is not an integer.
        ValueError: if the target is unknown, or no such network is stored.

    Example:
        >>> digit_unet("velocity", 2)(torch.zeros(1, 1, 8, 8), torch.tensor([0.5])).shape
        torch.Size([1, 1, 8, 8])
    """
    check_choice(Target, target=target)
    check_count(0, number=number)
    count, channels = _STORED[target]
    if number >= count:
        raise ValueError(f"number must be below {count} for {target!r}, got {number}")
    network = TinyUNet(channels, channels * 2)
    weights = torch.load(_WEIGHTS, weights_only=True)[f"{target} {number}"]
    nn.utils.vector_to_parameters(weights.float(), network.parameters())
    return network.eval()


def train_digit_unet(
    target: Target = "velocity", seed: int = 0, steps: int = 4000, channels: int = 8
) -> TinyUNet:
    """Train a `TinyUNet` on the 900 digits of `digits(900, generator(0))`, pixels in [-1, 1].

    The schedule is `NoiseSchedule.cosine()`, times are uniform, the loss is the squared error, and
    the learning rate rises for a twentieth of the steps and then falls linearly to 0.

    Args:
        target: what the network guesses.
        seed: of its weights, batches and noises.
        steps: number of batches of 64.
        channels: as in `TinyUNet`, with a time embedding of twice as many entries.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if the target is unknown, or an argument out of range.
    """
    check_choice(Target, target=target)
    data = 2 * digits(900, generator(0)).x_train - 1
    schedule = NoiseSchedule.cosine()

    def batch(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.randint(len(data), (64,), generator=g)
        x, t, v = velocity_batch(data[rows], torch.rand(64, generator=g), schedule, g)
        a, b = schedule.alpha_bar(t)[:, None], schedule.beta_bar(t)[:, None]
        goals = {"velocity": v, "noise": a * v + b * x, "datum": a * x - b * v}
        return x.reshape(-1, 1, 8, 8), t, goals[target].reshape(-1, 1, 8, 8)

    trained = fit(
        lambda _: TinyUNet(channels, 2 * channels),
        batch,
        lambda network, x, t, goal: (network(x, t) - goal).square().mean(),
        seeds=[seed],
        steps=steps,
        learning_rate=lambda progress: 3e-3 * min(1, 20 * progress) * (1 - progress),
        device="cpu",
    )
    network = trained.models[0]
    assert isinstance(network, TinyUNet)
    return network.eval()


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
