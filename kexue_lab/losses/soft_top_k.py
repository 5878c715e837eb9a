"""Smooth approximations of top-k: which k of n scores are the largest, with gradients.

A soft top-k maps n scores to n numbers that sum to k; divided by a small temperature, the scores
should give 1 for the k largest and 0 for the others. Three roads: the gradient of a smooth maximum
over all k-subsets (`grad_top_k`), one threshold for all scores (`threshold_top_k`), and repeated
softmax (`iterative_top_k`), which loses properties on the way. All functions act on the last axis
and compute in float64 inside; there scores count as at most 1e150 in size.

References:
    J. Su, "Softmax后传:寻找Top-K的光滑近似", 2024, https://kexue.fm/archives/10373.
    A. Martins, R. Astudillo, "From Softmax to Sparsemax", 2016, arXiv:1602.02068.
    M. Cuturi, O. Teboul, J.-P. Vert, "Differentiable Ranks and Sorting using Optimal Transport",
    2019, arXiv:1905.11885.
    S. Xie, S. Ermon, "Reparameterizable Subset Sampling via Continuous Relaxations", 2019,
    arXiv:1901.10517.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid, pad

from kexue_lab.precision import holds, narrowed, over
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_positive,
)

ThresholdKind = Literal["sigmoid", "exp", "laplace", "gauss", "clip"]
IterationVariant = Literal["scores", "weights", "subset"]

# Beyond this distance from the k-th score a probability is 0 or 1 to the last bit of float64.
_FAR = 800.0
# Stands for log 0 where infinity would make the gradient nan.
_LOG_ZERO = -1e30
# Scores are kept within, so that their differences and the squares of these are finite.
_HUGE = 1e150
_MAX_STEPS = 200


def hard_top_k(x: Tensor, k: int) -> Tensor:
    """Return the mask of the k largest scores: k ones, else zeros.

    Of equal scores the first count as larger. The gradient is zero.

    Args:
        x: Scores, shape (..., n), finite and floating-point.
        k: How many, 1 ≤ k ≤ n − 1.

    Returns:
        The mask, of the shape and dtype of `x`.

    Example:
        >>> hard_top_k(torch.tensor([3.0, 2, 1, 4]), 2)
        tensor([1., 0., 0., 1.])
    """
    _check_scores(x, k)
    order = x.detach().sort(dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(x).scatter(-1, order[..., :k], 1.0)


def log_elementary_symmetric(x: Tensor, k: int) -> Tensor:
    """Return the logarithms of the elementary symmetric polynomials e_0 … e_k of exp(x).

    e_j is the sum over all j-subsets S of exp(Σ_S x). Item by item, e_j gains exp(x_i) e_(j−1).

    Args:
        x: Scores, shape (..., n), finite and floating-point.
        k: The highest degree, 1 ≤ k ≤ n.

    Returns:
        Shape (..., k + 1), of the dtype of `x`.

    Raises:
        ValueError: If a logarithm is beyond the dtype.

    Example:
        >>> log_elementary_symmetric(torch.zeros(4), 3).exp().round()  # that many subsets
        tensor([1., 4., 6., 4.])
    """
    _check_scores(x, k, highest=0)
    wide = x.double()
    table = torch.zeros_like(wide[..., :1])
    for i in range(x.shape[-1]):
        added = table + wide[..., i : i + 1]
        new = [table[..., :1], torch.logaddexp(table[..., 1:], added[..., :-1])]
        if table.shape[-1] <= k:
            new.append(added[..., -1:])
        table = torch.cat(new, -1)
    return narrowed(table, x.dtype, "log e_j")


def grad_top_k(x: Tensor, k: int) -> Tensor:
    """Return the gradient of log e_k(exp(x)): GradTopK.

    p_i is the probability that i belongs to a random k-subset S that is drawn with weight
    exp(Σ_S x) (conditional Poisson sampling). Its Jacobian is the covariance of these events. For
    k = 1 it is softmax. Computed without a subtraction, by products of polynomials up and down a
    binary tree; time and memory grow as n k log k. Gradients are right at any scale, second
    derivatives may be nan where scores lie far apart.

    Args:
        x: Scores, shape (..., n), finite and floating-point.
        k: How many, 1 ≤ k ≤ n.

    Returns:
        p in [0, 1] with Σ p = k, of the shape and dtype of `x`.

    Source: X.-H. Chen and J. Liu, "Statistical applications of the Poisson-binomial and
    conditional Bernoulli distributions", Statistica Sinica, 1997.

    Example:
        >>> grad_top_k(torch.tensor([3.0, 2, 1, 4]), 2)
        tensor([0.6944, 0.3056, 0.1192, 0.8808])
    """
    _check_scores(x, k, highest=0)
    wide = _bounded(x)
    z = (wide - _kth(wide, k)).clamp(-_FAR, _FAR)
    chosen = z + _log_e_of_others(z, k - 1)  # log Z_{k,i}
    return (k * torch.softmax(chosen, -1)).clamp(max=1).to(x.dtype)


@overload
def threshold_top_k(x: Tensor, k: int, kind: ThresholdKind = "sigmoid") -> Tensor: ...
@overload
def threshold_top_k(
    x: Tensor, k: int, kind: ThresholdKind = "sigmoid", *, return_threshold: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def threshold_top_k(
    x: Tensor, k: int, kind: ThresholdKind = "sigmoid", *, return_threshold: bool = False
) -> Any:
    """Return p_i = f(x_i − λ) with the λ for which Σ p = k: ThreTopK.

    The kinds of f, which increases from 0 to 1: "sigmoid"; "exp", min(1, e^z), the projection of
    exp(x) in the sense of KL on the numbers in [0, 1] of sum k; "laplace" and "gauss", the
    distribution functions of these laws; "clip", z kept in [0, 1], the Euclidean projection, where
    λ is the largest one that will do. "exp", "laplace" and "clip" are solved after sorting, the
    others by Newton's method within a bracket.

    The gradient is that of the implicit function; where all slopes f' vanish ("clip") it is 0. A
    second derivative is refused by torch.

    Args:
        x: Scores, shape (..., n), finite and floating-point.
        k: How many, 1 ≤ k ≤ n − 1.
        kind: The squashing function f.
        return_threshold: Return (p, λ); λ of shape (...) carries no gradient.

    Returns:
        p in [0, 1] with Σ p = k, of the shape and dtype of `x`; or p and λ.

    Raises:
        ValueError: Also if λ is asked for and beyond the dtype.

    Example:
        >>> threshold_top_k(torch.tensor([3.0, 2, 1, 4]), 2)
        tensor([0.6225, 0.3775, 0.1824, 0.8176])
    """
    _check_scores(x, k)
    check_choice(ThresholdKind, kind=kind)
    wide = _bounded(x)
    level = _kth(wide, k)
    z = wide - level
    with torch.no_grad():
        threshold = _SOLVERS[kind](z.detach(), k)
    p = _Squash.apply(z, threshold, kind).to(x.dtype)  # type: ignore[no-untyped-call]
    if not return_threshold:
        return p
    return p, narrowed((threshold + level)[..., 0], x.dtype, "the threshold")


def threshold_jacobian(x: Tensor, k: int, kind: ThresholdKind = "sigmoid") -> Tensor:
    """Return ∂p_i/∂x_j = s_i δ_ij − s_i s_j / Σ s of `threshold_top_k`, with s = f'(x − λ).

    Args:
        x: Scores, shape (..., n), finite and floating-point.
        k: How many, 1 ≤ k ≤ n − 1.
        kind: As in `threshold_top_k`.

    Returns:
        Shape (..., n, n), symmetric, positive semidefinite, with rows of sum 0.

    Example:
        >>> threshold_jacobian(torch.tensor([1.0, 0.0, 0.0]), 1, "exp")[0]
        tensor([ 0.2442, -0.1221, -0.1221])
    """
    _check_scores(x, k)
    check_choice(ThresholdKind, kind=kind)
    wide = _bounded(x.detach())
    z = wide - _kth(wide, k)
    slope, share = _slopes(z - _SOLVERS[kind](z, k), kind)
    own = torch.diag_embed(slope)
    return (own - slope[..., :, None] * share[..., None, :]).to(x.dtype)


def iterative_top_k(
    x: Tensor, k: int, variant: IterationVariant = "scores", *, tau: float | Tensor = 1.0
) -> Tensor:
    """Return the sum of k softmaxes, each of which is told what was taken before.

    With y = x/τ, "scores": softmax((1 − p) ⊙ (y − min y)), p being the sum so far. "weights":
    weights 1 − p in front of exp(y). "subset" (Xie and Ermon): each softmax q adds log(1 − q) to x,
    *before* the division by τ.

    None of them is a soft top-k in the full sense. "scores" may exceed 1 and need not be monotone.
    "weights" does not converge to the hard mask as τ → 0, and from k = 3 on its weights may be
    negative, and have poles. "subset" may exceed 1, too.

    Args:
        x: Scores, shape (..., n), finite and floating-point.
        k: How many, 1 ≤ k ≤ n − 1.
        variant: How the next softmax learns of the former ones.
        tau: Temperature τ, or a positive tensor of them that broadcasts to x.

    Returns:
        p with Σ p = k, of the shape and dtype of `x`.

    Raises:
        ValueError: Also if the result is beyond the dtype: a pole of "weights".

    Example:
        >>> iterative_top_k(torch.tensor([2.0, 1.0, 0.0]), 2)
        tensor([1.0496, 0.6635, 0.2868])
    """
    _check_scores(x, k)
    check_choice(IterationVariant, variant=variant)
    if not isinstance(tau, Tensor):
        check_positive(tau=tau)
    elif not holds((tau > 0) & tau.isfinite()):
        raise ValueError(f"tau must be positive and finite, got {tau}")
    wide = _bounded(x)
    p = _ITERATIONS[variant](wide - wide.detach().amax(-1, keepdim=True), k, tau)
    return narrowed(p, x.dtype, "p")


# --- elementary symmetric polynomials of all items but one


def _log_e_of_others(z: Tensor, j: int) -> Tensor:
    """Return log e_j of the items other than i, for each i; shape as z.

    e_j is the coefficient of t^j in Π (1 + e^z t). Up the tree the products of ever more factors;
    down again, to each node the product of all factors outside of it.
    """
    n = z.shape[-1]
    filled = pad(z, (0, 2 ** (n - 1).bit_length() - n), value=_LOG_ZERO)
    levels = [torch.stack([torch.zeros_like(filled), filled], -1)[..., : j + 1]]
    while levels[-1].shape[-2] > 2:
        nodes = levels[-1]
        levels.append(_log_product(nodes[..., 0::2, :], nodes[..., 1::2, :], j))
    outside = levels.pop().flip(-2)
    for nodes in reversed(levels):
        sibling = nodes.reshape(*nodes.shape[:-2], -1, 2, nodes.shape[-1]).flip(-2).flatten(-3, -2)
        outside = _log_product(outside.repeat_interleave(2, -2), sibling, j)
    return outside[..., :n, j]


def _log_product(a: Tensor, b: Tensor, degree: int) -> Tensor:
    """Logarithms of the coefficients of a product, up to a degree, from those of its factors."""
    terms = a.shape[-1]
    size = min(terms + b.shape[-1] - 1, degree + 1)
    windows = pad(b, (terms - 1, terms - 1), value=_LOG_ZERO).unfold(-1, terms, 1)
    return torch.logsumexp(windows[..., :size, :] + a.flip(-1)[..., None, :], -1)


# --- iterations, on scores with the largest at 0


def _by_scores(z: Tensor, k: int, tau: float | Tensor) -> Tensor:
    y = _cooled(z - z.amin(-1, keepdim=True), tau)  # the minimum counts: 1 − p multiplies it
    p = torch.zeros_like(y)
    for _ in range(k):
        p = p + torch.softmax((1 - p) * y, -1)
    return p


def _by_weights(z: Tensor, k: int, tau: float | Tensor) -> Tensor:
    """The second softmax in logarithms: there 1 − p and exp(y) are both tiny, and must balance."""
    y = _cooled(z, tau)
    p, log_rest = _softmax_and_rest(y)
    if k > 1:
        p = p + torch.softmax(y + log_rest, -1)
    for _ in range(k - 2):
        weighted = (1 - p) * torch.exp(y)
        p = p + weighted / weighted.sum(-1, keepdim=True)
    return p


def _by_subset(z: Tensor, k: int, tau: float | Tensor) -> Tensor:
    total = torch.zeros_like(z)
    for _ in range(k):
        q, log_rest = _softmax_and_rest(_cooled(z, tau))
        total, z = total + q, z + log_rest
    return total


def _cooled(z: Tensor, tau: float | Tensor) -> Tensor:
    return (z / tau if isinstance(tau, Tensor) else over(z, tau)).clamp(-_HUGE, _HUGE)


def _softmax_and_rest(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return q = softmax(y) and log(1 − q), this without cancellation at the largest entry."""
    is_top = torch.zeros_like(y, dtype=torch.bool)
    is_top.scatter_(-1, y.detach().argmax(-1, keepdim=True), True)
    total = torch.logsumexp(y, -1, keepdim=True)
    rest = torch.logsumexp(y.masked_fill(is_top, -math.inf), -1, keepdim=True)
    q = torch.exp(y - total)
    return q, torch.where(is_top, rest - total, torch.log1p(-q.masked_fill(is_top, 0.0)))


_ITERATIONS = {"scores": _by_scores, "weights": _by_weights, "subset": _by_subset}


# --- squashing functions


def _squash(z: Tensor, kind: ThresholdKind) -> Tensor:
    if kind == "sigmoid":
        return torch.sigmoid(z)
    if kind == "exp":
        return torch.exp(z.clamp(max=0))
    if kind == "gauss":
        wins: Tensor = torch.special.ndtr(z)
        return wins
    if kind == "laplace":
        tail = torch.exp(-z.abs()) / 2
        return torch.where(z < 0, tail, 1 - tail)
    return z.clamp(0, 1)


def _log_squash(z: Tensor, kind: ThresholdKind) -> Tensor:
    return logsigmoid(z) if kind == "sigmoid" else torch.special.log_ndtr(z)


def _log_slope(z: Tensor, kind: ThresholdKind) -> Tensor:
    if kind == "sigmoid":
        return logsigmoid(z) + logsigmoid(-z)
    if kind == "gauss":
        return -z.square() / 2 - math.log(2 * math.pi) / 2
    if kind == "laplace":
        return -z.abs() - math.log(2)
    inside = z < 0 if kind == "exp" else (z > 0) & (z < 1)
    return torch.where(inside, z if kind == "exp" else torch.zeros_like(z), -math.inf)


def _slopes(z: Tensor, kind: ThresholdKind) -> tuple[Tensor, Tensor]:
    """f'(z), and its shares of the sum, which hold where the slopes themselves underflow."""
    log_slope = _log_slope(z, kind)
    return log_slope.exp(), torch.softmax(log_slope, -1).nan_to_num(0.0)


class _Squash(torch.autograd.Function):
    """f(z − λ), with the gradient of λ as the implicit function of z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, kind: ThresholdKind) -> Tensor:
        ctx.save_for_backward(*_slopes(z - threshold, kind))
        return _squash(z - threshold, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        slope, share = ctx.saved_tensors
        mean = (share * upstream).sum(-1, keepdim=True)
        return slope * (upstream - mean), None, None


# --- thresholds, shape (..., 1), of scores z whose k-th largest is 0


def _solve_exp(z: Tensor, k: int) -> Tensor:
    """λ_m = log Σ_{i>m} e^{z_(i)} − log(k − m), for the first m with z_(m+1) ≤ λ_m."""
    down = z.clamp(-_FAR, _FAR).sort(-1, descending=True).values
    tails = down.flip(-1).logcumsumexp(-1).flip(-1)[..., :k]
    candidates = tails - torch.arange(k, 0, -1, device=z.device, dtype=z.dtype).log()
    fits = down[..., :k] <= candidates
    fits[..., -1] = True
    return candidates.gather(-1, fits.int().argmax(-1, keepdim=True))


def _solve_laplace(z: Tensor, k: int) -> Tensor:
    """For the m with z_(m) ≥ λ_m ≥ z_(m+1): log b − log(√(c² + ab) + c), with c = k − m.

    For c < 0 it is rationalised to log(√(c² + ab) + |c|) − log a.
    """
    n = z.shape[-1]
    down = z.sort(-1, descending=True).values.clamp(max=_FAR)
    down = torch.maximum(down, down[..., k : k + 1] - _FAR)  # λ is not far from z_(k) … z_(k+1)
    log_a = pad((-down).logcumsumexp(-1), (1, 0), value=-math.inf)
    log_b = pad(down.flip(-1).logcumsumexp(-1).flip(-1), (0, 1), value=-math.inf)
    excess = k - torch.arange(n + 1, device=z.device, dtype=z.dtype)
    log_c = excess.abs().log()
    root = torch.logaddexp(log_c, torch.logaddexp(2 * log_c, log_a + log_b) / 2)
    candidates = torch.where(excess >= 0, log_b - root, root - log_a)
    fits = down <= candidates[..., :-1]
    fits = torch.cat([fits, torch.ones_like(fits[..., :1])], -1)
    return candidates.gather(-1, fits.int().argmax(-1, keepdim=True))


def _solve_clip(z: Tensor, k: int) -> Tensor:
    """Walk down the corners z_i and z_i − 1; between them the sum is linear in λ."""
    z = z.clamp(-2, 2)  # λ lies in [-1, 0]
    corners, order = torch.cat([z, z - 1], -1).sort(-1, descending=True)
    count = torch.where(order < z.shape[-1], 1.0, -1.0).to(z.dtype).cumsum(-1)
    gain = count[..., :-1] * (corners[..., :-1] - corners[..., 1:])
    total = torch.cat([torch.zeros_like(z[..., :1]), gain.cumsum(-1)], -1)
    reached = total[..., 1:] >= k - 1e-12
    at = reached.int().argmax(-1, keepdim=True)
    start, sum_there, slope = (v.gather(-1, at) for v in (corners, total, count))
    return start - (k - sum_there) / slope


def _solve_by_newton(kind: ThresholdKind) -> Callable[[Tensor, int], Tensor]:
    return lambda z, k: _newton(z, k, kind)


def _newton(z: Tensor, k: int, kind: ThresholdKind) -> Tensor:
    """Solve Σ_losers f(z − λ) = Σ_winners f(λ − z), in logarithms: nothing cancels or underflows.

    For f(z) + f(−z) = 1 this is Σ f(z − λ) = k. The root lies between the λ at which k + 1 scores
    give at least k, and the one at which n − k + 1 give at most 1.
    """
    n = z.shape[-1]
    down = z.sort(-1, descending=True).values
    winners, losers = down[..., :k], down[..., k:]
    low = losers[..., :1] - _quantile(k / (k + 1), kind)
    high = winners[..., -1:] - _quantile(1 / (n - k + 1), kind)
    at = low / 2 + high / 2
    for _ in range(_MAX_STEPS):
        above, above_slope = _log_sum(losers - at, kind)
        below, below_slope = _log_sum(at - winners, kind)
        gap = above - below
        low, high = torch.where(gap > 0, at, low), torch.where(gap > 0, high, at)
        new = at + gap / (above_slope + below_slope)
        new = torch.where((new >= low) & (new <= high), new, low / 2 + high / 2)
        change, at = (new - at).abs(), new
        if holds(change <= 1e-12 * (1 + at.abs())):
            break
    return at


def _log_sum(z: Tensor, kind: ThresholdKind) -> tuple[Tensor, Tensor]:
    """Return log Σ f(z), and its slope under a common shift of z."""
    logs = _log_squash(z, kind)
    hazard = (_log_slope(z, kind) - logs).exp()
    return logs.logsumexp(-1, keepdim=True), (logs.softmax(-1) * hazard).sum(-1, keepdim=True)


def _quantile(p: float, kind: ThresholdKind) -> float:
    if kind == "sigmoid":
        return math.log(p) - math.log1p(-p)
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


_SOLVERS: dict[ThresholdKind, Callable[[Tensor, int], Tensor]] = {
    "sigmoid": _solve_by_newton("sigmoid"),
    "gauss": _solve_by_newton("gauss"),
    "exp": _solve_exp,
    "laplace": _solve_laplace,
    "clip": _solve_clip,
}


# --- what all share


def _bounded(x: Tensor) -> Tensor:
    """Scores in float64, so far within its range that their differences are, too."""
    wide = x.double()
    return wide if x.dtype != torch.float64 else wide.clamp(-_HUGE, _HUGE)


def _kth(wide: Tensor, k: int) -> Tensor:
    """The k-th largest score, shape (..., 1), without gradient: by invariance it needs none."""
    return wide.detach().sort(-1, descending=True).values[..., k - 1 : k]


def _check_scores(x: Tensor, k: int, highest: int = 1) -> None:
    """Check scores and 1 ≤ k ≤ n − `highest`."""
    check_floating(x=x)
    if x.ndim < 1 or x.shape[-1] < 2:
        raise ValueError(f"x must have shape (..., n) with n >= 2, got {tuple(x.shape)}")
    check_count(k=k)
    if k > x.shape[-1] - highest:
        raise ValueError(
            f"k must be at most {x.shape[-1] - highest} for n = {x.shape[-1]}, got {k}"
        )
    check_finite(x=x)
