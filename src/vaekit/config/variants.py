"""One row an objective: what the command line, the builders, the comparison and the reports need to know of each.

A new objective is a file in `objectives`, a row in `OBJECTIVES` and a test; for priors see `config.priors`. Rows name
the code that makes them as "module:name" and import nothing, so that `--help` stays free of torch.
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
    builder: str  # function of vaekit.objectives, (Config, what it has of the state of a run) -> Objective
    price: str  # the weight that sets the cost of a nat, named in the advice of a verdict
    models: Mapping[str, Mapping[str, Any]]  # names in a comparison -> the settings that make them
    weights: tuple[str, ...]  # those of `Weights` that it reads, beside those of the discriminator
    settings: tuple[str, ...] = ()  # other settings that it alone reads, by dotted name
    reconstruction: str | None = "--weights.l1"  # the weight to raise for better pictures; None if it sets itself
    batch_moments: bool = False  # whether it sees moments of the batch, and so can remember those of earlier steps
    compared_by_default: bool = True
    points: bool = False  # whether latents are points, a mean without a std
    front: Literal["codes", "coupling", "brenier"] | None = None  # what the decoder begins with, see `models.build`
    two_levels: bool = False  # whether half of the latents are of a grid twice as fine
    learned_prior: bool = False  # whether its models have a prior that was trained with them
    judges_latents: bool = False  # whether a discriminator of latents compares them with draws of N(0, I)
    judges_draws: bool = False  # whether the discriminator sees decoded draws of N(0, I) too
    needs_gan: bool = False  # whether a discriminator is part of its likelihood, from the first step on

    @property
    def network(self) -> tuple[object, ...]:
        """What of the networks of a run follows from the objective: a run cannot change to another with another one."""
        learned = [name for name in self.settings if name.startswith("network.")]
        return self.points, self.front, self.two_levels, self.judges_latents, *learned

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
        price="--weights.commitment (the pull of points to their codes)",
        models={"vq": {}},
        weights=("commitment", "l1"),
        settings=("network.codes", "network.code_entries"),
        compared_by_default=False,
        points=True,
        front="codes",
    ),
    "vq2": ObjectiveRow(
        summary="the VQ-VAE-2's, with codes of two grids",
        builder="vq:build_vq",
        price="--weights.commitment (the pull of points to their codes)",
        models={"vq2": {}},
        weights=("commitment", "l1"),
        settings=("network.codes", "network.code_entries"),
        compared_by_default=False,
        points=True,
        front="codes",
        two_levels=True,
    ),
    "hierarchical": ObjectiveRow(
        summary="the paper's on the upper of two levels, the lower one expected by the upper",
        builder="hierarchical:build_hierarchical",
        price="--weights.kl-lower (a nat of the lower level) and --weights.kl-individual (half of one of the upper)",
        models={"hierarchical": {}},
        weights=("kl_global", "kl_individual", "kl_lower", "l1"),
        compared_by_default=False,
        two_levels=True,
        learned_prior=True,
    ),
    "flow": ObjectiveRow(
        summary="the VAE's with a flow between posterior and prior",
        builder="flow:build_flow",
        price="--weights.kl-standard (a nat costs this weight)",
        models={"flow": {}},
        weights=("kl_standard", "l1"),
        compared_by_default=False,
        front="coupling",
        learned_prior=True,
    ),
    "identifiable": ObjectiveRow(
        summary="the VAE's with an injective map before the decoder",
        builder="elbo:build_standard",
        price="--weights.kl-standard (a nat costs this weight)",
        models={"identifiable": {}},
        weights=("kl_standard", "l1"),
        compared_by_default=False,
        front="brenier",
    ),
    "lagging": ObjectiveRow(
        summary="the VAE's with more steps of the encoder in the first epoch",
        builder="elbo:build_standard",
        price="--weights.kl-standard (a nat costs this weight)",
        models={"lagging": {}},
        weights=("kl_standard", "l1"),
        settings=("encoder_steps",),
        compared_by_default=False,
    ),
    "vamp": ObjectiveRow(
        summary="the VAE's with the posteriors of learned pictures as its prior",
        builder="vamp:build_vamp",
        price="--weights.kl-standard (a nat costs this weight)",
        models={"vamp": {}},
        weights=("kl_standard", "l1"),
        settings=("network.pseudo_inputs",),
        compared_by_default=False,
        learned_prior=True,
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
    ModelNames = tuple[str, ...]
else:  # the choices of the command line and their help
    ObjectiveName = Annotated[
        Literal[tuple(OBJECTIVES)], Doc("; ".join(f"{name}: {row.summary}" for name, row in OBJECTIVES.items()) + ".")
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
