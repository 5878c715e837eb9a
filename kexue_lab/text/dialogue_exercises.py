"""What the exercises of text/dialogue check."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
Turns = Sequence[tuple[str, Sequence[int]]]
CLS, SEP = 1, 2
MOST_TOKENS = 80
LEAST_COST = 2.0


def _chats(rng: np.random.Generator) -> Inputs:
    yield [("A", [7, 8]), ("A", [9]), ("B", [5, 6, 7])], "B"
    yield [("B", [4]), ("A", [9, 3]), ("A", [5]), ("B", [6, 8])], "A"
    for _ in range(4):
        speakers = ["B", "B", "A", *rng.choice(["A", "B"], 3)]
        chat = [
            (str(s), [int(x) for x in rng.integers(3, 30, rng.integers(1, 5))]) for s in speakers
        ]
        yield chat, str(rng.choice(["A", "B"]))


def _encoded(turns: Turns, learn: str) -> tuple[list[int], list[int], list[int]]:
    ids, segments, counted = [CLS], [0], []
    for speaker, tokens in turns:
        ids += [*tokens, SEP]
        segments += [int(speaker == "B")] * (len(tokens) + 1)
        counted += [int(speaker == learn)] * (len(tokens) + 1)
    return ids, segments, counted


def _not_shifted(turns: Turns, learn: str) -> tuple[list[int], list[int], list[int]]:
    ids, segments, counted = _encoded(turns, learn)
    return ids, segments, [0, *counted][:-1]


def _too_long(turns: Turns, learn: str) -> tuple[list[int], list[int], list[int]]:
    ids, segments, counted = _encoded(turns, learn)
    return ids, segments, [0, *counted]


def _ends_not_learnt(turns: Turns, learn: str) -> tuple[list[int], list[int], list[int]]:
    ids, segments, counted = _encoded(turns, learn)
    return ids, segments, [c * (token != SEP) for c, token in zip(counted, ids[1:], strict=True)]


def _by_turn(turns: Turns, learn: str) -> tuple[list[int], list[int], list[int]]:
    ids, _, counted = _encoded(turns, learn)
    segments = [0] + [k % 2 for k, (_, tokens) in enumerate(turns) for _ in range(len(tokens) + 1)]
    return ids, segments, counted


def _end_of_the_next(turns: Turns, learn: str) -> tuple[list[int], list[int], list[int]]:
    ids, segments, counted = _encoded(turns, learn)
    shifted = [
        segments[t + 1] if token == SEP and t + 1 < len(ids) else segments[t]
        for t, token in enumerate(ids)
    ]
    return ids, shifted, counted


def _first_is_zero(turns: Turns, learn: str) -> tuple[list[int], list[int], list[int]]:
    ids, _, counted = _encoded(turns, learn)
    segments = [0] + [
        int(speaker != turns[0][0]) for speaker, tokens in turns for _ in range(len(tokens) + 1)
    ]
    return ids, segments, counted


def _lengths(rng: np.random.Generator) -> Inputs:
    yield ([2, 5, 3],)
    for _ in range(5):
        while True:
            lengths = [int(x) for x in rng.integers(2, 40, rng.integers(3, 8))]
            if lengths not in (sorted(lengths), sorted(lengths, reverse=True)):
                break
        yield (lengths,)


def _saving(lengths: Sequence[int]) -> Fraction:
    """In the order given."""
    count = len(lengths)
    return Fraction(sum((count - k) * size for k, size in enumerate(lengths)), sum(lengths))


def _nuclei(rng: np.random.Generator) -> Inputs:
    yield np.array([2.0, 1.0, 0.5, 0.0, -1.0, -2.0]), 1.0, 0.3
    yield np.array([2.0, 1.0, 0.5, 0.0, -1.0, -2.0]), 0.5, 0.9
    for _ in range(5):
        logits = rng.normal(0, 1.5, rng.integers(5, 12))
        yield logits, float(rng.choice([0.4, 0.7, 1.6, 2.2])), float(rng.uniform(0.5, 0.9))


def _law(logits: Array) -> Array:
    p = np.exp(logits - logits.max())
    return np.asarray(p / p.sum())


def _cut(p: Array, rho: float, *, more: int = 0) -> Array:
    """Which tokens a nucleus keeps, and `more` after them, 1 or 0 for each."""
    order = np.argsort(-p)
    count = int((np.cumsum(p[order]) < rho).sum()) + 1 + more
    kept = np.zeros_like(p)
    kept[order[: max(count, 0)]] = 1
    return kept


def _shared(weights: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(weights / weights.sum())


def _nucleus(logits: Array, T: float, rho: float) -> Array:
    p = _law(logits / T)
    return _shared(p * _cut(p, rho))


def _as_given(logits: Array, T: float, rho: float) -> Array:
    p = _law(logits)
    return _shared(p ** (1 / T) * _cut(p, rho, more=-1))


def _cut_first(logits: Array, T: float, rho: float) -> Array:
    p = _law(logits)
    return _shared(p ** (1 / T) * _cut(p, rho))


def _too_few(logits: Array, T: float, rho: float) -> Array:
    p = _law(logits / T)
    return _shared(p * _cut(p, rho, more=-1))


def _too_many(logits: Array, T: float, rho: float) -> Array:
    p = _law(logits / T)
    return _shared(p * _cut(p, rho, more=1))


def _not_scaled(logits: Array, T: float, rho: float) -> Array:
    p = _law(logits / T)
    return p * _cut(p, rho)


def _dear(tokens: int, times: float, total: float = 1.0) -> list[float]:
    """A token `times` as likely as each of the others."""
    unit = total / (tokens - 1 + times)
    return [times * unit] + [unit] * (tokens - 1)


def _judge_dear(answer: Any) -> str | None:
    try:
        law = np.array(answer, dtype=float)
    except (TypeError, ValueError, OverflowError):
        return "return a list of numbers"
    if law.ndim != 1 or not 2 <= len(law) <= MOST_TOKENS:
        return f"return a list of at most {MOST_TOKENS} numbers; got shape {law.shape}"
    if (law < 0).any() or abs(law.sum() - 1) > 1e-9:
        return f"probabilities are not negative and sum to 1; the sum is {law.sum():.4g}"
    ranked = np.sort(law)[::-1]
    if ranked[0] < 4 * ranked[1] * (1 - 1e-9):
        return f"the likeliest token is only {ranked[0] / ranked[1]:.3g} times as likely as another"
    cost = -math.log(ranked[:5].sum())
    if not cost > LEAST_COST:
        return f"top-5 costs {abs(cost):.3f} nats, not more than {LEAST_COST:g}"
    return None


def _grammars(rng: np.random.Generator) -> Inputs:
    yield 6, 6
    yield 6, 12
    for _ in range(4):
        yield int(rng.integers(3, 15)), 2 * int(rng.integers(5, 20))


def _known(slots: int, pairs: int, *, tell: float = 5 / 6, again: bool = True) -> list[list[float]]:
    """The law of the number of known slots at each opening."""
    law = [1.0] + [0.0] * slots
    laws = []
    for _ in range(pairs):
        laws.append(law)
        new = [
            p * tell / (2 if c >= 2 else 1) * ((slots - c) / slots if again else c < slots)
            for c, p in enumerate(law)
        ]
        law = [p - new[c] + (new[c - 1] if c else 0) for c, p in enumerate(law)]
    return laws


def _share_right(laws: list[list[float]]) -> float:
    asked = sum(p for law in laws for p in law[2:])
    return sum(p / c for law in laws for c, p in enumerate(law) if c >= 2) / asked


def _mean_of_openings(slots: int, turns: int) -> float:
    laws = [law for law in _known(slots, turns // 2) if sum(law[2:]) > 0]
    return sum(_share_right([law]) for law in laws) / len(laws)


def _one_over_mean(slots: int, turns: int) -> float:
    laws = _known(slots, turns // 2)
    asked = sum(p for law in laws for p in law[2:])
    return asked / sum(c * p for law in laws for c, p in enumerate(law) if c >= 2)


EXERCISES = (
    Exercise(
        "one speaker's turns",
        solution=_encoded,
        inputs=_chats,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "not shifted",
                _not_shifted,
                "the prediction made at place t is about the token at t + 1.",
            ),
            Mistake(
                "one entry too many",
                _too_long,
                "nothing predicts the first token: `counted` is one shorter than ids.",
            ),
            Mistake(
                "the end is not learnt",
                _ends_not_learnt,
                "a model that never learns its own [SEP] does not know when to stop.",
            ),
            Mistake(
                "by the number of the turn",
                _by_turn,
                "somebody may send two turns in a row: the segment says who speaks.",
            ),
            Mistake(
                "[SEP] belongs to the next",
                _end_of_the_next,
                "ending a turn is a decision of its own speaker.",
            ),
            Mistake(
                "whoever begins is 0",
                _first_is_zero,
                "A has 0 and B has 1, whoever begins.",
            ),
        ),
    ),
    Exercise(
        "the order that saves most",
        solution=lambda lengths: _saving(sorted(lengths, reverse=True)),
        inputs=_lengths,
        exact=True,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "as if all were equal",
                lambda lengths: Fraction(len(lengths) + 1, 2),
                "that is right where all turns have the same length.",
            ),
            Mistake(
                "the order as given",
                _saving,
                "turn k is read again in each sample that comes after it: where should a long"
                " one stand?",
            ),
            Mistake(
                "longest last",
                lambda lengths: _saving(sorted(lengths)),
                "the last turn is read in one sample only, the first one in all.",
            ),
        ),
    ),
    Exercise(
        "a nucleus with temperature",
        solution=_nucleus,
        inputs=_nuclei,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "as given",
                _as_given,
                "the token that crosses the mass is missing, and the temperature comes too late.",
            ),
            Mistake(
                "temperature after the cut",
                _cut_first,
                "the nucleus must be that of the tempered law.",
            ),
            Mistake(
                "the crossing token missing",
                _too_few,
                "the kept mass must be at least ρ: the token that crosses it belongs to it.",
            ),
            Mistake(
                "one too many",
                _too_many,
                "a smaller set has the mass already.",
            ),
            Mistake(
                "not scaled up",
                _not_scaled,
                "what is kept must sum to 1.",
            ),
            Mistake(
                "multiplied by T",
                lambda logits, T, rho: _nucleus(logits, 1 / T, rho),
                "logits are divided by T.",
            ),
        ),
    ),
    Exercise(
        "dear, though not flat",
        solution=lambda: _dear(MOST_TOKENS, 4),
        judge=_judge_dear,
        mistakes=(
            Mistake(
                "flat",
                lambda: _dear(MOST_TOKENS, 1),
                "one token has to stand out by a factor of four.",
            ),
            Mistake(
                "one half and the rest",
                lambda: [0.5] + [0.5 / 79] * 79,
                "the likeliest token alone has so much mass that top-5 costs little: how small may"
                " it be?",
                variants=(lambda: [0.2] + [0.8 / 79] * 79,),
            ),
            Mistake(
                "too few others",
                lambda: _dear(40, 4),
                "the mass has to lie outside the five: use more of the tokens that you may.",
                variants=(lambda: _dear(20, 4),),
            ),
            Mistake(
                "too many tokens",
                lambda: _dear(500, 4),
                "80 tokens are enough.",
            ),
            Mistake(
                "weights instead of probabilities",
                lambda: [4.0] + [1.0] * 79,
                "divide by the sum.",
            ),
        ),
    ),
    Exercise(
        "the value told last",
        solution=lambda slots, turns: _share_right(_known(slots, turns // 2)),
        inputs=_grammars,
        mistakes=(
            Mistake(
                "all slots are known",
                lambda slots, turns: 1 / slots,
                "a question is about one of the c known slots; early in a dialogue c is small.",
            ),
            Mistake(
                "every opening counts alike",
                _mean_of_openings,
                "late openings hold more questions than early ones: divide the sums.",
            ),
            Mistake(
                "one over the mean",
                _one_over_mean,
                "the mean of 1/c is not 1 over the mean of c.",
            ),
            Mistake(
                "every turn opens",
                lambda slots, turns: _share_right(_known(slots, turns)),
                "only even turns open.",
            ),
            Mistake(
                "no small talk",
                lambda slots, turns: _share_right(_known(slots, turns // 2, tell=1.0)),
                "with 1/6 it is small talk, and nothing is told.",
            ),
            Mistake(
                "each fact is new",
                lambda slots, turns: _share_right(_known(slots, turns // 2, again=False)),
                "a slot may be told anew: c grows only if it is a new one.",
            ),
        ),
    ),
)
