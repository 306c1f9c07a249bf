"""The priors of a model: drawn from by name, kept beside its weights, and not used with others."""

import pytest
import torch

from vaekit.config.priors import COPIES, PRIORS, WEIGHTS
from vaekit.models.kept import OF_BEFORE, weights_sha256
from vaekit.models.vae import VAE, WEIGHTS_FILE, build_vae
from vaekit.priors.base import Latents, fit_prior, fitted_by
from vaekit.system.files import read_metadata, sha256

OF_ALL = [name for name, row in PRIORS.items() if not (row.trained or row.of_codes)]
FITTED = [name for name in OF_ALL if PRIORS[name].fitted is not None]


def latents(d, generator):
    return Latents(3 + torch.randn(60, d, generator=generator), torch.full((60, d), 0.5))


@pytest.fixture
def vae(tiny, generator):
    """A model with every prior that any model may have."""
    vae = build_vae(tiny.resolved())
    for name in FITTED:
        vae.set_prior(name, fit_prior(name, latents(vae.latent_dim, generator), 0))
    return vae.eval()


def test_every_prior_travels_with_the_model(vae, tmp_path):
    vae.save_pretrained(tmp_path / "a")
    VAE.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    again = VAE.from_pretrained(tmp_path / "b")
    assert list(again.priors) == OF_ALL
    assert again.prior_name == FITTED[-1]
    for name in OF_ALL:
        draws = [each.draw(3, torch.Generator().manual_seed(1), name) for each in (vae, again)]
        assert torch.equal(*draws), name
    for name in FITTED:
        assert read_metadata(tmp_path / "b" / fitted_by(name).file)[WEIGHTS] == weights_sha256(again.state_dict())


def test_a_model_that_was_trained_on_loses_its_priors_and_says_so(vae, tmp_path):
    with torch.no_grad():
        vae.decoder.layers[-1].bias += 1
    with pytest.warns(UserWarning, match="not kept: gaussian, gaussian-mixture, flow, since the weights have changed"):
        vae.save_pretrained(tmp_path)
    assert list(VAE.from_pretrained(tmp_path).priors) == ["normal"]


def test_a_prior_keeps_the_weights_that_it_was_fitted_to_when_another_one_is_set(vae, generator, tmp_path):
    with torch.no_grad():
        vae.decoder.layers[-1].bias += 1
    vae.set_prior("gaussian", fit_prior("gaussian", latents(16, generator), 0))
    with pytest.warns(UserWarning, match="not kept: gaussian-mixture, flow"):
        vae.save_pretrained(tmp_path)
    assert list(VAE.from_pretrained(tmp_path).priors) == ["normal", "gaussian"]


def test_the_order_in_which_priors_are_set_does_not_matter(tiny, generator, tmp_path):
    vae = build_vae(tiny.resolved())
    for name in reversed(FITTED):
        vae.set_prior(name, fit_prior(name, latents(16, generator), 0))
    vae.save_pretrained(tmp_path)
    assert vae.prior_name == VAE.from_pretrained(tmp_path).prior_name == "flow"
    with pytest.raises(ValueError, match="no prior is called 'mine'; choose one of normal, learned, gaussian"):
        vae.set_prior("mine", vae.prior)


def test_priors_of_before_name_the_file_of_their_weights(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    for name in FITTED:
        vae.priors[name].save(tmp_path / fitted_by(name).file, {OF_BEFORE: sha256(tmp_path / WEIGHTS_FILE)})
    assert list(VAE.from_pretrained(tmp_path).priors) == OF_ALL
    for name in FITTED:
        vae.priors[name].save(tmp_path / fitted_by(name).file, {OF_BEFORE: "another"})
    with pytest.warns(UserWarning, match="other weights than these"):
        assert list(VAE.from_pretrained(tmp_path).priors) == ["normal"]


def test_a_sample_is_a_draw_of_the_prior_decoded(vae):
    for name in [None, *OF_ALL]:
        x_hat = vae.sample(2, torch.Generator().manual_seed(1), name, temperature=0.5)
        z = vae.priors[name or vae.prior_name].sample(2, torch.Generator().manual_seed(1), temperature=0.5)
        torch.testing.assert_close(x_hat, vae.decode(z))


def test_a_model_without_fitted_priors_draws_from_the_standard_normal(tiny):
    vae = build_vae(tiny.resolved())
    z = torch.randn(2, vae.latent_dim, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(vae.sample(2, torch.Generator().manual_seed(4)), vae.decode(z))


@pytest.mark.parametrize("name", FITTED)
def test_a_prior_of_other_weights_is_not_used_and_told(vae, name, tmp_path):
    vae.save_pretrained(tmp_path)
    with torch.no_grad():
        vae.decoder.layers[-1].bias += 1
    kept = (tmp_path / fitted_by(name).file).read_bytes()
    vae.kept = {}
    vae.save_pretrained(tmp_path)
    for other in FITTED:
        (tmp_path / fitted_by(other).file).unlink()
    (tmp_path / fitted_by(name).file).write_bytes(kept)
    with pytest.warns(
        UserWarning, match=rf"other weights than these; it is not used: vaekit fit-prior --kind {name} fits"
    ):
        again = VAE.from_pretrained(tmp_path)
    assert list(again.priors) == ["normal"]


@pytest.mark.parametrize("name", FITTED)
def test_a_prior_of_other_entries_or_damaged_is_not_used_and_told(vae, name, generator, tmp_path):
    vae.save_pretrained(tmp_path)
    path = tmp_path / fitted_by(name).file
    fit_prior(name, latents(4, generator), 0).save(path, {WEIGHTS: weights_sha256(vae.state_dict())})
    with pytest.warns(UserWarning, match="has 4 entries, and this model 16"):
        assert name not in VAE.from_pretrained(tmp_path).priors
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="not a whole safetensors file"):
        assert name not in VAE.from_pretrained(tmp_path).priors


def test_a_prior_that_copies_is_there_by_name_and_not_the_default(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    path = tmp_path / fitted_by("flow").file
    vae.priors["flow"].save(path, {WEIGHTS: weights_sha256(vae.state_dict()), COPIES: "yes"})
    again = VAE.from_pretrained(tmp_path)
    assert again.prior_name == "gaussian-mixture"
    assert again.draw(1, None, "flow").shape == (1, 16)
    again.save_pretrained(tmp_path / "b")
    assert VAE.from_pretrained(tmp_path / "b").prior_name == "gaussian-mixture"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "vamp"}, "no prior 'vamp'; it has normal, gaussian, gaussian-mixture, flow"),
        ({"temperature": 0.0}, "temperature 0; it must be above 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"num_images": 0}, "0 samples; ask for one or more"),
        ({"prior": "gaussian", "label": "a"}, "the prior gaussian takes no label; it takes temperature"),
        ({"prior": "normal", "label": "a", "guidance": 2.0}, "the prior normal takes no guidance or label"),
        ({"prior": "flow", "label": "a"}, "it was fitted without labels"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_one_clear_line(vae, options, message):
    with pytest.raises(ValueError, match=message):
        vae.sample(**({"num_images": 2} | options))
