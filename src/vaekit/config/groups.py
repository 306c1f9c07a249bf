"""The groups of settings within `Config`: network, discriminator, weights of the loss, optimisers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from vaekit.config.plain import check_at_least, check_between, fixed

SHAPES = "the weights of its checkpoints would not fit"


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
    pseudo_inputs: int = 32
    """Learned pictures whose posteriors are the prior (objective vamp)."""
    codes: int = 512
    """Codes that each group of entries chooses from (objectives vq and vq2)."""
    code_entries: int | None = None
    """Entries of a code; by default 4, or fewer where those do not share the entries of a position evenly."""
    norm: Literal["batch", "frozen", "group", "none"] = "none"
    """Normalisation (resnetv2 only); frozen: BatchNorm with its initial statistics, as in the author's training."""

    def __post_init__(self) -> None:
        check_at_least("network.channels", self.channels, 1)
        check_at_least("network.max_channels", self.max_channels, 1)
        check_at_least("network.pseudo_inputs", self.pseudo_inputs, 1)
        check_at_least("network.codes", self.codes, 2)
        if self.code_entries is not None:
            check_at_least("network.code_entries", self.code_entries, 1)
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

    channels: tuple[int, int, int, int, int] = field(default=(32, 64, 128, 128, 64), metadata=fixed(SHAPES))
    """Channels of its first five convolutions; the sixth has one, the logit."""
    kernel: Literal[3, 4] = field(default=4, metadata=fixed(SHAPES))
    """Kernel of the three strided convolutions."""
    norm: Literal["batch", "frozen", "group", "none"] = field(default="group", metadata=fixed(SHAPES))
    """Normalisation after each convolution."""
    norm_first: bool = field(default=False, metadata=fixed(SHAPES))
    """Normalise after the first convolution too, the most expensive place."""
    norm_logits: bool = field(default=False, metadata=fixed(SHAPES))
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
    """beta_3, on the mean absolute difference (objectives with L1). Four times it, and realism and features, for
    pictures of twice the side keep the price of a pixel."""
    realism: float = 300.0
    """beta_4, on the cross-entropy of the realism map (where there is a discriminator)."""
    features: float = 8000.0
    """On the distance of x_hat from x in the features of the discriminator (not in the paper)."""
    kl_standard: float = 1.0
    """On the standard KL (objectives that have it)."""
    beta: float = 4.0
    """Multiplies kl_standard (objective beta)."""
    mmd: float = 3000.0
    """On the MMD of the latents of the batch and N(0, I) (objective wae-mmd); about the paper's ratio to the L1."""

    kl_lower: float = 1.0
    """On the KL of the lower level to what the upper expects (objective hierarchical)."""
    commitment: float = 4.0
    """On the squared distance of points from their codes (objectives vq and vq2)."""
    latent_realism: float = 100.0
    """On the cross-entropy of the latents before their own discriminator (objective wae-gan)."""

    def __post_init__(self) -> None:
        for weight in dataclasses.fields(self):
            check_at_least(f"weights.{weight.name}", getattr(self, weight.name), 0)


@dataclass(frozen=True)
class Optimizer:
    """The optimisers of the VAE and of the discriminator, the schedule and the running average of the weights."""

    kind: Literal["muon", "adamw"] = field(
        default="muon", metadata=fixed("its checkpoints hold what the other optimiser remembers")
    )
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
    """Bound on the norm of the VAE's gradient, in multiples of its usual norm; None for no bound."""
    ema: float = 0.999
    """Decay a step of the running average of the weights, which everything drawn and saved uses."""

    def __post_init__(self) -> None:
        for name in ("momentum", "beta1", "beta2", "discriminator_beta1", "ema", "warmup"):
            check_between(f"optimizer.{name}", getattr(self, name), 0, 1)
        check_at_least("optimizer.weight_decay", self.weight_decay, 0)
        if self.clip is not None:
            check_at_least("optimizer.clip", self.clip, 1)
        check_at_least("optimizer.discriminator_lr", self.discriminator_lr, 0)
