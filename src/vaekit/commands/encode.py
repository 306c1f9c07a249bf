"""The latents of any pictures, and pictures of latents again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from vaekit.commands.latents import LatentTable, check_suffix
from vaekit.commands.sample import check_empty
from vaekit.commands.tiles import reconstructed_in_tiles
from vaekit.commands.using import batches_of, load, passed, reconstructed, spread_of
from vaekit.data.pixels import to_float, to_uint8
from vaekit.data.reading import save_picture, suffix_for
from vaekit.measures.pictures import l1
from vaekit.models.batches import decode_batches
from vaekit.models.kept import weights_sha256
from vaekit.runs.folder import mark_as_output
from vaekit.runs.prior import Say
from vaekit.system.devices import float32_products
from vaekit.system.files import safe_name
from vaekit.system.ranks import check_one_process


def encode_run(
    run: str | Path, pictures: Sequence[str | Path], out: str | Path | None = None, say: Say = lambda line: None
) -> Path:
    """Write the posterior of each picture in these files and folders: mean, std, KL and reconstruction error.

    `out` is a .npz, .safetensors or .parquet, by default latents.npz in the current folder; returns its path. `say`
    hears of pictures that cannot be read. Raises `ValueError` for a folder without a model, no pictures, and another
    kind of file.
    """
    check_one_process("encode")
    path = Path(out) if out is not None else Path("latents.npz")
    check_suffix(path)
    vae = load(run)
    files: list[str] = []
    parts: list[tuple[Tensor, ...]] = []
    with float32_products(), batches_of(vae, pictures, say, "encoding") as batches:
        for batch in batches:
            posterior, x_hat = passed(vae, batch.x)
            values = (posterior.mean, posterior.std, posterior.kl_standard(), l1(batch.x, x_hat))
            parts.append(tuple(value.float().cpu() for value in values))
            files += batch.names
    mean, std, kl, errors = (torch.cat(values) for values in zip(*parts, strict=True))
    table = LatentTable(files, mean, std, kl, errors, weights_sha256(vae.state_dict()), spread_of(vae))
    return table.save(path)


def decode_run(run: str | Path, latents: str | Path, out: str | Path) -> Path:
    """Draw the pictures of latents that `encode_run` wrote, each under the name of its picture, as PNG in a folder.

    The folder `out` must be empty or not there; returns it. Raises `ValueError` for a folder without a model, latents
    of another model, and an `out` that holds files.
    """
    check_one_process("decode")
    check_empty(Path(out))
    vae = load(run)
    table = LatentTable.load(Path(latents))
    table.check_of(vae, Path(latents))
    mark_as_output(Path(out))
    names, files = OwnNames(suffix_for(vae.image_shape[0])), iter(table.files)
    with float32_products():
        for x_hat in decode_batches(vae, table.mean):
            for picture in x_hat:
                save_picture(picture, Path(out) / names.of(next(files)))
    return Path(out)


def reconstruct_run(
    run: str | Path,
    pictures: Sequence[str | Path],
    out: str | Path,
    say: Say = lambda line: None,
    tile: bool = False,
) -> Path:
    """Draw what the model makes of pictures, from the mean of the posterior, each under its own name.

    With `tile` pictures that are larger than the model's keep their size: tiles of its size are reconstructed each by
    itself, and blended; in plain areas the grid of the tiles may show faintly.

    As PNG, or as .npy for other bands than those of grey and colour. The folder `out` must be empty or not there;
    returns it. `say` hears the mean error, and which pictures cannot be read. Raises `ValueError` for a folder without
    a model, no pictures, and an `out` that holds files.
    """
    check_one_process("reconstruct")
    check_empty(Path(out))
    vae = load(run)
    errors: list[Tensor] = []
    names = OwnNames(suffix_for(vae.image_shape[0]))
    with float32_products(), batches_of(vae, pictures, say, "reconstructing", own_size=tile) as batches:
        for batch in batches:
            x = batch.x
            if tile:
                x_hat = torch.stack([reconstructed_in_tiles(vae, picture) for picture in x])
            else:
                x_hat = reconstructed(vae, x)
            mark_as_output(Path(out))
            for name, picture in zip(batch.names, x_hat, strict=True):
                save_picture(picture, Path(out) / names.of(name))
            errors.append(l1(x, to_float(to_uint8(x_hat))))
    found = torch.cat(errors)
    say(f"{len(found):,} pictures, L1 {found.mean():.4f} (from {found.min():.4f} to {found.max():.4f})")
    return Path(out)


class OwnNames:
    """Names of new files for pictures: a.jpg becomes a.png, and where that is taken, a.jpg.png."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self.taken: set[str] = set()

    def of(self, name: str) -> str:
        """The name for a picture of that name."""
        name = safe_name(name)
        short = str(PurePosixPath(name).with_suffix(self.suffix))
        chosen = f"{name}{self.suffix}" if short in self.taken else short
        self.taken.add(chosen)
        return chosen
