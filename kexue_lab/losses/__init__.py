"""Loss functions: what they optimise, and what that does to a classifier."""
