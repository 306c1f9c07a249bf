"""What only a CUDA machine can show (`make gpu-check`): every fast path against fp32 on the CPU, and no waiting."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from vaekit.commands.bench import bench
from vaekit.commands.train import train
from vaekit.config.presets import preset
from vaekit.data.loader import Stream
from vaekit.networks.average import update_ema
from vaekit.objectives.build import build_objective
from vaekit.priors.base import Latents
from vaekit.priors.fitting import BATCH, Length
from vaekit.priors.flow_fit import fit_flow
from vaekit.runs.checkpoint import latest, load_checkpoint
from vaekit.runs.log import read_records
from vaekit.system.devices import float32_products, launch
from vaekit.training.loop import next_step
from vaekit.training.state import build_state, fabric_of
from vaekit.training.step import check_finite, train_step

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
pytestmark = pytest.mark.filterwarnings("default")  # compilers warn
CONFIG = preset("fast", size=32, batch=8)
TOLERANCES = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 5e-2}  # relative, of each loss term in the third step
PATHS = [
    {"compile": compiled} | settings
    for compiled in ("no", "default", "reduce-overhead")
    for settings in ({}, {"checkpoint_activations": True}, {"micro_batch": 3})
    if not (compiled == "reduce-overhead" and "micro_batch" in settings)  # which is refused
]


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    """After 8 variants dynamo compiles no more."""
    torch.compiler.reset()


def losses_of_three_steps(device, precision, **settings):
    """The loss terms of the third step on fixed pictures and noise, and the gradient's norm in the first.

    That of the third, 1.6 times as large or half as large as the one before, depends on the last bits of the weights.
    """
    config = dataclasses.replace(CONFIG, device=device, precision=precision, **settings).resolved()
    fabric = fabric_of(config)
    launch(fabric)
    with float32_products(precision == "tf32"):  # as `train` has it
        return losses_on(fabric, config)


def losses_on(fabric, config):
    state, objective = build_state(fabric, config), build_objective(config)
    generator = torch.Generator().manual_seed(0)
    norms = []
    for _ in range(3):
        x = torch.rand(config.batch, *config.image_shape, generator=generator) * 2 - 1
        eps = torch.randn(config.batch, config.latent_dim, generator=generator)
        x = x.to(fabric.device).contiguous(memory_format=torch.channels_last)
        eps = eps.to(fabric.device)
        limits = {"micro_batch": config.micro_batch, "clip": config.optimizer.clip}
        terms = train_step(fabric, state, objective, x, eps, adversarial=True, **limits)
        norms.append(terms["grad_norm"])
    check_finite(state)
    return {name: term.item() for name, term in (terms | {"grad_norm": norms[0]}).items()}


@needs_cuda
@pytest.mark.parametrize("settings", PATHS, ids=str)
@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_path_on_cuda_has_the_losses_of_fp32_on_the_cpu(precision, settings):
    expected = losses_of_three_steps("cpu", "fp32")
    assert losses_of_three_steps("cuda", precision, **settings) == pytest.approx(expected, rel=TOLERANCES[precision])


@needs_cuda
def test_fp32_has_all_of_its_digits_and_tf32_three():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    exact = conv2d(x.double(), weight.double())

    def error(tf32):
        with float32_products(tf32):
            return ((conv2d(x.cuda(), weight.cuda()).cpu() - exact).norm() / exact.norm()).item()

    assert error(False) < 1e-6
    assert error(True) > 1e-5


@needs_cuda
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_fp16_trains_with_a_bound_on_the_gradient_and_resumes_with_the_scale_of_its_losses(kind, photos, tmp_path):
    optimizer = dataclasses.replace(CONFIG.optimizer, kind=kind)
    config = dataclasses.replace(CONFIG, device="cuda", precision="fp16", optimizer=optimizer, images=8 * 60, draws=1)
    train(config, photos, tmp_path)
    *steps, _ = read_records(tmp_path)
    assert steps[-1]["l1"] < steps[0]["l1"]
    state = build_state(fabric_of(config.resolved()), config.resolved())
    load_checkpoint(state, latest(tmp_path))
    assert state.scaler.get_scale() < 2**16  # it began there, and the first steps overflowed


@needs_cuda
def test_a_step_does_not_wait_for_cuda():
    config = dataclasses.replace(CONFIG, device="cuda").resolved()
    fabric = fabric_of(config)
    launch(fabric)
    state, objective = build_state(fabric, config), build_objective(config)
    stream = Stream(np.zeros((16, *config.image_shape), np.uint8), np.arange(16), config.seed, config.flip)

    def step():
        next_step(fabric, config, state, objective, stream, adversarial=True)
        update_ema(state.ema, state.vae.module, config.optimizer.ema, step=0)

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_a_flow_is_fitted_and_drawn_on_the_gpu_from_noise_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(400, 32, generator=generator)
    latents = Latents(means, torch.full_like(means, 0.1), positions=16)
    here, there = (fit_flow(latents, length=Length(5 * BATCH), device=device) for device in ("cpu", "cuda"))
    draws = [prior.sample(8, torch.Generator().manual_seed(1)) for prior in (here, there)]
    torch.testing.assert_close(*draws, atol=2e-2, rtol=0)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.log_prob(means[:4]), here.log_prob(means[:4]), atol=0.1, rtol=1e-3)


@needs_cuda
def test_the_speed_of_this_gpu(capsys):
    result = bench(preset("fast", device="cuda", batch=256), seconds=5.0)
    with capsys.disabled():
        print({name: value for name, value in result.items() if "per_sec" in name or "matmul" in name})  # noqa: T201
    assert result["images_per_sec_adversarial"] > 0
