"""Relative positions in attention: what they cannot tell on a constant input, and four repairs.

Attention weights whose rows sum to 1 give back a constant input unchanged, whatever the logits are;
so a relative encoding that acts only on the logits leaves all positions alike. `attention_weights`
has two normalisations under which rows sum to something else, `URPE` a factor after the softmax,
and `RelativeTransformer` puts the variants, a special token among them, to the test: it is fed with
n copies of one learnt token and shall say which is which.

Throughout True in a mask means that a query may see a key.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kexue_lab.precision import narrowed, widened
from kexue_lab.transformer import TransformerBlock, merge_heads, seen_by, split_heads
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_mask,
    check_positive,
)

Normalization = Literal["softmax", "l2", "none"]
"""What exponentials are divided by: their sum, their Euclidean length, the number of keys."""

Position = Literal["bias", "rope", "none", "absolute"]
"""A bias by offset in the logits, rotated queries and keys, nothing, or added positions."""

ProbeLoss = Literal["mse", "cross_entropy"]


def toeplitz_bias(values: Tensor, n: int) -> Tensor:
    """Lay out values by offset as matrices with entry (i, j) = value of i − j.

    Args:
        values: shape (..., 2n − 1); place k + n − 1 holds the value of the offset k = i − j.
        n: number of tokens.

    Returns:
        Matrices, shape (..., n, n).

    Raises:
        ValueError: if the last axis of `values` has not the size 2n − 1.

    Source: Raffel et al., arXiv:1910.10683, section 2.1, for a bias by offset.

    Example:
        >>> toeplitz_bias(torch.tensor([-2, -1, 0, 1, 2]), 3)
        tensor([[ 0, -1, -2],
                [ 1,  0, -1],
                [ 2,  1,  0]])
    """
    check_count(n=n)
    if not isinstance(values, Tensor):
        raise TypeError(f"values must be a tensor, got {type(values).__name__}")
    if values.ndim == 0 or values.shape[-1] != 2 * n - 1:
        raise ValueError(
            f"values must have a last axis of 2n - 1 = {2 * n - 1}, got shape {tuple(values.shape)}"
        )
    return values.unfold(-1, n, 1).flip(-1)


def apply_rope(x: Tensor, positions: Tensor | None = None, base: float = 10000.0) -> Tensor:
    """Rotate the pairs (2m, 2m + 1) of features of token i by the angle i · base^(−2m/d).

    Args:
        x: queries or keys, shape (..., n, d) with an even d.
        positions: real or whole numbers, shape (n,); 0, …, n − 1 when None.
        base: the slowest pair turns by about 1 / base per position.

    Returns:
        The rotated tokens, of the shape and dtype of x.

    Raises:
        ValueError: if d is odd, `positions` is not of shape (n,), or the result of finite tokens
            does not fit the dtype.

    Source: Su et al., arXiv:2104.09864, section 3.2.2.

    Example:
        >>> q = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> apply_rope(q, torch.tensor([0.0, math.pi / 2])).round(decimals=3).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_floating(x=x)
    check_finite(x=x)
    check_positive(base=base)
    if x.ndim < 2 or x.shape[-1] % 2:
        raise ValueError(f"x must have shape (..., n, d) with an even d, got {tuple(x.shape)}")
    n, d = x.shape[-2:]
    if positions is None:
        positions = torch.arange(n, device=x.device)
    elif not isinstance(positions, Tensor) or positions.shape != (n,):
        found = tuple(positions.shape) if isinstance(positions, Tensor) else positions
        raise ValueError(f"positions must be a tensor of shape ({n},), got {found}")
    # The angles, too, in float64: in float32 position 10⁶ would lose its digits.
    exponents = torch.arange(0, d, 2, device=x.device, dtype=torch.float64) / d
    angles = positions.double()[:, None] * torch.exp(-math.log(base) * exponents)
    check_finite(positions=angles)
    wide = widened(x)
    cos, sin = angles.cos().to(wide.dtype), angles.sin().to(wide.dtype)
    even, odd = wide[..., ::2], wide[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return narrowed(rotated.flatten(-2), x.dtype, "the rotated x")


def attention_weights(
    logits: Tensor, normalization: Normalization = "softmax", mask: Tensor | None = None
) -> Tensor:
    """Turn logits b into weights e^b over their sum, their Euclidean length, or the number of keys.

    Args:
        logits: finite, shape (..., n, m).
        normalization: "softmax" divides each row of e^b by its sum; "l2" by the root of the sum of
            its squares; "none" by the number of keys that the row may see. There exponents beyond
            the dtype are cut to its largest number.
        mask: what may be seen (True), boolean, of a shape that broadcasts to `logits`.

    Returns:
        Weights, of the shape and dtype of `logits`; 0 where the mask hides.

    Raises:
        TypeError: if the mask is not boolean.
        ValueError: if the mask hides a whole row or does not broadcast.

    Source: kexue.fm/archives/9105 for "l2"; Hua et al., arXiv:2202.10447, for a division by the
    number of keys.

    Example:
        >>> b = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
        >>> for kind in ("softmax", "l2", "none"):
        ...     print(attention_weights(b, kind).sum().item())
        1.0
        2.0
        1.0
    """
    check_floating(logits=logits)
    check_choice(Normalization, normalization=normalization)
    if logits.ndim < 2 or not logits.shape[-1]:
        raise ValueError(
            f"logits must have shape (..., n, m), not empty, got {tuple(logits.shape)}"
        )
    check_finite(logits=logits)
    check_mask(logits.shape, mask=mask)
    b = widened(logits)
    if normalization == "none":
        largest = math.log(torch.finfo(logits.dtype).max / 2)
        powers = b.clamp(max=largest).exp()
        keys: Tensor | int = logits.shape[-1]
        if mask is not None:
            powers = powers.masked_fill(~mask, 0)
            keys = mask.sum(-1, keepdim=True) * (1 if mask.shape[-1] > 1 else logits.shape[-1])
        return (powers / keys).to(logits.dtype)
    if mask is not None:
        b = b.masked_fill(~mask, -math.inf)
    if normalization == "softmax":
        return b.softmax(-1).to(logits.dtype)
    powers = (b - b.amax(-1, keepdim=True)).exp()
    lengths: Tensor = torch.linalg.vector_norm(powers, dim=-1, keepdim=True)
    return (powers / lengths).to(logits.dtype)


class URPE(nn.Module):
    """Multiply attention weights entry by entry with a trainable matrix c_ij = g(i − j) per head.

    Args:
        num_heads: number of heads.
        max_len: the most tokens; g is held for the offsets 1 − max_len, …, max_len − 1.

    Attributes:
        table: g, shape (num_heads, 2 max_len − 1), at first all ones.

    Source: Luo et al., arXiv:2205.13401, section 4.

    Example:
        >>> scale = URPE(1, 4)
        >>> scale(torch.full((1, 1, 2, 2), 0.5)).tolist()
        [[[[0.5, 0.5], [0.5, 0.5]]]]
    """

    def __init__(self, num_heads: int, max_len: int) -> None:
        super().__init__()
        check_count(num_heads=num_heads, max_len=max_len)
        self.num_heads, self.max_len = num_heads, max_len
        self.table = nn.Parameter(torch.ones(num_heads, 2 * max_len - 1))

    def forward(self, weights: Tensor) -> Tensor:
        """Return weights ⊙ C for weights of shape (B, heads, n, n).

        Raises:
            ValueError: if the shape is another, or n exceeds `max_len`.
        """
        n = weights.shape[-1]
        if weights.ndim != 4 or weights.shape[1:] != (self.num_heads, n, n):
            raise ValueError(
                f"weights must have shape (B, {self.num_heads}, n, n), got {tuple(weights.shape)}"
            )
        if n > self.max_len:
            raise ValueError(f"weights must be of at most max_len = {self.max_len} tokens, got {n}")
        middle = self.table[:, self.max_len - n : self.max_len + n - 1]
        return weights * toeplitz_bias(middle, n)


class RelativeAttention(nn.Module):
    """Self-attention of several heads, with a choice of positions and of normalisation.

    Args:
        d_model: width of a token.
        num_heads: number of heads, each of width d_model / num_heads.
        num_tokens: m, the number of tokens for which biases and `URPE` are held.
        position: "bias" adds β(i − j) to the logits, "rope" rotates queries and keys; "none" and
            "absolute" do nothing here.
        normalization: as `attention_weights`.
        urpe: whether an `URPE` factor follows.
        causal: whether a token sees itself and earlier tokens only.

    Attributes:
        bias: β by offset, shape (num_heads, 2m − 1), normal with the deviation 1 / √d_model;
            None without "bias".

    Raises:
        ValueError: if `num_heads` does not divide `d_model`, or leaves an odd width for "rope".

    Source: Raffel et al., arXiv:1910.10683 (bias); Su et al., arXiv:2104.09864 (rope).

    Example:
        >>> attention = RelativeAttention(8, 2, 5, "rope", "l2")
        >>> attention(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_tokens: int,
        position: Position = "bias",
        normalization: Normalization = "softmax",
        *,
        urpe: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check_count(d_model=d_model, num_heads=num_heads, num_tokens=num_tokens)
        check_choice(Position, position=position)
        check_choice(Normalization, normalization=normalization)
        if d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model = {d_model}, got {num_heads}")
        if position == "rope" and (d_model // num_heads) % 2:
            raise ValueError(
                f"d_model / num_heads must be even for rope, got {d_model} / {num_heads}"
            )
        self.num_heads, self.position, self.normalization = num_heads, position, normalization
        self.causal = causal
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        table = torch.randn(num_heads, 2 * num_tokens - 1) / math.sqrt(d_model)
        self.bias = nn.Parameter(table) if position == "bias" else None
        self.urpe = URPE(num_heads, num_tokens) if urpe else None

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what values are multiplied by, for queries and keys (B, heads, n, d_k)."""
        if self.position == "rope":
            q, k = apply_rope(q), apply_rope(k)
        logits = widened(q) / math.sqrt(q.shape[-1]) @ widened(k).mT
        n = logits.shape[-1]
        if self.bias is not None:
            cut = (self.bias.shape[-1] + 1) // 2 - n
            if cut < 0:
                raise ValueError(f"x must be of at most {n + cut} tokens, got {n}")
            logits = logits + toeplitz_bias(self.bias[:, cut : cut + 2 * n - 1], n)
        seen = seen_by(logits, mask, self.causal)
        weights = attention_weights(logits, self.normalization, seen)
        return weights if self.urpe is None else self.urpe(weights)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the tokens of x, (B, n, d_model); `mask` broadcasts to (B, heads, n, n)."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv_proj(x).chunk(3, -1))
        mixed = self.weights(q, k, mask) @ widened(v)
        output: Tensor = self.o_proj(merge_heads(mixed).to(x.dtype))
        return output


class RelativeTransformer(nn.Module):
    """A small pre-norm transformer that sees n copies of one learnt token: the probe.

    Args:
        n: number of tokens, the special one not counted.
        d_model: width of a token.
        num_heads: number of heads.
        num_layers: number of blocks.
        position: as `RelativeAttention`; "absolute" adds a learnt vector per position.
        normalization: as `attention_weights`.
        urpe: whether an `URPE` factor follows the normalisation in each layer.
        special_token: whether another learnt token stands in front; it is dropped at the end.
        causal: whether a token sees itself and earlier tokens only.
        num_classes: size of the output; n when None.

    Attributes:
        layers: the blocks; `layers[i].attention` is a `RelativeAttention`.

    Source: kexue.fm/archives/9105; Luo et al., arXiv:2205.13401.

    Example:
        >>> model = RelativeTransformer(5, 8, 2, 1, "bias", "softmax")
        >>> output = model()
        >>> output.shape, bool(output.std(1).max() < 1e-5)
        (torch.Size([1, 5, 5]), True)
    """

    def __init__(
        self,
        n: int,
        d_model: int,
        num_heads: int,
        num_layers: int,
        position: Position = "bias",
        normalization: Normalization = "softmax",
        *,
        urpe: bool = False,
        special_token: bool = False,
        causal: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        num_classes = n if num_classes is None else num_classes
        check_count(n=n, d_model=d_model, num_layers=num_layers, num_classes=num_classes)
        self.n = n
        tokens = n + special_token
        blocks = [
            TransformerBlock(
                RelativeAttention(
                    d_model, num_heads, tokens, position, normalization, urpe=urpe, causal=causal
                ),
                d_model,
            )
            for _ in range(num_layers)
        ]
        self.token = nn.Parameter(torch.randn(d_model))
        self.special = nn.Parameter(torch.randn(d_model)) if special_token else None
        absolute = position == "absolute"
        self.positions = nn.Parameter(torch.randn(tokens, d_model)) if absolute else None
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(d_model)
        self.read_out = nn.Linear(d_model, num_classes)

    def forward(self, batch_size: int = 1) -> Tensor:
        """Return outputs, (batch_size, n, num_classes), on the constant sequence."""
        check_count(batch_size=batch_size)
        x = self.token.expand(self.n, -1)
        if self.special is not None:
            x = torch.cat([self.special[None], x])
        if self.positions is not None:
            x = x + self.positions
        x = x.expand(batch_size, -1, -1)
        for layer in self.layers:
            x = layer(x)
        output: Tensor = self.read_out(self.norm(x[:, -self.n :]))
        return output


def probe_floor(n: int, loss: ProbeLoss) -> float:
    """Return the least loss of a model whose output is the same at all of n positions.

    Args:
        n: number of positions.
        loss: "mse" for the mean squared error of the numbers 1, …, n; "cross_entropy" for that of
            n classes, in nats.

    Returns:
        (n² − 1) / 12, reached by the mean of the numbers, or ln n, reached by equal probabilities.

    Source: kexue.fm/archives/9105 for the probe; the floors are the variance and the entropy of a
    uniform position.

    Example:
        >>> probe_floor(16, "mse"), round(probe_floor(16, "cross_entropy"), 4)
        (21.25, 2.7726)
    """
    check_count(n=n)
    check_choice(ProbeLoss, loss=loss)
    return (n**2 - 1) / 12 if loss == "mse" else math.log(n)
