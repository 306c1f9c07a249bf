"""Densities of the latents: sampled from, evaluated, saved and loaded alike."""
