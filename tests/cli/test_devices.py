"""The option --device."""

import pytest
import torch

from nnunet_xattnres.cli.devices import find_device
from nnunet_xattnres.utils.errors import UserError


def test_the_device_of_a_name():
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_no_such_device(name, monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *size, device: torch.zeros(*size, device="cuda:9999"))
    with pytest.raises(UserError, match=f"--device {name}: .*: leave out --measure"):
        find_device(name, "leave out --measure")
