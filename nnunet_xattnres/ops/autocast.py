"""Computation in full precision inside autocast."""

import contextlib

import torch

_DEVICES = ("cpu", "cuda", "hpu", "ipu", "mps", "mtia", "xla", "xpu")

# found once, because torch.compile of PyTorch 2.7 cannot trace the question
_WITH_AUTOCAST = [device for device in _DEVICES if torch.amp.is_autocast_available(device)]


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """A context in which autocast does not compute matrix products in half precision, where logits can overflow.

    Args:
        device: the type of the device, such as "cuda"; one that autocast does not know has none to switch off.
    """
    # nothing takes the CPU less time than a context that changes nothing
    if device in _WITH_AUTOCAST and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
