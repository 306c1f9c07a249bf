"""Numbers from tensors and from models."""
