"""The first road: what sympy makes of a side, and how it brings a difference to 0."""
