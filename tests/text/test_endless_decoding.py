"""Bounds and layers against mpmath, running the process, and enumeration."""

import itertools
import math
from fractions import Fraction

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_chain import CHAIN
from tensors import seeded
from torch import nn

from kexue_lab.text.decoding import beam_search, greedy, sample
from kexue_lab.text.endless_decoding import (
    RecurrentLM,
    chain_step,
    eos_floor,
    greedy_stop_bound,
    greedy_stop_probability,
    max_expected_length,
    self_terminating_log_probs,
)
from kexue_lab.text.markov import expected_length, nontermination_probability, truncate_rows

U = (2.0, -1.0, 0.0, 1.0, 3.0)
EPS = st.floats(1e-6, 0.95)


# ---------------------------------------------------------------- closed formulas


def test_the_floor():
    assert eos_floor(49_999, 10.0) == pytest.approx(9.080167548e-10, rel=1e-9)
    assert eos_floor(30, 5.0) == pytest.approx(2.245478003e-4, rel=1e-9)
    assert eos_floor(3, 1e308) == 0
    assert eos_floor(3, 0.0, -1e308) == 1


@settings(deadline=None)
@given(
    tokens=st.integers(1, 9), size=st.floats(0.1, 3), bias=st.floats(-2, 2), seed=st.integers(0, 99)
)
def test_no_bounded_state_goes_below_the_floor(tokens, size, bias, seed):
    g = seeded(seed)
    weights = torch.randn(tokens + 1, 4, generator=g, dtype=torch.float64)
    states = torch.randn(200, 4, generator=g, dtype=torch.float64)
    states *= size / states.norm(dim=1, keepdim=True)
    biases = torch.zeros(tokens + 1, dtype=torch.float64)
    biases[0] += bias
    reach = size * float((weights - weights[-1]).norm(dim=1).max())
    law = (states @ weights.T + biases).softmax(-1)
    largest = float((biases[:-1] - biases[-1]).max())
    assert float(law[:, -1].min()) >= eos_floor(tokens, reach, largest) * (1 - 1e-9)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_random_arrows_by_enumeration(tokens):
    """Every choice of an arrow for the start and each token; <eos> is the last number."""
    ends = 0
    for arrows in itertools.product(range(tokens + 1), repeat=tokens + 1):
        here = tokens
        for _ in range(tokens + 1):
            here = arrows[here]
            if here == tokens:
                break
        ends += here == tokens
    share = Fraction(ends, (tokens + 1) ** (tokens + 1))
    assert greedy_stop_probability(tokens) == pytest.approx(float(share), abs=1e-15)


@pytest.mark.parametrize(
    ("tokens", "stops"),
    [(10, 0.350215641), (100, 0.121509124), (1000, 0.039283739), (50_000, 0.005598278)],
)
def test_random_arrows(tokens, stops):
    assert greedy_stop_probability(tokens) == pytest.approx(stops, abs=1e-9)
    assert stops == pytest.approx(math.sqrt(math.pi / 2 / tokens), rel=1.2 / math.sqrt(tokens))


@pytest.mark.parametrize(("eps", "steps"), [(0.05, 14), (0.01, 69), (1e-3, 693), (1e-4, 6932)])
def test_steps_of_greedy(eps, steps):
    assert greedy_stop_bound(eps) == steps
    assert (1 - eps) ** steps <= 1 / 2 < (1 - eps) ** (steps - 1)


@settings(max_examples=40, deadline=None)
@given(eps=st.floats(1e-3, 0.999))
def test_largest_mean_length_is_the_sum(eps):
    with mpmath.workdps(30):
        terms = (
            (1 - mpmath.mpf(eps)) ** ((t + 1) * (t + 2) // 2)
            for t in range(int(12 / math.sqrt(eps)) + 2)
        )
        exact = float(mpmath.fsum(terms))
    assert max_expected_length(eps) == pytest.approx(exact, rel=1e-12)


def test_largest_mean_length_of_a_small_eps():
    assert max_expected_length(1e-4) == pytest.approx(124.329847046, abs=1e-8)
    assert max_expected_length(1e-12) == pytest.approx(math.sqrt(math.pi / 2e-12) - 1, rel=1e-9)
    assert math.isfinite(max_expected_length(5e-324))


# ---------------------------------------------------------------- the layers


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("st", (0.163242776, 0.786213257, 0.898451297, 0.929473852, 0.936177685)),
        ("nmst", (0.886757224, 0.340219633, 0.5713125, 0.780945531, 0.963302763)),
    ],
)
def test_a_text_of_five_steps(mode, wanted):
    logits = torch.zeros(1, 5, 3, dtype=torch.float64)
    logits[0, :, -1] = torch.tensor(U)
    law = self_terminating_log_probs(logits, 0.05, mode).exp()
    assert law[0, :, -1].tolist() == pytest.approx(wanted, abs=1e-9)
    assert law[0, :, 0].tolist() == pytest.approx([(1 - p) / 2 for p in wanted], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    u=st.lists(st.floats(-8, 8), min_size=1, max_size=12),
    eps=EPS,
    mode=st.sampled_from(["st", "nmst"]),
)
def test_the_layers_by_their_definition(u, eps, mode):
    logits = torch.randn(2, len(u), 4, generator=seeded(1), dtype=torch.float64)
    logits[..., -1] = torch.tensor(u, dtype=torch.float64)
    law = self_terminating_log_probs(logits, eps, mode).exp()
    torch.testing.assert_close(law.sum(-1), torch.ones(2, len(u), dtype=torch.float64))
    on = 1.0
    for t, value in enumerate(u):
        on *= (1 - eps) / (1 + math.exp(-value))
        q = 1 - on if mode == "st" else 1 - (1 - eps) ** (t + 1) / (1 + math.exp(value))
        assert float(law[0, t, -1]) == pytest.approx(q, abs=1e-12)
        assert q >= 1 - (1 - eps) ** (t + 1) - 1e-12
    tokens = law[..., :-1] / law[..., :-1].sum(-1, keepdim=True)
    torch.testing.assert_close(tokens, logits[..., :-1].softmax(-1))


@pytest.mark.parametrize("mode", ["st", "nmst"])
@pytest.mark.parametrize("u", [-60.0, 0.0, 60.0])
def test_long_texts_and_large_logits(mode, u):
    logits = torch.randn(1, 5000, 6, generator=seeded(0))
    logits[..., -1] = u
    logits.requires_grad_()
    log_probs = self_terminating_log_probs(logits, 1e-3, mode)
    assert bool(log_probs.isfinite().all())
    assert float((log_probs.detach().double().exp().sum(-1) - 1).abs().max()) < 1e-6
    (gradient,) = torch.autograd.grad(log_probs.sum(), logits)
    assert bool(gradient.isfinite().all())


def test_a_tiny_eps_keeps_its_digits():
    logits = torch.tensor([[[0.0, 60.0]]])
    log_probs = self_terminating_log_probs(logits, 1e-12)
    assert float(log_probs[0, 0, -1]) == pytest.approx(math.log(1e-12), rel=1e-6)


@pytest.mark.parametrize("layer", ["softmax", "st", "nmst"])
def test_steps_give_what_the_whole_text_gives(layer):
    torch.manual_seed(0)
    model = RecurrentLM(6, layer=layer, eps=0.02).eval()
    ids = torch.tensor([[5, 1, 0, 3, 3, 2], [5, 4, 4, 0, 1, 1]])
    with torch.no_grad():
        whole = model(ids)
        for known in (1, 3):
            law, state = model.step(None, model.begin(ids[:, :known]))
            torch.testing.assert_close(law, whole[:, known - 1])
            for n in range(known, ids.shape[1]):
                law, state = model.step(ids[:, n], state)
                torch.testing.assert_close(law, whole[:, n])


@pytest.mark.parametrize("layer", ["st", "nmst"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99), eps=st.sampled_from([0.01, 0.05, 0.3]))
def test_no_decoder_outlasts_its_bound(layer, seed, eps):
    """Whatever the network says, here: always to go on."""
    torch.manual_seed(seed)
    model = RecurrentLM(5, layer=layer, eps=eps)
    nn.init.constant_(model.read_out.bias[-1:], 30.0 if layer == "st" else -30.0)
    opening = torch.full((3, 1), 4)
    bound = greedy_stop_bound(eps)
    assert int(greedy(model.step, model.begin(opening), 400).lengths.max()) < bound
    for width in (2, 4):
        found = beam_search(model.step, model.begin(opening[:1]), width, bound + width)
        assert bool(found.finished.all())
    p = 0.7
    last = next(t for t in range(2000) if (1 - eps) ** (t + 1) < min(1 - p, 1 / 2))
    nucleus = sample(model.step, model.begin(opening), 400, generator=seeded(seed), top_p=p)
    assert int(nucleus.lengths.max()) <= last


def test_drawn_lengths_meet_the_cap():
    model = RecurrentLM(3, layer="st", eps=0.05)
    nn.init.zeros_(model.read_out.weight)
    nn.init.constant_(model.read_out.bias[-1:], 40.0)
    start = model.begin(torch.full((4000, 1), 2))
    lengths = sample(model.step, start, 200, generator=seeded(0)).lengths.double()
    error = float(lengths.std()) / math.sqrt(4000)
    assert abs(float(lengths.mean()) - max_expected_length(0.05)) < 4 * error


# ---------------------------------------------------------------- chains


@pytest.mark.parametrize("rule", [{"top_k": 2}, {"top_p": 0.9}, {"top_k": 2, "keep_eos": True}])
def test_decoding_a_chain(rule):
    start = torch.full((4000,), 3)
    found = sample(chain_step(CHAIN), start, 300, generator=seeded(1), **rule)
    cut = truncate_rows(CHAIN, **rule)
    never = nontermination_probability(cut)
    error = math.sqrt(max(never * (1 - never), 1e-4) / 4000)
    assert abs(float(1 - found.finished.double().mean()) - never) < 4 * error
    if never == 0:
        lengths = found.lengths.double()
        assert abs(lengths.mean() - expected_length(cut)) < 4 * lengths.std() / math.sqrt(4000)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: eos_floor(0, 1.0), ValueError, "num_tokens must be at least 1, got 0"),
        (lambda: eos_floor(3, -1.0), ValueError, "reach must be non-negative and finite"),
        (lambda: eos_floor(3, 1.0, math.nan), ValueError, "bias must be finite, got nan"),
        (lambda: greedy_stop_probability(2.5), TypeError, "num_tokens must be an integer"),
        (lambda: greedy_stop_bound(1.0), ValueError, r"eps must be in \(0, 1\), got 1.0"),
        (lambda: greedy_stop_bound(5e-324), ValueError, "eps must leave a number of steps"),
        (lambda: max_expected_length(math.nan), ValueError, r"eps must be in \(0, 1\), got nan"),
        (
            lambda: self_terminating_log_probs(torch.zeros(2, 3), 0.1),
            ValueError,
            r"logits must have shape \(B, T, V\), V >= 2, got \(2, 3\)",
        ),
        (
            lambda: self_terminating_log_probs(torch.zeros(1, 2, 3), 0.1, "softmax"),
            ValueError,
            "mode must be one of",
        ),
        (
            lambda: self_terminating_log_probs(torch.zeros(1, 2, 3, dtype=torch.int64), 0.1),
            TypeError,
            "logits must be a floating-point tensor",
        ),
        (
            lambda: self_terminating_log_probs(torch.full((1, 9, 2), -6e4).half(), 0.1),
            ValueError,
            "log-probabilities must fit torch.float16",
        ),
        (lambda: chain_step([[0.5, 0.5]]), ValueError, r"transition must be square, got \(1, 2\)"),
        (lambda: RecurrentLM(1), ValueError, "vocab_size must be at least 2, got 1"),
        (lambda: RecurrentLM(4, layer="lstm"), ValueError, "layer must be one of"),
        (lambda: RecurrentLM(4, eps=0.0), ValueError, r"eps must be in \(0, 1\), got 0.0"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
