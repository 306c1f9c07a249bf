"""Tables with a column for each attribute, against values written by hand."""

import numpy as np
import pytest

from vaekit.data.attributes import find_attributes

NAMES = ("a.png", "b.png", "c.png")
VALUES = [[1, 0], [0, 0], [1, 1]]


def found(folder, text, names=NAMES):
    (folder / "labels.csv").write_text(text)
    return find_attributes(folder, names)


@pytest.mark.parametrize(
    "text",
    [
        "file,smiling,glasses\na.png,1,0\nb.png,0,0\nc.png,1,1\n",
        "image_id,smiling,glasses\na.png,1,-1\nb.png,-1,-1\nc.png,1,1\n",
        "smiling;filename;glasses\n1;a.png;0\n0;b.png;0\n1;c.png;1\n",
        "3\nsmiling glasses\na.png  1 -1\nb.png -1 -1\nc.png  1  1\n",
        "file,split,smiling,age,glasses\nb.png,train,0,31,0\na.png,test,1,2,0\nc.png,train,1,9,1\nz.png,test,0,0,0",
    ],
    ids=[
        "zeros and ones",
        "one and minus one",
        "another order of columns",
        "CelebA's own",
        "other columns and pictures",
    ],
)
def test_columns_of_zeros_and_ones_are_attributes(tmp_path, text):
    attributes = found(tmp_path, text)
    assert attributes.names == ("smiling", "glasses")
    assert attributes.values.tolist() == VALUES
    assert attributes.source == "labels.csv"
    assert attributes.values.dtype == np.int64


@pytest.mark.parametrize(
    "text",
    [
        "file,label,smiling,glasses\na.png,x,1,0\nb.png,y,0,0\nc.png,x,1,1\n",
        "file,smiling\na.png,1\nb.png,0\nc.png,1\n",
        "a.png,1,0\nb.png,0,0\nc.png,1,1\n",
        "file,width,height\na.png,10,20\nb.png,30,40\nc.png,1,2\n",
        "file,cat,dog\na.png,1,0\nb.png,0,1\nc.png,0,1\n",
    ],
    ids=["a column for the label", "one column", "no names of columns", "measurements", "a column a class"],
)
def test_other_tables_are_none(tmp_path, text):
    assert found(tmp_path, text) is None


def test_a_split_is_no_attribute_and_names_are_told_apart(tmp_path):
    assert found(tmp_path, "file,split,p,q\na.png,0,1,0\nb.png,1,0,0\nc.png,0,1,1\n").names == ("p", "q")
    with pytest.raises(ValueError, match="has two columns 'p'; give each attribute a name"):
        found(tmp_path, "file,p,p\na.png,1,0\nb.png,0,0\nc.png,1,1\n")


def test_class_folders_come_first_and_no_table_is_none(tmp_path):
    table = "file,smiling,glasses\nx/a.png,1,0\nx/b.png,0,0\ny/c.png,1,1\ny/d.png,0,1\n"
    assert found(tmp_path, table, ("x/a.png", "x/b.png", "y/c.png", "y/d.png")) is None
    assert find_attributes(tmp_path / "elsewhere", NAMES) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,smiling,glasses\na.png,1,0\nc.png,1,1\n", "has no label for 1 of 3 pictures, for instance b.png"),
        ("file,p,q\na.png,1,0\na.png,0,0\nb.png,0,0\nc.png,1,1\n", "gives a.png two labels, '1' and '0'; keep one"),
    ],
)
def test_tables_with_gaps_and_contradictions_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        found(tmp_path, text)
