"""Pictures written as shards: training on them is training on the pictures, to the bit."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.commands.train import train
from vaekit.data.cache import prepare_as
from vaekit.data.labels import find_labels
from vaekit.data.packing import MANIFEST_FILE, check_shards, names_within, pack
from vaekit.data.sources.naming import source_of
from vaekit.data.view import View

VIEWS = {
    "colour": View(16, 16, 3),
    "grey": View(16, 16, 1),
    "bars": View(16, 32, 3, fit="pad"),
    "16 bits": View(16, 16, 3, depth=16),
}


@pytest.fixture
def many(tmp_path):
    """Pictures in class folders, two of them with one name but for the suffix."""
    random = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / "many" / ("cat" if i % 2 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path / "many"


def packed(folder, view, out, **options):
    prepared = prepare_as(source_of(folder), view)
    return prepared, pack(prepared, view, out, **options)


@pytest.mark.parametrize("name", VIEWS)
def test_shards_give_the_pixels_the_order_and_the_classes_of_the_pictures(many, tmp_path, name, monkeypatch):
    view = VIEWS[name]
    monkeypatch.setattr("vaekit.data.packing.SHARD_BYTES", 7 * view.image_bytes)
    prepared, manifest = packed(many, view, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 5
    again = prepare_as(source_of(tmp_path / "out"), view)
    assert again.crc32 == prepared.crc32
    assert (again.checksums == prepared.checksums).all()
    before, after = (find_labels(each.folder, each.names) for each in (prepared, again))
    assert before is not None
    assert after is not None
    assert (before.indices == after.indices).all()
    about = json.loads(manifest.read_text())
    assert (about["num_images"], about["crc32"]) == (30, prepared.crc32)
    check_shards(tmp_path / "out")


@pytest.mark.parametrize("depth", [8, 16])
def test_training_on_shards_is_training_on_the_pictures(many, tmp_path, tiny, depth):
    config = dataclasses.replace(tiny, depth=depth)
    packed(many, View(16, 16, 3, depth=depth), tmp_path / "out")
    one = train(config, many, tmp_path / "one").state_dict()
    other = train(config, tmp_path / "out", tmp_path / "other").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_call_that_was_interrupted_goes_on(many, tmp_path, monkeypatch):
    view, out = VIEWS["colour"], tmp_path / "out"
    monkeypatch.setattr("vaekit.data.packing.SHARD_BYTES", 7 * view.image_bytes)

    def stop(done, total):
        if done >= 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(many, view, out, progress=stop)
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(first) == 2
    packed(many, view, out)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert first.items() <= after.items()
    assert prepare_as(source_of(out), view).crc32 == prepare_as(source_of(many), view).crc32


def test_the_same_pictures_give_the_same_shards(many, tmp_path):
    for name in ("one", "other"):
        packed(many, VIEWS["colour"], tmp_path / name)
    one, other = ((tmp_path / name / "pictures-00000.tar").read_bytes() for name in ("one", "other"))
    assert one == other


def test_other_things_in_the_folder_are_refused(many, tmp_path):
    packed(many, VIEWS["colour"], tmp_path / "out")
    with pytest.raises(ValueError, match="holds shards of other pictures"):
        packed(many, VIEWS["grey"], tmp_path / "out")
    with pytest.raises(ValueError, match="is not empty"):
        packed(many, VIEWS["grey"], many)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pictures-00000.tar").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is not empty"):
        packed(many, VIEWS["colour"], tmp_path / "mine")
    assert (tmp_path / "mine" / "pictures-00000.tar").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="is a file; give the folder"):
        packed(many, VIEWS["colour"], tmp_path / "mine" / "pictures-00000.tar")
    (tmp_path / "out" / MANIFEST_FILE).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        packed(many, VIEWS["colour"], tmp_path / "out")


def test_a_shard_that_is_damaged_or_missing_is_named(many, tmp_path):
    packed(many, VIEWS["colour"], tmp_path / "out")
    shard = tmp_path / "out" / "pictures-00000.tar"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"pictures-00000\.tar is damaged"):
        check_shards(tmp_path / "out")
    shard.unlink()
    with pytest.raises(ValueError, match=r"pictures-00000\.tar is missing"):
        check_shards(tmp_path / "out")


NAMES = [
    (["a.bmp", "a.png"], ["a_bmp.png", "a_png.png"]),
    (["a.png", "a.b.png", "b/a.jpg"], ["a.png", "a_b.png", "b/a.png"]),
    (["x/a.b.png", "x/a_b.png"], ["x/a_b_png.png", "x/a_b_png.png"]),
    (["../a.png", "/a.png", "plain"], None),
]


@pytest.mark.parametrize(("names", "expected"), NAMES[:2])
def test_names_within_shards_have_one_dot(names, expected):
    assert names_within(names, ".png") == expected


@pytest.mark.parametrize("names", [names for names, _ in NAMES])
def test_as_many_pictures_come_out_of_shards_as_went_in(tmp_path, names):
    random = np.random.default_rng(0)
    place = tmp_path / "in" / "below"
    place.mkdir(parents=True)
    for i, name in enumerate(names):
        path = tmp_path / f"{i}.png" if name.startswith(("/", "..")) else place / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, "PNG")
    given = [str(tmp_path / f"{i}.png") if name.startswith(("/", "..")) else name for i, name in enumerate(names)]
    (place / "all.txt").write_text("\n".join(given))
    prepared, _ = packed(place / "all.txt", View(8, 8, 3), tmp_path / "out")
    again = prepare_as(source_of(tmp_path / "out"), View(8, 8, 3))
    assert len(again) == len(names)
    assert (again.images == prepared.images).all()


def test_pictures_of_a_list_from_other_folders_can_be_read_again(many, tmp_path):
    paths = sorted(many.rglob("*.png"))
    lines = [str(path) if i % 2 else f"../many/{path.relative_to(many)}" for i, path in enumerate(paths)]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.txt").write_text("\n".join(lines))
    view = View(8, 8, 3)
    prepared, _ = packed(tmp_path / "lists" / "a.txt", view, tmp_path / "out")
    assert (prepare_as(source_of(tmp_path / "out"), view).images == prepared.images).all()


def test_a_table_of_labels_goes_with_the_shards(many, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted(many.rglob("*.png")):
        shutil.copy(path, flat / path.name)
    rows = [f"{i:02d}.png,{'cat' if i % 2 else 'dog'}" for i in range(30)]
    (flat / "labels.csv").write_text("file,label\n" + "\n".join(rows))
    packed(flat, View(8, 8, 3), tmp_path / "out")
    found = prepare_as(source_of(tmp_path / "out"), View(8, 8, 3))
    labels = find_labels(found.folder, found.names)
    assert labels is not None
    assert labels.indices.tolist() == [i % 2 == 0 for i in range(30)]
