"""The largest difference between an exported graph and the network, on patches of real images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graphs import Graph


@dataclass(frozen=True)
class Parity:
    """How far a graph is from its network.

    Attributes:
        batches: the sizes of the batches that were compared, (B, C, *spatial).
        largest_logit: the largest absolute logit of the network.
        largest_difference: the largest absolute difference of logits.
        other_labels: the share of pixels with another label, or with another region that is or is not there.
    """

    batches: list[list[int]]
    largest_logit: float
    largest_difference: float
    other_labels: float

    @property
    def relative_difference(self) -> float:
        """The largest difference relative to the largest logit; not finite if a logit is not."""
        return self.largest_difference / max(self.largest_logit, torch.finfo(torch.float32).tiny)


def cut_patches(data: Tensor, patch_size: Sequence[int], count: int) -> Tensor:
    """Cut patches at regular distances along the diagonal of a preprocessed case, padded with zeros where it ends.

    Args:
        data: (C, *spatial), for patches of two axes (C, Z, Y, X).
        patch_size: the size of a patch.
        count: the number of patches.

    Returns:
        (count, C, *patch_size).
    """
    patches = []
    for n in range(count):
        position, patch = (n + 1) / (count + 1), data
        if len(patch_size) < data.ndim - 1:
            patch = patch[:, int(position * patch.shape[1])]
        for axis, side in enumerate(patch_size, start=1):
            start = round(position * max(patch.shape[axis] - side, 0))
            patch = patch.narrow(axis, start, min(side, patch.shape[axis]))
        missing = [side - length for side, length in zip(patch_size, patch.shape[1:], strict=True)]
        patches.append(F.pad(patch, [n for end in reversed(missing) for n in (0, end)]))
    return torch.stack(patches)


@torch.inference_mode()
def compare(network: nn.Module, graph: Graph, batches: Sequence[Tensor], regions: bool = False) -> Parity:
    """Compute batches with a network and with its graph.

    Args:
        network: in evaluation mode.
        graph: the exported graph.
        batches: images (B, C, *spatial), of one or several sizes.
        regions: whether the logits are those of regions, which overlap, and not of labels.
    """
    largest = difference = torch.zeros(())
    other = pixels = 0
    for batch in batches:
        expected, actual = network(batch), graph(batch)
        largest = torch.maximum(largest, expected.abs().max())
        difference = torch.maximum(difference, (actual - expected).abs().max())  # NaN stays NaN
        changed = ((actual > 0) != (expected > 0)).any(1) if regions else actual.argmax(1) != expected.argmax(1)
        other += int(changed.sum())
        pixels += expected[:, 0].numel()
    return Parity([list(batch.shape) for batch in batches], float(largest), float(difference), other / pixels)
