"""The comparison with the reference equations accepts a correct network and detects a wrong logit or gradient."""

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.check import TOLERANCE_FLOAT64, largest_error
from nnunet_xattnres.ops import torch_backend

CPU = torch.device("cpu")


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_correct_network(tmp_path, configuration):
    assert largest_error(from_plans(write_plans(tmp_path), configuration), "torch", CPU) < TOLERANCE_FLOAT64 / 100


def test_a_wrong_logit_is_detected(tmp_path, monkeypatch):
    """The squared norms of interpolated vectors lack their correction terms."""
    exact = torch_backend.squared_norm_matrix

    def wrong(length, *args):
        matrix = exact(length, *args).clone()
        matrix[:, length:] = 0
        return matrix

    monkeypatch.setattr(torch_backend, "squared_norm_matrix", wrong)
    assert largest_error(from_plans(write_plans(tmp_path), "2d"), "torch", CPU) > 100 * TOLERANCE_FLOAT64


def test_a_wrong_gradient_is_detected(tmp_path, monkeypatch):
    exact = torch_backend._scores_backward

    def wrong(d_logits, *args):
        exact(d_logits * (1 + 1e-4), *args)

    monkeypatch.setattr(torch_backend, "_scores_backward", wrong)
    assert largest_error(from_plans(write_plans(tmp_path), "2d"), "torch", CPU) > TOLERANCE_FLOAT64


def test_nan_is_not_accepted(tmp_path, monkeypatch):
    forward = torch_backend.forward

    def wrong(*args):
        out, alpha = forward(*args)
        return out * torch.nan, alpha

    monkeypatch.setattr(torch_backend, "forward", wrong)
    assert not largest_error(from_plans(write_plans(tmp_path), "2d"), "torch", CPU) <= TOLERANCE_FLOAT64
