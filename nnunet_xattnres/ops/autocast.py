"""Computation in full precision inside autocast."""

import contextlib

import torch


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """A context in which autocast does not compute matrix products in half precision, where logits can overflow.

    Args:
        device: the type of the device, such as "cuda"; one that autocast does not know has none to switch off.
    """
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
