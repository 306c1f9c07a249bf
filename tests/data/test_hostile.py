"""Damaged and hostile files of every format and source: read, or refused in one line, and nothing else happens.

VAEKIT_HOSTILE_CASES sets how many damaged files of each format are tried (default 30).
"""

import io
import json
import os
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaekit.config.settings import Config
from vaekit.data.attributes import find_attributes
from vaekit.data.cache import open_entry, prepare
from vaekit.data.decoding import UnreadablePicture, decode
from vaekit.data.formats import readable_formats
from vaekit.data.labels import find_labels
from vaekit.data.sources.naming import source_of
from vaekit.data.view import View

CASES = int(os.environ.get("VAEKIT_HOSTILE_CASES", "30"))
VIEWS = (View(16, 16, 3), View(8, 12, 1, fit="pad"), View(8, 8, 4, depth=16), View(8, 8, 1, levels=(0, 4095)))
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def saved(kind: str, pixels: np.ndarray = PIXELS, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def a_tiff_of_floats() -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(
        file, PIXELS.transpose(2, 0, 1).astype(np.float32) / 255, photometric="rgb", planarconfig="separate"
    )
    return file.getvalue()


def an_array() -> bytes:
    file = io.BytesIO()
    np.save(file, PIXELS)
    return file.getvalue()


def a_dicom_file() -> bytes:
    pydicom = pytest.importorskip("pydicom")
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = PIXELS.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelData = PIXELS[..., 0].astype(np.uint16).tobytes()
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


FILES = {kind: (lambda kind=kind: saved(kind)) for kind in readable_formats()} | {
    "PNG with a palette": lambda: saved("PNG", np.asarray(Image.fromarray(PIXELS).quantize(8))),
    "PNG of 16 bits": lambda: saved("PNG", PIXELS[..., 0].astype(np.uint16) * 257),
    "progressive JPEG": lambda: saved("JPEG", progressive=True),
    "LZW TIFF": lambda: saved("TIFF", compression="tiff_lzw"),
    "TIFF of floats in planes": a_tiff_of_floats,
    "array": an_array,
    "DICOM": a_dicom_file,
}


def one_line(error: Exception) -> bool:
    return "\n" not in str(error)


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """The file with one kind of damage, or two."""
    out = bytearray(data)
    for _ in range(random.integers(1, 3)):
        if len(out) < 2:
            break
        start, stop = sorted(random.integers(0, len(out), 2))
        match random.integers(7):
            case 0:
                out = out[:start]
            case 1:
                for place in random.integers(0, len(out), random.integers(1, 9)):
                    out[place] ^= 1 << random.integers(8)
            case 2:  # in the header, where sizes and offsets are
                for place in random.integers(0, min(64, len(out)), 3):
                    out[place] = random.integers(256)
            case 3:
                out[start:stop] = bytes(stop - start)
            case 4:
                out[start:stop] = b"\xff" * (stop - start)
            case 5:
                out = out[:start] + out[stop:]
            case 6:
                out = out[:stop] + out[start:]
    return bytes(out)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_or_refused_in_one_line(name):
    data = FILES[name]()
    random = np.random.default_rng(zlib.crc32(name.encode()))
    outcomes: Counter[str] = Counter()
    for case in range(CASES):
        view = VIEWS[case % len(VIEWS)]
        try:
            found = decode(damaged(data, random), Path("a"), view)
            assert found.shape == (view.channels, view.height, view.width)
            outcomes["read"] += 1
        except UnreadablePicture as error:
            outcomes["refused" if one_line(error) else "refused in several lines"] += 1
    assert outcomes["read"] + outcomes["refused"] == CASES


def as_tar(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(4):
            header = tarfile.TarInfo(f"{i}.png")
            data = saved("PNG")
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return file.getvalue()


def as_npz(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.stack([PIXELS] * 4), labels=np.arange(4) % 2)
    return file.getvalue()


def as_npy(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    np.save(file, np.stack([PIXELS] * 4))
    return file.getvalue()


def as_list(random: np.random.Generator) -> bytes:
    return "\n".join(["a.png", "../../etc/passwd", "/etc/passwd", "\0", "b.png", "ünï.png"]).encode()


SOURCES = {"a.tar": as_tar, "a.npz": as_npz, "a.npy": as_npy, "a.txt": as_list}


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_sources_are_read_or_refused_in_one_line(tmp_path, name):
    random = np.random.default_rng(zlib.crc32(name.encode()))
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    data = SOURCES[name](random)
    messages: list[str] = []
    for case in range(CASES):
        (tmp_path / name).write_bytes(damaged(data, random) if case else data)
        try:
            prepared = prepare(source_of(tmp_path / name), 8, 8, 3, tmp_path / "cache")
            assert len(prepared) > 0
        except (ValueError, OSError) as error:
            messages.append(str(error))
    assert all("\n" not in message for message in messages)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.png", name, "cache"}, "something was written"


TABLES = (
    "file,label\n0.png,cat\n1.png,dog\n",
    'file;label\n"0.png";"a;b"\n"1.png";"c\nd"\n',
    "2\nfile smiling glasses\n0.png 1 -1\n1.png -1 1\n",
    ",file,label\n0,x/0.png,1\n1,x\\1.png,0\n",
)


@pytest.mark.parametrize("table", range(len(TABLES)))
def test_damaged_tables_give_labels_none_or_one_line(tmp_path, table):
    random = np.random.default_rng(table)
    names = [f"{i}.png" for i in range(2)]
    messages: list[str] = []
    for _ in range(CASES):
        (tmp_path / "labels.csv").write_bytes(damaged(TABLES[table].encode(), random))
        for find in (find_labels, find_attributes):
            try:
                find(tmp_path, names)
            except ValueError as error:
                messages.append(str(error))
    assert all("\n" not in message for message in messages)


def test_damaged_configs_are_refused_in_one_line():
    random = np.random.default_rng(0)
    text, messages = Config().to_json(), [""]
    for _ in range(CASES):
        try:
            Config.from_json(damaged(text.encode(), random).decode("utf-8", "replace"))
        except ValueError as error:
            messages.append(str(error))
    assert max(map(len, messages)) < 2000
    for wrong in (None, [], {}, {"size": "64"}, {"size": [1, 2, 3]}, {"network": 5}, {"network": {"kind": []}}):
        with pytest.raises(ValueError, match=r"config|setting") if wrong != {} else pytest.raises(AssertionError):
            assert Config.from_json(json.dumps(wrong)) is None


def test_damaged_entries_of_the_cache_are_made_anew(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"{i}.png").write_bytes(saved("PNG"))
    whole = prepare(tmp_path / "photos", 8, 8, 3, tmp_path / "cache")
    index = (whole.path / "index.json").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(CASES):
        (whole.path / "index.json").write_bytes(damaged(index, random))
        entry = open_entry(whole.path)
        assert entry is None or entry.images.shape == (len(entry), 3, 8, 8)


BOMBS = {
    "PNG": lambda: bomb_png(60_000, 60_000),
    "TIFF": lambda: bomb_tiff(200_000, 200_000),
    "array": lambda: bomb_array((100_000, 100_000, 3)),
}


def bomb_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))


def bomb_tiff(width: int, height: int) -> bytes:
    data = bytearray(saved("TIFF"))
    for tag, value in ((256, width), (257, height)):
        place = data.find(tag.to_bytes(2, "little"), 8)
        data[place : place + 12] = tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
    return bytes(data)


def bomb_array(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(100)


@pytest.mark.parametrize("view", range(len(VIEWS)))
@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_would_fill_the_memory_is_refused(name, view):
    with pytest.raises(UnreadablePicture):
        decode(BOMBS[name](), Path("a"), VIEWS[view])
