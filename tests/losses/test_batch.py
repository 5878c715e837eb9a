"""Batches of logits and labels: what is refused, and how losses are reduced."""

import pytest
import torch

from kexue_lab.losses.batch import check_batch, reduced

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])


@pytest.mark.parametrize(
    ("logits", "target", "options", "error", "message"),
    [
        ([[1.0, 2.0]], torch.tensor([0]), {}, TypeError, "logits"),
        (LOGITS.long(), torch.tensor([0, 1]), {}, TypeError, "logits"),
        (LOGITS, [0, 1], {}, TypeError, "target must be an integer tensor, got list"),
        (LOGITS, torch.tensor([0.0, 1.0]), {}, TypeError, "got torch.float32"),
        (LOGITS[0], torch.tensor([0]), {}, ValueError, "logits must have shape"),
        (LOGITS[:, :1], torch.tensor([0, 0]), {}, ValueError, "C ≥ 2"),
        (LOGITS[:0], torch.zeros(0, dtype=torch.long), {}, ValueError, "B ≥ 1"),
        (LOGITS, torch.tensor([0]), {}, ValueError, "target must have shape"),
        (LOGITS, torch.tensor([0, 3]), {}, ValueError, "0..2, got 3"),
        (LOGITS, torch.tensor([-1, 0]), {}, ValueError, "got -1"),
        (LOGITS, torch.tensor([-1, -1]), {"ignored": -1}, ValueError, "only -1"),
        (LOGITS * torch.inf, torch.tensor([0, 1]), {}, ValueError, "logits"),
        (LOGITS * torch.nan, torch.tensor([0, 1]), {"infinite": True}, ValueError, "nan"),
    ],
)
def test_bad_batches_are_refused(logits, target, options, error, message) -> None:
    with pytest.raises(error, match=message):
        check_batch(target, logits=logits, **options)


def test_good_batches_pass() -> None:
    check_batch(torch.tensor([2, 0], dtype=torch.uint8), logits=LOGITS)
    check_batch(torch.tensor([0, -100]), ignored=-100, scores=LOGITS)
    check_batch(torch.tensor([0, 1]), infinite=True, logits=torch.full((2, 3), torch.inf))
    huge = torch.full((2, 3), 3e38)  # finite, though their sum is not
    check_batch(torch.tensor([0, 1]), logits=huge)


def test_under_vmap_values_are_not_looked_at() -> None:
    def first(target: torch.Tensor) -> torch.Tensor:
        check_batch(target, logits=LOGITS)
        return target[0]

    assert torch.vmap(first)(torch.tensor([[0, 1], [2, 2]])).tolist() == [0, 2]


def test_reductions_are_torchs() -> None:
    target = torch.tensor([0, 2])
    each = torch.nn.functional.cross_entropy(LOGITS, target, reduction="none")
    for reduction in ("mean", "sum", "none"):
        expected = torch.nn.functional.cross_entropy(LOGITS, target, reduction=reduction)
        torch.testing.assert_close(reduced(each, reduction, torch.float32), expected)
    torch.testing.assert_close(reduced(each, "mean", torch.float32, count=1), each.sum())


def test_the_mean_of_huge_losses_is_finite() -> None:
    huge = torch.full((4,), 3e38)
    torch.testing.assert_close(reduced(huge, "mean", torch.float32), huge[0])
    with pytest.raises(ValueError, match="the loss must fit"):
        reduced(huge, "sum", torch.float32)
