"""What a file is by its first bytes: content decides, not the name."""

from __future__ import annotations

import re

HEAD_BYTES = 140  # enough for all of these
PICTURES = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "AVIF",
    "HEIF",
    "JXL",
    "JPEG2000",
    "PPM",
)  # as Pillow calls them
STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%!PS", "PostScript"),
)
BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
NEED_EXTRA = {"HEIF": "a HEIC picture", "JXL": "a JPEG XL picture"}  # what Pillow reads with a plugin


def kind_of(head: bytes) -> str | None:
    """The format of a file that begins so, one of `PICTURES` or some words for people; None where it is not known."""
    for start, kind in STARTS:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return next((BRANDS[brand] for brand in brands_of(head) if brand in BRANDS), None)
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if re.match(rb"P[1-6]\s+(#|\d+\s)", head):
        return "PPM"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    text = head.lstrip()[:14].lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "an SVG drawing" if text.startswith(b"<svg") else None


def brands_of(head: bytes) -> list[bytes]:
    """The brands of an ISO media file: the major one, then those that it is compatible with."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[i : i + 4] for i in range(16, size - 3, 4))]


def why_not_read(head: bytes) -> str:
    """Why a file that no decoder here knows is not read."""
    if not head:
        return "the file is empty"
    kind = kind_of(head)
    if kind in NEED_EXTRA:
        return f'{NEED_EXTRA[kind]}; run: pip install "vaekit[formats]", or convert it'
    if kind in PICTURES:
        return f"a damaged or unusual {kind} picture, which is not read"
    return f"{kind}, not a picture" if kind else "not a picture"
