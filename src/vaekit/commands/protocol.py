"""What has to be known of a measurement to get the same numbers again, and the numbers that are there already."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.data.attributes import Attributes, find_attributes
from vaekit.data.factors import Factors, find_factors
from vaekit.data.labels import Labels
from vaekit.measures.distances import AT_MOST
from vaekit.measures.full import Subject
from vaekit.measures.pictures import ms_ssim_scales
from vaekit.models.kept import weights_sha256
from vaekit.models.vae import WEIGHTS_FILE
from vaekit.priors.base import fitted_by
from vaekit.reports.evaluation import Evaluation
from vaekit.runs.log import last_counters
from vaekit.system.devices import precision_here
from vaekit.system.files import bytes_of, read_metadata, read_tensors, sha256

PROTOCOL_VERSION = 8  # raise it when a measure would give another number


def measured_before(path: Path, asked: Mapping[str, Any]) -> Evaluation | None:
    """What is in `path`, if it was measured by this very protocol."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return Evaluation(**result) if result["protocol"] == json.loads(json.dumps(asked)) else None


def protocol_of(
    run: Path, config: Config, subject: Subject, labels: Labels | None, normal: tuple[str, ...]
) -> dict[str, Any]:
    """What has to be known to get the same numbers again."""
    last = last_counters(run)
    return {
        "version": PROTOCOL_VERSION,
        "model": {
            "sha256": sha256(run / WEIGHTS_FILE),
            "preset": config.preset,
            "objective": config.objective,
            "moments": config.moments,
            "gan": config.gan,
            "seed": config.seed,
            "images_seen": last.get("images_seen"),
            "train_sec": last.get("elapsed_sec"),
        },
        "pictures": {
            "folder": subject.prepared.place,
            "num_images": len(subject.test.indices),
            "of": len(subject.prepared),
            "image_shape": list(config.image_shape),
            "preparation": preparation_of(config),
            "crc32": subject.prepared.crc32,
        },
        "priors": priors_sha256(run),
        "features": None if subject.extractor is None else subject.extractor.protocol() | {"neighbours_of": AT_MOST},
        "ms_ssim_scales": ms_ssim_scales(*config.image_size),
        "attributes": table_crc32(find_attributes, subject),
        "factors": table_crc32(find_factors, subject),
        "labels": None if labels is None else {"source": labels.source, "crc32": labels.crc32, "normal": normal},
        "seed": subject.seed,
        "precision": precision_here(config.precision),
        "device": subject.vae.device.type,
        "versions": {name: version(name) for name in ("vaekit", "torch", "torchmetrics", "scikit-learn")},
    }


def priors_sha256(run: Path) -> dict[str, str]:
    """Which fitted priors a run keeps, by their tensors."""
    paths = {name: run / fitted_by(name).file for name, row in PRIORS.items() if row.fitted is not None}
    return {name: weights_sha256(read_tensors(path)[0]) for name, path in paths.items() if read_metadata(path)}


def table_crc32(find: Callable[[Path, Sequence[str]], Attributes | Factors | None], subject: Subject) -> int | None:
    """A checksum of what a table says of all pictures, where there is one."""
    try:
        found = find(subject.prepared.folder, subject.prepared.names)
    except ValueError:  # a table with gaps: nothing is measured by it
        return None
    return None if found is None else zlib.crc32(found.values.tobytes(), zlib.crc32(bytes_of("\n".join(found.names))))


def preparation_of(config: Config) -> str:
    """How the pictures came to their size, and what they are measured in."""
    fit = {"crop": "cropped to the middle", "pad": "with black bars", "stretch": "stretched"}[config.fit]
    levels = "" if config.levels is None else "; values from {:g} to {:g}".format(*config.levels)
    return f"upright, {fit}, Lanczos{levels}; for distances, spectra and sharpness 8 bits"
