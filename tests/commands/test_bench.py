"""The arithmetic of a step against a count by hand, and the estimate of a run's length."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from small import tiny_resnet
from vaekit.cli import run
from vaekit.commands.bench import bench, expected_hours, readable_bench
from vaekit.config.presets import preset
from vaekit.models.build import build_discriminator
from vaekit.models.vae import build_vae
from vaekit.training.flops import step_flops


def multiply_adds(network, *inputs):
    """FLOP of each convolution and linear layer of one forward pass, by hand: 2 x weights x places, in order."""
    counts = []

    def note(layer, given, output):
        if isinstance(layer, nn.Linear):
            counts.append(2 * layer.weight.numel())
        else:  # each weight is used once for each place of the coarser side of the layer
            places = min(given[0][0, 0].numel(), output[0, 0].numel())
            counts.append(2 * layer.weight.numel() * places)

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(note)
    with torch.no_grad():
        network(*inputs)
    return counts


@pytest.mark.parametrize("kind", ["pixelshuffle", "resnetv2"])
def test_a_step_costs_three_passes_but_for_the_gradient_of_the_pictures(tiny, kind):
    config = (tiny if kind == "pixelshuffle" else tiny_resnet(tiny, "none")).resolved()
    x, eps = torch.zeros(1, *config.image_shape), torch.zeros(1, config.latent_dim)
    vae = multiply_adds(build_vae(config), x, eps)
    critic = multiply_adds(build_discriminator(config), x)
    # Forward, gradient of the weights, gradient of the inputs: the last is not needed where the input is a picture,
    # but the paper's encoder first scales it by weights of its own.
    alone = 3 * sum(vae) - (vae[0] if kind == "pixelshuffle" else 0)
    # The VAE's step: forward and gradient of the inputs. The discriminator's own: twice as many pictures.
    judged = 2 * sum(critic) + 2 * (3 * sum(critic) - critic[0])
    assert step_flops(config, adversarial=False) == alone
    assert step_flops(config, adversarial=True) == alone + judged


def test_the_length_of_a_run_counts_the_images_before_and_after_the_discriminator_enters(tiny):
    config = dataclasses.replace(tiny, images=7200)  # enters after half of them
    assert expected_hours(config, 10.0, 5.0) == pytest.approx((360 + 720) / 3600)
    assert expected_hours(dataclasses.replace(config, gan=False), 10.0, 10.0) == pytest.approx(0.2)
    assert expected_hours(dataclasses.replace(config, minutes=30), 10.0, 5.0) == 0.5


def test_a_benchmark_says_how_fast_this_machine_trains(tiny):
    result = bench(tiny, seconds=0.01)
    assert result["images_per_sec"] > result["images_per_sec_adversarial"] > 0
    assert result["gflop_per_image_adversarial"] > result["gflop_per_image"] > 0
    assert 0 < result["matmul_fraction"] < 1
    assert 0 < result["peak_memory_gib"] < 64
    assert "16x16, batch 4" in readable_bench(tiny, result)


def test_a_preset_whose_discriminator_is_there_from_the_start_has_one_speed():
    result = dict.fromkeys(
        ("images_per_sec", "images_per_sec_adversarial", "expected_hours", "peak_memory_gib", "matmul_fraction"), 1.0
    ) | {"device": "cpu", "precision": "fp32", "threads": 1, "gflop_per_image_adversarial": 1.0, "matmul_gflops": 1.0}
    assert "without the discriminator" not in readable_bench(preset("paper"), result)
    assert "without the discriminator" in readable_bench(preset("fast"), result)


def test_the_command_prints_lines_or_json(capsys):
    tiny = "bench --size 16 --batch 4 --no-gan --seconds 0.01 --network.channels 8 --device cpu".split()
    assert run(tiny) == 0
    assert "the whole run of 300,000 images takes about" in capsys.readouterr().out
    assert run([*tiny, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images_per_sec"] == result["images_per_sec_adversarial"]  # one kind of step without discriminator
