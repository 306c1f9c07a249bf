"""What is minimised: one file an objective, its terms and their weights."""
