"""The figures, on a VAE whose latent is the picture itself: entry j is pixel j, so every pixel is known."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vaekit.config.priors import PRIORS
from vaekit.config.variants import COMPARED
from vaekit.models.posterior import Posterior
from vaekit.priors.base import StandardNormal
from vaekit.reports import charts, figures

pytestmark = pytest.mark.usefixtures("drawn")


class PixelVAE(nn.Module):
    """Entry j of the mean is value j of the flattened picture, std is constant, decoding is the way back."""

    def __init__(self, shape: tuple[int, int, int], latent_dim: int | None = None, std: float = 1e-6) -> None:
        super().__init__()
        self.shape, self.std = shape, std
        self.latent_dim = latent_dim or math.prod(shape)
        self.prior = StandardNormal(self.latent_dim)
        self.weight = nn.Parameter(torch.eye(self.latent_dim, math.prod(shape)))
        self.dropout = nn.Dropout(0.5)

    def encode(self, x: torch.Tensor) -> Posterior:
        mean = self.dropout(x.flatten(1)) @ self.weight.T
        return Posterior(mean, torch.full_like(mean, 2 * math.log(self.std)))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return (z @ self.weight).unflatten(1, self.shape)


def pictures(n: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Random pixels (n, C, H, W), none of them white, so that no picture looks like the white canvas."""
    values = torch.randint(20, 230, (n, *shape), generator=torch.Generator().manual_seed(seed))
    return values / 127.5 - 1


def tile(x: torch.Tensor, side: int) -> np.ndarray:
    """One picture (C, H, W) as it should appear: rounded to uint8, grey as RGB, each pixel `side` wide."""
    values = ((x.double().numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    rgb = np.moveaxis(np.repeat(values, 3 // len(values), axis=0), 0, -1)
    return np.kron(rgb, np.ones((side, side, 1), np.uint8))


def places(picture: np.ndarray, patch: np.ndarray) -> list[tuple[int, int]]:
    """Every (top, left) at which `patch` occurs in `picture`, in reading order."""
    h, w, _ = patch.shape
    rows, columns = len(picture) - h + 1, picture.shape[1] - w + 1
    found = np.ones((rows, columns), bool)
    for y, x in product((0, h // 2, h - 1), (0, w // 2, w - 1)):  # leaves few to compare as a whole
        found &= (picture[y : y + rows, x : x + columns] == patch[y, x]).all(-1)
    return [(t, le) for t, le in np.argwhere(found).tolist() if (picture[t : t + h, le : le + w] == patch).all()]


RECORDS = [
    {"images_seen": 100 * i, "elapsed_sec": 1.5 * i, "l1": 1 / i, "kl_global": 5.0, "test/l1": 2 / i}
    for i in range(1, 5)
]


def test_grid_places_images_in_reading_order():
    images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((2, 4, 3), np.uint8)
    drawn = figures.grid(images, columns=3, pad=1)
    assert drawn.shape == (2 * 2 + 1, 3 * 4 + 2, 3)
    assert drawn[0, [0, 5, 10], 0].tolist() == [1, 2, 3]
    assert drawn[3, [0, 5], 0].tolist() == [4, 5]


def test_grid_is_white_between_the_images_and_where_none_is_left():
    drawn = figures.grid(np.zeros((3, 2, 2, 3), np.uint8), columns=2, pad=1)
    expected = np.full((5, 5, 3), 255)
    expected[:2, :2] = expected[:2, 3:] = expected[3:, :2] = 0
    assert (drawn == expected).all()


@pytest.mark.parametrize(("n", "shape"), [(1, (1, 1)), (4, (2, 2)), (5, (2, 3)), (64, (8, 8))])
def test_grid_is_about_square_by_itself(n, shape):
    assert figures.grid(np.zeros((n, 1, 1, 3), np.uint8), pad=0).shape[:2] == shape


def test_to_rgb_shows_a_grey_picture_in_three_equal_channels():
    drawn = figures.to_rgb(torch.tensor([[[[-1.0, 0.2, 1.0]]]]))
    assert drawn.tolist() == [[[[0] * 3, [153] * 3, [255] * 3]]]


def test_to_rgb_shows_the_first_three_of_many_channels():
    drawn = figures.to_rgb(torch.tensor([-1.0, 0.2, 1.0, -1.0, -1.0]).reshape(1, 5, 1, 1))
    assert drawn.tolist() == [[[[0, 153, 255]]]]


def test_to_rgb_draws_what_is_not_finite_within_the_range():
    drawn = figures.to_rgb(torch.tensor([math.nan, math.inf, -math.inf]).reshape(1, 1, 1, 3))
    assert drawn[0, 0, :, 0].tolist() == [128, 255, 0]


@pytest.mark.parametrize("shape", [(1, 20, 12), (3, 12, 20)], ids=["grey", "colour"])
def test_reconstructions_show_original_sample_and_mean_below_each_other_pixel_by_pixel(shape):
    x = pictures(3, shape)
    drawn = figures.reconstructions(PixelVAE(shape), x)
    columns = [places(drawn, tile(image, side=8)) for image in x]
    assert [len(column) for column in columns] == [3, 3, 3]
    assert all(len({left for _, left in column}) == 1 for column in columns)
    assert columns[0][0][1] < columns[1][0][1] < columns[2][0][1]


def test_reconstructions_from_a_sample_differ_from_the_mean_when_the_posterior_is_wide():
    x = pictures(1, (3, 8, 8))
    drawn = figures.reconstructions(PixelVAE((3, 8, 8), std=0.5), x)
    assert len(places(drawn, tile(x[0], side=20))) == 2  # original and mean


@pytest.mark.parametrize(("size", "factor"), [(32, 5), (64, 2), (128, 1), (256, 1)])
def test_small_pictures_are_enlarged_by_whole_pixels(size, factor):
    x = pictures(1, (1, size, size))
    assert places(figures.reconstructions(PixelVAE((1, size, size), latent_dim=2), x), tile(x[0], factor))


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 6, 4)], ids=["grey", "colour"])
def test_variants_centre_is_the_decoded_latent(shape):
    x = pictures(1, shape)
    drawn = figures.variants(PixelVAE(shape), x[0], deltas=(-9e5, 0, 9e5))
    ((top, left),) = places(drawn, tile(x[0], side=32))
    height, width = 32 * shape[1], 32 * shape[2]
    assert min(top, drawn.shape[0] - top - height) > height  # a neighbour fits on each side
    assert min(left, drawn.shape[1] - left - width) > width


def test_variants_move_a_along_the_horizontal_and_b_down_the_vertical():
    x = pictures(1, (1, 3, 3))[0]
    std = 0.01
    drawn = figures.variants(PixelVAE((1, 3, 3), std=std), x, a=4, b=5, generator=torch.Generator().manual_seed(3))
    z = x.flatten() + std * torch.randn(1, 9, generator=torch.Generator().manual_seed(3))[0]
    found = []
    for delta_b in (-20, 0, 20):
        for delta_a in (-20, 0, 20):
            z[4], z[5] = x[0, 1, 1] + delta_a * std, x[0, 1, 2] + delta_b * std
            found += places(drawn, tile(z.reshape(1, 3, 3), side=64))
    assert len(found) == 9
    assert found == sorted(found)  # reading order


def test_variants_with_a_scale_move_by_the_spread_over_the_data():
    x = torch.full((1, 2, 2), 0.1)
    drawn = figures.variants(PixelVAE((1, 2, 2)), x, 0, 1, (-2, 0, 2), torch.tensor([0.1, 0.3, 9.0, 9.0]))
    assert places(drawn, tile(torch.tensor([[[0.3, -0.5], [0.1, 0.1]]]), side=96))


def test_variants_of_one_entry_are_one_row():
    drawn = figures.variants(PixelVAE((1, 4, 4), latent_dim=1), torch.zeros(1, 4, 4), a=0, b=0)
    assert drawn.shape[0] < 2 * 192 < 3 * 192 < drawn.shape[1]


@pytest.mark.parametrize("entries", [(0, 16), (-1, 0)])
def test_variants_and_joint_histogram_refuse_an_entry_the_latent_lacks(entries):
    with pytest.raises(ValueError, match="choose from 0 to 15"):
        figures.variants(PixelVAE((1, 4, 4)), torch.zeros(1, 4, 4), *entries)
    with pytest.raises(ValueError, match="choose from 0 to 15"):
        figures.joint_histogram(torch.zeros(5, 16), *entries)


def test_most_varying_finds_the_entries_with_the_largest_variance():
    mean = torch.tensor([[9.0, 0.0, -3.0, 1.0], [9.0, 1.0, 3.0, 3.0], [9.0, math.nan, 0.0, 2.0]])
    assert figures.most_varying(mean) == (2, 3)
    assert figures.most_varying(torch.ones(3, 1)) == (0, 0)


def test_transitions_start_and_end_at_the_two_images_and_are_straight_between():
    pairs = pictures(4, (3, 5, 7)).unflatten(0, (2, 2))
    drawn = figures.transitions({"proposed": PixelVAE((3, 5, 7), std=1e-9)}, pairs)
    for x_1, x_2 in pairs.double():
        found = [places(drawn, tile(x_1 * (1 - k / 5) + x_2 * k / 5, side=22)) for k in (0, 5)]
        assert len(found[0]) == len(found[1]) == 1
        (top, first), (same, last) = found[0][0], found[1][0]
        assert same == top
        assert (last - first) % 5 == 0
        for k in range(1, 5):
            at = first + k * (last - first) // 5
            between = drawn[top : top + 5 * 22, at : at + 7 * 22].astype(int)
            assert np.abs(between - tile(x_1 * (1 - k / 5) + x_2 * k / 5, side=22)).max() <= 1  # rounding


def test_transitions_put_the_models_of_a_pair_below_each_other():
    pairs = pictures(4, (1, 8, 8)).unflatten(0, (2, 2))
    first_pixels = PixelVAE((1, 8, 8), latent_dim=32)  # keeps the upper half only
    drawn = figures.transitions({"proposed": PixelVAE((1, 8, 8)), "standard": first_pixels}, pairs)
    halves = pairs.clone()
    halves[..., 4:, :] = 0
    shown = [pairs[0, 0], halves[0, 0], pairs[1, 0], halves[1, 0]]
    tops = [places(drawn, tile(image, side=20))[0][0] for image in shown]
    assert tops == sorted(set(tops))


def test_samples_are_decoded_draws_of_the_models_prior():
    drawn = figures.samples(PixelVAE((1, 8, 8)), n=64)[::2, ::2, 0]  # a value in [-1, 1] is drawn as it is
    inside = ((drawn > 0) & (drawn < 255)).mean()
    assert inside == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.03)


class Itself:
    """A flow that changes nothing."""

    def noise_of(self, z):
        return z

    def latent_of(self, noise):
        return noise


def test_the_way_through_noise_is_a_great_circle_whose_middle_is_as_long_as_its_ends():
    z_1, z_2 = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    way = figures.through_noise(Itself(), z_1, z_2, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(way[:, 0], z_1)
    torch.testing.assert_close(way[:, 2], z_2)
    torch.testing.assert_close(way[:, 1].norm(dim=1), (z_1.norm(dim=1) + z_2.norm(dim=1)) / 2)
    same = [torch.nn.functional.cosine_similarity(way[:, 1], z) for z in (z_1, z_2)]
    torch.testing.assert_close(*same)


def test_the_way_between_equal_and_opposite_noise_is_straight():
    z = torch.tensor([[1.0, 2.0], [-3.0, 0.0]])
    alpha = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(figures.through_noise(Itself(), z, z, alpha), z[:, None].expand(-1, 3, -1))
    opposite = figures.through_noise(Itself(), z, -z, alpha)
    assert opposite.isfinite().all()
    torch.testing.assert_close(opposite[:, 0], z)
    torch.testing.assert_close(opposite[:, 2], -z)


def test_a_model_with_a_flow_has_a_second_row_of_transitions():
    vae = PixelVAE((1, 4, 4))
    x = pictures(2, (1, 4, 4))[None]
    one = figures.transitions({"": vae}, x)
    vae.prior = Itself()
    assert figures.transitions({"": vae}, x).shape[0] > 1.5 * one.shape[0]


def test_joint_histogram_leaves_out_what_is_not_finite():
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    broken = torch.cat([z, torch.tensor([[math.nan, 0, 0], [0, math.inf, 0]])])
    assert (figures.joint_histogram(broken) == figures.joint_histogram(z)).all()


@pytest.mark.parametrize("z", [torch.zeros(400, 2), torch.full((3, 2), math.nan), 1e30 * torch.ones(1, 2)])
def test_joint_histogram_draws_collapsed_broken_and_huge_latents(z):
    assert figures.joint_histogram(z).shape == (640, 640, 3)


def of_std(mean: torch.Tensor, std: torch.Tensor) -> Posterior:
    return Posterior(mean, 2 * std.log())


@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 1), (3, 2), (400, 64)])
def test_latent_statistics_draws_any_number_of_images_and_entries(n, d):
    drawn = figures.latent_statistics(of_std(torch.randn(n, d), torch.rand(n, d)))
    assert drawn.dtype == np.uint8
    assert drawn.std() > 10


def test_latent_statistics_shows_that_values_are_not_finite():
    mean, std = torch.zeros(4, 8), torch.ones(4, 8)
    broken = std.clone()
    broken[0, 0] = math.nan
    whole, lost = (figures.latent_statistics(of_std(mean, each)) for each in (std, broken))
    assert (whole != lost).any()
    figures.latent_statistics(of_std(mean * math.nan, torch.zeros(4, 8)))


def records_of(*values):
    return [{"images_seen": 8 * i, "elapsed_sec": i, "test/psnr": value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    "chart",
    [
        lambda models: charts.model_curves({name: records_of(20.0, 21.0) for name in models}, {"psnr": "PSNR"}),
        lambda models: charts.power_spectra({"original": [4.0, 2.0]} | {m: [3.0, 1.0] for m in models}, models=True),
    ],
    ids=["curves", "spectra"],
)
def test_charts_of_a_comparison_have_a_colour_for_each_model(chart):
    one, two = chart(["standard"]), chart(["standard", "beta"])
    blue, orange = ([int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (charts.BLUE, charts.ORANGE))
    assert (one == blue).all(-1).any()
    assert not (one == orange).all(-1).any()
    assert (two == orange).all(-1).any()


@pytest.mark.parametrize(
    "styles",
    [
        charts.styles_of(len(PRIORS) + 3),  # beside reconstructions, posteriors and train pictures
        charts.model_styles([name + gan for name in COMPARED for gan in ("", "+gan")]),
    ],
    ids=["of-one-model", "of-models"],
)
def test_no_two_lines_of_a_chart_look_alike(styles):
    assert len({str(style) for style in styles}) == len(styles)


def test_curves_of_train_and_test_share_a_panel():
    alone = figures.curves([{"images_seen": 1, "l1": 1.0}, {"images_seen": 2, "l1": 0.5}])
    shared = figures.curves([{"images_seen": 1, "l1": 1.0, "test/l1": 2.0}, {"images_seen": 2, "l1": 0.5}])
    apart = figures.curves([{"images_seen": 1, "l1": 1.0, "test/psnr": 2.0}, {"images_seen": 2, "l1": 0.5}])
    assert alone.shape == shared.shape
    assert (alone != shared).any()
    assert apart.shape[1] > shared.shape[1]


def test_curves_skip_names_and_values_that_are_not_finite():
    noisy = [record | {"broken": math.nan, "note": "text", "elapsed_sec": math.inf} for record in RECORDS]
    noisy.append({"images_seen": 400, "elapsed_sec": 0.0, "l1": -math.inf})
    assert (figures.curves(noisy) == figures.curves(RECORDS)).all()


def test_curves_do_not_depend_on_the_order_of_the_records():
    assert (figures.curves(RECORDS[::-1]) == figures.curves(RECORDS)).all()


@pytest.mark.parametrize("n", [1, 2, 300])
def test_curves_draw_few_and_many_records(n):
    figures.curves([{"images_seen": i, "l1": 10.0 ** (-i / 50), "kl": -float(i)} for i in range(n)])


@pytest.mark.parametrize("records", [[], [{"images_seen": 1, "elapsed_sec": 2.0, "l1": math.nan}]])
def test_curves_without_a_finite_value_say_so(records):
    with pytest.raises(ValueError, match=f"no finite value in the {len(records)} records"):
        figures.curves(records)


def test_save_writes_a_png_that_reads_back_and_leaves_nothing_else(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    path = figures.save_png(drawn, tmp_path / "new" / "folder" / "picture.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert (np.asarray(picture) == drawn).all()
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_save_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = figures.save_png(np.zeros((2, 2, 3), np.uint8), tmp_path / "picture.png")
    before = path.read_bytes()

    def fill_the_disk(self, file, **_):
        file.write_bytes(b"half a picture")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space"):
        figures.save_png(np.ones((2, 2, 3), np.uint8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


ALWAYS = {"reconstructions", "variants", "samples", "latents"}
WITH_TWO_IMAGES = {"variants_data", "transitions"}


@pytest.mark.parametrize(
    ("n", "shape", "d", "records", "expected"),
    [
        (70, (3, 16, 8), 32, RECORDS, ALWAYS | WITH_TWO_IMAGES | {"joint_histogram", "curves"}),
        (3, (1, 8, 8), 2, [], ALWAYS | WITH_TWO_IMAGES | {"joint_histogram"}),
        (2, (2, 8, 8), 1, [], ALWAYS | WITH_TWO_IMAGES),
        (1, (4, 8, 8), 1, [{"images_seen": 1, "l1": math.nan}], ALWAYS),
    ],
    ids=["usual", "small", "one entry", "one image"],
)
def test_draw_all_leaves_out_only_what_cannot_be_drawn(tmp_path, n, shape, d, records, expected):
    files = figures.draw_all(PixelVAE(shape, d), pictures(n, shape), records, tmp_path)
    assert {file.stem for file in files} == expected
    assert sorted(files) == sorted(tmp_path.iterdir())


def test_draw_all_survives_a_network_that_gives_only_nan(tmp_path):
    vae = PixelVAE((1, 8, 8))
    vae.weight.data.fill_(math.nan)
    assert len(figures.draw_all(vae, pictures(4, (1, 8, 8)), RECORDS, tmp_path)) == 8


def test_draw_all_refuses_no_images(tmp_path):
    with pytest.raises(ValueError, match="no test images"):
        figures.draw_all(PixelVAE((1, 8, 8)), torch.zeros(0, 1, 8, 8), RECORDS, tmp_path)


def test_drawing_twice_gives_identical_files_and_another_seed_other_samples(tmp_path):
    vae, x = PixelVAE((1, 8, 8), std=0.3), pictures(4, (1, 8, 8))
    torch.manual_seed(1)
    first = figures.draw_all(vae, x, RECORDS, tmp_path / "first", seed=5)
    torch.manual_seed(2)
    second = figures.draw_all(vae, x, RECORDS, tmp_path / "second", seed=5)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    with Image.open(tmp_path / "first" / "samples.png") as samples:
        five, six = (figures.samples(vae, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6))
        assert (np.asarray(samples) == five).all()
        assert (np.asarray(samples) != six).any()


def test_drawing_leaves_modes_gradients_and_random_state_as_they_were(tmp_path):
    vae = PixelVAE((1, 8, 8)).train()
    frozen = nn.Dropout().eval()
    vae.add_module("frozen", frozen)
    state = torch.get_rng_state()
    figures.draw_all(vae, pictures(4, (1, 8, 8)), RECORDS, tmp_path)
    assert vae.training
    assert vae.dropout.training
    assert not frozen.training
    assert vae.weight.grad is None
    assert torch.is_grad_enabled()
    assert (torch.get_rng_state() == state).all()


def test_modes_are_restored_when_the_network_fails():
    vae = PixelVAE((1, 8, 8)).train()
    with pytest.raises(RuntimeError, match="mat1"):
        figures.reconstructions(vae, pictures(2, (1, 8, 9)))
    assert vae.training
    assert vae.dropout.training
