import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaekit.data import building
from vaekit.data.cache import Prepared, default_cache_dir, prepare

SIZE = 4


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five grey pictures, of level 0, 10, 20, 30 and 40, in two folders."""
    folder = tmp_path / "pictures"
    for number in range(5):
        add_picture(folder / f"{number % 2}" / f"{number}.png", level=10 * number)
    return folder


def entries_of(cache):
    """What is in the cache beside its locks, whose empty files stay."""
    return [path for path in cache.iterdir() if path.name != ".locks"]


def add_picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)


def grey(folder: Path, cache: Path, **options) -> Prepared:
    return prepare(folder, SIZE, SIZE, 1, cache, **options)


def levels(prepared: Prepared) -> list[int]:
    assert (prepared.images == prepared.images[:, :, :1, :1]).all()
    return prepared.images[:, 0, 0, 0].tolist()


def calls_of_progress(folder: Path, cache: Path) -> int:
    """How many files were decoded: none when the entry was there already."""
    calls: list[tuple[int, int]] = []
    grey(folder, cache, progress=lambda done, total: calls.append((done, total)))
    return len(calls)


def test_pictures_come_in_the_order_of_their_names(folder, cache):
    prepared = grey(folder, cache)
    assert prepared.names == ("0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png")
    assert levels(prepared) == [0, 20, 40, 10, 30]
    assert prepared.images.shape == (5, 1, SIZE, SIZE)
    assert prepared.images.dtype == np.uint8
    assert len(prepared) == 5
    assert prepared.skipped == ()


def test_height_width_and_channels_are_those_asked_for(folder, cache):
    assert prepare(folder, 2, 6, 3, cache).images.shape == (5, 3, 2, 6)


def test_many_more_pictures_than_threads_stay_in_order(tmp_path, cache):
    for number in range(100):
        add_picture(tmp_path / "many" / f"{number:03}.png", level=number)
    assert levels(grey(tmp_path / "many", cache, workers=3)) == list(range(100))


def test_images_are_mapped_from_the_disk_and_read_only(folder, cache):
    images = grey(folder, cache).images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_the_entry_is_a_plain_npy_file_and_a_json_index(folder, cache):
    prepared = grey(folder, cache)
    assert (np.load(prepared.path / "images.npy") == prepared.images).all()
    index = json.loads((prepared.path / "index.json").read_text())
    assert tuple(index["names"]) == prepared.names
    assert (index["channels"], index["height"], index["width"]) == (1, SIZE, SIZE)
    assert index["crc32"] == zlib.crc32(prepared.images.tobytes())


def test_progress_counts_every_file_of_the_first_time_only(folder, cache):
    calls = []
    grey(folder, cache, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert calls_of_progress(folder, cache) == 0


def test_the_second_opening_equals_the_first(folder, cache):
    (folder / "broken.png").write_text("no picture")
    first, second = grey(folder, cache), grey(folder, cache)
    assert (first.images == second.images).all()
    assert (first.folder, first.names, first.skipped) == (second.folder, second.names, second.skipped)
    assert first.fingerprint == second.fingerprint == first.path.name.partition("-")[0]


def test_one_folder_is_one_entry_however_it_is_written(folder, cache, monkeypatch):
    monkeypatch.chdir(folder)
    assert grey(Path("."), cache).fingerprint == grey(folder, cache).fingerprint


@pytest.mark.parametrize("broken_ones", [["00.png"], ["0/1.png", "zz.jpg"]])
def test_broken_files_are_skipped_and_listed(folder, cache, broken_ones):
    for name in broken_ones:
        (folder / name).write_text("no picture")
    prepared = grey(folder, cache)
    assert levels(prepared) == [0, 20, 40, 10, 30]
    assert prepared.skipped == tuple((name, "not a picture") for name in broken_ones)
    assert prepared.verify()


def test_a_folder_of_broken_files_only_is_refused_and_leaves_nothing(tmp_path, cache):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 5 pictures .*0\.png: the file is empty; 1\.png.*; 2\.png"):
        grey(tmp_path, cache)
    assert entries_of(cache) == []


def test_ctrl_c_stops_the_threads(folder, cache):
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    threads_before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        grey(folder, cache, progress=interrupt)
    assert threading.active_count() == threads_before
    assert len(grey(folder, cache)) == 5
    assert len(entries_of(cache)) == 1


def test_a_file_that_vanishes_on_the_way_is_an_error_of_the_system(folder, cache):
    def remove_the_last(done: int, total: int) -> None:
        (folder / "1" / "3.png").unlink(missing_ok=True)

    with pytest.raises(FileNotFoundError, match=r"3\.png"):
        grey(folder, cache, workers=1, progress=remove_the_last)
    assert entries_of(cache) == []


def test_pictures_that_cannot_fit_on_the_disk_are_refused_before_decoding(folder, cache):
    with pytest.raises(OSError, match=r"too full.*they take [\d,.]+ MiB and [\d,.]+ MiB are free"):
        prepare(folder, 10**8, 10**8, 3, cache)
    assert entries_of(cache) == []


def test_a_disk_that_fills_up_on_the_way_is_one_clear_message(folder, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"\(File too large\): they take 0\.1 MiB .*VAEKIT_CACHE"):
            prepare(folder, 100, 200, 1, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert entries_of(cache) == []


def cut_pixels(entry: Path) -> None:
    os.truncate(entry / "images.npy", (entry / "images.npy").stat().st_size - 1)


def lengthen_pixels(entry: Path) -> None:
    with open(entry / "images.npy", "ab") as file:
        file.write(b"0")


def empty_pixels(entry: Path) -> None:
    (entry / "images.npy").write_bytes(b"")


def other_pixels(entry: Path) -> None:
    np.save(entry / "images.npy", np.zeros((5, 1, SIZE, SIZE), np.float32))


def remove_index(entry: Path) -> None:
    (entry / "index.json").unlink()


def cut_index(entry: Path) -> None:
    os.truncate(entry / "index.json", 20)


def other_index(entry: Path) -> None:
    (entry / "index.json").write_text("[]")


def forget_a_name(entry: Path) -> None:
    index = json.loads((entry / "index.json").read_text())
    index["names"].pop()
    (entry / "index.json").write_text(json.dumps(index))


def a_file_instead(entry: Path) -> None:
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    entry.write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        cut_pixels,
        lengthen_pixels,
        empty_pixels,
        other_pixels,
        remove_index,
        cut_index,
        other_index,
        forget_a_name,
        a_file_instead,
    ],
)
def test_a_damaged_entry_is_made_anew(folder, cache, damage):
    entry = grey(folder, cache).path
    damage(entry)
    assert levels(grey(folder, cache)) == [0, 20, 40, 10, 30]
    assert entries_of(cache) == [entry]
    assert calls_of_progress(folder, cache) == 0


def test_verify_finds_a_changed_pixel(folder, cache):
    prepared = grey(folder, cache)
    assert prepared.verify()
    with open(prepared.path / "images.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x99")
    assert not grey(folder, cache).verify()


def test_a_changed_file_is_decoded_again(folder, cache):
    before = grey(folder, cache)
    add_picture(folder / "0" / "0.png", level=99)
    os.utime(folder / "0" / "0.png", ns=(1, 1))  # a clock too coarse to see the change would not do
    after = grey(folder, cache)
    assert levels(after) == [99, 20, 40, 10, 30]
    assert after.fingerprint != before.fingerprint


def test_an_added_a_renamed_and_a_removed_file_make_another_entry(folder, cache):
    fingerprints = [grey(folder, cache).fingerprint]
    add_picture(folder / "5.png", level=50)
    fingerprints.append(grey(folder, cache).fingerprint)
    (folder / "5.png").rename(folder / "6.png")
    fingerprints.append(grey(folder, cache).fingerprint)
    assert len(set(fingerprints)) == 3
    (folder / "6.png").unlink()
    assert grey(folder, cache).fingerprint == fingerprints[0]


def test_every_size_and_number_of_channels_has_its_own_entry(folder, cache):
    shapes = [(4, 4, 1), (4, 4, 3), (4, 5, 1), (5, 4, 1)]
    assert len({prepare(folder, *shape, cache).fingerprint for shape in shapes}) == 4


def decode(folder, cache, decoded, started=None, proceed=None):
    """In a process of its own: prepare, count the decoded files, stop at the first of them until told to go on."""

    def progress(done: int, total: int) -> None:
        decoded.value += 1
        if started is not None and done == 1:
            started.set()
            proceed.wait()

    grey(folder, cache, progress=progress)


@pytest.fixture(scope="module")
def processes():
    """Real processes that need not import everything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vaekit.data.cache"])
    return context


@pytest.fixture
def builder(processes, folder, cache):
    """A process in the middle of preparing `folder`, waiting for `proceed`; (process, decoded, proceed)."""
    started, proceed, decoded = processes.Event(), processes.Event(), processes.Value("i", 0)
    process = processes.Process(target=decode, args=(folder, cache, decoded, started, proceed))
    process.start()
    assert started.wait(60)
    yield process, decoded, proceed
    process.kill()
    process.join()


def start(processes, folder, cache, count):
    decoded = processes.Value("i", 0)
    started = [processes.Process(target=decode, args=(folder, cache, decoded)) for _ in range(count)]
    for process in started:
        process.start()
    return started, decoded


def join(started):
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * len(started)


def test_processes_that_prepare_at_once_decode_once(processes, builder, folder, cache):
    process, decoded_first, proceed = builder
    others, decoded_later = start(processes, folder, cache, 3)
    others[0].join(0.5)
    assert all(other.is_alive() for other in others)  # they wait
    proceed.set()
    join([process, *others])
    assert (decoded_first.value, decoded_later.value) == (5, 0)
    assert levels(grey(folder, cache)) == [0, 20, 40, 10, 30]
    assert len(entries_of(cache)) == 1


def test_threads_that_prepare_at_once_decode_once(folder, cache):
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(calls_of_progress, [folder] * 4, [cache] * 4)) == [0, 0, 0, 5]


def test_a_killed_builder_is_replaced_by_one_that_waits(processes, builder, folder, cache):
    others, decoded = start(processes, folder, cache, 2)
    builder[0].kill()
    join(others)
    assert decoded.value == 5
    assert levels(grey(folder, cache)) == [0, 20, 40, 10, 30]
    assert len(entries_of(cache)) == 1


def die(folder, cache, after):
    """In a process of its own: prepare, and be killed after so many files."""

    def progress(done: int, total: int) -> None:
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)

    grey(folder, cache, workers=2, progress=progress)


def test_a_killed_build_goes_on_from_what_it_saved(processes, tmp_path, cache):
    folder = tmp_path / "many"
    for number in range(600):
        add_picture(folder / f"{number:03}.png", level=number % 256)
    for number in (100, 300, 530, 590):
        (folder / f"{number}.png").write_text("no picture")
    process = processes.Process(target=die, args=(folder, cache, 550))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    calls = []
    resumed = grey(folder, cache, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 600) for done in range(513, 601)]  # it saves every 256 files
    undisturbed = grey(folder, tmp_path / "another cache")
    assert (resumed.images == undisturbed.images).all()
    assert (resumed.names, resumed.skipped) == (undisturbed.names, undisturbed.skipped)
    assert resumed.verify()
    assert {path.name for path in resumed.path.iterdir()} == {"images.npy", "index.json", "checksums.npy"}


def test_what_a_killed_builder_left_goes_after_a_week_but_not_what_a_living_one_makes(
    processes, builder, folder, cache, tmp_path
):
    add_picture(tmp_path / "other" / "0.png", level=1)
    add_picture(tmp_path / "third" / "0.png", level=2)
    (scratch,) = cache.glob(".building-*")  # of the living one
    os.utime(scratch, (0, 0))
    grey(tmp_path / "other", cache)
    assert scratch.exists()
    builder[0].kill()
    builder[0].join()
    grey(tmp_path / "third", cache)
    assert list(cache.glob(".building-*")) == []


def test_what_a_builder_left_this_week_stays_while_others_build(processes, builder, folder, cache, tmp_path):
    add_picture(tmp_path / "other" / "0.png", level=1)
    builder[0].kill()
    builder[0].join()
    grey(tmp_path / "other", cache)
    assert len([path for path in cache.glob(".building-*") if path.is_dir()]) == 1


def test_the_cache_folder_can_be_set_in_the_environment(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "mine"))
    assert prepare(folder, SIZE, SIZE, 1).path.parent == tmp_path / "mine"


def test_the_cache_folder_is_the_users_by_default(monkeypatch):
    monkeypatch.delenv("VAEKIT_CACHE", raising=False)
    assert "vaekit" in default_cache_dir().parts


@pytest.mark.parametrize(
    ("height", "width", "channels", "workers", "message"),
    [
        (0, 4, 1, None, "0 x 4"),
        (4, -1, 1, None, "4 x -1"),
        (4, 4, 0, None, r"channels is 0; choose 1 \(grey\), 3 \(RGB\)"),
        (4, 4, 1, 0, "workers is 0; give 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder, cache, height, width, channels, workers, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, height, width, channels, cache, workers)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text_are_kept(tmp_path, cache):
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1 on a file system that expects UTF-8
    add_picture(tmp_path / "odd" / "a.png", level=7)
    (tmp_path / "odd" / "a.png").rename(tmp_path / "odd" / name)
    grey(tmp_path / "odd", cache)
    prepared = grey(tmp_path / "odd", cache)
    assert prepared.names == (name,)
    assert len(prepared.names_sha256) == 64, "which a training asks for"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_who_may_write_to_the_cache_may_lock_it(folder, cache):
    cache.mkdir(exist_ok=True)
    cache.chmod(0o1777)
    grey(folder, cache)
    assert (cache / ".locks").stat().st_mode & 0o7777 == 0o777
    (lock,) = (cache / ".locks").iterdir()
    assert lock.stat().st_mode & 0o666 == 0o666


def test_a_build_that_another_process_finishes_first_is_no_error(folder, cache, monkeypatch):
    leftover = cache / f"{building.SCRATCH_PREFIX}other"
    leftover.mkdir(parents=True)

    @contextmanager
    def finished_meanwhile(entry, wait):
        leftover.rmdir()
        yield True

    monkeypatch.setattr(building, "locked", finished_meanwhile)
    building.remove_leftovers(cache / "entry")


def test_what_was_skipped_is_not_written_again_with_every_few_files(folder, cache, monkeypatch):
    for number in range(400):
        (folder / f"{number:03}.png").write_text("no picture")
    written = []
    monkeypatch.setattr(building, "SAVE_EVERY_FILES", 1)
    monkeypatch.setattr(building.Done, "save", lambda done, *_: written.append(len(done.skipped)))
    assert levels(grey(folder, cache)) == [0, 20, 40, 10, 30]
    assert len(written) > 10
    assert sum(written) < 8 * 400, "a share of them each time, and not all"


def test_checksums_tell_pictures_apart_and_are_kept(folder, cache):
    prepared = grey(folder, cache)
    assert len(set(prepared.checksums.tolist())) == len({image.tobytes() for image in prepared.images})
    (prepared.path / "checksums.npy").write_bytes(b"damaged")
    again = grey(folder, cache)
    assert np.array_equal(again.checksums, prepared.checksums)
    kept = np.load(prepared.path / "checksums.npy")
    assert np.array_equal(kept, prepared.checksums)
