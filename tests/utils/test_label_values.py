"""Values beside an integer become it, others stay; numbers in messages show their difference."""

import numpy as np
import pytest

from nnunet_xattnres.utils.label_values import format_value, format_values, snap_to_integers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_step_beside_an_integer(dtype):
    integers = np.arange(6, dtype=dtype).reshape(2, 3)
    for direction in (-np.inf, np.inf):
        values = np.nextafter(integers, dtype(direction))
        snapped, changes = snap_to_integers(values)
        assert (snapped == integers).all() and snapped.dtype == dtype
        assert not np.signbit(snapped).any()  # -0 would be printed as such
        assert len(changes) == 1
        before, after = changes[0].rpartition("such as ")[2].split(" to ")
        assert dtype(before) in values and np.rint(dtype(before)) == int(after)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.9991, 1), (0.9989, None), (-0.0009, 0), (-1.0009, -1), (2.5, None), (1e12, 1e12), (np.inf, None)],
)
def test_the_tolerance(value, expected):
    snapped, changes = snap_to_integers(np.array([value]))
    assert snapped[0] == (value if expected is None else expected)
    assert bool(changes) == (expected is not None and expected != value)


def test_values_that_are_no_integers_stay():
    values = np.array([0.25, np.nan, 0.9999, 7])
    snapped, changes = snap_to_integers(values)
    np.testing.assert_array_equal(snapped, [0.25, np.nan, 1, 7])
    assert "0.9999 to 1" in changes[0]
    np.testing.assert_array_equal(values, [0.25, np.nan, 0.9999, 7])


@pytest.mark.parametrize("values", [np.array([0, 3], np.uint8), np.array([True, False]), np.zeros((0, 2))])
def test_nothing_to_round(values):
    snapped, changes = snap_to_integers(values)
    assert snapped is values and changes == []


def test_numbers_in_messages_differ_where_their_values_do():
    for dtype in (np.float32, np.float64):
        value = np.nextafter(dtype(1), dtype(0))
        assert dtype(format_value(value)) == value
    assert [format_value(v) for v in (1e12, -1.0, float("nan"), np.float32(0.3))] == ["1e+12", "-1", "nan", "0.3"]
    assert format_values(np.array([1.0, 2.5]), limit=2) == "1, 2.5"
