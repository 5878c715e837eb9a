"""Readers of the public files that the articles use; nothing is downloaded.

Files that end in .gz are unpacked while they are read.
"""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray


class SentencePair(NamedTuple):
    """Two sentences and how similar people found them, 0 (unrelated) to 5 (the same)."""

    first: str
    second: str
    score: float


def load_dialogues(path: str | Path, limit: int | None = None) -> list[list[str]]:
    """Read dialogues in the form of LCCC: lists of utterances.

    Both published forms are taken: one JSON list of dialogues, or one dialogue a line.

    Args:
        path: the file.
        limit: read no more dialogues than these.

    Raises:
        ValueError: naming the dialogue that is no list of texts.

    Source: Wang et al., "A Large-Scale Chinese Short-Text Conversation Dataset", arXiv:2008.03946.
    """
    with _opened(path) as file:
        whole = "".join(file.read(64).split()).startswith("[[")
        file.seek(0)
        found = json.load(file) if whole else (json.loads(line) for line in file if line.strip())
        dialogues = list(islice(found, limit))
    for number, dialogue in enumerate(dialogues, 1):
        if not isinstance(dialogue, list) or not all(isinstance(turn, str) for turn in dialogue):
            raise ValueError(f"{path}: dialogue {number} is not a list of texts: {dialogue!r:.80}")
    return dialogues


def load_word_vectors(
    path: str | Path, words: set[str] | None = None, limit: int | None = None
) -> tuple[list[str], NDArray[np.float32]]:
    """Read word vectors in text form: a word and its numbers a line, as word2vec and GloVe have it.

    A first line with two numbers, count and width, as word2vec writes it, is passed over. A word
    may hold spaces, as a few of GloVe's do.

    Args:
        path: the file.
        words: keep these only; None for all.
        limit: look at no more words than these.

    Returns:
        The words and their vectors, (n, d).

    Raises:
        ValueError: naming the line whose vector is of another width or no vector, or if no word
            is found.
    """
    kept: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    width = None
    with _opened(path) as file:
        for number, line in islice(_word_lines(file), limit):
            word, *numbers = line.rsplit(" ", -1 if width is None else width)
            width = len(numbers) if width is None else width
            if len(numbers) != width or not numbers:
                raise ValueError(f"{path}, line {number}: a word and {width} numbers expected")
            if words is None or word in words:
                kept.append(word)
                vectors.append(_parsed(numbers, f"{path}, line {number}"))
    if not kept:
        raise ValueError(f"{path}: none of the words is there")
    return kept, np.stack(vectors)


def load_sentence_pairs(path: str | Path) -> list[SentencePair]:
    """Read sentence pairs in the form of the STS benchmark.

    Fields are separated by tabs and quotes mean nothing: genre, file, year, number, score, two
    sentences, and sometimes sources.

    Raises:
        ValueError: naming the line with fewer fields, or whose score is no number from 0 to 5.

    Source: Cer et al., "SemEval-2017 Task 1: Semantic Textual Similarity", arXiv:1708.00055.
    """
    with _opened(path) as file:
        lines = [line.rstrip("\r\n").split("\t") for line in file]
    return [_pair(fields, f"{path}, line {n}") for n, fields in enumerate(lines, 1) if any(fields)]


def _opened(path: str | Path) -> IO[str]:
    opener = gzip.open if str(path).endswith(".gz") else open
    return opener(path, "rt", encoding="utf8", newline="\n")


def _word_lines(file: IO[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines; a first one of count and width is left out."""
    for number, line in enumerate(file, 1):
        fields = line.rstrip(" \n")
        if number > 1 or not (fields.count(" ") == 1 and fields.replace(" ", "").isdigit()):
            yield number, fields


def _parsed(numbers: list[str], where: str) -> NDArray[np.float32]:
    try:
        return np.array(numbers, dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _pair(fields: list[str], where: str) -> SentencePair:
    if len(fields) < 7:
        raise ValueError(f"{where}: 7 fields expected, got {len(fields)}")
    try:
        score = float(fields[4])
    except ValueError:
        raise ValueError(f"{where}: the score is no number: {fields[4]!r:.40}") from None
    if not 0 <= score <= 5:
        raise ValueError(f"{where}: the score must be from 0 to 5, got {score}")
    return SentencePair(fields[5], fields[6], score)
