"""Variational autoencoders seen as ellipses: their price, their size, and linear ones exactly.

A sample x owns the ellipse q(z|x) = N(μ, diag σ²); p(z) = N(0, I) is the disc. The decoder has the
noise p(x|z) = N(D(z), τ²I), so that the loss is |x − D(z)|²/(2τ²) + β KL(q(z|x) ‖ p(z)).
Source: kexue.fm/archives/7725.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kexue_lab.generative.autoencoder import mlp
from kexue_lab.precision import narrowed, relative_entropy, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_data,
    check_finite,
    check_floating,
    check_points,
    check_positive,
)

Reduction = Literal["none", "sum", "mean"]
Penalty = Literal["kl", "naive", "centre", "none"]


class PPCA(NamedTuple):
    """The maximum-likelihood model x = W z + m + τ·noise of a covariance.

    W has shape (d, k) and orthogonal columns, the longest first; eigenvalues, (d,), are those of
    the covariance, descending.
    """

    W: Tensor
    tau2: float
    eigenvalues: Tensor


class RateSplit(NamedTuple):
    """The mean price of ellipses, in nats, and its two parts: rate = information + aggregate_kl."""

    rate: float
    information: float
    aggregate_kl: float


def gaussian_kl(mean: Tensor, log_var: Tensor, *, reduction: Reduction = "none") -> Tensor:
    """Return KL(N(μ, diag σ²) ‖ N(0, I)) = Σ ½(μ² + σ² − log σ² − 1), in nats.

    Args:
        mean: centres μ, (B, k) floating point.
        log_var: log σ², of the same shape and dtype.
        reduction: "none" gives one value for each row, (B,); "sum" and "mean" are over rows.

    Raises:
        ValueError: if the shapes differ, the reduction is unknown, or a price is beyond the dtype.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", appendix B, arXiv:1312.6114.

    Example:
        >>> gaussian_kl(torch.tensor([[1.0]]), 2 * torch.tensor([[0.5]]).log())
        tensor([0.8181])
    """
    check_choice(Reduction, reduction=reduction)
    mu, log_sigma2 = _ellipses(mean, log_var)
    axes = mu.square() + relative_entropy(torch.expm1(log_sigma2), log_sigma2)
    return _reduced(axes.sum(-1) / 2, reduction, mean.dtype, "the price")


def naive_penalty(mean: Tensor, log_var: Tensor, *, reduction: Reduction = "none") -> Tensor:
    """Return the price |μ|² + |σ − 1|², which a point pays without a fright.

    Args and errors are those of `gaussian_kl`.

    Source: kexue.fm/archives/7725.

    Example:
        >>> naive_penalty(torch.tensor([[1.0]]), 2 * torch.tensor([[0.5]]).log())
        tensor([1.2500])
    """
    check_choice(Reduction, reduction=reduction)
    mu, log_sigma2 = _ellipses(mean, log_var)
    axes = mu.square() + torch.expm1(log_sigma2 / 2).square()
    return _reduced(axes.sum(-1), reduction, mean.dtype, "the price")


def ppca(covariance: Tensor, k: int, tau2: float | None = None) -> PPCA:
    """Fit probabilistic PCA: W = U_k (Λ_k − τ²I)^½ of the leading eigenvectors.

    Directions with λ ≤ τ² get the column 0. The largest entry of a column is positive.

    Args:
        covariance: (d, d) symmetric and positive semidefinite, with the population's 1/n.
        k: number of latent dimensions, 1 ≤ k ≤ d.
        tau2: variance of the noise; when None the likeliest one, the mean of the other d − k
            eigenvalues, which takes k < d.

    Raises:
        ValueError: if the covariance is not as above, k is out of range, or the noise is 0.

    Source: Tipping and Bishop, "Probabilistic Principal Component Analysis", section 3.2, 1999.

    Example:
        >>> ppca(torch.diag(torch.tensor([5.0, 2.0, 1.0])), 1).tau2
        1.5
    """
    _check_covariance(covariance)
    check_count(k=k)
    d = len(covariance)
    if k > d or (tau2 is None and k == d):
        bound = f"below {d} to learn tau2" if tau2 is None else f"at most {d}"
        raise ValueError(f"k must be {bound}, got {k}")
    if tau2 is not None:
        check_positive(tau2=tau2)
    values, vectors = torch.linalg.eigh(widened(covariance))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    noise = float(values[k:].double().mean()) if tau2 is None else float(tau2)
    if not noise > 0:
        raise ValueError(f"the {d - k} smallest eigenvalues leave no noise, got tau2 = {noise}")
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    W = (vectors * largest.sign())[:, :k] * (values[:k] - noise).clamp(min=0).sqrt()
    return PPCA(W.to(covariance.dtype), noise, values.to(covariance.dtype))


def optimal_linear_encoder(W: Tensor, tau2: float, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the best encoder of a linear decoder, μ = V (x − m) and σ² = δ.

    V = (WᵀW + βτ²I)⁻¹Wᵀ and δ_i = βτ²/(|w_i|² + βτ²).

    Args:
        W: decoder, (d, k).
        tau2: variance of the decoder's noise.
        beta: weight of the price.

    Returns:
        V of shape (k, d) and δ of shape (k,).

    Source: Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", 2019, arXiv:1911.02469.

    Example:
        >>> V, delta = optimal_linear_encoder(torch.tensor([[2.0]]), 1.0)
        >>> [round(float(value), 4) for value in (V, delta)]
        [0.4, 0.2]
    """
    check_points(W=W)
    check_data(W=W)
    check_positive(tau2=tau2, beta=beta)
    wide, noise = W.double(), beta * tau2
    # By singular values nothing is squared before it is divided.
    u, s, vt = torch.linalg.svd(wide, full_matrices=False)
    inverse = 1 / (s + noise / s.clamp(min=torch.finfo(s.dtype).tiny))
    V = vt.mT @ (inverse[:, None] * u.mT)
    lengths = torch.linalg.vector_norm(wide, dim=0) / math.sqrt(noise)
    delta = 1 / (1 + lengths.square())
    return narrowed(V, W.dtype, "V"), delta.to(W.dtype)


def linear_elbo(
    x: Tensor, W: Tensor, mean: Tensor, tau2: float, V: Tensor, delta: Tensor
) -> Tensor:
    """Return the exact ELBO of each sample for linear decoder and encoder, in nats.

    The model is p(x|z) = N(W z + m, τ²I), q(z|x) = N(V (x − m), diag δ).

    Args:
        x: data, (n, d).
        W: decoder, (d, k).
        mean: m, (d,).
        tau2: variance of the decoder's noise.
        V: encoder, (k, d).
        delta: squared axes of the ellipses, (k,), positive.

    Returns:
        (n,).

    Raises:
        ValueError: if the shapes do not fit, or a value is beyond the dtype.

    Source: Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", 2019, arXiv:1911.02469.

    Example:
        >>> one = torch.ones(1, 1)
        >>> linear_elbo(one, one, torch.zeros(1), 1.0, one / 2, torch.tensor([0.5]))
        tensor([-1.5155])
    """
    check_floating(x=x, W=W, mean=mean, V=V, delta=delta)
    check_points(x=x, W=W, V=V)
    (_, d), k = x.shape, W.shape[1]
    shapes = {"W": (d, k), "mean": (d,), "V": (k, d), "delta": (k,)}
    for name, value in (("W", W), ("mean", mean), ("V", V), ("delta", delta)):
        if tuple(value.shape) != shapes[name]:
            raise ValueError(f"{name} must have shape {shapes[name]}, got {tuple(value.shape)}")
    check_finite(x=x, W=W, mean=mean, V=V, delta=delta)
    check_positive(tau2=tau2)
    if not bool((delta > 0).all()):
        raise ValueError(f"delta must be positive, got smallest entry {delta.min().item():g}")
    sigma2 = delta.double()
    centred = x.double() - mean.double()
    codes = centred @ V.double().mT
    misfit = (centred - codes @ W.double().mT).square().sum(-1)
    spread = (W.double().square() @ sigma2).sum()
    log_likelihood = -(misfit + spread) / (2 * tau2) - d / 2 * math.log(2 * math.pi * tau2)
    price = (codes.square() + relative_entropy(sigma2 - 1, sigma2.log())).sum(-1) / 2
    return narrowed(log_likelihood - price, x.dtype, "the ELBO")


def active_axes(eigenvalues: Tensor, tau2: float, beta: float = 1.0) -> int:
    """Return how many axes a linear VAE keeps: those with λ > βτ².

    Args:
        eigenvalues: of the data's covariance, (d,), not negative.
        tau2: variance of the decoder's noise.
        beta: weight of the price.

    Source: as `optimal_linear_encoder`.

    Example:
        >>> active_axes(torch.tensor([0.7, 0.6, 0.4]), tau2=0.5)
        2
    """
    check_floating(eigenvalues=eigenvalues)
    check_finite(eigenvalues=eigenvalues)
    check_positive(tau2=tau2, beta=beta)
    if eigenvalues.ndim != 1:
        raise ValueError(f"eigenvalues must have shape (d,), got {tuple(eigenvalues.shape)}")
    if bool((eigenvalues < 0).any()):
        raise ValueError(f"eigenvalues must not be negative, got {eigenvalues.min().item():g}")
    return int((eigenvalues.double() > beta * tau2).sum())


def optimal_radius(slope: Tensor, tau2: float, beta: float = 1.0) -> Tensor:
    """Return the radius σ = (1 + |J|²/(βτ²))^−½ that suits a decoder of this slope.

    Exact for a linear decoder; for a curved one its curvature is left out.

    Args:
        slope: lengths |∂D/∂z_i| ≥ 0, of any shape, floating point.
        tau2: variance of the decoder's noise.
        beta: weight of the price.

    Source: Rolínek, Zietlow and Martius, arXiv:1812.06775, section 3.

    Example:
        >>> optimal_radius(torch.tensor([2.0]), tau2=0.25)
        tensor([0.2425])
    """
    check_floating(slope=slope)
    check_finite(slope=slope)
    check_positive(tau2=tau2, beta=beta)
    if bool((slope < 0).any()):
        raise ValueError(f"slope must not be negative, got {slope.min().item():g}")
    noise = math.sqrt(beta) * math.sqrt(tau2)
    return (noise / torch.hypot(slope.double(), torch.tensor(noise).double())).to(slope.dtype)


def rate_split(
    mean: Tensor, log_var: Tensor, *, samples: int = 64, generator: torch.Generator | None = None
) -> RateSplit:
    """Split the mean price of n ellipses into information and misfit of their union.

    With q(z) = (1/n) Σ q(z|x_i): mean KL(q(z|x) ‖ p) = I(x; z) + KL(q(z) ‖ p). All three are
    estimated from the same draws, so that the sum holds exactly, and the information is at most
    log n. The error falls like 1/√(n·samples).

    Args:
        mean: centres, (n, k) floating point.
        log_var: log σ², of the same shape and dtype.
        samples: draws from each ellipse.
        generator: of the draws; torch's global one by default.

    Raises:
        ValueError: if the shapes differ or an ellipse's axis is beyond float64.

    Source: Hoffman and Johnson, "ELBO surgery", NIPS workshop 2016.

    Example:
        >>> far = torch.tensor([[-9.0], [9.0]])
        >>> split = rate_split(far, torch.zeros(2, 1))
        >>> round(split.information, 4)  # log 2: every draw tells its ellipse
        0.6931
    """
    check_count(samples=samples)
    _ellipses(mean, log_var)
    check_data(mean=mean, log_var=log_var)
    mu, log_sigma2 = mean.double(), log_var.double()
    narrowed(log_sigma2.abs().exp(), torch.float64, "an axis or its inverse")
    sigma = (log_sigma2 / 2).exp()
    totals = torch.zeros(2, dtype=torch.float64)
    for _ in range(samples):
        noise = torch.randn(mu.shape, generator=generator, dtype=torch.float64, device=mu.device)
        z = mu + sigma * noise
        own = -(noise.square() + log_sigma2).sum(-1) / 2
        # Beside its own ellipse, whose distance is the noise itself, a far one may vanish.
        others = -(((z[:, None] - mu) / sigma).square() + log_sigma2).sum(-1) / 2
        others.diagonal().copy_(own)
        union = others.logsumexp(-1) - math.log(len(mu))
        disc = -z.square().sum(-1) / 2
        totals += torch.stack([(own - union).mean(), (union - disc).mean()]).cpu()
    information, aggregate = (narrowed(totals, torch.float64, "the price") / samples).tolist()
    return RateSplit(information + aggregate, information, aggregate)


class VAE(nn.Module):
    """A variational autoencoder with two hidden layers on either side.

    Args:
        in_features: d, the size of a sample.
        latent: k, the size of a code.
        hidden: width of the hidden layers.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114.

    Example:
        >>> mean, log_var = VAE(64, 10).encode(torch.zeros(5, 64))
        >>> mean.shape, log_var.shape
        (torch.Size([5, 10]), torch.Size([5, 10]))
    """

    def __init__(self, in_features: int, latent: int, hidden: int = 128) -> None:
        super().__init__()
        check_count(in_features=in_features, latent=latent, hidden=hidden)
        self.encoder = mlp(in_features, hidden, hidden, 2 * latent)
        self.decoder = mlp(latent, hidden, hidden, in_features)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return centres μ and log σ², each (B, k), of samples (B, d)."""
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Return D(z), (B, d), of codes (B, k)."""
        x: Tensor = self.decoder(z)
        return x

    def loss(
        self,
        x: Tensor,
        *,
        tau2: float,
        beta: float = 1.0,
        penalty: Penalty = "kl",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the mean of |x − D(μ + σε)|²/(2τ²) + β·penalty over samples.

        Args:
            x: samples, (B, d).
            tau2: variance of the decoder's noise.
            beta: weight of the penalty.
            penalty: "kl"; "naive", see `naive_penalty`; "centre", |μ|² alone; "none", a plain
                autoencoder, which decodes the centre.
            generator: of ε; torch's global one by default.
        """
        check_choice(Penalty, penalty=penalty)
        check_positive(tau2=tau2, beta=beta)
        mean, log_var = self.encode(x)
        z = mean
        if penalty != "none":
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
            z = mean + (log_var / 2).exp() * noise
        misfit = (x - self.decode(z)).square().sum(-1) / (2 * tau2)
        return (misfit + beta * _penalties(penalty, mean, log_var)).mean()


def _penalties(penalty: Penalty, mean: Tensor, log_var: Tensor) -> Tensor:
    """One value a row, (B,)."""
    if penalty == "kl":
        return gaussian_kl(mean, log_var)
    if penalty == "naive":
        return naive_penalty(mean, log_var)
    return mean.square().sum(-1) if penalty == "centre" else mean.new_zeros(len(mean))


def _ellipses(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """Both, checked, at least in float32."""
    check_points(mean=mean, log_var=log_var)
    if mean.shape != log_var.shape:
        raise ValueError(
            f"mean and log_var must share one shape, got {tuple(mean.shape)} and "
            f"{tuple(log_var.shape)}"
        )
    return widened(mean), widened(log_var)


def _reduced(value: Tensor, reduction: Reduction, dtype: torch.dtype, name: str) -> Tensor:
    if reduction == "sum":
        value = value.sum()
    elif reduction == "mean":
        value = value.mean()
    return narrowed(value, dtype, name)


def _check_covariance(covariance: Tensor) -> None:
    check_points(covariance=covariance)
    check_data(covariance=covariance)
    if covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance must be square, got {tuple(covariance.shape)}")
    wide = covariance.double()
    allowed = 8 * torch.finfo(covariance.dtype).eps * len(wide) * float(wide.abs().max())
    if float((wide - wide.mT).abs().max()) > allowed:
        raise ValueError("covariance must be symmetric")
    lowest = float(torch.linalg.eigvalsh(wide)[0])
    if lowest < -allowed:
        raise ValueError(f"covariance must be positive semidefinite, got eigenvalue {lowest:g}")
