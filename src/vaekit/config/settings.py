"""The settings of a run: frozen, typed, and checked here and nowhere else.

The Python API, the command line, its help and config.json are derived from these classes; the text under a field is
its help. The commands, `training`, `runs` and the builders read them; everything else takes plain arguments.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vaekit.config.groups import SHAPES, Discriminator, Network, Optimizer, Weights
from vaekit.config.plain import (
    FREE,
    check_above_zero,
    check_at_least,
    fixed,
    from_dict,
    nearest_multiple,
)
from vaekit.config.priors import FittedName
from vaekit.config.variants import OBJECTIVES, OF_DISCRIMINATOR, ObjectiveName

OTHER_PIXELS = "its pictures would have other pixels"
OTHER_SPLIT = "test pictures would be some that it has trained on"
MIN_GRID = 4  # the coarsest feature map keeps at least 4 x 4 pixels
LATENT_DIM = 512  # about this many latent entries, where their number is not given
CODE_ENTRIES = 4
FINER = 4  # positions of the lower of two levels for each one of the upper
PATCH = 8  # the discriminator halves three times


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    preset: Literal["fast", "paper", "released"] = field(
        default="fast", metadata=fixed("it is only the name of a set of settings; change those")
    )
    """fast: small network and budget; paper: network, loss and schedule of the paper; released: the author's code."""
    size: int | tuple[int, int] = field(default=64, metadata=fixed(SHAPES))
    """Side of the square pictures in pixels, or height and width; multiples of 2^stages."""
    channels: int = field(default=3, metadata=fixed(SHAPES))
    """3: colour, 1: grey; or the number of bands that the pictures have."""
    init_from: str | None = field(default=None, metadata=fixed("it has begun elsewhere"))
    """Folder of a finished run to begin with the weights of; other pictures, and other sizes where layers fit."""
    seed: int = 0
    """Seeds weights, order, flips and noise."""
    images: int = 300_000
    """Length of the run: training images shown, repeats included."""
    minutes: float | None = None
    """Length of the run in minutes instead."""
    batch: int = 16
    """Images of one optimisation step over all devices: the batch whose moments KL_G sees."""
    micro_batch: int | None = None
    """Images a device works on at once, to save memory; the gradient stays that of the whole batch."""
    compile: Literal["no", "default", "reduce-overhead"] = "no"
    """Compile encoder and decoder with torch.compile, a minute at the start; reduce-overhead: with CUDA graphs."""
    checkpoint_activations: bool = field(default=False, metadata=FREE)
    """Compute activations again in the backward pass instead of keeping them: less memory, more time, same gradient."""
    lr: float = 1.5e-3
    """Peak learning rate of the encoder and decoder."""
    objective: ObjectiveName = "global"
    moments: Literal["samples", "means", "total"] = "total"
    """Estimator of the batch variance in KL_G: the paper's, the published code's, the noise-free one."""
    moments_memory: int = field(default=0, metadata=fixed("its checkpoints do not remember that many steps"))
    """Earlier steps whose moments KL_G sees beside those of this one, for batches of very few images."""
    encoder_steps: int = 5
    """Steps of the encoder for each one of the decoder over the first epoch (objective lagging)."""
    prior: FittedName | None = field(default=None, metadata=FREE)
    """What new pictures are drawn from; by default codes where latents become codes, else flow."""
    gan: bool = field(default=True, metadata=fixed("its checkpoints hold no discriminator", True))
    """Train against a PatchGAN discriminator."""
    device: Literal["auto", "cuda", "mps", "cpu"] = field(default="auto", metadata=FREE)
    """auto takes the first there is."""
    devices: int = field(default=1, metadata=FREE)
    """Processes on this machine, one a device; torchrun sets it by itself."""
    threads: int | None = field(default=None, metadata=FREE)
    """Threads of each process on CPUs; by default one for each processor that it may use."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """fp32 (tf32: coarser and faster, on CUDA), or mixed: auto is bf16 on GPUs, and on CPUs that are faster in it."""
    split: float = field(default=0.8, metadata=fixed(OTHER_SPLIT))
    """Fraction of the pictures of each folder to train on, the first ones; the rest is the test set."""
    split_by: Literal["name", "hash"] = field(default="name", metadata=fixed(OTHER_SPLIT))
    """What orders the pictures of a folder: how they come, or a hash of their names, for files that come sorted."""
    colour_profiles: bool = field(default=True, metadata=fixed(OTHER_PIXELS))
    """Bring pictures with a colour profile, or a gamma, to sRGB; off: take their numbers as they are."""
    fit: Literal["crop", "pad", "stretch"] = field(default="crop", metadata=fixed(OTHER_PIXELS))
    """How pictures of another shape come to that of `size`: cropped to the middle, with black bars, or stretched."""
    depth: Literal[8, 16] = field(default=8, metadata=fixed(OTHER_PIXELS))
    """Bits of a value that are kept of each picture, for files that have more than 8."""
    levels: tuple[float, float] | None = field(default=None, metadata=fixed(OTHER_PIXELS))
    """Values in the files that become black and white, 0 4095 for 12 bits; for integers and floats of unusual range."""
    strict: bool = field(default=False, metadata=FREE)
    """Refuse to start where a picture cannot be read, instead of leaving it out."""
    flip: bool = True
    """Mirror half of the training pictures, anew each time they are shown."""
    log_every_steps: int = field(default=20, metadata=FREE)
    """Steps between two lines of the log."""
    draws: int = field(default=5, metadata=FREE)
    """How many times over the run to evaluate on test pictures and draw the figures."""
    save_every_minutes: float = field(default=10.0, metadata=FREE)
    """Most minutes between two checkpoints; the first comes after one, and then ten over the run or more."""
    track: Literal["wandb", "trackio", "mlflow"] | None = field(default=None, metadata=FREE)
    """A service that is told of settings, losses, measures and figures, beside the log and TensorBoard of the run."""
    network: Network = field(default_factory=Network, metadata=fixed(SHAPES))
    discriminator: Discriminator = field(default_factory=Discriminator)
    weights: Weights = field(default_factory=Weights)
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        for name in ("channels", "images", "batch", "encoder_steps", "devices", "log_every_steps", "draws"):
            check_at_least(name, getattr(self, name), 1)
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)
        if self.minutes is not None:
            check_above_zero("minutes", self.minutes)
        check_above_zero("lr", self.lr)
        check_above_zero("save_every_minutes", self.save_every_minutes)
        if not 0 < self.split < 1:
            raise ValueError(f"split is {self.split}; it must lie between 0 and 1, with pictures left to test on")
        check_at_least("seed", self.seed, 0)
        if self.levels is not None and not self.levels[0] < self.levels[1]:
            raise ValueError(f"levels {self.levels[0]:g} {self.levels[1]:g}; give that of black, then that of white")
        if OBJECTIVES[self.objective].needs_gan and not self.gan:
            raise ValueError(f"objective {self.objective} has no likelihood without its discriminator; leave --gan on")
        if OBJECTIVES[self.objective].needs_gan and self.weights.features == 0:
            raise ValueError(
                f"objective {self.objective} compares pictures in features alone; give --weights.features, say 8000"
            )
        if self.prior == "codes" and OBJECTIVES[self.objective].front != "codes":
            coded = " or ".join(name for name, row in OBJECTIVES.items() if row.front == "codes")
            raise ValueError(f"prior codes needs latents that become codes; give --objective {coded}")
        check_at_least("moments_memory", self.moments_memory, 0)
        if self.moments_memory and not OBJECTIVES[self.objective].batch_moments:
            needed = " or ".join(name for name, row in OBJECTIVES.items() if row.batch_moments)
            raise ValueError(
                f"moments_memory {self.moments_memory} needs --objective {needed}; "
                f"{self.objective} has no batch moments to remember"
            )
        self.check_batch()
        self.check_size()

    def check_batch(self) -> None:
        if self.batch < 2:
            raise ValueError(
                f"batch {self.batch}: the variance of one image is zero and its logarithm infinite; "
                "give --batch 2 or more"
            )
        if self.batch % self.devices:
            raise ValueError(f"batch {self.batch} cannot be shared evenly by {self.devices} devices")
        if self.micro_batch is not None:
            check_at_least("micro_batch", self.micro_batch, 1)
            if self.compile == "reduce-overhead":  # https://github.com/pytorch/pytorch/issues/169545
                raise ValueError(
                    "compile reduce-overhead cannot add up the gradients of micro-batches: each replay of a CUDA graph "
                    "overwrites those before; take --compile default, or leave out --micro-batch"
                )

    def check_size(self) -> None:
        height, width = self.image_size
        check_at_least("size", min(height, width), 2 * MIN_GRID)
        multiple = 2**self.num_stages
        if self.gan:
            multiple = max(multiple, PATCH)
        if self.num_stages == 0 or height % multiple or width % multiple:
            multiple = max(multiple, 2)
            raise ValueError(
                f"size {height}x{width} does not fit this network: height and width must be multiples of {multiple}, "
                f"for example {nearest_multiple(height, multiple)}x{nearest_multiple(width, multiple)}"
            )
        positions = math.prod(self.grid)
        if self.network.heads == "spatial" and self.latent_dim % positions:
            raise ValueError(
                f"network.latent_dim {self.latent_dim} cannot be shared evenly by the {positions} positions of the "
                f"grid; give {nearest_multiple(self.latent_dim, positions)}, or --network.heads dense"
            )
        multiple = 2 * FINER * positions
        if OBJECTIVES[self.objective].two_levels and self.num_stages < 2:
            raise ValueError(f"objective {self.objective} has two grids; give --network.stages 2, or larger pictures")
        if OBJECTIVES[self.objective].two_levels and self.latent_dim % multiple:
            raise ValueError(
                f"network.latent_dim {self.latent_dim} cannot be shared by two levels of {positions} and "
                f"{FINER * positions} positions; give {nearest_multiple(self.latent_dim, multiple)}"
            )
        entries = self.latent_dim // self.positions
        if entries % self.code_entries:
            raise ValueError(
                f"network.code_entries {self.code_entries} cannot share the {entries} entries of a position evenly; "
                f"give {math.gcd(entries, CODE_ENTRIES)}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return self.channels, *self.image_size

    @property
    def num_stages(self) -> int:
        """Halvings of the resolution: those asked for, or as many as leave a grid of at least 4 x 4."""
        if self.network.stages is not None:
            return self.network.stages
        height, width = self.image_size
        stages = 0
        while all(side % 2 ** (stages + 1) == 0 and side >> (stages + 1) >= MIN_GRID for side in (height, width)):
            stages += 1
        return stages

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the coarsest feature maps."""
        height, width = self.image_size
        return height >> self.num_stages, width >> self.num_stages

    @property
    def latent_dim(self) -> int:
        """Entries of the latent vector, d: those asked for, or about 512, in each level where there are two."""
        if self.network.latent_dim is not None:
            return self.network.latent_dim
        if OBJECTIVES[self.objective].two_levels:
            return 2 * nearest_multiple(LATENT_DIM, FINER * math.prod(self.grid))
        return nearest_multiple(LATENT_DIM, self.positions)

    @property
    def positions(self) -> int:
        """Positions of the grid that have entries of their own; 1 where all entries see all of it."""
        return math.prod(self.grid) if self.network.heads == "spatial" else 1

    @property
    def code_entries(self) -> int:
        """Entries of a code, for `vq`: those asked for, or four, or as many as share a position evenly."""
        return self.network.code_entries or math.gcd(self.latent_dim // self.positions, CODE_ENTRIES)

    @property
    def noise_dim(self) -> int:
        """Numbers of noise that a step takes for each image: eps, and a draw of N(0, I) where it needs one."""
        return self.latent_dim * (2 if OBJECTIVES[self.objective].draws else 1)

    @property
    def discriminator_start(self) -> float:
        """Fraction of the run after which the discriminator enters: none of it where it is part of the likelihood."""
        return 0.0 if OBJECTIVES[self.objective].needs_gan else self.discriminator.start

    @property
    def fitted_prior(self) -> str:
        """The prior that is fitted at the end of a training."""
        return self.prior or ("codes" if OBJECTIVES[self.objective].front == "codes" else "flow")

    @property
    def weights_read(self) -> tuple[str, ...]:
        """The weights that the objective reads, by name."""
        return OBJECTIVES[self.objective].weights + (OF_DISCRIMINATOR if self.gan else ())

    def resolved(self) -> Config:
        """The same settings with every default that depends on others written out."""
        network = dataclasses.replace(self.network, stages=self.num_stages, latent_dim=self.latent_dim)
        return dataclasses.replace(self, network=network)

    def to_json(self) -> str:
        """Readable JSON; `Config.from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read what `to_json` wrote. Raises `ValueError` for anything else, with the settings that do not fit."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a vaekit config: {error}") from error
        if isinstance(values, dict):
            for name, value in OF_BEFORE.items():
                group, _, own = name.rpartition(".")
                place = values if not group else values.get(group)
                if isinstance(place, dict):
                    place.setdefault(own, value)
        return from_dict(cls, values)


# What runs did whose config does not name these settings, where that is not the default of today.
OF_BEFORE: Mapping[str, Any] = {
    "colour_profiles": False,
    "network.heads": "dense",
    "discriminator.norm_first": True,
    "weights.features": 0.0,
    "optimizer.kind": "adamw",
}
