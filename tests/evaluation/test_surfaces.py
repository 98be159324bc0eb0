"""Surface distances agree with their definition, evaluated voxel by voxel."""

import numpy as np
import pytest
from support import masks

from nnunet_xattnres.evaluation import surface_distances


@pytest.mark.parametrize("spacing", masks.SPACINGS)
@pytest.mark.parametrize("pair", masks.PAIRS)
def test_distances_agree_with_the_definition(pair, spacing):
    a, b = masks.PAIRS[pair]
    exact, _ = masks.spacing_of(spacing, a)
    result = surface_distances(a, b, [float(s) for s in exact])
    for got, expected in ((result.a_to_b, masks.distances(a, b, exact)), (result.b_to_a, masks.distances(b, a, exact))):
        np.testing.assert_allclose(np.sort(got), np.sort(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("axis", "distance"), [(0, 15.0), (1, 6.0), (2, 1.5)])
def test_spacing_follows_the_axes(axis, distance):
    a, b = np.zeros((2, 5, 6, 7), bool)
    a[1, 1, 1] = True
    b[tuple(np.array([1, 1, 1]) + 3 * np.eye(3, dtype=int)[axis])] = True
    result = surface_distances(a, b, (5, 2, 0.5))
    assert (result.a_to_b.tolist(), result.b_to_a.tolist()) == ([distance], [distance])


def test_a_diagonal_neighbour_does_not_make_a_surface():
    """A square without a corner pixel: the centre touches that pixel only diagonally, so it is no surface pixel."""
    box = np.ones((3, 3), bool)
    box[0, 0] = False
    assert len(surface_distances(box, box, (1, 1)).a_to_b) == 7


@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)])
def test_an_empty_mask(empty):
    pair = np.ones((2, 3, 4), bool)
    pair[list(empty)] = False
    with pytest.raises(ValueError, match="empty"):
        surface_distances(*pair, (1, 1))


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(3, 4\)"):
        surface_distances(np.ones((1, 4), bool), np.ones((3, 4), bool), (1, 1))
