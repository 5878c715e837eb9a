"""Generative models: reparameterisation, variational autoencoders, quantisation."""
