"""Diffusion models: schedules, samplers, variances and their exact solutions."""
