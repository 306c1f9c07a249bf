"""A folder of very many tiny pictures: time and memory to prepare it, and to train from it."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import in_fresh_process, peak_mib, resident_mib, show, write_pictures

SIDE = 8


@dataclass(frozen=True)
class ManyFiles:
    """Memory and time over the number of files."""

    counts: tuple[int, ...] = (10_000, 100_000)
    """Numbers of files, nested 100 to a folder, 100 folders to a folder."""
    json: Path | None = None
    """Write the table here too."""


def prepare_and_train(folder: Path, count: int) -> dict[str, float]:
    """Processor seconds, which do not count what else the machine does; peaks of memory above that before, MiB."""
    from vaekit import preset, train
    from vaekit.config.groups import Discriminator, Network
    from vaekit.data.cache import prepare

    before, started_at = resident_mib(), time.process_time()
    prepare(folder / "pictures", SIDE, SIDE, 3)
    prepared, prepared_at = peak_mib(), time.process_time()
    prepare(folder / "pictures", SIDE, SIDE, 3)
    opened_at = time.process_time()
    config = preset(
        "fast",
        size=SIDE,
        batch=4,
        images=4 * 50,
        split=0.999,
        draws=1,
        device="cpu",
        network=Network(latent_dim=16, channels=8, max_channels=16),
        discriminator=Discriminator(channels=(8, 8, 8, 8, 8)),
    )
    train(config, folder / "pictures", folder / "run")
    return {
        "files": count,
        "prepare, s": prepared_at - started_at,
        "open again, s": opened_at - prepared_at,
        "train 50 steps, s": time.process_time() - opened_at,
        "peak of preparing, MiB": prepared - before,
        "peak with training, MiB": peak_mib() - before,
    }


def main(settings: ManyFiles) -> None:
    rows = []
    for count in settings.counts:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["VAEKIT_CACHE"] = f"{folder}/cache"
            write_pictures(Path(folder, "pictures"), count, SIDE)
            rows.append(in_fresh_process(prepare_and_train, Path(folder), count, ours=True))
    digits = dict.fromkeys(rows[0], ".1f") | {"files": ","}
    show("Many files", rows, digits, settings.json)
    more = rows[-1]["files"] - rows[0]["files"]
    if more:
        for name in ("peak of preparing, MiB", "peak with training, MiB"):
            growth = (rows[-1][name] - rows[0][name]) * 2**20 / more
            print(f"{name.removesuffix(', MiB')}: {growth:,.0f} bytes more for each file")


if __name__ == "__main__":
    main(tyro.cli(ManyFiles))
