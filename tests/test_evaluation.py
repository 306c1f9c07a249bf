"""Measures against closed forms, on a VAE whose answers are known."""

import math

import pytest
import torch

from vaekit import metrics
from vaekit.config import preset
from vaekit.evaluation import evaluate
from vaekit.posterior import Posterior, kl_global
from vaekit.vae import build_vae


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_vae(preset("fast", size=16)).eval()


def test_psnr_is_ten_log_ten_of_four_over_the_squared_error():
    x = torch.zeros(2, 3, 16, 16)
    shifts = torch.tensor([0.1, 0.5])
    expected = 10 * torch.log10(4 / shifts.square())
    torch.testing.assert_close(metrics.psnr(x, x + shifts[:, None, None, None]), expected)


def test_psnr_clamps_what_a_picture_cannot_show():
    x = torch.ones(1, 1, 8, 8)
    assert metrics.psnr(x, x + 5.0).item() > 80 or math.isinf(metrics.psnr(x, x + 5.0).item())


def test_laplacian_energy_knows_flat_from_sharp():
    flat = torch.full((1, 3, 8, 8), 0.7)
    assert metrics.laplacian_energy(flat).item() == pytest.approx(0, abs=1e-10)
    i, j = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    checkerboard = (((i + j) % 2) * 2.0 - 1)[None, None]  # the Laplacian is 8 everywhere
    assert metrics.laplacian_energy(checkerboard).item() == pytest.approx(64)


def test_evaluation_averages_over_images_whatever_the_batches(vae, generator):
    x = torch.rand(10, 3, 16, 16, generator=generator) * 2 - 1
    whole, parts = evaluate(vae, [x]), evaluate(vae, x.split(3))
    assert parts == pytest.approx(whole, rel=1e-4)
    posterior = vae.encode(x)
    x_hat = vae.decode(posterior.mean)
    assert whole["l1_mean"] == pytest.approx((x - x_hat).abs().mean().item(), rel=1e-5)
    assert whole["num_images"] == 10


def test_evaluation_measures_the_latents_of_all_pictures_together(vae, generator):
    x = torch.rand(10, 3, 16, 16, generator=generator) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(x)
    measured = evaluate(vae, x.split(4))
    assert measured["kl_standard"] == pytest.approx(posterior.kl_standard().mean().item(), rel=1e-5)
    assert measured["kl_individual"] == pytest.approx(posterior.kl_individual().mean().item(), abs=1e-4)
    expected = kl_global(Posterior(posterior.mean, posterior.logvar), posterior.mean, "total")
    assert measured["kl_global"] == pytest.approx(expected.item(), rel=1e-4)


def test_evaluation_repeats_itself_and_leaves_training_mode_alone(vae, generator):
    x = torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1
    vae.train()
    assert evaluate(vae, [x], seed=3) == evaluate(vae, [x], seed=3)
    assert evaluate(vae, [x], seed=3) != evaluate(vae, [x], seed=4)
    assert vae.training


def test_an_entry_that_never_varies_is_not_active(vae, generator):
    torch.nn.init.zeros_(vae.encoder.mean.weight)
    vae.encoder.mean.weight.data[:3] = torch.randn(3, vae.encoder.mean.in_features, generator=generator)
    x = torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1
    assert evaluate(vae, [x])["active_units"] == 3
