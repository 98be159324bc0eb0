"""The columns of tables are aligned."""

from nnunet_xattnres.utils.tables import format_table


def test_the_first_column_is_left_aligned_the_others_right_aligned():
    assert format_table([["", "a", "bcd"], ["name", "12345", "6"]]) == "          a  bcd\nname  12345    6"


def test_a_short_row_leaves_its_last_columns_empty():
    assert format_table([["x", "one", "two"], ["long", "1"]]) == "x     one  two\nlong    1"


def test_several_left_aligned_columns():
    assert format_table([["a", "bb", "c"], ["aaa", "b", "33"]], left_aligned=2) == "a    bb   c\naaa  b   33"
