"""Encoder and decoder as archives of torch.export: programs that need torch, and nothing of vaekit."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.export.onnx import BATCHES, Parts, apart, with_examples
from vaekit.models.vae import VAE
from vaekit.system.files import replacing

FILES = ("encoder.pt2", "decoder.pt2")
MOST = 1e-4  # that they may differ by


def export_archives(vae: VAE, folder: Path, say: Callable[[str], object] = lambda line: None) -> Path:
    """Write encoder.pt2 (x -> mean, logvar) and decoder.pt2 (z -> x_hat,) for any batch; returns the folder.

    `torch.export.load("encoder.pt2").module()(x)` runs one. Raises `ValueError` for results that differ from the
    model's by more than 0.0001.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vae, x, z = with_examples(vae)
    for name, network, value in zip(FILES, (vae.encoder, vae.decoder), (x, z), strict=True):
        difference = archived(Parts(network), value, folder / name)
        say(f"{name}: {(folder / name).stat().st_size / 2**20:.1f} MiB, within {difference:.1e} of the model")
    return folder


@torch.no_grad()
def archived(network: nn.Module, value: Tensor, path: Path) -> float:
    """Write a network as an archive, and compare it at each batch before it is kept: the greatest difference."""
    with replacing(path) as unfinished:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = {"inputs": ({0: torch.export.Dim("batch", min=1)},)}
            program = torch.export.export(network, (value,), dynamic_shapes=shapes)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # lines of code, with the folders of this machine
            held = io.BytesIO()
            torch.export.save(program, held)
            unfinished.write_bytes(held.getvalue())
            again = torch.export.load(held).module()
        pairs = (zip(network(value[:n]), again(value[:n]), strict=True) for n in BATCHES)
        difference = float(np.max([apart(one.numpy(), other.numpy()) for pair in pairs for one, other in pair]))
        if not difference <= MOST:
            raise ValueError(f"{path.name} differs from the model by {difference:.2g}: it is not kept")
    return difference
