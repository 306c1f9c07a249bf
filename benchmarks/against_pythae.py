"""A training step of `fast` beside one of pythae's VAEGAN, with the same encoder, decoder and discriminator.

    pip install pythae
    python benchmarks/against_pythae.py [--batch 16] [--images 320] [--json pythae.json]

pythae's trainer runs unchanged (float32; its VAEGAN decodes twice and calls its discriminator four times a step), on
pictures already in memory. A third row is vaekit without mixed precision.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import dataclasses
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from common import in_fresh_process, median_sec, show
from vaekit import bench, build_discriminator, build_vae, preset
from vaekit.config.settings import Config

FAST = preset("fast", discriminator=dataclasses.replace(preset("fast").discriminator, start=0.0), device="cpu")
LAYERS, LAYER = 6, 3  # of the discriminator, and the one where VAEGAN compares features


def pythae_rate(config: Config, images: int, threads: int, repeats: int) -> float:
    """Images a second of pythae's VAEGAN trainer: the median of `repeats` epochs, after one more."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAEGAN, VAEGANConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
    from pythae.trainers import CoupledOptimizerAdversarialTrainer, CoupledOptimizerAdversarialTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = vae.encoder

        def forward(self, x: Tensor) -> Any:
            mean, logvar = self.network(2 * x - 1)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = vae.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=(self.network(z) + 1) / 2)

    class Discriminator(BaseDiscriminator):
        def __init__(self) -> None:
            super().__init__()
            self.network = build_discriminator(config)
            self.depth = LAYERS

        def forward(self, x: Tensor, output_layer_levels: list[int] | None = None) -> Any:
            *features, logits = self.network.activations(2 * x - 1)
            if output_layer_levels:
                return ModelOutput(**{f"embedding_layer_{level}": features[level - 1] for level in output_layer_levels})
            return ModelOutput(embedding=logits.mean((1, 2, 3)).sigmoid())

    torch.set_num_threads(threads)
    vae = build_vae(config)
    settings = VAEGANConfig(input_dim=config.image_shape, latent_dim=config.latent_dim, reconstruction_layer=LAYER)
    model = VAEGAN(settings, Encoder(), Decoder(), Discriminator())
    pictures = torch.rand(images, *config.image_shape)
    with tempfile.TemporaryDirectory() as folder:
        training = CoupledOptimizerAdversarialTrainerConfig(
            output_dir=folder, per_device_train_batch_size=config.batch, no_cuda=True
        )
        dataset = BaseDataset(pictures, torch.zeros(images))
        trainer = CoupledOptimizerAdversarialTrainer(model, dataset, training_config=training)
        trainer.prepare_training()
        return images / median_sec(partial(trainer.train_step, epoch=1), repeats, warm_up=1)


def vaekit_rate(config: Config, threads: int, seconds: float) -> float:
    """Images a second of vaekit's step with the discriminator, as `vaekit bench` has it."""
    torch.set_num_threads(threads)
    return bench(config, seconds)["images_per_sec_adversarial"]


def main(
    batch: int = FAST.batch,
    images: int = 20 * FAST.batch,
    repeats: int = 3,
    threads: int = len(os.sched_getaffinity(0)),
    json: Path | None = None,
) -> None:
    config = dataclasses.replace(FAST, batch=batch)
    in_float32 = dataclasses.replace(config, precision="fp32")
    rates = {
        "pythae, VAEGAN": in_fresh_process(pythae_rate, config, images, threads, repeats),
        "vaekit": in_fresh_process(vaekit_rate, config, threads, 10.0, ours=True),
        "vaekit, fp32": in_fresh_process(vaekit_rate, in_float32, threads, 10.0, ours=True),
    }
    rows = [{"": name, "img/s": rate, "of pythae": rate / rates["pythae, VAEGAN"]} for name, rate in rates.items()]
    show(f"a step at {config.size}, batch {batch}, {threads} threads", rows, {"img/s": ".1f", "of pythae": ".2f"}, json)


if __name__ == "__main__":
    tyro.cli(main)
