"""Tests of the measures of sample quality."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial import cKDTree

from kexue_lab.diffusion.quality import frechet_distance, nearest_distance


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_distance_by_the_matrix_root():
    x, y = normal(50, 4), 1 + normal(70, 4, seed=1) @ normal(4, 4, seed=2)
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    gap = np.square(x.numpy().mean(0) - y.numpy().mean(0)).sum()
    expected = gap + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_shift_and_of_flat_samples():
    x = normal(30, 3)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x + torch.tensor([3.0, 4, 0])) == pytest.approx(25)
    assert frechet_distance(normal(2, 5), normal(3, 5, seed=1)) > 0  # singular covariances


def test_nearest_distance_by_a_tree():
    x, reference = normal(20, 6), normal(100, 6, seed=1)
    expected = cKDTree(reference.numpy()).query(x.numpy())[0]
    torch.testing.assert_close(nearest_distance(x, reference), torch.as_tensor(expected))
    assert nearest_distance(reference[:5], reference).max() < 1e-6


@pytest.mark.parametrize("measure", [frechet_distance, nearest_distance])
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ([[1.0]], normal(3, 1), TypeError, "x must be a floating-point tensor, got list"),
        (normal(3, 1), normal(3, 1).float(), TypeError, "share one dtype"),
        (normal(3), normal(3, 1), ValueError, r"x must have shape \(N, d\)"),
        (normal(0, 2), normal(3, 2), ValueError, r"x must have shape .*\(0, 2\)"),
        (normal(3, 2), normal(3, 1), ValueError, r"must share the dimension d, got \[2, 1\]"),
    ],
)
def test_bad_input(measure, x, y, error, message):
    with pytest.raises(error, match=message):
        measure(x, y)


def test_a_covariance_needs_two_rows():
    with pytest.raises(ValueError, match=r"y must have shape .* N >= 2"):
        frechet_distance(normal(3, 1), normal(1, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_points_close_together_far_from_the_origin(dtype):
    g = torch.Generator().manual_seed(0)
    x, y = (1000 + 2 * torch.randn(n, 64, generator=g) for n in (40, 30))
    x, y = x.to(dtype), y.to(dtype)
    exact = (x.double()[:, None] - y.double()).square().sum(-1).sqrt().amin(-1)
    assert torch.allclose(nearest_distance(x, y).double(), exact, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100, 1e200])
def test_distances_scale_with_the_points(scale):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    far = torch.tensor([[0.0, 5.0]], dtype=torch.float64)
    expected = nearest_distance(x, far) * scale
    assert torch.allclose(nearest_distance(x * scale, far * scale), expected, rtol=1e-14, atol=0)


def test_a_distance_beyond_the_dtype_is_refused():
    x = torch.tensor([[60000.0]], dtype=torch.float16)
    with pytest.raises(ValueError, match=r"nearest_distance must fit torch.float16.*120000"):
        nearest_distance(x, -x)


def test_a_sample_is_never_at_a_negative_distance_of_itself():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(3)) + 1e6
    assert 0 <= frechet_distance(x, x) < 1e-12
