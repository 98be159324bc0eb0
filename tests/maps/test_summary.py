"""Strongest source, entropy and mean weights, against SciPy and loops."""

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from nnunet_xattnres.maps.summary import entropy, mean_weights, strongest_source


@pytest.fixture
def weights():
    values = np.random.default_rng(0).random((4, 2, 5, 6)).astype(np.float32)
    return values / values.sum(0)


def test_entropy_is_scipys_relative_to_its_maximum(weights):
    np.testing.assert_allclose(entropy(weights), scipy_entropy(weights, axis=0) / np.log(4), rtol=1e-5)
    one = np.zeros((3, 1, 1, 1), np.float32)
    one[1] = 1
    assert entropy(one).item() == pytest.approx(0, abs=1e-6)
    assert entropy(np.full((3, 1, 1, 1), 1 / 3, np.float32)).item() == pytest.approx(1)


def test_strongest_source(weights):
    strongest = strongest_source(weights)
    assert strongest.dtype == np.uint8
    assert (np.take_along_axis(weights, strongest[None].astype(int), 0)[0] == weights.max(0)).all()


def test_mean_weights_by_label(weights):
    labels = np.random.default_rng(1).integers(0, 3, weights.shape[1:]) * 5
    weights[:, 0, 0] = 0  # outside the box
    inside = np.ones(labels.shape, bool)
    inside[0, 0] = False
    rows = list(mean_weights(weights, labels, "d1", ["e1", "e2", "e3", "x"]))
    assert {(row.source, row.label) for row in rows} == {(s, v) for s in ("e1", "e2", "e3", "x") for v in (0, 5, 10)}
    for row in rows:
        where = inside & (labels == row.label)
        assert row.layer == "d1" and row.pixels == where.sum()
        assert row.weight == pytest.approx(weights[["e1", "e2", "e3", "x"].index(row.source)][where].mean(), rel=1e-5)
    for label in (0, 5, 10):
        assert sum(row.weight for row in rows if row.label == label) == pytest.approx(1, rel=1e-5)
