"""A language of dialogues whose probabilities are known exactly: facts are told and asked for."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch

from kexue_lab.validation import check_count

PAD, CLS, SEP, TELL, ASK, ACK, HI = range(7)
_SPECIAL = ("pad", "CLS", "SEP", "tell", "ask", "ack", "hi")


class Answer(NamedTuple):
    """A turn that answers a question.

    Attributes:
        turn: number of the turn, from 0.
        fact: the token that is right.
        is_hard: whether another slot than the one asked for was told last.
    """

    turn: int
    fact: int
    is_hard: bool


@dataclass(frozen=True)
class FactGrammar:
    """Dialogues in which even turns open and odd turns reply.

    An opening, if at least two slots are known, is with probability 1/2 "ask s", s uniform among
    the known slots. Otherwise it is with probability 1/6 "hi f", f a uniform filler, and else
    "tell F", F a uniform fact: a slot with a value, which replaces the one told before. The reply
    is the fact with the slot's latest value, "hi f", or "ack s". Tokens are numbered: seven
    special ones, slots, fillers, facts.

    Args:
        n_slots: number of slots.
        n_values: values of each slot.
        n_fillers: number of fillers.

    Example:
        >>> grammar = FactGrammar()
        >>> dialogue = [[TELL, grammar.fact(0, 3)], [ACK, grammar.slot(0)]]
        >>> print(grammar.words(dialogue), grammar.probability(dialogue))
        [['tell', 'F0.3'], ['ack', 's0']] 1/36
    """

    n_slots: int = 6
    n_values: int = 5
    n_fillers: int = 6

    def __post_init__(self) -> None:
        check_count(n_slots=self.n_slots, n_values=self.n_values, n_fillers=self.n_fillers)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones and padding counted."""
        return self._first_fact + self.n_slots * self.n_values

    def slot(self, s: int) -> int:
        """Return the token of slot s."""
        return len(_SPECIAL) + _below(self.n_slots, s=s)

    def filler(self, f: int) -> int:
        """Return the token of filler f."""
        return self._first_filler + _below(self.n_fillers, f=f)

    def fact(self, s: int, v: int) -> int:
        """Return the token that says that slot s has value v."""
        return self._first_fact + _below(self.n_slots, s=s) * self.n_values + self._value(v)

    def words(self, dialogue: Sequence[Sequence[int]]) -> list[list[str]]:
        """Return the tokens' names, such as "ask", "s2", "f0" and "F2.4" (slot 2 has value 4)."""
        return [[self._word(token) for token in turn] for turn in dialogue]

    def sample(self, n_turns: int, generator: torch.Generator) -> list[list[int]]:
        """Draw a dialogue of `n_turns` turns."""
        check_count(n_turns=n_turns)
        known: dict[int, int] = {}
        turns: list[list[int]] = []
        # Four uniform numbers a pair of turns: whether to ask, hi or tell, and what; the reply.
        draws = torch.rand((n_turns + 1) // 2, 4, generator=generator, dtype=torch.float64)
        for ask, hi, what, reply in draws.tolist():
            if len(known) >= 2 and ask < 0.5:
                asked = sorted(known)[int(what * len(known))]
                turns += [[ASK, self.slot(asked)], [known[asked]]]
            elif hi < 1 / 6:
                first, second = int(what * self.n_fillers), int(reply * self.n_fillers)
                turns += [[HI, self.filler(first)], [HI, self.filler(second)]]
            else:
                number = int(what * self.n_slots * self.n_values)
                told, fact = number // self.n_values, self._first_fact + number
                known[told] = fact
                turns += [[TELL, fact], [ACK, self.slot(told)]]
        return turns[:n_turns]

    def probability(self, dialogue: Sequence[Sequence[int]]) -> Fraction:
        """Return the exact probability of a dialogue among those with its number of turns.

        Raises:
            ValueError: for an empty dialogue or an empty turn.
        """
        return math.prod(self._turn_probabilities(dialogue), start=Fraction(1))

    def log_prob(self, dialogue: Sequence[Sequence[int]]) -> float:
        """Return the logarithm of `probability`; −∞ if the dialogue is impossible.

        Raises:
            ValueError: as `probability`.
        """
        factors = list(self._turn_probabilities(dialogue))
        return math.fsum(math.log(p) for p in factors) if all(factors) else -math.inf

    def answers(self, dialogue: Sequence[Sequence[int]]) -> list[Answer]:
        """Return the turns that answer a question, and what is right there.

        Raises:
            ValueError: as `probability`, or if the dialogue is impossible.
        """
        if self.probability(dialogue) == 0:
            raise ValueError(f"dialogue must be one of the grammar, got {list(dialogue)!r:.80}")
        known: dict[int, int] = {}
        told, found = -1, []
        for turn in range(0, len(dialogue), 2):
            word, token = dialogue[turn]
            if word == TELL:
                told = self._slot_of(token)
                known[told] = token
            elif word == ASK and turn + 1 < len(dialogue):
                asked = token - len(_SPECIAL)
                found.append(Answer(turn + 1, known[asked], asked != told))
        return found

    def _turn_probabilities(self, dialogue: Sequence[Sequence[int]]) -> Iterator[Fraction]:
        """The probability of each turn after those before it; the last one may be 0."""
        if not dialogue or not all(dialogue):
            raise ValueError(f"dialogue must hold turns, none empty, got {list(dialogue)!r:.80}")
        known: dict[int, int] = {}
        reply: list[int] = []
        for number, turn in enumerate(map(list, dialogue)):
            if number % 2 == 0:
                p = self._opening_probability(turn, known)
                if p == 0:
                    yield p
                    return
                word, token = turn
                if word == TELL:
                    known[self._slot_of(token)] = token
                    reply = [ACK, self.slot(self._slot_of(token))]
                elif word == ASK:
                    reply = [known[token - len(_SPECIAL)]]
                else:
                    reply = []
                yield p
            elif reply:
                yield Fraction(turn == reply)
            else:
                yield Fraction(self._is_hi(turn), self.n_fillers)

    def _opening_probability(self, turn: list[int], known: dict[int, int]) -> Fraction:
        asking = Fraction(len(known) >= 2, 2)
        if len(turn) == 2 and turn[0] == ASK:
            return asking / len(known) if turn[1] - len(_SPECIAL) in known else Fraction(0)
        if len(turn) == 2 and turn[0] == TELL:
            facts = self.n_slots * self.n_values
            is_fact = 0 <= turn[1] - self._first_fact < facts
            return (1 - asking) * Fraction(5 * is_fact, 6 * facts)
        return (1 - asking) * Fraction(self._is_hi(turn), 6 * self.n_fillers)

    def _is_hi(self, turn: list[int]) -> bool:
        return (
            len(turn) == 2 and turn[0] == HI and 0 <= turn[1] - self._first_filler < self.n_fillers
        )

    def _slot_of(self, fact: int) -> int:
        return (fact - self._first_fact) // self.n_values

    def _value(self, v: int) -> int:
        return _below(self.n_values, v=v)

    def _word(self, token: int) -> str:
        if _below(self.vocab_size, token=token) < len(_SPECIAL):
            return _SPECIAL[token]
        if token < self._first_filler:
            return f"s{token - len(_SPECIAL)}"
        if token < self._first_fact:
            return f"f{token - self._first_filler}"
        return f"F{self._slot_of(token)}.{(token - self._first_fact) % self.n_values}"

    @property
    def _first_filler(self) -> int:
        return len(_SPECIAL) + self.n_slots

    @property
    def _first_fact(self) -> int:
        return self._first_filler + self.n_fillers


def _below(limit: int, **number: int) -> int:
    check_count(0, **number)
    ((name, value),) = number.items()
    if value >= limit:
        raise ValueError(f"{name} must be below {limit}, got {value}")
    return value
