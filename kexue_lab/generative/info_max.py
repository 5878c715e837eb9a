"""Mutual information by telling true pairs from shuffled ones, and features that maximise it.

P is the law of true pairs (x, z), Q that of shuffled ones, the product of P's marginals; r = dP/dQ,
and log r is the pointwise mutual information. I = E_P log r. All in nats.
Source: kexue.fm/archives/6024.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from kexue_lab.generative.autoencoder import mlp
from kexue_lab.generative.vae_geometry import gaussian_kl
from kexue_lab.precision import distances, length, narrowed, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_data,
    check_finite,
    check_floating,
    check_non_negative,
    check_points,
)

Bound = Literal["infonce", "nwj", "dv", "jsd"]
FDivergence = Literal["kl", "reverse_kl", "chi2", "hellinger2", "gan"]
Metric = Literal["cosine", "euclidean"]

_CONJUGATE_ENDS = {"reverse_kl": 0.0, "hellinger2": 1.0, "gan": math.log(2)}


def mi_bound(scores: Tensor, kind: Bound = "infonce") -> Tensor:
    """Return what a critic's scores of a batch say of the mutual information; to be maximised.

    The N true pairs stand on the diagonal, the N(N − 1) shuffled ones off it. With averages E_P
    over the first and E_Q over the second,

    - "infonce": E_P[T_ii − log (1/N) Σ_j exp T_ij], the only one to use the whole row. Its mean is
      at most I, and each value is at most log N.
    - "nwj": E_P[T] − E_Q[exp(T − 1)], best at T = 1 + log r. Its mean is at most I.
    - "dv": E_P[T] − log E_Q[exp T], best at log r + c. The logarithm of a batch's average is too
      small on average, so that this value is biased upwards: its mean may exceed I.
    - "jsd": log 2 + ½(E_P[log σ(T)] + E_Q[log σ(−T)]), best at T = log r. Its mean is at most the
      Jensen-Shannon divergence JS(P, Q) ≤ log 2. As I = 2 JS + 2 KL(½(P + Q) ‖ Q), twice the value
      is a lower bound of I, which stops at 2 log 2.

    Args:
        scores: T_ij of sample i with code j, (N, N), N ≥ 2.
        kind: which of the four.

    Returns:
        a scalar, in nats.

    Raises:
        ValueError: also if the value is beyond the dtype, as an exponential may be.

    Source: Poole et al., "On Variational Bounds of Mutual Information", 2019, arXiv:1905.06922.

    Example:
        >>> mi_bound(torch.tensor([[50.0, 0.0], [0.0, 50.0]]))  # log 2: both are told apart
        tensor(0.6931)
    """
    check_choice(Bound, kind=kind)
    check_points(scores=scores)
    n = len(scores)
    if scores.shape != (n, n) or n < 2:
        raise ValueError(f"scores must have shape (N, N) with N >= 2, got {tuple(scores.shape)}")
    check_finite(scores=scores)
    T = widened(scores)
    true = T.diagonal()
    # The n(n − 1) entries between the diagonal ones.
    shuffled = T.flatten()[1:].view(n - 1, n + 1)[:, :-1]
    if kind == "infonce":
        value = (true - T.logsumexp(1)).mean() + math.log(n)
    elif kind == "nwj":
        value = true.mean() - (shuffled - 1).exp().mean()
    elif kind == "dv":
        value = true.mean() - (shuffled.flatten().logsumexp(0) - math.log(n * (n - 1)))
    else:
        value = math.log(2) + (logsigmoid(true).mean() + logsigmoid(-shuffled).mean()) / 2
    return narrowed(value, scores.dtype, "the bound")


def f_generator(name: FDivergence, u: Tensor) -> Tensor:
    """Return f(u) of the divergence D_f(P, Q) = E_Q[f(r)], convex and 0 at u = 1.

    "kl" u log u, "reverse_kl" −log u, "chi2" (u − 1)², "hellinger2" (√u − 1)², and "gan"
    u log u − (u + 1) log((u + 1)/2), which is 2 JS.

    Args:
        name: which divergence.
        u: values of r, positive, of any shape.

    Raises:
        ValueError: also if a value is beyond the dtype.

    Source: Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709.

    Example:
        >>> f_generator("chi2", torch.tensor([1.0, 3.0]))
        tensor([0., 4.])
    """
    check_choice(FDivergence, name=name)
    check_floating(u=u)
    check_finite(u=u)
    if not bool((u > 0).all()):
        raise ValueError(f"u must be positive, got smallest entry {u.min().item():g}")
    wide = widened(u)
    formulas: dict[str, Callable[[Tensor], Tensor]] = {
        "kl": lambda u: u * u.log(),
        "reverse_kl": lambda u: -u.log(),
        "chi2": lambda u: (u - 1).square(),
        "hellinger2": lambda u: (u.sqrt() - 1).square(),
        "gan": lambda u: (
            u * (math.log(2) + u.log() - torch.log1p(u)) + math.log(2) - torch.log1p(u)
        ),
    }
    return narrowed(formulas[name](wide), u.dtype, "f(u)")


def f_conjugate(name: FDivergence, t: Tensor) -> Tensor:
    """Return f*(t) = sup over u > 0 of u t − f(u), with f of `f_generator`.

    For every critic T, E_P[T] − E_Q[f*(T)] ≤ D_f(P, Q), with equality at T = f'(r).

    Args:
        name: which divergence.
        t: values of a critic, of any shape; below 0 for "reverse_kl", 1 for "hellinger2", log 2 for
            "gan", where f* ends.

    Raises:
        ValueError: also outside the domain, or if a value is beyond the dtype.

    Source: Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709.

    Example:
        >>> f_conjugate("hellinger2", torch.tensor([0.5]))
        tensor([1.])
    """
    check_choice(FDivergence, name=name)
    check_floating(t=t)
    check_finite(t=t)
    wide = widened(t)
    if name in _CONJUGATE_ENDS and not bool((wide.double() < _CONJUGATE_ENDS[name]).all()):
        end = _CONJUGATE_ENDS[name]
        raise ValueError(f"t must be below {end:.4g} for {name}, got {t.max().item():g}")
    formulas: dict[str, Callable[[Tensor], Tensor]] = {
        "kl": lambda t: (t - 1).exp(),
        "reverse_kl": lambda t: -1 - (-t).log(),
        # Below −2 the supremum is at the end, u = 0.
        "chi2": lambda t: torch.where(t > -2, t + t.clamp(min=-2).square() / 4, -1.0),
        "hellinger2": lambda t: t / (1 - t),
        "gan": lambda t: -torch.log1p(-torch.expm1(t)),
    }
    return narrowed(formulas[name](wide), t.dtype, "f*(t)")


class CorrelatedGaussian:
    """d independent pairs (x, y) of standard normal numbers with one correlation ρ.

    Under P, log r = I + ρ(A − B)/2 with independent A, B of the law χ²_d.

    Args:
        dim: d.
        rho: ρ, |ρ| < 1.

    Source: Belghazi et al., "MINE", 2018, section 4.1, arXiv:1801.04062.

    Example:
        >>> round(CorrelatedGaussian(1, 0.6).mutual_information, 4)
        0.2231
    """

    def __init__(self, dim: int, rho: float) -> None:
        check_count(dim=dim)
        check_non_negative(abs_rho=abs(rho))
        if not abs(rho) < 1:
            raise ValueError(f"rho must be between -1 and 1, got {rho}")
        self.dim, self.rho = dim, float(rho)

    @property
    def mutual_information(self) -> float:
        """I = −(d/2) log(1 − ρ²)."""
        return -self.dim / 2 * (math.log1p(-self.rho) + math.log1p(self.rho))

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n pairs: x and y, each (n, d), in float32."""
        check_count(n=n)
        x, noise = torch.randn(2, n, self.dim, generator=generator)
        return x, self.rho * x + math.sqrt((1 - self.rho) * (1 + self.rho)) * noise

    def log_ratio(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log r of pairs, (…), whose leading axes (…, d) broadcast.

        Raises:
            ValueError: also if a value is beyond the dtype.
        """
        check_floating(x=x, y=y)
        for name, value in (("x", x), ("y", y)):
            if value.ndim < 1 or value.shape[-1] != self.dim:
                raise ValueError(f"{name} must end in {self.dim}, got {tuple(value.shape)}")
        check_finite(x=x, y=y)
        a, b, rho = x.double(), y.double(), self.rho
        plus = ((a + b).square() / (1 + rho)).sum(-1)
        minus = ((a - b).square() / (1 - rho)).sum(-1)
        return narrowed(self.mutual_information + rho / 4 * (plus - minus), x.dtype, "log r")

    def js_divergence(self, order: int = 80) -> float:
        """Return JS(P, Q) ≤ log 2 by generalised Gauss-Laguerre quadrature over A/2 and B/2.

        Args:
            order: nodes along each of the two axes.
        """
        check_count(order=order)
        half_chi2, weights = _gamma_quadrature(self.dim / 2, order)
        L = self.mutual_information + self.rho * (half_chi2[:, None] - half_chi2)
        # E_Q is E_P with the weight 1/r; softplus(L)/r tends to 1 for L → −∞.
        shuffled = np.where(L > -30, np.logaddexp(0, L) * np.exp(-L.clip(-30)), 1.0)
        total = weights @ (-np.logaddexp(0, -L) - shuffled) @ weights
        return max(0.0, math.log(2) + float(total) / 2)


class InfoMaxParts(NamedTuple):
    """What `InfoMax.loss` weighs: KL, and two values 𝒥, at best from −2 log 2 (no idea) to 0."""

    global_pairs: Tensor
    local_pairs: Tensor
    kl: Tensor


class InfoMax(nn.Module):
    """Deep InfoMax with the price of a VAE: −α 𝒥(x, z) − β 𝒥(patches, z) + γ KL.

    𝒥 = E_P log σ(V) + E_Q log(1 − σ(V)) = −2 log 2 + 2 JS at its best. A logit V is the scalar
    product of two small networks' outputs: of a code, and of a patch's features or of all patches'.

    Args:
        encoder: takes x and returns features of its patches, (B, C, H, W) or (B, P, C), and centre
            and log σ² of q(z|x), each (B, latent).
        local_features: C, the number of features of a patch.
        latent: size k of a code.
        patches: P, or H·W, their number.
        hidden: width of the critics.
        alpha: weight of the global pairs.
        beta: weight of the local pairs, averaged over the patches.
        gamma: weight of KL(q(z|x) ‖ N(0, I)), summed over the axes of z.

    Source: kexue.fm/archives/6024, after Hjelm et al., "Learning deep representations by mutual
    information estimation and maximization", ICLR 2019, arXiv:1808.06670.
    """

    def __init__(
        self,
        encoder: nn.Module,
        local_features: int,
        latent: int,
        *,
        patches: int,
        hidden: int = 64,
        alpha: float = 0.5,
        beta: float = 1.5,
        gamma: float = 0.01,
    ) -> None:
        super().__init__()
        check_count(local_features=local_features, latent=latent, patches=patches, hidden=hidden)
        check_non_negative(alpha=alpha, beta=beta, gamma=gamma)
        self.encoder = encoder
        self.of_patch = mlp(local_features, hidden, hidden)
        self.of_sample = mlp(patches * local_features, hidden, hidden)
        self.of_code = mlp(latent, hidden, 2 * hidden)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> InfoMaxParts:
        """Return 𝒥 of both kinds of pairs and KL; a shuffled pair takes the next sample's code.

        Args:
            x: at least two samples, as the encoder takes them.
            generator: of ε in z = μ + σε; torch's global one by default.
        """
        features, mean, log_var = self.encoder(x)
        if len(mean) < 2:
            raise ValueError(f"x must hold at least 2 samples to shuffle, got {len(mean)}")
        if features.ndim == 4:
            features = features.flatten(2).mT
        if generator is None:
            noise = torch.randn_like(mean)
        else:
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        z = mean + (log_var / 2).exp() * noise
        of_local, of_global = self.of_code(z).chunk(2, dim=-1)
        return InfoMaxParts(
            _told_apart(self.of_sample(features.flatten(1))[:, None], of_global),
            _told_apart(self.of_patch(features), of_local),
            gaussian_kl(mean, log_var, reduction="mean"),
        )

    def loss(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, InfoMaxParts]:
        """Return the loss of a batch, to be minimised, and its parts; see `forward`."""
        parts: InfoMaxParts = self(x, generator)
        gain = self.alpha * parts.global_pairs + self.beta * parts.local_pairs
        return self.gamma * parts.kl - gain, parts


def retrieval_precision(
    features: Tensor, labels: Tensor, k: int = 9, metric: Metric = "cosine"
) -> float:
    """Return which share of a sample's k nearest others has its label, averaged over samples.

    Args:
        features: (n, d), floating point. Under "cosine" a row of zeros is equally far from all.
        labels: (n,).
        k: number of neighbours, the sample itself excluded; 1 ≤ k < n.
        metric: "cosine" or "euclidean".

    Raises:
        ValueError: if the shapes do not fit or k is out of range.

    Example:
        >>> places = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> retrieval_precision(places, torch.tensor([0, 0, 1, 1]), k=1, metric="euclidean")
        1.0
    """
    check_choice(Metric, metric=metric)
    check_points(features=features)
    check_data(features=features)
    check_count(k=k)
    n = len(features)
    if tuple(labels.shape) != (n,):
        raise ValueError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
    if k >= n:
        raise ValueError(f"k must be below the number of samples, {n}, got {k}")
    if metric == "cosine":
        wide = widened(features)
        sizes = length(wide, keepdim=True)
        unit = wide / torch.where(sizes > 0, sizes, 1)
        far = -(unit @ unit.mT)
    else:
        far = distances(features, features)
    nearest = far.fill_diagonal_(math.inf).topk(k, largest=False).indices
    return float((labels[nearest] == labels[:, None]).double().mean())


def _told_apart(of_x: Tensor, of_z: Tensor) -> Tensor:
    """𝒥 of the logits of true pairs and of shuffled ones; of_x is (B, P, h), of_z (B, h)."""
    true = (of_x * of_z[:, None]).sum(-1)
    shuffled = (of_x * of_z.roll(1, 0)[:, None]).sum(-1)
    return logsigmoid(true).mean() + logsigmoid(-shuffled).mean()


def _gamma_quadrature(shape: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, of sum 1, of the gamma law of this shape (Golub and Welsch, 1969).

    scipy's `roots_genlaguerre` does not norm the weights, and overflows for large shapes.
    """
    k = np.arange(order, dtype=float)
    nodes, vectors = eigh_tridiagonal(2 * k + shape, np.sqrt(k[1:] * (k[1:] + shape - 1)))
    return nodes, vectors[0] ** 2
