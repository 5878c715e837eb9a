"""Probability, combinatorics and differential equations."""
