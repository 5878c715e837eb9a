import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy.combinatorics import Permutation, PermutationGroup

from kexue_lab.mathematics.cross_counting import (
    SQUARES,
    MaskedAutoregressive,
    arm_matrix,
    count_crosses,
    count_orbits,
    dominant_color,
    enumerate_crosses,
    estimate_count,
    is_valid_cross,
    sample_crosses,
    symmetry_permutations,
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def dominates(edges):
    """By definition: (i, i, j, k) in some order, with three different colours."""
    for i, j, k, m in itertools.permutations(edges):
        if i == j and len({i, k, m}) == 3:
            return i
    return None


def valid_by_definition(colors, rule="distinct"):
    c, t, left, b, r = (dominates([colors[e] for e in square]) for square in SQUARES)
    if None in (c, t, left, b, r):
        return False
    if rule == "distinct":
        return len({left, c, r}) == 3 and len({t, c, b}) == 3
    return c not in (t, left, b, r)


def counted_by_squares(q, rule):
    """A sum over centres and dominants; the arms are counted by listing q^4 squares."""
    arm = np.zeros((q, q), dtype=object)
    centres = []
    for square in itertools.product(range(q), repeat=4):
        d = dominates(square)
        if d is not None:
            arm[square[0], d] += 1
            centres.append((square, d))
    total = 0
    for centre, m in centres:
        bars = 1
        for a in (0, 1):
            pairs = itertools.permutations([d for d in range(q) if d != m], 2)
            if rule == "adjacent":
                pairs = itertools.product([d for d in range(q) if d != m], repeat=2)
            bars *= sum(arm[centre[a], d] * arm[centre[a + 2], e] for d, e in pairs)
        total += bars
    return total


def counted_by_contraction(q, length):
    """Rule "adjacent" with long arms: contract the tensor (edge, next edge, dominant)."""
    tensor = np.zeros((q, q, q), dtype=object)
    for square in itertools.product(range(q), repeat=4):
        d = dominates(square)
        if d is not None:
            tensor[square[0], square[2], d] += 1
    ahead = np.full((q, q), 1, dtype=object)  # completions beyond an edge, given (edge, dominant)
    for _ in range(length):
        new = np.zeros((q, q), dtype=object)
        for edge, before, after, d in itertools.product(range(q), repeat=4):
            if d != before:
                new[edge, before] += tensor[edge, after, d] * ahead[after, d]
        ahead = new
    return sum(
        math.prod(ahead[edge, dominates(centre)] for edge in centre)
        for centre in itertools.product(range(q), repeat=4)
        if dominates(centre) is not None
    )


@pytest.fixture(scope="module")
def crosses():
    return enumerate_crosses()


@given(st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_a_dominant_is_found_by_definition(edges):
    assert dominant_color(edges) == dominates(edges)


def test_a_dominant_takes_integers_of_any_kind():
    assert dominant_color(np.array([2, 7, 2, 5], dtype=np.int8)) == 2
    assert dominant_color((10**30, -3, 10**30, 0)) == 10**30


@pytest.mark.parametrize("q", range(1, 7))
def test_arms_are_counted_by_listing_squares(q):
    listed = np.zeros((q, q), dtype=object)
    for square in itertools.product(range(q), repeat=4):
        if (d := dominates(square)) is not None:
            listed[square[0], d] += 1
    assert (arm_matrix(q) == listed).all()
    assert all(type(entry) is int for entry in arm_matrix(q).flat)


@pytest.mark.parametrize("q", range(1, 9))
@pytest.mark.parametrize("rule", ["distinct", "adjacent"])
def test_counts_by_summing_over_centres(q, rule):
    assert count_crosses(q, rule) == counted_by_squares(q, rule)


def test_twelve_points_and_the_degree_make_the_polynomial_certain():
    # A polynomial of degree 11 is fixed by 12 values; so the formula holds for every q.
    assert [count_crosses(q) for q in range(1, 13)] == [
        counted_by_squares(q, "distinct") for q in range(1, 13)
    ]


@pytest.mark.parametrize(("q", "length"), [(3, 0), (3, 1), (3, 2), (3, 3), (3, 5), (4, 2), (5, 6)])
def test_long_arms_by_contraction(q, length):
    assert count_crosses(q, "adjacent", length) == counted_by_contraction(q, length)


def test_counts_are_exact_beyond_64_bits():
    assert count_crosses(3, "adjacent", 6) > 2**63
    assert count_crosses(10**40) % 10**40 == 0
    assert count_crosses(3, "adjacent", 60) == counted_by_contraction(3, 60)


def test_all_colourings_of_the_arms_are_tried(crosses):
    """Brute force without any factorisation: 3^12 colourings of the arms for each centre."""
    free = list(itertools.product(range(3), repeat=3))
    found = {"distinct": 0, "adjacent": 0}
    for centre in itertools.product(range(3), repeat=4):
        m = dominates(centre)
        if m is None:
            continue
        table = [[dominates((edge, *rest)) for rest in free] for edge in centre]
        t, left, b, r = np.ix_(*[[9 if d is None else d for d in row] for row in table])
        good = (t < 9) & (left < 9) & (b < 9) & (r < 9)
        good &= (t != m) & (left != m) & (b != m) & (r != m)
        found["adjacent"] += good.sum()
        found["distinct"] += (good & (t != b) & (left != r)).sum()
    assert found == {"distinct": len(crosses), "adjacent": count_crosses(3, "adjacent")}


def test_the_list_is_complete_ordered_and_valid(crosses):
    rows = [tuple(row) for row in crosses.tolist()]
    assert rows == sorted(set(rows))
    assert all(valid_by_definition(row) for row in rows[::50])
    assert bool(is_valid_cross(torch.from_numpy(crosses), 3).all())
    assert crosses.dtype == np.int8
    assert enumerate_crosses(1).shape == enumerate_crosses(2).shape == (0, 16)


def test_in_each_solution_colours_are_used_4_6_and_6_times(crosses):
    used = np.stack([(crosses == color).sum(1) for color in range(3)], 1)
    assert (np.sort(used, 1) == [4, 6, 6]).all()


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 3), min_size=16, max_size=16), st.sampled_from(["distinct", "adjacent"])
)
def test_validity_by_definition(colors, rule):
    assert bool(is_valid_cross(torch.tensor(colors), 4, rule)) == valid_by_definition(colors, rule)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("rule", ["distinct", "adjacent"])
def test_validity_near_solutions(crosses, dtype, rule):
    rng = np.random.default_rng(1)
    some = crosses[rng.integers(len(crosses), size=400)].astype(int)
    some[np.arange(400), rng.integers(16, size=400)] = rng.integers(3, size=400)
    expected = [valid_by_definition(row, rule) for row in some]
    got = is_valid_cross(torch.tensor(some, dtype=dtype).view(20, 20, 16), 3, rule)
    assert got.shape == (20, 20)
    assert got.flatten().tolist() == expected
    assert 50 < sum(expected) < 350


def test_symmetries_are_those_of_the_plane():
    """Edges as points of the plane; each of the eight maps is found by moving these points."""
    middles = [(0, 1), (-1, 0), (0, -1), (1, 0)]
    for x, y in middles.copy():
        # Counter-clockwise from the shared edge, seen from the arm's middle (2x, 2y).
        middles += [(2 * x + y, 2 * y - x), (3 * x, 3 * y), (2 * x - y, 2 * y + x)]
    # The top arm's first side edge after its bottom (shared) edge is the right one, (1, 2).
    assert middles[4:7] == [(1, 2), (0, 3), (-1, 2)]
    expected = []
    for mirror, turn in itertools.product((1, -1), range(4)):
        moved = []
        for x, y in middles:
            a, b = mirror * x, y
            for _ in range(turn):
                a, b = -b, a
            moved.append(middles.index((a, b)))
        # moved[e] is where edge e goes; the image has at place moved[e] the colour of e.
        expected.append(np.argsort(moved).tolist())
    assert symmetry_permutations().tolist() == expected


def test_symmetries_form_a_group_of_order_eight(crosses):
    permutations = symmetry_permutations()
    group = PermutationGroup([Permutation(row.tolist()) for row in permutations])
    assert group.order() == 8
    assert not group.is_abelian
    rows = torch.from_numpy(crosses)
    for permutation in permutations:
        assert bool(is_valid_cross(rows[:, permutation], 3).all())


@pytest.mark.parametrize("colors", [False, True])
def test_orbits_by_burnside(crosses, colors):
    digits = 3 ** np.arange(16)
    fixed, order = 0, 0
    for renaming in itertools.permutations(range(3)) if colors else [(0, 1, 2)]:
        for permutation in symmetry_permutations():
            image = np.array(renaming)[crosses.astype(int)][:, permutation]
            fixed += int((image @ digits == crosses.astype(int) @ digits).sum())
            order += 1
    assert fixed % order == 0
    assert count_orbits(colors) == fixed // order
    if not colors:
        assert fixed == len(crosses), "only the identity fixes a solution"


def test_samples_are_uniform(crosses):
    n = 400_000
    sample = sample_crosses(n, generator=generator(3)).numpy()
    digits = 3 ** np.arange(16)
    codes, counts = np.unique(sample @ digits, return_counts=True)
    assert set(codes) <= set((crosses.astype(int) @ digits).tolist())
    expected = n / len(crosses)
    chi = (counts**2).sum() / expected - n
    assert abs(chi - len(crosses)) < 5 * math.sqrt(2 * len(crosses))


@pytest.mark.parametrize("q", [3, 4, 5, 8])
@pytest.mark.parametrize("rule", ["distinct", "adjacent"])
def test_samples_obey_the_rule_and_split_as_counted(q, rule):
    n = 40_000
    sample = sample_crosses(n, q, generator(q), rule)
    assert bool(is_valid_cross(sample, q, rule).all())
    # By listing: how the solutions share out on the centre's type and two arms' dominants.
    opposite = (sample[:, 0] == sample[:, 2]) | (sample[:, 1] == sample[:, 3])
    arm = arm_matrix(q)
    weights = {}
    for centre in itertools.product(range(q), repeat=4):
        m = dominates(centre)
        if m is None:
            continue
        others = [d for d in range(q) if d != m]
        for d, e in itertools.product(others, repeat=2):
            if rule == "distinct" and d == e:
                continue
            row = arm[centre[1]], arm[centre[3]]
            bar = sum(
                row[0][f] * row[1][g]
                for f, g in itertools.product(others, repeat=2)
                if rule == "adjacent" or f != g
            )
            key = (centre[0] == centre[2] or centre[1] == centre[3], d == centre[0], e == centre[2])
            weights[key] = weights.get(key, 0) + arm[centre[0], d] * arm[centre[2], e] * bar
    assert sum(weights.values()) == count_crosses(q, rule)
    tops = [[sample[:, e].numpy() for e in square] for square in SQUARES]
    top, bottom = (
        np.array([dominates(edges) for edges in zip(*tops[arm], strict=True)]) for arm in (1, 3)
    )
    for key, weight in weights.items():
        share = weight / sum(weights.values())
        hits = (
            (opposite.numpy() == key[0])
            & ((top == sample[:, 0].numpy()) == key[1])
            & ((bottom == sample[:, 2].numpy()) == key[2])
        )
        assert abs(hits.mean() - share) < 5 * math.sqrt(share / n), key


def test_samples_follow_the_generator_and_take_many_colours():
    one, two = (sample_crosses(50, 1000, generator(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert bool(is_valid_cross(one, 1000).all())


@pytest.mark.parametrize(
    ("sites", "states", "hidden"), [(1, 2, 3), (4, 3, 7), (3, 4, 1), (6, 2, 30)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_is_a_distribution(sites, states, hidden, dtype):
    torch.manual_seed(sites)
    model = MaskedAutoregressive(sites, states, hidden).to(dtype)
    strings = torch.tensor(list(itertools.product(range(states), repeat=sites)))
    log_p = model.log_prob(strings)
    assert log_p.dtype == dtype
    assert float(log_p.detach().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_a_site_depends_on_all_the_earlier_ones_and_no_other():
    torch.manual_seed(0)
    model = MaskedAutoregressive(6, 3, 64).double()
    x = torch.randint(3, (1, 6), generator=generator(0))
    before = model.logits(x)
    for changed in range(6):
        y = x.clone()
        y[0, changed] = (y[0, changed] + 1) % 3
        moved = (model.logits(y) - before).abs().amax(-1)[0] > 0
        assert moved.tolist() == [site > changed for site in range(6)]


def test_samples_of_the_network_follow_its_probabilities():
    torch.manual_seed(1)
    model = MaskedAutoregressive(3, 3, 16)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3)
    strings = torch.tensor(list(itertools.product(range(3), repeat=3)))
    p = model.log_prob(strings).exp().detach().numpy()
    sample = model.sample(50_000, generator(2)).numpy() @ [9, 3, 1]
    share = np.bincount(sample, minlength=27) / 50_000
    assert (abs(share - p) < 5 * np.sqrt(p / 50_000) + 1e-4).all()
    assert torch.equal(model.sample(9, generator(5)), model.sample(9, generator(5)))


def test_the_estimate_is_unbiased_for_an_untrained_network():
    torch.manual_seed(4)
    model = MaskedAutoregressive(5, 3, 20)
    valid = lambda x: x.sum(-1) % 4 == 1  # noqa: E731
    exact = sum(sum(s) % 4 == 1 for s in itertools.product(range(3), repeat=5))
    estimate, error = estimate_count(model, 40_000, valid, generator(6))
    assert abs(estimate - exact) < 4 * error
    assert 0 < error < 0.05 * exact


def test_an_estimate_of_nothing_is_nothing():
    model = MaskedAutoregressive(3, 2, 4)
    nothing = lambda x: torch.zeros(len(x), dtype=torch.bool)  # noqa: E731
    assert estimate_count(model, 10, nothing, generator(0)) == (0.0, 0.0)


NETWORK = MaskedAutoregressive(3, 2, 4)
EDGES = torch.zeros(16, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dominant_color([0, 1, 2]), ValueError, "edges"),
        (lambda: dominant_color([0, 1, 2, 0.5]), TypeError, "edges"),
        (lambda: dominant_color([0, 1, 2, True]), TypeError, "edges"),
        (lambda: arm_matrix(0), ValueError, "q"),
        (lambda: arm_matrix(3.0), TypeError, "q"),
        (lambda: count_crosses(0), ValueError, "q"),
        (lambda: count_crosses(True), TypeError, "q"),
        (lambda: count_crosses(3, "same"), ValueError, "same"),
        (lambda: count_crosses(3, "distinct", 2), ValueError, "arm_length"),
        (lambda: count_crosses(3, "distinct", 0), ValueError, "arm_length"),
        (lambda: count_crosses(3, "adjacent", -1), ValueError, "arm_length"),
        (lambda: count_crosses(3, "adjacent", 1.0), TypeError, "arm_length"),
        (lambda: enumerate_crosses(4), ValueError, "q"),
        (lambda: enumerate_crosses(0), ValueError, "q"),
        (lambda: is_valid_cross(EDGES.double(), 3), TypeError, "colors"),
        (lambda: is_valid_cross(EDGES.bool(), 3), TypeError, "colors"),
        (lambda: is_valid_cross([0] * 16, 3), TypeError, "colors"),
        (lambda: is_valid_cross(EDGES[:15], 3), ValueError, "colors"),
        (lambda: is_valid_cross(EDGES + 3, 3), ValueError, "colors"),
        (lambda: is_valid_cross(EDGES - 1, 3), ValueError, "colors"),
        (lambda: is_valid_cross(EDGES, 0), ValueError, "q"),
        (lambda: is_valid_cross(EDGES, 3, "same"), ValueError, "rule"),
        (lambda: count_orbits(1), TypeError, "colors"),
        (lambda: sample_crosses(0), ValueError, "n"),
        (lambda: sample_crosses(2.0), TypeError, "n"),
        (lambda: sample_crosses(2, 2), ValueError, "q"),
        (lambda: sample_crosses(2, 3, None, "same"), ValueError, "rule"),
        (lambda: MaskedAutoregressive(0, 2, 3), ValueError, "sites"),
        (lambda: MaskedAutoregressive(2, 1, 3), ValueError, "states"),
        (lambda: MaskedAutoregressive(2, 2, 0), ValueError, "hidden"),
        (lambda: NETWORK.log_prob(torch.zeros(3)), TypeError, "x"),
        (lambda: NETWORK.log_prob(torch.tensor([0, 1, 2])), ValueError, "x"),
        (lambda: NETWORK.log_prob(torch.tensor([0, 1])), ValueError, "x"),
        (lambda: NETWORK.sample(0), ValueError, "n"),
        (lambda: estimate_count(NETWORK, 1, lambda x: x), ValueError, "n"),
        (lambda: estimate_count(NETWORK, 4, lambda x: x), ValueError, "valid"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
