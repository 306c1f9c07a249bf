"""Densities of latents against torch.distributions and against mixtures that are known."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from vaekit.priors import mixture
from vaekit.priors.base import StandardNormal
from vaekit.priors.mixture import GaussianMixturePrior, fit_gaussian_mixture

WEIGHTS = torch.tensor([0.7, 0.3])
MEAN = torch.tensor([[3.0, 0.0, 1.0], [-3.0, 1.0, 0.0]])
CHOLESKY = torch.tensor(
    [[[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 0.5]], [[0.5, 0.0, 0.0], [0.0, 2.0, 0.0], [0.3, -0.4, 1.0]]]
)
STD = torch.tensor([[1.0, 0.5, 2.0], [0.3, 1.5, 0.7]])
FULL = GaussianMixturePrior(WEIGHTS, MEAN, CHOLESKY)
DIAG = GaussianMixturePrior(WEIGHTS, MEAN, STD)
both = pytest.mark.parametrize("prior", [FULL, DIAG], ids=["full", "diag"])


def torchs(prior):
    """The same density by torch.distributions."""
    if prior.covariance == "full":
        parts = MultivariateNormal(prior.mean, scale_tril=prior.scale)
    else:
        parts = Independent(Normal(prior.mean, prior.scale), 1)
    return MixtureSameFamily(Categorical(prior.weights), parts)


def test_of_very_many_entries_covariances_are_diagonal(monkeypatch, generator):
    z = torch.randn(400, 3, generator=generator) @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert fit_gaussian_mixture(z).covariance == "full"
    monkeypatch.setattr(mixture, "LARGEST_FULL", 2)
    assert fit_gaussian_mixture(z).covariance == "diag"


@both
def test_log_prob_is_that_of_torchs_mixture(prior, generator):
    z = 3 * torch.randn(50, 3, generator=generator)
    torch.testing.assert_close(prior.log_prob(z), torchs(prior).log_prob(z))


@both
def test_samples_have_the_moments_of_the_mixture(prior, generator):
    z = prior.sample(200_000, generator)
    covariance = prior.scale @ prior.scale.mT if prior.scale.ndim == 3 else torch.diag_embed(prior.scale.square())
    mean = WEIGHTS @ MEAN
    second = covariance + MEAN[:, :, None] * MEAN[:, None]  # E[z z^T] of each component
    expected = (WEIGHTS[:, None, None] * second).sum(0) - mean[:, None] * mean
    torch.testing.assert_close(z.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), expected, atol=0.06, rtol=0)


@both
def test_a_known_mixture_is_recovered_from_its_samples(prior, generator):
    fitted = fit_gaussian_mixture(prior.sample(5000, generator), 2, prior.covariance)
    order = fitted.weights.argsort(descending=True)
    torch.testing.assert_close(fitted.weights[order], WEIGHTS, atol=0.02, rtol=0)
    torch.testing.assert_close(fitted.mean[order], MEAN, atol=0.15, rtol=0)
    torch.testing.assert_close(fitted.scale[order], prior.scale, atol=0.1, rtol=0)
    fresh = prior.sample(5000, generator)
    assert (torchs(prior).log_prob(fresh) - fitted.log_prob(fresh)).mean().abs() < 0.02


def test_as_many_full_components_are_chosen_as_there_are(generator):
    one = torch.randn(600, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    assert (fit_gaussian_mixture(one).components, fit_gaussian_mixture(one).covariance) == (1, "full")
    two = fit_gaussian_mixture(FULL.sample(600, generator))
    assert (two.components, two.covariance) == (2, "full")


def test_a_diagonal_is_chosen_where_the_latents_are_too_few_for_a_full_covariance(generator):
    assert fit_gaussian_mixture(torch.randn(60, 50, generator=generator)).covariance == "diag"


def test_what_is_given_is_not_chosen(generator):
    z = torch.randn(200, 3, generator=generator)
    assert fit_gaussian_mixture(z, covariance="diag").covariance == "diag"
    assert fit_gaussian_mixture(z, components=3).components == 3
    prior = fit_gaussian_mixture(z, 4, "full")
    assert (prior.components, prior.covariance) == (4, "full")


def test_one_full_component_has_the_mean_and_covariance_of_the_latents(generator):
    z = torch.randn(300, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 5
    prior = fit_gaussian_mixture(z, 1, "full")
    torch.testing.assert_close(prior.mean[0], z.mean(0))
    expected = torch.cov(z.T, correction=0)
    expected += torch.diag(1e-3 * expected.diagonal())
    torch.testing.assert_close(prior.scale[0] @ prior.scale[0].T, expected, rtol=1e-4, atol=1e-4)


def test_the_unit_of_an_entry_does_not_matter(generator):
    unit = torch.tensor([1e-3, 1.0, 1e3])
    z = FULL.sample(500, generator)
    plain, scaled = fit_gaussian_mixture(z, 2, "full"), fit_gaussian_mixture(z * unit, 2, "full")
    torch.testing.assert_close(scaled.mean, plain.mean * unit, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scaled.log_prob(z * unit) + unit.log().sum(), plain.log_prob(z), rtol=1e-3, atol=1e-2)


def test_a_fitted_density_beats_the_standard_normal_on_latents_that_hang_together(generator):
    mixing = torch.randn(6, 6, generator=generator) / 6**0.5
    z = torch.randn(2000, 6, generator=generator) @ mixing
    z = z / z.std(0)  # each entry looks standard normal by itself: all that KL_G sees
    prior = fit_gaussian_mixture(z[:1000])
    assert prior.log_prob(z[1000:]).mean() > StandardNormal(6).log_prob(z[1000:]).mean() + 0.5


@pytest.mark.parametrize("n", [2, 3, 9, 10, 11])
def test_a_handful_of_latents_is_enough_for_a_density(generator, n):
    prior = fit_gaussian_mixture(torch.randn(n, 4, generator=generator))
    assert prior.sample(5, generator).isfinite().all()


def test_a_sample_is_as_exact_under_autocast(generator):
    prior = fit_gaussian_mixture(FULL.sample(300, generator), 1, "full")
    expected = prior.sample(9, torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.sample(9, torch.Generator().manual_seed(3)), expected)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_entries_that_never_vary_and_equal_latents_do_no_harm(generator, components, covariance):
    z = torch.randn(40, 5, generator=generator)
    z[:, 2] = 0.1
    z[5:] = z[0]
    for latents in (z, z[5:]):
        prior = fit_gaussian_mixture(latents, components, covariance)
        sample = prior.sample(20, generator)
        assert sample.isfinite().all()
        assert prior.log_prob(sample).isfinite().all()
        assert (sample[:, 2] - 0.1).abs().max() < 0.2


def test_the_same_seed_gives_the_same_fit_and_the_same_samples(generator):
    z = FULL.sample(300, generator).numpy()
    first, second, other = (fit_gaussian_mixture(z, seed=seed) for seed in (1, 1, 2))
    for name in ("weights", "mean", "scale"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.mean, other.mean)
    draws = [first.sample(9, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("z", "options", "message"),
    [
        (np.zeros(5), {}, r"latents of shape \(5,\); give \(N, d\)"),
        (np.zeros((1, 3)), {}, "two or more"),
        (np.full((5, 3), np.nan), {}, "some latents are not finite"),
        (np.zeros((5, 3)), {"covariance": "tied"}, "unknown covariance 'tied'; choose one of full, diag"),
        (np.zeros((5, 3)), {"components": 6}, "6 components for 5 latents; choose from 1 to 5"),
    ],
)
def test_what_cannot_be_fitted_is_refused(z, options, message):
    with pytest.raises(ValueError, match=message):
        fit_gaussian_mixture(z, **options)


@both
def test_a_saved_prior_comes_back_bit_for_bit(prior, tmp_path):
    prior.save(tmp_path / "prior.safetensors")
    loaded = GaussianMixturePrior.load(tmp_path / "prior.safetensors")
    for name in ("weights", "mean", "scale"):
        assert torch.equal(getattr(loaded, name), getattr(prior, name))


def test_a_file_that_is_no_prior_is_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        GaussianMixturePrior.load(path)
    FULL.save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        GaussianMixturePrior.load(path)
    save_file({"weights": WEIGHTS, "mean": MEAN, "scale": STD}, path)
    with pytest.raises(ValueError, match="holds no fitted prior"):
        GaussianMixturePrior.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": torch.tensor([0.7, 0.7])},
        {"weights": torch.ones(3) / 3},
        {"mean": MEAN * torch.inf},
        {"mean": MEAN[0]},
        {"scale": -STD},
        {"scale": CHOLESKY[:, :2].clone()},
        {"scale": STD.int()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_numbers_that_are_no_density_are_refused(change, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_file({"weights": WEIGHTS, "mean": MEAN, "scale": STD} | change, path, {"prior": "gaussian-mixture"})
    with pytest.raises(ValueError, match="are no Gaussian mixture"):
        GaussianMixturePrior.load(path)


def test_the_standard_normal_is_torchs(generator):
    prior = StandardNormal(4)
    z = torch.randn(9, 4, generator=generator)
    torch.testing.assert_close(prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))
    assert torch.equal(
        prior.sample(3, torch.Generator().manual_seed(5)), torch.randn(3, 4, generator=generator.manual_seed(5))
    )
