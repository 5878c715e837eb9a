"""Attention whose mixing matrix does not come from comparing tokens: the Synthesizer.

Self-attention replaces the tokens' values V by softmax(B) V, row by row, with an n x n matrix B of
logits. Any way to make B will do: products of queries and keys, a small network that sees one token
("dense"), a table ("random"), or a weighted sum of several. A row of such logits has a fixed length
N, the longest sequence; for a shorter one the first n columns are used.

References:
    Y. Tay, D. Bahri, D. Metzler, D.-C. Juan, Z. Zhao, C. Zheng, "Synthesizer: Rethinking
    Self-Attention in Transformer Models", 2020, arXiv:2005.00743.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kexue_lab.precision import holds, narrowed, widened
from kexue_lab.transformer import merge_heads, split_heads
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_floating,
    check_leading,
    check_mask,
)

Kind = Literal["dot", "dense", "random", "random_fixed", "factorized_random", "factorized_dense"]
"""Ways to make logits."""

Tiling = Literal["interleave", "repeat"]
"""Ways to make a row of a·b logits from a and b numbers."""


def dense_logits(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Return B = relu(x W₁ + b₁) W₂ + b₂: row i of the logits from token i alone.

    Rows have the length N of `b2` whatever n is: cut the columns of a shorter sequence to n.

    Args:
        x: tokens, shape (..., n, d).
        w1: shape (..., d, m).
        b1: shape (..., m), or (..., 1, m) beside leading dimensions.
        w2: shape (..., m, N).
        b2: shape (..., N), or (..., 1, N) beside leading dimensions.

    Returns:
        Logits, shape (..., n, N).

    Raises:
        TypeError: if an argument is not a floating-point tensor or the dtypes differ.
        ValueError: if shapes disagree, or a logit is beyond the dtype.

    Source: Tay et al., arXiv:2005.00743, section 3.1.1.

    Example:
        >>> eye = torch.eye(2)
        >>> x = torch.tensor([[3.0, -5.0]])
        >>> dense_logits(x, eye, torch.zeros(2), eye, torch.tensor([0.5, 0.5]))
        tensor([[3.5000, 0.5000]])
    """
    check_floating(x=x, w1=w1, b1=b1, w2=w2, b2=b2)
    _check_axes(x=(x, ("n", "d")), w1=(w1, ("d", "m")), w2=(w2, ("m", "N")))
    _check_axes(b1=(b1, ("m",)), b2=(b2, ("N",)))
    for name, found, expected in (
        ("w1", w1.shape[-2], x.shape[-1]),
        ("b1", b1.shape[-1], w1.shape[-1]),
        ("w2", w2.shape[-2], w1.shape[-1]),
        ("b2", b2.shape[-1], w2.shape[-1]),
    ):
        _check_equal(name, "length", found, expected)
    check_leading(
        x=x.shape[:-2], w1=w1.shape[:-2], b1=b1.shape[:-2], w2=w2.shape[:-2], b2=b2.shape[:-2]
    )
    x_, w1, b1, w2, b2 = map(widened, (x, w1, b1, w2, b2))
    return narrowed((x_ @ w1 + b1).relu() @ w2 + b2, x.dtype, "logits")


def factorized_dense_logits(a: Tensor, b: Tensor, *, tiling: Tiling = "interleave") -> Tensor:
    """Return rows of A·B logits as products of A and of B numbers.

    "interleave" gives column pB + q the product a_p b_q, so that every pair occurs. "repeat" gives
    column j the product of entries j mod A and j mod B: its columns repeat with the period
    lcm(A, B), so that every pair occurs only where A and B share no divisor.

    Args:
        a: shape (..., A).
        b: shape (..., B).
        tiling: "interleave" or "repeat".

    Returns:
        Logits, shape (..., A·B).

    Raises:
        TypeError: if an argument is not a floating-point tensor or the dtypes differ.
        ValueError: if shapes disagree, `tiling` is unknown, or a logit is beyond the dtype.

    Source: Tay et al., arXiv:2005.00743, section 3.1.3; Su Jianlin's remark in the article for the
    interleaving.

    Example:
        >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
        >>> factorized_dense_logits(a, b)
        tensor([ 3.,  5.,  6., 10.])
        >>> factorized_dense_logits(a, b, tiling="repeat")
        tensor([ 3., 10.,  3., 10.])
    """
    check_floating(a=a, b=b)
    check_choice(Tiling, tiling=tiling)
    _check_axes(a=(a, ("A",)), b=(b, ("B",)))
    check_leading(a=a.shape[:-1], b=b.shape[:-1])
    return narrowed(_tiled(widened(a), widened(b), tiling), a.dtype, "logits")


def toeplitz_logits(r: Tensor, n: int) -> Tensor:
    """Return the logits R_ij = r_{j-i} that make a fixed table a convolution.

    softmax(R) V is then the cross-correlation of V with exp(r), divided by that of a constant 1:
    near the borders less than the whole kernel fits, and what is left is normalised.

    Args:
        r: shape (2w + 1,), its centre belonging to the offset 0.
        n: length of the sequence.

    Returns:
        Logits, shape (n, n); -inf where |j - i| > w.

    Raises:
        TypeError: if `r` is not a floating-point tensor or `n` is not an integer.
        ValueError: if `r` is not one-dimensional of odd length, or n < 1.

    Source: Su Jianlin, "Google's Synthesizer: we do not understand self-attention yet", 2020, for
    the relation to depthwise separable convolutions.

    Example:
        >>> toeplitz_logits(torch.tensor([1.0, 2.0, 3.0]), 3)
        tensor([[2., 3., -inf],
                [1., 2., 3.],
                [-inf, 1., 2.]])
    """
    check_floating(r=r)
    check_count(n=n)
    if r.ndim != 1 or len(r) % 2 == 0:
        raise ValueError(f"r must have shape (2w + 1,), got {tuple(r.shape)}")
    place = torch.arange(n, device=r.device)
    place = place - place[:, None] + len(r) // 2
    inside = (place >= 0) & (place < len(r))
    return torch.where(inside, r[place.clamp(0, len(r) - 1)], -math.inf)


def synthetic_attention(
    logits: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Return softmax(logits) V, wherever the logits come from.

    Args:
        logits: shape (..., n, m); -inf where nothing is to be seen.
        v: values, shape (..., m, d_v), of the same dtype.
        mask: boolean, True where a row may see a column; broadcasts to `logits`.
        is_causal: whether row i sees columns j ≤ i only; n = m then.

    Returns:
        Outputs, shape (..., n, d_v).

    Raises:
        TypeError: if `logits` or `v` is not a floating-point tensor, the dtypes differ, or `mask`
            is not boolean.
        ValueError: if shapes disagree, or a row sees no column.

    Source: Tay et al., arXiv:2005.00743, section 3.1.

    Example:
        >>> v = torch.tensor([[1.0], [2.0], [6.0]])
        >>> synthetic_attention(torch.zeros(3, 3), v, is_causal=True)
        tensor([[1.0000],
                [1.5000],
                [3.0000]])
    """
    check_floating(logits=logits, v=v)
    _check_axes(logits=(logits, ("n", "m")), v=(v, ("m", "d_v")))
    _check_equal("v", "m", v.shape[-2], logits.shape[-1])
    check_leading(logits=logits.shape[:-2], v=v.shape[:-2])
    seen = _masked(widened(logits), mask, is_causal)
    _check_rows(seen)
    return narrowed(seen.softmax(-1) @ widened(v), v.dtype, "outputs")


def logit_parameter_count(
    kind: Kind,
    d_model: int,
    max_length: int,
    *,
    num_heads: int = 1,
    rank: int = 8,
    factors: tuple[int, int] | None = None,
) -> int:
    """Count the trained numbers, without biases, that make a layer's logits.

    2d² for "dot", d² + dN for "dense", hN² for "random", 0 for "random_fixed", 2hNk for
    "factorized_random", d² + d(a + b) for "factorized_dense".

    Args:
        kind: how logits are made.
        d_model: width d of a token.
        max_length: longest sequence N.
        num_heads: number h of heads, each of width d/h.
        rank: k.
        factors: (a, b) with ab = N; None for the pair closest together, the smaller first.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if `kind` is unknown, a size is below 1, `num_heads` does not divide `d_model`,
            or `factors` do not multiply to `max_length`.

    Source: Tay et al., arXiv:2005.00743, table 1.

    Example:
        >>> logit_parameter_count("dot", 768, 512)
        1179648
    """
    check_choice(Kind, kind=kind)
    first, second = _checked_sizes(d_model, num_heads, max_length, rank, factors)
    counts: dict[Kind, int] = {
        "dot": 2 * d_model**2,
        "dense": d_model**2 + d_model * max_length,
        "random": num_heads * max_length**2,
        "random_fixed": 0,
        "factorized_random": 2 * num_heads * max_length * rank,
        "factorized_dense": d_model**2 + d_model * (first + second),
    }
    return counts[kind]


class SynthesizerAttention(nn.Module):
    """Self-attention with several heads, whose logits are made in one way or in several.

    Several ways are mixed: B = Σ α_m B_m, with α the softmax of the parameter `mixture`. Tables
    start with entries of variance 1; those of "random_fixed" are buffers.

    Args:
        d_model: width d of a token.
        num_heads: number h of heads, each of width d/h.
        max_length: longest sequence N.
        kinds: ways to make logits, at least one.
        rank: k of "factorized_random".
        factors: as in `logit_parameter_count`.
        tiling: of "factorized_dense", as in `factorized_dense_logits`.

    Attributes:
        makers: one module per kind, from tokens (B, n, d) to logits (B, h, n, n); that of a table
            has it as `table`, (h, N, N).
        mixture: one number per kind; None where there is one kind.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: as `logit_parameter_count`, for no kinds, or an unknown tiling.

    Source: Tay et al., arXiv:2005.00743, section 3.

    Example:
        >>> attention = SynthesizerAttention(8, 2, 6, ("random", "dot"))
        >>> output, weights = attention(torch.zeros(3, 5, 8), need_weights=True)
        >>> output.shape, weights.shape
        (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 5]))
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        max_length: int,
        kinds: Sequence[Kind] = ("dense",),
        *,
        rank: int = 8,
        factors: tuple[int, int] | None = None,
        tiling: Tiling = "interleave",
    ) -> None:
        super().__init__()
        factors = _checked_sizes(d_model, num_heads, max_length, rank, factors)
        check_choice(Tiling, tiling=tiling)
        if not kinds:
            raise ValueError(f"kinds must name at least one kind, got {kinds!r}")
        for kind in kinds:
            check_choice(Kind, kinds=kind)
        self.num_heads = num_heads
        self.max_length = max_length
        self.makers = nn.ModuleList(
            _maker(kind, d_model, num_heads, max_length, rank, factors, tiling) for kind in kinds
        )
        self.mixture = nn.Parameter(torch.zeros(len(kinds))) if len(kinds) > 1 else None
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits, (B, h, n, n), of the tokens x, (B, n, d)."""
        mixed: Tensor
        first, *others = (maker(x) for maker in self.makers)
        if self.mixture is None:
            mixed = first
        else:
            shares = self.mixture.softmax(0)
            mixed = sum((a * b for a, b in zip(shares[1:], others, strict=True)), shares[0] * first)
        return mixed.expand(len(x), -1, -1, -1)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mix the tokens of x, (B, n, d).

        Args:
            x: tokens.
            mask: boolean, True where a row may see a column; broadcasts to (B, h, n, n).
            need_weights: whether to return softmax(B), (B, h, n, n), as well.

        Raises:
            ValueError: if n exceeds `max_length`, or a row sees no column.
        """
        if x.shape[-2] > self.max_length:
            raise ValueError(f"x must have length at most {self.max_length}, got {x.shape[-2]}")
        logits = self.logits(x)
        if mask is not None:
            logits = _masked(logits, mask, False)
            _check_rows(logits)
        weights = logits.softmax(-1)
        mixed = weights @ split_heads(self.v_proj(x), self.num_heads)
        output: Tensor = self.o_proj(merge_heads(mixed))
        return (output, weights) if need_weights else output


class _Dot(nn.Module):
    """Queries times keys, over the root of their width."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (split_heads(layer(x), self.num_heads) for layer in (self.q_proj, self.k_proj))
        return q @ k.mT / math.sqrt(q.shape[-1])


class _Dense(nn.Module):
    """Each head's rows of numbers by a hidden layer: d to d/h, then to each of the widths."""

    def __init__(self, d_model: int, num_heads: int, *widths: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        hidden = d_model // num_heads
        self.hidden = nn.Linear(d_model, d_model)
        self.w2 = nn.ParameterList(_uniform(hidden, num_heads, hidden, n) for n in widths)
        self.b2 = nn.ParameterList(_uniform(hidden, num_heads, 1, n) for n in widths)

    def rows(self, x: Tensor) -> list[Tensor]:
        """One tensor (B, h, n, width) for each of the widths."""
        hidden = split_heads(self.hidden(x).relu(), self.num_heads)
        return [hidden @ w2 + b2 for w2, b2 in zip(self.w2, self.b2, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        (rows,) = self.rows(x)
        return rows[..., : x.shape[-2]]


class _FactorizedDense(_Dense):
    """Rows of N = ab logits as products of a and of b numbers."""

    def __init__(
        self, d_model: int, num_heads: int, factors: tuple[int, int], tiling: Tiling
    ) -> None:
        super().__init__(d_model, num_heads, *factors)
        self.tiling: Tiling = tiling

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.rows(x)
        rows = _tiled(first, second, self.tiling)
        return rows[..., : x.shape[-2]]


class _Table(nn.Module):
    """The same logits for every input."""

    def __init__(self, num_heads: int, max_length: int, *, is_trained: bool) -> None:
        super().__init__()
        table = torch.randn(num_heads, max_length, max_length)
        if is_trained:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[-2]
        return self.table[None, :, :n, :n]


class _FactorizedTable(nn.Module):
    """The same logits for every input, of rank at most k."""

    def __init__(self, num_heads: int, max_length: int, rank: int) -> None:
        super().__init__()
        # Products of k terms start with variance 1.
        shape, scale = (num_heads, max_length, rank), rank**-0.25
        self.left = nn.Parameter(torch.randn(shape) * scale)
        self.right = nn.Parameter(torch.randn(shape) * scale)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[-2]
        return (self.left[:, :n] @ self.right[:, :n].mT)[None]


def _maker(
    kind: Kind,
    d_model: int,
    num_heads: int,
    max_length: int,
    rank: int,
    factors: tuple[int, int],
    tiling: Tiling,
) -> nn.Module:
    match kind:
        case "dot":
            return _Dot(d_model, num_heads)
        case "dense":
            return _Dense(d_model, num_heads, max_length)
        case "factorized_dense":
            return _FactorizedDense(d_model, num_heads, factors, tiling)
        case "factorized_random":
            return _FactorizedTable(num_heads, max_length, rank)
        case _:
            return _Table(num_heads, max_length, is_trained=kind == "random")


def _tiled(a: Tensor, b: Tensor, tiling: Tiling) -> Tensor:
    if tiling == "interleave":
        return (a[..., :, None] * b[..., None, :]).flatten(-2)
    column = torch.arange(a.shape[-1] * b.shape[-1], device=a.device)
    return a[..., column % a.shape[-1]] * b[..., column % b.shape[-1]]


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    """Numbers as torch's linear layers start with them."""
    return nn.Parameter((2 * torch.rand(shape) - 1) / math.sqrt(fan_in))


def _masked(logits: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """The logits with -inf where a row must not see a column."""
    if is_causal:
        n, m = logits.shape[-2:]
        _check_equal("logits", "n = m for is_causal", n, m)
        future = torch.ones(n, m, dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(future, -math.inf)
    # A mask may tell apart examples that share their logits.
    leading = mask.shape[:-2] if isinstance(mask, Tensor) else torch.Size()
    check_leading(mask=leading, logits=logits.shape[:-2])
    check_mask(torch.Size((*leading, *logits.shape[-2:])), mask=mask)
    return logits if mask is None else logits.masked_fill(~mask, -math.inf)


def _check_rows(logits: Tensor) -> None:
    if not holds((logits > -math.inf).any(-1)):
        raise ValueError("logits must leave each row a column to see, got a row of -inf")


def _checked_sizes(
    d_model: int, num_heads: int, max_length: int, rank: int, factors: tuple[int, int] | None
) -> tuple[int, int]:
    check_count(d_model=d_model, num_heads=num_heads, max_length=max_length, rank=rank)
    if d_model % num_heads:
        raise ValueError(f"num_heads must divide d_model = {d_model}, got {num_heads}")
    if factors is None:
        first = next(a for a in range(math.isqrt(max_length), 0, -1) if max_length % a == 0)
        return first, max_length // first
    first, second = factors
    check_count(**{"factors[0]": first, "factors[1]": second})
    if first * second != max_length:
        raise ValueError(f"factors must multiply to max_length = {max_length}, got {factors}")
    return first, second


def _check_axes(**tensors: tuple[Tensor, tuple[str, ...]]) -> None:
    """Check that tensors have axes of these names at their end, none of them empty."""
    for name, (value, axes) in tensors.items():
        if value.ndim < len(axes) or 0 in value.shape[value.ndim - len(axes) :]:
            raise ValueError(
                f"{name} must have shape (..., {', '.join(axes)}) with no empty axis, "
                f"got {tuple(value.shape)}"
            )


def _check_equal(name: str, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{name} must have {what} = {expected}, got {found}")
