"""What the step, the comparison, the help and the verdict require of every objective in the table."""

import dataclasses
import re

import pytest
import torch

from vaekit.config.plain import flatten
from vaekit.config.presets import model_config, preset
from vaekit.config.settings import Config
from vaekit.config.variants import COMPARED, GAN, MODELS, OBJECTIVES, PAPER
from vaekit.models.codebook import Codebook
from vaekit.models.posterior import Posterior
from vaekit.networks.latent_discriminator import LatentDiscriminator
from vaekit.objectives.build import build_objective
from vaekit.objectives.losses import vae_loss

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
ENTRIES = 6
every_model = pytest.mark.parametrize("name", COMPARED)


@pytest.fixture
def step(generator):
    """x, x_hat, posterior, z, realism logits and feature distance of four images."""

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    posterior = Posterior(randn(4, ENTRIES), randn(4, ENTRIES))
    return randn(4, 2, 8, 8), randn(4, 2, 8, 8), posterior, posterior.sample(randn(4, ENTRIES)), randn(4, 1, 1, 1)


@pytest.fixture
def shared(generator):
    """Mean and logvar of three learned pictures."""
    return tuple(torch.randn(2, 3, ENTRIES, generator=generator, dtype=torch.float64))


@pytest.fixture
def measured(generator):
    """What a pass says of the latents of four images: of a lower level, and of a flow."""
    rows = torch.randn(4, ENTRIES // 2, generator=generator, dtype=torch.float64)
    return {"kl_lower": rows.square(), "flow": rows.sum(1)}


def told(objective, measured, chosen=slice(None)):
    """What of it an objective has a term for."""
    return {name: rows[chosen] for name, rows in measured.items() if name in objective.weights}


def built(model):
    """The objective of a model, with what it has beside the config."""
    config = model_config(preset("fast"), model)
    torch.manual_seed(0)
    row, beside = OBJECTIVES[config.objective], None
    if row.judges_latents:
        beside = LatentDiscriminator(ENTRIES).double()
    if row.front == "codes":
        beside = Codebook(ENTRIES, 1, 8, 1).double()
    return build_objective(config, beside)


@every_model
def test_every_term_has_a_weight_and_falls_into_the_total(name, step, shared, measured):
    objective = built(name)
    losses = vae_loss(objective, *step, shared=shared, measured=told(objective, measured))
    assert losses.total.item() == pytest.approx(
        sum(losses.weights[term] * value.item() for term, value in losses.terms.items())
    )


@every_model
def test_latent_terms_come_first_and_image_terms_are_the_others(name, step, shared, measured):
    objective = built(name)
    x, x_hat, posterior, z, realism = step
    latent = list(objective.latent_terms(posterior, z, shared))
    judged = {"realism": realism} | told(objective, measured)
    image = list(objective.image_terms(x, x_hat, judged, objective.statistics(x, x_hat)))
    assert not set(latent) & set(image)
    assert [term for term in objective.weights if term in (*latent, *image)] == [*latent, *image]


PAIRS = ("mmd",)  # means over pairs of *different* images, of which a copy is none


@every_model
def test_repeating_the_batch_leaves_every_term_as_it_is(name, step, shared, measured):
    x, x_hat, posterior, z, realism = step
    twice = Posterior(posterior.mean.repeat(2, 1), posterior.logvar.repeat(2, 1))
    doubled = (t.repeat(2, *[1] * (t.ndim - 1)) for t in (z, realism))
    objective = built(name)
    once = vae_loss(objective, *step, shared=shared, measured=told(objective, measured)).terms
    pictures = (x.repeat(2, 1, 1, 1), x_hat.repeat(2, 1, 1, 1))
    rows = {key: torch.cat([each, each]) for key, each in told(objective, measured).items()}
    again = vae_loss(objective, *pictures, twice, *doubled, shared=shared, measured=rows).terms
    for term, value in again.items():
        if term not in PAIRS:
            torch.testing.assert_close(value, once[term])


@every_model
def test_image_terms_of_chunks_add_up_with_the_statistics_of_the_whole_step(name, step, measured):
    """The value and the gradient, for chunks of one and of three images."""
    x, x_hat, _, _, realism = step
    objective = built(name)
    parts = [slice(0, 1), slice(1, 4)]
    statistics = objective.statistics(x, x_hat)
    gradients, values = [], []
    for chunks in ([slice(0, 4)], parts):
        leaf = x_hat.clone().requires_grad_()
        value = 0.0 * leaf.sum()  # so that there is a gradient, of zero, of terms that do not see x_hat
        for chunk in chunks:
            judged = {"realism": realism[chunk]} | told(objective, measured, chunk)
            terms = objective.image_terms(x[chunk], leaf[chunk], judged, statistics)
            share = len(x[chunk]) / len(x)
            value = value + share * sum(objective.weights[term] * each for term, each in terms.items())
        gradients.append(torch.autograd.grad(value, leaf)[0])
        values.append(value.detach())
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@every_model
def test_statistics_are_means_over_images_without_a_gradient(name, step):
    x, x_hat, *_ = step
    objective = built(name)
    of_all = objective.statistics(x, x_hat.requires_grad_())
    assert bool(of_all) == objective.needs_statistics
    for key, value in of_all.items():
        assert not value.requires_grad
        parts = [objective.statistics(x[i : i + 1], x_hat[i : i + 1])[key] for i in range(4)]
        torch.testing.assert_close(torch.stack(parts).mean(0), value)


@every_objective
def test_features_are_compared_where_they_have_a_weight(name):
    config = preset("fast", objective=name)
    assert build_objective(config).compares_features
    weights = dataclasses.replace(config.weights, features=0.0)
    if OBJECTIVES[name].needs_gan:
        with pytest.raises(ValueError, match="compares pictures in features alone"):
            dataclasses.replace(config, weights=weights)
    else:
        assert not build_objective(dataclasses.replace(config, weights=weights)).compares_features


@every_objective
def test_the_price_names_settings_that_there_are(name):
    flags = {f"--{setting.replace('_', '-')}" for setting in flatten(dataclasses.asdict(Config()))}
    named = re.findall(r"--[a-z.-]+[a-z0-9]+", f"{OBJECTIVES[name].price} {OBJECTIVES[name].reconstruction}")
    assert named
    assert set(named) <= flags


@every_objective
def test_only_what_sees_batch_moments_can_remember_them(name):
    if OBJECTIVES[name].batch_moments:
        preset("fast", objective=name, moments_memory=2)
    else:
        with pytest.raises(ValueError, match="moments_memory 2 needs --objective global"):
            preset("fast", objective=name, moments_memory=2)


def test_every_objective_has_models_in_a_comparison_and_no_two_share_a_name():
    names = [model for row in OBJECTIVES.values() for model in row.models]
    assert len(names) == len(set(names))
    assert {PAPER, *names} == COMPARED.keys()
    for name, row in OBJECTIVES.items():
        assert {model_config(preset("fast"), model).objective for model in row.models} == {name}


def test_the_ten_models_of_a_comparison_are_those_of_the_study():
    plain = ("samples", "means", "total", "standard", "beta")
    assert (*plain, *(name + GAN for name in plain)) == MODELS
