"""Words to numbers and back."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Tokens that no text holds: padding, an unknown word, begin, end of a part, a gap."""


class Tokenizer:
    """A fixed vocabulary; the special tokens come first, in the order of `SPECIAL`.

    Args:
        words: the others, distinct, in the order of their numbers.
        split: cuts a text into words; `list` takes the characters, as Chinese text may want.

    Attributes:
        words: all tokens, the special ones included.
        pad_id, unk_id, cls_id, sep_id, mask_id: numbers of the special tokens.

    Raises:
        ValueError: if a word stands twice or is a special token.

    Example:
        >>> tokenizer = Tokenizer.from_texts(["the sea is calm", "the sky"])
        >>> ids = tokenizer.encode("the sky is blue")
        >>> ids, tokenizer.decode(ids)
        ([5, 9, 7, 1], 'the sky is [UNK]')
    """

    def __init__(
        self, words: Iterable[str], *, split: Callable[[str], Sequence[str]] = str.split
    ) -> None:
        self.words = [*SPECIAL, *words]
        self._split = split
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            twice = Counter(self.words).most_common(1)[0][0]
            raise ValueError(f"words must be distinct and not special, got {twice!r} twice")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = range(len(SPECIAL))

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        min_count: int = 1,
        split: Callable[[str], Sequence[str]] = str.split,
    ) -> "Tokenizer":
        """Take the words that occur `min_count` times or more, in the order of their first use."""
        counts = Counter(word for text in texts for word in split(text))
        frequent = (word for word, count in counts.items() if count >= min_count)
        return cls((word for word in frequent if word not in SPECIAL), split=split)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's words; `unk_id` for those that are not known."""
        return [self._numbers.get(word, self.unk_id) for word in self._split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words, joined by spaces."""
        return " ".join(self.words[number] for number in ids)

    def pad(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return the sequences as rows, (B, longest), filled up with `pad_id` on the right.

        Raises:
            ValueError: if there is none.
        """
        if not sequences:
            raise ValueError("sequences must hold at least one, got none")
        length = max(map(len, sequences))
        rows = [[*ids, *[self.pad_id] * (length - len(ids))] for ids in sequences]
        return torch.tensor(rows, dtype=torch.int64)
