"""Attention without softmax: feature maps, and the linear, causal and dense forms they give.

Generalised attention averages values with weights from a similarity of query and key,
o_i = Σ_j sim(q_i, k_j) v_j / Σ_j sim(q_i, k_j). Softmax attention has sim = exp(q·k). With
sim = φ(q)·φ(k), features in D dimensions, the sums over j do not depend on i: n D d_v multiply-adds
twice instead of n² (d + d_v), and a causal mask leaves an RNN whose state is D x (d_v + 1) numbers.

Queries are (..., n_q, d), keys (..., n, d), values (..., n, d_v); leading dimensions broadcast. No
function here scales q·k by 1/√d, and none branches on the values of a tensor, so that all of them
work under autograd and `torch.func.vmap`. Half-precision inputs are summed in float32.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_lab.precision import power_of_two, widened
from kexue_lab.transformer import SelfAttention, merge_heads, split_heads
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_floating,
    check_leading,
    check_non_negative,
)

FeatureMap = Callable[[Tensor], Tensor]
"""A feature map φ, applied to every row: (..., n, d) to (..., n, D)."""

State = tuple[Tensor, Tensor]
"""What a causal pass remembers: S = Σ φ(k) vᵀ, (..., D, d_v), and z = Σ φ(k), (..., D)."""

# Where all entries lie below, features elu + 1 are exponentials, soon too small to be summed.
_VANISHING = -20.0

Kind = Literal["softmax", "elu", "taylor", "efficient"]
HeadKind = Literal["softmax", "elu", "taylor"]


def elu_feature_map(x: Tensor) -> Tensor:
    """Return φ(x) = elu(x) + 1, that is 1 + x for x > 0 and exp(x) otherwise.

    Unlike `torch.nn.functional.elu(x) + 1` it keeps its relative accuracy for very negative x,
    where that sum rounds to 0. Note that φ(0) = 1: a padding mask belongs on the features.

    Args:
        x: any shape.

    Returns:
        Positive features, of the shape of `x`.

    Raises:
        TypeError: if `x` is not a floating-point tensor.

    Source: Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236, section
    3.2.1.

    Example:
        >>> elu_feature_map(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0.3679, 1.0000, 3.0000])
    """
    _check_tensors(x=x)
    # At x = 0 clamp passes the gradient and relu does not: it is 1 there, as it should be.
    return x.clamp(max=0).exp() + F.relu(x)


def normalized_taylor_feature_map(x: Tensor, eps: float = 0.0) -> Tensor:
    """Return φ(x) = (1, x̂) with x̂ = x / max(|x|, eps), so that φ(q)·φ(k) = 1 + q̂·k̂.

    This is exp(s) ≈ 1 + s kept non-negative by unit length; φ(q)·φ(k) lies in [0, 2] and is 0 for
    opposite vectors. A zero row maps to (1, 0).

    Args:
        x: shape (..., d).
        eps: smallest length by which a row is divided.

    Returns:
        Features, shape (..., d + 1).

    Raises:
        TypeError: if `x` is not a floating-point tensor.
        ValueError: if `x` has no dimension, or `eps` is negative or not finite.

    Source: Su Jianlin, "Exploring linear attention: must attention have a softmax?", 2020.

    Example:
        >>> normalized_taylor_feature_map(torch.tensor([3.0, 4.0]))
        tensor([1.0000, 0.6000, 0.8000])
    """
    _check_tensors(1, x=x)
    check_non_negative(eps=eps)
    # The largest entry is taken out first, so that no square under- or overflows.
    largest = x.detach().abs().amax(-1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    row = x / largest
    length = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
    length = torch.where(length > 0, length, 1)
    if eps > 0:
        length = length.maximum(torch.full_like(largest, eps) / largest)
    return torch.cat([torch.ones_like(length), row / length], -1)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    feature_map: FeatureMap | None = elu_feature_map,
    is_causal: bool = False,
    chunk_size: int = 64,
    eps: float = 0.0,
) -> Tensor:
    """Return o_i = Σ_j φ(q_i)·φ(k_j) v_j / (Σ_j φ(q_i)·φ(k_j) + eps) without an n x n matrix.

    With `is_causal` the sums run over j ≤ i, chunk by chunk: for a chunk with incoming state (S, z)
    the numerators are tril(Φ_q Φ_kᵀ) V + Φ_q S, after which S grows by Φ_kᵀ V; z likewise, with
    ones for V. Chunks of 1 are the recurrence of `linear_attention_step`, one chunk is the masked
    quadratic form; time and memory are linear in n.

    A row whose weights are all 0 is 0/0 = nan at eps = 0. Under a causal mask the first output is
    v_1 for positive features, but 0/0 for `normalized_taylor_feature_map` at opposite q_1 and k_1.

    Args:
        q: queries, shape (..., n_q, d).
        k: keys, shape (..., n, d).
        v: values, shape (..., n, d_v), of the same dtype.
        feature_map: φ; None if `q` and `k` are features already, for instance features of keys that
            were set to 0 where the input is padding.
        is_causal: whether output i sees keys j ≤ i only; n_q = n then.
        chunk_size: rows of one causal chunk; the result depends on it only by rounding.
        eps: added to the denominator.

    Returns:
        Outputs, shape (..., n_q, d_v), in the dtype of `v`.

    Raises:
        TypeError: if `q`, `k`, `v` or features are not floating-point tensors, the dtypes of `q`,
            `k` and `v` differ, `feature_map` is not callable or `chunk_size` is not an int.
        ValueError: if shapes disagree or n, d or d_v is 0, the feature map does not keep the
            leading shape, `chunk_size` < 1, or `eps` is negative or not finite.

    Source: Katharopoulos et al., arXiv:2006.16236, sections 3.2 and 3.3; the chunked form is that
    of Sun et al., "Retentive Network", arXiv:2307.08621, without decay.

    Example:
        >>> q = k = torch.eye(3)
        >>> v = torch.tensor([[1.0], [2.0], [4.0]])
        >>> linear_attention(q, k, v, is_causal=True).squeeze(-1)
        tensor([1.0000, 1.5455, 2.4375])
    """
    _check_attention(is_causal, q, k, v)
    check_count(chunk_size=chunk_size)
    check_non_negative(eps=eps)
    values = widened(v)
    if feature_map is elu_feature_map:
        q, k, lost = _lifted(widened(q), widened(k))
    else:
        lost = torch.ones((), dtype=values.dtype, device=q.device)
    phi_q, phi_k = (phi.to(values.dtype) for phi in _features(q, k, feature_map))
    unit_q = power_of_two(phi_q.abs().amax(-1, keepdim=True))
    unit_k, unit_v = (power_of_two(x.abs().amax((-2, -1), keepdim=True)) for x in (phi_k, values))
    phi_q, phi_k, values = phi_q / unit_q, phi_k / unit_k, values / unit_v
    # A column of ones carries the denominator (and z) through the same products.
    extended = torch.cat([values, torch.ones_like(values[..., :1])], -1)
    if is_causal:
        sums = _causal_sums(phi_q, phi_k, extended, chunk_size)
    else:
        sums = phi_q @ (phi_k.mT @ extended)
    # The features were divided by all this; eps was not.
    extra = eps / lost / unit_q / unit_k if eps > 0 else 0.0
    return (sums[..., :-1] / (sums[..., -1:] + extra) * unit_v).to(v.dtype)


def _lifted(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys whose features elu + 1 do not vanish, and the factor these have lost.

    Where all entries of a query are far below 0 its features are exponentials, and a common factor
    of them cancels; likewise for the keys together.
    """
    top_q = q.detach().amax(-1, keepdim=True)
    top_k = k.detach().amax((-2, -1), keepdim=True)
    top_q, top_k = (torch.where(top < _VANISHING, top, 0) for top in (top_q, top_k))
    return q - top_q, k - top_k, (top_q + top_k).exp()


def linear_attention_step(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, state: State | None = None
) -> tuple[Tensor, State]:
    """Return the output for one token of causal linear attention, and the state after it.

    S ← S + φ(k) vᵀ, z ← z + φ(k), then o = Sᵀφ(q) / (z·φ(q)). The token is stored before it is
    read; read first, the first token would see an empty state, 0/0.

    Args:
        phi_q: features of the query, shape (..., D).
        phi_k: features of the key, shape (..., D).
        v: value, shape (..., d_v), of the same dtype.
        state: (S, z) of the tokens before, shapes (..., D, d_v) and (..., D), as returned by the
            step before; None before the first token. It is not changed.

    Returns:
        (output, (S, z)): the output has shape (..., d_v) and the dtype of `v`; S and z have that
        dtype too, but float32 where it is a half precision.

    Raises:
        TypeError: if an argument is not a floating-point tensor, the dtypes of `phi_q`, `phi_k` and
            `v` differ, or those of the state are not as returned.
        ValueError: if shapes disagree or D or d_v is 0.

    Source: Katharopoulos et al., arXiv:2006.16236, section 3.4.
    """
    _check_tensors(1, phi_q=phi_q, phi_k=phi_k, v=v)
    _check_equal("phi_k", "D", phi_k.shape[-1], phi_q.shape[-1])
    value = widened(v)
    tensors = {"phi_q": phi_q.shape[:-1], "phi_k": phi_k.shape[:-1], "v": v.shape[:-1]}
    if state is not None:
        _check_state(state, (phi_k.shape[-1], v.shape[-1]), value.dtype)
        tensors |= {"state[0]": state[0].shape[:-2], "state[1]": state[1].shape[:-1]}
    check_leading(**tensors)
    phi_q, phi_k = widened(phi_q), widened(phi_k)
    phi_q = phi_q / power_of_two(phi_q.abs().amax(-1, keepdim=True))
    old_sum, old_normalizer = (0.0, 0.0) if state is None else state
    new_sum = old_sum + phi_k[..., :, None] * value[..., None, :]
    new_normalizer = old_normalizer + phi_k
    numerator = (phi_q[..., None, :] @ new_sum).squeeze(-2)
    denominator = (phi_q * new_normalizer).sum(-1, keepdim=True)
    return (numerator / denominator).to(v.dtype), (new_sum, new_normalizer)


def efficient_attention(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False) -> Tensor:
    """Return the double softmax softmax_features(Q) (softmax_sequence(K)ᵀ V).

    The weights of every output sum to 1 without a division. Not to be confused with linear
    attention on the features softmax(q) and exp(k): that normalises after mixing the channels,
    this normalises each channel over the sequence.

    Args:
        q: queries, shape (..., n_q, d).
        k: keys, shape (..., n, d).
        v: values, shape (..., n, d_v), of the same dtype.
        is_causal: must be False: the softmax over the sequence sees the future.

    Returns:
        Outputs, shape (..., n_q, d_v).

    Raises:
        TypeError: if an argument is not a floating-point tensor or the dtypes differ.
        ValueError: if shapes disagree or n, d or d_v is 0, or `is_causal` is set.

    Source: Shen et al., "Efficient Attention", arXiv:1812.01243, section 3.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> efficient_attention(x, x, x)
        tensor([[0.3932, 0.6068],
                [0.6068, 0.3932]])
    """
    _check_attention(is_causal, q, k, v)
    _check_not_causal(is_causal)
    q, k, values = widened(q), widened(k), widened(v)
    return (q.softmax(-1) @ (k.softmax(-2).mT @ values)).to(v.dtype)


def attention_matrix(
    q: Tensor, k: Tensor, *, kind: Kind, is_causal: bool = False, scale: float = 1.0
) -> Tensor:
    """Return the dense matrix A of attention weights, rows summing to 1, output A V.

    The similarities, of q multiplied by `scale`, are exp(q·k) for "softmax", φ(q)·φ(k) with elu + 1
    for "elu", 1 + q̂·k̂ for "taylor" (which no positive scale changes); "efficient" is the double
    softmax. Quadratic in n: for teaching and tests.

    Args:
        q: queries, shape (..., n_q, d).
        k: keys, shape (..., n, d).
        kind: "softmax", "elu", "taylor" or "efficient".
        is_causal: whether A is 0 above the diagonal; n_q = n then.
        scale: factor of the queries; 1/√d is the customary one for "softmax".

    Returns:
        Weights, shape (..., n_q, n); a row of "taylor" without any weight is nan.

    Raises:
        TypeError: if `q` or `k` is not a floating-point tensor or the dtypes differ.
        ValueError: if shapes disagree or n or d is 0, `kind` is unknown, `kind` is "efficient" and
            `is_causal` is set, or `scale` is not finite.

    Source: Tsai et al., "Transformer Dissection", arXiv:1908.11775, for the general similarity.

    Example:
        >>> q = torch.tensor([[0.0], [1.0]])
        >>> attention_matrix(q, q, kind="softmax", is_causal=True)
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])
    """
    _check_attention(is_causal, q, k)
    check_choice(Kind, kind=kind)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    dtype = q.dtype
    q, k = scale * widened(q), widened(k)
    if kind == "efficient":
        _check_not_causal(is_causal)
        return (q.softmax(-1) @ k.softmax(-2).mT).to(dtype)
    if kind == "softmax":
        return _softmax_weights(q, k, is_causal).to(dtype)
    if kind == "elu":
        q, k, _ = _lifted(q, k)
    phi = elu_feature_map if kind == "elu" else normalized_taylor_feature_map
    phi_q, phi_k = phi(q), phi(k)
    phi_q = phi_q / power_of_two(phi_q.abs().amax(-1, keepdim=True))
    weights = phi_q @ (phi_k / power_of_two(phi_k.abs().amax((-2, -1), keepdim=True))).mT
    if is_causal:
        weights = weights.tril()
    return (weights / weights.sum(-1, keepdim=True)).to(dtype)


def _softmax_weights(q: Tensor, k: Tensor, is_causal: bool) -> Tensor:
    """softmax(q kᵀ), however large the products."""
    unit_q = power_of_two(q.abs().amax(-1, keepdim=True))
    unit_k = power_of_two(k.abs().amax((-2, -1), keepdim=True))
    scores = (q / unit_q) @ (k / unit_k).mT
    if is_causal:
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    below = scores - scores.detach().amax(-1, keepdim=True)
    return (below * unit_q * unit_k).softmax(-1)


def random_softmax_features(
    x: Tensor,
    n_features: int,
    *,
    generator: torch.Generator | None = None,
    projection: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return positive random features φ with E φ(q)·φ(k) = exp(q·k), and the draw they used.

    φ(x) = exp(Wᵀx − |x|²/2) / √m with m columns w ~ N(0, I). Queries and keys need the same W: pass
    the one returned for the queries as `projection` for the keys. The relative variance of
    φ(q)·φ(k) is (exp(|q + k|²) − 1) / m; multiply x by d^(−1/4) for softmax at scale 1/√d.

    Args:
        x: shape (..., d).
        n_features: m.
        generator: source of W; not used when `projection` is given.
        projection: W, shape (d, m); drawn when None.

    Returns:
        (features, W), shapes (..., m) and (d, m).

    Raises:
        TypeError: if `x` or `projection` is not a floating-point tensor, their dtypes differ, or
            `n_features` is not an int.
        ValueError: if `x` has no dimension, `n_features` < 1 or `projection` is not (d, m).

    Source: Choromanski et al., "Rethinking Attention with Performers", arXiv:2009.14794, lemma 1
    and, for the variance, lemma 2.
    """
    _check_tensors(1, x=x)
    check_count(n_features=n_features)
    shape = (x.shape[-1], n_features)
    if projection is None:
        projection = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    _check_tensors(x=x, projection=projection)
    if projection.shape != shape:
        raise ValueError(f"projection must have shape {shape}, got {tuple(projection.shape)}")
    wide = widened(x)
    exponent = wide @ widened(projection) - wide.square().sum(-1, keepdim=True) / 2
    return (exponent.exp() / math.sqrt(n_features)).to(x.dtype), projection


class LinearSelfAttention(SelfAttention):
    """The self-attention of `kexue_lab.transformer` with another similarity in its softmax's place.

    The same parameters, and for "softmax" the same output; "elu" and "taylor" are linear and do
    not divide by √d_k.

    Args:
        d_model: width of a token.
        num_heads: number of heads, each of width d_model / num_heads.
        kind: "softmax", "elu" or "taylor", as in `attention_matrix`.
        is_causal: whether a token sees itself and earlier tokens only.

    Raises:
        ValueError: if `num_heads` does not divide `d_model`, or `kind` is unknown.

    Source: Katharopoulos et al., arXiv:2006.16236, section 3.

    Example:
        >>> attention = LinearSelfAttention(8, 2, "elu")
        >>> attention(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self, d_model: int, num_heads: int, kind: HeadKind = "elu", *, is_causal: bool = False
    ) -> None:
        check_choice(HeadKind, kind=kind)
        super().__init__(d_model, num_heads, is_causal=is_causal)
        self.kind = kind

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the tokens of x, (B, n, d_model).

        Raises:
            ValueError: for a mask, where the kind is linear: there are no n × n weights to mask.
        """
        if self.kind == "softmax":
            return super().forward(x, mask)
        if mask is not None:
            raise ValueError(f"mask must be None for the kind {self.kind!r}, got a tensor")
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv_proj(x).chunk(3, -1))
        phi = elu_feature_map if self.kind == "elu" else normalized_taylor_feature_map
        mixed = linear_attention(q, k, v, feature_map=phi, is_causal=self.is_causal)
        output: Tensor = self.o_proj(merge_heads(mixed))
        return output


def _causal_sums(phi_q: Tensor, phi_k: Tensor, values: Tensor, chunk_size: int) -> Tensor:
    """Σ_{j ≤ i} φ(q_i)·φ(k_j) v_j for every i, with a state carried from chunk to chunk."""
    outputs: list[Tensor] = []
    state = phi_k.new_zeros(phi_k.shape[-1], values.shape[-1])
    # One split, not n / chunk_size slices: each slice's gradient would be as long as the sequence.
    chunks = (torch.split(x, chunk_size, dim=-2) for x in (phi_q, phi_k, values))
    for q, k, v in zip(*chunks, strict=True):
        outputs.append((q @ k.mT).tril() @ v + q @ state)
        state = state + k.mT @ v
    return torch.cat(outputs, -2)


def _features(q: Tensor, k: Tensor, feature_map: FeatureMap | None) -> tuple[Tensor, Tensor]:
    if feature_map is None:
        return q, k
    if not callable(feature_map):
        raise TypeError(f"feature_map must be callable or None, got {type(feature_map).__name__}")
    phi_q, phi_k = feature_map(q), feature_map(k)
    for name, x, phi in (("q", q, phi_q), ("k", k, phi_k)):
        _check_tensors(1, **{f"feature_map({name})": phi})
        if phi.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"feature_map must keep all but the last dimension of {tuple(x.shape)}, "
                f"got {tuple(phi.shape)}"
            )
    _check_equal("feature_map(k)", "D", phi_k.shape[-1], phi_q.shape[-1])
    return phi_q, phi_k


def _check_tensors(min_ndim: int = 0, /, **tensors: Tensor) -> None:
    """Check floating-point tensors of one dtype, with none of their last `min_ndim` axes empty."""
    check_floating(**tensors)
    for name, value in tensors.items():
        if value.ndim < min_ndim or 0 in value.shape[value.ndim - min_ndim :]:
            raise ValueError(
                f"{name} must have at least {min_ndim} non-empty dimension(s), "
                f"got shape {tuple(value.shape)}"
            )


def _check_attention(is_causal: bool, q: Tensor, k: Tensor, v: Tensor | None = None) -> None:
    """Check q (..., n_q, d), k (..., n, d) and, where given, v (..., n, d_v)."""
    tensors = {"q": q, "k": k} if v is None else {"q": q, "k": k, "v": v}
    _check_tensors(2, **tensors)
    _check_equal("k", "d", k.shape[-1], q.shape[-1])
    if v is not None:
        _check_equal("v", "n", v.shape[-2], k.shape[-2])
    if is_causal:
        _check_equal("q", "n_q = n for is_causal", q.shape[-2], k.shape[-2])
    check_leading(**{name: value.shape[:-2] for name, value in tensors.items()})


def _check_state(state: State, shape: tuple[int, int], dtype: torch.dtype) -> None:
    for name, value, tail in (("state[0]", state[0], shape), ("state[1]", state[1], shape[:1])):
        _check_tensors(**{name: value})
        if value.dtype != dtype:
            raise TypeError(f"{name} must have dtype {dtype}, got {value.dtype}")
        if value.shape[-len(tail) :] != tail:
            raise ValueError(f"{name} must have shape (..., *{tail}), got {tuple(value.shape)}")


def _check_equal(name: str, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{name} must have {what} = {expected}, got {found}")


def _check_not_causal(is_causal: bool) -> None:
    if is_causal:
        raise ValueError("is_causal must be False: the softmax over the sequence sees the future")
