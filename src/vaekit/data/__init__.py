"""From a folder of pictures to batches of uint8 pixels: decoded once, read in shuffled order."""
