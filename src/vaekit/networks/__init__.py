"""Layers: tensors in, tensors out. Nothing here knows of a VAE."""
