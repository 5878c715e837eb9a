"""The low-rank bottleneck of multi-head attention: what key size a pattern needs, and two cures.

A head of key size d_k weighs n tokens by P = softmax(Q Kᵀ / √d_k), row by row, with queries and
keys in d_k dimensions; so its logits Q Kᵀ have rank d_k at most, however long the sequence.
`minimal_key_size` is the least d_k that can produce a given P, `low_rank_logits` and
`fit_low_rank_attention` come near it with less. `MultiHeadAttention` sets the key size free from
the number of heads, and can mix the logits or the weights of its heads (talking heads).

Logits beyond the largest number of float32 (float64) are infinite, and their rows nan.
"""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from torch import Tensor, nn

from kexue_lab.precision import narrowed, widened
from kexue_lab.transformer import merge_heads, split_heads
from kexue_lab.validation import check_choice, check_count, check_finite, check_mask, check_precise

Talking = Literal["none", "pre", "post", "both"]
"""Where the heads are mixed: nowhere, before the softmax, after it, or both."""

# Rows that sum to 1 up to this count as distributions.
_ROW_SUM = 1e-6
# Singular values below this share of the largest one are rounding.
_NEGLIGIBLE = {torch.float64: 1e-9, torch.float32: 1e-5}


def minimal_key_size(P: Tensor, tol: float | None = None) -> int:
    """Return the least key size of a head that produces P: the rank of the centred log P.

    Softmax ignores what is added to a whole row of logits, so that the logits of P are
    log P + c 1ᵀ with any column c; the least rank among them is that of log P with every row's mean
    taken off. Queries and keys are unrestricted here.

    Args:
        P: attention weights, shape (n, m), float32 or float64: positive, rows sum to 1.
        tol: singular values up to this count as 0; by default 1e-9 (in float32 1e-5) of the
            largest one, or of 1 if that is larger.

    Returns:
        A number from 0 (all weights equal) to min(n, m - 1).

    Raises:
        ValueError: if P is no such matrix, or has entries below the dtype's smallest normal number,
            whose logarithm is lost; if `tol` is negative or not finite.

    Source: the sharp form, with the shift, of Bhojanapalli et al., arXiv:2002.07028, theorem 1.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0, 4.0], [2.0, 4.0, 8.0], [3.0, 6.0, 12.0]])
        >>> minimal_key_size(logits.double().softmax(-1))
        1
    """
    _check_weights(P)
    if tol is not None and not 0 <= tol < math.inf:
        raise ValueError(f"tol must be non-negative and finite, got {tol}")
    sizes = torch.linalg.svdvals(_centred_log(P.detach()))
    if tol is None:
        tol = _NEGLIGIBLE[P.dtype] * max(1.0, float(sizes.max()))
    return int((sizes > tol).sum())


def low_rank_logits(P: Tensor, key_size: int) -> tuple[Tensor, Tensor]:
    """Return queries and keys whose products are the nearest to the row-centred log P.

    Nearest in the sum of squared errors of the logits, by a truncated singular value
    decomposition; not in the divergence of the weights, see `fit_low_rank_attention`. From
    `minimal_key_size` on softmax(Q Kᵀ) is P.

    Args:
        P: attention weights, shape (n, m), float32 or float64: positive, rows sum to 1.
        key_size: number of columns of Q and K, at least 0; those beyond min(n, m) are 0.

    Returns:
        (Q, K), shapes (n, key_size) and (m, key_size), for the products Q Kᵀ without 1/√d_k.

    Raises:
        ValueError: if P is no such matrix.

    Source: Eckart and Young, Psychometrika 1:211, 1936.

    Example:
        >>> P = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64)
        >>> Q, K = low_rank_logits(P, 1)
        >>> (Q @ K.mT).softmax(-1)
        tensor([[0.8000, 0.2000],
                [0.2000, 0.8000]], dtype=torch.float64)
    """
    _check_weights(P)
    check_count(0, key_size=key_size)
    U, sizes, Vh = torch.linalg.svd(_centred_log(P), full_matrices=False)
    kept = min(key_size, len(sizes))
    root = sizes[:kept].sqrt()
    more = (0, key_size - kept)
    Q = nn.functional.pad(U[:, :kept] * root, more)
    K = nn.functional.pad(Vh[:kept].mT * root, more)
    return Q.to(P.dtype), K.to(P.dtype)


def fit_low_rank_attention(
    P: Tensor,
    key_size: int,
    n_restarts: int = 4,
    max_iter: int = 400,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Fit queries and keys to weights P by the mean over rows of KL(P_i || softmax(Q Kᵀ)_i).

    L-BFGS from `low_rank_logits` and from normal random starts; the best is returned. It may be a
    local minimum, but is never worse than `low_rank_logits`.

    Args:
        P: attention weights, shape (n, m), float32 or float64: positive, rows sum to 1.
        key_size: number of columns of Q and K, at least 0.
        n_restarts: number of random starts.
        max_iter: iterations of each start.
        generator: source of the random starts, on the CPU.

    Returns:
        (Q, K, divergence), shapes (n, key_size) and (m, key_size), and the divergence in nats of
        Q and K before they are rounded to the dtype of P.

    Raises:
        ValueError: if P is no such matrix.

    Example:
        >>> P = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])
        >>> Q, K, divergence = fit_low_rank_attention(P, 1, 0)
        >>> f"{divergence:.3f}"
        '0.033'
    """
    _check_weights(P)
    check_count(0, key_size=key_size, n_restarts=n_restarts)
    check_count(max_iter=max_iter)
    n, m = P.shape
    wide = P.detach().cpu().double()
    Q, K = low_rank_logits(wide, key_size)
    starts = [torch.cat([Q, K])]
    for _ in range(n_restarts):
        starts.append(torch.randn(n + m, key_size, generator=generator, dtype=torch.float64))
    fits = [_descend(wide.numpy(), start.numpy(), max_iter) for start in starts]
    best, divergence = min(fits, key=lambda fit: fit[1])
    fitted = torch.from_numpy(best).to(P)
    return fitted[:n], fitted[n:], divergence


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention with a free key size, and heads that may talk.

    Head a has the logits Ĵ_a = Q_a K_aᵀ / √d_k. With `talking` "pre" they become
    J_a = Σ_b mix_pre[a, b] Ĵ_b before the softmax, with "post" the weights become
    Σ_b mix_post[a, b] P_b after it, with "both" both. Mixing matrices begin as the identity: at
    first the heads do not talk. There are no biases. Half precision is summed in float32.

    Args:
        d_model: width d of the tokens.
        num_heads: number h of heads.
        key_size: d_k of each head; d / h if None.
        value_size: d_v of each head; d / h if None.
        talking: "none", "pre", "post" or "both".

    Attributes:
        q_proj, k_proj, v_proj, o_proj: linear maps; features are sorted by head.
        mix_pre, mix_post: matrices (h, h), or None.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is not positive, `talking` is unknown, or a size is left to d / h and
            that is no whole number.

    Source: Vaswani et al., arXiv:1706.03762, section 3.2.2; Bhojanapalli et al., arXiv:2002.07028;
    Shazeer et al., arXiv:2003.02436.

    Example:
        >>> attend = MultiHeadAttention(32, 8, key_size=16, talking="pre")
        >>> sum(p.numel() for p in attend.parameters())
        10304
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        key_size: int | None = None,
        value_size: int | None = None,
        talking: Talking = "none",
    ) -> None:
        key_size, value_size = _sizes(d_model, num_heads, key_size, value_size, talking)
        super().__init__()
        self.num_heads, self.key_size, self.value_size = num_heads, key_size, value_size
        self.talking = talking
        self.q_proj = nn.Linear(d_model, num_heads * key_size, bias=False)
        self.k_proj = nn.Linear(d_model, num_heads * key_size, bias=False)
        self.v_proj = nn.Linear(d_model, num_heads * value_size, bias=False)
        self.o_proj = nn.Linear(num_heads * value_size, d_model, bias=False)
        before, after = talking in ("pre", "both"), talking in ("post", "both")
        self.mix_pre = nn.Parameter(torch.eye(num_heads)) if before else None
        self.mix_post = nn.Parameter(torch.eye(num_heads)) if after else None

    def forward(
        self, x: Tensor, mask: Tensor | None = None, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: tokens, shape (B, n, d), in the dtype of the weights.
            mask: what may be seen (True), boolean, of a shape that broadcasts to (B, h, n, n); it
                is applied after the logits are mixed.
            need_weights: whether the weights by which the values are multiplied come, too.

        Returns:
            Outputs (B, n, d); with `need_weights` also the weights (B, h, n, n).

        Raises:
            TypeError: if the mask is not boolean, or x is not of the dtype of the weights.
            ValueError: for wrong shapes, or a mask that hides all tokens from one.
        """
        _check_tokens(x, mask, self.q_proj.weight, self.num_heads)
        q, k, v = (
            split_heads(widened(layer(x)), self.num_heads)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        logits = q / math.sqrt(self.key_size) @ k.mT
        if self.mix_pre is not None:
            logits = _mixed(self.mix_pre, logits)
        if mask is not None:
            logits = logits.masked_fill(~mask, -math.inf)
        weights = logits.softmax(-1)
        if self.mix_post is not None:
            weights = _mixed(self.mix_post, weights)
        out: Tensor = self.o_proj(merge_heads(weights @ v).to(x.dtype))
        return (out, narrowed(weights, x.dtype, "weights")) if need_weights else out


def attention_parameter_count(
    d_model: int,
    num_heads: int,
    key_size: int | None = None,
    value_size: int | None = None,
    talking: Talking = "none",
) -> int:
    """Count the parameters of `MultiHeadAttention`: 2 d h d_k + 2 d h d_v, and h² for a mixing.

    Args:
        d_model: width d of the tokens.
        num_heads: number h of heads.
        key_size: d_k of each head; d / h if None.
        value_size: d_v of each head; d / h if None.
        talking: "none", "pre", "post" or "both".

    Raises:
        ValueError: as `MultiHeadAttention`.

    Source: Vaswani et al., arXiv:1706.03762, section 3.2.2; Shazeer et al., arXiv:2003.02436.

    Example:
        >>> attention_parameter_count(768, 12), attention_parameter_count(768, 12, key_size=128)
        (2359296, 3538944)
    """
    key_size, value_size = _sizes(d_model, num_heads, key_size, value_size, talking)
    mixings = {"none": 0, "pre": 1, "post": 1, "both": 2}[talking]
    return 2 * d_model * num_heads * (key_size + value_size) + mixings * num_heads**2


def _centred_log(P: Tensor) -> Tensor:
    logits = P.double().log()
    return logits - logits.mean(-1, keepdim=True)


def _descend(
    P: NDArray[np.float64], start: NDArray[np.float64], max_iter: int
) -> tuple[NDArray[np.float64], float]:
    """The stacked queries and keys that L-BFGS reaches, and their divergence from P."""
    n = len(P)
    entropy = special.xlogy(P, P).sum() / n

    def divergence(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        Q, K = np.split(flat.reshape(start.shape), [n])
        logs = special.log_softmax(Q @ K.T, axis=1)
        slope = (np.exp(logs) - P) / n  # of the divergence, by the logits
        gradient = np.concatenate([slope @ K, slope.T @ Q])
        return float(entropy - (P * logs).sum() / n), gradient.ravel()

    if not start.size:
        return start, max(divergence(start.ravel())[0], 0.0)
    found = optimize.minimize(
        divergence,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "ftol": 1e-15, "gtol": 1e-9, "maxfun": 10 * max_iter},
    )
    return found.x.reshape(start.shape), max(float(found.fun), 0.0)


def _mixed(mix: Tensor, heads: Tensor) -> Tensor:
    """Σ_b mix[a, b] heads_b."""
    return torch.einsum("ab,zbij->zaij", mix.to(heads.dtype), heads)


def _sizes(
    d_model: int, num_heads: int, key_size: int | None, value_size: int | None, talking: Talking
) -> tuple[int, int]:
    """The key and value size of a head, once all arguments are checked."""
    check_count(d_model=d_model, num_heads=num_heads)
    check_choice(Talking, talking=talking)
    if d_model % num_heads and None in (key_size, value_size):
        raise ValueError(
            f"d_model must be a multiple of num_heads where a size is left to d_model / num_heads, "
            f"got {d_model} and {num_heads}"
        )
    usual = d_model // num_heads
    key_size = usual if key_size is None else key_size
    value_size = usual if value_size is None else value_size
    check_count(key_size=key_size, value_size=value_size)
    return key_size, value_size


def _check_weights(P: Tensor) -> None:
    check_precise(P=P)
    if P.ndim != 2 or 0 in P.shape:
        raise ValueError(f"P must have shape (n, m), not empty, got {tuple(P.shape)}")
    check_finite(P=P)
    least, smallest = float(P.detach().min()), torch.finfo(P.dtype).tiny
    if least < smallest:
        raise ValueError(f"P must be positive, at least {smallest:.3g}, got {least:.3g}")
    sums = P.detach().double().sum(-1)
    worst = float(sums[(sums - 1).abs().argmax()])
    if abs(worst - 1) > _ROW_SUM:
        raise ValueError(f"P must have rows that sum to 1, got {worst:.7g}")


def _check_tokens(x: Tensor, mask: Tensor | None, weight: Tensor, num_heads: int) -> None:
    if not isinstance(x, Tensor) or x.dtype != weight.dtype:
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must have the dtype {weight.dtype} of the weights, got {found}")
    if x.ndim != 3 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must have shape (B, n, {weight.shape[1]}), got {tuple(x.shape)}")
    check_mask(torch.Size((len(x), num_heads, x.shape[1], x.shape[1])), mask=mask)
