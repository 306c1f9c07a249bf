"""What only a CUDA machine can show (`make gpu-check`): every fast path against fp32 on the CPU, and no waiting."""

import dataclasses

import numpy as np
import pytest
import torch

from vaekit.commands.bench import bench
from vaekit.config.presets import preset
from vaekit.data.loader import Stream
from vaekit.objectives.build import build_objective
from vaekit.system.devices import launch
from vaekit.training.loop import next_step
from vaekit.training.state import build_state, fabric_of, update_ema
from vaekit.training.step import check_finite, train_step

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
pytestmark = pytest.mark.filterwarnings("default")  # compilers warn
CONFIG = preset("fast", size=32, batch=8)
FP32_TOLERANCE, BF16_TOLERANCE = 1e-3, 5e-2  # relative, of each loss term in the third step
PATHS = [
    {"compile": compiled} | settings
    for compiled in ("no", "default", "reduce-overhead")
    for settings in ({}, {"checkpoint_activations": True}, {"micro_batch": 3})
    if not (compiled == "reduce-overhead" and "micro_batch" in settings)  # which is refused
]


@pytest.fixture(autouse=True)
def whole_float32_and_nothing_compiled_yet(monkeypatch):
    """Convolutions drop half of the digits (TF32) unless told not to; after 8 variants dynamo compiles no more."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.compiler.reset()


def losses_of_three_steps(device, precision, **settings):
    """The loss terms of the third step on fixed pictures and noise, and the gradient's norm in the first.

    That of the third, 1.6 times as large or half as large as the one before, depends on the last bits of the weights.
    """
    config = dataclasses.replace(CONFIG, device=device, precision=precision, **settings).resolved()
    fabric = fabric_of(config)
    launch(fabric)
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
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", FP32_TOLERANCE), ("bf16", BF16_TOLERANCE)])
def test_every_path_on_cuda_has_the_losses_of_fp32_on_the_cpu(precision, tolerance, settings):
    expected = losses_of_three_steps("cpu", "fp32")
    assert losses_of_three_steps("cuda", precision, **settings) == pytest.approx(expected, rel=tolerance)


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
def test_the_speed_of_this_gpu(capsys):
    result = bench(preset("fast", device="cuda", batch=256), seconds=5.0)
    with capsys.disabled():
        print({name: value for name, value in result.items() if "per_sec" in name or "matmul" in name})  # noqa: T201
    assert result["images_per_sec_adversarial"] > 0
