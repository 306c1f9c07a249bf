"""What is encoded and decoded: the posterior and the VAE."""
