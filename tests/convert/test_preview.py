"""The preview shows every case that it gets, with outlines of the labels."""

import numpy as np
import pytest
from skimage import io

from nnunet_xattnres.convert.preview import save_preview


def test_outlines(tmp_path):
    image, labels = np.full((40, 50), 100.0), np.zeros((40, 50), int)
    image[0, 0] = 0
    labels[10:30, 10:30] = 1
    for name, label_map in (("with", labels), ("without", labels * 0)):
        save_preview([("case", image, label_map)], {"background": 0, "organ": 1}, "A title", tmp_path / f"{name}.png")
    blue = np.array([0x56, 0xB4, 0xE9])
    painted = {
        name: (np.abs(io.imread(tmp_path / f"{name}.png")[..., :3].astype(int) - blue).max(-1) < 8).sum()
        for name in ("with", "without")
    }
    assert painted["with"] > painted["without"] + 200  # both have a legend


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_number_of_cases(tmp_path, count):
    case = ("case", np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=int))
    save_preview([case] * count, {"background": 0} | {f"organ {n}": n for n in range(1, 14)}, "t", tmp_path / "p.png")
    assert io.imread(tmp_path / "p.png").shape[0] > 200
