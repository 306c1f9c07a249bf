import pytest
import torch

from vaekit.data.pixels import to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_survives_the_round_trip():
    assert torch.equal(to_uint8(to_float(LEVELS)), LEVELS)


def test_black_is_minus_one_and_white_is_one():
    x = to_float(LEVELS.view(4, 1, 8, 8))
    assert x.dtype == torch.float32
    assert x.shape == (4, 1, 8, 8)
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)


def test_levels_are_equally_spaced():
    torch.testing.assert_close(to_float(LEVELS), torch.linspace(-1, 1, 256))


def test_values_outside_the_range_are_clamped():
    assert to_uint8(torch.tensor([-1.5, 1.5, -torch.inf, torch.inf])).tolist() == [0, 255, 0, 255]


def test_values_between_levels_go_to_the_nearest():
    x = torch.tensor([100.4, 100.6]) / 127.5 - 1
    assert to_uint8(x).tolist() == [100, 101]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_within_their_own_rounding(dtype):
    x = to_float(LEVELS).to(dtype)
    spacing = torch.finfo(dtype).eps * 127.5  # of values near 1, in levels
    assert (to_uint8(x).int() - LEVELS.int()).abs().max() <= 0.5 + spacing / 2


def test_pixels_converted_twice_are_caught():
    with pytest.raises(AssertionError, match="converted twice"):
        to_float(to_float(LEVELS))
