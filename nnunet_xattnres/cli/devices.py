"""The option --device of the commands."""

from typing import TYPE_CHECKING

from ..utils.errors import UserError

if TYPE_CHECKING:
    import torch


def find_device(name: str, hint: str = "use --device cpu") -> "torch.device":
    """The device of a name such as "cpu", "cuda" or "cuda:1".

    Args:
        name: the value of the option --device.
        hint: what to do if there is no such device, for the error message.

    Raises:
        UserError: if PyTorch cannot use it on this machine.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"--device {name}: PyTorch {torch.__version__} finds no such device on this machine: {hint}"
        ) from None
    return device
