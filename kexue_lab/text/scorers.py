"""Two small scorers of a query and an item, given as words: one reads both together, one apart.

Both average the words' vectors of each text and make a vector of it, a for the query and b for the
item. `DualScorer` multiplies them, a·b, so that items can be indexed beforehand; `JointScorer` has
a network look at both.
"""

import torch
from torch import Tensor, nn

from kexue_lab.validation import check_count


class DualScorer(nn.Module):
    """Score a query and an item by the inner product of vectors made apart.

    Args:
        vocab_size: number of words.
        width: length of the vectors.

    Source: the dual encoder of kexue.fm/archives/9336.

    Example:
        >>> scorer = DualScorer(50)
        >>> queries, items = torch.randint(50, (3, 4)), torch.randint(50, (7, 6))
        >>> scorer.matrix(queries, items).shape
        torch.Size([3, 7])
    """

    def __init__(self, vocab_size: int, width: int = 32) -> None:
        super().__init__()
        check_count(vocab_size=vocab_size, width=width)
        self.words = nn.Embedding(vocab_size, width)
        self.query, self.item = (
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(2)
        )

    def forward(self, q_tokens: Tensor, k_tokens: Tensor) -> Tensor:
        """Score queries and items of which the leading dimensions broadcast.

        Args:
            q_tokens: words of the queries, whole numbers, shape (..., L).
            k_tokens: words of the items, shape (..., N); L and N may differ.

        Returns:
            Scores, shape (...).

        Raises:
            TypeError: if words are no whole numbers.
            ValueError: if a text is empty or a word is not in the vocabulary.
        """
        return self.combine(*self.encode(q_tokens, k_tokens))

    def encode(self, q_tokens: Tensor, k_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Make the vectors a of queries and b of items, each text on its own.

        Args:
            q_tokens: words of the queries, shape (..., L).
            k_tokens: words of the items, shape (..., N).

        Returns:
            (a, b), shapes (..., width).

        Raises:
            TypeError: as `forward`.
            ValueError: as `forward`.
        """
        a = self.query(self._mean("q_tokens", q_tokens))
        return a, self.item(self._mean("k_tokens", k_tokens))

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Score pairs of vectors a and b, of which the leading dimensions broadcast: a·b.

        Args:
            a: vectors of queries, shape (..., width).
            b: vectors of items, shape (..., width).

        Returns:
            Scores, shape (...).
        """
        return (a * b).sum(-1)

    @torch.no_grad()
    def matrix(self, q_tokens: Tensor, k_tokens: Tensor, chunk: int = 64) -> Tensor:
        """Score every query with every item, without gradients.

        Args:
            q_tokens: words of the queries, shape (Q, L).
            k_tokens: words of the items, shape (K, N).
            chunk: number of queries at a time.

        Returns:
            Shape (Q, K).

        Raises:
            ValueError: as `forward`.
        """
        check_count(chunk=chunk)
        a, b = self.encode(q_tokens, k_tokens)
        return torch.cat([self.combine(part[:, None], b) for part in torch.split(a, chunk)])

    def _mean(self, name: str, tokens: Tensor) -> Tensor:
        if not isinstance(tokens, Tensor) or tokens.is_floating_point():
            found = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TypeError(f"{name} must be whole numbers in a tensor, got {found}")
        if not tokens.ndim or not tokens.numel():
            raise ValueError(f"{name} must be texts of words, got shape {tuple(tokens.shape)}")
        least, largest = int(tokens.min()), int(tokens.max())
        if least < 0 or largest >= self.words.num_embeddings:
            raise ValueError(
                f"{name} must lie from 0 to {self.words.num_embeddings - 1}, "
                f"got {least} to {largest}"
            )
        mean: Tensor = self.words(tokens).mean(-2)
        return mean


class JointScorer(DualScorer):
    """Score a query and an item by a network that sees both: g(A a + B b + C (a ⊙ b)).

    Args:
        vocab_size: number of words.
        width: length of a and b.
        hidden: width of the two hidden layers of g.

    Source: the cross-encoder of kexue.fm/archives/9336, here without attention.

    Example:
        >>> scorer = JointScorer(50)
        >>> queries, items = torch.randint(50, (3, 4)), torch.randint(50, (3, 6))
        >>> scorer(queries, items).shape
        torch.Size([3])
    """

    def __init__(self, vocab_size: int, width: int = 32, hidden: int = 64) -> None:
        super().__init__(vocab_size, width)
        check_count(hidden=hidden)
        self.from_query = nn.Linear(width, hidden)
        self.from_item = nn.Linear(width, hidden, bias=False)
        self.from_both = nn.Linear(width, hidden, bias=False)
        self.read_out = nn.Sequential(
            nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Score pairs as `DualScorer.combine` does, by the network g."""
        sums = self.from_query(a) + self.from_item(b) + self.from_both(a * b)
        scores: Tensor = self.read_out(sums).squeeze(-1)
        return scores
