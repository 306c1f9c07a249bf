"""What talks to the machine: devices, ranks, files, memory, signals."""
