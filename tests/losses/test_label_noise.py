"""Labels with noise, and the calibration of a classifier."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare
from sklearn.calibration import calibration_curve

from kexue_lab.losses.data import expected_calibration_error, noisy_labels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Noise


def test_wrong_labels_are_as_many_as_asked_and_spread_evenly():
    y = torch.arange(60_000) % 6
    noisy = noisy_labels(y, 0.4, 6, generator=generator())
    flipped = noisy != y
    low, high = binom.interval(1 - 1e-6, len(y), 0.4)
    assert low <= int(flipped.sum()) <= high
    steps = torch.bincount((noisy - y)[flipped] % 6, minlength=6)
    assert int(steps[0]) == 0
    assert chisquare(steps[1:].numpy()).pvalue > 1e-4
    assert torch.equal(noisy, noisy_labels(y, 0.4, 6, generator=generator()))


def test_one_class_takes_the_place_of_each():
    y = torch.arange(30_000) % 3
    noisy = noisy_labels(y, 0.25, 3, wrong=[1, 2, 2], generator=generator())
    for label, other in ((0, 1), (1, 2)):
        counts = torch.bincount(noisy[y == label], minlength=3)
        assert int(counts[label] + counts[other]) == 10_000
        assert int(counts[other]) / 10_000 == pytest.approx(0.25, abs=0.02)
    assert bool((noisy[y == 2] == 2).all())


@given(st.integers(2, 9), st.sampled_from([torch.uint8, torch.int32, torch.int64]))
def test_the_ends_of_the_noise(classes, dtype):
    y = (torch.arange(12) % classes).to(dtype).view(3, 4)
    assert torch.equal(noisy_labels(y, 0, classes), y)
    all_wrong = noisy_labels(y, 1, classes)
    assert all_wrong.dtype == dtype
    assert all_wrong.shape == y.shape
    assert bool((all_wrong != y).all())
    assert int(all_wrong.min()) >= 0
    assert int(all_wrong.max()) < classes


def test_bad_noise_is_refused():
    y = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="eta must lie"):
        noisy_labels(y, 1.5, 3)
    with pytest.raises(ValueError, match=r"y must lie in 0\.\.1"):
        noisy_labels(y, 0.5, 2)
    with pytest.raises(TypeError, match="y must be an integer"):
        noisy_labels(y.float(), 0.5, 3)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        noisy_labels(y, 0.5, 1)
    for wrong in ([1, 2], [1, 2, 3]):
        with pytest.raises(ValueError, match="wrong must be 3 classes"):
            noisy_labels(y, 0.5, 3, wrong=wrong)


# Calibration


def sampled(n, classes, seed, sharpness=2.0):
    g = generator(seed)
    p = (sharpness * torch.randn(n, classes, generator=g, dtype=torch.float64)).softmax(-1)
    return p, torch.randint(classes, (n,), generator=g)


def by_loops(p, y, bins):
    """Sample by sample, bin by bin."""
    confidence, right = p.max(1), p.argmax(1) == y
    error = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return error


@given(st.integers(1, 60), st.integers(2, 6), st.integers(1, 20), st.integers(0, 100))
@settings(deadline=None)
def test_against_loops(n, classes, bins, seed):
    p, y = sampled(n, classes, seed)
    expected = by_loops(p.numpy(), y.numpy(), bins)
    assert expected_calibration_error(p, y, bins) == pytest.approx(expected, abs=1e-12)


def test_against_scikit_learns_curve():
    p, y = sampled(500, 4, 0)
    confidence, right = p.max(1).values.numpy(), (p.argmax(1) == y).numpy()
    shares, means = calibration_curve(right, confidence, n_bins=15)
    counts = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    expected = (np.abs(shares - means) * counts[counts > 0]).sum() / len(y)
    assert expected_calibration_error(p, y) == pytest.approx(expected, abs=1e-12)


def test_labels_drawn_from_the_probabilities_are_calibrated():
    p, _ = sampled(40_000, 3, 1)
    y = torch.multinomial(p, 1, generator=generator(2))[:, 0]
    assert expected_calibration_error(p, y) < 0.02


@given(st.integers(1, 40), st.integers(0, 50))
def test_one_bin_is_the_difference_of_the_means(n, seed):
    p, y = sampled(n, 3, seed)
    gap = abs(float(p.max(1).values.mean() - (p.argmax(1) == y).double().mean()))
    assert expected_calibration_error(p, y, 1) == pytest.approx(gap, abs=1e-12)
    assert expected_calibration_error(p, y, 7) >= gap - 1e-12


def test_certain_answers_and_edges():
    sure = torch.eye(3)
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0])) == 1
    # 0.5 is the end of its bin, so that it is not with 0.75.
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
    assert expected_calibration_error(p, torch.tensor([0, 1]), 2) == pytest.approx(0.625)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_agrees(dtype):
    p, y = sampled(200, 4, 3)
    narrow = p.to(dtype)
    wide = narrow.double() / narrow.double().sum(-1, keepdim=True)
    found = expected_calibration_error(narrow, y, 1)
    assert found == pytest.approx(expected_calibration_error(wide, y, 1), abs=4e-3)


def test_bad_predictions_are_refused():
    p, y = sampled(5, 3, 0)
    with pytest.raises(ValueError, match="p must sum to 1"):
        expected_calibration_error(2 * p, y)
    with pytest.raises(TypeError, match="p must be a floating-point"):
        expected_calibration_error(torch.eye(3).long(), torch.arange(3))
    with pytest.raises(ValueError, match="p must have shape"):
        expected_calibration_error(p[0], y)
    with pytest.raises(ValueError, match="y must have shape"):
        expected_calibration_error(p, y[:2])
    with pytest.raises(ValueError, match=r"y must lie in 0\.\.2"):
        expected_calibration_error(p, y + 3)
    with pytest.raises(TypeError, match="y must be an integer"):
        expected_calibration_error(p, y.double())
    with pytest.raises(ValueError, match="bins must be at least 1"):
        expected_calibration_error(p, y, 0)
