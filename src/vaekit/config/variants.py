"""One row a variant: what the command line, the builders, the comparison and the reports need to know of each.

A new objective is a file in `objectives`, a row in `OBJECTIVES` and a test; a new prior is a file in `priors`, a row in
`PRIORS` and a test. Rows name the code that makes them as "module:name" and import nothing, so that `--help` stays
free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typing_extensions import Doc


@dataclass(frozen=True)
class ObjectiveRow:
    """One objective, as `Config.objective` names it."""

    summary: str  # whose it is, for --help
    builder: str  # function of vaekit.objectives, (Config, MomentsMemory | None) -> Objective
    price: str  # the weight that sets the cost of a nat, named in the advice of a verdict
    models: Mapping[str, Mapping[str, Any]]  # names in a comparison -> the settings that make them
    weights: tuple[str, ...]  # those of `Weights` that it reads, beside those of the discriminator
    settings: tuple[str, ...] = ()  # other settings that it alone reads, by dotted name
    reconstruction: str | None = "--weights.l1"  # the weight to raise for better pictures; None if it sets itself
    batch_moments: bool = False  # whether it sees moments of the batch, and so can remember those of earlier steps
    compared_by_default: bool = True
    points: bool = False  # whether latents are points, a mean without a std
    codes: bool = False  # whether the decoder sees the nearest codes of the latents
    judges_latents: bool = False  # whether a discriminator of latents compares them with draws of N(0, I)
    judges_draws: bool = False  # whether the discriminator sees decoded draws of N(0, I) too
    needs_gan: bool = False  # whether a discriminator is part of its likelihood, from the first step on

    @property
    def draws(self) -> bool:
        """Whether a step takes draws of N(0, I), one for each image."""
        return self.judges_latents or self.judges_draws


OBJECTIVES: Mapping[str, ObjectiveRow] = {
    "global": ObjectiveRow(
        summary="the paper's",
        builder="elbo:build_global",
        price="--weights.kl-individual (at a high rate a nat costs twice this weight)",
        models={name: {"moments": name} for name in ("samples", "means", "total")},
        weights=("kl_global", "kl_individual", "l1"),
        batch_moments=True,
    ),
    "standard": ObjectiveRow(
        summary="the VAE's",
        builder="elbo:build_standard",
        price="--weights.kl-standard (a nat costs this weight)",
        models={"standard": {}},
        weights=("kl_standard", "l1"),
    ),
    "beta": ObjectiveRow(
        summary="the beta-VAE's",
        builder="elbo:build_beta",
        price="--weights.beta (a nat costs beta times kl_standard)",
        models={"beta": {}},
        weights=("kl_standard", "beta", "l1"),
    ),
    "sigma": ObjectiveRow(
        summary="the VAE's with the variance of the decoder that fits best",
        builder="sigma:build_sigma",
        price="--weights.kl-standard (a nat costs this weight, beside a likelihood in nats)",
        models={"sigma": {}},
        weights=("kl_standard",),
        reconstruction=None,
        compared_by_default=False,
    ),
    "ae": ObjectiveRow(
        summary="the autoencoder's, whose latents are points",
        builder="autoencoder:build_autoencoder",
        price="--network.latent-dim (nothing else bounds what points hold)",
        models={"ae": {}},
        weights=("l1",),
        compared_by_default=False,
        points=True,
    ),
    "wae-mmd": ObjectiveRow(
        summary="the Wasserstein autoencoder's, points pulled to N(0, I) by their MMD",
        builder="wae:build_wae_mmd",
        price="--weights.mmd (the pull of all points together to N(0, I))",
        models={"wae-mmd": {}},
        weights=("mmd", "l1"),
        compared_by_default=False,
        points=True,
    ),
    "wae-gan": ObjectiveRow(
        summary="the Wasserstein autoencoder's, points pulled to N(0, I) by a discriminator of latents",
        builder="wae_gan:build_wae_gan",
        price="--weights.latent-realism (the pull of all points together to N(0, I))",
        models={"wae-gan": {}},
        weights=("latent_realism", "l1"),
        compared_by_default=False,
        points=True,
        judges_latents=True,
    ),
    "vq": ObjectiveRow(
        summary="the VQ-VAE's, whose decoder sees the nearest of learned codes",
        builder="vq:build_vq",
        price="--network.codes (log of their number is what one code holds)",
        models={"vq": {}},
        weights=("commitment", "l1"),
        settings=("network.codes", "network.code_entries"),
        compared_by_default=False,
        points=True,
        codes=True,
    ),
    "vamp": ObjectiveRow(
        summary="the VAE's with the posteriors of learned pictures as its prior",
        builder="vamp:build_vamp",
        price="--weights.kl-standard (a nat costs this weight)",
        models={"vamp": {}},
        weights=("kl_standard", "l1"),
        settings=("network.pseudo_inputs",),
        compared_by_default=False,
    ),
    "vae-gan": ObjectiveRow(
        summary="the VAE-GAN's, pictures compared in the features of the discriminator alone",
        builder="vae_gan:build_vae_gan",
        price="--weights.kl-standard (a nat costs this weight)",
        models={"vae-gan": {}},
        weights=("kl_standard",),
        reconstruction="--weights.features",
        compared_by_default=False,
        judges_draws=True,
        needs_gan=True,
    ),
}
ANY_PRICE = "the weight that prices information (kl_individual, kl_standard or beta)"


@dataclass(frozen=True)
class FittedBy:
    """How a prior is fitted to latents, and kept."""

    what: str  # what is fitted, in a sentence
    fit: str  # function of vaekit.priors, (Latents, seed=...) -> a prior that can save itself
    load: str  # class of vaekit.priors with a method `load`
    file: str  # where a run keeps it
    takes_minutes: bool = False  # then it is fitted at the end of a training or by `fit-prior`, and nowhere else


@dataclass(frozen=True)
class PriorRow:
    """One density of the latents to sample from; in `PRIORS` each is better than those before it."""

    summary: str  # for --help
    short: str  # in the heading of a column: z ~ ...
    title: str  # in the title of a table or figure: z ~ ...
    fitted: FittedBy | None = None
    objective: str | None = None  # the one whose models have it from their training, where others have none

    @property
    def takes_minutes(self) -> bool:
        """Whether it is there only if it was asked for; others need no fit, or one of seconds."""
        return self.fitted is not None and self.fitted.takes_minutes

    @property
    def of_every_model(self) -> bool:
        """Whether every model has it, or can have it in seconds."""
        return self.objective is None and not self.takes_minutes


PRIORS: Mapping[str, PriorRow] = {
    "normal": PriorRow(summary="N(0, I)", short="N(0, I)", title="N(0, I)"),
    "vamp": PriorRow(
        summary="the posteriors of the learned pictures (--objective vamp)",
        short="learned pictures",
        title="the posteriors of the learned pictures",
        objective="vamp",
    ),
    "gaussian": PriorRow(
        summary="one Gaussian with the mean and covariance of the latents of the train pictures",
        short="fitted Gaussian",
        title="the Gaussian with the moments of the latents of train pictures",
        fitted=FittedBy(
            what="a Gaussian",
            fit="gaussian:fit_gaussian",
            load="gaussian:GaussianPrior",
            file="prior-gaussian.safetensors",
        ),
    ),
    "gaussian-mixture": PriorRow(
        summary="several Gaussians",
        short="fitted mixture",
        title="a mixture of Gaussians fitted to the latents of train pictures",
        fitted=FittedBy(
            what="a mixture of Gaussians",
            fit="mixture:fit_mixture",
            load="mixture:GaussianMixturePrior",
            file="prior.safetensors",
        ),
    ),
    "flow": PriorRow(
        summary="a flow of the latents, learned by a small network",
        short="flow",
        title="a flow fitted to the latents of train pictures",
        fitted=FittedBy(
            what="a flow",
            fit="flow_fit:fit_flow",
            load="flow:FlowPrior",
            file="prior-flow.safetensors",
            takes_minutes=True,
        ),
    ),
}
WEIGHTS = "weights_sha256"  # in the metadata of a fitted prior: the weights whose latents it was fitted to
COPIES = "copies"  # there too: whether its draws repeat training pictures

OF_DISCRIMINATOR = ("realism", "features")  # the weights that objectives read where there is one
GAN = "+gan"
# A model of a comparison: its name -> the settings that make it, over those of all.
PAPER = "paper"  # the proposed objective with whatever estimator the settings name
COMPARED: Mapping[str, Mapping[str, Any]] = {PAPER: {"objective": "global"}} | {
    name: {"objective": objective, **settings}
    for objective, row in OBJECTIVES.items()
    for name, settings in row.models.items()
}
MODELS = tuple(
    name + gan for gan in ("", GAN) for row in OBJECTIVES.values() if row.compared_by_default for name in row.models
)

if TYPE_CHECKING:
    ObjectiveName = str
    PriorName = str
    FittedName = str
    ModelNames = tuple[str, ...]
else:  # the choices of the command line and their help
    ObjectiveName = Annotated[
        Literal[tuple(OBJECTIVES)], Doc("; ".join(f"{name}: {row.summary}" for name, row in OBJECTIVES.items()) + ".")
    ]
    PriorName = Annotated[
        Literal[tuple(PRIORS)], Doc("; ".join(f"{name}: {row.summary}" for name, row in PRIORS.items()) + ".")
    ]
    FITTED = {name: row.summary for name, row in PRIORS.items() if row.fitted}
    FittedName = Annotated[
        Literal[tuple(FITTED)],
        Doc(f"What new pictures are drawn from. {'; '.join(f'{name}: {what}' for name, what in FITTED.items())}."),
    ]
    *FIRST, LAST = COMPARED
    ModelNames = Annotated[
        tuple[str, ...],
        Doc(f"{', '.join(FIRST)} or {LAST}; {GAN}; settings of its own after a colon: means{GAN}:lr=0.001,batch=16."),
    ]


def code_of(package: str, place: str) -> Any:
    """The function or class that a row names as "module:name", imported now."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"vaekit.{package}.{module}"), name)
