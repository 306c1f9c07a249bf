"""Make pictures of shapes whose factors are known."""

from __future__ import annotations

from pathlib import Path

from vaekit.commands.sample import check_empty
from vaekit.data.factors import write_shapes


def make_shapes(out: str | Path, count: int = 6000, size: int = 64, seed: int = 0) -> Path:
    """Write `count` pictures of a coloured shape and factors.csv, the table of their factors, into the empty `out`.

    A model that is trained on them is scored by how its latents follow the factors: see `measures.disentanglement`,
    which needs 200 test pictures, a fifth of 1,000.
    Returns `out`. Raises `ValueError` for a folder that holds files, no pictures, and a side below 16.
    """
    if count < 1:
        raise ValueError(f"{count} pictures; ask for one or more")
    if size < 16:
        raise ValueError(f"size {size}: shapes of fewer than 16 pixels cannot be told apart")
    folder = Path(out)
    check_empty(folder)
    write_shapes(folder, count, size, seed)
    return folder
