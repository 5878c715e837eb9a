"""The training loop: seeds that do not disturb each other, and a stop where it goes wrong."""

import math
import os
import subprocess
import sys

import pytest
import torch
import tqdm.notebook
from torch import nn

from kexue_lab import training
from kexue_lab.training import StackedAdam, TrainingDiverged, fit, generator, pick_device

SEEDS = (3, 0, 7)


def make_model(g):
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


def make_batch(g):
    inputs = torch.randn(16, 2, generator=g)
    return inputs, inputs[:, :1] * inputs[:, 1:]


def squared(model, inputs, targets):
    return (model(inputs) - targets).square().mean()


def train(**changes):
    settings = {
        "seeds": SEEDS,
        "steps": 12,
        "learning_rate": 0.05,
        "device": "cpu",
        "progress": False,
    }
    make = changes.pop("make_model", make_model)
    batch = changes.pop("make_batch", make_batch)
    loss = changes.pop("loss", squared)
    return fit(make, batch, loss, **(settings | changes))


def states(result):
    return [model.state_dict() for model in result.models]


def assert_same_training(one, other, atol=1e-5):
    torch.testing.assert_close(one.losses, other.losses, atol=atol, rtol=1e-4)
    for a, b in zip(states(one), states(other), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


def test_what_comes_back():
    result = train()
    assert result.losses.shape == (12, 3)
    assert len(result.models) == 3
    assert not any(model.training for model in result.models)
    assert result.monitored.shape == (0, 3)
    assert result.monitored_steps == []


def test_the_loss_goes_down():
    losses = train(steps=400, learning_rate=0.02).losses
    assert (losses[-50:].mean(0) < 0.3 * losses[:10].mean(0)).all()


def test_the_first_loss_is_that_of_the_model_as_built():
    result = train(steps=1, seeds=(5,))
    g = generator(5)
    torch.manual_seed(5)
    model = make_model(g)
    assert result.losses[0, 0] == squared(model, *make_batch(g)).detach()


def test_the_first_step_is_adams():
    """One step of Adam moves every parameter by the learning rate against its gradient's sign."""
    made = []

    def remembered(g):
        model = make_model(g)
        made.append({name: value.clone() for name, value in model.state_dict().items()})
        return model

    (trained,) = states(train(make_model=remembered, steps=1, seeds=(5,), learning_rate=0.01))
    for name, before in made[0].items():
        torch.testing.assert_close(
            (trained[name] - before).abs(), torch.full_like(before, 0.01), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_seed_alone_goes_the_way_it_goes_among_others(vectorize):
    together = train(vectorize=vectorize)
    for index, seed in enumerate(SEEDS):
        alone = train(seeds=(seed,), vectorize=vectorize)
        torch.testing.assert_close(alone.losses[:, 0], together.losses[:, index])
        torch.testing.assert_close(states(alone)[0], states(together)[index], atol=1e-5, rtol=1e-4)


def test_vectorized_or_not_is_the_same():
    assert_same_training(train(), train(vectorize=False))


def test_different_seeds_differ():
    losses = train().losses
    assert len(set(losses[0].tolist())) == 3


def test_the_same_seed_twice_gives_the_same_bits():
    one, other = train(), train()
    assert torch.equal(one.losses, other.losses)
    assert all(
        torch.equal(a[name], b[name])
        for a, b in zip(states(one), states(other), strict=True)
        for name in a
    )


def test_double_precision_stays_double():
    result = train(
        make_model=lambda g: make_model(g).double(),
        make_batch=lambda g: tuple(t.double() for t in make_batch(g)),
    )
    assert result.losses.dtype == torch.float64
    assert result.models[0][0].weight.dtype == torch.float64


def with_batch_norm(g):
    # No bias before the normalisation: its gradient is 0 but for noise, which Adam would blow up.
    return nn.Sequential(nn.Linear(2, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 1))


def test_buffers_are_trained_too():
    """Running statistics are part of the model: evaluation mode uses them."""
    assert_same_training(
        train(make_model=with_batch_norm), train(make_model=with_batch_norm, vectorize=False)
    )


def test_frozen_parameters_stay_as_they_are():
    def half_frozen(g):
        model = make_model(g)
        model[0].weight.requires_grad_(False)
        return model

    results = [
        train(make_model=half_frozen, vectorize=v, steps=s) for v in (True, False) for s in (1, 5)
    ]
    weights = [states(result)[0]["0.weight"] for result in results]
    assert all(torch.equal(weights[0], w) for w in weights)


# --- randomness --------------------------------------------------------------------------------


def with_dropout(g):
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))


@pytest.mark.parametrize("make", [make_model, with_batch_norm, with_dropout])
@pytest.mark.parametrize("vectorize", [True, False])
def test_global_random_state_neither_matters_nor_changes(make, vectorize):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train(make_model=make, vectorize=vectorize)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    other = train(make_model=make, vectorize=vectorize)
    assert torch.equal(one.losses, other.losses)


def test_generators_are_their_own():
    one, other = generator(4), generator(4)
    assert torch.equal(torch.randn(3, generator=one), torch.randn(3, generator=other))
    assert not torch.equal(torch.randn(3, generator=one), torch.randn(3, generator=generator(5)))


# --- monitor -----------------------------------------------------------------------------------

GRID = torch.tensor([[0.5, 0.5], [-1.0, 1.0]])


def bias(model):
    return model(GRID).sum()


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(
    ("every", "steps"), [(1, list(range(13))), (5, [0, 5, 10, 12]), (6, [0, 6, 12]), (99, [0, 12])]
)
def test_monitor_records_before_between_and_after(every, steps, vectorize):
    result = train(monitor=bias, monitor_every=every, vectorize=vectorize)
    assert result.monitored_steps == steps
    assert result.monitored.shape == (len(steps), 3)
    assert not result.monitored.requires_grad
    last = torch.stack([bias(model) for model in result.models]).detach()
    torch.testing.assert_close(result.monitored[-1], last, atol=1e-5, rtol=1e-4)


def test_monitoring_changes_nothing():
    assert torch.equal(train(monitor=bias).losses, train().losses)


def test_a_shorter_training_is_the_beginning_of_a_longer_one():
    longer = train(monitor=bias)
    shorter = train(monitor=bias, steps=4)
    torch.testing.assert_close(shorter.losses, longer.losses[:4])
    torch.testing.assert_close(shorter.monitored, longer.monitored[:5])


# --- learning rate -----------------------------------------------------------------------------


def test_the_schedule_sees_the_progress():
    seen = []

    def rate(progress):
        seen.append(progress)
        return 0.05

    assert_same_training(train(steps=4, learning_rate=rate), train(steps=4))
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_the_schedule_sets_the_rate():
    result = train(monitor=bias, learning_rate=lambda progress: 0.05 if progress < 0.5 else 0.0)
    moved = (result.monitored[1:] - result.monitored[:-1]).abs().amax(1) > 0
    assert moved.tolist() == [True] * 6 + [False] * 6


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_step_and_seed(bad, vectorize):
    def batch(g):
        batch.calls += 1
        inputs, targets = make_batch(g)
        # Seed 7 is the third of three; its fifth batch is spoilt.
        return inputs, targets * bad if batch.calls == 15 else targets

    batch.calls = 0
    with pytest.raises(TrainingDiverged, match=r"not finite at step 4 for seed\(s\) \[7\]"):
        train(make_batch=batch, vectorize=vectorize)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_loss_that_is_no_scalar_is_refused(vectorize):
    def forgets_the_mean(model, inputs, targets):
        return (model(inputs) - targets).square() * math.nan

    with pytest.raises((ValueError, TypeError), match=r"loss.*scalar|scalar.*loss"):
        train(loss=forgets_the_mean, vectorize=vectorize)


def test_a_monitor_that_is_no_scalar_is_refused():
    with pytest.raises((ValueError, TypeError), match=r"monitor.*scalar|scalar.*monitor"):
        train(monitor=lambda model: model(GRID))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seeds": ()}, "seeds must be distinct and at least one"),
        ({"seeds": (1, 1)}, "seeds must be distinct"),
        ({"steps": 0}, "steps and monitor_every must be positive, got 0"),
        ({"steps": -3}, "steps and monitor_every must be positive"),
        ({"monitor_every": 0}, "steps and monitor_every must be positive"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_bad_input_is_refused_before_any_work(changes, part):
    built = []
    with pytest.raises(ValueError, match=part):
        train(make_model=lambda g: built.append(1) or make_model(g), **changes)
    assert not built


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in ("cpu", "cuda", "mps")
    assert all(p.device.type == "cpu" for m in train().models for p in m.parameters())


SCRIPT = """
import sys
from torch import nn
import torch
import tqdm.notebook
from kexue_lab.training import fit
fit(lambda g: nn.Linear(2, 1), lambda g: (torch.randn(4, 2, generator=g),),
    lambda model, x: model(x).square().mean(), steps=3, device="cpu", progress=sys.argv[1] == "1")
"""


@pytest.mark.parametrize(
    ("progress", "disable", "shows"), [("1", None, True), ("0", None, False), ("1", "1", False)]
)
def test_the_progress_bar(progress, disable, shows):
    """TQDM_DISABLE is how notebooks are stored without bars."""
    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    if disable:
        environment["TQDM_DISABLE"] = disable
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, progress],
        env=environment,
        capture_output=True,
        check=True,
    )
    assert (b"training" in done.stderr) is shows
    assert done.stdout == b""
    assert done.stderr.split(b"\r")[-1].strip() == b""  # the bar is wiped away


@pytest.mark.parametrize(("disable", "shown"), [(None, 1), ("0", 1), ("1", 0)])
def test_the_progress_bar_of_a_notebook(disable, shown, monkeypatch):
    """A bar that stays in the stored outputs would be the first thing a reader sees there."""
    displayed = []
    monkeypatch.setattr(tqdm.notebook, "display", displayed.append)
    monkeypatch.setattr(training, "tqdm", tqdm.notebook.tqdm_notebook)
    if disable is None:
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
    else:
        monkeypatch.setenv("TQDM_DISABLE", disable)
    train(progress=True)
    assert len(displayed) == shown


RATES, BETA1, BETA2 = (0.1, 0.02, 0.3), (0.9, 0.5, 0.0), (0.999, 0.95, 0.9)


def rosenbrock(w, b):
    return (1 - w).square().sum() + 10 * (b - w.square()).square().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked_adam_is_adam_for_each_network(dtype):
    start = [
        torch.randn(3, *shape, dtype=dtype, generator=generator(0)) for shape in ((2, 4), (1,))
    ]
    stacked = [p.clone().requires_grad_() for p in start]
    adam = StackedAdam(stacked, RATES, beta1=BETA1, beta2=BETA2)
    alone = [[p[i].clone().requires_grad_() for p in start] for i in range(3)]
    each = [
        torch.optim.Adam(ps, rate, (b1, b2))
        for ps, rate, b1, b2 in zip(alone, RATES, BETA1, BETA2, strict=True)
    ]
    for step in range(20):
        factor = 1.0 if step < 10 else 0.5
        loss = sum(rosenbrock(w, b) for w, b in zip(*stacked, strict=True))
        adam.step(torch.autograd.grad(loss, stacked), factor)
        for optimizer, (w, b), rate in zip(each, alone, RATES, strict=True):
            optimizer.param_groups[0]["lr"] = factor * rate
            optimizer.zero_grad()
            rosenbrock(w, b).backward()
            optimizer.step()
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for i, own in enumerate(alone):
        for p, q in zip(stacked, own, strict=True):
            torch.testing.assert_close(p[i], q, rtol=tolerance, atol=tolerance)


def test_stacked_adam_without_division_is_momentum_and_gradient_descent():
    w = torch.zeros(2, 1)
    steps = StackedAdam([w], 0.1, beta1=[0.0, 0.5], plain=[True, True])
    for slope in (1.0, 4.0):
        steps.step([torch.full((2, 1), slope)])
    # Means of the slopes with decay 1/2, corrected: 1, then (1/4 * 1 + 1/2 * 4) / (3/4) = 3.
    torch.testing.assert_close(w, torch.tensor([[-0.5], [-0.4]]))


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        ([], {}, "parameters"),
        ([torch.zeros(2, 1), torch.zeros(3, 1)], {}, "parameters"),
        ([torch.tensor(1.0)], {}, "parameters"),
        ([torch.zeros(2, 1)], {"rate": 0.0}, "rate"),
        ([torch.zeros(2, 1)], {"rate": [0.1, math.nan]}, "rate"),
        ([torch.zeros(2, 1)], {"rate": [0.1]}, "rate"),
        ([torch.zeros(2, 1)], {"beta1": 1.0}, "beta1"),
        ([torch.zeros(2, 1)], {"beta2": [0.9, -0.1]}, "beta2"),
        ([torch.zeros(2, 1)], {"plain": [True]}, "plain"),
    ],
)
def test_stacked_adam_refuses(parameters, options, message):
    with pytest.raises(ValueError, match=message):
        StackedAdam(parameters, **{"rate": 0.1, **options})
