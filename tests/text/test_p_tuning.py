"""Soft prompts against torch's own embedding, softmax and attention, and words fed as words."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import seeded
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from kexue_lab.text.language_models import MaskedLM
from kexue_lab.text.p_tuning import (
    PartialEmbedding,
    SoftPrompt,
    gap_logits,
    hidden_states,
    label_logits,
    prompt_loss,
    tune_prompt,
)
from kexue_lab.text.reviews import (
    LABEL_IDS,
    MASK,
    WORDS,
    counting_rule_accuracy,
    encode,
    pretraining_corpus,
    review_corpus,
    stored_reader,
    train_reader,
)

GOOD = ("great", "lovely", "superb", "bright", "fine", "happy")
BAD = ("awful", "dull", "broken", "sad", "poor", "ugly")
LOGITS = torch.tensor([[1.2, -0.3, 0.7, 2.0]], dtype=torch.float64)


def small_model(seed=0):
    torch.manual_seed(seed)
    return MaskedLM(len(WORDS), d_model=8, num_heads=2, max_length=20)


def fingerprint(model):
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- some rows only


def sines(rows, columns, step, function):
    i, j = np.mgrid[:rows, :columns]
    return torch.tensor(function(step * i + j))


def test_rows_of_an_embedding():
    table, readout = sines(5, 4, 4, np.sin), sines(4, 3, 3, np.cos)
    part = PartialEmbedding(table, [1, 2])
    ids = torch.tensor([[1, 3, 2, 4, 1]])
    assert torch.equal(part(ids), table[ids])
    assert torch.equal(part.weight, table)
    loss = cross_entropy(part(ids).mean(1) @ readout, torch.tensor([2]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.9474287993, abs=1e-10)
    expected = [0.2894621143, -0.2699561455, 0.2450470027, -0.2152332425]
    assert part.trained.grad[0].numpy() == pytest.approx(expected, abs=1e-10)
    assert torch.allclose(part.trained.grad[1], part.trained.grad[0] / 2, rtol=1e-12)
    assert [name for name, _ in part.named_parameters()] == ["trained"]


@settings(deadline=None)
@given(seed=st.integers(0, 99), rows=st.integers(2, 6))
def test_gradients_are_those_of_the_whole_table(seed, rows):
    g = seeded(seed)
    table = torch.randn(rows, 3, generator=g, dtype=torch.float64)
    chosen = torch.randperm(rows, generator=g)[: max(1, rows // 2)]
    ids = torch.randint(rows, (4, 5), generator=g)
    weight = torch.randn(4, 5, 3, generator=g, dtype=torch.float64)
    whole = nn.Embedding.from_pretrained(table, freeze=False)
    part = PartialEmbedding(table, chosen.tolist())
    for layer in (whole, part):
        (layer(ids).tanh() * weight).sum().backward()
    assert torch.allclose(part.trained.grad, whole.weight.grad[chosen], rtol=1e-12)


def test_stopped_gradients_give_the_same():
    """The article's form: μE + (1 − μ) stopgrad(E)."""
    table = sines(5, 4, 4, np.sin)
    free = table.clone().requires_grad_()
    kept = torch.tensor([[0.0], [1], [1], [0], [0]], dtype=torch.float64)
    ids = torch.tensor([1, 3, 2, 4, 1])
    (kept * free + (1 - kept) * free.detach())[ids].square().sum().backward()
    part = PartialEmbedding(table, [1, 2])
    part(ids).square().sum().backward()
    assert torch.equal(free.grad[1:3], part.trained.grad)
    assert not free.grad[[0, 3, 4]].any()


def test_frozen_rows_outlive_an_optimizer():
    part = PartialEmbedding(sines(5, 4, 4, np.sin), [1])
    before = part.weight.detach().clone()
    optimizer = torch.optim.AdamW(part.parameters(), lr=0.1, weight_decay=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        part(torch.tensor([0, 1, 2])).sum().backward()
        optimizer.step()
    moved = (part.weight != before).any(1)
    assert moved.tolist() == [False, True, False, False, False]


# ---------------------------------------------------------------- label words


def test_label_words():
    law = label_logits(LOGITS, (0, 3)).softmax(-1)[0]
    assert law.numpy() == pytest.approx([0.3100255189, 0.6899744811], abs=1e-10)


@settings(deadline=None)
@given(seed=st.integers(0, 999))
def test_the_losses(seed):
    g = seeded(seed)
    logits = 3 * torch.randn(6, 9, generator=g, dtype=torch.float64)
    targets = torch.randint(3, (6,), generator=g)
    ids = torch.randperm(9, generator=g)[:3]
    law = logits.softmax(-1)
    right = law.gather(1, ids[targets][:, None])[:, 0]
    whole = prompt_loss(logits, targets, ids.tolist(), reduction="none")
    assert torch.allclose(whole, -right.log())
    restricted = prompt_loss(logits, targets, ids.tolist(), restrict=True, reduction="none")
    assert torch.allclose(whole - restricted, -law[:, ids].sum(1).log())
    summed = prompt_loss(logits, targets, ids.tolist(), reduction="sum")
    assert float(summed) == pytest.approx(6 * float(prompt_loss(logits, targets, ids.tolist())))


def test_half_precision():
    logits = LOGITS.half()
    loss = prompt_loss(logits, torch.tensor([1]), (0, 3))
    assert loss.dtype == torch.float16
    assert float(loss) == pytest.approx(
        float(cross_entropy(logits.float(), torch.tensor([3]))), rel=1e-3
    )


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("template", ["it is [MASK] good [SEP]", "[MASK] good", "feel very [MASK]"])
def test_rows_of_words_are_these_words(template):
    model, words = stored_reader(), encode(template)
    place = int((words == MASK).nonzero()[0, 0])
    others = words[words != MASK]
    prompt = SoftPrompt(len(others), 48, place, init=model.embedding.weight[others])
    tokens, _ = review_corpus(20, generator=seeded(0))
    with torch.no_grad():
        fed = model(torch.cat([words.repeat(20, 1), tokens], 1))[:, place]
        assert torch.allclose(gap_logits(model, prompt, tokens), fed, atol=1e-6)


def test_the_gap_stands_among_the_vectors():
    prompt = SoftPrompt(3, 2, 1, init=torch.arange(6.0).view(3, 2))
    vectors, place = prompt.insert(torch.full((1, 2, 2), 9.0), torch.full((2,), 7.0))
    assert vectors[0].tolist() == [[0, 1], [7, 7], [2, 3], [4, 5], [9, 9], [9, 9]]
    assert place == 1


def test_a_pair_added_to_attention_mixes_its_value_in():
    g = seeded(3)
    q, keys, values = (torch.randn(1, n, 4, generator=g, dtype=torch.float64) for n in (2, 5, 5))
    key, value = (torch.randn(1, 1, 4, generator=g, dtype=torch.float64) for _ in range(2))
    with_pair = scaled_dot_product_attention(
        q, torch.cat([keys, key], 1), torch.cat([values, value], 1)
    )
    own = (q @ key.mT / math.sqrt(4)).exp()
    share = own / (own + (q @ keys.mT / math.sqrt(4)).exp().sum(-1, keepdim=True))
    mixed = share * value + (1 - share) * scaled_dot_product_attention(q, keys, values)
    assert torch.allclose(with_pair, mixed, atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_only_the_prompt_is_trained(rate):
    model = stored_reader().train()
    next(model.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = fingerprint(model)
    tokens, labels = review_corpus(8, generator=seeded(1))
    prompt = SoftPrompt(4, 48, 2, generator=seeded(2))
    start = prompt.prompt.detach().clone()
    losses = tune_prompt(
        model, prompt, tokens, labels, LABEL_IDS, steps=40, auxiliary_rate=rate, generator=seeded(3)
    )
    assert fingerprint(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(prompt.prompt, start)
    assert len(losses) == 40
    assert sum(losses[-5:]) < sum(losses[:5])


def test_it_is_a_plain_loop():
    model = small_model().eval()
    tokens, labels = review_corpus(6, generator=seeded(1))
    first, second = (SoftPrompt(3, 8, 1, generator=seeded(2)) for _ in range(2))
    tune_prompt(model, first, tokens, labels, LABEL_IDS, steps=5, lr=0.05)
    optimizer = torch.optim.Adam(second.parameters(), lr=0.05)
    for _ in range(5):
        loss = prompt_loss(gap_logits(model, second, tokens), labels, LABEL_IDS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(first.prompt, second.prompt, atol=1e-5)


def test_batches_and_further_gaps_come_from_the_generator():
    model = small_model()
    tokens, labels = review_corpus(50, generator=seeded(1))

    def tuned(seed):
        prompt = SoftPrompt(3, 8, 1, generator=seeded(2))
        return tune_prompt(
            model,
            prompt,
            tokens,
            labels,
            LABEL_IDS,
            steps=4,
            auxiliary_rate=0.2,
            generator=seeded(seed),
        )

    assert tuned(5) == tuned(5) != tuned(6)


def test_a_model_is_given_back_after_an_error():
    model = small_model().train()
    prompt = SoftPrompt(30, 8, 1)
    tokens, labels = review_corpus(4, generator=seeded(1))
    with pytest.raises(ValueError, match="at most 20"):
        tune_prompt(model, prompt, tokens, labels, LABEL_IDS)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_hidden_states_give_the_logits():
    model = small_model()
    tokens, _ = review_corpus(4, generator=seeded(0))
    with torch.no_grad():
        states = hidden_states(model, tokens)
        assert torch.equal(model.transformer.read_out(states), model(tokens))
    assert not model.transformer.norm._forward_hooks


# ---------------------------------------------------------------- the language


def test_shares_of_words():
    tokens, labels = review_corpus(4000, generator=seeded(0))
    words = np.array(WORDS)[tokens.numpy()]
    kinds = dict.fromkeys(GOOD, 1) | dict.fromkeys(BAD, 0)
    sentiment = np.vectorize(lambda word: kinds.get(word, -1))(words)
    assert (sentiment >= 0).mean() == pytest.approx(0.5, abs=0.01)
    agrees = sentiment == labels.numpy()[:, None]
    assert agrees.sum() / (sentiment >= 0).sum() == pytest.approx(0.8, abs=0.01)
    assert labels.double().mean() == pytest.approx(0.5, abs=0.03)
    topics = [set(WORDS[10 + 6 * k : 16 + 6 * k]) for k in range(3)]
    assert all(sum(bool(topic & set(row)) for topic in topics) <= 1 for row in words)


def test_texts_to_learn_from():
    tokens = pretraining_corpus(4000, generator=seeded(0))
    words = np.array(WORDS)[tokens.numpy()]
    assert tokens.shape == (4000, 15)
    assert (words[:, 4] == "[SEP]").all()
    told = (words[:, 3] == "good") & np.isin(words[:, 2], ["very", "not"])
    assert told.mean() == pytest.approx(0.6, abs=0.03)
    of_topic = (words[:, 0] == "it") & ~told
    assert of_topic.mean() == pytest.approx(0.2, abs=0.03)
    label = torch.tensor(words[told, 2] == "very").long()
    assert counting_rule_accuracy(tokens[told][:, 5:], label) == pytest.approx(0.92, abs=0.02)


def test_counting_is_the_likelihood_ratio():
    """A sentiment word of the class's own polarity has odds 4 : 1; the others tell nothing."""
    tokens, labels = review_corpus(3000, generator=seeded(4))
    words = np.array(WORDS)[tokens.numpy()]
    up = np.isin(words, GOOD).sum(1)
    down = np.isin(words, BAD).sum(1)
    log_odds = (up - down) * math.log(4)
    right = np.where(log_odds == 0, 0.5, (log_odds > 0) == labels.numpy())
    assert counting_rule_accuracy(tokens, labels) == pytest.approx(right.mean())


def test_training_makes_the_model_that_is_trained():
    first, second = (train_reader(3, steps=2, batch_size=4) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(train_reader(4, steps=2, batch_size=4)) != fingerprint(first)


def test_the_stored_model_reads():
    tokens, labels = review_corpus(500, generator=seeded(0))
    words = encode("it is [MASK] good [SEP]")
    with torch.no_grad():
        logits = stored_reader()(torch.cat([words.repeat(500, 1), tokens], 1))[:, 2]
    found = label_logits(logits, LABEL_IDS).argmax(1)
    reached = float((found == labels).double().mean())
    assert reached > counting_rule_accuracy(tokens, labels) - 0.03


# ---------------------------------------------------------------- bad input

MODEL = small_model()
TEXTS, CLASSES = review_corpus(4, generator=seeded(0))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: PartialEmbedding(torch.ones(3), [0]), "weight"),
        (lambda: PartialEmbedding(torch.ones(3, 2), [3]), "trainable_ids"),
        (lambda: PartialEmbedding(torch.ones(3, 2), [1, 1]), "trainable_ids"),
        (lambda: PartialEmbedding(torch.ones(3, 2), []), "trainable_ids"),
        (lambda: SoftPrompt(0, 4, 0), "length"),
        (lambda: SoftPrompt(2, 4, 3), "mask_position"),
        (lambda: SoftPrompt(2, 4, -1), "mask_position"),
        (lambda: SoftPrompt(2, 4, 1, init=torch.ones(2, 3)), "init"),
        (lambda: SoftPrompt(2, 4, 1).insert(torch.ones(1, 3, 5), torch.ones(4)), "text_embeddings"),
        (lambda: SoftPrompt(2, 4, 1).insert(torch.ones(1, 3, 4), torch.ones(5)), "mask_embedding"),
        (lambda: label_logits(LOGITS, (0, 0)), "label_ids"),
        (lambda: label_logits(LOGITS, (0, 4)), "label_ids"),
        (lambda: label_logits(LOGITS[0], (0, 1)), "logits"),
        (lambda: prompt_loss(LOGITS, torch.tensor([2]), (0, 1)), "targets"),
        (lambda: prompt_loss(LOGITS, torch.tensor([-1]), (0, 1)), "targets"),
        (lambda: prompt_loss(LOGITS, torch.tensor([0, 1]), (0, 1)), "targets"),
        (lambda: prompt_loss(LOGITS, torch.tensor([0]), (0, 1), reduction="most"), "reduction"),
        (lambda: tune_prompt(MODEL, SoftPrompt(2, 8, 1), TEXTS, CLASSES, (4, 4)), "label_ids"),
        (lambda: tune_prompt(MODEL, SoftPrompt(2, 8, 1), TEXTS, CLASSES + 1, (4, 5)), "targets"),
        (lambda: tune_prompt(MODEL, SoftPrompt(2, 8, 1), TEXTS[0], CLASSES, (4, 5)), "tokens"),
        (
            lambda: tune_prompt(
                MODEL, SoftPrompt(2, 8, 1), TEXTS, CLASSES, (4, 5), auxiliary_rate=1.0
            ),
            "auxiliary_rate",
        ),
        (lambda: tune_prompt(MODEL, SoftPrompt(2, 8, 1), TEXTS, CLASSES, (4, 5), lr=0.0), "lr"),
        (lambda: encode("it was good"), "text"),
        (lambda: review_corpus(0, generator=seeded(0)), "n must"),
        (lambda: counting_rule_accuracy(TEXTS, CLASSES[:2]), "labels"),
        (lambda: counting_rule_accuracy(TEXTS, CLASSES + 5), "labels"),
        (lambda: train_reader(0, steps=0), "steps"),
        (lambda: MODEL(), "tokens or embeddings"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_bad_types():
    with pytest.raises(TypeError, match="weight"):
        PartialEmbedding(torch.ones(3, 2, dtype=torch.int64), [0])
    with pytest.raises(TypeError, match="targets"):
        prompt_loss(LOGITS, torch.tensor([0.0]), (0, 1))
    with pytest.raises(TypeError, match="logits"):
        label_logits(torch.tensor([[1, 2]]), (0, 1))
