"""The option --device of the commands."""

from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError, first_line, is_out_of_memory

if TYPE_CHECKING:
    import torch

NNUNET_DEVICES = ("cpu", "cuda", "mps")
"""What nnU-Net's own commands take for -device; CUDA_VISIBLE_DEVICES chooses the GPU."""


def add_device_option(parser: Any, default: str, purpose: str, numbered: bool = False) -> None:
    """Add --device to a parser or a group of options.

    Args:
        parser: the parser or the group.
        default: the device where the option is not given.
        purpose: what the device is for, the beginning of the help.
        numbered: also take the other devices of PyTorch, such as cuda:1, instead of those of nnU-Net's commands alone.
    """
    names = "such as cuda:1" if numbered else "cpu, cuda or mps"
    parser.add_argument(
        "--device", default=default, choices=None if numbered else NNUNET_DEVICES, metavar="DEVICE",
        help=f"{purpose}, {names} (default: %(default)s)",
    )  # fmt: skip


def find_device(name: str, hint: str = "use --device cpu") -> "torch.device":
    """The device of a name such as "cpu", "cuda" or "cuda:1".

    Args:
        name: the value of the option --device.
        hint: what to do if the device cannot be used, for the error message.

    Raises:
        UserError: if there is no such device on this machine, or its memory is full.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error).partition(". ")[0]
        if is_out_of_memory(error):
            message = f"the memory of this device is full ({reason}): end the other programs on it, or {hint}"
        else:
            message = f"PyTorch {torch.__version__} finds no such device on this machine ({reason}): {hint}"
        raise UserError(f"--device {name}: {message}") from None
    return device
