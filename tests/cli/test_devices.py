"""The option --device."""

import argparse

import pytest
import torch

from nnunet_xattnres.cli.devices import NNUNET_DEVICES, add_device_option, find_device
from nnunet_xattnres.utils.errors import UserError


def test_the_device_of_a_name():
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_no_such_device(name, monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *size, device: torch.zeros(*size, device="cuda:9999"))
    with pytest.raises(UserError, match=f"--device {name}: .*: leave out --measure"):
        find_device(name, "leave out --measure")


FULL = [
    # PyTorch's allocator
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79.18 GiB"),
    # the driver, where not even the context of the process fits; RuntimeError until PyTorch 2.7
    getattr(torch, "AcceleratorError", RuntimeError)(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.\n"
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
    ),
]


@pytest.mark.parametrize("error", FULL, ids=["allocator", "driver"])
def test_a_device_whose_memory_is_full(error, monkeypatch):
    def raise_error(*size, device):
        raise error

    monkeypatch.setattr(torch, "empty", raise_error)
    with pytest.raises(
        UserError, match=r"^--device cuda:1: the memory .* full .*out of memory.*: end .*or use"
    ) as raised:
        find_device("cuda:1")
    assert "no such device" not in str(raised.value) and len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("numbered", [False, True])
def test_the_option_takes_numbered_devices_where_nnunet_is_not_called(numbered, capsys):
    parser = argparse.ArgumentParser()
    add_device_option(parser, "cpu", "the device", numbered)
    assert parser.parse_args([]).device == "cpu"
    assert [parser.parse_args(["--device", name]).device for name in NNUNET_DEVICES] == list(NNUNET_DEVICES)
    if numbered:
        assert parser.parse_args(["--device", "cuda:1"]).device == "cuda:1"
    else:
        with pytest.raises(SystemExit):
            parser.parse_args(["--device", "cuda:1"])
        assert "cuda:1" in capsys.readouterr().err
