"""Reviews drawn from a small grammar, and a masked language model that has read such texts.

A review is positive or negative and speaks of one of three topics. Each of its ten words is, with
probability 1/2, a word of sentiment (of the wrong polarity with probability 1/5), with 1/4 a word
of the topic, with 1/4 a filler.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kexue_lab.text.language_models import MaskedLM
from kexue_lab.training import fit
from kexue_lab.validation import check_count

_VOCABULARY = """
[PAD] [MASK] [SEP] it is very not good feel this
lens zoom flash battery photo tripod room bed lobby pool breakfast view
plot chapter author page cover ending
great lovely superb bright fine happy awful dull broken sad poor ugly
we saw them today some also then there
[u1] [u2] [u3] [u4] [u5] [u6] [u7] [u8]
"""
WORDS = tuple(_VOCABULARY.split())
"""The vocabulary, in the order of its numbers."""
PAD, MASK, SEP = range(3)
LABEL_IDS = (WORDS.index("not"), WORDS.index("very"))
"""The words that stand for the classes 0, negative, and 1, positive."""
REVIEW_LENGTH = 10
MAX_LENGTH = 24
_FIRST_TOPIC, _TOPIC_WORDS, _TOPICS = WORDS.index("lens"), 6, 3
_POSITIVE, _NEGATIVE, _POLAR_WORDS = WORDS.index("great"), WORDS.index("awful"), 6
_FILLER, _FILLERS = WORDS.index("we"), 8
_OPENING = 5
_WEIGHTS = Path(__file__).parent / "recorded" / "p_tuning.pt"


def encode(text: str) -> Tensor:
    """Return the numbers of a text's words, (n,).

    Raises:
        ValueError: if a word is not in `WORDS`.

    Example:
        >>> encode("it is [MASK] good [SEP]").tolist()
        [3, 4, 1, 7, 2]
    """
    for word in text.split():
        if word not in WORDS:
            raise ValueError(f"text must consist of words of the vocabulary, got {word!r}")
    return torch.tensor([WORDS.index(word) for word in text.split()], dtype=torch.int64)


def review_corpus(n: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw reviews with their labels, positive and negative ones equally likely.

    Args:
        n: how many.
        generator: source of the draws.

    Returns:
        Tokens, (n, 10), and labels, (n,): 1 for positive, 0 for negative.

    Example:
        >>> tokens, labels = review_corpus(3, generator=torch.Generator().manual_seed(0))
        >>> tokens.shape, labels.shape
        (torch.Size([3, 10]), torch.Size([3]))
    """
    tokens, labels, _ = _reviews(n, generator)
    return tokens, labels


def pretraining_corpus(n: int, *, generator: torch.Generator) -> Tensor:
    """Draw texts to learn the language from, (n, 15): an opening of five tokens, then a review.

    The opening is, with probability 3/5, "it is very good [SEP]" or "it is not good [SEP]", as the
    review is positive or negative; with 1/5 "it is A B [SEP]" with two words of its topic; with 1/5
    four fillers and [SEP].

    Args:
        n: how many.
        generator: source of the draws.
    """
    tokens, labels, topics = _reviews(n, generator)
    opening = encode("it is not good [SEP]").repeat(n, 1)
    opening[:, 2] = torch.tensor(LABEL_IDS)[labels]
    kind = torch.rand(n, generator=generator)
    of_topic = _topic_words(topics[:, None].expand(n, 2), generator)
    opening[:, 2:4] = torch.where((kind >= 0.6)[:, None], of_topic, opening[:, 2:4])
    fillers = _FILLER + torch.randint(_FILLERS, (n, 4), generator=generator)
    opening[:, :4] = torch.where((kind >= 0.8)[:, None], fillers, opening[:, :4])
    return torch.cat([opening, tokens], 1)


def counting_rule_accuracy(tokens: Tensor, labels: Tensor) -> float:
    """Return how often the majority of the sentiment words tells the label; a tie counts 1/2.

    No rule that sees the words only can do better on average.

    Args:
        tokens: reviews, (N, n).
        labels: 0 or 1, (N,).

    Raises:
        ValueError: if `labels` does not fit `tokens`, or holds another number.

    Example:
        >>> counting_rule_accuracy(encode("great awful great we")[None], torch.tensor([1]))
        1.0
    """
    if tokens.ndim != 2 or labels.shape != tokens.shape[:1] or not len(labels):
        raise ValueError(
            f"labels must have shape (N,) for tokens (N, n), N >= 1, "
            f"got {tuple(labels.shape)} for {tuple(tokens.shape)}"
        )
    if bool(((labels != 0) & (labels != 1)).any()):
        raise ValueError(f"labels must be 0 or 1, got {sorted(set(labels.tolist()))}")
    positive = (tokens >= _POSITIVE) & (tokens < _POSITIVE + _POLAR_WORDS)
    negative = (tokens >= _NEGATIVE) & (tokens < _NEGATIVE + _POLAR_WORDS)
    surplus = positive.sum(1) - negative.sum(1)
    right = torch.where(surplus == 0, 0.5, ((surplus > 0) == (labels == 1)).double())
    return float(right.mean())


def train_reader(
    seed: int = 0, *, steps: int = 300, batch_size: int = 48, device: str = "cpu"
) -> MaskedLM:
    """Train a `MaskedLM` on `pretraining_corpus` to fill gaps.

    Each token becomes [MASK] with probability 1/5, the third one with 3/10 besides. Adam; the
    learning rate rises to 0.004 over a tenth of the steps and then falls to 0, both linearly.

    Args:
        seed: of initial weights and texts.
        steps: the default takes a few seconds on one core.
        batch_size: texts at each step, each drawn anew.
        device: as in `pick_device`.
    """
    check_count(steps=steps, batch_size=batch_size)

    def batch(g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        tokens = pretraining_corpus(batch_size, generator=g)
        gap = torch.rand(tokens.shape, generator=g) < 0.2
        gap[:, 2] |= torch.rand(batch_size, generator=g) < 0.3
        return tokens.masked_fill(gap, MASK), tokens, gap

    def loss(model: MaskedLM, seen: Tensor, tokens: Tensor, gap: Tensor) -> Tensor:
        each = cross_entropy(model(seen).mT, tokens, reduction="none")
        return (each * gap).sum() / gap.sum()

    def untrained(_: torch.Generator) -> MaskedLM:
        model = MaskedLM(len(WORDS), max_length=MAX_LENGTH)
        with torch.no_grad():  # places as long as words: else they drown them at first
            model.get_parameter("transformer.positions").div_(model.embedding.embedding_dim**0.5)
        return model

    trained = fit(
        untrained,
        batch,
        loss,
        seeds=(seed,),
        steps=steps,
        learning_rate=lambda done: 0.004 * min(0.02 + 10 * done, (1 - done) / 0.9, 1.0),
        device=device,
    )
    (reader,) = trained.models
    assert isinstance(reader, MaskedLM)
    return reader


def stored_reader() -> MaskedLM:
    """Return the model whose weights are stored with the course.

    They are what `train_reader(1, steps=800, batch_size=96)` returned on one CPU core, rounded to
    half precision.
    """
    model = MaskedLM(len(WORDS), max_length=MAX_LENGTH)
    model.load_state_dict(torch.load(_WEIGHTS, weights_only=True))
    return model.eval()


def _reviews(n: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels, topics."""
    check_count(n=n)
    labels = torch.randint(2, (n,), generator=g)
    topics = torch.randint(_TOPICS, (n, 1), generator=g)
    shape = (n, REVIEW_LENGTH)
    kind = torch.rand(shape, generator=g)
    told = labels[:, None] ^ (torch.rand(shape, generator=g) < 0.2).long()
    polar = torch.where(told == 1, _POSITIVE, _NEGATIVE)
    polar = polar + torch.randint(_POLAR_WORDS, shape, generator=g)
    filler = _FILLER + torch.randint(_FILLERS, shape, generator=g)
    rest = torch.where(kind < 0.75, _topic_words(topics.expand(shape), g), filler)
    return torch.where(kind < 0.5, polar, rest), labels, topics[:, 0]


def _topic_words(topics: Tensor, g: torch.Generator) -> Tensor:
    drawn = torch.randint(_TOPIC_WORDS, topics.shape, generator=g)
    return _FIRST_TOPIC + _TOPIC_WORDS * topics + drawn
