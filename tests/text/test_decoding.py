"""Decoding against exhaustive enumeration, transformers' processors and exact chains."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_chain import CHAIN
from tensors import seeded

from kexue_lab.text.decoding import (
    Beam,
    beam_search,
    decode,
    filter_logits,
    greedy,
    sample,
    truncate_logits,
)
from kexue_lab.text.markov import expected_length, nontermination_probability, truncate_rows

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -2.0], dtype=torch.float64)


def steps_of(chain):
    """The step function of a chain; its state is the number of tokens so far."""
    laws = torch.as_tensor(chain).log()

    def step(token, count):
        rows = torch.full((len(count),), len(laws) - 1) if token is None else token
        return laws[rows], count + 1

    return step


def prefixes(batch):
    return torch.zeros(batch, dtype=torch.int64)


def texts_of(chain, longest):
    """Every text up to a length, with its log-probability; the unfinished ones as well."""
    eos = len(chain) - 1
    for length in range(1, longest + 1):
        for inner in itertools.product(range(eos), repeat=length - 1):
            for last in range(len(chain)) if length == longest else [eos]:
                text = (*inner, last)
                law = zip((eos, *inner), text, strict=True)
                yield text, sum(math.log(chain[i][j]) for i, j in law)


# ---------------------------------------------------------------- what is kept


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-40, 40).map(float), min_size=1, max_size=12, unique=True),
    top_k=st.integers(1, 14),
)
def test_top_k_equals_transformers(logits, top_k):
    processors = pytest.importorskip("transformers.generation.logits_process")
    ours = truncate_logits(torch.tensor([logits]), top_k=top_k)
    theirs = processors.TopKLogitsWarper(top_k)(None, torch.tensor([logits]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(filter_logits(torch.tensor([logits]), top_k=top_k), theirs)


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-30, 30), min_size=1, max_size=12, unique=True),
    top_p=st.floats(0.011, 0.989).map(lambda p: round(p, 3)),
)
def test_a_nucleus_equals_transformers(logits, top_p):
    processors = pytest.importorskip("transformers.generation.logits_process")
    # Masses that add up to p within the rounding are another matter: see the test of it.
    scores = torch.tensor([logits], dtype=torch.float64) / 7
    masses = scores.softmax(-1).sort(descending=True).values.cumsum(-1)
    assume(not bool(((masses - top_p).abs() < 1e-5).any()))
    theirs = processors.TopPLogitsWarper(top_p)(None, scores)
    torch.testing.assert_close(truncate_logits(scores, top_p=top_p), theirs, rtol=0, atol=0)


def test_temperature_comes_before_the_nucleus():
    processors = pytest.importorskip("transformers.generation.logits_process")
    for temperature in (0.5, 2.0):
        warm = processors.TemperatureLogitsWarper(temperature)(None, LOGITS[None])
        theirs = processors.TopPLogitsWarper(0.8)(None, warm)
        ours = filter_logits(LOGITS[None], temperature=temperature, top_p=0.8)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, 1), (0.6, 2), (0.9, 4), (1.0, 6)])
def test_nuclei_by_hand(top_p, kept):
    assert int((truncate_logits(LOGITS, top_p=top_p) > -math.inf).sum()) == kept


def test_equal_logits():
    equal = torch.zeros(2, 5)
    first = truncate_logits(equal, top_k=2)
    assert (first > -math.inf).tolist() == [[True, True, False, False, False]] * 2
    assert bool((filter_logits(equal, top_k=2) == 0).all())
    # Two of five have the mass 0.4, though 0.2 + 0.2 rounds below it in float32.
    assert int((truncate_logits(equal, top_p=0.4)[0] > -math.inf).sum()) == 2


def test_eos_is_kept_and_nothing_else_added():
    kept = truncate_logits(LOGITS, top_k=2, keep_eos=True)
    assert (kept > -math.inf).tolist() == [True, True, False, False, False, True]
    first = truncate_logits(LOGITS.flip(0), top_k=2, keep_eos=True)
    assert (first > -math.inf).tolist() == [False] * 4 + [True] * 2


@settings(max_examples=60, deadline=None)
@given(
    masses=st.lists(st.integers(0, 9), min_size=2, max_size=8).filter(any),
    top_k=st.one_of(st.none(), st.integers(1, 9)),
    top_p=st.floats(0.01, 1),
    keep_eos=st.booleans(),
)
def test_rows_of_a_chain_are_cut_like_logits(masses, top_k, top_p, keep_eos):
    law = np.array([masses]) / sum(masses)
    rule = {"top_k": top_k} if top_k else {"top_p": top_p}
    rows = truncate_rows(law, **rule, keep_eos=keep_eos)
    logits = truncate_logits(torch.as_tensor(law).log(), **rule, keep_eos=keep_eos)
    np.testing.assert_allclose(rows, logits.softmax(-1), atol=1e-12)


# ---------------------------------------------------------------- texts


def test_greedy_follows_the_largest_entries():
    found = greedy(steps_of(CHAIN), prefixes(2), 10)
    assert found.tokens.tolist() == [[2, 3], [2, 3]]
    assert found.lengths.tolist() == [1, 1]
    assert found.finished.tolist() == [True, True]


def test_what_does_not_end_is_cut():
    found = greedy(steps_of(np.array([[1.0, 0.0], [1.0, 0.0]])), prefixes(1), 7)
    assert found.tokens.tolist() == [[0] * 7]
    assert not found.finished.any()
    assert found.lengths.tolist() == [7]


def test_nothing_follows_an_end():
    found = sample(steps_of(CHAIN), prefixes(500), 40, generator=seeded(0))
    ended = (found.tokens == 3).long().cumsum(-1) > 0
    assert bool((found.tokens[ended] == 3).all())
    assert found.lengths.tolist() == (found.tokens != 3).sum(-1).tolist()


@pytest.mark.parametrize(
    "rule", [{}, {"top_k": 2}, {"top_k": 3}, {"top_p": 0.58}, {"top_k": 2, "keep_eos": True}]
)
def test_sampled_ends_are_those_of_the_chain(rule):
    cut = truncate_rows(CHAIN, **rule) if rule else CHAIN
    found = sample(steps_of(CHAIN), prefixes(4000), 200, generator=seeded(1), **rule)
    never = nontermination_probability(cut)
    error = math.sqrt(max(never * (1 - never), 1e-4) / 4000)
    assert abs(float(1 - found.finished.double().mean()) - never) < 4 * error
    if never == 0:
        lengths = found.lengths.double()
        assert abs(lengths.mean() - expected_length(cut)) < 4 * lengths.std() / math.sqrt(4000)


def test_decode_names_the_rules():
    step = steps_of(CHAIN)
    for method, rule in [("ancestral", {}), ("top_k", {"top_k": 2}), ("top_p", {"top_p": 0.5})]:
        named = decode(step, prefixes(3), method, 30, seeded(2), **rule)
        direct = sample(step, prefixes(3), 30, generator=seeded(2), **rule)
        assert named.tokens.tolist() == direct.tokens.tolist()
    assert decode(step, prefixes(1), "greedy", 9).tokens.tolist() == [[2, 3]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), longest=st.integers(1, 4), mean=st.booleans())
def test_a_wide_beam_finds_the_best_text_of_all(seed, longest, mean):
    chain = np.random.default_rng(seed).dirichlet(np.ones(4), 4)
    every = list(texts_of(chain, longest))
    ended = [(text, score) for text, score in every if text[-1] == 3] or every
    best = max(ended, key=lambda pair: pair[1] / (len(pair[0]) if mean else 1))
    found = beam_search(steps_of(chain), prefixes(2), 4**longest, longest, mean=mean)
    assert found.tokens.tolist() == [list(best[0])] * 2
    assert found.log_probs.tolist() == pytest.approx([best[1]] * 2)


def test_a_beam_of_one_is_greedy_and_rows_do_not_meet():
    chains = np.random.default_rng(3).dirichlet(np.ones(5), (6, 5))
    laws = torch.as_tensor(chains).log()

    def step(token, state):
        rows = torch.full((len(state["chain"]),), 4) if token is None else token
        return laws[state["chain"], rows], {"chain": state["chain"]}

    state = {"chain": torch.arange(6)}
    beam, plain = beam_search(step, state, 1, 8), greedy(step, state, 8)
    assert isinstance(beam, Beam)
    assert beam.tokens.tolist() == plain.tokens.tolist()
    assert beam.lengths.tolist() == plain.lengths.tolist()
    assert beam.finished.tolist() == plain.finished.tolist()
    wide = beam_search(step, state, 3, 8)
    for i in range(6):
        alone = beam_search(step, {"chain": torch.tensor([i])}, 3, 8)
        assert wide.log_probs[i] == alone.log_probs[0]


def test_a_finished_text_narrows_the_beam():
    """A beam of two that has found one end follows a single text from there on."""
    widths = []

    def step(token, count):
        widths.append(len(count))
        return torch.tensor([[0.6, 0.4]]).log().expand(len(count), 2), count

    beam_search(step, prefixes(1), 2, 5)
    assert widths == [1] * 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: truncate_logits(LOGITS), ValueError, "one of top_k and top_p"),
        (lambda: truncate_logits(LOGITS, 2, 0.5), ValueError, "one of top_k and top_p"),
        (lambda: truncate_logits(LOGITS, top_k=0), ValueError, "top_k must be at least 1, got 0"),
        (lambda: truncate_logits(LOGITS, top_p=0.0), ValueError, r"top_p must be in \(0, 1\]"),
        (lambda: truncate_logits(LOGITS, top_p=math.nan), ValueError, "top_p must be .*nan"),
        (lambda: truncate_logits([1.0], top_k=1), TypeError, "logits must be a floating-point"),
        (lambda: filter_logits(LOGITS, temperature=0.0), ValueError, "temperature must be pos"),
        (lambda: filter_logits(LOGITS, top_p=1.5), ValueError, r"top_p must be in .*got 1.5"),
        (lambda: filter_logits(LOGITS, top_k=-1), ValueError, "top_k must be at least 0, got -1"),
        (lambda: greedy(steps_of(CHAIN), prefixes(1), 0), ValueError, "max_length must be at"),
        (
            lambda: sample(steps_of(CHAIN), prefixes(1), 3, top_k=1, top_p=0.5),
            ValueError,
            "one of top_k and top_p",
        ),
        (
            lambda: decode(steps_of(CHAIN), prefixes(1), "top_k", 3),
            ValueError,
            "top_k must be given for 'top_k' only, got None",
        ),
        (
            lambda: decode(steps_of(CHAIN), prefixes(1), "greedy", 3, top_p=0.5),
            ValueError,
            "top_p must be given for 'top_p' only, got 0.5 for 'greedy'",
        ),
        (lambda: decode(steps_of(CHAIN), prefixes(1), "beam", 3), ValueError, "method must be one"),
        (lambda: beam_search(steps_of(CHAIN), prefixes(1), 0, 3), ValueError, "width must be at"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
