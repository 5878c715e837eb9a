"""The verdict on a claim of equality, from both roads: sympy's and that of numbers."""

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

import sympy as sp
from sympy.core.function import AppliedUndef

from kexue_lab.algebra.assumptions import Domain, unbounded, without_cases
from kexue_lab.algebra.cases import orders
from kexue_lab.algebra.evaluation import evaluated
from kexue_lab.algebra.ladder import first_rungs, further_rungs, towards_zero
from kexue_lab.numeric import UNEVALUATED, kinks_of
from kexue_lab.numeric.comparison import Comparison, Counterexample, Pair, compare

# So many points with equal values confirm a proof, where there is anything to vary.
_CONFIRMING = 3
# Hints to sympy's integration, for when its first choice went wrong.
_OTHER_METHODS: tuple[dict[str, bool], ...] = ({"meijerg": False}, {"manual": True})


@dataclass(frozen=True)
class Verdict:
    """What was found about two sides.

    Args:
        outcome: whether the sides are equal.
        difference: left - right, simplified as far as it went.
        counterexample: a point at which they differ, with both values.
        reason: why there is no verdict, or why it is not confirmed.
        confirmed: whether numbers computed without sympy's evaluation say the same. If not, the
            verdict is sympy's alone.
    """

    outcome: Literal["equal", "different", "undecided"]
    difference: Any
    counterexample: Counterexample | None = None
    reason: str = ""
    confirmed: bool = False


@dataclass(frozen=True)
class Claim:
    """Pairs of scalars that are to be equal, for all values of their symbols in the domain."""

    pairs: list[Pair]
    domain: Domain = field(default_factory=dict)

    def verdict(self) -> Verdict:
        """Decide; a proof and a refutation both need numbers that do not contradict them."""
        worked = [(evaluated(left), evaluated(right)) for left, right in self.pairs]
        rests = [towards_zero(self._difference(*pair), first_rungs()) for pair in worked]
        numbers = compare(self.pairs, self.domain)
        if numbers.counterexample:
            rest = _first_nonzero(rests)
            rest = _raw(self.pairs) if rest is None else rest
            return Verdict("different", rest, numbers.counterexample, confirmed=True)
        if numbers.trouble:
            return Verdict("undecided", _raw(self.pairs), reason=numbers.trouble)
        if _first_nonzero(rests) is not None:
            rests = [
                rest and self._simplified(*pair) for rest, pair in zip(rests, worked, strict=True)
            ]
        rest = _first_nonzero(rests)
        if rest is None or (_confirms(numbers, self.pairs) and self._equal_otherwise()):
            return self._proved(numbers)
        return self._unproved(rest, worked, numbers)

    def _difference(self, left: Any, right: Any) -> Any:
        return without_cases(left, right, self.domain) - without_cases(right, left, self.domain)

    def _simplified(self, left: Any, right: Any) -> Any:
        """The difference after all simplifiers, with what the domain says."""
        rest = self._difference(left, right)
        ranging = unbounded({s: i for s, i in self.domain.items() if s in rest.free_symbols})
        simplified = towards_zero(rest, itertools.chain(first_rungs(), further_rungs()))
        if simplified == 0 or not ranging:
            return simplified
        ranged = rest.xreplace(ranging)
        rungs = itertools.chain(first_rungs(), further_rungs())
        return 0 if towards_zero(ranged, rungs) == 0 else simplified

    def _equal_otherwise(self) -> bool:
        """Whether another integration proves it, or one proof for each order of symbols."""
        if any(side.has(sp.Integral) for pair in self.pairs for side in pair):
            ranging = unbounded(self.domain)
            return bool(ranging and self._equal_where(ranging)) or any(
                self._equal_where({}, **hints) for hints in _OTHER_METHODS
            )
        return any(
            all(self._equal_where(substitution) for substitution in substitutions)
            for substitutions in orders([side for pair in self.pairs for side in pair], self.domain)
        )

    def _equal_where(self, substitution: dict[Any, Any], **hints: bool) -> bool:
        cases = [
            (evaluated(left.subs(substitution), **hints), evaluated(right.subs(substitution)))
            for left, right in self.pairs
        ]
        return all(self._simplified(*case) == 0 for case in cases)

    def _proved(self, numbers: Comparison) -> Verdict:
        if _confirms(numbers, self.pairs):
            return Verdict("equal", sp.S.Zero, confirmed=True)
        reason = numbers.silence or "the sides have values at too few points"
        if all(_is_tame(side) for pair in self.pairs for side in pair):
            return Verdict("equal", sp.S.Zero, reason=f"no number to confirm it: {reason}")
        return Verdict(
            "undecided",
            _raw(self.pairs),
            reason=f"sympy's evaluation may be wrong here, and no number confirms it: {reason}",
        )

    def _unproved(self, rest: Any, worked: list[Pair], numbers: Comparison) -> Verdict:
        """Sympy's difference is not 0, yet no number computed without it shows one."""
        forms = compare(worked, self.domain)
        if forms.counterexample is None:
            return Verdict("undecided", rest, reason="sympy could not bring the difference to 0")
        if not _confirms(numbers, self.pairs):
            if all(_is_tame(side) for pair in self.pairs for side in pair):
                reason = f"no number to confirm it: {numbers.silence}"
                return Verdict("different", rest, forms.counterexample, reason=reason)
            return Verdict("undecided", rest, reason=f"no number could be had: {numbers.silence}")
        # A difference too small for quadrature to see, or an evaluation that went wrong?
        ways = zip(self.pairs, worked, strict=True)
        evaluations = [way for pair, form in ways for way in zip(pair, form, strict=True)]
        wrong = compare(evaluations, self.domain)
        if wrong.counterexample is None and not wrong.trouble:
            return Verdict("different", rest, forms.counterexample, confirmed=True)
        reason = f"numbers agree; but sympy's evaluation of a side is wrong, {wrong.counterexample}"
        return Verdict("undecided", rest, reason=reason)


def _raw(pairs: list[Pair]) -> Any:
    return next((left - right for left, right in pairs if left != right), sp.S.Zero)


def _first_nonzero(rests: list[Any]) -> Any:
    return next((rest for rest in rests if rest != 0), None)


def _confirms(numbers: Comparison, pairs: list[Pair]) -> bool:
    """Whether the sides were found equal at enough points."""
    different = [pair for pair in pairs if pair[0] != pair[1]]
    varies = any(side.free_symbols or side.atoms(AppliedUndef) for p in different for side in p)
    return not different or numbers.agreed >= (_CONFIRMING if varies else 1)


def _is_tame(side: Any) -> bool:
    """Whether nothing in the side is of a kind that sympy is known to evaluate wrongly.

    That is: no limit, no infinite range, and no zero of a denominator, kink, jump or cut that a
    variable of integration, summation or differentiation might meet.
    """
    if side.has(sp.Limit, sp.DiracDelta, sp.oo, -sp.oo):
        return False
    met = [
        (node.args[0], variable)
        for node in side.atoms(*UNEVALUATED)
        for variable in _variables(node)
    ]
    return all(g.is_nonzero for body, variable in met for g in kinks_of(body, variable))


def _variables(node: Any) -> list[Any]:
    return list(node.variables)
