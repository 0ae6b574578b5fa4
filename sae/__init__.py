"""Sparse autoencoders: a site of the model in features."""
