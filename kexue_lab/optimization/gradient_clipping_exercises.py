"""What the exercises of optimization/gradient_clipping check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp
import torch
from scipy.optimize import brentq
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Tensors = list[Tensor]


def _constants(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        L0, L1, n = rng.uniform(0.2, 9), rng.uniform(0.2, 5), rng.uniform(2, 64)
        yield float(L0), float(L1), float(n)


def _symbols(_rng: np.random.Generator) -> Inputs:
    yield sp.symbols("theta_0 varepsilon", positive=True)
    yield sp.symbols("a b", positive=True)


def _power_steps(exponent: int, theta0: sp.Expr, eps: sp.Expr) -> sp.Expr:
    """The flow's prediction for θ^n, n > 2, with the rate 1/f''(θ0)."""
    n = sp.Integer(exponent)
    end = (eps / n) ** (1 / (n - 1))
    rate = 1 / (n * (n - 1) * theta0 ** (n - 2))
    return (end ** (2 - n) - theta0 ** (2 - n)) / (n * (n - 2) * rate)


def _sextic(
    theta0: sp.Expr,
    eps: sp.Expr,
    factor: int = 6,
    power: str = "4/5",
    start: int = 4,
) -> sp.Expr:
    """The prediction for θ⁶ with a factor, an exponent of ε or one of θ0 that may be wrong."""
    return sp.Rational(5, 4) * theta0**4 * ((factor / eps) ** sp.Rational(power) - theta0**-start)


def _worst_bound(a: float) -> float:
    """The bound at the threshold, where it is worst, in units of L0/L1²."""
    return 2 * math.exp(a) - 2 - 3 * a


def _largest_safe() -> float:
    return float(brentq(_worst_bound, 0.5, 1.0, xtol=1e-13))


def _quartic_violation(answer: Any) -> str | None:
    try:
        theta, delta = (float(v) for v in answer)
    except (TypeError, ValueError):
        return "return two numbers: θ and Δ"
    if not (math.isfinite(theta) and 0 < abs(delta) <= 1):
        return f"θ must be finite and 0 < |Δ| ≤ 1, got θ = {theta:g}, Δ = {delta:g}"
    change = abs(4 * (theta + delta) ** 3 - 4 * theta**3)
    allowed = (16 + 4 * abs(theta) ** 3) * abs(delta)
    if not change - allowed > 10:
        way = ""
        if theta * delta < 0:
            way = "; the slope changes faster uphill"
        elif abs(delta) < 0.5:
            way = "; for short Δ both forms agree, so take a longer Δ"
        return (
            f"the slope changes by {change:.4g} and may change by {allowed:.4g}: "
            f"that is no violation by more than 10{way}"
        )
    return None


def _lists(rng: np.random.Generator) -> Inputs:
    for scale, gamma in ((3.0, 1.0), (0.05, 2.0), (5.0, 0.5)):
        shapes = [(2, 3), (4,), (3, 1, 2)]
        parameters = [torch.tensor(rng.standard_normal(shape)) for shape in shapes]
        gradients = [torch.tensor(scale * rng.standard_normal(shape)) for shape in shapes]
        yield parameters, gradients, float(rng.uniform(0.1, 0.9)), gamma


def _step_by_torch(parameters: Tensors, gradients: Tensors, lr: float, gamma: float) -> Tensors:
    moved = [p.clone().requires_grad_() for p in parameters]
    for p, g in zip(moved, gradients, strict=True):
        p.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(moved, gamma)
    torch.optim.SGD(moved, lr=lr).step()
    return [p.detach() for p in moved]


def _step(parameters: Tensors, gradients: Tensors, lr: float, factors: list[Any]) -> Tensors:
    triples = zip(parameters, gradients, factors, strict=True)
    return [p - lr * factor * g for p, g, factor in triples]


def _global_norm(gradients: Tensors) -> float:
    return math.sqrt(sum(float((g**2).sum()) for g in gradients))


def _each_by_itself(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    return _step(p, g, lr, [min(1.0, gamma / float(v.norm())) for v in g])


def _always_rescaled(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    return _step(p, g, lr, [gamma / _global_norm(g)] * len(g))


def _absolute_values(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    total = sum(float(v.abs().sum()) for v in g)
    return _step(p, g, lr, [min(1.0, gamma / total)] * len(g))


def _squared_length(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    return _step(p, g, lr, [min(1.0, gamma / _global_norm(g) ** 2)] * len(g))


def _lengths_added(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    total = sum(float(v.norm()) for v in g)
    return _step(p, g, lr, [min(1.0, gamma / total)] * len(g))


def _uphill(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    return _step(p, g, -lr, [min(1.0, gamma / _global_norm(g))] * len(g))


def _by_coordinate(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    return _step(p, [v.clamp(-gamma, gamma) for v in g], lr, [1.0] * len(g))


def _soft(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    return _step(p, g, lr, [gamma / (_global_norm(g) + gamma)] * len(g))


def _unchanged(p: Tensors, g: Tensors, lr: float, gamma: float) -> Tensors:
    return _step(p, g, lr, [1.0] * len(g))


EXERCISES = (
    Exercise(
        "the rate and the threshold for a rescaled loss",
        solution=lambda L0, L1, n: (1 / (n * L0), n * L0 / L1),
        inputs=_constants,
        mistakes=(
            Mistake(
                "threshold upside down",
                lambda L0, L1, n: (1 / (n * L0), L1 / (n * L0)),
                "the threshold has the units of a gradient: compare ηγ/(G + γ) with the factor "
                "that the safe step needs again.",
            ),
            Mistake(
                "threshold not rescaled",
                lambda L0, L1, n: (1 / (n * L0), L0 / L1),
                "n multiplies Hessian and gradient alike, so L1 stays as it is; the threshold "
                "must grow with the gradients.",
            ),
            Mistake(
                "threshold divided",
                lambda L0, L1, n: (1 / (n * L0), L0 / (n * L1)),
                "the gradients of n f are n times as long: at which of their lengths should "
                "clipping set in?",
            ),
            Mistake(
                "nothing rescaled",
                lambda L0, L1, n: (1 / L0, L0 / L1),
                "these are the values for f itself; which pair of constants has n f?",
            ),
            Mistake(
                "rate not rescaled",
                lambda L0, L1, n: (1 / L0, n * L0 / L1),
                "near the minimum the step is η times the gradient of n f, which is n times as "
                "long; it should be as long as before.",
            ),
            Mistake(
                "the pair swapped",
                lambda L0, L1, n: (n * L0 / L1, 1 / (n * L0)),
                "return the rate first, then the threshold.",
            ),
        ),
    ),
    Exercise(
        "how many steps gradient descent needs on θ⁶",
        solution=lambda theta0, eps: _power_steps(6, theta0, eps),
        inputs=_symbols,
        mistakes=(
            Mistake(
                "the quartic's prediction",
                lambda theta0, eps: _power_steps(4, theta0, eps),
                "this is (4), for θ⁴; start again from the flow of θ⁶.",
            ),
            Mistake(
                "the exponent not brought down",
                lambda theta0, eps: 4 * _power_steps(6, theta0, eps),
                "(θ^-4)' is -4 θ^-5 θ': that is 24η, not 6η.",
            ),
            Mistake(
                "the quartic's end",
                lambda theta0, eps: (
                    sp.Rational(5, 4) * theta0**4 * ((4 / eps) ** sp.Rational(4, 3) - theta0**-4)
                ),
                "where has the slope 6θ⁵ fallen to ε?",
            ),
            Mistake(
                "the factor 6 of the slope lost",
                lambda theta0, eps: _sextic(theta0, eps, factor=1),
                "the slope is 6θ⁵, not θ⁵: at which θ has it fallen to ε?",
            ),
            Mistake(
                "the exponent of (4)",
                lambda theta0, eps: _sextic(theta0, eps, power="2/3"),
                "2/3 belongs to θ⁴: there θ^-2 is wanted where 4θ³ = ε. Which power of θ grows "
                "at a constant rate now, and which power of ε is that?",
            ),
            Mistake(
                "θ^-4 where the slope is 4θ³",
                lambda theta0, eps: _sextic(theta0, eps, power="4/3"),
                "the slope is 6θ⁵: θ goes like ε^(1/5) and θ^-4 like ε^(-4/5).",
            ),
            Mistake(
                "θ^-2 followed along",
                lambda theta0, eps: _sextic(theta0, eps, power="2/5", start=2),
                "on θ⁶ it is not θ^-2 that grows at a constant rate: which power of θ does?",
            ),
            Mistake(
                "θ^-2 followed along, with its factor",
                lambda theta0, eps: 2 * _sextic(theta0, eps, power="2/5", start=2),
                "on θ⁶ it is not θ^-2 that grows at a constant rate: which power of θ does?",
            ),
            Mistake(
                "θ^-2 for the end only",
                lambda theta0, eps: _sextic(theta0, eps, power="2/5"),
                "end and start need the same power of θ: the one that grows at a constant rate.",
            ),
            Mistake(
                "θ^-2 for the start only",
                lambda theta0, eps: _sextic(theta0, eps, start=2),
                "end and start need the same power of θ: the one that grows at a constant rate.",
            ),
            Mistake(
                "stopping at θ = ε",
                lambda theta0, eps: sp.Rational(5, 4) * theta0**4 * (eps**-4 - theta0**-4),
                "one stops when the slope 6θ⁵ has fallen to ε, not θ itself.",
            ),
            Mistake(
                "without the start",
                lambda theta0, eps: sp.Rational(5, 4) * theta0**4 * (6 / eps) ** sp.Rational(4, 5),
                "the flow begins at θ0, not at infinity: there is a term for it, too.",
            ),
            Mistake(
                "the quartic's rate",
                lambda theta0, eps: theta0**2 / 2 * ((6 / eps) ** sp.Rational(4, 5) - theta0**-4),
                "the safe rate at the start is one over the curvature there, and that is now "
                "30 θ0⁴.",
            ),
        ),
    ),
    Exercise(
        "the largest safe share of the rate",
        solution=_largest_safe,
        rtol=1e-4,
        mistakes=(
            Mistake(
                "the share of section 5",
                lambda: 0.5,
                "½ is safe, since soft clipping is; but it is not the end of what (2) guarantees.",
            ),
            Mistake(
                "the classic lemma",
                lambda: 1.0,
                "this is where the bound with ½ ends; put e^r - 1 - r in place of r²/2.",
            ),
            Mistake(
                "three digits",
                lambda: round(_largest_safe(), 3),
                "that is right to three digits; at least four are wanted.",
            ),
            Mistake(
                "two digits",
                lambda: round(_largest_safe(), 2),
                "that is right to two digits; at least four are wanted.",
            ),
            Mistake(
                "only for very short gradients",
                lambda: 2.0,
                "that is where G → 0 loses its guarantee, as in the classic lemma; at longer "
                "gradients it is lost earlier.",
            ),
            Mistake(
                "where the bound is lowest",
                lambda: math.log(1.5),
                "that is the best step at the threshold; the question is how far B stays at or "
                "below 0.",
            ),
            Mistake(
                "only for very long gradients",
                lambda: float(brentq(lambda a: math.exp(a) - 1 - 2 * a, 1.0, 2.0)),
                "that is where G → ∞ loses its guarantee; at another G it is lost earlier.",
            ),
        ),
    ),
    Exercise(
        "where the quartic violates the form without second derivatives",
        solution=lambda: (2.4, 1.0),
        judge=_quartic_violation,
        mistakes=(
            Mistake(
                "downhill",
                lambda: (2.4, -1.0),
                "walking downhill the slope changes more slowly; which Δ makes 3θ² + 3θΔ + Δ² "
                "largest?",
            ),
            Mistake(
                "where the Hessian form is tight",
                lambda: (2.0, 0.1),
                "at θ = 2 the Hessian form is an equality, but for short Δ both forms agree: "
                "the second derivative grows on the way.",
            ),
            Mistake(
                "at the minimum",
                lambda: (0.0, 1.0),
                "from 0 the slope changes by 4Δ³, at most 4, and 16 is allowed.",
            ),
            Mistake(
                "far out",
                lambda: (10.0, 1.0),
                "far out the slope is so large that it allows more than is needed: neither small "
                "nor large θ will do.",
            ),
            Mistake(
                "too long a step",
                lambda: (2.4, 3.0),
                "|Δ| ≤ 1: for long steps every pair of constants fails.",
            ),
        ),
    ),
    Exercise(
        "one clipped step, mended",
        solution=_step_by_torch,
        inputs=_lists,
        keeps_inputs=True,
        rtol=1e-5,
        mistakes=(
            Mistake(
                "each tensor by itself",
                _each_by_itself,
                "one norm over all entries of all tensors, and one factor for all of them; else "
                "the direction changes.",
            ),
            Mistake(
                "always rescaled",
                _always_rescaled,
                "a gradient shorter than γ must stay as it is.",
            ),
            Mistake(
                "a sum of absolute values",
                _absolute_values,
                "the length of a vector is the root of the sum of squares, not a sum of absolute "
                "values.",
            ),
            Mistake(
                "coordinate by coordinate",
                _by_coordinate,
                "this cuts each entry off, as clip_grad_value_ does, and changes the direction.",
            ),
            Mistake("soft clipping", _soft, "this is soft clipping; the libraries clip hard."),
            Mistake(
                "uphill",
                _uphill,
                "a step goes against the gradient: subtract it.",
            ),
            Mistake(
                "no root",
                _squared_length,
                "the length of a vector is the *root* of the sum of squares.",
            ),
            Mistake(
                "the lengths added",
                _lengths_added,
                "one norm over all entries of all tensors: add their squares and take the root, "
                "not the tensors' lengths.",
            ),
            Mistake("no clipping", _unchanged, "gradients longer than γ must be shortened."),
        ),
    ),
)
