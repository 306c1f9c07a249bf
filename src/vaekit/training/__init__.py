"""Algorithm 1: its step, its state and its loop. Nothing here measures or draws."""
