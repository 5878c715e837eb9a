"""Counting the colourings of a cross of five squares, exactly and by a learned sampler.

The 16 edges are numbered so: 0 to 3 are the top, left, bottom and right edge of the centre; then,
for each arm in that order, its side, outer and other side edge, counter-clockwise around the arm.
A square is dominated by colour i if two of its edges have colour i and the other two have two
different other colours. Rule "distinct": all five squares are dominated, and the three dominants
along the horizontal bar are pairwise different, and so along the vertical bar. Rule "adjacent":
only squares that share an edge need different dominants.

References:
    M. Germain, K. Gregor, I. Murray, H. Larochelle, "MADE: Masked Autoencoder for Distribution
    Estimation", 2015, arXiv:1502.03509.
    D. E. Knuth, "Estimating the Efficiency of Backtrack Programs", 1975.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kexue_lab.validation import check_count

Rule = Literal["distinct", "adjacent"]

SQUARES = ((0, 1, 2, 3), (0, 4, 5, 6), (1, 7, 8, 9), (2, 10, 11, 12), (3, 13, 14, 15))
"""The edges of the centre and of the top, left, bottom and right arm, shared edge first."""

_CENTRE, _TOP, _LEFT, _BOTTOM, _RIGHT = range(5)
_TOUCHING = tuple((_CENTRE, arm) for arm in (_TOP, _LEFT, _BOTTOM, _RIGHT))
_OPPOSITE = ((_TOP, _BOTTOM), (_LEFT, _RIGHT))
_SITES = 16


def dominant_color(edges: Iterable[int]) -> int | None:
    """Find the colour that dominates a square.

    Args:
        edges: The colours of its four edges.

    Returns:
        Colour i if the edges are {i, i, j, k} with three different colours, otherwise None.

    Raises:
        TypeError: If a colour is not an integer.
        ValueError: If there are not four.

    Example:
        >>> dominant_color((0, 1, 0, 2))
        0
    """
    colors = [_integer(color) for color in edges]
    if len(colors) != 4:
        raise ValueError(f"edges must be four colours, got {colors}")
    if len(set(colors)) != 3:
        return None
    return next(color for color in colors if colors.count(color) == 2)


def arm_matrix(q: int) -> NDArray[Any]:
    """Count the ways to colour an arm's three free edges.

    A[c, d] = 3(q-2)(1 + (q-2)[c = d]) for the colour c of the shared edge and the dominant d.

    Args:
        q: Number of colours, at least 1.

    Returns:
        Python integers, shape (q, q).

    Raises:
        TypeError: If `q` is not an integer.
        ValueError: If `q` < 1.
    """
    check_count(q=q)
    counts = np.full((q, q), 3 * (q - 2) if q > 1 else 0, dtype=object)
    for color in range(q):
        counts[color, color] = 3 * (q - 1) * (q - 2)
    return counts


def count_crosses(q: int = 3, rule: Rule = "distinct", arm_length: int = 1) -> int:
    """Count the colourings of the cross.

    "distinct": 162 q (q-1) (q-2)^7 (3q-5) (4q-5). "adjacent": 6q(q-1)(q-2) (M^L 1)_E² (M^L 1)_N²
    with a 2 by 2 transfer matrix M; an arm is a straight chain of L squares.

    Args:
        q: Number of colours, at least 1.
        rule: Which squares must have different dominants, see above.
        arm_length: Number L of squares of each arm; must be 1 for "distinct".

    Returns:
        The exact number of colourings.

    Raises:
        TypeError: If `q` or `arm_length` is not an integer.
        ValueError: If `q` < 1, `arm_length` < 0, `rule` is unknown, or arms of another length than
            1 are asked for under "distinct".

    Example:
        >>> count_crosses(3), count_crosses(3, "adjacent")
        (27216, 104976)
    """
    check_count(q=q)
    check_count(0, arm_length=arm_length)
    _check_rule(rule)
    if rule == "distinct":
        if arm_length != 1:
            raise ValueError(f'arm_length must be 1 for the rule "distinct", got {arm_length}')
        return 162 * q * (q - 1) * (q - 2) ** 7 * (3 * q - 5) * (4 * q - 5)
    equal, other = 1, 1
    for _ in range(arm_length):
        equal, other = (
            (q - 2) * (2 * (q - 1) * equal + (q - 1) * other),
            (q - 2) * ((3 * q - 5) * equal + (3 * q - 4) * other),
        )
    return 6 * q * (q - 1) * (q - 2) * equal**2 * other**2


def enumerate_crosses(q: int = 3) -> NDArray[np.int8]:
    """List all colourings under the rule "distinct".

    Args:
        q: Number of colours, 1 to 3; four colours would have 19 million colourings.

    Returns:
        Colours 0 to q - 1, shape (N, 16), in lexicographic order.

    Raises:
        TypeError: If `q` is not an integer.
        ValueError: If `q` is out of range.
    """
    check_count(q=q)
    if q > 3:
        raise ValueError(f"q must be at most 3, got {q}")
    arms: dict[int, list[tuple[int, tuple[int, ...]]]] = {color: [] for color in range(q)}
    for shared, *free in itertools.product(range(q), repeat=4):
        dominant = dominant_color((shared, *free))
        if dominant is not None:
            arms[shared].append((dominant, tuple(free)))
    found = []
    for centre in itertools.product(range(q), repeat=4):
        middle = dominant_color(centre)
        if middle is None:
            continue
        vertical, horizontal = (
            [
                (one, two)
                for (d, one), (e, two) in itertools.product(arms[centre[a]], arms[centre[a + 2]])
                if len({d, e, middle}) == 3
            ]
            for a in (0, 1)
        )
        for (top, bottom), (left, right) in itertools.product(vertical, horizontal):
            found.append((*centre, *top, *left, *bottom, *right))
    return np.array(sorted(found), dtype=np.int8).reshape(-1, _SITES)


def is_valid_cross(colors: Tensor, q: int, rule: Rule = "distinct") -> Tensor:
    """Decide which colourings obey the rule.

    Args:
        colors: Colours 0 to q - 1 of the edges, integers, shape (..., 16).
        q: Number of colours, at least 1.
        rule: Which squares must have different dominants.

    Returns:
        bool, shape (...).

    Raises:
        TypeError: If `colors` is not an integer tensor or `q` not an integer.
        ValueError: If the last dimension is not 16, a colour is out of range, `q` < 1, or `rule` is
            unknown.
    """
    check_count(q=q)
    _check_rule(rule)
    _check_states("colors", colors, _SITES, q)
    ordered = colors[..., torch.tensor(SQUARES, device=colors.device)].long().sort(-1).values
    twice = ordered[..., 1:] == ordered[..., :-1]
    dominant = (ordered[..., 1:] * twice).sum(-1)
    valid = (twice.sum(-1) == 1).all(-1)
    for one, two in _TOUCHING + (_OPPOSITE if rule == "distinct" else ()):
        valid = valid & (dominant[..., one] != dominant[..., two])
    return valid


def symmetry_permutations() -> NDArray[np.int64]:
    """List how the square's eight symmetries permute the edges.

    Returns:
        Shape (8, 16): the four counter-clockwise turns, by 0 to 3 quarters, and then the mirror
        that exchanges left and right, followed by the same turns. The image of `colors` under
        symmetry g is `colors[permutations[g]]`.
    """
    found = []
    for mirrored, turn in itertools.product((False, True), range(4)):
        arms = [(arm - turn) % 4 for arm in range(4)]  # which edge of the centre comes here
        if mirrored:
            arms = [-arm % 4 for arm in arms]
        free = [range(4 + 3 * arm, 7 + 3 * arm) for arm in arms]
        blocks = [reversed(block) if mirrored else block for block in free]
        found.append([*arms, *itertools.chain.from_iterable(blocks)])
    return np.array(found)


def count_orbits(colors: bool = False) -> int:
    """Count the three-coloured crosses up to symmetry, by forming the orbits.

    Args:
        colors: Whether crosses that differ by a permutation of the colours count as one, too.

    Returns:
        The number of classes.

    Raises:
        TypeError: If `colors` is not a bool.
    """
    if not isinstance(colors, bool):
        raise TypeError(f"colors must be True or False, got {colors!r}")
    crosses = enumerate_crosses().astype(np.int64)
    digits = 3 ** np.arange(_SITES)
    smallest = crosses @ digits
    renamings = itertools.permutations(range(3)) if colors else [(0, 1, 2)]
    for renaming in renamings:
        renamed = np.array(renaming)[crosses]
        for permutation in symmetry_permutations():
            smallest = np.minimum(smallest, renamed[:, permutation] @ digits)
    return len(np.unique(smallest))


def sample_crosses(
    n: int, q: int = 3, generator: torch.Generator | None = None, rule: Rule = "distinct"
) -> Tensor:
    """Draw colourings, each with the same probability.

    First the centre, weighed by the number of its completions, then the arms' dominants, then their
    edges. Only whole random numbers are used, so that the weights are exact.

    Args:
        n: Number of colourings, at least 1.
        q: Number of colours, at least 3.
        generator: Source of randomness; torch's global one by default.
        rule: Which squares must have different dominants.

    Returns:
        Colours 0 to q - 1, int64, shape (n, 16), on the generator's device.

    Raises:
        TypeError: If `n` or `q` is not an integer.
        ValueError: If `n` < 1, `q` < 3, or `rule` is unknown.
    """
    check_count(n=n)
    check_count(3, q=q)
    _check_rule(rule)
    draw = _Draw(generator)
    adjacent = 4 * (2 * q - 3) ** 2 if rule == "distinct" else 4
    opposite = 2 * (q - 1) * (4 * q - 7) if rule == "distinct" else 2
    # Where the centre's dominant edges lie: (place, place + 1) or (place, place + 2).
    apart = 1 + (draw.below(adjacent + opposite, n) >= adjacent).long()
    place = draw.below(4, n)
    middle = draw.color(q, n)
    one = draw.color(q, n, middle)
    two = draw.color(q, n, middle, one)
    rank = (torch.arange(4, device=place.device) - place[:, None]) % 4
    centre = torch.where((rank == 0) | (rank == apart[:, None]), middle[:, None], one[:, None])
    centre = torch.where(rank == 3, two[:, None], centre)
    arms: list[Tensor] = [torch.empty(0)] * 4
    for first, second in ((0, 2), (1, 3)):
        shared = (centre[:, first], centre[:, second])
        dominants = [_draw_dominant(draw, q, c, middle) for c in shared]
        while rule == "distinct":
            again = (dominants[0] == dominants[1]).nonzero()[:, 0]
            if not len(again):
                break
            for dominant, c in zip(dominants, shared, strict=True):
                dominant[again] = _draw_dominant(draw, q, c[again], middle[again])
        for arm, c, d in zip((first, second), shared, dominants, strict=True):
            arms[arm] = _draw_arm(draw, q, c, d)
    return torch.cat([centre, *arms], dim=1)


class MaskedAutoregressive(nn.Module):
    """A distribution over strings, p(x) = Π p(x_i | x_1 … x_{i-1}), by one masked network.

    Two hidden layers. Each hidden unit has a degree, the number of sites that it may see; a weight
    from a unit to one of lower degree is masked, and site i is computed from units of degree at
    most i - 1.

    Args:
        sites: Length of a string, at least 1.
        states: Number of values of a site, at least 2.
        hidden: Number of units in each hidden layer, at least 1.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If one is too small.

    Source: Germain et al. (2015).
    """

    input_mask: Tensor
    hidden_mask: Tensor
    output_mask: Tensor

    def __init__(self, sites: int, states: int, hidden: int) -> None:
        super().__init__()
        check_count(sites=sites, hidden=hidden)
        check_count(2, states=states)
        self.sites, self.states = sites, states
        self.first = nn.Linear(sites * states, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, sites * states)
        place = torch.arange(sites).repeat_interleave(states)
        degree = torch.arange(hidden) % max(sites - 1, 1) + 1
        self.register_buffer("input_mask", (degree[:, None] > place).float())
        self.register_buffer("hidden_mask", (degree[:, None] >= degree).float())
        self.register_buffer("output_mask", (place[:, None] >= degree).float())

    def logits(self, x: Tensor) -> Tensor:
        """Return the unnormalised log-probabilities of each site, shape (..., sites, states)."""
        h = functional.one_hot(x.long(), self.states).flatten(-2).to(self.first.weight.dtype)
        for layer, mask in ((self.first, self.input_mask), (self.second, self.hidden_mask)):
            h = functional.linear(h, layer.weight * mask, layer.bias).relu()
        out = functional.linear(h, self.last.weight * self.output_mask, self.last.bias)
        return out.reshape(*x.shape, self.states)

    def forward(self, x: Tensor) -> Tensor:
        """Return log p(x), as `log_prob` but without its checks."""
        log_p = self.logits(x).log_softmax(-1)
        return log_p.gather(-1, x.long()[..., None])[..., 0].sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x).

        Args:
            x: States 0 to `states` - 1, integers, shape (..., sites).

        Returns:
            Shape (...), in the dtype of the weights.

        Raises:
            TypeError: If `x` is not an integer tensor.
            ValueError: If its shape does not fit or a state is out of range.
        """
        _check_states("x", x, self.sites, self.states)
        return self(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw strings, one site after the other.

        Args:
            n: Number of strings, at least 1.
            generator: Source of randomness; torch's global one by default.

        Returns:
            int64, shape (n, sites).

        Raises:
            TypeError: If `n` is not an integer.
            ValueError: If `n` < 1.
        """
        check_count(n=n)
        x = torch.zeros(n, self.sites, dtype=torch.int64, device=self.first.weight.device)
        for site in range(self.sites):
            chances = self.logits(x)[:, site].softmax(-1)
            x[:, site] = torch.multinomial(chances, 1, generator=generator)[:, 0]
        return x


def estimate_count(
    model: MaskedAutoregressive,
    n: int,
    valid: Callable[[Tensor], Tensor],
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Estimate how many strings are valid: the mean of [valid] / p over samples of the model.

    Unbiased, whatever the model is, if it gives each valid string a positive probability.

    Args:
        model: The distribution p.
        n: Number of samples, at least 2.
        valid: Maps strings (n, sites) to bool (n,).
        generator: Source of randomness; torch's global one by default.

    Returns:
        The estimate and its standard error, as estimated from the same samples.

    Raises:
        TypeError: If `n` is not an integer.
        ValueError: If `n` < 2, or `valid` returns another shape or dtype.

    Source: Knuth (1975) for the random descent of a backtracking program.
    """
    check_count(2, n=n)
    strings = model.sample(n, generator)
    good = valid(strings)
    if good.shape != (n,) or good.dtype != torch.bool:
        raise ValueError(f"valid must return bool of shape ({n},), got {good.dtype} {good.shape}")
    with torch.no_grad():
        weights = torch.where(good, (-model.log_prob(strings).double()).exp(), 0.0)
    return float(weights.mean()), float(weights.std()) / math.sqrt(n)


class _Draw:
    """Whole random numbers from one generator."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.device = generator.device if generator is not None else torch.device("cpu")

    def below(self, end: int, n: int) -> Tensor:
        return torch.randint(end, (n,), generator=self.generator, device=self.device)

    def color(self, q: int, n: int, *without: Tensor) -> Tensor:
        """A colour that differs from up to two given ones, which differ from each other."""
        color = self.below(q - len(without), n)
        if without:
            for taken in torch.stack(without).sort(0).values:
                color = color + (color >= taken).long()
        return color


def _draw_dominant(draw: _Draw, q: int, shared: Tensor, middle: Tensor) -> Tensor:
    """An arm's dominant, not the centre's: weight q - 1 for the shared colour, else 1."""
    n = len(shared)
    plain = draw.color(q, n, middle)
    # With the shared colour not the centre's: weights q - 1 for it and q - 2 for all the others.
    favoured = (shared != middle) & (draw.below(2 * q - 3, n) < q - 1)
    different = torch.where(shared == middle, (middle + 1) % q, shared)
    rest = draw.color(q, n, middle, different)
    return torch.where(shared == middle, plain, torch.where(favoured, shared, rest))


def _draw_arm(draw: _Draw, q: int, shared: Tensor, dominant: Tensor) -> Tensor:
    """The three free edges: (d, x, y) or (x, d, d), turned to a random place."""
    n = len(shared)
    same = shared == dominant
    one = draw.color(q, n, dominant)
    other = draw.color(q, n, dominant, one)
    different = torch.where(same, (dominant + 1) % q, shared)
    third = draw.color(q, n, dominant, different)
    edges = torch.stack(
        [
            torch.where(same, dominant, third),
            torch.where(same, one, dominant),
            torch.where(same, other, dominant),
        ],
        dim=1,
    )
    turn = draw.below(3, n)[:, None] + torch.arange(3, device=shared.device)
    return edges.gather(1, turn % 3)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"edges must be integers, got {value!r}")
    return int(value)


def _check_rule(rule: str) -> None:
    if rule not in ("distinct", "adjacent"):
        raise ValueError(f'rule must be "distinct" or "adjacent", got {rule!r}')


def _check_states(name: str, states: Tensor, sites: int, count: int) -> None:
    if not isinstance(states, Tensor) or states.is_floating_point() or states.is_complex():
        found = states.dtype if isinstance(states, Tensor) else type(states).__name__
        raise TypeError(f"{name} must be an integer tensor, got {found}")
    if states.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got {states.dtype}")
    if states.ndim == 0 or states.shape[-1] != sites:
        raise ValueError(f"{name} must have shape (..., {sites}), got {tuple(states.shape)}")
    if states.numel() and not 0 <= int(states.min()) <= int(states.max()) < count:
        raise ValueError(
            f"{name} must be 0 to {count - 1}, got {int(states.min())} to {int(states.max())}"
        )
