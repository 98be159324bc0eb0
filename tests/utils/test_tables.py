"""Tables line up."""

from nnunet_xattnres.utils.tables import format_table


def test_first_column_to_the_left_and_the_others_to_the_right():
    assert format_table([["", "a", "bcd"], ["name", "12345", "6"]]) == "          a  bcd\nname  12345    6"


def test_a_short_row_ends_early():
    assert format_table([["x", "one", "two"], ["long", "1"]]) == "x     one  two\nlong    1"


def test_several_columns_to_the_left():
    assert format_table([["a", "bb", "c"], ["aaa", "b", "33"]], left=2) == "a    bb   c\naaa  b   33"
