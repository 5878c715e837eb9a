"""Two small language models: one reads forwards and predicts the next token, one fills gaps."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kexue_lab.transformer import SelfAttention, Transformer
from kexue_lab.validation import check_choice, check_count

Position = Literal["relative", "absolute"]


class CausalLM(nn.Module):
    """Predict each next token from the tokens before it.

    Args:
        vocab_size: V, the number of tokens.
        d_model: width of a token.
        num_heads: number of heads; it divides `d_model`.
        num_layers: number of blocks.
        position: "relative" learns a number per head and distance, "absolute" a vector per place.
        max_distance: distances beyond it count as it; of use with "relative".
        max_length: longest sequence; of use with "absolute", since "relative" takes any length.

    Example:
        >>> model = CausalLM(10, d_model=8, num_heads=2)
        >>> model(torch.tensor([[1, 7, 8, 2]])).shape
        torch.Size([1, 4, 10])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        *,
        position: Position = "relative",
        max_distance: int = 24,
        max_length: int = 160,
    ) -> None:
        super().__init__()
        check_count(num_layers=num_layers, max_distance=max_distance, max_length=max_length)
        check_choice(Position, position=position)
        relative = position == "relative"
        attentions = [
            SelfAttention(
                d_model,
                num_heads,
                is_causal=True,
                max_distance=max_distance if relative else None,
            )
            for _ in range(num_layers)
        ]
        self.transformer = Transformer(
            attentions, d_model, vocabulary=vocab_size, max_length=0 if relative else max_length
        )
        self.segments = nn.Embedding(2, d_model)

    def forward(
        self, ids: Tensor, segments: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits of each next token, (B, n, V).

        Args:
            ids: tokens, integers of shape (B, n).
            segments: 0 or 1 per token, of the shape of `ids`, told to the model; None for none.
            mask: boolean, True where a token may see another; broadcasts to (B, heads, n, n).

        Raises:
            ValueError: if `segments` is of another shape or holds another number, or n exceeds
                `max_length` where positions are absolute.
        """
        x = self.transformer.embedding(ids)
        if segments is not None:
            x = x + self._segment_vectors(ids, segments)
        return self.transformer.from_vectors(x, mask)

    def _segment_vectors(self, ids: Tensor, segments: Tensor) -> Tensor:
        if segments.shape != ids.shape:
            raise ValueError(
                f"segments must have the shape of ids, {tuple(ids.shape)}, "
                f"got {tuple(segments.shape)}"
            )
        if torch.any((segments != 0) & (segments != 1)):
            wrong = segments[(segments != 0) & (segments != 1)]
            raise ValueError(f"segments must be 0 or 1, got {int(wrong[0])}")
        vectors: Tensor = self.segments(segments)
        return vectors


class MaskedLM(nn.Module):
    """Predict tokens in their place from the tokens on both sides; outputs share the embedding.

    Args:
        vocab_size: V, the number of tokens.
        d_model: width of a token.
        num_heads: number of heads; it divides `d_model`.
        num_layers: number of blocks.
        max_length: longest sequence; places are learnt vectors.

    Source: Devlin et al., "BERT", arXiv:1810.04805, section 3.1; Press and Wolf,
    arXiv:1608.05859, for the shared embedding.

    Example:
        >>> model = MaskedLM(10, d_model=8, num_heads=2, max_length=4)
        >>> tokens = torch.tensor([[1, 7, 8, 2]])
        >>> bool((model(tokens) == model(embeddings=model.embedding(tokens))).all())
        True
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 48,
        num_heads: int = 4,
        num_layers: int = 2,
        *,
        max_length: int = 32,
    ) -> None:
        super().__init__()
        check_count(num_layers=num_layers, max_length=max_length)
        attentions = [SelfAttention(d_model, num_heads) for _ in range(num_layers)]
        self.transformer = Transformer(
            attentions, d_model, vocabulary=vocab_size, max_length=max_length
        )
        # A normalised state has about √d entries of size one: such rows give logits of size one.
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(d_model))
        self.transformer.read_out.weight = self.embedding.weight

    @property
    def embedding(self) -> nn.Embedding:
        """The table of token vectors, (V, d_model), with which outputs are compared as well."""
        return self.transformer.embedding

    def forward(
        self,
        tokens: Tensor | None = None,
        embeddings: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits, (B, n, V).

        Args:
            tokens: integers, shape (B, n).
            embeddings: vectors in their stead, shape (B, n, d_model).
            mask: boolean, True where a token may see another; broadcasts to (B, heads, n, n).

        Raises:
            ValueError: if both or neither of `tokens` and `embeddings` are given, or n exceeds
                `max_length`.
        """
        if (tokens is None) == (embeddings is None):
            given = "neither" if tokens is None else "both"
            raise ValueError(f"tokens or embeddings must be given, not both, got {given}")
        x = self.embedding(tokens) if embeddings is None else embeddings
        return self.transformer.from_vectors(x, mask)
