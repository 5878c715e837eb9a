"""The shared checks of arguments: what passes, and what is said of the rest."""

import math

import numpy as np
import pytest
import torch

from kexue_lab.validation import (
    as_floating,
    as_masses,
    check_count,
    check_distribution,
    check_finite,
    check_floating,
    check_leading,
    check_mask,
    check_non_negative,
    check_positive,
    check_same_place,
)

X = torch.zeros(2)
SQUARE = torch.Size([3, 3])
META = torch.zeros(2, device="meta")


def test_good_arguments_pass():
    check_floating(x=X, y=torch.ones(3, 1))
    check_floating(x=X.double())
    check_finite(x=X, y=torch.ones(3))
    check_positive(rate=1e-300, width=3)
    check_non_negative(rate=0.0, width=3)
    check_count(n=1, m=10)
    check_count(0, n=0)
    check_leading(q=torch.Size([3, 1]), k=torch.Size([4]), v=torch.Size([]))
    check_distribution(p=torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    check_distribution(torch.float16, p=torch.tensor([0.3, 0.69]))
    check_same_place("x", X, "y", torch.ones(1))
    check_mask(torch.Size([2, 3, 4]), mask=torch.ones(3, 1, dtype=torch.bool), other=None)


def test_what_torch_takes_is_a_tensor():
    assert as_floating("x", np.array([1.0, 2.0])).tolist() == [1, 2]
    assert as_masses("p", [1, 3], X.double()).dtype == torch.float64
    assert as_masses("p", np.array([1, 3]), X).dtype == torch.float32
    assert as_masses("p", torch.ones(2).double(), X).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_floating(x=[1.0]), TypeError, "x must be a floating-point tensor, got list"),
        (lambda: check_floating(x=X.long()), TypeError, "x must be .*, got torch.int64"),
        (lambda: check_floating(y=X, x=1.0), TypeError, "x must be .*, got float"),
        (
            lambda: check_floating(x=X, y=X.double()),
            TypeError,
            "x, y must share one dtype, got torch.float32, torch.float64",
        ),
        (lambda: check_floating(x=X, y=META), ValueError, "x, y must lie on one device.*meta"),
        (lambda: check_finite(x=X, y=X / 0), ValueError, "y must be finite, got nan"),
        (lambda: check_finite(x=X + math.inf), ValueError, "x must be finite"),
        *(
            (lambda v=v: check_positive(rate=v), ValueError, f"rate must be positive.*got {v}")
            for v in (0, -1.5, math.inf, math.nan)
        ),
        *(
            (lambda v=v: check_non_negative(width=v), ValueError, f"width must be non-neg.*{v}")
            for v in (-1e-9, math.inf, math.nan)
        ),
        (lambda: check_positive(rate="fast"), TypeError, "rate must be a real number, got str"),
        (lambda: check_non_negative(width=None), TypeError, "width must be a real number.*None"),
        (lambda: check_count(n=0), ValueError, "n must be at least 1, got 0"),
        (lambda: check_count(2, n=3, m=1), ValueError, "m must be at least 2, got 1"),
        (
            lambda: check_leading(q=torch.Size([3]), k=torch.Size([1]), v=torch.Size([2])),
            ValueError,
            r"q, k, v must have leading dimensions that broadcast, got \(3,\), \(1,\), \(2,\)",
        ),
        (lambda: check_count(n=2.0), TypeError, "n must be an integer, got 2.0"),
        (lambda: check_count(n=True), TypeError, "n must be an integer, got True"),
        (
            lambda: check_mask(SQUARE, mask=torch.ones(3, 3)),
            TypeError,
            "mask must be boolean, got torch.float32",
        ),
        (lambda: check_mask(SQUARE, seen=[[True]]), TypeError, "seen must be boolean, got list"),
        (
            lambda: check_mask(SQUARE, mask=torch.ones(2, 3).bool()),
            ValueError,
            r"mask must broadcast to \(3, 3\), got \(2, 3\)",
        ),
        (lambda: check_mask(SQUARE, mask=torch.ones(2, 3, 3).bool()), ValueError, "broadcast to"),
        (
            lambda: check_mask(SQUARE, mask=torch.eye(3).bool().tril(-1)),
            ValueError,
            "mask must let each row see a column, got a row that sees none",
        ),
        (lambda: check_distribution(p=X - 2), ValueError, "p must be non-negative, got smallest"),
        (lambda: check_distribution(q=torch.ones(2)), ValueError, "q must sum to 1.*got sum 2"),
        (lambda: as_floating("x", "word"), TypeError, "x must be a tensor or an array"),
        (lambda: as_floating("x", [1, 2]), TypeError, "x must be floating point, got torch.int64"),
        (lambda: as_masses("p", [1.0, math.nan], X), ValueError, "p must be finite"),
        (
            lambda: check_same_place("x", X, "y", X.double()),
            ValueError,
            "x must have the dtype and device of y, torch.float64 on cpu, got torch.float32",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
