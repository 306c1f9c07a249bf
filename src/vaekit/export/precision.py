"""Encoder and decoder as ONNX in fewer bits, and what that costs in dB.

float16 halves the files; onnxruntime computes as before on a CPU. int8 quarters them and is about twice as fast there:
weights by channel, activations by the ranges that they have on pictures drawn from the prior, so that it needs none of
the pictures of the run. The flow stays in float32: its errors add up over fifty evaluations.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.measures.pictures import psnr
from vaekit.models.batches import decode_batches
from vaekit.models.vae import VAE
from vaekit.system.files import replacing

PRECISIONS = ("fp32", "fp16", "int8")
DRAWS = 128  # pictures whose activations are looked at
AT_ONCE = 8
LOUD = ("root", "onnxruntime", "onnxruntime.quantization")


def check_precision(precision: str) -> None:
    """Raise `ValueError` for one that is not there."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; choose one of {', '.join(PRECISIONS)}")


def in_fewer_bits(vae: VAE, encoder: Path, decoder: Path, precision: str) -> None:
    """Replace both files by ones in `precision`."""
    if precision == "fp16":
        for path in (encoder, decoder):
            halve(path)
    if precision == "int8":
        z = vae.draw(DRAWS, torch.Generator().manual_seed(0))
        x = torch.cat(list(decode_batches(vae, z))).clamp(-1, 1)
        for path, name, values in ((encoder, "x", x), (decoder, "z", z)):
            quantise(path, name, values)


def halve(path: Path) -> None:
    """Weights and activations in float16, inputs and outputs in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    with replacing(path) as unfinished:
        onnx.save(model, unfinished)


def quantise(path: Path, name: str, values: Tensor) -> None:
    """Weights and activations in 8 bits, by the activations that `values` (N, ...) as the input `name` give."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name(f".{path.name}.prepared")
    try:
        with quiet(), replacing(path) as unfinished:
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(unfinished),
                Inputs(name, values.numpy()),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        prepared.unlink(missing_ok=True)


class Inputs:
    """What onnxruntime's calibration reads: inputs, some at a time."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        parts = (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
        self.parts = iter([{name: part} for part in parts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.parts, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the converters say of each constant."""
    levels = {name: logging.getLogger(name).level for name in LOUD}
    try:
        for name in LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def psnr_of(encoder: Path, decoder: Path, x: Tensor) -> float:
    """The mean PSNR in dB of reconstructions from the means of pictures x (N, C, H, W), by onnxruntime."""
    import onnxruntime

    sessions: list[Callable[[Any, Any], Any]] = [
        onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run
        for path in (encoder, decoder)
    ]
    found = []
    for part in x.split(AT_ONCE):
        mean = sessions[0](None, {"x": part.numpy()})[0]
        x_hat = torch.from_numpy(sessions[1](None, {"z": mean})[0])
        found.append(psnr(part, x_hat))
    return torch.cat(found).mean().item()
