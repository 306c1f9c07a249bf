"""How pictures come out: fitted by crop, bars or stretching; 8 or 16 bits; any bands; numbers of any range."""

import importlib.util
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from vaekit.data.cache import prepare
from vaekit.data.decoding import UPRIGHT, UnreadablePicture, decode
from vaekit.data.pixels import to_float
from vaekit.data.view import View

NAME = Path("a")
tifffile = pytest.importorskip("tifffile")


def file_of(path: Path, values: np.ndarray, **options) -> bytes:
    """A picture's numbers in a file of the kind that the path says."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, **options)
    else:
        Image.fromarray(values).save(path)
    return path.read_bytes()


def lanczos(band: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's resize of one band of floats."""
    resized = Image.fromarray(band.astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def fitted(band: np.ndarray, view: View) -> np.ndarray:
    """One band brought to a view's shape by other means: what `decode` is compared with."""
    h, w = band.shape
    if view.fit == "stretch":
        return lanczos(band, view.height, view.width)
    if view.fit == "crop":
        side_h, side_w = min(h, round(w * view.height / view.width)), min(w, round(h * view.width / view.height))
        top, left = (h - side_h) // 2, (w - side_w) // 2
        return lanczos(band[top : top + side_h, left : left + side_w], view.height, view.width)
    scale = min(view.height / h, view.width / w)
    inner_h, inner_w = round(h * scale), round(w * scale)
    out = np.zeros((view.height, view.width), np.float32)
    top, left = (view.height - inner_h) // 2, (view.width - inner_w) // 2
    out[top : top + inner_h, left : left + inner_w] = lanczos(band, inner_h, inner_w)
    return out


@pytest.mark.parametrize("size", [(12, 12), (8, 20), (32, 16)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6])
def test_every_fit_depth_and_number_of_bands_is_pillows_lanczos_band_by_band(tmp_path, size, fit, depth, bands):
    random = np.random.default_rng(0)
    values = random.integers(0, 65536, (24, 40, bands)).astype(np.uint16)
    view = View(*size, bands, fit=fit, depth=depth)
    found = decode(values, NAME, view)
    white = 2**depth - 1
    expected = np.stack([fitted(values[..., i] / 65535, view) for i in range(bands)]).clip(0, 1) * white
    assert found.shape == (bands, *size)
    assert found.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert np.abs(found - expected).max() <= (1 if depth == 8 else 24)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_fitted_after_it_was_turned(tmp_path, fit, orientation):
    upright = np.zeros((20, 40), np.uint8)
    upright[:10] = 200
    upright[:, :10] += 50
    turn = UPRIGHT.get(orientation)
    back = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    stored = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (stored if turn is None else stored.transpose(back.get(turn, turn))).save(tmp_path / "a.png", exif=exif)
    found = decode((tmp_path / "a.png").read_bytes(), NAME, View(16, 16, 1, fit=fit))
    expected = fitted(upright.astype(np.float32), View(16, 16, 1, fit=fit))
    np.testing.assert_allclose(found[0], expected.clip(0, 255), atol=3)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".png"])
def test_sixteen_bits_are_kept_to_the_last(tmp_path, suffix):
    values = np.random.default_rng(0).integers(0, 65536, (16, 16)).astype(np.uint16)
    data = file_of(tmp_path / f"a{suffix}", values)
    assert (decode(data, NAME, View(16, 16, 1, depth=16))[0] == values).all()
    assert (decode(data, NAME, View(16, 16, 1))[0] == np.rint(values / 257)).mean() > 0.99


def test_eight_bits_at_a_depth_of_sixteen_are_spread_over_the_whole_range(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = file_of(tmp_path / "a.png", values)
    assert (decode(data, NAME, View(16, 16, 1, depth=16))[0] == values.astype(int) * 257).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_levels_say_what_is_black_and_what_is_white(tmp_path, dtype, suffix):
    values = np.linspace(0, 255 if dtype == np.uint8 else 4095, 256).reshape(16, 16).astype(dtype)
    data = file_of(tmp_path / f"a{suffix}", values)
    low, high = 50, 200 if dtype == np.uint8 else 4000
    found = decode(data, NAME, View(16, 16, 1, levels=(low, high)))
    expected = ((values.astype(float) - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(found[0] - expected).max() <= 0.51


def test_numbers_whose_range_is_not_known_are_refused_with_the_cure(tmp_path):
    for values in (np.full((9, 9), -5, np.int16), np.full((9, 9), 7.5), np.full((9, 9), np.nan)):
        with pytest.raises(UnreadablePicture, match="give --levels BLACK WHITE"):
            decode(values, NAME, View(8, 8, 1))
    with pytest.raises(UnreadablePicture, match="not finite"):
        decode(np.full((9, 9), np.nan), NAME, View(8, 8, 1, levels=(0, 1)))
    with pytest.raises(UnreadablePicture, match="5 bands, where 3 are asked for; give --channels 5"):
        decode(np.zeros((9, 9, 5), np.uint8), NAME, View(8, 8, 3))


LAYOUTS = {
    "interleaved": lambda values, path: file_of(path, values, photometric="minisblack", planarconfig="contig"),
    "planar": lambda values, path: file_of(
        path, values.transpose(2, 0, 1).copy(), photometric="minisblack", planarconfig="separate"
    ),
    "pages": lambda values, path: file_of(path, values.transpose(2, 0, 1).copy(), photometric="minisblack"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [2, 5, 7])
def test_bands_of_a_tiff_are_read_however_they_are_stored(tmp_path, layout, dtype, bands):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (16, 20, bands)).astype(dtype)
    data = LAYOUTS[layout](values, tmp_path / "a.tif")
    found = decode(data, NAME, View(16, 20, bands, depth=16))
    assert (found == values.transpose(2, 0, 1).astype(int) * (257 if dtype == np.uint8 else 1)).all()


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_of_a_tiff_are_colours_in_every_view(tmp_path, mode, channels):
    colours = Image.new("RGB", (12, 12), (200, 30, 30))
    profile = ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), profile, "RGB", "LAB")
    stored = ImageCms.applyTransform(colours, to_lab) if mode == "LAB" else colours.convert(mode)
    stored.save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    plain = decode(data, NAME, View(8, 8, channels)).astype(int)
    for view in (View(8, 8, channels, depth=16), View(8, 8, channels, levels=(0, 255))):
        found = decode(data, NAME, view) / (257 if view.depth == 16 else 1)
        assert np.abs(found - plain).max() <= 1, view


def test_four_inks_of_a_tiff_are_four_bands_where_those_are_asked_for(tmp_path):
    Image.new("CMYK", (12, 12), (10, 20, 30, 40)).save(tmp_path / "a.tif")
    found = decode((tmp_path / "a.tif").read_bytes(), NAME, View(8, 8, 4))
    assert found[:, 0, 0].tolist() == [10, 20, 30, 40]


def test_four_channels_of_a_png_are_colour_and_alpha(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    data = file_of(tmp_path / "a.png", values)
    assert (decode(data, NAME, View(16, 16, 4)) == values.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("how", [{"depth": 16}, {"levels": (0.0, 4095.0)}])
def test_colours_of_more_than_eight_bits_that_pillow_would_cut_are_refused(how):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    header = bytes([0, 0, 0, 8, 0, 0, 0, 8, 16, 2, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(UnreadablePicture, match="more than 8 bits, which are not read; convert it to TIFF"):
        decode(png, NAME, View(8, 8, 3, **how))
    assert decode(png, NAME, View(8, 8, 3)).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_numbers_are_turned_upright_too(tmp_path, orientation, suffix):
    upright = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    turn = UPRIGHT.get(orientation)
    back = {
        Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
        Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
    }
    stored = Image.fromarray(upright) if turn is None else Image.fromarray(upright).transpose(back.get(turn, turn))
    if suffix == "png":
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(tmp_path / "a.png", exif=exif)
    else:
        tifffile.imwrite(tmp_path / "a.tif", np.asarray(stored), extratags=[(274, "H", 1, orientation, True)])
    data = (tmp_path / f"a.{suffix}").read_bytes()
    found = decode(data, NAME, View(12, 20, 1, levels=(0, 255)))
    assert (found[0] == upright).all()


def test_a_tiff_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((14_000, 14_000), np.uint8), compression="zlib")
    data = (tmp_path / "a.tif").read_bytes()
    assert len(data) < 10**6
    with pytest.raises(UnreadablePicture, match="14000 x 14000 pixels, more than"):
        decode(data, NAME, View(8, 8, 1, depth=16))


def test_postscript_goes_to_no_decoder_in_any_view():
    for view in (View(8, 8, 3), View(8, 8, 3, depth=16), View(8, 8, 4)):
        with pytest.raises(UnreadablePicture, match="PostScript, not a picture"):
            decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NAME, view)


def test_levels_that_differ_in_the_last_digit_have_entries_of_their_own():
    kinds = {View(8, 8, 1, levels=(0, high)).kind for high in (1234567, 1234568, 1e-9, 2e-9)}
    assert len(kinds) == 4


def test_views_of_the_same_pictures_have_entries_of_their_own(tmp_path, photos):
    views = [{}, {"fit": "pad"}, {"fit": "stretch"}, {"depth": 16}, {"levels": (0, 128)}, {"colour_profiles": False}]
    found = [prepare(photos, 8, 12, 3, tmp_path, **how) for how in views]
    assert len({prepared.path for prepared in found}) == len(views)
    again = [prepare(photos, 8, 12, 3, tmp_path, **how) for how in views]
    assert [prepared.crc32 for prepared in found] == [prepared.crc32 for prepared in again]


def test_networks_see_the_same_range_at_both_depths():
    eight = to_float(torch.tensor([0, 128, 255], dtype=torch.uint8))
    sixteen = to_float(torch.tensor([0, 128 * 257, 65535], dtype=torch.uint16))
    torch.testing.assert_close(eight, sixteen)


@pytest.mark.parametrize("fit", ["x", "crop"])
def test_a_view_that_makes_no_sense_is_refused(photos, tmp_path, fit):
    wrong = {"fit": fit} if fit == "x" else {"levels": (5, 5)}
    with pytest.raises(ValueError, match=r"fit 'x'|levels 5 5"):
        prepare(photos, 8, 8, 3, tmp_path, **wrong)


def dicom(path: Path, values: np.ndarray, **tags) -> bytes:
    """A file of one frame, as scanners write them."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, file.file_meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = values.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, tags.pop("photometric", "MONOCHROME2")
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, tags.pop("bits", 12), 11
    file.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(file, name, value)
    file.PixelData = values.tobytes()
    file.save_as(path, enforce_file_format=True)
    return path.read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("pydicom") is None, reason="pydicom is not installed")
def test_a_dicom_file_is_shown_as_it_says(tmp_path):
    stored = np.linspace(0, 4095, 256).reshape(16, 16).round().astype(np.uint16)
    whole = decode(dicom(tmp_path / "a.dcm", stored), NAME, View(16, 16, 1))[0]
    np.testing.assert_allclose(whole, stored / 4095 * 255, atol=0.51)
    inverted = decode(dicom(tmp_path / "b.dcm", stored, photometric="MONOCHROME1"), NAME, View(16, 16, 1))[0]
    np.testing.assert_allclose(inverted, 255 - stored / 4095 * 255, atol=0.51)
    scan = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    windowed = decode(dicom(tmp_path / "c.dcm", stored, **scan), NAME, View(16, 16, 1))[0]
    hounsfield = stored.astype(float) - 1024
    np.testing.assert_allclose(windowed, ((hounsfield - 39.5) / 399 + 0.5).clip(0, 1) * 255, atol=0.51)
    levels = decode((tmp_path / "c.dcm").read_bytes(), NAME, View(16, 16, 1, levels=(-1000, 1000)))[0]
    np.testing.assert_allclose(levels, ((hounsfield + 1000) / 2000).clip(0, 1) * 255, atol=0.51)
    rescaled = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    whole = decode(dicom(tmp_path / "d.dcm", stored, **rescaled), NAME, View(16, 16, 1))[0]
    np.testing.assert_allclose(whole, stored / 4095 * 255, atol=0.51)
    signed = (stored.astype(int) - 2048).astype(np.int16)
    whole = decode(dicom(tmp_path / "e.dcm", signed), NAME, View(16, 16, 1))[0]
    np.testing.assert_allclose(whole, stored / 4095 * 255, atol=0.51)
    with pytest.raises(UnreadablePicture, match="a DICOM file that cannot be read"):
        decode((tmp_path / "a.dcm").read_bytes()[:400], NAME, View(16, 16, 1))
