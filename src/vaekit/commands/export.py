"""A finished model for other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vaekit.export.onnx import export_onnx
from vaekit.models.vae import VAE
from vaekit.system.ranks import check_one_process


def export_run(run: str | Path, onnx: str | Path, say: Callable[[str], object] = lambda line: None) -> Path:
    """Write the model of a run as ONNX into the folder `onnx`, which is returned; see `export.onnx.export_onnx`.

    Raises `ValueError` for a folder without a model, missing packages, and results that are not those of torch.
    """
    check_one_process("export")
    export_onnx(VAE.from_pretrained(run), Path(onnx), say)
    return Path(onnx)
