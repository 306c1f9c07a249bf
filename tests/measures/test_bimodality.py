"""The count of bimodal entries on samples whose number of modes is known."""

import sys

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control

from vaekit.measures.bimodality import bimodality, discoveries, two_modes


def mixture(random, n, d, at, share=0.5):
    """n samples of d entries, two Gaussians at -at and at, of total variance one where share is a half."""
    signs = np.where(random.random((n, d)) < share, -1.0, 1.0)
    return at * signs + np.sqrt(1 - at**2) * random.normal(size=(n, d))


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_entries_with_two_modes_are_found_and_their_modes_too(random):
    z = random.normal(size=(400, 30))
    z[:, 5:15] = mixture(random, 400, 10, at=0.95)
    found = bimodality(z)
    assert found.bimodal.nonzero()[0].tolist() == list(range(5, 15))
    assert found.count == 10
    np.testing.assert_allclose(found.modes, np.tile([-0.95, 0.95], (10, 1)), atol=0.15)
    np.testing.assert_allclose(found.median_modes, (-0.95, 0.95), atol=0.05)


def test_among_gaussian_entries_none_is_bimodal(random):
    found = bimodality(random.normal(size=(400, 300)))
    assert found.count == 0
    assert found.modes.shape == (0, 2)
    assert found.median_modes is None


@pytest.mark.parametrize("draw", ["exponential", "standard_cauchy", "laplace", "uniform"])
def test_skewed_heavy_tailed_and_flat_entries_have_one_mode(random, draw):
    assert bimodality(getattr(random, draw)(size=(500, 20))).count == 0


def test_where_all_entries_are_uniform_a_discovery_is_as_rare_as_the_level(random):
    """The hardest unimodal density; with no true discovery the false share is the chance of any discovery."""
    runs = [bimodality(random.random((100, 10)), level=0.1).count > 0 for _ in range(400)]
    assert np.mean(runs) == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 / 400))


def test_discoveries_are_those_of_scipys_adjusted_p_values(random):
    for _ in range(20):
        p_values = random.random(50) ** 3
        expected = false_discovery_control(p_values) <= 0.05
        assert discoveries(p_values, 0.05).tolist() == expected.tolist()


@pytest.mark.parametrize(("share", "scale", "shift"), [(0.5, 1.0, 0.0), (0.3, 1.0, 0.0), (0.5, 1e-3, 7.0)])
def test_modes_follow_the_sample_in_place_and_scale(random, share, scale, shift):
    x = shift + scale * mixture(random, 2400, 1, 0.9, share)[:, 0]
    np.testing.assert_allclose((np.array(two_modes(x)) - shift) / scale, (-0.9, 0.9), atol=0.12)


def test_outliers_are_not_taken_for_modes(random):
    x = mixture(random, 400, 1, 0.95)[:, 0]
    x[:4] = [-9.0, 8.0, 9.0, 500.0]
    np.testing.assert_allclose(two_modes(x), (-0.95, 0.95), atol=0.15)


def test_of_three_modes_the_two_with_the_deepest_valley_between_them_are_given(random):
    x = np.concatenate([0.1 * random.normal(size=400) + at for at in (-2.0, -1.0, 2.0)])
    lower, upper = two_modes(x)
    assert min(abs(lower + 2), abs(lower + 1)) < 0.1
    assert upper == pytest.approx(2, abs=0.1)


def test_two_values_only_are_two_modes_and_one_value_is_one():
    z = torch.stack([torch.tensor([-1.0, 1.0]).repeat(20), torch.zeros(40)], 1)
    found = bimodality(z)
    assert found.bimodal.tolist() == [True, False]
    np.testing.assert_allclose(found.modes, [[-1, 1]], atol=0.02)


def test_the_same_latents_as_tensor_and_array_give_the_same_answer(random):
    z = mixture(random, 100, 4, 0.95).astype(np.float32)
    np.testing.assert_array_equal(bimodality(torch.from_numpy(z)).p_values, bimodality(z).p_values)


@pytest.mark.parametrize(
    ("z", "level", "message"),
    [
        (np.zeros((3, 2)), 0.05, r"latents of shape \(3, 2\); .* at least 4"),
        (np.array([[0.0, 1.0]] * 5 + [[np.nan, np.inf]]), 0.05, "latents of 1 of 6 images are not finite"),
        (np.zeros((5, 2)), 5.0, "level is 5.0; it must lie between 0 and 1"),
    ],
)
def test_latents_that_cannot_be_tested_are_refused(z, level, message):
    with pytest.raises(ValueError, match=message):
        bimodality(z, level)


def test_without_diptest_the_message_says_what_to_install(random, monkeypatch):
    monkeypatch.setitem(sys.modules, "diptest", None)
    with pytest.raises(ImportError, match=r'pip install "vaekit\[bimodality\]"'):
        bimodality(random.normal(size=(10, 2)))
