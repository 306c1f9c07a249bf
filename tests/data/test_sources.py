import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaekit.data.decoding import UnreadablePicture, decode_picture
from vaekit.data.formats import FORMATS, readable_formats
from vaekit.data.sources.folder import find_pictures
from vaekit.data.sources.naming import source_of

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def colour(path: Path) -> tuple[int, ...]:
    """The one colour of a picture that has only one."""
    pixels = decode_picture(path, 4, 4, 3)
    assert pixels.shape == (3, 4, 4)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[:, :1, :1]).all()
    return tuple(pixels[:, 0, 0].tolist())


# find_pictures


def test_pictures_are_found_at_every_depth_in_the_order_of_their_relative_paths(tmp_path):
    names = ["b.png", "a/z.JPG", "a/b/c.webp", "a-b.gif", "B.tiff", "a/y.jpeg", "c.Bmp", "d.tif"]
    for name in names:
        touch(tmp_path / name)
    assert [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path).pictures] == sorted(names)


def test_other_and_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ["a.txt", "b", ".c.png", ".hidden/d.png", "folder.png/e.txt"]:
        touch(tmp_path / name)
    kept = touch(tmp_path / "kept.png")
    assert find_pictures(tmp_path).pictures == [kept]


def test_a_hidden_folder_is_read_when_it_is_the_one_asked_for(tmp_path):
    kept = touch(tmp_path / ".data" / "kept.png")
    assert find_pictures(tmp_path / ".data").pictures == [kept]


def test_links_are_followed_loops_end_and_dangling_links_are_left_out(tmp_path):
    touch(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    assert find_pictures(folder).pictures == [folder / "link.png", folder / "linked" / "a.png"]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        find_pictures(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one\.png is a file"):
        find_pictures(touch(tmp_path / "one.png"))


def test_a_folder_without_pictures_is_refused_with_the_suffixes_that_are_read(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"holds no picture.*\.jpg, \.jpeg, \.png, \.webp, \.bmp"):
        find_pictures(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    closed = touch(tmp_path / "closed" / "a.png").parent
    touch(tmp_path / "b.png")
    closed.chmod(0)
    with pytest.raises(ValueError, match=r"cannot read the folder .*closed: Permission denied"):
        find_pictures(tmp_path)
    closed.chmod(0o700)


# source_of


def test_a_path_is_taken_as_it_is(tmp_path):
    assert source_of(str(tmp_path)).folder == tmp_path


def test_elpv_is_the_images_of_its_package_which_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "site" / "elpv_dataset"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    assert source_of("elpv").folder == package / "data" / "images"


def test_elpv_is_a_folder_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("elpv").mkdir()
    assert source_of("elpv").folder == Path("elpv").resolve()


def test_elpv_without_its_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match=r'pip install "vaekit\[demo\]"'):
        source_of("elpv")


# decode_picture: formats and modes


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "gif"])
def test_lossless_formats_give_their_exact_colour(tmp_path, suffix):
    assert colour(saved(tmp_path / f"a.{suffix}", Image.new("RGB", (8, 8), (200, 100, 50)))) == (200, 100, 50)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_lossy_formats_give_nearly_their_colour(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", Image.new("RGB", (16, 16), (200, 100, 50)), quality=95)
    assert colour(path) == pytest.approx((200, 100, 50), abs=4)


def test_a_wrong_suffix_does_not_matter(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGB", (8, 8), GREEN))
    assert colour(path.rename(tmp_path / "a.jpg")) == GREEN


def test_three_channels_become_luma(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGB", (8, 8), (200, 100, 50)))
    pixels = decode_picture(path, 4, 4, 1)
    assert pixels.shape == (1, 4, 4)
    assert (pixels == round(float(LUMA @ (200, 100, 50)))).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_grey_level_is_kept(tmp_path, channels):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = decode_picture(saved(tmp_path / "a.png", Image.fromarray(levels)), 16, 16, channels)
    assert (pixels == levels).all()


def test_one_bit_pictures_are_black_and_white(tmp_path):
    image = Image.fromarray(np.array([[True, False], [False, True]]))
    assert image.mode == "1"
    assert decode_picture(saved(tmp_path / "a.png", image), 2, 2, 1).tolist() == [[[255, 0], [0, 255]]]


@pytest.mark.parametrize(
    ("mode", "fill", "shown"),
    [
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # a fifth of red over white
        ("LA", (0, 255), (0, 0, 0)),
        ("LA", (0, 0), WHITE),
        ("LA", (0, 51), (204, 204, 204)),
    ],
)
def test_transparency_shows_white(tmp_path, mode, fill, shown):
    assert colour(saved(tmp_path / "a.png", Image.new(mode, (8, 8), fill))) == shown


def test_transparency_in_webp_shows_white(tmp_path):
    path = saved(tmp_path / "a.webp", Image.new("RGBA", (8, 8), (255, 0, 0, 0)), lossless=True)
    assert colour(path) == WHITE


def palette_picture() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    return image


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_a_palette_gives_its_colours(tmp_path, suffix):
    pixels = decode_picture(saved(tmp_path / f"a.{suffix}", palette_picture()), 1, 2, 3)
    assert pixels.transpose(1, 2, 0).tolist() == [[[*RED], [*BLUE]]]


@pytest.mark.parametrize(
    ("suffix", "transparency"),
    [("png", 0), ("gif", 0), ("png", bytes([0, 255]))],
    ids=["png", "gif", "bytes"],
)
def test_the_transparent_entry_of_a_palette_shows_white(tmp_path, suffix, transparency):
    path = saved(tmp_path / f"a.{suffix}", palette_picture(), transparency=transparency)
    assert decode_picture(path, 1, 2, 3).transpose(1, 2, 0).tolist() == [[[*WHITE], [*BLUE]]]


def test_the_transparent_colour_of_an_rgb_picture_shows_white(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGB", (8, 8), RED), transparency=RED)
    assert colour(path) == WHITE


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(values))
    assert decode_picture(path, 1, 4, 1).tolist() == [[[0, 1, 128, 255]]]


def test_16_bit_big_endian_grey_is_scaled(tmp_path):
    image = Image.frombytes("I;16B", (2, 1), np.array([0, 100 * 257], dtype=">u2").tobytes())
    assert decode_picture(saved(tmp_path / "a.tif", image), 1, 2, 1).tolist() == [[[0, 100]]]


def test_16_bit_values_in_32_bit_integers_are_scaled(tmp_path):
    image = Image.fromarray(np.array([[0, 100 * 257, 65535]], dtype=np.int32))
    assert image.mode == "I"
    assert decode_picture(saved(tmp_path / "a.tif", image), 1, 3, 1).tolist() == [[[0, 100, 255]]]


def test_float_grey_runs_from_zero_to_one(tmp_path):
    image = Image.fromarray(np.array([[0.0, 0.4, 1.0]], dtype=np.float32))
    assert image.mode == "F"
    assert decode_picture(saved(tmp_path / "a.tif", image), 1, 3, 1).tolist() == [[[0, 102, 255]]]


@pytest.mark.parametrize(
    "values",
    [np.array([[-1, 5]], np.int32), np.array([[0, 70000]], np.int32)]
    + [np.array([[0, value]], np.float32) for value in (200, -0.5, np.nan)],
)
def test_values_of_unknown_scale_are_refused_with_their_range(tmp_path, values):
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    with pytest.raises(UnreadablePicture, match=r"its pixels run from .* and only 0 to"):
        decode_picture(path, 1, 2, 1)


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_ink_darkens_white_paper(tmp_path, suffix):
    options = {"quality": 95} if suffix == "jpg" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), **options)
    assert colour(path) == pytest.approx(RED, abs=4)


def test_ycbcr_is_converted(tmp_path):
    # Red by the equations of JFIF: Y = 0.299 * 255, Cb = 128 - 0.168736 * 255, Cr = 128 + 0.5 * 255.
    path = saved(tmp_path / "a.tif", Image.new("YCbCr", (8, 8), (76, 85, 255)))
    assert colour(path) == pytest.approx(RED, abs=2)


@pytest.mark.parametrize(
    ("lab", "shown"),
    [
        ((100, 0, 0), WHITE),
        ((0, 0, 0), (0, 0, 0)),
        ((53.59, 0, 0), (128, 128, 128)),
        ((54.29, 80.81, 69.89), RED),
    ],
)
def test_lab_is_converted(tmp_path, lab, shown):
    lightness, a, b = lab  # CIE L*a*b* of the sRGB primaries under D50
    image = Image.new("LAB", (8, 8), (round(lightness * 2.55), round(a + 128), round(b + 128)))
    assert colour(saved(tmp_path / "a.tif", image)) == pytest.approx(shown, abs=6)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), fill) for fill in (GREEN, RED, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert colour(path) == GREEN


# decode_picture: geometry


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_honoured(tmp_path, orientation, suffix):
    upright = np.zeros((16, 32), np.uint8)  # blocks of 8, so that JPEG keeps them
    upright[:8, :8], upright[:8, 8:16], upright[8:, :8] = 250, 170, 90
    stored = {  # what a camera writes when the upright picture is seen in that orientation
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright.T[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, **options)
    np.testing.assert_allclose(decode_picture(path, 16, 32, 1)[0].astype(int), upright, atol=2)


def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), WHITE), exif=exif)
    data = path.read_bytes()
    start = data.index(b"Exif\0\0") + 10  # the offset of the first directory
    path.write_bytes(data[:start] + b"\xff\xff\xff\xff" + data[start + 4 :])
    assert colour(path) == WHITE


def test_a_picture_of_the_right_size_keeps_every_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert (decode_picture(path, 6, 5, 3) == pixels.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("size", [2, 8, 32])
def test_the_middle_of_three_bands_fills_a_square(tmp_path, size):
    bands = np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 8, axis=1)
    wide = saved(tmp_path / "wide.png", Image.fromarray(np.repeat(bands, 8, axis=0)))
    tall = saved(tmp_path / "tall.png", Image.open(wide).transpose(Image.Transpose.ROTATE_90))
    for path in (wide, tall):
        pixels = decode_picture(path, size, size, 3)
        assert (pixels == np.reshape(GREEN, (3, 1, 1))).all()


def test_the_crop_follows_the_shape_that_is_asked_for(tmp_path):
    bands = np.repeat(np.array([[RED, GREEN, GREEN, BLUE]], np.uint8), 8, axis=1)
    path = saved(tmp_path / "a.png", Image.fromarray(np.repeat(bands, 8, axis=0)))
    pixels = decode_picture(path, 4, 8, 3)  # twice as wide as high: the two green bands
    assert pixels.shape == (3, 4, 8)
    assert (pixels == np.reshape(GREEN, (3, 1, 1))).all()


def test_a_picture_of_one_pixel_fills_the_frame(tmp_path):
    assert colour(saved(tmp_path / "a.png", Image.new("RGB", (1, 1), BLUE))) == BLUE


def test_shrinking_does_not_alias(tmp_path):
    checkerboard = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    path = saved(tmp_path / "a.png", Image.fromarray(checkerboard.astype(np.uint8)))
    np.testing.assert_allclose(decode_picture(path, 8, 8, 1).astype(int), 127.5, atol=3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(80, 80, (24, 24)), (37, 120, (37, 41)), (9, 14, (18, 28))])
def test_the_resize_is_pillows_lanczos(tmp_path, height, width, size, channels):
    image = Image.fromarray(waves(height, width, noise=30)).convert("L" if channels == 1 else "RGB")
    pixels = decode_picture(saved(tmp_path / "a.png", image), *size, channels)
    left = (width - round(height * size[1] / size[0])) // 2  # the crop is as high as the picture
    cropped = image.crop((left, 0, left + round(height * size[1] / size[0]), height))
    expected = np.asarray(cropped.resize(size[::-1], Image.Resampling.LANCZOS)).reshape(*size, channels)
    np.testing.assert_allclose(pixels.transpose(1, 2, 0).astype(int), expected, atol=1)


# decode_picture: large JPEGs, decoded at a fraction of their size


def waves(height: int, width: int, noise: float) -> np.ndarray:
    """A smooth colour picture under grey noise of that standard deviation."""
    y, x = np.ogrid[:height, :width]
    smooth = np.stack([128 + 90 * np.sin(y / 30 + k) * np.cos(x / 40) for k in range(3)], axis=-1)
    grain = noise * np.random.default_rng(0).standard_normal((height, width, 1))
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def decoded_in_full(jpeg: Path) -> Path:
    """The same pixels in a format that knows no smaller decoding."""
    return saved(jpeg.with_suffix(".png"), Image.open(jpeg))


@pytest.mark.parametrize("noise", [0, 10])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(256, 256, 64), (512, 512, 32), (251, 263, 61), (333, 517, (40, 80)), (517, 333, (40, 80))],
)
def test_a_smaller_decoding_is_within_one_level_of_the_full_one(tmp_path, height, width, size, channels, noise):
    jpeg = saved(tmp_path / "a.jpg", Image.fromarray(waves(height, width, noise)), quality=90)
    size = size if isinstance(size, tuple) else (size, size)
    small = decode_picture(jpeg, *size, channels).astype(int)
    full = decode_picture(decoded_in_full(jpeg), *size, channels).astype(int)
    assert abs(small - full).mean() < 1


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_smaller_decoding_of_a_turned_picture_shows_the_same_middle(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(waves(331, 517, noise=0))
    small = decode_picture(saved(tmp_path / "a.jpg", image, quality=95, exif=exif), 40, 50, 3)
    full = decode_picture(saved(tmp_path / "a.png", image, exif=exif), 40, 50, 3)
    assert abs(small.astype(int) - full).mean() < 1


def test_a_jpeg_less_than_four_times_as_large_is_decoded_in_full(tmp_path):
    jpeg = saved(tmp_path / "a.jpg", Image.fromarray(waves(255, 255, noise=30)), quality=90)
    assert (decode_picture(jpeg, 64, 64, 3) == decode_picture(decoded_in_full(jpeg), 64, 64, 3)).all()


# decode_picture: broken files


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_a_truncated_file_is_unreadable(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadablePicture) as error:
        decode_picture(path, 8, 8, 3)
    assert error.value.path == path
    assert error.value.reason in str(error.value)


@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "gif", "tif", "webp", "bmp", "avif", "jp2", "ppm", "heif", "jxl", "float.tif"]
)
def test_garbage_in_a_file_is_a_picture_or_unreadable_and_nothing_else(tmp_path, suffix):
    kind = {"jp2": "JPEG2000"}.get(suffix, suffix.upper())
    if kind in FORMATS and kind not in readable_formats():
        pytest.skip("no decoder for these is installed")
    noise = Image.effect_noise((32, 32), 50)
    if suffix == "float.tif":
        noise = Image.fromarray(np.asarray(noise, np.float32) / 255)
    path = saved(tmp_path / f"a.{suffix}", noise)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    generator = np.random.default_rng(0)
    for _ in range(100):
        data = whole.copy()
        data[generator.integers(len(data), size=4)] = generator.integers(0, 256, 4)
        data[generator.integers(min(len(data), 64))] ^= 255
        path.write_bytes(data.tobytes())
        with suppress(UnreadablePicture):
            assert decode_picture(path, 4, 4, 3).shape == (3, 4, 4)


def test_an_empty_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadablePicture, match=r"a\.png: the file is empty"):
        decode_picture(touch(tmp_path / "a.png"), 8, 8, 3)


def test_a_file_that_is_no_picture_is_unreadable(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("hello")
    with pytest.raises(UnreadablePicture, match=r"a\.png: not a picture"):
        decode_picture(path, 8, 8, 3)


def test_a_picture_that_would_fill_the_memory_is_unreadable(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("L", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadablePicture, match="decompression bomb"):
        decode_picture(path, 8, 8, 1)


def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("L", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_picture(path, 8, 8, 1).shape == (1, 8, 8)


def test_a_file_that_the_system_does_not_hand_over_is_not_called_unreadable(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode_picture(tmp_path / "gone.png", 8, 8, 3)
