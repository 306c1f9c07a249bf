"""Sets of pictures, collected batch by batch."""

import pytest
import torch

from vaekit.measures import pictures as metrics
from vaekit.measures.features import load_extractor
from vaekit.measures.sets import SLICED_PICTURES, collect, compare_sets, measure_names


@pytest.fixture
def pictures(generator):
    """Pictures of 8 bits, which rounding leaves alone."""
    return torch.randint(0, 256, (30, 3, 16, 16), generator=generator) / 127.5 - 1


def test_a_set_does_not_depend_on_its_batches(pictures):
    at_once, in_parts = collect([pictures], 30, None), collect(pictures.split(7), 30, None)
    torch.testing.assert_close(at_once.spectrum, in_parts.spectrum)
    torch.testing.assert_close(at_once.spectrum, metrics.power_spectrum(pictures))
    assert at_once.laplacian_energy == pytest.approx(metrics.laplacian_energy(pictures).mean().item(), rel=1e-6)
    assert torch.equal(at_once.pictures, in_parts.pictures)


def test_of_many_pictures_those_kept_as_pixels_come_from_all_over():
    ramp = torch.linspace(-1, 1, 2000)[:, None, None, None].expand(2000, 1, 16, 16)
    kept = collect(ramp.split(64), 2000, None).pictures[:, 0, 0, 0]
    assert len(kept) == SLICED_PICTURES
    assert (kept[0], kept[-1]) == (0, 255)
    assert kept.float().mean() == pytest.approx(127.5, abs=1)


def test_a_set_is_as_good_as_itself(pictures):
    same, missing = compare_sets(collect([pictures], 30, None), collect([pictures], 30, None), None)
    assert same["laplacian_ratio"] == pytest.approx(1)
    assert same["spectrum_db"] == pytest.approx(0, abs=1e-6)
    assert not missing


def test_what_needs_more_pictures_is_named_with_the_reason(pictures):
    extractor = load_extractor("efficientnet-lite0")
    three = collect([pictures[:3]], 3, extractor)
    measured, missing = compare_sets(three, three, extractor)
    assert measured["fd_effnet"] == pytest.approx(0, abs=1e-3)
    assert "precision" not in measured
    assert "precision, recall, density, coverage" in missing


def test_distances_are_named_after_their_features():
    assert measure_names(load_extractor("efficientnet-lite0")) == ("fd_effnet", "kd_effnet", "sd_effnet")


def test_pictures_that_are_not_finite_are_refused(pictures):
    with pytest.raises(ValueError, match="not finite"):
        collect([pictures.log()], 30, None)
