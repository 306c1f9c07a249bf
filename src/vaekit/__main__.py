"""`python -m vaekit`, which is also how torchrun starts a rank: `torchrun -m vaekit train ...`."""

from vaekit.cli import main

if __name__ == "__main__":
    main()
