"""Loss functions: what they optimise, and what that does to a classifier.

- `accuracy`: accuracy as a differentiable objective
"""
