"""Every prior of the table alike: fitted, kept, read back and sampled by its name."""

import pytest
import torch

from vaekit.config.variants import PRIORS
from vaekit.priors.base import StandardNormal, fit_prior, fitted_by, load_prior

FITTED = [name for name, row in PRIORS.items() if row.fitted is not None]


@pytest.mark.parametrize("name", FITTED)
def test_what_is_fitted_is_kept_in_a_file_and_is_the_same_density(name, generator, tmp_path):
    z = 3 + torch.randn(200, 4, generator=generator)
    prior = fit_prior(name, z, seed=0)
    prior.save(tmp_path / "prior")
    again = load_prior(name, tmp_path / "prior")
    assert torch.equal(again.log_prob(z), prior.log_prob(z))
    draws = [each.sample(5, torch.Generator().manual_seed(1)) for each in (prior, again)]
    assert torch.equal(*draws)
    assert draws[0].shape == (5, 4)


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_explains_its_latents_better_than_the_standard_normal(name, generator):
    z = 3 + torch.randn(200, 4, generator=generator)
    assert fit_prior(name, z, seed=0).log_prob(z).mean() > StandardNormal(4).log_prob(z).mean() + 10


def test_no_two_priors_keep_their_fit_in_one_file():
    files = [fitted_by(name).file for name in FITTED]
    assert len(files) == len(set(files))


def test_what_is_not_fitted_is_refused_with_what_is(tmp_path):
    for ask in (lambda: fit_prior("normal", torch.zeros(2, 2), 0), lambda: load_prior("flow", tmp_path)):
        with pytest.raises(ValueError, match=r"no prior '(normal|flow)' to fit; choose one of gaussian-mixture"):
            ask()
