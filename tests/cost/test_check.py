"""The check lets exact networks through and catches a wrong term in any stage."""

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.check import TOLERANCE, largest_error
from nnunet_xattnres.ops import torch_backend

CPU = torch.device("cpu")


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_exact(tmp_path, configuration):
    assert largest_error(from_plans(write_plans(tmp_path), configuration), "torch", CPU) < TOLERANCE / 100


def test_a_wrong_logit_is_caught(tmp_path, monkeypatch):
    """Without what the squared length of an interpolated vector lacks."""
    exact = torch_backend.squared_norm_matrix

    def wrong(length, *args):
        matrix = exact(length, *args).clone()
        matrix[:, length:] = 0
        return matrix

    monkeypatch.setattr(torch_backend, "squared_norm_matrix", wrong)
    assert largest_error(from_plans(write_plans(tmp_path), "2d"), "torch", CPU) > 100 * TOLERANCE


def test_a_wrong_gradient_is_caught(tmp_path, monkeypatch):
    exact = torch_backend._scores_backward

    def wrong(d_logits, *args):
        exact(d_logits * (1 + 1e-4), *args)

    monkeypatch.setattr(torch_backend, "_scores_backward", wrong)
    assert largest_error(from_plans(write_plans(tmp_path), "2d"), "torch", CPU) > TOLERANCE


def test_nothing_that_is_not_a_number_passes(tmp_path, monkeypatch):
    exact = torch_backend.forward

    def wrong(*args):
        out, alpha = exact(*args)
        return out * torch.nan, alpha

    monkeypatch.setattr(torch_backend, "forward", wrong)
    assert not largest_error(from_plans(write_plans(tmp_path), "2d"), "torch", CPU) <= TOLERANCE
