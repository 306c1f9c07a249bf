"""Normalisations and weight initialisers as in Keras, and BatchNorm over ranks.

Norms that treat each position by itself (`POINTWISE`) allow the same result with less work: see `normalised` and
`resnetv2.DownsamplingBlock`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

BATCHNORM_MOMENTUM = 0.01  # Keras' 0.99: torch weighs the new value, Keras the old one
EPSILON = 1e-3  # Keras' default, for BatchNorm and LayerNorm
NORMS = ("batch", "frozen", "group", "none")
POINTWISE = ("frozen", "none")  # act on each position alone, so positions that the next layer skips need not exist


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that always uses its initial statistics: a learned scale and shift, times 1 / sqrt(1 + epsilon)."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        return super().train(False)


class GroupNorm(nn.GroupNorm):
    """GroupNorm in float32 or wider, whatever the features are in, as autocast has it on CUDA.

    On a CPU torch's own for bfloat16 gives the same numbers, and takes two to six times as long on channels_last maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


def make_norm(norm: str, channels: int) -> nn.Module:
    """A normalisation over feature maps of `channels` channels, one of `NORMS`, with Keras' constants."""
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=EPSILON, momentum=BATCHNORM_MOMENTUM)
    if norm == "frozen":
        return FrozenBatchNorm2d(channels, eps=EPSILON).eval()
    if norm == "group":
        # At most 16 groups, of four channels or more: a group of one would be instance normalisation.
        return GroupNorm(max([1, *(g for g in (2, 4, 8, 16) if channels % (4 * g) == 0)]), channels)
    return nn.Identity()


def glorot_init(module: nn.Module) -> None:
    """Keras' default initialisers for one layer: Glorot uniform weights, zero bias. For `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def normalised(norm: nn.Module, layer: nn.Conv2d, x: Tensor) -> Tensor:
    """norm(layer(x)). A frozen norm goes into the weights of the layer: the feature map is written once, not twice."""
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(layer(x))
    scale = norm.weight / math.sqrt(1 + norm.eps)  # (C,); the statistics are mean 0 and variance 1
    assert layer.bias is not None
    weight, bias = layer.weight * scale[:, None, None, None], layer.bias * scale + norm.bias
    return conv2d(x, weight, bias, layer.stride, layer.padding)


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """ReLU of norm(x), computed in place on the output of the norm; x is not changed."""
    return x.relu() if isinstance(norm, nn.Identity) else norm(x).relu_()


def synchronise_batch_norm(network: nn.Module) -> None:
    """Make live BatchNorm use the images of all ranks, in place; its names in the state dict do not change.

    torch has such a layer for CUDA only. Frozen BatchNorm stays frozen.
    """
    for name in [name for name, layer in network.named_modules() if type(layer) is nn.BatchNorm2d]:
        network.set_submodule(name, nn.SyncBatchNorm.convert_sync_batchnorm(network.get_submodule(name)))
