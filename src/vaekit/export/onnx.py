"""A model as ONNX: encoder, decoder and a step of its flow, each compared with torch before it is kept.

Nothing is sampled inside: the programs that use them draw their own noise. The batch is free, all else is fixed.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.export.precision import check_precision, in_fewer_bits, psnr_of
from vaekit.models.kept import weights_sha256
from vaekit.models.vae import VAE
from vaekit.priors.flow import QUARTER, STEPS, FlowPrior
from vaekit.system.files import replacing, write_text

NEEDED = {"onnx": "1.17", "onnxscript": "0.7.1", "onnxruntime": "1.20"}
BATCHES = (1, 3)  # that results are compared at
MOST = 1e-3  # that they may differ by
ENCODER, DECODER, STEP, GAUSSIAN, MANIFEST = (
    "encoder.onnx",
    "decoder.onnx",
    "prior_step.onnx",
    "prior_gaussian.npz",
    "manifest.json",
)

Say = Callable[[str], object]


@dataclass(frozen=True)
class Exported:
    """One file: the names of its inputs and outputs, the greatest difference from torch, and its size."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float
    num_bytes: int


def export_onnx(
    vae: VAE,
    folder: Path,
    say: Say = lambda line: None,
    precision: str = "fp32",
    judged_by: Callable[[], tuple[Tensor, str]] | None = None,
) -> list[Exported]:
    """Write encoder.onnx (x -> mean, logvar) and decoder.onnx (z -> x_hat); with a flow also prior_step.onnx.

    That one gives dw/da of (w, a), and of what is told of each picture where the flow has labels; prior_gaussian.npz
    holds the mean and the root that make z of the w at the end. manifest.json says what is there, of which weights, and
    how far each is from torch. Below fp32, encoder and decoder are converted after that, and what it costs is the PSNR
    of pictures (N, C, H, W) that `judged_by` gives, with what they are.

    Raises `ValueError` if packages are missing, and for a difference above 0.001.
    """
    check_packages()
    check_precision(precision)
    folder.mkdir(parents=True, exist_ok=True)
    vae, x, z = with_examples(vae)
    parts: list[Exported] = [
        exported(Parts(vae.encoder), {"x": x}, ("mean", "logvar"), folder / ENCODER),
        exported(Parts(vae.decoder), {"z": z}, ("x_hat",), folder / DECODER),
    ]
    about: dict[str, Any] = {
        "precision": precision,
        "weights_sha256": weights_sha256(vae.state_dict()),
        "image_shape": list(vae.image_shape),
        "latent_dim": vae.latent_dim,
    }
    flow = vae.priors.get("flow")
    if isinstance(flow, FlowPrior):
        inputs = {"w": z, "a": torch.rand(len(z)) * QUARTER}
        if flow.conditions.num_rows:
            inputs["told"] = flow.conditions.unknown(len(z))
        parts.append(exported(Parts(flow.network), inputs, ("slope",), folder / STEP))
        with replacing(folder / GAUSSIAN) as unfinished, unfinished.open("wb") as file:
            np.savez(file, mean=flow.gaussian.mean.numpy(), root=flow.gaussian.root.numpy())
        about |= {"steps": STEPS, "labels": list(flow.conditions.names)}
    if precision != "fp32":
        assert judged_by is not None, "a loss of precision is judged by pictures"
        parts[:2], about["psnr_db"] = converted(vae, folder, parts[:2], precision, *judged_by())
        found = about["psnr_db"]
        say(f"{precision}: PSNR {found[precision]:.2f} dB instead of {found['fp32']:.2f}, on {found['of']}")
    for part in parts:
        say(f"{part.file}: {part.num_bytes / 2**20:.1f} MiB, within {part.difference:.1e} of torch")
    write_text(json.dumps(about | {"files": [asdict(part) for part in parts]}, indent=1) + "\n", folder / MANIFEST)
    return parts


def with_examples(vae: VAE) -> tuple[VAE, Tensor, Tensor]:
    """The model as it is exported, and some x (B, C, H, W) and z (B, d) to export and compare it with."""
    x, z = torch.rand(max(BATCHES), *vae.image_shape) * 2 - 1, torch.randn(max(BATCHES), vae.latent_dim)
    return vae.cpu().float().eval(), x, z


def converted(
    vae: VAE, folder: Path, parts: Sequence[Exported], precision: str, pictures: Tensor, what: str
) -> tuple[list[Exported], dict[str, Any]]:
    """Encoder and decoder in fewer bits, measured anew, and the PSNR of `pictures` before and after."""
    paths = folder / ENCODER, folder / DECODER
    before = psnr_of(*paths, pictures)
    in_fewer_bits(vae, *paths, precision)
    _, x, z = with_examples(vae)
    found = []
    for part, path, network, value in zip(parts, paths, (vae.encoder, vae.decoder), (x, z), strict=True):
        difference = greatest_difference(Parts(network), {part.inputs[0]: value}, path)
        found.append(replace(part, num_bytes=path.stat().st_size, difference=difference))
    return found, {"fp32": before, precision: psnr_of(*paths, pictures), "of": what}


class Parts(nn.Module):
    """A network whose outputs are a tuple, whatever they were."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(*inputs)
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def exported(network: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], path: Path) -> Exported:
    """Export a network, compare it with itself in onnxruntime, and only then put the file in its place."""
    batch = torch.export.Dim("batch", min=1)
    shapes = {"inputs": tuple({0: batch} for _ in inputs)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with replacing(path) as unfinished:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                str(unfinished),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        remove_places(unfinished)
        difference = greatest_difference(network, inputs, unfinished)
        if not difference <= MOST:
            raise ValueError(f"{path.name} differs from torch by {difference:.2g}, more than {MOST:g}: it is not kept")
        size = unfinished.stat().st_size
    return Exported(path.name, tuple(inputs), tuple(outputs), difference, size)


def remove_places(path: Path) -> None:
    """Remove what the exporter notes of where it ran: lines of code with the folders of this machine."""
    import onnx

    model = onnx.load(path)
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        for part in (*graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
    del model.metadata_props[:]
    onnx.save(model, path)


@torch.no_grad()
def greatest_difference(network: nn.Module, inputs: dict[str, Tensor], path: Path) -> float:
    """The greatest difference of any output between torch and onnxruntime, at batches of one and of several."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = 0.0
    for size in BATCHES:
        some = {name: value[:size] for name, value in inputs.items()}
        expected = network(*some.values())
        given = session.run(None, {name: value.numpy() for name, value in some.items()})
        found = np.max([found, *(apart(a.numpy(), b) for a, b in zip(expected, given, strict=True))])  # or NaN
    return float(found)


def apart(a: Any, b: Any) -> float:
    """The greatest difference of two arrays, NaN where one has that; infinities that are equal do not differ."""
    return float(np.abs(np.subtract(a, b, out=np.zeros_like(a), where=a != b)).max())


def check_packages() -> None:
    """Raise `ValueError` unless what is needed is there: onnxscript before 0.7.1 exports PixelUnshuffle wrong."""
    for name, least in NEEDED.items():
        try:
            import_module(name)
            found = version(name)
        except (PackageNotFoundError, ImportError) as error:
            raise ValueError(f'export to ONNX needs {name}; run: pip install "vaekit[onnx]"') from error
        if numbers(found) < numbers(least):
            raise ValueError(
                f'export to ONNX needs {name} {least} or later, {found} is here: pip install "vaekit[onnx]"'
            )


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
