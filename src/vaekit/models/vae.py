"""The variational autoencoder: encode, decode, sample; saved with what is needed to build it again."""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES
from vaekit.models.base import Density, Pass
from vaekit.models.build import build_encoder_decoder, build_pseudo_inputs
from vaekit.models.checks import check_latents, check_pictures, warn_of_range
from vaekit.models.codebook import Codebook, codebook_of
from vaekit.models.decoding import decoded
from vaekit.models.kept import (
    WEIGHTS_FILE,
    Kept,
    best_of,
    drawn,
    learned_prior,
    read_priors,
    standard_normal,
    weights_sha256,
    write_priors,
)
from vaekit.models.posterior import Posterior
from vaekit.networks.chain import in_evaluation, running_statistics_kept
from vaekit.system.files import read_tensors, write_tensors, write_text
from vaekit.system.hub import fetched, names_repository, uploaded

CONFIG_FILE = "config.json"


class VAE(nn.Module):
    """An encoder q(z|x) and a decoder p(x|z) over pictures (B, C, H, W) in [-1, 1] and latents (B, d).

    `encoder` maps x to mean and logvar, (B, d) each, and `decoder` z to x_hat: any two modules that do. `image_shape`
    is (C, H, W), `latent_dim` is d. `config_json` is the text of the config that `build_vae` made them from, which is
    saved with the weights; networks of your own have none. `pseudo_inputs` gives the learned pictures (K, C, H, W)
    whose posteriors are the prior of `vamp`; with `decodes_draws` a pass of training decodes draws of N(0, I) too.

    `priors` are the densities that new latents can be drawn from, by name, and `prior` is the one that `sample` takes:
    N(0, I), until `from_pretrained` finds better ones beside the weights.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        config_json: str | None = None,
        pseudo_inputs: nn.Module | None = None,
        decodes_draws: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.config_json = config_json
        self.pseudo_inputs = pseudo_inputs
        self.decodes_draws = decodes_draws
        self.kept = self.own_priors()

    def own_priors(self) -> dict[str, Kept]:
        """N(0, I), and the one that was trained with it, by name: what needs no fit."""
        own = standard_normal(self.latent_dim)
        learned = learned_prior(self.decoder, self.pseudo_inputs, self.shared, self.latent_dim)
        return own if learned is None else own | {"learned": Kept(learned, of="")}

    @property
    def priors(self) -> dict[str, Density]:
        """The densities of its latents by name."""
        return {name: kept.prior for name, kept in self.kept.items()}

    @property
    def prior_name(self) -> str:
        """The name of the best of them: the last in the table that does not repeat training pictures."""
        return best_of(self.kept)

    @property
    def prior(self) -> Density:
        """The best of them, which `sample` takes; `prior.log_prob(z)` gives nats."""
        return self.priors[self.prior_name]

    def set_prior(self, name: str, prior: Density, copies: bool = False, pictures: int = 0) -> None:
        """Have a prior that was fitted to its latents as they are now, of so many `pictures`, if that is known.

        One that `copies` is never the best. Raises `ValueError` for a name that is not in the table.
        """
        if name not in PRIORS:
            raise ValueError(f"no prior is called {name!r}; choose one of {', '.join(PRIORS)}")
        self.kept[name] = Kept(prior, weights_sha256(self.state_dict()), copies, pictures)

    def _apply(self, fn: Any, recurse: bool = True) -> VAE:
        """What `to`, `cuda` and `half` do: networks of priors move along, in their own precision."""
        super()._apply(fn, recurse)
        for prior in self.priors.values():
            if hasattr(prior, "to"):  # it has a network; noise and latents are on the CPU all the same
                prior.to(self.device)
        return self

    @property
    def codebook(self) -> Codebook | None:
        """The codes that its decoder sees in place of z, where it has some: `codebook.indices(z)`."""
        return codebook_of(self.decoder)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def encode(self, x: Tensor) -> Posterior:
        """x (B, C, H, W) in [-1, 1], of any floating type -> the posterior of each picture.

        Raises `ValueError` for another shape, for no picture and for pixels that are whole numbers; warns of pixels
        that do not look like [-1, 1].
        """
        check_pictures(x, self.image_shape)
        if not torch.compiler.is_compiling():
            warn_of_range(x)
        return self.encode_unchecked(x.to(self.dtype))

    def encode_unchecked(self, x: Tensor) -> Posterior:
        """What `encode` returns, for training: to look at the pixels is to wait for the device."""
        return Posterior(*self.encoder(x))

    def latents_of(self, tensors: Iterable[Tensor]) -> Posterior:
        """What `encode` returns, made of its tensors again."""
        return Posterior(*tensors)

    def shared(self) -> tuple[Tensor, ...]:
        """Mean and logvar of the learned pictures, (K, d) each, where there are some."""
        if self.pseudo_inputs is None:
            return ()
        with in_evaluation(self.encoder):  # as when the prior is used
            return self.encode_unchecked(self.pseudo_inputs()).tensors

    def decode(self, z: Tensor) -> Tensor:
        """z (B, d) of any floating type -> x_hat (B, C, H, W), about [-1, 1] but not clamped.

        Raises `ValueError` for another shape, for no latents and for whole numbers.
        """
        check_latents(z, self.latent_dim)
        return self.decoder(z.to(self.dtype))

    def forward(self, x: Tensor, eps: Tensor) -> Pass:
        """One pass of training: x (B, C, H, W) and noise eps (B, d), or (B, 2 d) with a draw of N(0, I) for each image.

        Everything a training step needs goes through here, since DistributedDataParallel only sees `forward`. With
        `decodes_draws` the discriminator judges x_hat and the decoded draws, and its gradient ends at z.
        """
        posterior = self.encode_unchecked(x)
        z = posterior.sample(eps[:, : self.latent_dim])
        if not self.decodes_draws:
            x_hat, measured = decoded(self.decoder, posterior, z.to(self.dtype))
            return Pass(posterior.tensors, z, x_hat, self.shared(), measured)
        with running_statistics_kept(self.decoder):  # apart, since live BatchNorm would lead their gradient to z
            fakes = self.decode(torch.cat([z.detach(), eps[:, self.latent_dim :].to(z.dtype)])).chunk(2)
        return Pass(posterior.tensors, z, self.decode(z), self.shared(), fakes=torch.stack(fakes, 1))

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        generator: torch.Generator | None = None,
        prior: str | None = None,
        temperature: float = 1.0,
        **options: Any,
    ) -> Tensor:
        """New pictures, (num_images, C, H, W): z of a prior, decoded. The `generator` is one of the CPU.

        `prior` names one of `priors`, by default the best: KL_G matches two moments of the aggregate posterior and not
        its shape, so N(0, I) ("normal") is not quite where the latents of real pictures lie. A `temperature` below 1
        keeps nearer to the middle; `options` are those of the prior, such as `label` and `guidance` of a flow. Raises
        `ValueError` for a prior that the model does not have, and options that it does not take.
        """
        return self.decode(self.draw(num_images, generator, prior, temperature, **options).to(self.device))

    def draw(
        self,
        num_images: int,
        generator: torch.Generator | None = None,
        prior: str | None = None,
        temperature: float = 1.0,
        **options: Any,
    ) -> Tensor:
        """What `sample` decodes: z (num_images, d), on the CPU."""
        name = prior or self.prior_name
        if name not in self.priors:
            raise ValueError(f"this model has no prior {name!r}; it has {', '.join(self.priors)}")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"a generator on {generator.device}; give one of the CPU: the draws are then the same")
        return drawn(self.priors[name], name, num_images, generator, temperature, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors, whose metadata hold all that `from_pretrained` needs, and a readable config.json.

        Networks of your own have no config, and no config.json. Each fitted prior goes into a file beside them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"image_shape": json.dumps(self.image_shape), "latent_dim": json.dumps(self.latent_dim)}
        if self.config_json is not None:
            metadata["config"] = self.config_json
            write_text(self.config_json + "\n", folder / CONFIG_FILE)
        write_tensors(self.state_dict(), folder / WEIGHTS_FILE, metadata)
        write_priors(self.kept, folder, self.state_dict())

    def push_to_hub(self, name: str, private: bool = True) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub as user/name; its address.

        `vaekit.export_run(run, hub=name)` adds a model card. Raises `ValueError` if the Hub refuses, or is not there.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.to_share().save_pretrained(folder)
            return uploaded(Path(folder), name, private)

    def to_share(self) -> VAE:
        """Itself with the same tensors, without places of this machine and priors that repeat training pictures."""
        shared = copy.copy(self)
        shared.kept = {name: kept for name, kept in self.kept.items() if not kept.copies}
        if self.config_json is not None:
            shared.config_json = dataclasses.replace(Config.from_json(self.config_json), init_from=None).to_json()
        return shared

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> VAE:
        """Load what `save_pretrained` or a training run wrote: in evaluation mode, without gradients.

        `folder` may be a name on the Hugging Face Hub, user/name or user/name@revision, which is fetched once.
        To train it on: `vae.train().requires_grad_()`.
        A model whose networks were your own needs them again: `encoder` and `decoder`, whose weights are then loaded.
        Raises `ValueError` if the folder holds no model, one whose weights do not fit its config or these networks, or
        one of networks that are not given.
        """
        if names_repository(folder):
            kept = [row.fitted.file for row in PRIORS.values() if row.fitted is not None]
            folder = fetched(folder, WEIGHTS_FILE, [CONFIG_FILE, *kept])
        path = Path(folder) / WEIGHTS_FILE
        if Path(folder).is_file():
            raise ValueError(f"{folder} is a file; give the folder of the run that it lies in")
        if not path.is_file():
            raise ValueError(f"no model in {folder}: {WEIGHTS_FILE} is missing; give the folder of a finished run")
        weights, metadata = read_tensors(path)
        if (encoder is None) != (decoder is None):
            raise ValueError("give both the encoder and the decoder, or neither")
        if encoder is not None and decoder is not None:
            if "image_shape" not in metadata:
                raise ValueError(f"{path} does not say what pictures it takes; leave out encoder and decoder")
            shape, latent_dim = json.loads(metadata["image_shape"]), json.loads(metadata["latent_dim"])
            vae = cls(encoder, decoder, tuple(shape), latent_dim)
        elif "image_shape" in metadata and "config" not in metadata:
            raise ValueError(f"{path} was saved with networks of its own; give them as encoder and decoder")
        else:
            vae = build_vae(Config.from_json(metadata.get("config", "")))
        try:
            vae.load_state_dict(weights)
        except RuntimeError as error:
            networks = "its config" if encoder is None else "these networks"
            raise ValueError(f"the weights in {path} do not fit {networks}: {error}") from error
        vae.kept = read_priors(path.parent, weights, vae.own_priors(), vae.latent_dim)
        # As in training: the same kernels, so the same pixels to the last bit, and the faster ones.
        return vae.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def build_vae(config: Config) -> VAE:
    """An untrained VAE of `config`; its weights follow from torch's global seed."""
    encoder, decoder = build_encoder_decoder(config)
    pseudo_inputs = build_pseudo_inputs(config)  # the last, so that the other weights are those of any objective
    return VAE(
        encoder,
        decoder,
        config.image_shape,
        config.latent_dim,
        config.to_json(),
        pseudo_inputs,
        decodes_draws=OBJECTIVES[config.objective].judges_draws,
    )
