"""TIFFs over the product of their tags, written byte by byte, against the values that were written."""

import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from vaekit.data import tiff
from vaekit.data.decoding import UnreadablePicture, decode_picture

SIDE = 16
GREY_INVERTED, GREY, RGB, PALETTE, CMYK, LAB = 0, 1, 2, 3, 5, 8
COLOURS = {GREY_INVERTED: 1, GREY: 1, RGB: 3}
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2
UINT, INT, FLOAT = 1, 2, 3


def write(path, data, space, bits, samples, kind=UINT, planes=1, extra=None, colours=None, more=()):
    """A little-endian TIFF of one uncompressed strip, or of one a plane."""
    tags = {
        256: (3, [SIDE]), 257: (3, [SIDE]), 258: (3, [bits] * samples), 259: (3, [1]), 262: (3, [space]),
        273: (4, [0] * planes), 277: (3, [samples]), 278: (4, [SIDE]), 279: (4, [len(data) // planes] * planes),
        284: (3, [2 if planes > 1 else 1]), 339: (3, [kind] * samples),
    }  # fmt: skip
    tags |= {338: (3, list(extra))} if extra else {}
    tags |= {320: (3, colours)} if colours else {}
    tags |= dict(more)

    def packed(code, values):
        return bytes(values) if code == 7 else struct.pack(f"<{len(values)}{'H' if code == 3 else 'I'}", *values)

    start = 8 + 2 + 12 * len(tags) + 4
    far = start + sum(len(packed(*tag)) for tag in tags.values() if len(packed(*tag)) > 4)
    tags[273] = (4, [far + i * len(data) // planes for i in range(planes)])
    entries = blobs = b""
    for tag, (code, values) in sorted(tags.items()):
        value = packed(code, values)
        if len(value) > 4:
            value, blobs = struct.pack("<I", start + len(blobs)), blobs + value
        entries += struct.pack("<HHI", tag, code, len(values)) + value.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + entries + struct.pack("<I", 0) + blobs + data)
    return path


def bytes_of(values, bits, planar):
    """Unsigned values (H, W, S) as a strip has them."""
    values = values.transpose(2, 0, 1) if planar else values
    if bits >= 8:
        return values.astype(f"<u{bits // 8}").tobytes()
    rows = ["".join(format(int(v), f"0{bits}b") for v in row.flat) for row in values]
    return b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)


def kinds():
    """Every space, number of samples, depth, order of planes and meaning of further samples that go together."""
    for space, samples, bits, planar, extra in itertools.product(
        COLOURS, range(1, 6), (1, 2, 4, 8, 16, 32), (False, True), (None, UNSPECIFIED, PREMULTIPLIED, ALPHA)
    ):
        more = samples - COLOURS[space]
        if more < 0 or (more == 0) != (extra is None and more == 0) or (bits < 8 and samples > 1):
            continue
        if space == GREY_INVERTED and extra in (PREMULTIPLIED, ALPHA):
            continue  # what is premultiplied there is not agreed upon
        yield pytest.param(space, samples, bits, planar, extra, id=f"{space}-{samples}x{bits}-{planar:d}-{extra}")


@pytest.mark.parametrize(("space", "samples", "bits", "planar", "extra"), list(kinds()))
def test_every_layout_of_unsigned_samples_has_its_pixels(tmp_path, space, samples, bits, planar, extra):
    pytest.importorskip("tifffile")
    white = 2 ** min(bits, 16) - 1  # 32 bits hold values of 16
    values = np.random.default_rng(0).integers(0, white + 1, (SIDE, SIDE, samples))
    colours = COLOURS[space]
    shown = values[..., :colours] / white
    alpha = values[..., colours : colours + 1] / white
    if extra == PREMULTIPLIED:
        values[..., :colours] = np.rint(shown * alpha * white)
    if extra in (PREMULTIPLIED, ALPHA):
        shown = shown * alpha + 1 - alpha
    shown = 1 - shown if space == GREY_INVERTED else shown
    tags = None if extra is None else [extra] + [UNSPECIFIED] * (samples - colours - 1)
    data = bytes_of(values, bits, planar)
    path = write(tmp_path / "a.tif", data, space, bits, samples, planes=samples if planar else 1, extra=tags)
    expected = np.broadcast_to(255 * shown.transpose(2, 0, 1), (3, SIDE, SIDE))
    found = decode_picture(path, SIDE, SIDE, 3).astype(float)
    assert np.abs(found - expected).max() < (3.5 if extra in (PREMULTIPLIED, ALPHA) and bits == 16 else 1.6)


def ramp(white, dtype, samples=1):
    return np.linspace(0, white, SIDE * SIDE * samples).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "bits", "space", "samples"),
    [
        ("<f4", 32, GREY, 1),
        ("<f4", 32, GREY_INVERTED, 1),
        ("<f4", 32, RGB, 3),
        ("<f2", 16, GREY, 1),
        ("<f8", 64, RGB, 3),
    ],
)
def test_floats_run_from_zero_to_one(tmp_path, dtype, bits, space, samples):
    pytest.importorskip("tifffile")
    values = ramp(1, dtype, samples)
    path = write(tmp_path / "a.tif", values.tobytes(), space, bits, samples, FLOAT)
    shown = values.reshape(SIDE, SIDE, samples).astype(float).transpose(2, 0, 1)
    shown = 1 - shown if space == GREY_INVERTED else shown
    found = decode_picture(path, SIDE, SIDE, 3)
    assert np.abs(found - np.broadcast_to(255 * shown, (3, SIDE, SIDE))).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "bits", "space", "samples", "kind", "said"),
    [
        ("<i2", 16, RGB, 3, INT, "a TIFF of 3 x int16, RGB, which is not read"),
        ("<u2", 16, LAB, 3, UINT, "a TIFF of 3 x uint16, CIELAB, which is not read"),
        ("<u1", 8, 32803, 1, UINT, "a TIFF of 1 x uint8, colour filter, which is not read"),
        ("<u4", 32, GREY_INVERTED, 1, UINT, r"its pixels run from 0 to 4\d+, and only 0 to 65535 can be read"),
        ("<f4", 32, RGB, 3, FLOAT, "its pixels run from 0.0 to 255.0, and only 0 to 1 can be read"),
    ],
)
def test_what_is_not_read_says_what_it_is(tmp_path, dtype, bits, space, samples, kind, said):
    white = 255 if kind == FLOAT else 2 ** (bits - (kind == INT)) - 1
    path = write(tmp_path / "a.tif", ramp(white, dtype, samples).tobytes(), space, bits, samples, kind)
    with pytest.raises(UnreadablePicture, match=said):
        decode_picture(path, SIDE, SIDE, 3)


def test_twelve_bits_are_scaled_by_their_own_white(tmp_path):
    values = np.linspace(0, 4095, SIDE * SIDE).astype(int)
    bits = "".join(format(value, "012b") for value in values)
    path = write(tmp_path / "a.tif", int(bits, 2).to_bytes(len(bits) // 8, "big"), GREY, 12, 1)
    found = decode_picture(path, SIDE, SIDE, 1).ravel()
    assert np.abs(found - values / 4095 * 255).max() <= 0.51


def test_without_tifffile_an_odd_layout_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    values = np.zeros((SIDE, SIDE, 3), int)
    path = write(tmp_path / "a.tif", bytes_of(values, 16, True), RGB, 16, 3, planes=3)
    with pytest.raises(UnreadablePicture, match=r"3 x uint16 in planes, RGB, which needs tifffile.*vaekit\[formats\]"):
        decode_picture(path, SIDE, SIDE, 3)


def test_a_palette_without_colours_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", bytes(SIDE * SIDE), PALETTE, 8, 1)
    with pytest.raises(UnreadablePicture, match="palette"):
        decode_picture(path, SIDE, SIDE, 3)


def test_cmyk_and_an_odd_layout_that_is_turned(tmp_path):
    path = write(tmp_path / "cmyk.tif", bytes([0, 255, 255, 0]) * SIDE * SIDE, CMYK, 8, 4)
    assert decode_picture(path, SIDE, SIDE, 3)[:, 0, 0].tolist() == [255, 0, 0]
    pytest.importorskip("tifffile")
    rows = np.broadcast_to(np.linspace(0, 65535, SIDE)[:, None, None], (SIDE, SIDE, 3)).astype(int)
    data = bytes_of(rows, 16, True)
    path = write(tmp_path / "turned.tif", data, RGB, 16, 3, planes=3, more={274: (3, [6])}.items())
    found = decode_picture(path, SIDE, SIDE, 1)[0].astype(int)
    assert (found == found[:1]).all()  # what was dark above is dark at the right
    assert (np.diff(found[0]) < 0).all()


@pytest.mark.parametrize(("bits", "extra"), [(8, 0), (16, 0), (8, 1), (8, 2)])
def test_ink_of_every_depth_and_with_spot_colours_is_read(tmp_path, bits, extra):
    white = 2**bits - 1
    values = np.broadcast_to([0, white, white, 0] + [7] * extra, (SIDE, SIDE, 4 + extra))
    data = bytes_of(values, bits, False)
    path = write(tmp_path / "a.tif", data, CMYK, bits, 4 + extra, extra=[UNSPECIFIED] * extra)
    assert decode_picture(path, SIDE, SIDE, 3)[:, 0, 0].tolist() == [255, 0, 0]


def test_the_layout_of_a_big_endian_and_a_big_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 65536, (3, SIDE, SIDE)).astype("u2")
    for name, options in (("big.tif", {"bigtiff": True}), ("endian.tif", {"byteorder": ">"})):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", planarconfig="separate", **options)
        layout = tiff.layout_of((tmp_path / name).read_bytes())
        assert (layout.samples, layout.bits[0], layout.planar) == (3, 16, True)
        assert np.abs(decode_picture(tmp_path / name, SIDE, SIDE, 3) - pixels / 257).max() <= 0.5


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_what_pillow_writes_itself_is_left_to_pillow(tmp_path, mode, compression):
    image = Image.new("L", (SIDE, SIDE), 99).convert("I").convert(mode) if mode == "I;16" else None
    image = image or Image.new("RGB", (SIDE, SIDE), (10, 200, 30)).convert("L" if mode in ("I", "F") else "RGB")
    if mode == "LAB":
        image = Image.new("LAB", (SIDE, SIDE), (120, 130, 140))
    elif mode != "I;16":
        image = image.convert(mode)
    image.save(tmp_path / "a.tif", compression=compression)
    assert tiff.pillow_is_right(tiff.layout_of((tmp_path / "a.tif").read_bytes()))
