"""Everything is compared once, the verdicts apart from what is for looking at, and costs are of what was recorded."""

from pathlib import Path

import numpy as np
import pytest
from support.finished import BASELINE, OTHER, in_memory, row

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import report_data
from nnunet_xattnres.benchmark.report.report_data import analyse, epoch_seconds, peak_memory
from nnunet_xattnres.benchmark.report.sizes import Size
from nnunet_xattnres.utils.errors import UserError

THIRD = "nnUNetTrainerThird"
LABELS = ("organ", "tumour")


def test_what_is_compared(monkeypatch):
    """Of three trainers, one not trained: the other with the baseline, and all that were trained are counted."""

    def measure(experiment, trainer, folders):
        if trainer == OTHER:
            raise UserError("no network")
        return Size(3, 4)

    monkeypatch.setattr(report_data, "measure", measure)
    cases = {
        (t, f): {f"{f}{c}": {n: row(0.5, 1.0) for n in LABELS} for c in "ab"} for t in (BASELINE, OTHER) for f in (0, 1)
    }
    results = in_memory(cases, trainers=(BASELINE, OTHER, THIRD))
    found = analyse(Grid([results.experiment.dataset], results.trainers), NnUNetFolders(*map(Path, "abc")), [results])
    assert [(p.trainer, p.metric, p.region) for p in found.primary] == [(OTHER, "dice", None)]
    assert [(p.metric, p.region) for p in found.secondary] == [(m, n) for m in ("dice", "hd95") for n in LABELS]
    assert found.sizes == {(results.experiment, BASELINE): Size(3, 4), (results.experiment, OTHER): "no network"}


class TestCosts:
    @pytest.mark.parametrize("seconds", [[3.0], [1.0, 2.0], [5.0, 1.0, 9.0], [4.0, 1.0, 2.0, 30.0]])
    def test_seconds_are_a_median(self, seconds):
        results = in_memory({(OTHER, 0): {}}, log=Log({n: {"seconds": s} for n, s in enumerate(seconds)}))
        assert epoch_seconds(results, OTHER) == np.median(seconds)

    def test_nothing_is_known(self):
        results = in_memory({(OTHER, 0): {}})
        assert epoch_seconds(results, OTHER) is None
        assert peak_memory(results, OTHER) is None

    def test_the_most_of_all_attempts(self):
        """Of GPUs where any was seen."""
        results = in_memory({(OTHER, fold): {} for fold in range(3)})
        one, two, _ = results.of(OTHER)
        one.attempts.extend([{"peak_memory_bytes": 5}, {"peak_memory_bytes": 9, "peak_gpu_memory_bytes": None}])
        assert peak_memory(results, OTHER) == 9
        two.attempts.extend([{"peak_memory_bytes": 50, "peak_gpu_memory_bytes": 7}, {"peak_gpu_memory_bytes": 8}, {}])
        assert peak_memory(results, OTHER) == 8
