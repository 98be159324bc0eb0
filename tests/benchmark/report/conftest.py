"""Finished benchmarks that several files of tests share; tests that change files do so in a copy."""

import pytest
from support.finished import Finished, write_finished

from nnunet_xattnres.benchmark.report import statistics


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch, request):
    """Fewer bootstrap samples than the 10,000 of a report; the simulations of the `soak` tests take some more."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500 if request.node.get_closest_marker("soak") else 200)


@pytest.fixture(scope="session")
def finished_png(tmp_path_factory) -> Finished:
    return write_finished(tmp_path_factory.mktemp("png"))


@pytest.fixture(scope="session")
def finished_nifti(tmp_path_factory) -> Finished:
    return write_finished(tmp_path_factory.mktemp("nifti"), ending=".nii.gz")


@pytest.fixture(scope="session")
def scored(tmp_path_factory) -> Finished:
    """A benchmark with test cases and cached scores, so that copies need not compute them."""
    finished = write_finished(tmp_path_factory.mktemp("scored"), tested=True)
    finished.results()
    return finished


@pytest.fixture(scope="session")
def scored_nifti(finished_nifti, tmp_path_factory) -> Finished:
    finished = finished_nifti.copy(tmp_path_factory.mktemp("scored_nifti") / "copy")
    finished.results()
    return finished
