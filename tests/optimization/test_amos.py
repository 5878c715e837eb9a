"""Schedules, the scaled step and Amos, against formulas, float64 references and torch."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from kexue_lab.optimization import amos

F64 = torch.float64
KINDS = ("inverse", "inverse_square")
Make = Callable[[list[Tensor]], torch.optim.Optimizer]

rates = st.floats(1e-3, 1.0)


def scaled(params: list[Tensor], **options: Any) -> amos.ScaleAdaptive:
    groups = [{"params": params, "sigma": 0.3}]
    return amos.ScaleAdaptive(groups, **({"alpha0": 0.1, "kappa": 0.05} | options))


def plain_amos(params: list[Tensor], **options: Any) -> amos.Amos:
    return amos.Amos([{"params": params, "eta": 0.3}], **({"xi": 0.2} | options))


def with_momentum(params: list[Tensor]) -> amos.Amos:
    return plain_amos(params, momentum=0.9)


def by_sign(params: list[Tensor]) -> amos.ScaleAdaptive:
    return scaled(params, direction="sign")


MAKERS: dict[str, Make] = {
    "scaled": scaled,
    "sign": by_sign,
    "amos": plain_amos,
    "momentum": with_momentum,
}


def tensors(seed: int = 0, dtype: torch.dtype = F64) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = ((3, 4), (4,), (), (2, 3, 2))
    return [torch.randn(s, generator=g, dtype=F64).to(dtype).requires_grad_() for s in shapes]


def push(params: list[Tensor], seed: int) -> None:
    """Give the parameters random gradients."""
    g = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g, dtype=F64).to(p.dtype)


def walk(params: list[Tensor], optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for seed in range(start, stop):
        push(params, seed)
        optimizer.step()


# Schedules


@pytest.mark.parametrize(("beta", "speed"), [(0.0, 1), (1.0, 2)])
def test_general_law_contains_both_kinds(beta: float, speed: int) -> None:
    t = torch.linspace(0, 5000, 11, dtype=F64)
    ours = amos.decay_factor_general(t, 0.02, 0.3, beta)
    kind = KINDS[1] if beta == 0 else KINDS[0]
    torch.testing.assert_close(ours, amos.decay_factor(t, speed * 0.006, kind))


@settings(max_examples=25, deadline=None)
@given(rates, rates, st.floats(0, 4))
def test_general_law_solves_its_equation(alpha0: float, p0: float, beta: float) -> None:
    times = np.array([0.0, 10.0, 300.0])

    def growth(_: float, s: np.ndarray) -> np.ndarray:
        return alpha0 * p0 * np.exp(-(1 + beta) * s)

    found = solve_ivp(growth, (0, 300), [0.0], t_eval=times, rtol=1e-10, atol=1e-12).y[0]
    ours = amos.decay_factor_general(torch.tensor(times), alpha0, p0, beta)
    np.testing.assert_allclose(ours.numpy(), np.exp(-2 * found), rtol=1e-7)


@given(st.floats(1e-6, 1 - 1e-6), st.integers(1, 10**6), st.sampled_from(KINDS))
def test_kappa_for_inverts_the_factor(fraction: float, steps: int, kind: Any) -> None:
    kappa = amos.kappa_for(fraction, steps, kind)
    assert amos.decay_factor(steps, kappa, kind) == pytest.approx(fraction, rel=1e-9)


def test_half_lives() -> None:
    assert amos.kappa_for(0.5, 1) == pytest.approx(1)
    assert amos.kappa_for(0.5, 1, "inverse_square") == pytest.approx(math.sqrt(2) - 1)


def test_factor_keeps_what_it_is_given() -> None:
    assert isinstance(amos.decay_factor(3, 0.1), float)
    assert amos.decay_factor(torch.tensor([1, 2]), 1.0).dtype == torch.float32
    half = torch.tensor([60000.0], dtype=torch.float16)
    assert amos.decay_factor(half, 1e-4).item() == pytest.approx(1 / 7, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_schedules(kind: Any) -> None:
    assert amos.decay_factor(1e300, 1e300, kind) == 0
    assert amos.decay_factor_general(1e300, 1.0, 1.0, 1e300) == pytest.approx(1)
    assert amos.decay_factor_general(0, 1e-300, 1e-300, 0.0) == 1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: amos.decay_factor(-1, 1.0), "t must"),
        (lambda: amos.decay_factor(torch.tensor([-1.0]), 1.0), "t must"),
        (lambda: amos.decay_factor(torch.tensor([math.nan]), 1.0), "t must"),
        (lambda: amos.decay_factor(1, -1.0), "kappa must"),
        (lambda: amos.decay_factor(1, 1.0, "cosine"), "kind must"),  # type: ignore[call-overload]
        (lambda: amos.decay_factor_general(1, 0.0, 0.5, 1.0), "alpha0 must"),
        (lambda: amos.decay_factor_general(1, 0.1, 1.5, 1.0), "p0 must"),
        (lambda: amos.decay_factor_general(1, 0.1, 0.5, -1.0), "beta must"),
        (lambda: amos.kappa_for(1.0, 10), "fraction must"),
        (lambda: amos.kappa_for(0.0, 10), "fraction must"),
        (lambda: amos.kappa_for(5e-324, 1), "fraction must"),
        (lambda: amos.kappa_for(0.1, 0), "steps must"),
        (lambda: amos.simulate_distance(1, 0.1, 0.5, 3), "k must"),
        (lambda: amos.simulate_distance(2, 0.1, 0.5, -1), "steps must"),
        (lambda: amos.simulate_distance(2, 0.1, 0.5, 3, q=1e-3), "q must"),
        (lambda: amos.simulate_distance(2, 0.1, 0.5, 3, seed=-1), "seed must"),
        (lambda: scaled(tensors(), alpha0=2.0), "alpha0 must"),
        (lambda: scaled(tensors(), kappa=-1.0), "kappa must"),
        (lambda: scaled(tensors(), kind="cosine"), "kind must"),
        (lambda: scaled(tensors(), q=0.0), "q must"),
        (lambda: scaled(tensors(), q=1e-3), "q must"),
        (lambda: scaled(tensors(), betas=(0.9, 1.0)), "betas must"),
        (lambda: scaled(tensors(), eps=-1.0), "eps must"),
        (lambda: scaled(tensors(), direction="newton"), "direction must"),
        (lambda: amos.ScaleAdaptive(tensors(), 0.1, 0.1), "sigma must"),
        (lambda: amos.Amos(tensors(), 0.1), "eta must"),
        (lambda: plain_amos(tensors(), xi=1.5), "xi must"),
        (lambda: plain_amos(tensors(), beta=1.0), "beta must"),
        (lambda: plain_amos(tensors(), zeta=-1.0), "zeta must"),
        (lambda: plain_amos(tensors(), momentum=1.0), "momentum must"),
        (lambda: amos.Amos([{"params": tensors(), "eta": 0.0}], 0.1), "eta must"),
    ],
)
def test_bad_values(call: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: amos.decay_factor("1", 1.0),  # type: ignore[call-overload]
        lambda: amos.decay_factor(torch.tensor([True]), 1.0),
        lambda: amos.kappa_for(0.1, 2.5),  # type: ignore[arg-type]
        lambda: amos.simulate_distance(2.0, 0.1, 0.5, 3),  # type: ignore[arg-type]
        lambda: scaled([torch.zeros(2, dtype=torch.complex64, requires_grad=True)]),
        lambda: amos.Amos([{"params": tensors(), "eta": 1.0, "reduce_dims": [0]}], 0.1),
    ],
)
def test_bad_types(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        call()


@pytest.mark.parametrize("dims", [(2,), (0, 0), (0, -2)])
def test_axes_must_be_there(dims: tuple[int, ...]) -> None:
    w = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="reduce_dims must"):
        amos.Amos([{"params": [w], "eta": 1.0, "reduce_dims": dims}], 0.1)


# What both optimisers share with torch's


@pytest.mark.parametrize("name", MAKERS)
def test_state_dict_round_trip(name: str) -> None:
    """A copy that takes the state over goes on as the original, bit by bit."""
    for dtype in (F64, torch.float32, torch.bfloat16):
        first = tensors(dtype=dtype)
        optimizer = MAKERS[name](first)
        walk(first, optimizer, 0, 4)
        second = [p.detach().clone().requires_grad_() for p in first]
        other = MAKERS[name](second)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        walk(first, optimizer, 4, 8)
        walk(second, other, 4, 8)
        assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_loaded_state_is_its_own(name: str) -> None:
    first, second = tensors(), tensors()
    optimizer, other = MAKERS[name](first), MAKERS[name](second)
    walk(first, optimizer, 0, 2)
    other.load_state_dict(optimizer.state_dict())
    kept = copy.deepcopy(optimizer.state_dict()["state"])
    walk(second, other, 2, 4)
    torch.testing.assert_close(optimizer.state_dict()["state"], kept, rtol=0, atol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_closure_is_called_with_gradients(name: str) -> None:
    w = torch.ones(3, dtype=F64, requires_grad=True)
    optimizer = MAKERS[name]([w])

    def closure() -> float:
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == 3
    assert optimizer.step(closure) < 3
    push([w], 0)
    assert optimizer.step() is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("name", MAKERS)
def test_groups_go_their_own_way(name: str) -> None:
    """Two groups with one setting are one group; a parameter without a gradient stays."""
    one, two, idle = tensors(), tensors(), torch.ones(2, requires_grad=True)
    single, split = MAKERS[name](one), MAKERS[name](two[:2])
    group = {k: v for k, v in split.param_groups[0].items() if k != "params"}
    split.add_param_group({"params": [*two[2:], idle]} | group)
    walk(one, single, 0, 3)
    for seed in range(3):
        push(two, seed)
        split.step()
    assert all(torch.equal(p, q) for p, q in zip(one, two, strict=True))
    assert idle.tolist() == [1, 1]
    assert idle not in split.state


@pytest.mark.parametrize("name", MAKERS)
def test_groups_may_differ(name: str) -> None:
    scale = "sigma" if name in ("scaled", "sign") else "eta"
    one, two = tensors(), tensors()
    optimizer = MAKERS[name](one)
    optimizer.param_groups[0][scale] *= 2
    other = MAKERS[name](two)
    push(one, 0)
    push(two, 0)
    optimizer.step(), other.step()
    assert not torch.equal(one[0], two[0])


@pytest.mark.parametrize("name", MAKERS)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    exact, half = tensors(dtype=torch.bfloat16), tensors(dtype=torch.bfloat16)
    exact = [p.detach().float().requires_grad_() for p in exact]
    for params in (exact, half):
        optimizer = MAKERS[name](params)
        for p in params:
            p.grad = torch.full_like(p, 2.0**-20)
        optimizer.step()
    for p, q in zip(exact, half, strict=True):
        torch.testing.assert_close(p.to(torch.bfloat16), q, rtol=0, atol=0)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30, 3e38])
def test_extreme_gradients_stay_finite(name: str, size: float) -> None:
    w = torch.ones(2, 3, requires_grad=True)
    optimizer = MAKERS[name]([w])
    for _ in range(5):
        w.grad = torch.full_like(w, size)
        optimizer.step()
        assert w.isfinite().all()
        w.grad = torch.zeros_like(w)
        optimizer.step()
        assert w.isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_sparse_gradients_are_refused(name: str) -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = MAKERS[name](list(table.parameters()))
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="dense"):
        optimizer.step()


@pytest.mark.parametrize("name", MAKERS)
def test_empty_tensors_are_passed_over(name: str) -> None:
    w = torch.zeros(0, 3, requires_grad=True)
    optimizer = MAKERS[name]([w])
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert w.shape == (0, 3)


# The scaled step


def adam_reference(gradients: list[np.ndarray], betas: tuple[float, float]) -> np.ndarray:
    """Adam's direction after these gradients, by the sums that its averages are."""
    t = len(gradients)
    ages = np.arange(t - 1, -1, -1)
    first, second = ((1 - b) * b**ages / (1 - b**t) for b in betas)
    stack = np.stack(gradients)
    result: np.ndarray = np.tensordot(first, stack, 1) / np.sqrt(np.tensordot(second, stack**2, 1))
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["adam", "sign", "gradient"])
@pytest.mark.parametrize("decays", [True, False])
def test_scaled_step_against_reference(kind: Any, direction: str, decays: bool) -> None:
    params = tensors()
    theta = [p.detach().numpy().copy() for p in params]
    options: dict[str, Any] = {
        "kind": kind,
        "direction": direction,
        "weight_decay": decays,
        "q": 0.7,
    }
    optimizer = scaled(params, **options)
    seen: list[list[np.ndarray]] = [[] for _ in params]
    for t in range(1, 7):
        push(params, t)
        optimizer.step()
        factor = (1 + 0.05 * t) ** (-1 if kind == "inverse" else -2)
        for i, p in enumerate(params):
            assert p.grad is not None
            seen[i].append(p.grad.numpy().copy())
            u = seen[i][-1] if direction != "sign" else np.sign(seen[i][-1])
            u = adam_reference(seen[i], (0.9, 0.99)) if direction == "adam" else u
            move = 0.1 * 0.3 * math.sqrt(u.size) * u / np.sqrt((u**2).sum())
            move = move + decays * 0.1**2 / 1.4 * theta[i]
            theta[i] = theta[i] - factor * move
            np.testing.assert_allclose(p.detach().numpy(), theta[i], rtol=1e-9, atol=1e-12)


def test_step_has_the_length_it_says() -> None:
    w = torch.zeros(4, 9, dtype=F64, requires_grad=True)
    optimizer = scaled([w], kappa=0.0)
    push([w], 0)
    optimizer.step()
    assert w.detach().norm().item() == pytest.approx(0.1 * 0.3 * 6)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.sampled_from(["adam", "sign", "gradient"]))
def test_training_is_the_same_in_all_units(unit: float, direction: str) -> None:
    plain = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    stored = (plain / unit).requires_grad_()
    plain = plain.clone().requires_grad_()
    options: dict[str, Any] = {"alpha0": 0.1, "kappa": 0.05, "direction": direction, "eps": 0.0}
    one = amos.ScaleAdaptive([{"params": [plain], "sigma": 0.3}], **options)
    two = amos.ScaleAdaptive([{"params": [stored], "sigma": 0.3 / unit}], **options)
    for t in range(5):
        push([plain], t)
        assert plain.grad is not None
        stored.grad = unit * plain.grad
        one.step(), two.step()
    torch.testing.assert_close(unit * stored.detach(), plain.detach(), rtol=1e-9, atol=1e-12)


def test_without_direction_only_the_decay_moves() -> None:
    for direction in ("adam", "sign", "gradient"):
        w = torch.ones(3, dtype=F64, requires_grad=True)
        optimizer = scaled([w], direction=direction, kappa=0.0)
        w.grad = torch.zeros_like(w)
        optimizer.step()
        torch.testing.assert_close(w.detach(), torch.full_like(w, 1 - 0.1**2 / 2))


# Amos


def amos_reference(
    theta: np.ndarray,
    gradients: list[np.ndarray],
    axes: tuple[int, ...],
    xi: float,
    eta: float,
    momentum: float = 0.0,
) -> np.ndarray:
    """Algorithm 1 of Tian and Parikh, entry by entry in Python floats."""

    def cell(at: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(0 if axis in axes else i for axis, i in enumerate(at))

    averaged: dict[tuple[int, ...], list[float]] = {}
    moves = np.zeros(theta.shape)
    for t, g in enumerate(gradients, start=1):
        places = list(np.ndindex(theta.shape))
        rows: dict[tuple[int, ...], list[float]] = {}
        for at in places:
            rows.setdefault(cell(at), []).append(float(g[at]) ** 2)
        now = {key: sum(values) / len(values) for key, values in rows.items()}
        delta = np.zeros(theta.shape)
        grown = {}
        for key, square in now.items():
            v, b = averaged.get(key, [0.0, 0.0])
            v = 0.999 * v + 0.001 * square
            v_hat = v / (1 - 0.999**t)
            c = (1 + 0.25 * xi**0.5 * b) ** -0.5
            d = 1 / (1 + 0.25 * (xi * eta) ** 0.5 * b)
            gamma = c * xi**2 * square / v_hat
            for at in places:
                if cell(at) == key:
                    delta[at] = d * (xi * eta * g[at] / v_hat**0.5 + gamma / 2 * theta[at])
            grown[key] = [v, b + gamma * (1 + b)]
        averaged = grown
        moves = momentum * moves + (1 - momentum) * delta
        theta = theta - moves
    return theta


@pytest.mark.parametrize("axes", [None, (), (0,), (1,), (-1,), (0, 1)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("xi", [0.02, 0.5])
def test_amos_against_reference(axes: Any, momentum: float, xi: float) -> None:
    w = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    start, w = w.numpy().copy(), w.requires_grad_()
    group = {"params": [w], "eta": 0.3, "reduce_dims": axes}
    optimizer = amos.Amos([group], xi, momentum=momentum)
    gradients = []
    for t in range(12):
        push([w], t)
        assert w.grad is not None
        gradients.append(w.grad.numpy().copy())
        optimizer.step()
    places = (0, 1) if axes is None else tuple(a % 2 for a in axes)
    expected = amos_reference(start, gradients, places, xi, 0.3, momentum)
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("axes", "shape"), [(None, (1, 1)), ((), (3, 4)), ((0,), (1, 4)), ((-1,), (3, 1))]
)
def test_amos_keeps_what_it_says(axes: Any, shape: tuple[int, ...]) -> None:
    w = torch.ones(3, 4, requires_grad=True)
    optimizer = amos.Amos([{"params": [w], "eta": 0.3, "reduce_dims": axes}], 0.1)
    push([w], 0)
    optimizer.step()
    state = optimizer.state[w]
    assert state["v"].shape == state["b"].shape == shape
    assert set(state) == {"step", "v", "b"}


def test_amos_decays_as_its_recursion() -> None:
    """With slopes of one size d ξ η is the rate; the numbers are the recursion's, by hand."""
    w = torch.zeros(1, dtype=F64, requires_grad=True)
    optimizer = amos.Amos([{"params": [w], "eta": 0.5}], 0.1)
    b = 0.0
    for _ in range(2000):
        before = w.item()
        w.grad = torch.ones_like(w)
        optimizer.step()
        c = (1 + 0.25 * math.sqrt(0.1) * b) ** -0.5
        d = 1 / (1 + 0.25 * math.sqrt(0.05) * b)
        move = d * (0.05 + c * 0.01 / 2 * before)
        assert before - w.item() == pytest.approx(move, rel=1e-6)
        b += c * 0.01 * (1 + b)
    assert optimizer.state[w]["b"].item() == pytest.approx(b, rel=1e-6)
    assert b > 1000


def test_amos_rows_without_slopes_stay() -> None:
    w = torch.ones(2, 3, requires_grad=True)
    optimizer = amos.Amos([{"params": [w], "eta": 0.3, "reduce_dims": (1,)}], 0.1)
    w.grad = torch.tensor([[0.0, 0, 0], [1, 2, 3]])
    optimizer.step()
    assert w[0].tolist() == [1, 1, 1]
    assert (w[1] < 1).all()


def test_amos_at_first_is_adam_without_averages() -> None:
    """At b = 0, over no axis: sign steps of ξη and AdamW's decay of half of ξ²."""
    w = torch.full((5,), 2.0, dtype=F64, requires_grad=True)
    optimizer = amos.Amos([{"params": [w], "eta": 0.3, "reduce_dims": ()}], 0.2)
    other = w.detach().clone().requires_grad_()
    peer = torch.optim.AdamW([other], lr=0.06, weight_decay=0.02 / 0.06, eps=0.0)
    push([w], 3)
    push([other], 3)
    optimizer.step(), peer.step()
    torch.testing.assert_close(w, other)


# The simulation


@pytest.mark.parametrize(("beta", "ends"), [(0.0, (0.25, 0.1)), (1.0, (0.378, 0.2294))])
@pytest.mark.parametrize("decays", [True, False])
def test_simulated_distance_follows_theory(
    beta: float, ends: tuple[float, float], decays: bool
) -> None:
    run = amos.simulate_distance(4000, 0.01, 0.3, 3000, beta, weight_decay=decays)
    np.testing.assert_allclose(run["distance"][[1000, 3000]], ends, rtol=0.07)
    np.testing.assert_allclose(run["theory"][[1000, 3000]], ends, rtol=1e-3)
    assert run["q"][0] == pytest.approx(0.5, abs=0.02)
    if decays:
        assert run["q"][1000] < 0


def test_simulated_direction_has_its_cosine() -> None:
    """Without decay the law of cosines gives each distance from the one before."""
    run = amos.simulate_distance(50, 0.05, 0.4, 40, beta=1.0, weight_decay=False)
    distance, theory = run["distance"], run["theory"]
    for t in range(40):
        alpha, cosine = 0.05 * theory[t] ** 2, 0.4 * theory[t]
        squared = distance[t] ** 2 - 2 * alpha * cosine * distance[t] + alpha**2
        assert distance[t + 1] ** 2 == pytest.approx(squared, rel=1e-9)


def test_simulation_keeps_its_seed() -> None:
    one, two, other = (amos.simulate_distance(9, 0.1, 0.5, 5, seed=s)["q"] for s in (1, 1, 2))
    assert (one == two).all()
    assert not np.allclose(one, other)
