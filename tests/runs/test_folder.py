"""Whose pictures they are: a picture that a run trained on is never one to measure it with."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vaekit.config.presets import preset
from vaekit.data.cache import prepare
from vaekit.data.loader import split
from vaekit.data.sources.folder import find_pictures
from vaekit.runs.folder import TRAINED_ON_FILE, held_out_of, is_run, mark_as_output, trained_on, write_run
from vaekit.runs.resume import check_same_pictures

CONFIG = preset(size=16).resolved()


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def add(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)


@pytest.fixture
def classes(tmp_path):
    """Twenty pictures of each of two classes."""
    for i in range(40):
        add(tmp_path / "classes" / ("a" if i < 20 else "b") / f"{i:03d}.png", seed=i)
    return tmp_path / "classes"


@pytest.fixture
def run(classes, tmp_path):
    """The folder of a run on them, before its first step."""
    prepared = prepare(classes, 16, 16, 3)
    write_run(tmp_path / "run", CONFIG, prepared, split(prepared.names, CONFIG.split)[0])
    return tmp_path / "run"


@pytest.mark.parametrize("by", ["name", "hash"])
def test_a_run_is_measured_on_what_it_did_not_train_on_however_it_was_split(classes, tmp_path, by):
    config = dataclasses.replace(CONFIG, split_by=by)
    prepared = prepare(classes, 16, 16, 3)
    train, test = split(prepared.names, config.split, by)
    write_run(tmp_path / by, config, prepared, train)
    assert held_out_of(tmp_path / by, config)[1].tolist() == test.tolist()
    assert trained_on(tmp_path / by, config)[1].tolist() == train.tolist()
    kept = np.load(tmp_path / by / "trained_on.npy")
    assert set(kept.tolist()) == set(prepared.checksums[train].tolist())
    assert (test.tolist() == split(prepared.names, config.split)[1].tolist()) == (by == "name")


def shown(prepared, indices):
    """The pixels of some pictures, to compare them whatever their names and folders."""
    return {prepared.images[i].tobytes() for i in indices}


def learned(classes):
    prepared = prepare(classes, 16, 16, 3)
    return shown(prepared, split(prepared.names, CONFIG.split)[0])


def flat_copy(classes, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in find_pictures(classes).pictures:
        shutil.copy(path, flat / path.name)
    return flat


def with_another(classes, tmp_path):
    add(classes / "b" / "zzz.png", seed=99)
    return classes


def one_class(classes, tmp_path):
    return classes / "a"


def renamed(classes, tmp_path):
    for i, path in enumerate(reversed(find_pictures(classes).pictures)):
        path.rename(path.with_name(f"new-{i:03d}.png"))
    return classes


def among_others(classes, tmp_path):
    for i in range(3):
        add(tmp_path / f"{i}.png", seed=200 + i)
    return tmp_path


@pytest.mark.parametrize("folder", [flat_copy, with_another, one_class, renamed, among_others])
def test_pictures_that_a_run_trained_on_are_left_out_of_any_folder_with_a_line(folder, classes, run, tmp_path):
    trained, lines = learned(classes), []
    prepared, chosen = held_out_of(run, CONFIG, folder(classes, tmp_path), lines.append)
    everything = shown(prepared, range(len(prepared)))
    assert shown(prepared, chosen) == everything - trained
    (line,) = lines
    assert f"{len(everything & trained)} of the {len(prepared)} pictures are left out" in line


@pytest.mark.parametrize("folder", [flat_copy, with_another, renamed])
def test_a_run_does_not_go_on_with_pictures_whose_split_is_another(folder, classes, run, tmp_path):
    others = prepare(folder(classes, tmp_path), 16, 16, 3)
    with pytest.raises(ValueError, match="began with other pictures"):
        check_same_pictures(run, others)


def test_the_same_names_and_pixels_elsewhere_are_the_runs_own(classes, run, tmp_path):
    trained = learned(classes)
    moved = prepare(shutil.move(classes, tmp_path / "moved"), 16, 16, 3)
    check_same_pictures(run, moved)
    prepared, chosen = held_out_of(run, CONFIG, tmp_path / "moved", pytest.fail)
    assert len(chosen) == 8
    assert not shown(prepared, chosen) & trained
    prepared, chosen = trained_on(run, CONFIG, moved)
    assert shown(prepared, chosen) == trained


def test_where_all_were_trained_on_there_is_nothing_to_measure(classes, run, tmp_path):
    for i, path in enumerate(find_pictures(classes).pictures[:16]):
        shutil.copy(path, tmp_path / "run" / f"{i}.png")  # a copy among what is never searched is no copy
        (tmp_path / "seen").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "seen" / f"{i}.png")
    with pytest.raises(ValueError, match="trained on all 16 pictures"):
        held_out_of(run, CONFIG, tmp_path / "seen")


def test_a_run_of_before_is_not_measured_on_a_folder_of_its_own_that_has_changed(classes, run, tmp_path):
    (run / TRAINED_ON_FILE).unlink()
    record = json.loads((run / "pictures.json").read_text())
    record.pop("names_sha256")
    (run / "pictures.json").write_text(json.dumps(record))
    assert len(held_out_of(run, CONFIG, classes)[1]) == 8  # it still knows them while they are as they were
    for named in (with_another(classes, tmp_path), None):
        with pytest.raises(ValueError, match="no longer those of"):
            held_out_of(run, CONFIG, named)


def test_a_damaged_list_of_what_was_trained_on_is_one_line(classes, run, tmp_path):
    (run / TRAINED_ON_FILE).write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=f"{TRAINED_ON_FILE} is damaged"):
        held_out_of(run, CONFIG, with_another(classes, tmp_path))


def test_runs_and_all_else_that_was_written_among_the_pictures_are_no_pictures(classes, run, tmp_path):
    inside = shutil.copytree(run, classes / "runs" / "photos-fast-16")
    add(inside / "figures" / "samples.png", seed=300)
    of_before = shutil.copytree(inside, classes / "a" / "run of before")
    (of_before / ".vaekit").unlink()
    mark_as_output(classes / "new")
    add(classes / "new" / "000000.png", seed=301)
    assert is_run(inside)
    assert len(find_pictures(classes).pictures) == 40
    assert len(find_pictures(classes / "new").pictures) == 1  # who names such a folder wants its pictures
    assert prepare(classes, 16, 16, 3).names == prepare(classes, 16, 16, 3).names
    held_out_of(run, CONFIG)  # and the run still knows its own
