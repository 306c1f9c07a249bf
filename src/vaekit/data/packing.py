"""Prepared pictures as tar shards, to be kept, copied and trained on elsewhere: the same pixels in the same order."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from vaekit.data.building import map_in_order
from vaekit.data.cache import Prepared
from vaekit.data.labels import labels_file
from vaekit.data.sources.folder import LABELS_FILE
from vaekit.data.view import USUAL_CHANNELS, View
from vaekit.system.files import replacing, safe_name, sha256, write_json
from vaekit.system.processors import processors

MANIFEST_FILE = "manifest.json"
SHARD_BYTES = 256 * 2**20  # of pixels
FORMAT = 1

Progress = Callable[[int, int], None]


def pack(prepared: Prepared, view: View, out: Path, progress: Progress = lambda done, total: None) -> Path:
    """Write prepared pictures into a folder as tar shards of PNGs, or of arrays for other bands and depths.

    `vaekit train` on that folder is to the bit what it is on the pictures themselves. Returns the path of a manifest:
    where they came from, how they were brought to size, what could not be read, and each shard with its checksum. A
    call that was interrupted goes on with the shard it was at; memory holds a few pictures. Raises `ValueError` if the
    folder holds other things.
    """
    manifest = described(prepared, view)
    done = finished(out, manifest)
    out.mkdir(parents=True, exist_ok=True)
    names = names_within(prepared.names, ".png" if as_png(view) else ".npy")
    per_shard = max(1, SHARD_BYTES // view.image_bytes)
    starts = range(0, len(prepared), per_shard)
    shards: list[dict[str, Any]] = []
    write_json(manifest | {"shards": list(done.values())}, out / MANIFEST_FILE)  # now the folder is known to be ours
    for number, start in enumerate(starts):
        name = f"pictures-{number:05d}.tar"
        if name in done and (out / name).is_file() and (out / name).stat().st_size == done[name]["bytes"]:
            shards.append(done[name])
        else:
            places = range(start, min(start + per_shard, len(prepared)))
            write_shard(out / name, prepared, names, places, as_png(view))
            size = (out / name).stat().st_size
            shards.append({"name": name, "pictures": len(places), "bytes": size, "sha256": sha256(out / name)})
            write_json(manifest | {"shards": shards}, out / MANIFEST_FILE)
        progress(min(start + per_shard, len(prepared)), len(prepared))
    table = labels_file(prepared.folder, prepared.names)
    if table is not None:
        shutil.copyfile(table, out / LABELS_FILE)
    write_json(manifest | {"shards": shards}, out / MANIFEST_FILE)
    return out / MANIFEST_FILE


def described(prepared: Prepared, view: View) -> dict[str, Any]:
    """What the manifest says beside the shards."""
    about = json.loads(json.dumps(asdict(view)))
    return {
        "format": FORMAT,
        "source": prepared.place,
        "fingerprint": prepared.fingerprint,
        "num_images": len(prepared),
        "crc32": prepared.crc32,
        "view": about,
        "skipped": [list(pair) for pair in prepared.skipped],
        "passed_over": dict(prepared.passed_over),
    }


def finished(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The shards of an interrupted call by name. Raises `ValueError` for a folder that holds anything else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give the folder that the shards are to go to")
    if not out.exists() or not any(out.iterdir()):
        return {}
    if not (out / MANIFEST_FILE).is_file():
        raise ValueError(f"{out} is not empty; give the shards a folder of their own")
    try:
        there = json.loads((out / MANIFEST_FILE).read_text(encoding="utf-8"))
        done = {shard["name"]: shard for shard in there.pop("shards")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{out / MANIFEST_FILE} is damaged: {error}; give another folder") from error
    if any(there.get(name) != manifest[name] for name in ("crc32", "num_images", "view")):
        raise ValueError(f"{out} holds shards of other pictures, from {there.get('source')}; give another folder")
    return done


def as_png(view: View) -> bool:
    """Whether PNG holds such pictures."""
    return view.channels in USUAL_CHANNELS and view.depth == 8


def names_within(names: Sequence[str], suffix: str) -> list[str]:
    """Names of the files in the shards: below the folder, with a suffix of their own and no other dot.

    What stands before the first dot is what WebDataset knows a picture by. Where two would be called alike, all keep
    what they were called in full, and a number if that is not enough.
    """
    paths = [PurePosixPath(safe_name(name)) for name in names]
    short = [str(path.with_name(path.stem.replace(".", "_") + suffix)) for path in paths]
    if len(set(short)) == len(names):
        return short
    full = [str(path.with_name(path.name.replace(".", "_") + suffix)) for path in paths]
    if len(set(full)) == len(names):
        return full
    return [f"{name.removesuffix(suffix)}_{i}{suffix}" for i, name in enumerate(full)]


def write_shard(path: Path, prepared: Prepared, names: list[str], places: range, png: bool) -> None:
    """One tar of some of the pictures; a reader sees a whole one or none. The same pictures give the same bytes."""

    def encode(place: int) -> bytes:
        pixels = np.ascontiguousarray(prepared.images[place].transpose(1, 2, 0))
        file = io.BytesIO()
        if png:
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=3)
        else:
            np.save(file, pixels)
        return file.getvalue()

    workers = processors()
    with (
        replacing(path) as unfinished,
        tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as tar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for place, data in zip(places, map_in_order(pool, encode, places, ahead=4 * workers), strict=True):
            header = tarfile.TarInfo(names[place])
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def check_shards(folder: Path) -> int:
    """How many shards a folder holds that `pack` wrote; raises `ValueError` for one that is missing or has changed."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    for shard in manifest["shards"]:
        path = folder / shard["name"]
        if not path.is_file():
            raise ValueError(f"{path} is missing; {folder} is to have {len(manifest['shards'])} shards")
        if sha256(path) != shard["sha256"]:
            raise ValueError(f"{path} is damaged: its checksum is not that of the manifest")
    return len(manifest["shards"])
