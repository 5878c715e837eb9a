import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, interpolate, optimize, special, stats

from kexue_lab.mathematics import random_sector
from kexue_lab.mathematics.random_sector import (
    largest_margin,
    max_circular_gap,
    max_gap_cdf,
    max_gap_tail,
    monte_carlo_same_sector,
    moving_apex_density,
    perceptron_separates,
    same_halfspace_probability,
    same_sector_probability,
    same_sector_probability_density,
    separable_through_origin,
    square_pond_density,
)

PI = math.pi
F = Fraction
SMALLEST_NORMAL = F(2) ** -1022


def uniform_density(phi):
    return np.full_like(phi, 1 / (2 * PI))


def von_mises_density(kappa):
    return lambda phi: stats.vonmises.pdf(phi, kappa)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def some_sector_holds_all(angles, theta):
    """By definition, without gaps: some point has all others within theta counter-clockwise."""
    ahead = torch.remainder(angles[:, None, :] - angles[:, :, None], 2 * PI)
    return (ahead <= theta).all(dim=2).any(dim=1)


def z_score(hits, probability):
    share = float(hits.double().mean())
    return (share - probability) / math.sqrt(probability * (1 - probability) / len(hits))


def classification_problems(problems, n, d, seed):
    g = generator(seed)
    points = torch.randn(problems, n, d, generator=g, dtype=torch.float64)
    return points, 2 * torch.randint(0, 2, (problems, n), generator=g) - 1


# ---------------------------------------------------------------- longest gap, uniform angles


@pytest.mark.parametrize(
    ("n", "turn", "expected"),
    [
        (2, F(1, 3), F(2, 3)),
        (4, F(1, 3), F(4, 27)),
        (4, F(1, 2), F(1, 2)),
        (3, F(1, 2), F(3, 4)),
        (4, F(2, 3), F(26, 27)),
        (3, F(3, 5), F(24, 25)),
        (5, F(3, 4), F(255, 256)),
        (10, F(3, 4), F(86955, 131072)),
        (4, F(3, 4), F(1)),
        (6, F(5, 6), F(1)),
        (1, F(1, 7), F(1)),
        (7, 1, F(1)),
    ],
)
def test_same_sector_probability_is_exact_for_a_rational_turn(n, turn, expected):
    exact = same_sector_probability(n, turn=turn)
    assert isinstance(exact, Fraction)
    assert exact == expected
    assert max_gap_tail(n, 1 - F(turn)) == expected
    for approximate in (
        same_sector_probability(n, float(turn) * 2 * PI),
        same_sector_probability(n, turn=float(turn)),
    ):
        assert isinstance(approximate, float)
        assert approximate == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(
    ("n", "turn", "expected"),
    [(20, F(9, 10), 0.9962692286844387), (50, F(19, 20), 0.9989518257333)],
)
def test_same_sector_probability_of_many_points(n, turn, expected):
    assert float(same_sector_probability(n, turn=turn)) == pytest.approx(expected, abs=1e-13)
    assert same_sector_probability(n, turn=float(turn)) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(20, 5.558488256636e-7), (50, 5.631169195965e-17), (100, 1.2354322648958e-33)],
)
def test_cdf_where_the_alternating_sum_cancels(n, expected):
    assert max_gap_cdf(n, 1.5 / n) == pytest.approx(expected, rel=1e-11, abs=0)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30, 100, 150, 200])
def test_cdf_and_tail_agree_with_exact_arithmetic(n):
    rng = np.random.default_rng(n)
    close_to_the_edge = (1 + 10 ** rng.uniform(-12, 1, 12)) / n
    typical = (math.log(n) + rng.uniform(-2, 12, 12)) / n
    # The smallest length whose probability is still a normal float.
    deepest = (1 + 10 ** (-307 / n)) / n if n > 2 else 0.6
    compared = 0
    for x in (*close_to_the_edge, *typical, *rng.uniform(1 / n, 1, 12), deepest):
        if not 1 < n * x < n:
            continue
        tail = max_gap_tail(n, F(float(x)))
        for ours, exact in ((max_gap_cdf(n, x), 1 - tail), (max_gap_tail(n, float(x)), tail)):
            if exact > SMALLEST_NORMAL:
                compared += 1
                assert ours == pytest.approx(float(exact), rel=1e-13 + 2e-15 * n, abs=0)
    assert compared > 30


def test_cdf_reaches_the_smallest_floats_without_losing_digits():
    x = 1.0289 / 200
    exact = 1 - max_gap_tail(200, F(x))
    assert F(10) ** -307 < exact < F(10) ** -290
    assert max_gap_cdf(200, x) == pytest.approx(float(exact), rel=1e-11, abs=0)
    assert max_gap_cdf(200, 1.001 / 200) == 0.0


def test_cdf_does_not_underflow_on_the_way_to_a_representable_value():
    x = 2 / 1500
    exact = 1 - max_gap_tail(1500, F(x))
    assert max_gap_cdf(1500, x) == pytest.approx(float(exact), rel=1e-12, abs=0)


def test_cdf_continues_beyond_the_largest_n_of_the_recurrence():
    x = 1 / 500
    p = [max_gap_cdf(n, x) for n in (1998, 1999, 2000, 2001)]
    ratios = [later / earlier for earlier, later in itertools.pairwise(p)]
    assert ratios[0] > 1
    assert ratios[2] - ratios[1] == pytest.approx(ratios[1] - ratios[0], rel=0.1)
    assert max_gap_cdf(2500, math.log(2500) / 2500) == pytest.approx(math.exp(-1), abs=3e-3)


def test_cdf_never_exceeds_one():
    # Rounding alone would bring this one to 1 + 2e-16.
    assert max_gap_cdf(21, 0.865684220046059) <= 1


@pytest.mark.parametrize("n", [2, 3, 7, 20, 60, 100])
def test_cdf_is_a_cardinal_b_spline(n):
    spline = interpolate.BSpline.basis_element(np.arange(n + 1))
    for x in np.linspace(1.2 / n, 0.97, 9):
        log_scale = special.gammaln(n) + (n - 1) * math.log(x)
        expected = float(spline(1 / x)) * math.exp(log_scale)
        assert max_gap_cdf(n, x) == pytest.approx(expected, rel=1e-11, abs=0)


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_moments_of_the_longest_spacing(n):
    harmonic = sum(F(1, j) for j in range(1, n + 1))
    squares = sum(F(1, j * j) for j in range(1, n + 1))
    knots = [1 / k for k in range(2, n + 1)]

    def moment(weight):
        return integrate.quad(
            lambda x: weight(x) * max_gap_tail(n, x), 0, 1, points=knots, epsabs=1e-12
        )[0]

    mean, second = moment(lambda x: 1), moment(lambda x: 2 * x)
    assert mean == pytest.approx(float(harmonic / n), abs=1e-10)
    assert second == pytest.approx(float((harmonic**2 + squares) / (n * (n + 1))), abs=1e-10)
    variances = {3: 13 / 648, 4: 13 / 768, 10: 0.00628983843537}
    if n in variances:
        assert second - mean**2 == pytest.approx(variances[n], abs=1e-10)


@pytest.mark.parametrize(("n", "expected"), [(10, 0.2224378), (100, 0.3482845), (1000, 0.3651604)])
def test_longest_spacing_on_the_way_to_gumbel(n, expected):
    assert max_gap_cdf(n, math.log(n) / n) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("u", [-1.0, 0.0, 2.0])
def test_longest_spacing_approaches_gumbel(u):
    errors = [
        abs(max_gap_cdf(n, (math.log(n) + u) / n) - stats.gumbel_r.cdf(u)) for n in (30, 200, 1000)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize(("n", "turn"), [(4, 2 / 3), (3, 3 / 5), (5, 3 / 4), (10, 3 / 4)])
def test_probability_against_the_definition_by_simulation(n, turn):
    angles = 2 * PI * torch.rand(100_000, n, generator=generator(n), dtype=torch.float64)
    hits = some_sector_holds_all(angles, 2 * PI * turn)
    assert abs(z_score(hits, same_sector_probability(n, turn=turn))) < 4.5


@settings(deadline=None)
@given(
    n=st.integers(1, 60),
    turn=st.fractions(min_value=F(1, 50), max_value=1, max_denominator=200),
)
def test_laws_of_the_probability(n, turn):
    p = same_sector_probability(n, turn=turn)
    assert 0 < p <= 1
    assert (p == 1) == (n == 1 or turn >= 1 - F(1, n))
    assert p >= same_sector_probability(n + 1, turn=turn)
    assert p <= n * turn ** (n - 1), "the first term is a union bound"
    if turn <= F(1, 2):
        assert p == n * turn ** (n - 1)
    assert max_gap_cdf(n, float(1 - turn)) + max_gap_tail(n, float(1 - turn)) == pytest.approx(1)


@settings(deadline=None)
@given(n=st.integers(1, 40), x=st.floats(-1, 2), y=st.floats(-1, 2))
def test_cdf_and_tail_are_monotone(n, x, y):
    low, high = min(x, y), max(x, y)
    slack = 1 + 1e-13
    tiny = 1e-300
    assert 0 <= max_gap_cdf(n, low) <= max_gap_cdf(n, high) * slack + tiny <= slack + tiny
    assert 0 <= max_gap_tail(n, high) <= max_gap_tail(n, low) * slack + tiny <= slack + tiny


@pytest.mark.parametrize("n", [1, 2, 6])
def test_cdf_and_tail_at_the_ends(n):
    for x in (-3.0, 0.0, 0.99 / n):
        assert (max_gap_cdf(n, x), max_gap_tail(n, x)) == (0.0, 1.0)
    for x in (1.0, 5.0):
        assert (max_gap_cdf(n, x), max_gap_tail(n, x)) == (1.0, 0.0)
    assert max_gap_tail(n, F(-1, 2)) == 1
    assert max_gap_tail(n, 1) == 0
    assert isinstance(max_gap_tail(n, 1), Fraction)


def test_tiny_sectors_keep_their_relative_accuracy():
    assert same_sector_probability(3, 1e-9) == pytest.approx(
        3 * (1e-9 / (2 * PI)) ** 2, rel=1e-14, abs=0
    )


# ---------------------------------------------------------------- circular gaps and simulation


def test_max_circular_gap_by_hand():
    angles = torch.tensor([[0.1, 0.2, 6.2], [0.0, PI / 2, PI], [7.0, 7.0, 7.0]])
    expected = torch.tensor([6.0, PI, 2 * PI])
    gap = max_circular_gap(angles)
    assert gap.dtype == torch.float32
    assert gap.shape == (3,)
    torch.testing.assert_close(gap, expected)
    assert max_circular_gap(torch.tensor([1.0])).item() == pytest.approx(2 * PI)


@settings(deadline=None)
@given(
    angles=st.lists(st.floats(-20, 20), min_size=1, max_size=8),
    turn=st.floats(-10, 10),
)
def test_max_circular_gap_ignores_rotation_reflection_and_order(angles, turn):
    tensor = torch.tensor(angles, dtype=torch.float64)
    gap = max_circular_gap(tensor)
    assert 2 * PI / len(angles) - 1e-12 <= gap.item() <= 2 * PI + 1e-12
    for moved in (tensor + turn, -tensor, tensor.flip(0)):
        torch.testing.assert_close(max_circular_gap(moved), gap, rtol=0, atol=1e-12)


def test_max_circular_gap_keeps_leading_dimensions():
    angles = torch.rand(2, 3, 5, generator=generator(0), dtype=torch.float64)
    gap = max_circular_gap(angles)
    assert gap.shape == (2, 3)
    assert gap[1, 2] == max_circular_gap(angles[1, 2])


@pytest.mark.parametrize(
    ("n", "turn"), [(4, 1 / 2), (4, 2 / 3), (3, 3 / 5), (5, 3 / 4), (10, 3 / 4), (20, 0.9)]
)
def test_monte_carlo_agrees_with_the_formula(n, turn):
    estimate, error = monte_carlo_same_sector(n, 2 * PI * turn, 100_000, generator(1))
    assert error == pytest.approx(math.sqrt(estimate * (1 - estimate) / 100_000))
    assert 0 < error < 0.002
    assert abs(estimate - same_sector_probability(n, turn=turn)) < 4.5 * error


def test_monte_carlo_works_in_chunks(monkeypatch):
    whole = monte_carlo_same_sector(4, 3.0, 1003, generator(2))
    assert whole == monte_carlo_same_sector(4, 3.0, 1003, generator(2), device="cpu")
    monkeypatch.setattr(random_sector, "_NUMBERS_PER_CHUNK", 400)
    estimate, error = monte_carlo_same_sector(4, 3.0, 1003, generator(2))
    assert estimate * 1003 == pytest.approx(round(estimate * 1003), abs=1e-9)
    assert abs(estimate - same_sector_probability(4, 3.0)) < 4.5 * error
    assert monte_carlo_same_sector(4, 2 * PI, 1003, generator(2)) == (1.0, 0.0)
    assert monte_carlo_same_sector(1, 0.5, 7) == (1.0, 0.0)


# ---------------------------------------------------------------- other angular densities


@pytest.mark.parametrize(
    ("n", "theta", "expected"),
    [
        (4, PI / 4, 0.0081773555),
        (4, PI / 2, 1 / 16),
        (4, 2 * PI / 3, 0.1506639899),
        (4, 3 * PI / 4, 0.2120320664),
        (4, PI, 1 / 2),
        (3, PI / 3, 0.0826211996),
    ],
)
def test_square_pond(n, theta, expected):
    ours = same_sector_probability_density(n, theta, square_pond_density)
    assert ours == pytest.approx(expected, abs=1e-10)


def test_square_pond_by_simulation():
    # Triples, where the square is below the disc, and quadruples, where it is above.
    points = 2 * torch.rand(1_000_000, 4, 2, generator=generator(3), dtype=torch.float64) - 1
    angles = torch.atan2(points[..., 1], points[..., 0])
    for n, theta in ((3, PI / 3), (4, 3 * PI / 4)):
        hits = max_circular_gap(angles[:, :n]) >= 2 * PI - theta
        assert (
            abs(z_score(hits, same_sector_probability_density(n, theta, square_pond_density))) < 4
        )


@pytest.mark.parametrize(
    ("kappa", "half", "quarter"),
    [
        (0.5, 0.56936993, 0.09610594),
        (1, 0.71700631, 0.19103875),
        (2, 0.92907912, 0.46431929),
    ],
)
def test_von_mises_angles(kappa, half, quarter):
    pdf = von_mises_density(kappa)
    assert same_sector_probability_density(4, PI, pdf) == pytest.approx(half, abs=1e-8)
    assert same_sector_probability_density(4, PI / 2, pdf) == pytest.approx(quarter, abs=1e-8)


@pytest.mark.parametrize("kappa", [0.3, 3.0, 40.0])
@pytest.mark.parametrize("theta", [0.05, 1.0, 2.9])
def test_two_von_mises_points_against_the_density_of_their_difference(kappa, theta):
    def difference(delta):
        # I0(2κ cos δ/2) / (2π I0(κ)²), written with exponentially scaled Bessel functions.
        argument = 2 * kappa * math.cos(delta / 2)
        scaled = special.i0e(argument) / special.i0e(kappa) ** 2
        return scaled * math.exp(argument - 2 * kappa) / (2 * PI)

    expected = 2 * integrate.quad(difference, 0, theta, epsabs=1e-13)[0]
    ours = same_sector_probability_density(2, theta, von_mises_density(kappa))
    assert ours == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("n", "theta", "expected"),
    [
        (3, PI, 0.8749498829),
        (4, PI, 0.7498997659),
        (4, PI / 2, 0.2176942052),
        (4, 2 * PI / 3, 0.3957487713),
    ],
)
def test_apex_off_the_centre(n, theta, expected):
    ours = same_sector_probability_density(n, theta, lambda phi: moving_apex_density(phi, 0.5))
    assert ours == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n", [3, 4])
def test_apex_off_the_centre_by_simulation(n):
    g = generator(n)
    radius = torch.rand(200_000, n, generator=g, dtype=torch.float64).sqrt()
    phi = 2 * PI * torch.rand(200_000, n, generator=g, dtype=torch.float64)
    seen = torch.atan2(radius * phi.sin(), radius * phi.cos() - 0.5)
    expected = same_sector_probability_density(n, PI, lambda phi: moving_apex_density(phi, 0.5))
    assert abs(z_score(some_sector_holds_all(seen, PI), expected)) < 4.5


@pytest.mark.parametrize("theta", [0.02, PI / 24, 1.0, PI / 2 - 0.01])
@pytest.mark.parametrize("n", [2, 5])
def test_uniform_angles_in_a_quarter_circle(n, theta):
    def quarter(phi):
        return np.where(phi < PI / 2, 2 / PI, 0.0)

    share = theta / (PI / 2)
    expected = n * share ** (n - 1) - (n - 1) * share**n
    assert same_sector_probability_density(n, theta, quarter) == pytest.approx(expected, abs=1e-13)
    assert same_sector_probability_density(n, 2.0, quarter) == pytest.approx(1, abs=1e-13)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), theta=st.floats(1e-3, PI))
def test_uniform_density_gives_the_uniform_formula(n, theta):
    ours = same_sector_probability_density(n, theta, uniform_density)
    assert ours == pytest.approx(same_sector_probability(n, theta), rel=1e-12, abs=1e-300)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 12), size=st.floats(0, 1), phase=st.floats(-PI, PI))
def test_any_antipodal_density_gives_the_half_disc_value(n, size, phase):
    def pdf(phi):
        return (1 + size * np.cos(2 * phi - phase)) / (2 * PI)

    expected = float(same_halfspace_probability(n, 2))
    assert same_sector_probability_density(n, PI, pdf) == pytest.approx(expected, abs=1e-12)


def test_density_formula_is_fast_enough_for_a_slider():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        same_sector_probability_density(30, 1.0, square_pond_density)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.03


@pytest.mark.parametrize("eccentricity", [0.0, 0.3, 0.9, 1.0])
def test_moving_apex_density_against_its_antiderivative(eccentricity):
    def cdf(phi):
        e = eccentricity
        chord = e * np.sin(phi) * np.sqrt(1 - (e * np.sin(phi)) ** 2)
        return (phi + e**2 / 2 * np.sin(2 * phi) - chord - np.arcsin(e * np.sin(phi))) / (2 * PI)

    for low, high in itertools.pairwise([0, 0.4, PI / 2, 3.0, 3 * PI / 2, 6.0, 2 * PI]):
        mass = integrate.quad(moving_apex_density, low, high, args=(eccentricity,))[0]
        assert mass == pytest.approx(cdf(high) - cdf(low), abs=1e-10)


def test_moving_apex_density_is_uniform_only_at_the_centre():
    phi = np.linspace(0, 2 * PI, 7)
    np.testing.assert_allclose(moving_apex_density(phi, 0), 1 / (2 * PI))
    assert np.ptp(moving_apex_density(phi, 0.1)) > 0.05
    # Facing away from the centre (φ = 0) the rim is 1 - e away, facing it 1 + e.
    expected = np.array([0.25, 2.25]) / (2 * PI)
    np.testing.assert_allclose(moving_apex_density([0, PI], 0.5), expected)


def test_square_pond_density_by_hand():
    np.testing.assert_allclose(
        square_pond_density([0, PI / 4, PI / 2, -3 * PI / 4]), [1 / 8, 1 / 4, 1 / 8, 1 / 4]
    )
    # An eighth of the square: the triangle between the axis and the diagonal.
    mass = integrate.quad(square_pond_density, 0, PI / 4)[0]
    assert mass == pytest.approx(1 / 8, abs=1e-12)


@pytest.mark.parametrize("density", [square_pond_density, lambda p: moving_apex_density(p, 0.5)])
def test_densities_keep_shape_and_dtype(density):
    phi = np.linspace(0, 6, 6, dtype=np.float32).reshape(2, 3)
    assert density(phi).dtype == np.float32
    assert density(phi).shape == (2, 3)
    assert density([1, 2]).dtype == np.float64
    assert density(1.0).shape == ()


@pytest.mark.parametrize("radius", ["disc", "rim", "heavy tail"])
def test_the_radius_does_not_matter(radius):
    g = generator(4)
    u = torch.rand(100_000, 4, generator=g, dtype=torch.float64)
    r = {"disc": u.sqrt(), "rim": torch.ones_like(u), "heavy tail": 1 / u}[radius]
    phi = 2 * PI * torch.rand(100_000, 4, generator=g, dtype=torch.float64)
    angles = torch.atan2(r * phi.sin(), r * phi.cos())
    assert abs(z_score(some_sector_holds_all(angles, 4 * PI / 3), 26 / 27)) < 4.5


# ---------------------------------------------------------------- half-spaces and classifiers


def test_same_halfspace_probability_by_hand():
    assert same_halfspace_probability(4, 3) == F(7, 8)
    assert same_halfspace_probability(6, 3) == F(1, 2)
    assert float(same_halfspace_probability(25, 10)) == pytest.approx(0.153728127480, abs=1e-12)
    assert float(same_halfspace_probability(50, 20)) == pytest.approx(0.076203885981, abs=1e-12)


@settings(deadline=None)
@given(n=st.integers(1, 60), d=st.integers(1, 60))
def test_laws_of_the_halfspace_probability(n, d):
    w = same_halfspace_probability
    assert 2 * w(n + 1, d + 1) == w(n, d + 1) + w(n, d), "Cover's recurrence"
    assert w(2 * d, d) == F(1, 2)
    assert (w(n, d) == 1) == (n <= d)
    assert w(n, 1) == F(2, 2**n)
    assert w(n, 2) == same_sector_probability(n, turn=F(1, 2))
    # Heads in n - 1 fair tosses are at most d - 1.
    assert float(w(n, d)) == pytest.approx(stats.binom.cdf(d - 1, n - 1, 0.5), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(5, 2), (7, 3), (8, 4), (4, 5), (1, 2)])
def test_every_labelling_counted(n, d):
    points = torch.randn(n, d, generator=generator(n), dtype=torch.float64)
    labellings = torch.tensor(list(itertools.product([-1, 1], repeat=n)))
    separable = [separable_through_origin(points, labels) for labels in labellings]
    assert sum(separable) == 2**n * same_halfspace_probability(n, d)


@pytest.mark.parametrize(("n", "d"), [(10, 5), (40, 20), (60, 30)])
def test_separability_against_linear_programming(n, d):
    points, labels = classification_problems(40, n, d, seed=n)
    verdicts = []
    for x, y in zip(points, labels, strict=True):
        signed = (x * y[:, None]).numpy()
        program = optimize.linprog(np.zeros(d), A_ub=-signed, b_ub=-np.ones(n), bounds=(None, None))
        verdicts.append(separable_through_origin(x, y))
        assert verdicts[-1] == (program.status == 0)
    assert 0 < sum(verdicts) < 40


def test_separable_share_agrees_with_wendel():
    points, labels = classification_problems(500, 30, 15, seed=5)
    pairs = zip(points, labels, strict=True)
    separable = torch.tensor([separable_through_origin(x, y) for x, y in pairs])
    assert abs(z_score(separable, float(same_halfspace_probability(30, 15)))) < 4.5


def test_separability_of_degenerate_points():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    ones = torch.ones(3)
    assert not separable_through_origin(points, ones), "an antipodal pair"
    assert separable_through_origin(points, torch.tensor([1, -1, 1]))
    assert not separable_through_origin(torch.zeros(1, 2), torch.ones(1)), "the origin itself"
    # Two points almost opposite to each other, of very different lengths.
    wedge = torch.tensor([[0.01, 1.0], [0.01, -1.0]], dtype=torch.float64)
    lengths = torch.tensor([[1e-9], [1e9]], dtype=torch.float64)
    assert separable_through_origin(wedge * lengths, torch.ones(2))
    twice = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert not separable_through_origin(twice, torch.tensor([1, -1])), "one point, both labels"


@pytest.mark.parametrize(("n", "d"), [(5, 3), (12, 6), (30, 20)])
def test_largest_margin_against_quadratic_programming(n, d):
    # The shortest w with every y_i <w, x_i> at least 1 has the length 1/γ.
    points, labels = classification_problems(12, n, d, seed=n)
    margins = []
    for x, y in zip(points, labels, strict=True):
        margins.append(largest_margin(x, y))
        assert (margins[-1] > 0) == separable_through_origin(x, y)
        if margins[-1]:
            signed = (x * y[:, None]).numpy()
            start = optimize.linprog(
                np.zeros(d), A_ub=-signed, b_ub=-np.ones(n), bounds=(None, None)
            ).x
            shortest = optimize.minimize(
                lambda w: w @ w / 2,
                start,
                jac=lambda w: w,
                constraints={"type": "ineq", "fun": lambda w, s=signed: s @ w - 1},
                method="SLSQP",
                options={"maxiter": 1000, "ftol": 1e-14},
            )
            assert margins[-1] == pytest.approx(1 / np.linalg.norm(shortest.x), rel=1e-5)
    assert any(margins)


def test_largest_margin_by_hand():
    corner = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    ones = torch.ones(2)
    assert largest_margin(corner, ones) == pytest.approx(12 / 5), "the height of the triangle"
    assert largest_margin(-corner, -ones) == pytest.approx(12 / 5)
    assert largest_margin(1e6 * corner, ones) == pytest.approx(2.4e6)
    assert largest_margin(torch.tensor([[5.0, 0.0], [1.0, 0.0]]), ones) == pytest.approx(1)
    assert largest_margin(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), ones) == 0, "an antipodal pair"
    assert largest_margin(torch.zeros(2, 2), ones) == 0, "the origin itself"


@pytest.mark.parametrize(("n", "d"), [(10, 5), (15, 10)])
def test_perceptron_needs_no_more_updates_than_the_largest_margin_allows(n, d):
    points, labels = classification_problems(40, n, d, seed=9)
    tried = 0
    for x, y in zip(points, labels, strict=True):
        margin = largest_margin(x, y)
        if margin and (limit := math.floor(float(x.norm(dim=1).max() / margin) ** 2)) < 3000:
            assert perceptron_separates(x[None], y[None], limit).all()
            tried += 1
    assert tried > 10


def test_perceptron_never_claims_a_non_separable_set_and_learns_with_time():
    points, labels = classification_problems(200, 20, 10, seed=6)
    pairs = zip(points, labels, strict=True)
    exact = torch.tensor([separable_through_origin(x, y) for x, y in pairs])
    few, many = (perceptron_separates(points, labels, updates) for updates in (30, 1000))
    assert few.dtype == torch.bool
    assert few.shape == (200,)
    assert not (many & ~exact).any()
    assert not (few & ~many).any(), "a solved problem stays solved"
    assert few.sum() < many.sum() < exact.sum()
    assert many.sum() > 0.7 * exact.sum()


@pytest.mark.parametrize("margin", [0.5, 0.2, 0.1])
def test_perceptron_obeys_novikoffs_bound(margin):
    # Unit vectors with first coordinate at least the margin: at most 1/margin² corrections.
    g = generator(7)
    rest = torch.randn(50, 40, 8, generator=g, dtype=torch.float64)
    first = margin + 0.2 * torch.rand(50, 40, 1, generator=g, dtype=torch.float64)
    rest = rest / rest.norm(dim=2, keepdim=True) * (1 - first**2).sqrt()
    labels = 2 * torch.randint(0, 2, (50, 40), generator=g) - 1
    points = torch.cat([first, rest], dim=2) * labels[..., None]
    assert perceptron_separates(points, labels, math.ceil(margin**-2)).all()
    assert not perceptron_separates(points, labels, 1).all()


def test_perceptron_counts_corrections():
    # First problem: w = (1, ±2) leaves the other point at margin -3, w = (2, 0) separates.
    # Second problem, with mixed labels: the first correction separates.
    # Third problem: the first correction leaves the other point at margin 0, still a mistake.
    points = torch.tensor(
        [[[1.0, 2.0], [1.0, -2.0]], [[1.0, 0.5], [-1.0, -0.4]], [[1.0, 0.0], [0.0, 1.0]]]
    )
    labels = torch.tensor([[1, 1], [1, -1], [1, 1]])
    assert perceptron_separates(points, labels, 1).tolist() == [False, True, False]
    assert perceptron_separates(points, labels, 2).tolist() == [True, True, True]


def test_perceptron_treats_problems_independently():
    points, labels = classification_problems(30, 12, 6, seed=8)
    points = points.float()
    together = perceptron_separates(points, labels, 40)
    alone = [perceptron_separates(points[i : i + 1], labels[i : i + 1], 40) for i in range(30)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert 0 < together.sum() < 30


# ---------------------------------------------------------------- bad input

POINTS, LABELS = torch.ones(3, 2), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: max_gap_cdf(0, 0.5), ValueError, "n must be at least 1, got 0"),
        (lambda: max_gap_cdf(2.0, 0.5), TypeError, "n must be an integer, got 2.0"),
        (lambda: max_gap_cdf(True, 0.5), TypeError, "n must be an integer"),
        (lambda: max_gap_cdf(2, math.nan), ValueError, "x must be finite"),
        (lambda: max_gap_cdf(2, "a"), TypeError, "x must be a real number"),
        (lambda: max_gap_tail(-1, 0.5), ValueError, "n must be at least 1"),
        (lambda: max_gap_tail("4", 0.5), TypeError, "n must be an integer"),
        (lambda: max_gap_tail(2, math.inf), ValueError, "x must be finite"),
        (lambda: max_gap_tail(2, 1j), TypeError, "x must be a real number"),
        (lambda: same_sector_probability(0, 1.0), ValueError, "n must be"),
        (lambda: same_sector_probability(2.5, 1.0), TypeError, "n must be"),
        (lambda: same_sector_probability(2), TypeError, "exactly one of theta and turn"),
        (lambda: same_sector_probability(2, 1.0, turn=0.5), TypeError, "exactly one of theta"),
        (lambda: same_sector_probability(2, 0.0), ValueError, r"theta must be in \(0, 2π\]"),
        (lambda: same_sector_probability(2, 6.3), ValueError, "theta must be in .* got 6.3"),
        (lambda: same_sector_probability(2, math.nan), ValueError, "theta must be finite"),
        (lambda: same_sector_probability(2, "1"), TypeError, "theta must be a real number"),
        (lambda: same_sector_probability(2, turn=F(3, 2)), ValueError, "turn must be .* got 3/2"),
        (lambda: same_sector_probability(2, turn=0), ValueError, r"turn must be in \(0, 1\]"),
        (lambda: same_sector_probability(2, turn="1/2"), TypeError, "turn must be a real"),
        (
            lambda: same_sector_probability_density(0, 1.0, uniform_density),
            ValueError,
            "n must be at least 1",
        ),
        (
            lambda: same_sector_probability_density(2, 3.2, uniform_density),
            ValueError,
            r"theta must be in \(0, π\], got 3.2",
        ),
        (
            lambda: same_sector_probability_density(2, None, uniform_density),
            TypeError,
            "theta must be a real number",
        ),
        (lambda: same_sector_probability_density(2, 1.0, 0.5), TypeError, "pdf must be callable"),
        (
            lambda: same_sector_probability_density(2, 1.0, lambda p: uniform_density(p) * 1.00001),
            ValueError,
            "pdf must integrate to 1 .* got 1.00001",
        ),
        (
            lambda: same_sector_probability_density(2, 1.0, lambda p: p * math.nan),
            ValueError,
            "pdf must integrate to 1",
        ),
        (
            lambda: same_sector_probability_density(2, 1.0, lambda p: (1 + 2 * np.cos(p)) / 2 / PI),
            ValueError,
            "pdf must not be negative",
        ),
        (
            lambda: same_sector_probability_density(2, 1.0, lambda p: 1 / (2 * PI)),
            ValueError,
            "pdf must return shape",
        ),
        (lambda: moving_apex_density(0.0, 1.5), ValueError, "eccentricity must be in .* got 1.5"),
        (lambda: moving_apex_density(0.0, -0.1), ValueError, "eccentricity must be in"),
        (lambda: moving_apex_density(0.0, "e"), TypeError, "eccentricity must be a real"),
        (lambda: moving_apex_density([0, math.nan], 0.5), ValueError, "phi must be finite"),
        (lambda: moving_apex_density(["a"], 0.5), TypeError, "phi must be real"),
        (lambda: square_pond_density(math.inf), ValueError, "phi must be finite"),
        (lambda: square_pond_density(1j), TypeError, "phi must be real"),
        (lambda: max_circular_gap([1.0]), TypeError, "angles must be a floating.* got list"),
        (lambda: max_circular_gap(torch.tensor([1])), TypeError, "angles must be .* torch.int64"),
        (
            lambda: max_circular_gap(torch.tensor(1.0)),
            ValueError,
            r"angles must have shape .* \(\)",
        ),
        (lambda: max_circular_gap(torch.ones(3, 0)), ValueError, r"angles .* got \(3, 0\)"),
        (lambda: max_circular_gap(torch.tensor([math.nan])), ValueError, "angles must be finite"),
        (lambda: same_halfspace_probability(0, 2), ValueError, "n must be at least 1"),
        (lambda: same_halfspace_probability(3, 0), ValueError, "d must be at least 1"),
        (lambda: same_halfspace_probability(3.0, 2), TypeError, "n must be an integer"),
        (lambda: same_halfspace_probability(3, 2.0), TypeError, "d must be an integer"),
        (lambda: monte_carlo_same_sector(0, 1.0, 10), ValueError, "n must be at least 1"),
        (lambda: monte_carlo_same_sector(2, 7.0, 10), ValueError, "theta must be in"),
        (lambda: monte_carlo_same_sector(2, 1.0, 0), ValueError, "samples must be at least 1"),
        (lambda: monte_carlo_same_sector(2, 1.0, 1e3), TypeError, "samples must be an integer"),
        (
            lambda: monte_carlo_same_sector(2, 1.0, 10, generator(0), device="meta"),
            ValueError,
            "generator is on device cpu, but device is meta",
        ),
        (lambda: separable_through_origin([[1.0]], LABELS), TypeError, "points must be"),
        (lambda: separable_through_origin(POINTS.long(), LABELS), TypeError, "points must be"),
        (lambda: separable_through_origin(POINTS, [1, 1, 1]), TypeError, "labels must be a tensor"),
        (lambda: separable_through_origin(POINTS[None], LABELS), ValueError, r"points .*\(n, d\)"),
        (lambda: separable_through_origin(POINTS[:0], LABELS[:0]), ValueError, "points must have"),
        (lambda: separable_through_origin(POINTS, LABELS[:2]), ValueError, r"labels .* got \(2,\)"),
        (lambda: separable_through_origin(POINTS, LABELS * 0), ValueError, "labels must be -1 or"),
        (lambda: separable_through_origin(POINTS / 0, LABELS), ValueError, "points must be finite"),
        (lambda: largest_margin([[1.0]], LABELS), TypeError, "points must be"),
        (lambda: largest_margin(POINTS, LABELS[:2]), ValueError, r"labels .* got \(2,\)"),
        (lambda: largest_margin(POINTS, LABELS * 0), ValueError, "labels must be -1 or"),
        (lambda: perceptron_separates(POINTS, LABELS, 5), ValueError, r"points .*\(problems, n, d"),
        (
            lambda: perceptron_separates(POINTS[None], LABELS, 5),
            ValueError,
            r"labels must have shape \(1, 3\), got \(3,\)",
        ),
        (
            lambda: perceptron_separates(POINTS[None], 2 * LABELS[None], 5),
            ValueError,
            "labels must be -1 or 1, got 2.0",
        ),
        (
            lambda: perceptron_separates(POINTS[None], LABELS[None], 0),
            ValueError,
            "updates must be at least 1",
        ),
        (
            lambda: perceptron_separates(POINTS[None], LABELS[None], 1.5),
            TypeError,
            "updates must be an integer",
        ),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


# ---------------------------------------------------------------- large numbers


@pytest.mark.parametrize(
    ("n", "x", "cdf"), [(100_000, 0.001, 1.0), (100_000, 0.00001, 0.0), (10**12, 1e-12, 0.0)]
)
def test_very_many_spacings(n, x, cdf):
    assert max_gap_cdf(n, x) == cdf
    assert max_gap_tail(n, x) == pytest.approx(1 - cdf, abs=1e-38)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0, 3.0])
def test_many_spacings_tend_to_gumbels_law(shift):
    n = 10**6
    assert max_gap_cdf(n, (math.log(n) + shift) / n) == pytest.approx(
        math.exp(-math.exp(-shift)), rel=2e-3
    )


def test_the_series_agrees_with_the_recurrence():
    for n, x in ((2001, F(1, 400)), (2001, F(1, 900))):
        assert max_gap_cdf(n, float(x)) == pytest.approx(float(1 - max_gap_tail(n, x)), rel=1e-9)


def test_results_too_large_to_be_exact_are_refused():
    with pytest.raises(ValueError, match=r"n must be smaller .* got 10000000"):
        max_gap_tail(10**7, F(1, 1000))
    with pytest.raises(ValueError, match=r"n \* d must be at most"):
        same_halfspace_probability(10**6, 10**5)


def test_one_trial_is_no_certainty():
    estimate, error = monte_carlo_same_sector(3, 1.0, 1, generator(0))
    assert estimate in (0.0, 1.0)
    assert 0.2 < error < 0.3


def test_angles_of_any_size():
    angles = torch.tensor([0.0, 1e20, -1e20], dtype=torch.float64)
    inner = torch.atan2(angles.sin(), angles.cos())
    assert max_circular_gap(angles).item() == pytest.approx(max_circular_gap(inner).item())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_separation_does_not_depend_on_the_scale(scale):
    points = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]) * scale
    labels = torch.tensor([[1, -1, 1]])
    assert perceptron_separates(points, labels, 50).tolist() == [True]
    assert separable_through_origin(points[0], labels[0])


def test_an_apex_near_the_rim_keeps_its_digits():
    e, phi = 1 - 1e-12, 0.5
    rim = (1 - e) * (1 + e) / (e * math.cos(phi) + math.sqrt(1 - (e * math.sin(phi)) ** 2))
    expected = rim**2 / (2 * math.pi)
    assert moving_apex_density(phi, e) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e160, 1e300])
def test_the_margin_is_measured_in_the_unit_of_the_points(unit):
    points = torch.tensor([[1.0, 0.2], [0.3, 1.0]], dtype=torch.float64)
    labels = torch.tensor([1, 1])
    margin = largest_margin(points, labels)
    assert largest_margin(points * unit, labels) == pytest.approx(margin * unit, rel=1e-9)
