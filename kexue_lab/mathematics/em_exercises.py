"""What the exercises of mathematics/em check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
_TOSSES = 10


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _shares_of_sixes(rng: np.random.Generator) -> Inputs:
    yield (0.5,)
    for f in rng.uniform(0.2, 0.95, 5):
        yield (float(f),)


def _end_of_em(heads: NDArray[np.float64], biases: tuple[float, float]) -> float:
    """The mean log-likelihood, in nats, after 1000 rounds from equal weights."""
    x = heads[:, None]
    ways = gammaln(_TOSSES + 1) - gammaln(x + 1) - gammaln(_TOSSES - x + 1)
    weights, b = np.array([0.5, 0.5]), np.array(biases)
    for step in range(1001):
        joint = weights * np.exp(xlogy(x, b) + xlog1py(_TOSSES - x, -b))
        if step == 1000:
            break
        shares = joint / joint.sum(1, keepdims=True)
        mass = shares.sum(0)
        # A coin that has lost all draws keeps its bias; a mean of shares may exceed 1 by rounding.
        owned = np.clip(heads @ shares / (_TOSSES * np.maximum(mass, 1e-300)), 0, 1)
        weights, b = mass / len(heads), np.where(mass > 1e-300, owned, b)
    return float((ways[:, 0] + np.log(joint.sum(1))).mean())


def _judge_two_ends(answer: Any) -> str | None:
    try:
        draws, *starts = answer
        heads = np.array([float(value) for value in draws])
        (first, second) = ((float(one), float(two)) for one, two in starts)
    except (TypeError, ValueError, OverflowError):
        return "return the list of draws, and two pairs of biases"
    if not 3 <= len(heads) <= 12 or not all(v in range(_TOSSES + 1) for v in heads):
        return f"the draws must be 3 to 12 whole numbers from 0 to 10, got {heads.tolist()}"
    for name, start in (("first", first), ("second", second)):
        if not all(0.05 <= value <= 0.95 for value in start):
            return f"the biases of the {name} start must lie from 0.05 to 0.95, got {start}"
        if abs(start[0] - start[1]) < 0.1 - 1e-9:
            return f"the biases of the {name} start must be at least 0.1 apart, got {start}"
    one, two = _end_of_em(heads, first), _end_of_em(heads, second)
    if not abs(one - two) > 0.05:
        if first == second[::-1]:
            return "the second start is the first with the names of the coins exchanged"
        if sorted(heads) == sorted(_TOSSES - heads):
            return (
                f"both starts end at the same likelihood, {one:.3f} and {two:.3f}: with heads and "
                "tails exchanged these draws are the same, so two ends may be mirror images"
            )
        return f"both starts end within 0.05 nats of each other, at {one:.3f} and {two:.3f}"
    return None


def _bags(rng: np.random.Generator) -> Inputs:
    for n, coins in ((12, 2), (20, 3), (4000, 2), (3000, 4)):
        biases = np.linspace(0.25, 0.75, coins) + rng.uniform(-0.05, 0.05, coins)
        heads = rng.binomial(n, rng.choice(biases, 15))
        guess = biases + rng.uniform(-0.02, 0.02, coins)
        yield _tensor(heads), n, _tensor(rng.dirichlet(np.full(coins, 5.0))), _tensor(guess)


def _bag_round(
    heads: Tensor,
    n: int,
    weights: Tensor,
    biases: Tensor,
    *,
    logs: bool = True,
    axis: int = 1,
    own: bool = True,
) -> tuple[Tensor, Tensor]:
    x = heads[:, None]
    if logs:
        log_joint = weights.log() + x * biases.log() + (n - x) * (1 - biases).log()
        shares = log_joint.softmax(axis)
    else:
        joint = weights * biases**x * (1 - biases) ** (n - x)
        shares = joint / joint.sum(axis, keepdim=True)
    mass = shares.sum(0)
    return mass / len(heads), heads @ shares / (n * (mass if own else len(heads)))


def _bag_unweighted(
    heads: Tensor, n: int, weights: Tensor, biases: Tensor
) -> tuple[Tensor, Tensor]:
    return _bag_round(heads, n, torch.ones_like(weights), biases)


def _counts_and_rates(rng: np.random.Generator) -> Inputs:
    for rates in ((1.0, 6.0), (2.0, 5.0), (1.0, 4.0, 12.0)):
        x = _tensor(rng.poisson(rng.choice(rates, 30)))
        weights, guess = _tensor(rng.dirichlet(np.full(len(rates), 5.0))), _tensor(rates)
        for _ in range(3):
            yield x, weights, guess
            weights, guess = _poisson_step(x, weights, guess)


def _poisson_responsibilities(x: Tensor, weights: Tensor, rates: Tensor) -> Tensor:
    # x! is the same for all components and drops out.
    return torch.softmax(weights.log() + x[:, None] * rates.log() - rates, 1)


def _poisson_step(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.mean(0), x @ resp / resp.sum(0)


def _poisson_unweighted(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.mean(0), x.mean().expand(len(rates))


def _without_exponential(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = torch.softmax(weights.log() + x[:, None] * rates.log(), 1)
    return resp.mean(0), x @ resp / resp.sum(0)


def _masses_for_weights(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.sum(0), x @ resp / resp.sum(0)


def _poisson_over_n(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.mean(0), x @ resp / len(x)


def _poisson_unnormalised(
    x: Tensor, weights: Tensor, rates: Tensor, *, factorial: bool = False
) -> tuple[Tensor, Tensor]:
    logs = weights.log() + x[:, None] * rates.log() - rates
    joint = (logs - torch.lgamma(x[:, None] + 1) * factorial).exp()
    return joint.mean(0), x @ joint / joint.sum(0)


def _small_mixtures(rng: np.random.Generator) -> Inputs:
    for n, k in ((6, 2), (10, 2), (15, 3)):
        x = 2 * rng.standard_normal(n)
        yield _tensor(x), _tensor(rng.dirichlet(np.full(k, 5.0))), _tensor(rng.choice(x, k, False))


def _incremental(
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    *,
    likelihood: bool,
    frozen: bool = False,
    full: bool = False,
    first: bool = False,
    entropy: bool = True,
) -> Tensor:
    def log_joint() -> Tensor:
        constant = 0.5 * math.log(2 * math.pi)
        return weights.log() - 0.5 * (x[:, None] - means) ** 2 - constant

    resp, values = torch.softmax(log_joint(), 1), []
    for n in range(len(x)):
        if first:
            weights, means = resp.mean(0), x @ resp / resp.sum(0)
        fresh = torch.softmax(log_joint(), 1)
        resp = fresh if full else resp.index_copy(0, torch.tensor([n]), fresh[n : n + 1])
        if not first and (not frozen or n == len(x) - 1):
            weights, means = resp.mean(0), x @ resp / resp.sum(0)
        if likelihood:
            values.append(-torch.logsumexp(log_joint(), 1).mean())
        else:
            values.append((torch.xlogy(resp, resp) * entropy - resp * log_joint()).sum(1).mean())
    return torch.stack(values)


def _joint_objective(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return _incremental(x, weights, means, likelihood=False)


def _minus_likelihood(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return _incremental(x, weights, means, likelihood=True)


def _m_step_first(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    resp = torch.softmax(weights.log() - 0.5 * (x[:, None] - means) ** 2, 1)
    return _joint_objective(x, resp.mean(0), x @ resp / resp.sum(0))


def _one_m_step_per_sweep(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return _incremental(x, weights, means, likelihood=False, frozen=True)


EXERCISES = (
    Exercise(
        "coins that start equal",
        solution=lambda: [0.3, 0.66, 0.66],
        rtol=1e-6,
        mistakes=(
            Mistake(
                "the weights even out",
                lambda: [0.5, 0.66, 0.66],
                "with equal coins each draw is shared in the ratio of the weights: what is the"
                " mean of these shares?",
            ),
            Mistake(
                "nothing moves",
                lambda: [0.3, 0.6, 0.6],
                "the biases are counted anew; how many of all fifty tosses were heads?",
            ),
            Mistake(
                "the solution of the opening",
                lambda: [0.523, 0.793, 0.514],
                "to get there one coin would have to become unlike the other; which step could do"
                " that?",
                variants=(lambda: [0.477, 0.514, 0.793],),
                within=2e-3,
            ),
        ),
    ),
    Exercise(
        "the rate of loaded dice",
        solution=lambda v: 1 / (6 * v),
        inputs=_shares_of_sixes,
        mistakes=(
            Mistake(
                "the share that is known",
                lambda v: 1 - 1 / (6 * v),
                "this is the fraction of the information that is there; the rate is the missing"
                " one.",
            ),
            Mistake(
                "the slope at 0",
                lambda v: 6 * v,
                "this is the slope of the map at θ = 0, the fixed point that repels.",
            ),
            Mistake(
                "the slope at one half",
                lambda v: 6 * v / 3.5**2,
                "the rate is the slope at the fixed point, not at θ = ½.",
            ),
            Mistake(
                "the fixed point",
                lambda v: (6 * v - 1) / 5,
                "this is where EM stands still; the rate is the slope of its map there.",
            ),
            Mistake(
                "a fair die's six with the weight 1",
                lambda v: v,
                "with probability 1 − θ the die is fair, and then it shows six in one of six"
                " throws: the joint probability is (1 − θ)/6.",
            ),
        ),
    ),
    Exercise(
        "two ends of EM",
        solution=lambda: ([0, 0, 5, 5, 10], (0.1, 0.8), (0.3, 0.95)),
        judge=_judge_two_ends,
        mistakes=(
            Mistake(
                "the draws of the lesson",
                lambda: ([5, 9, 8, 4, 7], (0.6, 0.5), (0.2, 0.9)),
                "two groups of draws want two coins; what if there are three groups?",
            ),
            Mistake(
                "names exchanged",
                lambda: ([0, 0, 5, 5, 10], (0.1, 0.8), (0.8, 0.1)),
                "to exchange the names of the coins changes no likelihood.",
            ),
            Mistake(
                "equal coins",
                lambda: ([0, 0, 10, 10], (0.5, 0.5), (0.1, 0.9)),
                "coins that start equal stay equal, but the exercise asks for different ones.",
            ),
            Mistake(
                "a symmetric bag",
                lambda: ([0, 5, 10], (0.1, 0.8), (0.2, 0.9)),
                "two different ways to put three groups under two coins, but equally good ones:"
                " make the groups unequal.",
            ),
            Mistake(
                "two groups",
                lambda: ([1, 2, 8, 9], (0.1, 0.8), (0.3, 0.5)),
                "two groups of draws want two coins; what if there are three groups?",
            ),
        ),
    ),
    Exercise(
        "a round of EM, mended",
        solution=_bag_round,
        inputs=_bags,
        mistakes=(
            Mistake(
                "products that underflow",
                lambda *a: _bag_round(*a, logs=False),
                "with thousands of tosses the probabilities underflow to 0, and 0/0 is nan: add"
                " logarithms and take their softmax.",
            ),
            Mistake(
                "over the draws",
                lambda *a: _bag_round(*a, axis=0),
                "the coins share each draw: normalise over the coins, not over the draws.",
            ),
            Mistake(
                "all tosses",
                lambda *a: _bag_round(*a, own=False),
                "divide a coin's heads by its own tosses, n times its mass.",
            ),
            Mistake(
                "over the draws and all tosses",
                lambda *a: _bag_round(*a, axis=0, own=False),
                "two faults are left: over what is a share normalised, and whose tosses count?",
            ),
            Mistake(
                "as it was printed",
                lambda *a: _bag_round(*a, logs=False, axis=0, own=False),
                "all three faults are left: what underflows with thousands of tosses? Over what is "
                "a share normalised? Whose tosses count?",
            ),
            Mistake(
                "no weights",
                _bag_unweighted,
                "Bayes' rule normalises the joint probability: the weight belongs to it.",
            ),
        ),
    ),
    Exercise(
        "EM for a mixture of Poissons",
        solution=_poisson_step,
        inputs=_counts_and_rates,
        mistakes=(
            Mistake(
                "the unweighted mean",
                _poisson_unweighted,
                "each rate is the mean of x with its own shares as weights.",
            ),
            Mistake(
                "over N",
                _poisson_over_n,
                "a weighted mean divides by the sum of its weights, not by N.",
            ),
            Mistake(
                "without e^(−λ)",
                _without_exponential,
                "the factor e^(−λ_k) differs between the components: it does not drop out, x! "
                "does.",
            ),
            Mistake(
                "weights not normalised",
                _masses_for_weights,
                "the weights are shares of the data: divide the masses by N.",
            ),
            Mistake(
                "the joint for the responsibilities",
                _poisson_unnormalised,
                "this is the joint weight × probability; what is wanted is its share of the sum "
                "over the components.",
                variants=(lambda *a: _poisson_unnormalised(*a, factorial=True),),
            ),
        ),
    ),
    Exercise(
        "incremental EM",
        solution=_joint_objective,
        inputs=_small_mixtures,
        mistakes=(
            Mistake(
                "minus the likelihood",
                _minus_likelihood,
                "this is -L, which may rise under partial E-steps: use the present shares in G.",
            ),
            Mistake(
                "no entropy",
                lambda *a: _incremental(*a, likelihood=False, entropy=False),
                "G has two terms: the mean of −log joint under r, and the term r log r.",
            ),
            Mistake(
                "without ½ log 2π",
                lambda *a: _joint_objective(*a) - 0.5 * math.log(2 * math.pi),
                "the normal density has the factor 1/√(2π): ½ log 2π is missing in −log p.",
            ),
            Mistake(
                "one M-step per sweep",
                _one_m_step_per_sweep,
                "redo the M-step after each point, from all shares.",
            ),
            Mistake(
                "a full E-step each time",
                lambda *a: _incremental(*a, likelihood=False, full=True),
                "only the shares of the one point i are renewed; the others keep their old values.",
            ),
            Mistake(
                "the M-step first",
                _m_step_first,
                "renew the shares of x_i first, from the parameters before the step, then the "
                "parameters.",
                variants=(lambda *a: _incremental(*a, likelihood=False, first=True),),
            ),
        ),
    ),
)
