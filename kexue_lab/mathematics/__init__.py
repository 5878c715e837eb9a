"""Probability, combinatorics and differential equations.

- `em`: expectation-maximisation as alternating minimisation; Gaussian mixtures
- `linear_ode`: the last solution of a linear system from the others
- `random_sector`: random points in one sector, half-spaces, separable labels
"""
