"""The network of the paper: pre-activation residual blocks (ResNetV2), encoder and decoder (fig. 3).

Letters: (B, C, H, W) feature maps, d latent entries. The same blocks give two networks: that of the paper and that
of the author's published code. In the code each decoder stage has one identity block where the paper says two.
BatchNorm never ran in training mode there, so it was a learned scale and shift for each channel: `norm="frozen"`
reproduces that.

Keras and torch pad a strided 3x3 transposed convolution on opposite sides. The two layers are mirror images of each
other, with the same shapes and counts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv_transpose2d

from vaekit.networks.chain import Chain
from vaekit.networks.norms import EPSILON, POINTWISE, activated, glorot_init, make_norm, normalised

GRID_CHANNELS = 64  # channels of the coarsest grid, 4 x 4 x 64 = 1,024 features in the paper


class PreActivation(nn.Sequential):
    """[norm, ReLU, layer], the unit of a pre-activation residual block."""

    def __init__(self, norm: str, channels: int, layer: nn.Module) -> None:
        super().__init__(make_norm(norm, channels), nn.ReLU(), layer)

    def forward(self, x: Tensor) -> Tensor:
        norm, _, layer = self
        return layer(activated(norm, x))


class Residual(nn.Sequential):
    """Units of `PreActivation` one after another."""

    def __init__(self, *units: PreActivation) -> None:
        super().__init__(*units)

    def forward(self, x: Tensor) -> Tensor:
        norms, _, layers = zip(*self, strict=True)
        x = activated(norms[0], x)
        for layer, norm in zip(layers[:-1], norms[1:], strict=True):
            x = normalised(norm, layer, x).relu_()
        return layers[-1](x)


class Doubling(nn.ConvTranspose2d):
    """The 3x3 transposed convolution that doubles height and width.

    Its bias is added afterwards: for the gradient of one inside of the layer, oneDNN has no fast kernel.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None
        assert self.bias is not None
        assert not isinstance(self.padding, str)
        doubled = conv_transpose2d(x, self.weight, None, self.stride, self.padding, self.output_padding)
        return doubled.add_(self.bias.to(doubled.dtype)[:, None, None])


class IdentityBlock(nn.Module):
    """x + f(x) with f = 3x3, 3x3, 1x1, each after norm and ReLU; keeps the shape."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.residual = Residual(
            PreActivation(norm, channels, nn.Conv2d(channels, channels, 3, padding=1)),
            PreActivation(norm, channels, nn.Conv2d(channels, channels, 3, padding=1)),
            PreActivation(norm, channels, nn.Conv2d(channels, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class DownsamplingBlock(nn.Module):
    """The identity block with stride 2 in its last 1x1, and a strided 1x1 as shortcut: halves H and W.

    A strided 1x1 reads every other row and column. Where the norm before it is pointwise, the rows and columns that
    it skips are not computed: the stride moves to the 3x3 before it, and to the input of the shortcut. The result is
    the same, and that 3x3 takes three quarters less work: a tenth of the encoder's arithmetic is saved.
    """

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.early = norm in POINTWISE
        early, late = (2, 1) if self.early else (1, 2)
        self.residual = Residual(
            PreActivation(norm, channels, nn.Conv2d(channels, channels, 3, padding=1)),
            PreActivation(norm, channels, nn.Conv2d(channels, channels, 3, padding=1, stride=early)),
            PreActivation(norm, channels, nn.Conv2d(channels, channels, 1, stride=late)),
        )
        self.shortcut = PreActivation(norm, channels, nn.Conv2d(channels, channels, 1, stride=late))

    def forward(self, x: Tensor) -> Tensor:
        # Pooling over one pixel is the slice x[:, :, ::2, ::2], but its gradient stays channels_last.
        return self.shortcut(avg_pool2d(x, 1, stride=2) if self.early else x) + self.residual(x)


class UpsamplingBlock(nn.Module):
    """1x1 then transposed 3x3, and a transposed 3x3 as shortcut: doubles H and W."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.residual = Residual(
            PreActivation(norm, in_channels, nn.Conv2d(in_channels, out_channels, 1)),
            PreActivation(norm, out_channels, Doubling(out_channels, out_channels)),
        )
        self.shortcut = PreActivation(norm, in_channels, Doubling(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class SpatialNorm(nn.Module):
    """Normalise each channel map over its pixels; one learned scale and shift a *position*, shared by the channels.

    In the author's code this is a Keras LayerNormalization over the axes (1, 2): 2 x 256 x 256 parameters.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(height, width))
        self.bias = nn.Parameter(torch.zeros(height, width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-2:], self.weight, self.bias, EPSILON)


class Encoder(nn.Module):
    """x (B, C, H, W) in [-1, 1] -> mean and logvar, (B, d) each.

    `image_shape` is (C, H, W), with H and W multiples of 2^stages. The network ends in a grid of
    H / 2^stages x W / 2^stages x 64 features and two linear heads.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        *,
        stages: int,
        channels: int = 128,
        identity_blocks: int = 2,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        blocks: list[nn.Module] = []
        for _ in range(stages):
            blocks += [IdentityBlock(channels, norm) for _ in range(identity_blocks)]
            blocks += [DownsamplingBlock(channels, norm)]
        first = [SpatialNorm(height, width), nn.Conv2d(in_channels, channels, 3, padding=1)]
        self.coarsest = len(first) + len(blocks) - 1  # where the last halving begins
        self.features = Chain(
            *first,
            *blocks,
            nn.Conv2d(channels, GRID_CHANNELS, 1),
            nn.Flatten(),
        )
        num_features = GRID_CHANNELS * (height >> stages) * (width >> stages)
        self.mean = nn.Linear(num_features, latent_dim)
        self.logvar = nn.Linear(num_features, latent_dim)
        self.apply(glorot_init)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """z (B, d) -> x_hat (B, C, H, W), about [-1, 1] but not clamped: the paper has no output non-linearity.

    `image_shape` and `stages` as in `Encoder`; the last stage goes to C channels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        *,
        stages: int,
        channels: int = 128,
        identity_blocks: int = 2,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        out_channels, height, width = image_shape
        grid = (GRID_CHANNELS, height >> stages, width >> stages)
        blocks: list[nn.Module] = []
        for stage in range(stages):
            last = stage == stages - 1
            blocks += [IdentityBlock(channels, norm) for _ in range(identity_blocks)]
            blocks += [UpsamplingBlock(channels, out_channels if last else channels, norm)]
        self.finer = 3 + identity_blocks + 1  # where the first doubling ends
        self.front: nn.Module = nn.Identity()  # what an objective puts before the first layer
        self.layers = Chain(
            nn.Linear(latent_dim, math.prod(grid)),
            nn.Unflatten(1, grid),
            nn.Conv2d(GRID_CHANNELS, channels, 3, padding=1),
            *blocks,
            nn.Conv2d(out_channels, out_channels, 1),
        )
        self.apply(glorot_init)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.front(z))
