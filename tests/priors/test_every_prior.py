"""Every prior of the table alike: fitted, kept, read back and sampled by its name."""

import pytest
import torch

from vaekit.config.priors import PRIORS
from vaekit.config.variants import code_of
from vaekit.priors.base import Latents, StandardNormal, fit_prior, fitted_by


def load_prior(name, path):
    return code_of("priors", fitted_by(name).load).load(path)


def points(z):
    """Latents of posteriors without width."""
    return Latents(z, torch.zeros_like(z))


FITTED = [name for name, row in PRIORS.items() if row.fitted is not None and not row.of_codes]


@pytest.mark.parametrize("name", FITTED)
def test_what_is_fitted_is_kept_in_a_file_and_is_the_same_density(name, generator, tmp_path):
    z = 3 + torch.randn(200, 4, generator=generator)
    prior = fit_prior(name, points(z), seed=0)
    prior.save(tmp_path / "prior")
    again = load_prior(name, tmp_path / "prior")
    assert torch.equal(again.log_prob(z), prior.log_prob(z))
    draws = [each.sample(5, torch.Generator().manual_seed(1)) for each in (prior, again)]
    assert torch.equal(*draws)
    assert draws[0].shape == (5, 4)
    assert again.latent_dim == 4


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_explains_its_latents_better_than_the_standard_normal(name, generator):
    z = 3 + torch.randn(200, 4, generator=generator)
    assert fit_prior(name, points(z), seed=0).log_prob(z).mean() > StandardNormal(4).log_prob(z).mean() + 10


@pytest.mark.parametrize("name", FITTED)
def test_a_low_temperature_draws_nearer_to_the_middle(name, generator):
    prior = fit_prior(name, points(3 + torch.randn(200, 4, generator=generator)), seed=0)
    spread = [prior.sample(2000, torch.Generator().manual_seed(1), temperature=t).std(0).mean() for t in (1.0, 0.3)]
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize("name", FITTED)
def test_a_damaged_file_and_one_of_another_kind_are_refused_with_what_to_do(name, generator, tmp_path):
    fit_prior(name, points(torch.randn(60, 4, generator=generator)), seed=0).save(tmp_path / "whole")
    (tmp_path / "half").write_bytes((tmp_path / "whole").read_bytes()[:-4])
    for other in FITTED:
        fit_prior(other, points(torch.randn(60, 4, generator=generator)), seed=0).save(tmp_path / other)
    for path in ["half", "missing", *(other for other in FITTED if other != name)]:
        with pytest.raises(ValueError, match=r"fit the prior again|give a file that"):
            load_prior(name, tmp_path / path)


def test_no_two_priors_keep_their_fit_in_one_file():
    files = [fitted_by(name).file for name in FITTED]
    assert len(files) == len(set(files))


def test_what_is_not_fitted_is_refused_with_what_is(tmp_path):
    for ask in (lambda: fit_prior("normal", torch.zeros(2, 2), 0), lambda: load_prior("vamp", tmp_path)):
        with pytest.raises(
            ValueError, match=r"no prior '(normal|vamp)' to fit; choose one of gaussian, gaussian-mixture, flow"
        ):
            ask()
