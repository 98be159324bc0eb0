"""What the maps of a layer say in numbers: the strongest source, the entropy, and the mean weights by label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MeanWeight:
    """The mean weight of a source over the pixels with a label.

    Attributes:
        layer: the layer that reads.
        source: the stage that is read, or x.
        label: the value in the label map.
        pixels: the number of pixels with the label.
        weight: the mean weight.
    """

    layer: str
    source: str
    label: int
    pixels: int
    weight: float


def strongest_source(weights: np.ndarray) -> np.ndarray:
    """The number of the source with the largest weight, from 0: (K+1, *spatial) -> (*spatial), uint8."""
    return weights.argmax(0).astype(np.uint8)


def entropy(weights: np.ndarray) -> np.ndarray:
    """The entropy of the weights relative to its maximum, 0 where one source is read, 1 where all are read equally.

    Args:
        weights: (K+1, *spatial). Weights below 0, which a gate can give, count as 0.

    Returns:
        (*spatial), float32.
    """
    total = np.zeros(weights.shape[1:], np.float32)
    for weight in weights:  # one source at a time, to keep memory low
        positive = weight.clip(1e-12, None)
        total -= positive * np.log(positive)
    return total / np.float32(np.log(len(weights)))


def mean_weights(
    weights: np.ndarray, label_map: np.ndarray, layer: str, sources: Sequence[str]
) -> Iterator[MeanWeight]:
    """The mean weight of every source over the pixels of every label that occurs.

    Pixels outside the box to which nnU-Net has cropped the image have no weights, and are not counted.

    Args:
        weights: (K+1, *spatial).
        label_map: (*spatial), integers.
        layer: the name of the layer.
        sources: the names of the K+1 sources.
    """
    inside = weights.sum(0) > 0.5  # the weights sum to one, outside the box to zero
    labels, indices = np.unique(label_map[inside], return_inverse=True)
    counts = np.bincount(indices.ravel(), minlength=len(labels))
    for source, weight in zip(sources, weights, strict=True):
        sums = np.bincount(indices.ravel(), weight[inside], len(labels))
        for label, count, total in zip(labels, counts, sums, strict=True):
            yield MeanWeight(layer, source, int(label), int(count), float(total / count))
