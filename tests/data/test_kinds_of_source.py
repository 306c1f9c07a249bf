"""Every kind of source gives the same pixels of the same pictures, and one line for what it cannot take."""

import io
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from vaekit.commands.encode import OwnNames
from vaekit.commands.evaluate import evaluate_run
from vaekit.commands.train import train
from vaekit.data.cache import default_cache_dir, prepare
from vaekit.data.labels import find_labels
from vaekit.data.sources.naming import source_of
from vaekit.data.sources.shards import spelled_out
from vaekit.runs.folder import is_gone, read_pictures

NUM = 12
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def arrays() -> np.ndarray:
    """Twelve pictures, 20 pixels high and 24 wide, that differ everywhere."""
    return np.random.default_rng(0).integers(0, 256, (NUM, 20, 24, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_folder(arrays, place):
    for i, pixels in enumerate(arrays):
        (place / f"{i:03d}.png").write_bytes(png(pixels))
    return place


def as_list(arrays, place):
    as_folder(arrays, place)
    (place / "some.txt").write_text("# pictures\n" + "\n".join(f"{i:03d}.png" for i in range(len(arrays))))
    return place / "some.txt"


def as_npy(arrays, place):
    np.save(place / "pictures.npy", arrays)
    return place / "pictures.npy"


def as_npz(arrays, place):
    np.savez(place / "pictures.npz", x_train=arrays, other=np.zeros(3))
    return place / "pictures.npz"


def as_folder_of_arrays(arrays, place):
    for i, pixels in enumerate(arrays):
        np.save(place / f"{i:03d}.npy", pixels)
    np.save(place / "statistics.npy", np.zeros(7))
    return place


def add(tar, name, data):
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


def as_shards(arrays, place):
    for shard in range(3):
        with tarfile.open(place / f"a-{shard:02d}.tar", "w") as tar:
            for i in range(4 * shard, 4 * shard + 4):
                add(tar, f"{i:06d}.png", png(arrays[i]))
                add(tar, f"{i:06d}.json", b"{}")
    return place


def as_pattern(arrays, place):
    return as_shards(arrays, place) / "a-{00..02}.tar"


def as_stars(arrays, place):
    return as_shards(arrays, place) / "a-*.tar"


def as_array(arrays, place):
    return arrays


def as_bands_first(arrays, place):
    return np.ascontiguousarray(arrays.transpose(0, 3, 1, 2))


def as_tensor(arrays, place):
    return torch.from_numpy(arrays).permute(0, 3, 1, 2)


def as_float_tensor(arrays, place):
    return as_tensor(arrays, place) / 255


def as_list_of_pictures(arrays, place):
    return [Image.fromarray(pixels) for pixels in arrays]


class Pairs(torch.utils.data.Dataset):
    classes = CLASSES

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, i):
        if not 0 <= i < len(self.arrays):
            raise IndexError(i)
        return Image.fromarray(self.arrays[i]), i % 2


class Tensors(TensorDataset):
    classes = CLASSES


def hub_dataset(arrays):
    datasets = pytest.importorskip("datasets")
    pictures = [{"bytes": png(pixels), "path": None} for pixels in arrays]
    features = datasets.Features({"label": datasets.ClassLabel(names=list(CLASSES)), "image": datasets.Image()})
    labels = [i % 2 for i in range(len(arrays))]
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)


def as_hub_dataset(arrays, place):
    return hub_dataset(arrays).remove_columns("label")


def as_saved_dataset(arrays, place):
    as_hub_dataset(arrays, place).save_to_disk(place / "saved")
    return place / "saved"


def as_parquet(arrays, place):
    (place / "faces" / "data").mkdir(parents=True)
    as_hub_dataset(arrays, place).to_parquet(place / "faces" / "data" / "train-00000-of-00001.parquet")
    return place / "faces"


KINDS = [
    as_list,
    as_npy,
    as_npz,
    as_folder_of_arrays,
    as_shards,
    as_pattern,
    as_stars,
    as_array,
    as_bands_first,
    as_tensor,
    as_list_of_pictures,
    as_hub_dataset,
    as_saved_dataset,
    as_parquet,
]
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@quiet
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_pixels_of_the_folder(arrays, tmp_path, kind, channels):
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    expected = prepare(as_folder(arrays, tmp_path / "folder"), 16, 16, channels, tmp_path / "cache")
    source = source_of(kind(arrays, tmp_path / "other"))
    found = prepare(source, 16, 16, channels, tmp_path / "cache")
    assert (found.images == expected.images).all()
    assert len(set(found.names)) == NUM
    assert not found.skipped
    again = prepare(source_of(source.place), 16, 16, channels, tmp_path / "cache")
    assert again.path == found.path, "what the source calls itself is another source"


def test_floats_are_the_pictures_but_for_their_own_resizing(arrays, tmp_path):
    expected = prepare(source_of(arrays), 20, 24, 3, tmp_path / "cache")
    found = prepare(source_of(as_float_tensor(arrays, tmp_path)), 20, 24, 3, tmp_path / "cache")
    assert (found.images == expected.images).all()
    smooth = arrays[:, :3, :3].repeat(8, axis=1).repeat(8, axis=2)
    small = [
        prepare(source_of(kind(smooth, tmp_path)), 12, 12, 3, tmp_path / "cache").images.astype(int)
        for kind in (as_array, as_float_tensor)
    ]
    assert np.abs(small[0] - small[1]).mean() <= 1  # which clamp between the two directions, or at the end


LABELLED = {
    "pairs of torch": Pairs,
    "tensors of torch": lambda arrays: Tensors(torch.from_numpy(arrays).permute(0, 3, 1, 2), torch.arange(NUM) % 2),
    "a pair of arrays": lambda arrays: (arrays, np.array(CLASSES)[np.arange(NUM) % 2]),
    "Hugging Face": hub_dataset,
}


@quiet
@pytest.mark.parametrize("kind", LABELLED)
def test_classes_of_a_data_set_are_those_of_class_folders(arrays, tmp_path, kind):
    found = prepare(source_of(LABELLED[kind](arrays)), 8, 8, 3, tmp_path)
    labels = find_labels(found.folder, found.names)
    assert labels is not None
    assert labels.classes == CLASSES
    assert labels.indices.tolist() == [i % 2 for i in range(NUM)]


def test_classes_beside_the_pictures_of_shards_are_those_of_class_folders(arrays, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, pixels in enumerate(arrays):
            add(tar, f"{i:03d}.cls", CLASSES[i % 2].encode())
            add(tar, f"{i:03d}.png", png(pixels))
    found = prepare(source_of(tmp_path / "a.tar"), 8, 8, 3, tmp_path / "cache")
    labels = find_labels(found.folder, found.names)
    assert labels is not None
    assert labels.indices.tolist() == [i % 2 for i in range(NUM)]


def test_what_shards_hold_beside_pictures_is_counted_and_nothing_is_unpacked(arrays, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "../outside.png", png(arrays[0]))
        add(tar, "/absolute.png", png(arrays[0]))
        add(tar, "./inside.png", png(arrays[1]))
        add(tar, "inside.json", b"{}")  # about the picture
        add(tar, "no-suffix", png(arrays[2]))
        add(tar, "readme.txt", b"text")
        add(tar, "._inside.png", b"a Mac was here")
        add(tar, "broken.png", png(arrays[3])[:60])
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = prepare(source_of(tmp_path / "a.tar"), 8, 8, 3, tmp_path / "cache")
    assert found.names == ("inside.png", "no-suffix")
    assert [name for name, _ in found.skipped] == ["broken.png"]
    assert found.passed_over == {"unsafe name": 2, ".txt": 1, "special file": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "cache"}


def test_the_same_name_in_two_shards_is_two_pictures(arrays, tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            add(tar, "a.png", png(arrays[shard]))
    found = prepare(source_of(tmp_path), 20, 24, 3, tmp_path / "cache")
    assert found.names == ("a.png", "1/a.png")
    assert (found.images.transpose(0, 2, 3, 1) == arrays[:2]).all()


def test_files_of_one_key_are_one_picture_and_its_class(arrays, tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            add(tar, "0.png", png(arrays[2 * shard]))
            add(tar, "0.mask.png", png(arrays[5]))
            add(tar, "0.npy", b"\x93NUMPY")
            add(tar, "0.cls", CLASSES[shard].encode())
            add(tar, "x/1.png", png(arrays[2 * shard + 1]))
            add(tar, "x/1.cls", b"..")
    found = prepare(source_of(tmp_path), 20, 24, 3, tmp_path / "cache")
    assert [name.split("/")[0] for name in found.names[:3]] == ["cat", "_", "dog"]
    assert len(set(found.names)) == 4
    assert (found.images.transpose(0, 2, 3, 1) == arrays[:4]).all()
    assert not found.passed_over


def test_two_members_of_one_name_are_two_pictures(arrays, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(3):
            add(tar, "a.png", png(arrays[i]))
    found = prepare(source_of(tmp_path / "a.tar"), 20, 24, 3, tmp_path / "cache")
    assert len(set(found.names)) == 3
    assert (found.images.transpose(0, 2, 3, 1) == arrays[:3]).all()


BESIDE = {
    "a tar": lambda place: (place / "original.tar").write_bytes(b"a tar of before"),
    "a table of Parquet": lambda place: (place / "metadata.parquet").write_bytes(b"PAR1"),
    "an index": lambda place: (place / "dataset_info.json").write_text("{}"),
    "masks": lambda place: np.save(place / "masks.npy", np.zeros((40, 40))),
    "features": lambda place: np.save(place / "features.npy", np.zeros((100, 512), np.float32)),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_folder_of_pictures_stays_one_whatever_lies_beside_them(arrays, tmp_path, name):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    as_folder(arrays, tmp_path / "photos" / "cat")
    before = prepare(source_of(tmp_path / "photos"), 8, 8, 3, tmp_path / "cache")
    BESIDE[name](tmp_path / "photos")
    after = prepare(source_of(tmp_path / "photos"), 8, 8, 3, tmp_path / "cache")
    assert after.path == before.path
    assert sum(after.passed_over.values()) == 1


def test_a_folder_whose_name_has_a_hash_is_itself(arrays, tmp_path):
    (tmp_path / "set#1").mkdir()
    as_folder(arrays, tmp_path / "set#1")
    assert len(prepare(source_of(tmp_path / "set#1"), 8, 8, 3, tmp_path / "cache")) == NUM
    assert not is_gone(str(tmp_path / "set#1"))
    (tmp_path / "photos").mkdir()
    as_folder(arrays, tmp_path / "photos")
    with pytest.raises(ValueError, match="there is no folder"):
        prepare(source_of(tmp_path / "photos#2"), 8, 8, 3, tmp_path / "cache")


@quiet
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_classes_of_a_data_set_do_not_depend_on_its_format(arrays, tmp_path, kind):
    found = prepare(source_of(hub_dataset(arrays).with_format(kind)), 8, 8, 3, tmp_path)
    assert {name.split("/")[0] for name in found.names} == set(CLASSES)


def test_a_source_is_not_read_before_it_is_listed():
    class Never(Pairs):
        def __getitem__(self, i):
            raise AssertionError("read")

    assert source_of(Never(np.zeros((4, 8, 8, 3)))).title == "pictures"


@pytest.mark.parametrize("name", ["../outside.png", "/absolute/outside.png", "a/../../outside.png", "..", "."])
def test_names_of_a_source_stay_below_the_folder_that_is_written_to(tmp_path, name):
    names = OwnNames(".png")
    for _ in range(2):
        place = (tmp_path / "out" / names.of(name)).resolve()
        assert place.is_relative_to(tmp_path / "out")
        assert place != tmp_path / "out"


def test_a_shard_that_is_missing_or_cut_between_two_pictures_is_refused(arrays, tmp_path):
    as_shards(arrays, tmp_path)
    with pytest.raises(ValueError, match=r"2 of the shards .* are not there, the first is .*a-03\.tar"):
        source_of(tmp_path / "a-{00..04}.tar").list_pictures()
    shard = tmp_path / "a-01.tar"
    with tarfile.open(shard) as tar:
        third = tar.getmembers()[2].offset
    shard.write_bytes(shard.read_bytes()[:third])
    with pytest.raises(ValueError, match="is cut short"):
        source_of(tmp_path).list_pictures()


def test_a_shard_that_changes_is_another_source(arrays, tmp_path):
    as_shards(arrays, tmp_path)
    before = prepare(source_of(tmp_path), 8, 8, 3, tmp_path / "cache")
    with tarfile.open(tmp_path / "a-02.tar", "a") as tar:
        add(tar, "more.png", png(arrays[0]))
    after = prepare(source_of(tmp_path), 8, 8, 3, tmp_path / "cache")
    assert len(after) == len(before) + 1
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("{odd}.tar", ["{odd}.tar"]),
    ],
)
def test_braces_are_spelled_out(pattern, expected):
    assert spelled_out(pattern) == expected


class Random(Pairs):
    def __getitem__(self, i):
        return torch.rand(3, 8, 8)


REFUSED = [
    (lambda place: place / "gone.tar", "there is no shard"),
    (lambda place: place / "a.tar.gz", "unpack it to .tar"),
    (lambda place: (place / "text.tar").write_text("no tar") and place / "text.tar", "is no tar file"),
    (lambda place: (place / "a.txt").write_text("\n# nothing\n") and place / "a.txt", "lists no picture"),
    (lambda place: (place / "b.txt").write_text("gone.png\n") and place / "b.txt", "1 of the 1 pictures"),
    (lambda place: (place / "a.npy").write_text("no array") and place / "a.npy", "holds no array of pictures"),
    (lambda place: np.save(place / "objects.npy", np.array([{}])) or place / "objects.npy", "holds no array"),
    (lambda place: np.savez(place / "a.npz", weights=np.zeros(3)) or place / "a.npz", "holds weights; the array"),
    (lambda place: (place / "a.jpg").write_bytes(b"x") and place / "a.jpg", "is a file; give the folder"),
    (lambda place: place / "gone", "there is no folder"),
    (lambda place: "ftp://host/pictures", "of other machines, tar shards"),
    (lambda place: np.zeros(5), "pictures of shape"),
    (lambda place: np.zeros((32, 32, 3), np.uint8), "looks like one picture"),
    (lambda place: np.zeros((0, 8, 8, 3)), "pictures of shape"),
    (lambda place: (np.zeros((4, 8, 8)), np.zeros(3)), "labels of shape"),
    (lambda place: 5, "pictures as int"),
    (lambda place: {"a": 1}, "pictures as dict"),
    (lambda place: (i for i in range(3)), "pictures as generator"),
    (lambda place: [], "without pictures"),
    (lambda place: ["a.png", "b.png"], "an item of type str"),
    (lambda place: Random(np.zeros((4, 8, 8, 3))), "gives another picture each time"),
    (lambda place: "python:0123", "given from Python are no longer in"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_no_source_is_refused_in_one_line(tmp_path, given, message):
    with pytest.raises(ValueError, match=message) as error:
        prepare(source_of(given(tmp_path)), 8, 8, 3, tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [as_array, Pairs])
def test_a_run_on_pictures_from_python_knows_them_again(arrays, tmp_path, tiny, kind):
    many = np.concatenate([arrays, 255 - arrays])
    pictures = kind(many, tmp_path) if kind is as_array else kind(many)
    train(tiny, pictures, tmp_path / "run")
    assert read_pictures(tmp_path / "run").folder.startswith("python:")
    evaluate_run(tmp_path / "run", features="none")
    default_cache_dir().rename(tmp_path / "away")
    with pytest.raises(ValueError, match="give them again"):
        evaluate_run(tmp_path / "run", features="none")
    evaluate_run(tmp_path / "run", pictures, features="none")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def bucket(monkeypatch):
    """A real server of S3's protocol on this machine, with a bucket `photos`."""
    pytest.importorskip("moto")
    s3fs = pytest.importorskip("s3fs")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(address, timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        names = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (names | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        files.mkdir("photos")
        yield files
    finally:
        server.kill()
        server.wait()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.filterwarnings("ignore")
def test_shards_in_a_bucket_are_fetched_once_and_read_like_local_ones(arrays, tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "local").mkdir()
    expected = prepare(source_of(as_shards(arrays, tmp_path / "local")), 8, 8, 3)
    for shard in sorted((tmp_path / "local").iterdir()):
        bucket.put(str(shard), f"photos/{shard.name}")
    found = prepare(source_of("s3://photos/a-{00..02}.tar"), 8, 8, 3)
    assert (found.images == expected.images).all()
    copies = source_of("s3://photos/a-{00..02}.tar").folder
    times = [path.stat().st_mtime_ns for path in sorted(copies.iterdir())]
    assert prepare(source_of("s3://photos/a-{00..02}.tar"), 8, 8, 3).path == found.path
    assert [path.stat().st_mtime_ns for path in sorted(copies.iterdir())] == times
    assert len(prepare(source_of("s3://photos/a-*.tar"), 8, 8, 3)) == NUM
    for folder in ("x", "y"):
        bucket.put(str(tmp_path / "local" / f"a-0{'xy'.index(folder)}.tar"), f"photos/{folder}/0.tar")
    both = prepare(source_of("s3://photos/{x,y}/0.tar"), 8, 8, 3)
    assert (both.images == expected.images[:8]).all()
    with pytest.raises(ValueError, match="s3://photos/gone"):
        prepare(source_of("s3://photos/gone.tar"), 8, 8, 3)


def test_a_path_in_the_home_folder_is_found(arrays, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    as_folder(arrays, tmp_path)
    assert source_of("~").folder == Path(os.path.realpath(tmp_path))
