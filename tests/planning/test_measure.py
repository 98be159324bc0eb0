"""The measured memory is that of training steps of the given network, and failures are told apart."""

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.plans_file import plans_dict

from nnunet_xattnres.cost.measure import MeasureOptions
from nnunet_xattnres.planning import measure
from nnunet_xattnres.utils.errors import StepFailedError


@pytest.fixture
def planned():
    return PlansManager(plans_dict()).get_configuration("2d")


def test_what_is_measured(planned, monkeypatch):
    """A CPU has no peak of memory, so its place is taken by a number; everything else runs."""
    cases = []

    def measured(case, networks, options, original=measure.measure):
        cases.append((case, networks, options))
        (result,) = original(case, networks, options)
        assert result.failure is None
        result.peak_reserved = 7
        return [result]

    monkeypatch.setattr(measure, "measure", measured)
    uncompiled = lambda device, **options: MeasureOptions(device, **options | {"compile": False})  # noqa: E731
    monkeypatch.setattr(measure, "MeasureOptions", uncompiled)
    peak = measure.measure_on(torch.device("cpu"), 2, 3)(planned, "nnUNetTrainerXAttnResGated", [32, 16], 3)
    assert peak == 7
    ((case, (network,), options),) = cases
    assert (case.patch_size, case.batch_size, case.input_channels, case.num_classes) == ((32, 16), 3, 2, 3)
    assert network.trainer == "nnUNetTrainerXAttnResGated" and options.amp and options.repeats == 0


@pytest.mark.parametrize("failure", ["out of memory", "no such network"])
def test_failures(planned, monkeypatch, failure):
    monkeypatch.setattr(measure, "measure", lambda *_: [SimpleNamespace(failure=failure, peak_reserved=None)])
    peak_memory = measure.measure_on(torch.device("cpu"), 2, 3)
    if failure == "out of memory":
        assert peak_memory(planned, "nnUNetTrainer", [16, 16], 2) is None
    else:
        with pytest.raises(StepFailedError, match=failure):
            peak_memory(planned, "nnUNetTrainer", [16, 16], 2)
