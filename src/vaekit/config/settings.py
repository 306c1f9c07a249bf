"""The settings of a run: frozen, typed, and checked here and nowhere else.

The Python API, the command line, its help and config.json all grow from these classes; the text under a field is
its help. Settings stop at `train`: networks and losses take plain arguments.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

OBJECTIVES = ("global", "standard", "beta")
MIN_GRID = 4  # the coarsest feature map keeps at least 4 x 4 pixels
LATENT_DIM = 512  # about, where nobody says how long the latent vector is
PATCH = 8  # the discriminator halves three times
NOT_COMPUTED = (
    "device",
    "devices",
    "checkpoint_activations",
    "log_every_steps",
    "draws",
    "save_every_minutes",
)  # a run may change these freely


def nearest_multiple(value: int, multiple: int) -> int:
    """The multiple nearest to `value`, at least one."""
    return max(1, round(value / multiple)) * multiple


def check_at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest:
        raise ValueError(f"{name} is {value}; it must be at least {lowest}")


def check_above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be above zero")


def check_between(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; it must lie between {lowest} and {highest}")


@dataclass(frozen=True)
class Network:
    """The encoder and the decoder."""

    kind: Literal["pixelshuffle", "resnetv2"] = "pixelshuffle"
    """resnetv2: the paper's blocks; pixelshuffle: the small network for small budgets."""
    latent_dim: int | None = None
    """Entries of the latent vector, d; by default 512, or the multiple of the grid's positions nearest to it."""
    heads: Literal["spatial", "dense"] = "spatial"
    """spatial: each position of the grid has entries of its own (pixelshuffle only); dense: all see all of it."""
    stages: int | None = None
    """Halvings of the resolution; by default as many as leave a 4x4 grid (64 -> 4 stages, 256 -> 6)."""
    channels: int = 32
    """Channels of all stages (resnetv2) or of the first one (pixelshuffle, doubling from there)."""
    max_channels: int = 256
    """Where the doubling ends (pixelshuffle only)."""
    encoder_blocks: int = 1
    """Identity blocks in each stage of the encoder."""
    decoder_blocks: int = 1
    """Identity blocks in each stage of the decoder."""
    norm: Literal["batch", "frozen", "group", "none"] = "none"
    """Normalisation (resnetv2 only); frozen: BatchNorm with its initial statistics, as in the author's training."""

    def __post_init__(self) -> None:
        check_at_least("network.channels", self.channels, 1)
        check_at_least("network.max_channels", self.max_channels, 1)
        if self.latent_dim is not None:
            check_at_least("network.latent_dim", self.latent_dim, 1)
        check_at_least("network.encoder_blocks", self.encoder_blocks, 0)
        check_at_least("network.decoder_blocks", self.decoder_blocks, 0)
        if self.stages is not None:
            check_at_least("network.stages", self.stages, 1)
        if self.kind == "pixelshuffle" and self.norm != "none":
            raise ValueError(f"network.norm {self.norm!r} needs --network.kind resnetv2; pixelshuffle has none")
        if self.kind == "resnetv2" and self.heads != "dense":
            raise ValueError("resnetv2 has dense heads, as in the paper; give --network.heads dense with it")


@dataclass(frozen=True)
class Discriminator:
    """The PatchGAN, and when it enters the training."""

    channels: tuple[int, int, int, int, int] = (32, 64, 128, 128, 64)
    """Channels of its first five convolutions; the sixth has one, the logit."""
    kernel: Literal[3, 4] = 4
    """Kernel of the three strided convolutions."""
    norm: Literal["batch", "frozen", "group", "none"] = "group"
    """Normalisation after each convolution."""
    norm_first: bool = False
    """Normalise after the first convolution too, the most expensive place."""
    norm_logits: bool = False
    """Normalise the logits too, as the author's code does; only sensible with frozen statistics."""
    dropout: float = 0.0
    """Share of the inner activations that is dropped."""
    start: float = 0.05
    """Fraction of the run after which the discriminator enters."""

    def __post_init__(self) -> None:
        check_between("discriminator.dropout", self.dropout, 0, 1)
        check_between("discriminator.start", self.start, 0, 1)


@dataclass(frozen=True)
class Weights:
    """The weights of the loss terms: beta_1 to beta_4 of eq. 23, and those of the standard objective (eqs 3-4)."""

    kl_global: float = 1.0
    """beta_1, on KL_G (objective global)."""
    kl_individual: float = 0.8
    """beta_2, on KL_I (objective global)."""
    l1: float = 5000.0
    """beta_3, on the mean absolute difference (all objectives)."""
    realism: float = 300.0
    """beta_4, on the cross-entropy of the realism map (where there is a discriminator)."""
    features: float = 8000.0
    """On the distance of x_hat from x in the features of the discriminator (not in the paper)."""
    kl_standard: float = 1.0
    """On the standard KL (objectives standard and beta)."""
    beta: float = 4.0
    """Multiplies kl_standard (objective beta)."""

    def __post_init__(self) -> None:
        for weight in dataclasses.fields(self):
            check_at_least(f"weights.{weight.name}", getattr(self, weight.name), 0)


@dataclass(frozen=True)
class Optimizer:
    """The optimisers of the VAE and of the discriminator, the schedule and the running average of the weights."""

    kind: Literal["muon", "adamw"] = "muon"
    """Optimiser of the VAE; muon: for matrices and convolutions, with AdamW for everything else."""
    momentum: float = 0.95
    """Decay of Muon's momentum."""
    beta1: float = 0.9
    """First-moment decay of the VAE's AdamW."""
    beta2: float = 0.99
    """Second-moment decay of both optimisers."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the VAE; 0 is plain Adam."""
    discriminator_lr: float = 1e-4
    """Peak learning rate of the discriminator."""
    discriminator_beta1: float = 0.5
    """First-moment decay of the discriminator's optimiser."""
    warmup: float = 0.03
    """Fraction of the run over which the learning rates rise from zero."""
    decay: Literal["cosine", "constant"] = "cosine"
    """What follows: cosine to zero at the end of the run, or constant."""
    clip: float | None = 3.0
    """Bound on the norm of the VAE's gradient, in multiples of its usual norm; none for no bound."""
    ema: float = 0.999
    """Decay a step of the running average of the weights, which everything drawn and saved uses."""

    def __post_init__(self) -> None:
        for name in ("momentum", "beta1", "beta2", "discriminator_beta1", "ema", "warmup"):
            check_between(f"optimizer.{name}", getattr(self, name), 0, 1)
        check_at_least("optimizer.weight_decay", self.weight_decay, 0)
        if self.clip is not None:
            check_at_least("optimizer.clip", self.clip, 1)
        check_at_least("optimizer.discriminator_lr", self.discriminator_lr, 0)


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    preset: Literal["fast", "paper", "released"] = "fast"
    """fast: small network and budget; paper: network, loss and schedule of the paper; released: the author's code."""
    size: int | tuple[int, int] = 64
    """Side of the square pictures in pixels, or height and width; multiples of 2^stages."""
    channels: int = 3
    """3: colour, 1: grey; the networks take any number, folders of pictures give these two."""
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
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time, same gradient."""
    lr: float = 1.5e-3
    """Peak learning rate of the encoder and decoder."""
    objective: Literal["global", "standard", "beta"] = "global"
    """global: the paper's; standard: the VAE's; beta: the beta-VAE's."""
    moments: Literal["samples", "means", "total"] = "total"
    """Estimator of the batch variance in KL_G: the paper's, the published code's, the noise-free one."""
    moments_memory: int = 0
    """Earlier steps whose moments KL_G sees beside those of this one, for batches of very few images."""
    gan: bool = True
    """Train against a PatchGAN discriminator."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto takes the first there is."""
    devices: int = 1
    """Processes on this machine, one a device; torchrun sets it by itself."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """fp32, or mixed precision: auto is bf16 where the hardware has it; logarithms and variances stay in fp32."""
    split: float = 0.8
    """Fraction of the pictures of each folder, in the order of names, to train on; the rest is the test set."""
    flip: bool = True
    """Mirror half of the training pictures, anew each time they are shown."""
    log_every_steps: int = 20
    """Steps between two lines of the log."""
    draws: int = 5
    """How many times over the run to evaluate on test pictures and draw the figures."""
    save_every_minutes: float = 10.0
    """Minutes between two checkpoints."""
    network: Network = field(default_factory=Network)
    discriminator: Discriminator = field(default_factory=Discriminator)
    weights: Weights = field(default_factory=Weights)
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        for name in ("channels", "images", "batch", "devices", "log_every_steps", "draws"):
            check_at_least(name, getattr(self, name), 1)
        if self.minutes is not None:
            check_above_zero("minutes", self.minutes)
        check_above_zero("lr", self.lr)
        check_above_zero("save_every_minutes", self.save_every_minutes)
        if not 0 < self.split < 1:
            raise ValueError(f"split is {self.split}; it must lie between 0 and 1, with pictures left to test on")
        check_at_least("seed", self.seed, 0)
        check_at_least("moments_memory", self.moments_memory, 0)
        if self.moments_memory and self.objective != "global":
            raise ValueError(
                f"moments_memory {self.moments_memory} needs --objective global; "
                f"{self.objective} has no batch moments to remember"
            )
        self._check_batch()
        self._check_size()

    def _check_batch(self) -> None:
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

    def _check_size(self) -> None:
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
        """Entries of the latent vector, d: those asked for, or about 512."""
        shared_by = math.prod(self.grid) if self.network.heads == "spatial" else 1
        return self.network.latent_dim or nearest_multiple(LATENT_DIM, shared_by)

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
        return from_dict(cls, values)


PAPER_NETWORK = Network(
    kind="resnetv2",
    latent_dim=512,
    heads="dense",
    channels=128,
    max_channels=128,
    encoder_blocks=2,
    decoder_blocks=2,
    norm="batch",
)
PAPER_DISCRIMINATOR = Discriminator(
    channels=(128, 128, 128, 64, 64), kernel=3, norm="batch", norm_first=True, dropout=0.25, start=0.0
)
# beta1 = 0.5 is from the author's code (the paper names none); beta2 is Keras' default.
PAPER_OPTIMIZER = Optimizer(
    kind="adamw",
    beta1=0.5,
    beta2=0.999,
    weight_decay=0.0,
    discriminator_lr=1e-4,
    warmup=0.0,
    decay="constant",
    clip=None,
)
# 24,000 training images; the author's notes speak of 300 to 400 epochs.
PAPER = Config(
    preset="paper",
    size=256,
    images=24_000 * 300,
    batch=20,
    lr=1e-4,
    network=PAPER_NETWORK,
    discriminator=PAPER_DISCRIMINATOR,
    moments="samples",
    weights=Weights(kl_individual=0.5, realism=100.0, features=0.0),
    optimizer=PAPER_OPTIMIZER,
)
RELEASED = dataclasses.replace(
    PAPER,
    preset="released",
    batch=10,
    moments="means",
    network=dataclasses.replace(PAPER_NETWORK, decoder_blocks=1, norm="frozen"),
    discriminator=dataclasses.replace(PAPER_DISCRIMINATOR, norm="frozen", norm_logits=True, dropout=0.0),
    weights=Weights(kl_individual=0.1, realism=100.0, features=0.0),
)
PRESETS = {"fast": Config(), "paper": PAPER, "released": RELEASED}


def preset(name: str = "fast", **changes: Any) -> Config:
    """The settings called `name` ("fast", "paper" or "released") with some of them changed.

    `changes` are fields of `Config`, for instance `preset("released", size=64)`. Raises `ValueError` for an unknown
    name or field, and for values that do not fit together.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    known = [setting.name for setting in dataclasses.fields(Config)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"unknown setting {', '.join(unknown)}; choose from {', '.join(known)}")
    return dataclasses.replace(PRESETS[name], **changes)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Settings by dotted name whose values differ, as (old, new)."""
    before, after = flatten(dataclasses.asdict(old)), flatten(dataclasses.asdict(new))
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Those of the differences that change what a run computes."""
    return {name: values for name, values in differences(old, new).items() if name not in NOT_COMPUTED}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def from_dict(cls: Any, values: Any, prefix: str = "") -> Any:
    """Build a (nested) dataclass from plain JSON values, checking names and types."""
    if not isinstance(values, dict):
        raise ValueError(f"not a vaekit config: {prefix or 'the file'} holds no settings but {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"unknown setting in config: {', '.join(prefix + name for name in unknown)}")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = from_dict(hints[name], value, f"{prefix}{name}.")
            continue
        value = tuple(value) if isinstance(value, list) else value
        if not fits(value, hints[name]):
            raise ValueError(f"setting {prefix}{name} is {value!r}, not {hints[name]}")
        arguments[name] = value
    return cls(**arguments)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has the type of a setting: numbers, text, None, choices and tuples of them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, argument) for argument in arguments)
    if origin is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(arguments)
            and all(fits(item, argument) for item, argument in zip(value, arguments, strict=True))
        )
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
