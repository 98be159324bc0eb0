"""ImageNet weights for the PVTv2-B2 encoder of EMCAD."""

from pathlib import Path

import timm
import timm.models
from timm.models.pvt_v2 import checkpoint_filter_fn
from torch import Tensor, nn

TIMM_NAME = "pvt_v2_b2.in1k"
"""Name of the weights in timm."""


class NotAvailableError(Exception):
    """timm could not download the weights; the message has the reason."""


def load_imagenet(encoder: nn.Module, file: str | Path | None = None) -> str:
    """Load ImageNet weights into EMCAD's encoder, timm's pvt_v2_b2. If this fails, the encoder is unchanged.

    Args:
        encoder: `EMCAD(...).encoder`.
        file: weights as timm or the authors of PVTv2 publish them (.pth, .safetensors); None to have timm download
            them.

    Returns:
        The source of the weights, for the log.

    Raises:
        NotAvailableError: if `file` is None and timm cannot download the weights.
        ValueError: if `file` does not exist, cannot be read or does not fit the encoder.
    """
    if file is not None:
        encoder.load_state_dict(_read(Path(file), encoder))
        return str(file)
    try:
        source = timm.create_model(TIMM_NAME, pretrained=True, num_classes=0)
    except Exception as error:  # the download may raise an error of any type
        raise NotAvailableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    encoder.load_state_dict(source.state_dict())
    return f"timm's {TIMM_NAME}"


def _read(file: Path, encoder: nn.Module) -> dict[str, Tensor]:
    """The weights in `file`, by the names of the encoder's parameters."""
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    hint = "expected the ImageNet weights of pvt_v2_b2, as timm or the authors of PVTv2 publish them"
    if not file.is_file():
        raise ValueError(f"encoder weights {file}: the file does not exist; {hint}")
    try:
        weights = checkpoint_filter_fn(timm.models.load_state_dict(str(file), weights_only=True), encoder)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        actual = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    except Exception as error:  # the file may hold anything
        raise ValueError(f"encoder weights {file} cannot be read ({type(error).__name__}); {hint}") from error
    if actual != expected:
        wrong = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
        raise ValueError(
            f"encoder weights {file} do not fit: {len(wrong)} of {len(expected)} tensors are missing, unknown or of "
            f"another shape, the first is '{wrong[0]}'; {hint}"
        )
    return weights
