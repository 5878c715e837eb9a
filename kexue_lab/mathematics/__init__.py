"""Probability, combinatorics and differential equations.

- `cross_counting`: colourings of a cross; an unbiased count by a learned sampler
- `em`: expectation-maximisation as alternating minimisation, and its rate
- `gaussian_mixture`: Gaussian mixtures by EM, many starts at once
- `soft_kmeans`: mixtures with fixed spherical covariances, down to K-means
- `linear_ode`: the last solution of a linear system from the others
- `random_sector`: random points in one sector, half-spaces, separable labels
"""
