"""Tables: the same numbers in three formats."""

import math

import pytest

from vaekit.reports.tables import Table, by_measure, number


def test_a_number_has_the_digits_of_its_measure_and_its_spread():
    assert number("psnr", 21.23456) == "21.23"
    assert number("l1", 0.123456, 0.00234) == "0.1235 ± 0.0023"


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_what_was_not_measured_is_a_dash(nothing):
    assert number("psnr", nothing) == "-"


def test_a_table_by_measure_has_only_rows_that_some_column_knows():
    table = by_measure("T", {"a": {"psnr": 20.0}, "b": {"l1": 0.5}})
    assert table.columns == ["", "a", "b"]
    assert [row[1:] for row in table.rows] == [["-", "0.5000"], ["20.00", "-"]]


def test_markdown_html_and_text_hold_every_cell():
    table = Table("Title <1>", ["", "x & y"], [["row", "1.5"]])
    assert table.markdown() == "**Title <1>**\n\n|  | x & y |\n| --- | ---: |\n| row | 1.5 |"
    assert "<caption>Title &lt;1&gt;</caption>" in table.html()
    assert "<td>row</td><td>1.5</td>" in table.html()
    assert table.text().splitlines() == ["Title <1>", "       x & y", "  row    1.5"]
