"""ImageNet weights for the PVTv2-B2 encoder of EMCAD."""

from pathlib import Path

import timm
import timm.models
from timm.models.pvt_v2 import checkpoint_filter_fn
from torch import Tensor, nn

NAME = "pvt_v2_b2.in1k"
"""The weights' name in timm."""


class NotAvailableError(Exception):
    """The weights could not be fetched; the message says why."""


def load_imagenet(encoder: nn.Module, file: str | Path | None = None) -> str:
    """Load ImageNet weights into timm's pvt_v2_b2, in place, and return where they came from.

    Args:
        encoder: the network's encoder, `EMCAD(...).encoder`.
        file: weights as timm or the authors of PVTv2 publish them (.pth, .safetensors); None to let timm fetch them.

    Raises:
        NotAvailableError: if `file` is None and timm cannot fetch them; the encoder is left as it was.
        ValueError: if `file` does not exist, cannot be read or does not fit; the encoder is left as it was.
    """
    if file is not None:
        encoder.load_state_dict(_read(Path(file), encoder))
        return str(file)
    try:
        source = timm.create_model(NAME, pretrained=True, num_classes=0)
    except Exception as error:  # whatever the hub's client raises
        raise NotAvailableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    encoder.load_state_dict(source.state_dict())
    return f"timm's {NAME}"


def _read(file: Path, encoder: nn.Module) -> dict[str, Tensor]:
    """The encoder's weights in `file`, or a ValueError of one line."""
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    cure = "expected the ImageNet weights of pvt_v2_b2, as timm or the authors of PVTv2 publish them"
    if not file.is_file():
        raise ValueError(f"encoder weights {file}: there is no such file; {cure}")
    try:
        weights = checkpoint_filter_fn(timm.models.load_state_dict(str(file), weights_only=True), encoder)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    except Exception as error:  # a file of any other kind
        raise ValueError(f"encoder weights {file} cannot be read ({type(error).__name__}); {cure}") from error
    if found != expected:
        odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(
            f"encoder weights {file} do not fit: {len(odd)} of {len(expected)} tensors are missing, unknown or of "
            f"another shape, the first '{odd[0]}'; {cure}"
        )
    return weights
