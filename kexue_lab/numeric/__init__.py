"""The second road: values of unevaluated integrals, sums, limits and derivatives, without sympy.

sympy's `doit` is sometimes wrong. What this package computes at a point never calls it: quadrature
with breakpoints, accelerated sums, limits approached along a sequence, difference quotients. It
gives a value only if a second setting of the method confirms it.
"""

from kexue_lab.numeric.arithmetic import NoValue, Undefined
from kexue_lab.numeric.walk import UNEVALUATED, Value, kinks_of, plain_value, value

__all__ = ["UNEVALUATED", "NoValue", "Undefined", "Value", "kinks_of", "plain_value", "value"]
