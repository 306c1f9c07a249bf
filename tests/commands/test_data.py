"""What a folder of pictures is told to hold."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from vaekit import train
from vaekit.cli import run as command
from vaekit.commands.data import look_at


@pytest.fixture
def folder(tmp_path):
    """Ten pictures, a copy, a copy that was compressed, a mirrored one, a black one, one of one colour, and a text."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(10):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((90 + 10 * i, 90)).save(folder / f"{i}.png")
    first = Image.open(folder / "0.png").copy()
    first.save(folder / "copy.png")
    first.save(folder / "z-small.jpg", quality=60)
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "turned.png")
    Image.new("L", (90, 90), 3).save(folder / "x-dark.png")
    Image.new("RGB", (90, 90), "red").save(folder / "x-flat.png")
    (folder / "broken.png").write_bytes(b"no")
    (folder / "notes.txt").write_text("notes")
    return folder


def test_sizes_kinds_and_all_that_is_odd_are_told(folder):
    look = look_at(str(folder))
    said = "\n".join(look.lines)
    assert "15 pictures in" in said
    assert "skipped broken.png: not a picture" in said
    assert "1 other file passed over: 1 .txt" in said
    assert "from 90x90 to 180x90 pixels, shorter sides 90 to 90, half of them 90 or more: --size 64 or less" in said
    assert "14 PNG, 1 JPEG; 14 RGB, 1 L" in said
    assert "2 of one colour: x-dark.png, x-flat.png" in said
    assert "1 nearly black: x-dark.png" in said


def test_copies_are_found_also_after_compression_and_across_the_split(folder):
    look = look_at(str(folder))
    assert set(look.twins) == {("0.png", "copy.png"), ("0.png", "z-small.jpg"), ("copy.png", "z-small.jpg")}
    assert look.across == 2  # the JPEG is one of the last fifth
    said = "\n".join(look.lines)
    assert "1 pairs of the same pixels and 2 of nearly the same: 0.png = copy.png" in said
    assert "WARNING: 2 of them lie on both sides of the split" in said


def test_files_that_come_sorted_are_told_here_and_at_the_start_of_a_training(tiny, tmp_path, capsys):
    random = np.random.default_rng(0)
    for i in range(150):
        lightest = 120 if i < 120 else 255
        coarse = Image.fromarray(random.integers(lightest - 120, lightest, (3, 3, 3), dtype=np.uint8))
        coarse.resize((20, 20), Image.Resampling.NEAREST).save(tmp_path / f"{i:03d}.png")
    told = "the test pictures, the last ones of each folder, are unlike those to train on"
    assert any(line.startswith(told) for line in look_at(str(tmp_path)).lines)
    for by in ("name", "hash"):
        train(
            dataclasses.replace(tiny, images=tiny.batch, split_by=by, prior="gaussian"),
            tmp_path,
            tmp_path / f"run-{by}",
        )
        assert (told in capsys.readouterr().err) == (by == "name")


def test_a_contact_sheet_shows_pictures_and_the_command_prints_the_lines(folder, tmp_path, capsys):
    assert command(["data", str(folder), "--out", str(tmp_path / "sheet.png")]) == 0
    assert "15 pictures in" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 66 - 2, 4 * 66 - 2)
    assert command(["data", str(tmp_path / "nowhere")]) == 2
