"""Laws of the decision: nothing false is proved, nothing true refuted, little left undecided."""

import random

import pytest
from identities import FAMILIES, TRAPS, drawn, neighbour

from kexue_lab.symbolic import as_side, decide

SECONDS = 10


def outcome(statement):
    left, right = as_side(statement.left, "left"), as_side(statement.right, "right")
    return decide(left, right, statement.domain, SECONDS).outcome


def test_what_is_true_is_proved():
    outcomes = [(s, outcome(s)) for family in FAMILIES for s in drawn(family, 7)]
    undecided = [s for s, found in outcomes if found == "undecided"]
    print(f"{len(outcomes)} identities, {len(undecided)} undecided: {undecided}")
    assert len(outcomes) > 120
    assert not [s for s, found in outcomes if found == "different"]
    assert len(undecided) < 0.1 * len(outcomes), undecided


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_neighbours_of_what_is_true_are_not_proved(family):
    rng = random.Random(1)
    outcomes = [(false, outcome(false)) for s in drawn(family, 7) for false in [neighbour(s, rng)]]
    assert not [false for false, found in outcomes if found == "equal"]
    assert any(found == "different" for _, found in outcomes)


@pytest.mark.parametrize("family", TRAPS, ids=lambda family: family.__name__)
def test_what_careless_evaluation_proves_is_not_proved(family):
    assert not [s for s in drawn(family, 6) if outcome(s) == "equal"]
