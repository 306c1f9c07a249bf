"""Classes read from folders and from CSVs in many layouts, against lists written by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vaekit.data.labels import Labels, find_labels, read_labels
from vaekit.data.sources.folder import find_pictures, resolve_source

NAMES = ("a.png", "b.png", "c.png", "d.png")
ANSWER = ["cat", "dog", "cat", "dog"]
LINES = "a.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n"


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def by_picture(labels: Labels) -> list[str]:
    return [labels.classes[i] for i in labels.indices]


# class folders


def test_a_picture_in_a_folder_of_its_own_class_has_its_name(tmp_path):
    labels = find_labels(tmp_path, ["dog/1.png", "cat/deep/2.png", "cat/3.png", "dog/4.png"])
    assert labels.classes == ("cat", "dog")
    assert by_picture(labels) == ["dog", "cat", "cat", "dog"]
    assert labels.source == "class folders"


@pytest.mark.parametrize(
    "names",
    [NAMES, ["cat/1.png", "dog/2.png", "cat/3.png", "4.png"], ["cat/1.png", "cat/2.png"], ["a/1.png", "b/2.png"]],
    ids=["none", "one outside", "one folder", "a folder for each"],
)
def test_other_folders_are_no_classes(tmp_path, names):
    assert find_labels(tmp_path, names) is None


# the CSV


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        "file,label\n" + LINES,
        LINES.replace(",", ";"),
        LINES.replace(",", "\t"),
        LINES.replace(",", "    "),
        LINES.replace(",", " , "),
        "\ufeff" + LINES,
        LINES.replace("\n", "\r\n") + "\r\n\r\n",
        "\n".join(f'"{name}","{label}"' for name, label in zip(NAMES, ANSWER, strict=True)),
        "\n".join(f"./{name}  {label}  mono" for name, label in zip(NAMES, ANSWER, strict=True)),
        "weight,Class,File\n1,cat,a.png\n2,dog,b.png\n1,cat,c.png\n2,dog,d.png",
        ",file,width,label\n0,a.png,9,cat\n1,b.png,9,dog\n2,c.png,9,cat\n3,d.png,9,dog",
        "class,what\ncat,a.png\ndog,b.png\ncat,c.png\ndog,d.png",
        LINES + "e.png,bird\nelsewhere/a.png,bird\na.png,cat\n",
    ],
    ids=[
        "plain", "header", "semicolons", "tabs", "spaces", "padded", "byte order mark", "windows", "quoted",
        "third column", "columns in another order", "numbered", "unnamed file column", "more pictures",
    ],
)  # fmt: skip
def test_a_csv_is_read_as_people_write_it(tmp_path, text):
    labels = find_labels(tmp_path, NAMES, written(tmp_path / "my.csv", text))
    assert labels.classes == ("cat", "dog")
    assert by_picture(labels) == ANSWER
    assert labels.source.endswith("my.csv")


def test_a_quoted_name_may_hold_what_parts_the_columns(tmp_path):
    path = written(tmp_path / "my.csv", '"a, b; c.png",cat\n"d e.png",dog\nf.png,cat\ng.png,dog')
    assert by_picture(read_labels(path, tmp_path, ["a, b; c.png", "d e.png", "f.png", "g.png"])) == ANSWER


def test_names_count_from_the_folder_then_from_the_csv_then_alone(tmp_path):
    names = ["x/a.png", "x/b.png", "y/a.png", "y/d.png"]
    text = f"x/a.png,cat\nphotos/x/b.png,dog\n{tmp_path.resolve()}/photos/y/a.png,cat\nd.png,dog\n"
    assert by_picture(find_labels(tmp_path / "photos", names, written(tmp_path / "my.csv", text))) == ANSWER


def test_a_bare_name_that_two_pictures_share_labels_neither(tmp_path):
    path = written(tmp_path / "my.csv", "a.png,cat\nb.png,dog\nd.png,dog")
    with pytest.raises(ValueError, match=r"no label for 2 of 4 pictures, for instance x/a\.png"):
        find_labels(tmp_path, ["x/a.png", "x/b.png", "y/a.png", "y/d.png"], path)


def test_labels_csv_is_found_in_the_folder_and_beside_it(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    assert find_labels(folder, NAMES) is None
    written(tmp_path / "labels.csv", LINES)
    assert by_picture(find_labels(folder, NAMES)) == ANSWER
    written(folder / "labels.csv", LINES.replace("cat", "bird"))
    assert find_labels(folder, NAMES).classes == ("bird", "dog")


def test_labels_beside_the_folder_that_are_about_other_pictures_are_passed_over(tmp_path):
    (tmp_path / "photos").mkdir()
    written(tmp_path / "labels.csv", "others/1.png,cat\nothers/2.png,dog")
    assert find_labels(tmp_path / "photos", NAMES) is None


def test_numbers_are_sorted_as_numbers(tmp_path):
    path = written(tmp_path / "my.csv", "a.png 10\nb.png 9\nc.png 10\nd.png 9")
    assert read_labels(path, tmp_path, NAMES).classes == ("9", "10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,cat\nb.png,\nc.png\nd.png,dog", r"no label for 2 of 4 pictures, for instance b\.png; add a line"),
        (LINES + "a.png,dog", "gives a.png two labels, 'cat' and 'dog'; keep one"),
        (LINES.replace("dog", "cat"), "every picture the label 'cat'; two classes"),
        ("a.png,1\nb.png,2\nc.png,3\nd.png,4", "4 different labels for 4 pictures: it looks like a measurement"),
        (" \n\n", "are empty; give a CSV"),
        ("a.png," + 200_000 * "x", "are no CSV: field larger"),
    ],
)
def test_labels_that_are_of_no_use_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        find_labels(tmp_path, NAMES, written(tmp_path / "labels.csv", text))
    assert "\n" not in str(error.value)


def test_a_csv_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file or directory; give a CSV"):
        find_labels(tmp_path, NAMES, tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a directory"):
        find_labels(tmp_path, NAMES, tmp_path)
    with pytest.raises(ValueError, match="no UTF-8 text"):
        find_labels(tmp_path, NAMES, written(tmp_path / "my.csv", LINES, "utf-16"))


# the classes


def test_parts_of_labels_keep_all_classes():
    labels = Labels.of(["b", "a", "c", "a"])
    part = labels[np.array([1, 3])]
    assert (part.classes, by_picture(part)) == (("a", "b", "c"), ["a", "a"])
    assert (len(labels), labels.counts, part.counts) == (4, {"a": 2, "b": 1, "c": 1}, {"a": 2, "b": 0, "c": 0})


def test_the_normal_class_is_the_lower_of_two_numbers_else_the_most_frequent():
    assert Labels.of(["1", "1", "0"]).normal == "0"
    assert Labels.of(["good", "bad", "good"]).normal == "good"
    assert Labels.of(["3", "2", "3", "10"]).normal == "3"


def test_only_numbers_from_0_to_1_with_one_between_are_probabilities():
    assert Labels.of(["0", "0.25", "1.0"]).probabilities
    for names in (["0", "1"], ["0.5", "2"], ["-1", "0.5"], ["0.5", "yes"], ["nan", "0.5"]):
        labels = Labels.of(names)
        assert not labels.probabilities
        assert labels.decided() is labels


def test_probabilities_are_cut_at_a_half():
    labels = Labels.of(["0.0", "0.5", "0.4999", "1.0"]).decided()
    assert labels.classes == ("below 0.5", "0.5 or more")
    assert labels.indices.tolist() == [0, 1, 0, 1]
    assert labels[1:2].normal == "below 0.5"


def test_only_numbers_can_be_cut():
    assert Labels.of(["3", "10", "7"]).at_least(7).indices.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="cat, dog are not all numbers"):
        Labels.of(["cat", "dog"]).at_least(0.5)


def test_the_layout_of_the_solar_cells_is_read(tmp_path):
    values = ["1.0", "0.3333333333333333", "0.0", "0.3333333333333333", "0.6666666666666666", "0.0", "1.0", "0.0"]
    (tmp_path / "images").mkdir()
    lines = [f"images/cell{i}.png  {value}                 mono" for i, value in enumerate(values)]
    written(tmp_path / "labels.csv", "\n".join(lines))
    labels = find_labels(tmp_path / "images", [f"cell{i}.png" for i in range(8)])
    assert labels.classes == ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")
    assert by_picture(labels) == values
    assert labels.decided().indices.tolist() == [1, 0, 0, 0, 1, 0, 1, 0]


def test_the_solar_cells_of_the_demo_have_821_that_are_rather_defective():
    if importlib.util.find_spec("elpv_dataset") is None:  # found, not imported: see tests/data/test_sources.py
        pytest.skip("elpv-dataset is not installed")
    folder = resolve_source("elpv")
    labels = find_labels(folder, [path.name for path in find_pictures(folder).pictures])
    assert list(labels.counts.values()) == [1508, 295, 106, 715]
    assert labels.decided().counts == {"below 0.5": 1803, "0.5 or more": 821}
