"""Encoding, losses and replies against plain loops and enumeration."""

import math
from collections import Counter
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import seeded
from torch import nn

from kexue_lab.text.dialogue import (
    dialogue_loss,
    encode_batch,
    encode_dialogue,
    fact_model,
    reply,
    train_fact_model,
)
from kexue_lab.text.fact_grammar import ACK, ASK, CLS, HI, PAD, SEP, TELL, Answer, FactGrammar
from kexue_lab.text.language_models import CausalLM

UTTERANCES = st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=4), min_size=1, max_size=7)


@pytest.fixture(autouse=True)
def _torch_state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# ---------------------------------------------------------------- encoding


def test_three_utterances():
    ids, segments, turns = encode_dialogue([[7, 8], [9], [7, 7, 7]], cls_id=1, sep_id=2)
    assert ids.tolist() == [1, 7, 8, 2, 9, 2, 7, 7, 7, 2]
    assert segments.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert turns.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]


@given(utterances=UTTERANCES, limit=st.integers(6, 40))
def test_encoding_is_undone(utterances, limit):
    ids, segments, turns = encode_dialogue(utterances, cls_id=1, sep_id=2, max_length=limit)
    assert ids.dtype == segments.dtype == turns.dtype == torch.int64
    back = [
        [
            token
            for token, turn in zip(ids.tolist()[1:], turns.tolist()[1:], strict=True)
            if turn == number
        ][:-1]
        for number in range(int(turns.max()) + 1)
    ]
    assert back == utterances[: len(back)]
    assert len(ids) <= limit
    if len(back) < len(utterances):
        assert len(ids) + len(utterances[len(back)]) + 1 > limit
    assert segments.tolist() == [turn % 2 for turn in turns.tolist()]
    assert (ids == 2).sum() == len(back)


def test_a_batch_is_filled_up_on_the_right():
    batch = encode_batch([[[7]], [[7, 8], [9]]], cls_id=1, sep_id=2, pad_id=5)
    assert batch.ids.tolist() == [[1, 7, 2, 5, 5, 5], [1, 7, 8, 2, 9, 2]]
    assert batch.segments.tolist() == [[0] * 6, [0, 0, 0, 0, 1, 1]]
    assert batch.turns.tolist() == [[0] * 6, [0, 0, 0, 0, 1, 1]]


# ---------------------------------------------------------------- losses


def plain_losses(logits, ids, turns, which):
    """Sum and number of the losses, one by one."""
    total, count = 0.0, 0
    for row in range(len(ids)):
        last = max(
            t for t, token in zip(turns[row].tolist(), ids[row].tolist(), strict=True) if token != 0
        )
        for t in range(1, ids.shape[1]):
            turn = int(turns[row, t])
            wanted = {"all": True, "replies": turn > 0, "last": turn == last}[which]
            if ids[row, t] != 0 and wanted:
                total -= float(logits[row, t - 1].log_softmax(-1)[ids[row, t]])
                count += 1
    return total, count


@settings(max_examples=30, deadline=None)
@given(dialogues=st.lists(UTTERANCES.filter(lambda u: len(u) > 1), min_size=1, max_size=3))
@pytest.mark.parametrize("which", ["all", "replies", "last"])
def test_the_losses_by_a_plain_loop(which, dialogues):
    ids, _, turns = encode_batch(dialogues, cls_id=1, sep_id=2, pad_id=0)
    logits = torch.randn(*ids.shape, 10, generator=seeded(1), dtype=torch.float64)
    total, count = plain_losses(logits, ids, turns, which)
    loss = partial(dialogue_loss, logits, ids, pad_id=0, turns=turns, which=which)
    assert float(loss(reduction="sum")) == pytest.approx(total, rel=1e-12)
    assert float(loss(reduction="mean")) == pytest.approx(total / count, rel=1e-12)
    assert float(loss(reduction="none").sum()) == pytest.approx(total, rel=1e-12)
    assert loss(reduction="none").shape == (len(ids), ids.shape[1] - 1)
    assert int((loss(reduction="none") != 0).sum()) == count


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_one_pass_gives_the_losses_of_all_replies(position):
    grammar = FactGrammar()
    model = CausalLM(grammar.vocab_size, 16, 2, position=position).double()
    for seed in range(4):
        dialogue = grammar.sample(6, seeded(seed))
        whole = encode_batch([dialogue], cls_id=CLS, sep_id=SEP, pad_id=PAD)
        joint = dialogue_loss(model(*whole[:2]), whole.ids, pad_id=PAD, reduction="sum")
        apart = 0.0
        for k in range(1, 7):
            cut = encode_batch([dialogue[:k]], cls_id=CLS, sep_id=SEP, pad_id=PAD)
            apart += dialogue_loss(
                model(*cut[:2]),
                cut.ids,
                pad_id=PAD,
                turns=cut.turns,
                which="last",
                reduction="sum",
            )
        torch.testing.assert_close(joint, apart, rtol=1e-12, atol=0)


def test_padding_on_the_right_changes_nothing():
    model = CausalLM(12, 16, 2).double()
    short, long = [[7, 8], [9]], [[5] * 9, [6] * 4]
    both = encode_batch([short, long], cls_id=1, sep_id=2, pad_id=0)
    alone = encode_batch([short], cls_id=1, sep_id=2, pad_id=0)
    torch.testing.assert_close(model(*both[:2])[:1, :6], model(*alone[:2]))
    first = dialogue_loss(model(*both[:2]), both.ids, pad_id=0, reduction="none")[0].sum()
    again = dialogue_loss(model(*alone[:2]), alone.ids, pad_id=0, reduction="sum")
    torch.testing.assert_close(first, again)


def test_half_precision():
    logits = 50 * torch.randn(2, 400, 9, generator=seeded(2))
    ids = torch.randint(1, 9, (2, 400), generator=seeded(3))
    exact = dialogue_loss(logits.half().double(), ids, pad_id=0)
    found = dialogue_loss(logits.half(), ids, pad_id=0)
    assert found.dtype == torch.float16
    assert float(found) == pytest.approx(float(exact), rel=1e-3)


# ---------------------------------------------------------------- replies


class Scripted(nn.Module):
    """Says the utterance that is its script, and remembers what it has read."""

    def __init__(self, script, vocab=10):
        super().__init__()
        self.script, self.vocab, self.read = script, vocab, []

    def forward(self, ids, segments):
        self.read.append((ids[0].tolist(), segments[0].tolist()))
        said = len(self.read) - 1
        logits = torch.zeros(1, ids.shape[1], self.vocab)
        logits[0, -1, self.script[min(said, len(self.script) - 1)]] = 50.0
        return logits


@given(history=UTTERANCES, script=st.lists(st.integers(3, 9), max_size=5))
@settings(deadline=None)
def test_a_reply_is_read_as_the_other_speaker(history, script):
    model = Scripted([*script, 2])
    assert reply(model, history, sep_id=2, cls_id=1, generator=seeded(0)) == script
    begun = encode_dialogue(history, cls_id=1, sep_id=2)
    for said, (ids, segments) in enumerate(model.read):
        assert ids == begun.ids.tolist() + script[:said]
        assert segments == begun.segments.tolist() + [len(history) % 2] * said


def test_a_reply_is_cut():
    model = Scripted([5])
    assert reply(model, [[4]], sep_id=2, cls_id=1, max_new_tokens=4) == [5] * 4


def test_replies_follow_the_filtered_law():
    class Flat(nn.Module):
        def forward(self, ids, segments):
            law = torch.tensor([0.0, 0.0, 0.5, 0.3, 0.2])
            return law.log().expand(1, ids.shape[1], 5)

    say = partial(reply, Flat(), [[3]], sep_id=2, cls_id=1, max_new_tokens=1)
    for rule, laws in (
        ({}, {(): 0.5, (3,): 0.3, (4,): 0.2}),
        ({"top_k": 2}, {(): 0.625, (3,): 0.375}),
        ({"top_p": 0.7, "temperature": 0.5}, {(): 0.25 / 0.34, (3,): 0.09 / 0.34}),
    ):
        g = seeded(4)
        counts = Counter(tuple(say(generator=g, **rule)) for _ in range(1500))
        assert set(counts) == set(laws)
        for said, p in laws.items():
            assert abs(counts[said] / 1500 - p) < 4 * math.sqrt(p * (1 - p) / 1500)


# ---------------------------------------------------------------- the grammar


def everything(grammar, n_turns):
    """All lists of turns made of one or two tokens."""
    tokens = range(3, grammar.vocab_size)
    turns = [[a] for a in tokens] + [[a, b] for a in tokens for b in tokens]
    grown = [[]]
    for _ in range(n_turns):
        grown = [[*d, turn] for d in grown for turn in turns if grammar.probability([*d, turn]) > 0]
    return grown


@pytest.mark.parametrize("n_turns", [1, 2, 5])
def test_the_probabilities_sum_to_one(n_turns):
    grammar = FactGrammar(2, 1, 1)
    assert sum(map(grammar.probability, everything(grammar, n_turns))) == 1


def test_the_dialogues_drawn_have_their_probabilities():
    grammar = FactGrammar(2, 1, 1)
    g, count = seeded(0), 6000
    counts = Counter(str(grammar.sample(6, g)) for _ in range(count))
    possible = {str(d): float(grammar.probability(d)) for d in everything(grammar, 6)}
    assert set(counts) <= set(possible)
    for dialogue, p in possible.items():
        assert abs(counts[dialogue] / count - p) < 5 * math.sqrt(p * (1 - p) / count)


def test_a_dialogue_by_hand():
    grammar = FactGrammar()
    town, pet = grammar.fact(1, 2), grammar.fact(5, 0)
    told = [[TELL, town], [ACK, grammar.slot(1)], [TELL, pet], [ACK, grammar.slot(5)]]
    asked = [*told, [ASK, grammar.slot(1)], [town]]
    assert grammar.probability(asked) == Fraction(1, 5184)
    assert grammar.log_prob(asked) == pytest.approx(-math.log(5184), rel=1e-14)
    assert grammar.probability([*told, [HI, grammar.filler(0)]]) == Fraction(1, 36**2 * 72)
    assert grammar.answers(asked) == [Answer(5, town, True)]
    assert grammar.answers([*told, [ASK, grammar.slot(5)], [pet]]) == [Answer(5, pet, False)]
    again = [*told, [TELL, grammar.fact(1, 4)], [ACK, grammar.slot(1)], [ASK, grammar.slot(1)]]
    assert grammar.log_prob([*again, [town]]) == -math.inf
    assert grammar.probability([*again, [grammar.fact(1, 4)]]) == Fraction(1, 2 * 36**2 * 72 * 2)
    assert grammar.words(asked)[4:] == [["ask", "s1"], ["F1.2"]]


@pytest.mark.parametrize(
    "dialogue",
    [
        [[ASK, 7]],
        [[ACK, 7]],
        [[TELL, 7]],
        [[TELL, 19], [ACK, 8]],
        [[HI, 13], [ACK, 7]],
        [[TELL]],
        [[HI, 19]],
        [[TELL, 49]],
    ],
)
def test_what_is_impossible(dialogue):
    grammar = FactGrammar()
    assert grammar.probability(dialogue) == 0
    assert grammar.log_prob(dialogue) == -math.inf
    with pytest.raises(ValueError, match="must be one of the grammar"):
        grammar.answers(dialogue)


@given(seed=st.integers(0, 500), turns=st.integers(1, 20))
@settings(deadline=None)
def test_what_is_drawn_is_possible_and_answers_are_the_latest(seed, turns):
    grammar = FactGrammar(3, 2, 1)
    dialogue = grammar.sample(turns, seeded(seed))
    assert len(dialogue) == turns
    assert grammar.log_prob(dialogue) == pytest.approx(
        math.log(grammar.probability(dialogue)), rel=1e-12
    )
    for answer in grammar.answers(dialogue):
        (fact,) = dialogue[answer.turn]
        assert fact == answer.fact
        tells = [t[1] for t in dialogue[: answer.turn] if t[0] == TELL]
        slots = [grammar.words([[told]])[0][0].split(".")[0] for told in (fact, *tells)]
        assert fact == [told for told, s in zip(tells, slots[1:], strict=True) if s == slots[0]][-1]
        assert answer.is_hard is (slots[-1] != slots[0])


# ---------------------------------------------------------------- the stored model


def test_the_stored_model_knows_the_grammar():
    grammar, model, g = FactGrammar(), fact_model(), seeded(7)
    dialogues = [grammar.sample(12, g) for _ in range(60)]
    data = encode_batch(dialogues, cls_id=CLS, sep_id=SEP, pad_id=PAD)
    with torch.no_grad():
        loss = float(dialogue_loss(model(*data[:2]), data.ids, pad_id=PAD))
    exact = -sum(map(grammar.log_prob, dialogues)) / int((data.ids[:, 1:] != PAD).sum())
    assert exact < loss < exact + 0.04


def test_training_the_model_again():
    first, again = (train_fact_model(2, seed=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


# ---------------------------------------------------------------- bad input

TWO = {"cls_id": 1, "sep_id": 2}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: encode_dialogue([], **TWO), ValueError, "utterances must be some, none empty"),
        (lambda: encode_dialogue([[3], []], **TWO), ValueError, "utterances must be some"),
        (
            lambda: encode_dialogue([[3, 4]], **TWO, max_length=3),
            ValueError,
            "max_length must hold the first utterance, 4, got 3",
        ),
        (lambda: encode_batch([], **TWO, pad_id=0), ValueError, "dialogues must be some"),
        (lambda: reply(Scripted([5]), [], **TWO), ValueError, "utterances must be some"),
        (
            lambda: reply(Scripted([5]), [[3]], **TWO, temperature=0.0),
            ValueError,
            "temperature must be positive",
        ),
        (lambda: reply(Scripted([5]), [[3]], **TWO, top_p=0.0), ValueError, "top_p must be in"),
        (
            lambda: reply(Scripted([5]), [[3]], **TWO, max_new_tokens=0),
            ValueError,
            "max_new_tokens must be at least 1, got 0",
        ),
        (
            lambda: dialogue_loss(torch.zeros(1, 3, 4), torch.ones(1, 2).long(), pad_id=0),
            ValueError,
            r"logits and ids must have shapes \(B, T, V\), \(B, T\), got",
        ),
        (
            lambda: dialogue_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3).long(), pad_id=0),
            ValueError,
            "ids must hold a token that is counted",
        ),
        (
            lambda: dialogue_loss(
                torch.zeros(1, 3, 4), torch.ones(1, 3).long(), pad_id=0, which="replies"
            ),
            ValueError,
            r"turns must have the shape of ids, \(1, 3\), got None",
        ),
        (
            lambda: dialogue_loss(
                torch.zeros(1, 3, 4), torch.ones(1, 3).long(), pad_id=0, which="first"
            ),
            ValueError,
            "which must be one of",
        ),
        (
            lambda: dialogue_loss(
                torch.zeros(1, 3, 4), torch.ones(1, 3).long(), pad_id=0, reduction="max"
            ),
            ValueError,
            "reduction must be one of",
        ),
        (
            lambda: dialogue_loss(torch.zeros(1, 3, 4).long(), torch.ones(1, 3).long(), pad_id=0),
            TypeError,
            "logits must be a floating-point tensor",
        ),
        (lambda: FactGrammar(n_slots=0), ValueError, "n_slots must be at least 1, got 0"),
        (lambda: FactGrammar().fact(6, 0), ValueError, "s must be below 6, got 6"),
        (lambda: FactGrammar().fact(0, 5), ValueError, "v must be below 5, got 5"),
        (lambda: FactGrammar().words([[49]]), ValueError, "token must be below 49, got 49"),
        (lambda: FactGrammar().sample(0, seeded()), ValueError, "n_turns must be at least 1"),
        (lambda: FactGrammar().probability([]), ValueError, "dialogue must hold turns"),
        (lambda: FactGrammar().log_prob([[HI, 13], []]), ValueError, "dialogue must hold turns"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
