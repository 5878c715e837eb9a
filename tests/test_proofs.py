"""Laws of the decision: nothing false is proved, nothing true refuted, little left undecided."""

import random

import pytest
from identities import FAMILIES, TRAPS, drawn, neighbour

from kexue_lab import symbolic
from kexue_lab.limits import Outcome, run_forked
from kexue_lab.symbolic import as_side, decide

SECONDS = 10


def outcomes(statements):
    """What is decided of each, in one process that is thrown away.

    A process of its own for each, as `decide` has it, would take half of the time.
    """

    def decided():
        symbolic.run_forked = run_here
        return [outcome(statement) for statement in statements]

    return run_forked(decided, SECONDS * len(statements)).result()


def run_here(function, _):
    return Outcome(function(), None, "")


def outcome(statement):
    left, right = as_side(statement.left, "left"), as_side(statement.right, "right")
    return decide(left, right, statement.domain, SECONDS).outcome


def test_what_is_true_is_proved():
    statements = [statement for family in FAMILIES for statement in drawn(family, 7)]
    found = list(zip(statements, outcomes(statements), strict=True))
    undecided = [s for s, what in found if what == "undecided"]
    print(f"{len(found)} identities, {len(undecided)} undecided: {undecided}")
    assert len(found) > 120
    assert not [s for s, what in found if what == "different"]
    assert len(undecided) < 0.1 * len(found), undecided


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_neighbours_of_what_is_true_are_not_proved(family):
    rng = random.Random(1)
    false = [neighbour(statement, rng) for statement in drawn(family, 7)]
    found = outcomes(false)
    assert not [s for s, what in zip(false, found, strict=True) if what == "equal"]
    assert "different" in found


@pytest.mark.parametrize("family", TRAPS, ids=lambda family: family.__name__)
def test_what_careless_evaluation_proves_is_not_proved(family):
    statements = list(drawn(family, 6))
    found = outcomes(statements)
    assert not [s for s, what in zip(statements, found, strict=True) if what == "equal"]
