"""What the numbers of a picture mean: profiles and gamma, against lcms on the whole picture and against formulas."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from vaekit.data.colour import meaning_of
from vaekit.data.decoding import decode_picture

# columns of XYZ under D50
P3 = [(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)]
ADOBE = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
SRGB = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)]
ROTATED = [SRGB[1], SRGB[2], SRGB[0]]
PROFILES = {"P3": (P3, 2.2), "Adobe": (ADOBE, 2.2), "linear": (SRGB, 1.0), "rotated": (ROTATED, 2.2)}


def fixed_point(x):
    return struct.pack(">i", round(x * 65536))


def icc(primaries, gamma, space=b"RGB ", name=b"x"):
    """A profile of version 2 from the primaries and one gamma, after the ICC's specification."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed_point, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(79)),
        (b"cprt", b"text\0\0\0\0x\0"),
        (b"wtpt", xyz((0.9642, 1, 0.8249))),
    ]
    if space == b"GRAY":
        tags += [(b"kTRC", curve)]
    else:
        tags += [(key, xyz(v)) for key, v in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
        tags += [(key, curve) for key in (b"rTRC", b"gTRC", b"bTRC")]
    table = body = b""
    for key, blob in tags:
        blob = blob.ljust((len(blob) + 3) // 4 * 4, b"\0")
        table += key + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(blob))
        body += blob
    head = struct.pack(">I", 132 + len(table) + len(body)) + bytes(4) + struct.pack(">I", 0x02400000)
    head += b"mntr" + space + b"XYZ " + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += fixed_point(0.9642) + fixed_point(1) + fixed_point(0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


@pytest.fixture
def picture():
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


def by_lcms(image, profile):
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg", "avif"])
def test_a_profile_is_brought_to_srgb(tmp_path, picture, name, suffix):
    profile = icc(*PROFILES[name])
    options = {"lossless": True} if suffix == "webp" else {"quality": 100}
    picture.save(tmp_path / f"a.{suffix}", icc_profile=profile, **options)
    expected = by_lcms(Image.open(tmp_path / f"a.{suffix}").convert("RGB"), profile).astype(int)
    found = decode_picture(tmp_path / f"a.{suffix}", 64, 64, 3).transpose(1, 2, 0)
    assert np.abs(found - expected).max() <= 1
    assert np.abs(expected - np.asarray(picture)).max() > 8  # or the profile says nothing
    luma = expected @ [0.299, 0.587, 0.114]
    assert np.abs(decode_picture(tmp_path / f"a.{suffix}", 64, 64, 1)[0] - luma).max() <= 1.5


def test_profiles_are_left_alone_where_that_is_asked_for(tmp_path, picture):
    picture.save(tmp_path / "a.png", icc_profile=icc(*PROFILES["P3"]))
    found = decode_picture(tmp_path / "a.png", 64, 64, 3, colour_profiles=False)
    assert (found.transpose(1, 2, 0) == np.asarray(picture)).all()


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        icc(SRGB, 2.2, space=b"GRAY"),
        icc(P3, 2.2)[:200],
    ],
    ids=["damaged", "sRGB by name", "of another space", "cut short"],
)
def test_a_profile_that_says_nothing_changes_nothing(tmp_path, picture, profile):
    picture.save(tmp_path / "a.png", icc_profile=profile)
    found = decode_picture(tmp_path / "a.png", 64, 64, 3)
    assert (found.transpose(1, 2, 0) == np.asarray(picture)).all()


def test_a_profile_that_only_calls_itself_srgb_is_converted(tmp_path, picture):
    linear = icc(SRGB, 1.0, name=b"sRGB-elle-V2-g10.icc")
    picture.save(tmp_path / "a.png", icc_profile=linear)
    found = decode_picture(tmp_path / "a.png", 64, 64, 3).transpose(1, 2, 0)
    assert np.abs(found - by_lcms(picture, linear).astype(int)).max() <= 1


@pytest.mark.parametrize("alpha", [False, True])
def test_a_profile_of_grey_stays_with_transparent_grey(tmp_path, alpha):
    linear = icc(SRGB, 1.0, space=b"GRAY")
    grey = Image.new("L", (8, 8), 100)
    shown = by_lcms(grey, linear)[0, 0, 0]
    if alpha:
        grey.putalpha(255)
    else:
        grey.info["transparency"] = 7
    grey.save(tmp_path / "a.png", icc_profile=linear, transparency=grey.info.get("transparency"))
    assert decode_picture(tmp_path / "a.png", 8, 8, 1)[0, 0, 0] == pytest.approx(shown, abs=1)


def test_a_profile_of_grey_and_one_upon_transparency(tmp_path, picture):
    grey = picture.convert("L")
    linear = icc(SRGB, 1.0, space=b"GRAY")
    grey.save(tmp_path / "grey.png", icc_profile=linear)
    expected = by_lcms(grey, linear).astype(int)[..., 0]
    assert np.abs(decode_picture(tmp_path / "grey.png", 64, 64, 1)[0] - expected).max() <= 1
    clear = picture.copy()
    clear.putalpha(Image.new("L", (64, 64), 0))
    clear.save(tmp_path / "clear.png", icc_profile=icc(*PROFILES["rotated"]))
    assert (decode_picture(tmp_path / "clear.png", 64, 64, 3) >= 254).all()


def test_a_profile_of_light_upon_ink_is_passed_over(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=icc(P3, 2.2), quality=100)
    assert decode_picture(tmp_path / "a.jpg", 8, 8, 3)[:, 4, 4] == pytest.approx([255, 0, 0], abs=3)


def png(pixels, depth, kind, chunks=()):
    """A PNG of packed rows."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, rows = pixels
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = b"".join(chunk(*each) for each in chunks) + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


GREY_KIND, RGB_KIND = 0, 2


@pytest.mark.parametrize(("gamma", "exponent"), [(1.0, 1.0), (0.55556, 1.8)])
def test_the_gamma_of_a_png_is_brought_to_srgb(tmp_path, gamma, exponent):
    levels = bytes(range(256))
    data = png((1, 256, [levels]), 8, GREY_KIND, [(b"gAMA", struct.pack(">I", round(gamma * 1e5)))])
    (tmp_path / "a.png").write_bytes(data)
    light = (np.arange(256) / 255) ** exponent
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    found = decode_picture(tmp_path / "a.png", 1, 256, 1).ravel()
    assert np.abs(found - expected).max() <= 0.51


def test_the_gamma_of_srgb_and_one_beside_srgb_change_nothing(tmp_path):
    for chunks in (
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))],
    ):
        (tmp_path / "a.png").write_bytes(png((1, 256, [bytes(range(256))]), 8, GREY_KIND, chunks))
        assert decode_picture(tmp_path / "a.png", 1, 256, 1).ravel().tolist() == list(range(256))
        with Image.open(tmp_path / "a.png") as image:
            assert not meaning_of(image)


@pytest.mark.parametrize(
    ("depth", "kind", "row", "transparent", "shown"),
    [
        (1, GREY_KIND, bytes([0b01010000]), struct.pack(">H", 0), [255, 255, 255, 255]),
        (2, GREY_KIND, bytes([0b00011011]), struct.pack(">H", 1), [0, 255, 170, 255]),
        (4, GREY_KIND, bytes([0x01, 0x2F]), struct.pack(">H", 2), [0, 17, 255, 255]),
        (8, GREY_KIND, bytes([0, 1, 2, 3]), struct.pack(">H", 2), [0, 1, 255, 3]),
        (16, GREY_KIND, struct.pack(">4H", 0, 2570, 2571, 5140), struct.pack(">H", 2570), [0, 255, 10, 20]),
        (8, RGB_KIND, bytes([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]), struct.pack(">3H", 2, 2, 2), [1, 255, 3, 4]),
        (
            16,
            RGB_KIND,
            struct.pack(">12H", *[257] * 3, *[514] * 3, *[771] * 3, *[1028] * 3),
            struct.pack(">3H", *[514] * 3),
            [1, 255, 3, 4],
        ),
    ],
)
def test_the_transparent_colour_of_every_depth_shows_white(tmp_path, depth, kind, row, transparent, shown):
    (tmp_path / "a.png").write_bytes(png((1, 4, [row]), depth, kind, [(b"tRNS", transparent)]))
    assert decode_picture(tmp_path / "a.png", 1, 4, 1).ravel().tolist() == shown
