"""Classes read from folders and from CSVs in many layouts, against lists written by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vaekit.data.labels import Labels, find_labels, read_labels
from vaekit.data.sources.folder import find_pictures
from vaekit.data.sources.naming import source_of

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


def test_folders_that_part_train_from_test_are_no_classes(tmp_path):
    labels = find_labels(tmp_path, ["train/dog/1.png", "train/cat/2.png", "test/dog/3.png", "test/cat/4.png"])
    assert by_picture(labels) == ["dog", "cat", "dog", "cat"]
    for names in (
        ["train/1.png", "train/2.png", "test/3.png", "test/4.png"],
        ["train/cat/1.png", "train/dog/2.png", "test/3.png", "test/4.png"],
    ):
        assert find_labels(tmp_path, names) is None
    written(tmp_path / "labels.csv", "train/1.png,cat\ntrain/2.png,dog\ntest/3.png,cat\ntest/4.png,dog")
    assert by_picture(find_labels(tmp_path, ["train/1.png", "train/2.png", "test/3.png", "test/4.png"])) == ANSWER


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
    assert "my.csv" in labels.source


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("filename,split,category\na.png,train,cat\nb.png,test,dog\nc.png,train,cat\nd.png,test,dog", "category"),
        (",filename,category\n0,a.png,cat\n1,b.png,dog\n2,c.png,cat\n3,d.png,dog", "category"),
        ("Unnamed: 0,path,kind\n0,a.png,cat\n1,b.png,dog\n2,c.png,cat\n3,d.png,dog", "kind"),
        ("file,split,animal\na.png,train,cat\nb.png,test,dog\nc.png,train,cat\nd.png,test,dog", "animal"),
    ],
    ids=["a split before the category", "an index of pandas", "an index with a name", "no column called label"],
)
def test_the_column_that_is_taken_is_said(tmp_path, text, column):
    labels = find_labels(tmp_path, NAMES, written(tmp_path / "my.csv", text))
    assert by_picture(labels) == ANSWER
    assert labels.source.endswith(f"my.csv, column {column}")


@pytest.mark.parametrize(
    "lines",
    [
        ["file,label"] + [f"{name[:-4]},{label}" for name, label in zip(NAMES, ANSWER, strict=True)],
        [f"{label},{name}" for name, label in zip(NAMES, ANSWER, strict=True)],
        ["path,label"] + [f"data/img/{name},{label}" for name, label in zip(NAMES, ANSWER, strict=True)],
        ["path,label"] + [f"/content/img/{name},{label}" for name, label in zip(NAMES, ANSWER, strict=True)],
        ["path,label"] + [f"C:\\img\\{name},{label}" for name, label in zip(NAMES, ANSWER, strict=True)],
        ["path,label"] + [f"img/{name[:-4]}.jpg,{label}" for name, label in zip(NAMES, ANSWER, strict=True)],
    ],
    ids=["no suffix", "label first", "prefix", "absolute, of elsewhere", "backslashes", "another suffix"],
)
def test_pictures_are_known_by_what_a_table_calls_them(tmp_path, lines):
    labels = find_labels(tmp_path, NAMES, written(tmp_path / "my.csv", "\n".join(lines)))
    assert by_picture(labels) == ANSWER


def test_names_without_suffix_and_pictures_without_one_go_together(tmp_path):
    names = ["a.jfif", "b", "c.jpg", "d.JPG"]
    text = "file,label\na,cat\nb,dog\nc,cat\nd,dog"
    assert by_picture(find_labels(tmp_path, names, written(tmp_path / "my.csv", text))) == ANSWER


def test_a_longer_end_of_a_path_counts_where_names_are_shared(tmp_path):
    names = ["x/1.png", "y/1.png", "x/2.png", "y/2.png"]
    text = "path,label\ndata/x/1.png,cat\ndata/y/1.png,dog\ndata/x/2.png,cat\ndata/y/2.png,dog"
    assert by_picture(find_labels(tmp_path, names, written(tmp_path / "my.csv", text))) == ANSWER


def test_one_column_a_class_gives_their_names(tmp_path):
    text = "image,cat,dog\na.png,1,0\nb.png,0,1\nc.png,1.0,0.0\nd.png,0,1"
    labels = find_labels(tmp_path, NAMES, written(tmp_path / "my.csv", text))
    assert by_picture(labels) == ANSWER
    assert labels.source.endswith("one column a class")


CELEBA = "4\n5_o_Clock_Shadow Male Smiling\na.png -1  1  1\nb.png  1 -1 -1\nc.png -1  1  1\nd.png  1  1 -1\n"


def test_a_column_can_be_asked_for_by_name(tmp_path):
    labels = find_labels(tmp_path, NAMES, written(tmp_path / "celeba.txt", CELEBA), "smiling")
    assert by_picture(labels) == ["1", "-1", "1", "-1"]
    assert labels.source.endswith("celeba.txt, column Smiling")
    with pytest.raises(ValueError, match="no column 'tall'; it has 5_o_Clock_Shadow, Male, Smiling"):
        find_labels(tmp_path, NAMES, tmp_path / "celeba.txt", "tall")
    with pytest.raises(ValueError, match="no table with the column 'tall': give one with --labels"):
        find_labels(tmp_path / "elsewhere", NAMES, None, "tall")


def test_one_and_one_point_zero_are_one_class(tmp_path):
    labels = find_labels(tmp_path, NAMES, written(tmp_path / "my.csv", "a.png,1\nb.png,1.0\nc.png,0\nd.png,1"))
    assert labels.classes == ("0", "1")


def test_a_table_about_nothing_here_shows_a_name_of_both_sides(tmp_path):
    path = written(tmp_path / "my.csv", "file,label\nIMG_1.cr2,cat\nIMG_2.cr2,dog")
    with pytest.raises(ValueError, match=r"names none of the 4 pictures: it has 'IMG_1.cr2' where .* called 'a.png'"):
        find_labels(tmp_path, NAMES, path)


@pytest.mark.parametrize("header", [",id,label", "index,id,label", "Unnamed: 0,id,label"])
def test_numbers_of_rows_are_no_names_of_pictures(tmp_path, header):
    names = [f"{i}.png" for i in range(1, 51)]
    text = "\n".join([header, *(f"{i},{i + 1},{'ab'[i % 2]}" for i in range(100))])
    labels = find_labels(tmp_path, names, written(tmp_path / "my.csv", text))
    assert by_picture(labels) == ["ab"[(i - 1) % 2] for i in range(1, 51)]


def test_labels_that_are_numbers_are_no_names_of_pictures(tmp_path):
    names = [f"{i}.png" for i in range(1, 101)]
    text = "\n".join(["id,label", *(f"{i},{i % 10 + 1}" for i in range(1, 101))])
    assert by_picture(find_labels(tmp_path, names, written(tmp_path / "my.csv", text)))[:3] == ["2", "3", "4"]


@pytest.mark.parametrize(
    "text",
    [
        "file,label,caption\na.png,cat,a cat, asleep\nb.png,dog,a dog\nc.png,cat,a cat\nd.png,dog,a dog",
        "file,label\na.png,cat,\nb.png,dog,\nc.png,cat,\nd.png,dog,",
        "file,label,box\na.png,cat,1\na.png,cat,5\nb.png,dog,1\nc.png,cat,1\nd.png,dog,1",
    ],
    ids=["commas that are not quoted", "a comma at the end", "several rows of a picture"],
)
def test_what_is_beside_the_labels_does_not_move_them(tmp_path, text):
    assert by_picture(find_labels(tmp_path, NAMES, written(tmp_path / "my.csv", text))) == ANSWER


@pytest.mark.parametrize("column", ["image", "image_name"])
def test_a_part_of_a_long_table_is_found_wherever_it_is(tmp_path, column):
    names = [f"ISIC_{i:04d}.jpg" for i in range(500, 560)]
    text = "\n".join([f"nr,{column},target", *(f"x,ISIC_{i:04d},{'ab'[i % 2]}" for i in range(1000))])
    labels = find_labels(tmp_path, names, written(tmp_path / "my.csv", text))
    assert by_picture(labels) == ["ab"[i % 2] for i in range(500, 560)]


def test_class_folders_called_by_numbers_stay_apart():
    assert Labels.of(["1_11", "11_1", "2_1"]).classes == ("11_1", "1_11", "2_1")
    assert Labels.of(["1.0", "1", "0"]).classes in (("0", "1.0", "1"), ("0", "1", "1.0"))


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
    folder = source_of("elpv").folder
    labels = find_labels(folder, [path.name for path in find_pictures(folder).pictures])
    assert list(labels.counts.values()) == [1508, 295, 106, 715]
    assert labels.decided().counts == {"below 0.5": 1803, "0.5 or more": 821}
