"""Texts prepared for many comparisons: one vocabulary, equal words merged, masses normalised."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from kexue_lab.precision import length
from kexue_lab.validation import TensorLike, as_floating, check_choice, check_same_place, floating

__all__ = ["Corpus", "Kind", "prepare_texts"]

Array = NDArray[np.float64]
Kind = Literal["wmd", "wrd"]
"""Word Mover's Distance or Word Rotator's Distance."""

# Odd numbers: multiplied by them modulo 2^64 no bits are lost.
_ODD = np.array([0x9E3779B97F4A7C15, 0xD1B54A32D192ED03], dtype=np.uint64)


@dataclass(frozen=True)
class Corpus:
    """Texts over one vocabulary of distinct vectors, repeated words of a text merged.

    Texts of the same words in any order get the same words and masses, bit by bit, so that they
    tie exactly.

    Attributes:
        kind: the distance for which they are prepared.
        vectors: distinct word vectors on the CPU in float64, of unit length for WRD, (V, d).
        words: for each text the increasing rows of `vectors` that it uses, (n,).
        masses: for each text the masses of these words, (n,), summing to 1.
        centroids: the texts' means by mass, (B, d).
        like: a text without words, of the texts' dtype and on their device, (0, d).
    """

    kind: Kind
    vectors: Tensor
    words: tuple[Tensor, ...]
    masses: tuple[Tensor, ...]
    centroids: Tensor
    like: Tensor

    def __len__(self) -> int:
        return len(self.words)


def prepare_texts(texts: Sequence[TensorLike], *, kind: Kind, name: str = "texts") -> Corpus:
    """Prepare texts once, for many searches by `kexue_lab.text.word_movers.nearest_texts`.

    Args:
        texts: texts, each of shape (n_b, d).
        kind: "wmd" or "wrd".
        name: what errors call them.

    Returns:
        The texts, without gradients, on the CPU.

    Raises:
        TypeError: if a text is not floating point.
        ValueError: if there is no text or one is empty, dimensions, dtypes or devices disagree, an
            entry is not finite, `kind` is unknown, or a vector is zero where `kind` is "wrd".

    Example:
        >>> corpus = prepare_texts([torch.eye(2), torch.ones(3, 2)], kind="wmd")
        >>> [len(words) for words in corpus.words]
        [2, 1]
    """
    check_choice(Kind, kind=kind)
    tensors = []
    for b, text in enumerate(texts):
        tensors.append(_shaped(f"{name}[{b}]", floating(f"{name}[{b}]", text)))
        check_alike(f"{name}[{b}]", tensors[b], f"{name}[0]", tensors[0])
    if not tensors:
        raise ValueError(f"{name} must hold at least one text, got none")
    arrays = [text.detach().double().cpu().contiguous().numpy() for text in tensors]
    owner = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    vectors, tokens = _vocabulary(arrays)
    finite = vectors.isfinite().all(1).numpy()
    if not finite.all():
        first = owner[~finite[tokens]][0]
        raise ValueError(f"{name}[{first}] must be finite, got nan or infinity")

    norms = checked_norms(name, vectors) if kind == "wrd" else vectors.new_ones(len(vectors))
    vectors = vectors / norms[:, None]
    entries, counts = np.unique(owner * len(vectors) + tokens, return_counts=True)
    text, word = np.divmod(entries, len(vectors))
    masses = counts * norms.numpy()[word]
    masses /= np.bincount(text, masses)[text]
    ends = np.bincount(text).cumsum()
    table = csr_array((masses, word, np.append(0, ends)), shape=(len(arrays), len(vectors)))
    return Corpus(
        kind,
        vectors,
        torch.from_numpy(word).tensor_split(torch.from_numpy(ends[:-1])),
        torch.from_numpy(masses).tensor_split(torch.from_numpy(ends[:-1])),
        torch.from_numpy(table @ vectors.numpy()),
        tensors[0].new_empty(0, vectors.shape[1]),
    )


def as_text(name: str, value: TensorLike) -> Tensor:
    """Return a text as a finite floating-point tensor of shape (m, d), m, d >= 1.

    Raises:
        TypeError: if it holds no floating-point numbers.
        ValueError: if the shape is another, or an entry is not finite.
    """
    return _shaped(name, as_floating(name, value))


def check_alike(name: str, text: Tensor, other: str, reference: Tensor) -> None:
    """Check that two texts have vectors of one dimension, one dtype and one device.

    Raises:
        ValueError: if they have not.
    """
    if text.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{name} must have vectors of the dimension {reference.shape[1]} of {other},"
            f" got {text.shape[1]}"
        )
    check_same_place(name, text, other, reference)


def checked_norms(name: str, text: Tensor) -> Tensor:
    """Return the norms of word vectors.

    Raises:
        ValueError: if one is 0.
    """
    norms = length(text)
    if not bool((norms > 0).all()):
        raise ValueError(f"{name} must have no zero vector where kind is 'wrd': it has no cosine")
    return norms


def _shaped(name: str, text: Tensor) -> Tensor:
    if text.ndim != 2 or text.numel() == 0:
        raise ValueError(f"{name} must have shape (m, d) with m, d >= 1, got {tuple(text.shape)}")
    return text


def _vocabulary(texts: list[Array]) -> tuple[Tensor, NDArray[np.intp]]:
    """The distinct rows of all texts, and for each row in turn its number among them.

    Rows are told apart by their first and last entries where these suffice, which is much faster
    than hashing or sorting whole rows.
    """
    last = max(1, texts[0].shape[1] - 1)
    ends = np.concatenate([text[:, ::last] for text in texts]).view(np.uint64)
    keys = ends.byteswap() @ _ODD[: ends.shape[1]]
    _, places, tokens = np.unique(keys, return_index=True, return_inverse=True)
    lengths = np.array([len(text) for text in texts])
    starts = lengths.cumsum() - lengths
    owner = np.repeat(np.arange(len(texts)), lengths)[places]
    first = zip(owner.tolist(), (places - starts[owner]).tolist(), strict=True)
    vectors = np.stack([texts[b][row] for b, row in first])
    rows: list[NDArray[np.intp]] = np.split(tokens.ravel(), starts[1:])
    bits = vectors.view(np.uint64)
    if not all(
        np.array_equal(bits[own], text.view(np.uint64))
        for own, text in zip(rows, texts, strict=True)
    ):
        everything = np.concatenate(texts).view(np.uint64)
        bits, tokens = np.unique(everything, axis=0, return_inverse=True)
        vectors = bits.view(np.float64)
    return torch.from_numpy(vectors), tokens.ravel()
