"""What is found in a folder: pictures by their content, and everything else counted by kind."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from vaekit.cli import run as command
from vaekit.data.budget import MOST_PIXELS, Budget
from vaekit.data.cache import prepare
from vaekit.data.decoding import UnreadablePicture, decode_picture
from vaekit.data.formats import readable_formats
from vaekit.data.magic import kind_of
from vaekit.data.sources.folder import find_pictures

PICTURES = {
    "a.jpg": "JPEG", "b.JPG": "JPEG", "c.jfif": "JPEG", "d.jpe": "JPEG", "noextension": "JPEG", "e.jpg_large": "JPEG",
    "g.apng": "PNG", "h.dib": "BMP", "i.avif": "AVIF", "j.jp2": "JPEG2000", "k.ppm": "PPM", "l.data": "WEBP",
    "m.x": "GIF", "scan": "TIFF",
}  # fmt: skip
OTHERS = {
    "o.dcm": bytes(128) + b"DICM",
    "p.npy": b"\x93NUMPY",
    "q.txt": b"text",
    "r.txt": b"",
    "s.pdf": b"%PDF-1.7",
    "t.MOV": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "Makefile": b"all:",
}


def save(path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)


def test_the_content_decides_what_is_a_picture_and_the_rest_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("vaekit.data.sources.folder.READS_DICOM", False)
    for name, kind in PICTURES.items():
        if kind in readable_formats():
            save(tmp_path / name, kind)
    for name, data in OTHERS.items():
        (tmp_path / name).write_bytes(data)
    os.symlink("gone.jpg", tmp_path / "dangling.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "@eaDir").mkdir()
    save(tmp_path / "@eaDir" / "thumbnail.jpg", "JPEG")
    save(tmp_path / "._x.jpg", "JPEG")
    found = find_pictures(tmp_path)
    assert {path.name for path in found.pictures} == {k for k, v in PICTURES.items() if v in readable_formats()}
    expected = {".txt": 2, ".dcm": 1, ".npy": 1, ".pdf": 1, ".mov": 1, "file without a suffix": 1}
    assert found.passed_over == expected | {"broken link": 1, "special file": 1}
    prepared = prepare(tmp_path, 16, 16, 3, tmp_path.parent / "cache")
    assert len(prepared) == len(found.pictures)
    assert prepared.passed_over == found.passed_over
    assert (
        prepare(tmp_path, 16, 16, 3, tmp_path.parent / "cache").passed_over == found.passed_over
    )  # from the cache too


def test_raw_files_and_what_is_there_twice_are_no_pictures(tmp_path):
    save(tmp_path / "a.jpg", "JPEG")
    for name, kind in (("a.NEF", "TIFF"), ("a.dng", "TIFF"), ("a.THM", "JPEG"), ("a.jpg_original", "JPEG")):
        save(tmp_path / name, kind)
    for i in range(30):
        (tmp_path / f"scan.1.2.840.{i}").write_bytes(b"DICOM of old")
    (tmp_path / "notes").write_bytes(b"P1 meeting notes")
    (tmp_path / "x.\x1b[31m").write_bytes(b"")
    found = find_pictures(tmp_path)
    assert [path.name for path in found.pictures] == ["a.jpg"]
    rest = {".dng": 1, ".nef": 1, ".thm": 1, "file without a suffix": 1}
    assert found.passed_over == {"other file": 32, **rest}


def test_a_reader_that_is_installed_later_reads_what_was_skipped(tmp_path, monkeypatch):
    pytest.importorskip("tifffile")
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / "a.png", "PNG")
    Image.fromarray(np.zeros((16, 16), np.float32)).save(tmp_path / "photos" / "b.tif")
    monkeypatch.setattr("vaekit.data.tiff.pillow_is_right", lambda layout: False)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tifffile", None)
        patch.setattr("vaekit.data.cache.extra_readers", lambda: ())
        assert len(prepare(tmp_path / "photos", 16, 16, 3, tmp_path / "cache").skipped) == 1
    assert not prepare(tmp_path / "photos", 16, 16, 3, tmp_path / "cache").skipped


def test_a_folder_of_other_files_says_which(tmp_path):
    for name in ("a.mov", "b.mov", "README", "LICENSE"):
        (tmp_path / name).write_bytes(b"film")
    os.symlink("gone.jpg", tmp_path / "dangling.jpg")
    there = r"2 \.mov, 2 files without a suffix, 1 broken link"
    with pytest.raises(ValueError, match=f"holds no picture: {there}; the files read are"):
        find_pictures(tmp_path)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "HEIF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf", "AVIF"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp42", None),
        (b"\xff\x0a\xfa", "JXL"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"  <svg xmlns", "an SVG drawing"),
        (b"P5 16 16", "PPM"),
        (b"Plain words", None),
        (b"BMW is a car", None),
        (b"", None),
    ],
)
def test_first_bytes_tell_the_kind(data, kind):
    assert kind_of(data) == kind


def test_other_content_under_a_picture_s_name_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("vaekit.data.decoding.readable_formats", lambda: ("JPEG", "PNG"))
    for data, said in (
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), r'a HEIC picture; run: pip install "vaekit\[formats\]"'),
        (b"\xff\x0a" + bytes(64), "a JPEG XL picture; run"),
        (b"<html><body>404", "a web page, not a picture"),
        (b"%PDF-1.4", "a PDF, not a picture"),
        (b"RIFF\0\0\0\0WEBP", "a damaged or unusual WEBP picture"),
        (b"words", "not a picture"),
        (b"", "the file is empty"),
    ):
        (tmp_path / "a.jpg").write_bytes(data)
        with pytest.raises(UnreadablePicture, match=said):
            decode_picture(tmp_path / "a.jpg", 8, 8, 3)


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_phones_pictures_are_read_with_the_extra(tmp_path, kind):
    pytest.importorskip({"HEIF": "pillow_heif", "JXL": "pillow_jxl"}[kind])
    assert kind in readable_formats()
    Image.new("RGB", (64, 64), (200, 80, 60)).save(tmp_path / "a.bin", kind, quality=95)
    (path,) = find_pictures(tmp_path).pictures
    assert np.abs(decode_picture(path, 8, 8, 3)[:, 4, 4].astype(int) - (200, 80, 60)).max() <= 4


def test_a_jpeg_of_any_size_is_read_since_it_is_decoded_small(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow refuses twice as many
    monkeypatch.setattr("vaekit.data.budget.MOST_PIXELS", 100_000)
    Image.new("L", (640, 480), 128).save(tmp_path / "large.jpg")
    assert (decode_picture(tmp_path / "large.jpg", 16, 16, 1) == 128).all()
    Image.new("L", (640, 480), 128).save(tmp_path / "large.png")
    for name, size in (("large.png", 16), ("large.jpg", 400)):  # the latter has to be decoded at its full size
        with pytest.raises(UnreadablePicture, match=r"exceeds limit|more than the 100,000 that are read"):
            decode_picture(tmp_path / name, size, size, 1)


def test_the_limit_is_pillow_s_own():
    assert MOST_PIXELS == 2 * 89_478_485


def test_threads_share_a_budget_and_one_that_is_too_large_goes_alone():
    budget = Budget(100)
    with budget.holding(60):
        with budget.holding(40):
            assert budget.used == 100
        assert budget.used == 60
    with budget.holding(1000):
        assert budget.used == 1000
    assert budget.used == 0


def test_a_budget_makes_threads_wait():
    from threading import Event, Thread

    budget, inside, leave = Budget(100), Event(), Event()

    def hold():
        with budget.holding(60):
            inside.set()
            leave.wait(10)

    first = Thread(target=hold)
    first.start()
    assert inside.wait(10)
    inside.clear()
    second = Thread(target=hold)
    second.start()
    assert not inside.wait(0.2)  # there is no room for a second one
    leave.set()
    assert inside.wait(10)
    first.join()
    second.join()
    assert budget.used == 0


def test_names_are_printed_without_control_characters(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    save(folder / "a.png", "PNG")
    (folder / "bad\x1b]0;title\x07\nskipped a.png: fake.png").write_bytes(b"no")
    (folder / "notes.txt").write_text("text")
    assert command(["prepare", str(folder), "--size", "16"]) == 0
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x07" not in said
    lines = said.strip().splitlines()
    assert lines[0].startswith(r"skipped bad\x1b]0;title\x07\nskipped a.png: fake.png: not a picture")
    assert lines[1] == "1 other file passed over: 1 .txt"
    assert len(lines) == 2


def test_libtiff_writes_nothing_of_its_own(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    save(folder / "a.png", "PNG")
    Image.effect_noise((200, 200), 90).save(folder / "cut.tif", compression="tiff_lzw")
    data = (folder / "cut.tif").read_bytes()
    (folder / "cut.tif").write_bytes(data[:8] + b"\xff" * 2000 + data[2008:])
    assert command(["prepare", str(folder), "--size", "16"]) == 0
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("skipped cut.tif: a TIFF of 1 x uint8, grey: ")


def test_labels_are_told_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        save(folder / f"{i}.png", "PNG")
    for text, said in (
        ("file,smiling,glasses\n0,1,0\n1,0,0\n2,1,1\n3,0,1", "2 attributes in labels.csv: smiling, glasses"),
        ("file,label\n0,a\n1,b", "the labels are not used: labels.csv has no label for 2 of 4 pictures"),
    ):
        (folder / "labels.csv").write_text(text)
        assert command(["prepare", str(folder), "--size", "16"]) == 0
        told = capsys.readouterr().err
        assert said in told
        assert "passed over" not in told


def test_a_folder_that_stays_dark_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "camera"
    folder.mkdir()
    for i in range(3):
        values = np.random.default_rng(i).integers(0, 4096, (16, 16)).astype(np.uint16)  # 12 bits in words of 16
        Image.fromarray(values).save(folder / f"{i}.png")
    assert command(["prepare", str(folder), "--size", "16", "--channels", "1"]) == 0
    assert "WARNING: nothing in these pictures is lighter than" in capsys.readouterr().err
