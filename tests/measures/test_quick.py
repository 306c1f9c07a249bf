"""Measures against closed forms, on a VAE whose answers are known."""

import pytest
import torch

from vaekit.config.presets import preset
from vaekit.measures.diagnostics import diagnose
from vaekit.measures.quick import evaluate
from vaekit.models.posterior import Posterior
from vaekit.models.vae import build_vae
from vaekit.objectives.moments import kl_global
from vaekit.system import ranks


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_vae(preset("fast", size=16)).eval()


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
    assert measured["kl_individual"] == pytest.approx(posterior.kl_individual().mean().item(), rel=1e-5)
    expected = kl_global(Posterior(posterior.mean, posterior.logvar), posterior.mean, "total")
    assert measured["kl_global"] == pytest.approx(expected.item(), rel=1e-4)


def test_evaluation_repeats_itself_and_leaves_training_mode_alone(vae, generator):
    x = torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1
    vae.train()
    assert evaluate(vae, [x], seed=3) == evaluate(vae, [x], seed=3)
    assert evaluate(vae, [x], seed=3) != evaluate(vae, [x], seed=4)
    assert vae.training


def test_an_entry_that_never_varies_is_not_active(vae, generator):
    vae.encoder.mean.weight.data[3:] = 0  # three entries at each of the 16 positions are left
    x = torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1
    assert evaluate(vae, [x])["active_units"] == 3 * 16


def test_measuring_on_one_rank_never_waits_for_the_others(vae, generator, monkeypatch):
    """Other ranks are pretended, without a process group, so any collective would fail."""
    monkeypatch.setattr(ranks, "is_distributed", lambda: True)
    with pytest.raises(ValueError, match="process group has not been initialized"):
        ranks.sum_over_ranks(torch.ones(1))
    x = torch.rand(6, 3, 16, 16, generator=generator) * 2 - 1
    assert evaluate(vae, x.split(4))["num_images"] == 6
    assert diagnose(vae.encode(x))["num_images"] == 6
