"""The PatchGAN discriminator: a map of realism logits, one for each patch of the picture (section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from vaekit.networks.norms import glorot_init, make_norm

STRIDES = (2, 2, 2, 1, 1, 1)
LEAK = 0.3


class PatchDiscriminator(nn.Module):
    """x (B, C, H, W) in [-1, 1] -> realism logits (B, 1, H/8, W/8): high where a patch looks real.

    Six convolutions with strides 2 2 2 1 1 1, the first five `channels` wide, each followed by norm (the first one
    only with `norm_first`), LeakyReLU(0.3) and dropout. The author's code also normalises and drops the *logits*
    (`norm_logits`). Live BatchNorm would then centre the logits of real and of fake batches on the same value, and the
    two could not be distinguished. In the author's training BatchNorm was never live (see `resnetv2`), so use
    `norm_logits` with `norm="frozen"` and `dropout=0`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: tuple[int, ...] = (128, 128, 128, 64, 64),
        kernel: int = 3,
        norm: str = "batch",
        norm_first: bool = True,
        norm_logits: bool = False,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (in_channels, *channels, 1)
        for i, stride in enumerate(STRIDES):
            last = i == len(STRIDES) - 1
            # An even kernel works with stride 2 only; the layers that keep the size use 3 x 3.
            size = kernel if stride == 2 else 3
            layers.append(nn.Conv2d(widths[i], widths[i + 1], size, stride, padding=1))
            if (i > 0 or norm_first) and (not last or norm_logits):
                layers.append(make_norm(norm, widths[i + 1]))
            if not last:
                layers += [nn.LeakyReLU(LEAK), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.batch_statistics = norm == "batch"
        self.apply(glorot_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def activations(self, x: Tensor) -> list[Tensor]:
        """x (B, C, H, W) -> its features after each of the first five convolutions, before dropout, and the logits."""
        outputs = []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                outputs.append(x)
        return [*outputs, x]
