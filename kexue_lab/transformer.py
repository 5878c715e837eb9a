"""One small pre-norm transformer, whose attention is a part to be exchanged.

An attention module maps x (B, n, d_model) to the same shape and takes a keyword `mask`, boolean,
True where a query may see a key, of a shape that broadcasts to (B, heads, n, n). Whoever studies
another attention writes that one module and takes the rest from here.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kexue_lab.validation import check_count, check_mask


def split_heads(features: Tensor, num_heads: int) -> Tensor:
    """(…, n, heads · d) to (…, heads, n, d)."""
    return features.reshape(*features.shape[:-1], num_heads, -1).transpose(-3, -2)


def merge_heads(heads: Tensor) -> Tensor:
    """(…, heads, n, d) to (…, n, heads · d)."""
    return heads.transpose(-3, -2).flatten(-2)


def seen_by(logits: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor | None:
    """Return which columns each row of the logits, (…, n, n), may see; None for all.

    Args:
        logits: gives shape and device.
        mask: boolean, True where a row may see a column; broadcasts to `logits`.
        is_causal: whether row i sees columns j ≤ i only.

    Raises:
        TypeError: if `mask` is not boolean.
        ValueError: if `mask` does not fit, or a row sees no column.
    """
    check_mask(logits.shape, mask=mask)
    if not is_causal:
        return mask
    earlier = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if mask is None:
        return earlier
    check_mask(logits.shape, mask=earlier & mask)
    return earlier & mask


class SelfAttention(nn.Module):
    """Softmax attention with several heads: softmax(Q Kᵀ / √d_k) V per head, then one matrix.

    Args:
        d_model: width of a token.
        num_heads: number of heads, each of width d_k = d_model / num_heads.
        is_causal: whether a token sees itself and earlier tokens only.
        max_distance: M; each head adds a learnt number to the logit (i, j) by min(|i − j|, M).
            None for no such numbers: then tokens know no places but those in their vectors.

    Raises:
        ValueError: if `num_heads` does not divide `d_model`.

    Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, section 3.2; Raffel et
    al., arXiv:1910.10683, section 2.1, for the numbers by distance.

    Example:
        >>> attention = SelfAttention(8, num_heads=2)
        >>> attention(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        is_causal: bool = False,
        max_distance: int | None = None,
    ) -> None:
        super().__init__()
        check_count(d_model=d_model, num_heads=num_heads)
        if d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model = {d_model}, got {num_heads}")
        self.num_heads = num_heads
        self.is_causal = is_causal
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        if max_distance is None:
            self.bias = None
        else:
            check_count(max_distance=max_distance)
            self.bias = nn.Parameter(torch.zeros(num_heads, max_distance + 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the tokens of x, (B, n, d_model); `mask` broadcasts to (B, heads, n, n)."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv_proj(x).chunk(3, -1))
        # Written out: `scaled_dot_product_attention` has no rule for `torch.vmap` on a CPU.
        logits = q @ k.mT / math.sqrt(q.shape[-1])
        if self.bias is not None:
            place = torch.arange(x.shape[-2], device=x.device)
            distance = (place - place[:, None]).abs()
            logits = logits + self.bias[:, distance.clamp(max=self.bias.shape[-1] - 1)]
        seen = seen_by(logits, mask, self.is_causal)
        if seen is not None:
            logits = logits.masked_fill(~seen, -math.inf)
        output: Tensor = self.o_proj(merge_heads(logits.softmax(-1) @ v))
        return output


class TransformerBlock(nn.Module):
    """x ← x + attention(norm(x)), then x ← x + W₂ relu(W₁ norm(x)).

    Args:
        attention: the module that mixes tokens.
        d_model: width of a token.
        hidden: width of the feed-forward layer; 2 d_model when None.

    Source: Xiong et al., "On Layer Normalization in the Transformer Architecture",
    arXiv:2002.04745, for the norm inside the residual branch.
    """

    def __init__(self, attention: nn.Module, d_model: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 2 * d_model if hidden is None else hidden
        check_count(d_model=d_model, hidden=hidden)
        self.attention = attention
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, hidden), nn.ReLU(), nn.Linear(hidden, d_model)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the tokens x, (B, n, d_model), after the block."""
        x = x + self.attention(self.attention_norm(x), mask=mask)
        output: Tensor = x + self.feed_forward(x)
        return output


class Transformer(nn.Module):
    """Tokens to logits: an embedding, learnt absolute positions, blocks, a norm and a read-out.

    Args:
        attentions: one attention module per block.
        d_model: width of a token.
        vocabulary: number of different input tokens.
        max_length: longest sequence; 0 for none: without learnt positions any length will do.
        classes: number of classes of the output; `vocabulary` when None.
        hidden: width of the feed-forward layers; 2 d_model when None.

    Example:
        >>> model = Transformer(
        ...     [SelfAttention(8, 2, is_causal=True)], 8, vocabulary=5, max_length=6
        ... )
        >>> model(torch.tensor([[0, 4, 2]])).shape
        torch.Size([1, 3, 5])
    """

    def __init__(
        self,
        attentions: Iterable[nn.Module],
        d_model: int,
        *,
        vocabulary: int,
        max_length: int = 0,
        classes: int | None = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        classes = vocabulary if classes is None else classes
        check_count(d_model=d_model, vocabulary=vocabulary, classes=classes)
        check_count(0, max_length=max_length)
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.positions = nn.Parameter(torch.randn(max_length, d_model)) if max_length else None
        self.blocks = nn.ModuleList(TransformerBlock(a, d_model, hidden) for a in attentions)
        self.norm = nn.LayerNorm(d_model)
        self.read_out = nn.Linear(d_model, classes)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits, (B, n, classes), of the tokens, integers of shape (B, n).

        Raises:
            ValueError: if n exceeds `max_length`.
        """
        return self.from_vectors(self.embedding(tokens), mask)

    def from_vectors(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits, (B, n, classes), of vectors that stand for tokens, (B, n, d_model).

        Raises:
            ValueError: as `forward`.
        """
        if self.positions is not None:
            n, longest = x.shape[-2], len(self.positions)
            if n > longest:
                raise ValueError(f"tokens must have length at most {longest}, got {n}")
            x = x + self.positions[:n]
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.read_out(self.norm(x))
        return logits
