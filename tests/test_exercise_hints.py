"""Answers that readers have tried: right ones pass, wrong ones get a hint that fits.

Wrong answers that are named mistakes of an exercise are tried by `test_exercise_contract.py`.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from kexue_lab.exercises import exercise


def token_by_token(phi_q, phi_k, v, gamma, chunk_size):
    total, rows = 0, []
    for q, k, w in zip(phi_q, phi_k, v, strict=True):
        total = gamma * total + k[:, None] * w
        rows.append(q @ total)
    return torch.stack(rows)


def dense(phi_q, phi_k, v, gamma, chunk_size):
    place = torch.arange(len(v), dtype=v.dtype)
    ages = (place[:, None] - place).clamp(min=0)
    return ((phi_q @ phi_k.mT).tril() * gamma**ages) @ v


def clipped_in_place(parameters, gradients, lr, gamma):
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    for g in gradients:
        g.mul_(min(1.0, gamma / norm))
    return [p - lr * g for p, g in zip(parameters, gradients, strict=True)]


def with_hooks_left(net, x, t, weights):
    width = net.entry.out_channels
    blocks = (net.up_high2, net.up_high1, net.up_low2, net.up_low1)
    for block, size, weight in zip(
        blocks, (width, width, 2 * width, 2 * width), weights, strict=True
    ):

        def scale(_, inputs, size=size, weight=weight):
            hidden, embedding = inputs
            return torch.cat([hidden[:, :-size], weight * hidden[:, -size:]], 1), embedding

        block.register_forward_pre_hook(scale)
    with torch.no_grad():
        return net(x, t)


def solution(article, number):
    return exercise(article, number).solution


def open_end(p, up, down):
    up, down = solution("diffusion/probability_flow", 5)(p, up, down)
    return up + (np.arange(len(up)) == len(up) - 1), down


def sampled_wins(mu, sd):
    noise = sd * np.random.default_rng(0).normal(size=(200_000, len(mu)))
    return float(((mu + noise).argmax(1) == 0).mean())


WRONG = [
    (
        "mathematics/random_sector",
        1,
        lambda n, y: float(max(1 - n * y, 0)) ** (n - 1),
        "no exact number",
    ),
    (
        "mathematics/random_sector",
        5,
        lambda n, d: 1 - solution("mathematics/random_sector", 5)(n, d),
        "1 minus the right one",
    ),
    ("text/word_movers", 4, lambda x, y: solution("text/word_movers", 4)(y, x), "shape"),
    ("optimization/gradient_clipping", 5, clipped_in_place, "has changed its input: gradients"),
    (
        "diffusion/probability_flow",
        1,
        lambda theta, eta, t: solution("diffusion/probability_flow", 1)(theta, eta**2, t),
        "`eta` were squared",
    ),
    (
        "diffusion/probability_flow",
        2,
        lambda t: (-1 / (1 - t), t / (1 - t)),
        "value 2 of 2 is wrong: your result is the right one times 1/2",
    ),
    (
        "diffusion/probability_flow",
        1,
        lambda *a: -solution("diffusion/probability_flow", 1)(*a),
        "the sign",
    ),
    (
        "diffusion/probability_flow",
        5,
        open_end,
        "2 of 3 entries are right; the first wrong one is at (2,)",
    ),
    (
        "diffusion/ddim",
        3,
        lambda *a: solution("diffusion/ddim", 3)(*a[:-1], a[-1] ** 2),
        "`eta` were squared",
    ),
    (
        "diffusion/optimal_variance",
        2,
        lambda *a: solution("diffusion/optimal_variance", 2)(*a[:-1], a[-1] ** 2),
        "`sigma` were squared",
    ),
    (
        "diffusion/optimal_variance",
        5,
        lambda *a: np.float32(solution("diffusion/optimal_variance", 5)(*a)),
        "float32",
    ),
    ("attention/linear_attention", 2, token_by_token, "a loop over single tokens is slow"),
    ("attention/linear_attention", 2, dense, "needs no n by n matrix"),
    (
        "mathematics/em",
        6,
        lambda *a: solution("mathematics/em", 6)(*a) - 0.5 * math.log(2 * math.pi),
        "log 2π is missing",
    ),
    (
        "losses/accuracy",
        2,
        lambda p, g: solution("losses/accuracy", 2)(p, g**2),
        "`gamma` were squared",
    ),
    ("losses/accuracy", 3, sampled_wins, "digits"),
    (
        "diffusion/diffusion_ode",
        1,
        lambda *a: -solution("diffusion/diffusion_ode", 1)(*a),
        "the sign",
    ),
    (
        "diffusion/poisson_flow",
        3,
        lambda x, sigma, data, D: solution("diffusion/poisson_flow", 3)(x, 1.0, data, D),
        "`sigma` were 1",
    ),
    ("diffusion/skip_tuning", 4, with_hooks_left, "has changed its input: net"),
    ("diffusion/skip_tuning", 4, with_hooks_left, "remove() them"),
    (
        "diffusion/optimal_variance",
        5,
        lambda *a: float(np.float32(solution("diffusion/optimal_variance", 5)(*a))),
        "right, but in single precision: compute in float64",
    ),
    ("mathematics/em", 1, [0.5227, 0.7934, 0.5139], "unlike the other"),
    (
        "diffusion/imperfect_mean",
        2,
        lambda v, v_hat, a, b: b**2 * ((v - v_hat) ** 2).sum(0),
        "times the length of `v`",
    ),
    (
        "diffusion/diffusion_ode",
        2,
        lambda a, b: solution("diffusion/diffusion_ode", 2)(a, b) * a,
        "the right one times `alpha_bar`",
    ),
    (
        "diffusion/optimal_variance",
        3,
        lambda eps, ab, bb, variances: max(0.0, float((bb / ab) ** 2 * (1 - (eps**2).mean()))),
        "right on 3 of 4 inputs",
    ),
    (
        "diffusion/unified",
        3,
        lambda x, guess: solution("diffusion/unified", 3)(guess, x),
        "`x` and `x0_hat` were exchanged",
    ),
    (
        "diffusion/unified",
        2,
        lambda rho, eta: solution("diffusion/unified", 2)(eta, rho),
        "`rho` and `eta` were exchanged",
    ),
]


@pytest.mark.parametrize(
    ("article", "number", "answer", "part"),
    WRONG,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_answer_gets_a_hint_that_fits(article, number, answer, part):
    feedback = exercise(article, number).check(answer)
    assert feedback.passed is False
    assert part in repr(feedback)


def heun_in_t(x, noise, times):
    def slope(x, t):
        return (
            math.pi / 2 * (noise(x, t) / math.cos(math.pi * t / 2) - x * math.tan(math.pi * t / 2))
        )

    for t, u in itertools.pairwise(times):
        first = slope(x, t)
        x = x + (u - t) * (first + slope(x + (u - t) * first, u)) / 2
    return x


def other_root(ab_t, bb_t, ab_u, bb_u, sigma):
    kappa = -math.sqrt(bb_u**2 - sigma**2) / bb_t
    return kappa, ab_u - ab_t * kappa


def leave_one_out_without_p(p, f, z):
    """The sum of f − b over the samples is 0, so that p drops out."""
    others = (f[z].sum() - f[z]) / (len(z) - 1)
    return ((f[z] - others)[:, None] * np.eye(len(p))[z]).mean(0)


def growing_keys(phi_q, phi_k, v, gamma, chunk_size):
    """The decay moved into queries and keys, chunk by chunk."""
    state, rows = 0, []
    for q, k, w in zip(*(x.split(chunk_size) for x in (phi_q, phi_k, v)), strict=True):
        power = gamma ** torch.arange(1.0, len(w) + 1, dtype=v.dtype)[:, None]
        q, k = q * power, k / power
        rows.append((q @ k.mT).tril() @ w + (q @ state if len(rows) else 0))
        state = power[-1] * (state + k.mT @ w)
    return torch.cat(rows)


RIGHT = [
    ("generative/gumbel_softmax", 3, leave_one_out_without_p),
    ("diffusion/ddim", 1, other_root),
    ("diffusion/ddim", 5, heun_in_t),
    (
        "diffusion/skip_tuning",
        1,
        lambda p, c, q: max(np.roots([q, 2 * c, -q - 2 * c]), key=lambda root: abs(root - 1)),
    ),
    ("attention/linear_attention", 2, growing_keys),
    ("diffusion/diffusion_ode", 4, lambda C: -7 * C @ np.array([[0.0, -1.0], [1.0, 0.0]])),
]


@pytest.mark.parametrize(("article", "number", "answer"), RIGHT)
def test_every_right_form_is_accepted(article, number, answer):
    feedback = exercise(article, number).check(answer)
    assert feedback.passed is True, feedback
