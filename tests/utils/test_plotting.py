"""The choice of examples for figures."""

import numpy as np

from nnunet_xattnres.utils.plotting import choose_evenly


def test_choose_evenly():
    assert choose_evenly(list("abc"), 8) == list("abc")
    chosen = choose_evenly(list(range(100)), 8)
    assert len(chosen) == 8 and np.ptp(np.diff(chosen)) <= 1 and chosen[0] < 10 and chosen[-1] > 90
