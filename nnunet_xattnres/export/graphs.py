"""The network of a trained model as a graph: ONNX, TorchScript, or a program of torch.export."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn
from torch.export import Dim

from ..attention.sema import SEMA
from ..training.lookup import look_up
from ..training.patches import planned_strides
from ..training.trainer import XAttnResTrainer
from ..utils.errors import UserError
from ..utils.quiet import silence_libraries
from ..utils.trained_models import uncompiled_network

ONNX_OPSET = 18
INPUT, OUTPUT = "image", "logits"

Graph = Callable[[Tensor], Tensor]
"""Computes logits (B, K, *spatial) from images (B, C, *spatial) in another runtime."""


class FoldEnsemble(nn.Module):
    """The mean of the logits of several networks, as nnU-Net averages the folds: (B, C, *S) -> (B, K, *S)."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.networks[0](image)
        for network in self.networks[1:]:
            logits = logits + network(image)
        return logits / len(self.networks)


@dataclass(frozen=True)
class ImageSizes:
    """The sizes of the images that a network takes.

    Attributes:
        multiples: what every side is a multiple of.
        minimum: the smallest sides.
    """

    multiples: list[int]
    minimum: list[int]


def ensemble_network(predictor: nnUNetPredictor) -> nn.Module:
    """The network of an initialised predictor for all its folds, in evaluation mode."""
    network = uncompiled_network(predictor).cpu()
    networks = []
    for parameters in predictor.list_of_parameters:
        networks.append(copy.deepcopy(network))
        networks[-1].load_state_dict(parameters, assign=True)  # the predictor holds them anyway
    ensemble = networks[0] if len(networks) == 1 else FoldEnsemble(networks)
    return ensemble.eval().requires_grad_(False)


def image_sizes(predictor: nnUNetPredictor) -> ImageSizes:
    """The sizes of the images that the network of an initialised predictor takes.

    Raises:
        UserError: if the network is no U-Net whose strides are known.
    """
    configuration = predictor.configuration_manager
    trainer: Any = look_up(predictor.trainer_name)
    try:
        if not issubclass(trainer, XAttnResTrainer):
            strides, any_size = planned_strides(configuration), False
        else:
            strides, any_size = trainer.total_strides(configuration), trainer.any_size
    except (KeyError, ValueError):
        name = configuration.network_arch_class_name.rpartition(".")[2]
        raise UserError(
            f"the network {name} cannot be exported: expected one of this package, or one that nnU-Net has planned"
        ) from None
    if any_size:  # it pads the image itself; a graph of torch.export keeps features of one pixel at one pixel
        return ImageSizes([1] * len(strides), [2 * stride + 1 for stride in strides])
    return ImageSizes(strides, [2 * stride for stride in strides])


def save_onnx(network: nn.Module, image: Tensor, sizes: ImageSizes | None, path: Path) -> None:
    """Write an ONNX file for batches of every size and images of every size that the network takes.

    Args:
        network: in evaluation mode.
        image: an example of zeros, (2, C, *spatial).
        sizes: the sizes that the network takes; not needed by a traced network.
        path: the file.
    """
    axes = {axis: name for axis, name in enumerate(axis_names(image.ndim - 2)) if name != "channel"}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, silence_libraries():
        # PyTorch's newer exporter fixes the number of windows of SEMA, and takes ten times as long
        torch.onnx.export(
            network, (image,), str(Path(folder, path.name)), dynamo=False, opset_version=ONNX_OPSET,
            input_names=[INPUT], output_names=[OUTPUT], dynamic_axes={INPUT: axes, OUTPUT: axes},
        )  # fmt: skip
        move_onnx(Path(folder, path.name), path)


def move_onnx(source: Path, path: Path) -> None:
    """Move an ONNX file; if it has weights in files of their own, because it exceeds 2 GB, to PATH.data as one file."""
    if len(list(source.parent.iterdir())) == 1:
        source.replace(path)
        return
    import onnx

    onnx.save_model(onnx.load(source), path, save_as_external_data=True, location=f"{path.name}.data")


def save_torchscript(network: nn.Module, image: Tensor, sizes: ImageSizes | None, path: Path) -> None:
    """Write a TorchScript file by tracing; the arguments are those of `save_onnx`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, image, check_trace=False), path)


def save_program(network: nn.Module, image: Tensor, sizes: ImageSizes | None, path: Path) -> None:
    """Write a program of torch.export.

    Args:
        network: in evaluation mode.
        image: an example, (B, C, *spatial), of a batch of two or more unless its size is the only one.
        sizes: the sizes that the program takes; None for that of the example alone.
        path: the file.
    """
    shapes: dict[int, Any] | None = None
    if sizes is not None:
        shapes = {0: Dim("batch", min=1, max=2**16)}  # PyTorch 2.7 needs a maximum
        for axis, (multiple, minimum) in enumerate(zip(sizes.multiples, sizes.minimum, strict=True), start=2):
            side = Dim(axis_names(image.ndim - 2)[axis], min=minimum // multiple)
            shapes[axis] = multiple * side if multiple > 1 else side
    with silence_libraries():
        # strict is the default until PyTorch 2.7, and does not take is_autocast_available
        program = torch.export.export(network, (image,), dynamic_shapes=shapes and (shapes,), strict=False)
        torch.export.save(program, path)


def has_fixed_size(network: nn.Module, format_name: str) -> bool:
    """Whether a graph takes the size of its example alone: torch.export fixes the number of SEMA's windows."""
    return format_name == "program" and any(isinstance(module, SEMA) for module in network.modules())


def axis_names(dim: int) -> list[str]:
    """The axes of images of `dim` spatial axes.

    >>> axis_names(2)
    ['batch', 'channel', 'y', 'x']
    """
    return ["batch", "channel", *"zyx"[-dim:]]


def load_onnx(path: Path) -> Graph:
    """The graph of an ONNX file in ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])


def load_torchscript(path: Path) -> Graph:
    """The graph of a TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path)


def load_program(path: Path) -> Graph:
    """The graph of a program of torch.export."""
    return torch.export.load(path).module()


@dataclass(frozen=True)
class Format:
    """A format of graphs: the name of its file, and how it is written and read."""

    file: str
    save: Callable[[nn.Module, Tensor, ImageSizes | None, Path], None]
    load: Callable[[Path], Graph]


FORMATS = {
    "onnx": Format("network.onnx", save_onnx, load_onnx),
    "torchscript": Format("network.torchscript.pt", save_torchscript, load_torchscript),
    "program": Format("network.pt2", save_program, load_program),
}
"""The formats of `xattnres export`."""
