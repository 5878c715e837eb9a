"""Words to numbers, and small files in the real formats of public data."""

import gzip
import json

import numpy as np
import pytest

from kexue_lab.text.loaders import load_dialogues, load_sentence_pairs, load_word_vectors
from kexue_lab.text.tokenizer import SPECIAL, Tokenizer

DIALOGUES = [
    ["火锅 我 在 重庆 吃 了 七八 顿 火锅", "哈哈哈哈 ! 那 我 的 嘴巴 可能 要 烂掉 !"],
    ["早"],
]


# ---------------------------------------------------------------- tokens


def test_texts_come_back():
    tokenizer = Tokenizer.from_texts(["a b c a", "d [SEP]"])
    assert tokenizer.words == [*SPECIAL, "a", "b", "c", "d"]
    assert len(tokenizer) == 9
    assert tokenizer.decode(tokenizer.encode("d a b")) == "d a b"
    assert tokenizer.encode("a [MASK] e [SEP]") == [5, 4, 1, 3]


def test_rare_words_are_unknown_and_characters_may_be_words():
    assert Tokenizer.from_texts(["a b a"], min_count=2).words[5:] == ["a"]
    characters = Tokenizer.from_texts(["不错不错"], split=list)
    assert characters.encode("错了") == [6, 1]


def test_padding():
    tokenizer = Tokenizer(["a"])
    assert tokenizer.pad([[5], [5, 5, 5], []]).tolist() == [[5, 0, 0], [5, 5, 5], [0, 0, 0]]
    with pytest.raises(ValueError, match="at least one, got none"):
        tokenizer.pad([])


@pytest.mark.parametrize("words", [["a", "b", "a"], ["[SEP]"]])
def test_words_stand_once(words):
    with pytest.raises(ValueError, match=r"distinct and not special, got '(a|\[SEP\])' twice"):
        Tokenizer(words)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("indent", [None, 1])
def test_dialogues_in_one_list(tmp_path, indent):
    path = tmp_path / "LCCC-base_test.json"
    path.write_text(json.dumps(DIALOGUES, ensure_ascii=False, indent=indent), "utf8")
    assert load_dialogues(path) == DIALOGUES
    assert load_dialogues(path, limit=1) == DIALOGUES[:1]


def test_dialogues_line_by_line(tmp_path):
    path = tmp_path / "lccc_base_test.jsonl.gz"
    lines = "\n".join(json.dumps(dialogue) for dialogue in DIALOGUES)
    path.write_bytes(gzip.compress(lines.encode()))
    assert load_dialogues(path) == DIALOGUES
    # What lies behind the limit is not read.
    path.write_bytes(gzip.compress((lines.splitlines()[0] + "\n{broken").encode()))
    assert load_dialogues(path, limit=1) == DIALOGUES[:1]


@pytest.mark.parametrize("content", ['[["a"], "b"]', '["a"]\n[["b"]]'])
def test_what_is_no_dialogue_is_named(tmp_path, content):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="dialogue 2 is not a list of texts"):
        load_dialogues(path)


@pytest.mark.parametrize("header", ["", "3 2\n"])
def test_word_vectors(tmp_path, header):
    path = tmp_path / "vectors.txt"
    path.write_text(header + "的 0.5 -1e-3\n. . 1 2 \n3 4 5\n", "utf8", newline="\n")
    words, vectors = load_word_vectors(path)
    assert words == ["的", ". .", "3"]
    np.testing.assert_array_equal(vectors, np.array([[0.5, -1e-3], [1, 2], [4, 5]], np.float32))
    assert load_word_vectors(path, limit=2)[0] == words[:2]
    assert load_word_vectors(path, words={"3"})[0] == ["3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1 2\nb 3\n", "line 2: a word and 2 numbers expected"),
        ("a 1 2\nb 3 x\n", "line 2: could not convert string to float: .*x"),
        ("a\n", "line 1: a word and 0 numbers expected"),
        ("", "none of the words is there"),
    ],
)
def test_bad_vectors_are_named(tmp_path, content, message):
    path = tmp_path / "vectors.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_word_vectors(path)


STS = (
    'main-captions\tMSRvid\t2012test\t0024\t5.000\tA girl is styling her hair.\tA girl "brushes.\n'
    "main-news\theadlines\t2013\t0002\t0.2\tA\tB\tsource\tsource\n"
)


def test_sentence_pairs(tmp_path):
    path = tmp_path / "sts-dev.csv"
    path.write_text(STS, "utf8")
    first, second = load_sentence_pairs(path)
    assert first == ("A girl is styling her hair.", 'A girl "brushes.', 5.0)
    assert (second.first, second.second, second.score) == ("A", "B", 0.2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\tb\tc", "line 1: 7 fields expected, got 3"),
        ("g\tf\ty\tn\thigh\tA\tB", "line 1: the score is no number: 'high'"),
        ("g\tf\ty\tn\t7\tA\tB", "line 1: the score must be from 0 to 5, got 7"),
        ("g\tf\ty\tn\tnan\tA\tB", "line 1: the score must be from 0 to 5, got nan"),
    ],
)
def test_bad_pairs_are_named(tmp_path, line, message):
    path = tmp_path / "sts.csv"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        load_sentence_pairs(path)
