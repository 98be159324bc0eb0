"""The choice of examples for figures, and figures with names that users give."""

import os

import numpy as np
import pytest
from skimage.io import imread

from nnunet_xattnres.utils.plotting import choose_evenly, new_figure, save_figure


def test_choose_evenly():
    assert choose_evenly(list("abc"), 8) == list("abc")
    chosen = choose_evenly(list(range(100)), 8)
    assert len(chosen) == 8 and np.ptp(np.diff(chosen)) <= 1 and chosen[0] < 10 and chosen[-1] > 90


@pytest.mark.parametrize("name", ["$x", "$x_1$", r"$\frac$", "\N{CJK UNIFIED IDEOGRAPH-809D}", os.fsdecode(b"caf\xe9")])
def test_names_in_figures(tmp_path, name, capfd):
    """Dollar signs are no formulas, and characters without a glyph cause no warning (an error in tests)."""
    figure = new_figure(2, 2)
    axes = figure.subplots()
    axes.set_title(name)
    axes.set_yscale("log")  # its ticks are formulas
    axes.plot([1, 2], [1, 1000], label=name)
    axes.set_xticks([1, 2], ["a", "$y"])
    figure.legend()
    save_figure(figure, tmp_path / "figure.png")
    assert imread(tmp_path / "figure.png").shape[:2] == (220, 220)
    assert axes.get_title() == name or not name.isascii()
    assert capfd.readouterr() == ("", "")
