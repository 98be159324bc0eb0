"""The page of a case holds its maps and figures, whatever the case is called."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from nnunet_xattnres.maps.page import MAX_SIDE, MAX_SLICES, MapsPage, choose_slices
from nnunet_xattnres.maps.summary import MeanWeight


def data_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


@pytest.mark.parametrize("side", [12, 2 * MAX_SIDE])
def test_maps_and_means(side):
    rng = np.random.default_rng(0)
    weights = rng.random((2, 3, side, side), np.float32)
    label_map = np.zeros((3, side, side), int)
    label_map[1:] = 1
    page = MapsPage("case", rng.random((3, side, side)), label_map, {0: "background", 1: "</script>"})
    means = [MeanWeight("d1", s, label, 5, w) for s, label, w in [("e1", 0, 0.25), ("x", 0, 0.75), ("e1", 1, 1.0)]]
    means.append(MeanWeight("d1", "x", 1, 5, 0.0))
    page.add_layer("d1", ["e1", "x"], weights, 1 - weights[0], means)
    data = data_of(page.html())
    assert data["slices"] == [1, 2]
    step = max(side // MAX_SIDE, 1)
    assert data["width"] == data["height"] == side // step
    (layer,) = data["layers"]
    assert layer["means"] == {"background": {"e1": 0.25, "x": 0.75}, "</script>": {"e1": 1.0, "x": 0.0}}
    for z, png in zip(data["slices"], layer["maps"], strict=True):
        maps = np.split(pixels(png) / 255, 3)
        for actual, expected in zip(maps, [*weights[:, z], 1 - weights[0, z]], strict=True):
            np.testing.assert_allclose(actual, expected[::step, ::step], atol=0.5 / 255 + 1e-6)


def test_a_case_is_no_markup():
    page = MapsPage("<b>&case", np.zeros((1, 4, 4)), np.zeros((1, 4, 4), int), {}).html()
    assert "<b>" not in page and "&lt;b&gt;&amp;case" in page


def test_slices_with_labels_are_chosen():
    label_map = np.zeros((40, 2, 2), int)
    assert len(choose_slices(label_map)) == MAX_SLICES
    label_map[7] = label_map[9] = 3
    assert choose_slices(label_map) == [7, 9]
