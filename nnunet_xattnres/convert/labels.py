"""Map the values of a mask to nnU-Net's labels 0, 1, ..., N."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..utils.label_values import format_value, format_values, snap_to_integers
from .problems import ProblemCode, UnusableError, shorten

_SMEARED_RANGE = (64, 191)  # JPEG compression of an edge creates values in this range
_MAX_SMEARED_FRACTION = 0.05  # of the pixels; the edges of real masks stay far below
_SIXTEEN_BITS = 65535  # foreground of some masks with 16 bits
_MIN_SMEARED_VALUES = 9  # fewer distinct values, in a file without lossy compression, are classes


@dataclass(frozen=True)
class BinaryMask:
    """One foreground class, from masks with the values 0/1, 0/255, or 0/255 after JPEG compression.

    Attributes:
        name: name of the class.
        threshold: values of at least this are foreground; None takes 1 for 0/1 masks, 128 for 0/255 masks.

    >>> labels, changes = BinaryMask("polyp").apply(np.array([[0, 255]], np.uint8), "mask.png")
    >>> labels.tolist(), changes
    ([[0, 1]], ['mask values 0 and 255 mapped to 0 and 1'])
    """

    name: str
    threshold: float | None = None

    @property
    def labels(self) -> dict[str, int]:
        """Label by name, as in nnU-Net's dataset.json."""
        return {"background": 0, self.name: 1}

    def apply(self, values: np.ndarray, file: str, lossy: bool = False) -> tuple[np.ndarray, list[str]]:
        """Map the values of a mask to labels.

        Args:
            values: values of the mask (*spatial).
            file: name of the mask file, for messages.
            lossy: whether the file has lossy compression.

        Returns:
            Labels (*spatial) as uint8, and descriptions of what was changed.

        Raises:
            UnusableError: if the values are not those of a mask of one class.
        """
        rounded, changes = snap_to_integers(values)
        if self.threshold is not None:
            # a probability map keeps its values, which may be as close to 0 or 1 as the threshold
            label_map_only = bool(changes) and bool((rounded == np.rint(rounded)).all())
            values, changes = (rounded, changes) if label_map_only else (values, [])
            labels = (values >= self.threshold).astype(np.uint8)
            changes.append(f"mask values of at least {format_value(self.threshold)} mapped to {self.name}")
            if not labels.any() and values.any():
                largest, threshold = format_value(values.max()), format_value(self.threshold)
                changes.append(f"the mask became empty: its largest value is {largest}, the threshold {threshold}")
            return labels, changes
        values = rounded
        self._check(values, file, lossy)
        if values.max() <= 1:
            return values.astype(np.uint8), changes
        if values.max() == _SIXTEEN_BITS:
            return (values > 0).astype(np.uint8), [*changes, f"mask values 0 and {_SIXTEEN_BITS} mapped to 0 and 1"]
        between = np.count_nonzero((values != 0) & (values != 255))
        if between:
            changes.append(f"mask pixels between 0 and 255, thresholded at 128: {between}")
        else:
            changes.append("mask values 0 and 255 mapped to 0 and 1")
        return (values >= 128).astype(np.uint8), changes

    @staticmethod
    def _check(values: np.ndarray, file: str, lossy: bool) -> None:
        """Raise an UnusableError unless the mask is 0/1, or 0/255 with or without JPEG's values in between."""
        highest = values.max()
        if values.min() < 0 or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
            text = f"the mask has values such as {_first_invalid(values)}, expected 0/1 or 0/255"
            if values.min() >= 0:
                text += (
                    "; for a probability map pass --threshold, such as 0.5" if highest <= 1 else "; pass --threshold"
                )
            raise UnusableError(file, ProblemCode.MASK_VALUES, text)
        if highest == 0 or (highest == 1 and not lossy):
            return
        if highest == 1:
            text = "the largest value of the mask is 1, which JPEG compression does not keep; save masks as PNG"
            raise UnusableError(file, ProblemCode.MASK_VALUES, text)
        if highest == _SIXTEEN_BITS and not ((values != 0) & (values != _SIXTEEN_BITS)).any():
            return
        if highest < _SMEARED_RANGE[1] or highest > 255:
            text = f"the largest value of the mask is {format_value(highest)}, expected 1 or 255"
            hint = "pass --threshold, or --labels for several classes"
            raise UnusableError(file, ProblemCode.MASK_VALUES, f"{text}; {hint}")
        others = np.unique(values[(values != 0) & (values != 255)])
        if not lossy and 0 < len(others) < _MIN_SMEARED_VALUES:
            text = f"the mask has the values {shorten(others.tolist(), _MIN_SMEARED_VALUES)} besides 0 and 255"
            hint = "pass --labels for several classes, or --threshold"
            raise UnusableError(file, ProblemCode.SEVERAL_CLASSES, f"{text}; {hint}")
        low, high = _SMEARED_RANGE
        fraction = np.count_nonzero((values >= low) & (values <= high)) / values.size
        if fraction > _MAX_SMEARED_FRACTION:
            text = f"{100 * fraction:.0f} % of the pixels of the mask are between {low} and {high}"
            hint = "pass --labels for several classes, or --threshold"
            raise UnusableError(file, ProblemCode.SMEARED_MASK, f"{text}, which is not a mask of one class; {hint}")


@dataclass(frozen=True)
class LabelMap:
    """Several classes, by their values in the source.

    Attributes:
        mapping: nnU-Net's label by value in the source; any other value is a problem.
        labels: label by name, as in nnU-Net's dataset.json, with the background.

    >>> label_map = LabelMap({0: 0, 255: 1, 128: 2}, {"background": 0, "nucleus": 1, "cell": 2})
    >>> labels, changes = label_map.apply(np.array([[0, 128, 255]]), "mask.png")
    >>> labels.tolist(), changes
    ([[0, 2, 1]], ['mask values mapped: 255 to 1, 128 to 2'])
    """

    mapping: Mapping[int, int]
    labels: Mapping[str, int]

    def apply(self, values: np.ndarray, file: str, lossy: bool = False) -> tuple[np.ndarray, list[str]]:
        """Map the values of a mask to labels; see `BinaryMask.apply`.

        Raises:
            UnusableError: if a value is not in the mapping.
        """
        values, changes = snap_to_integers(values)
        known = sorted(self.mapping)
        unknown = np.unique(values[~np.isin(values, known)])
        if len(unknown):
            text = f"the mask has the values {format_values(unknown)}"
            text += f", but the label map has {shorten(known, len(known))}"
            hint = "; JPEG compression changes values, save masks as PNG" if lossy and len(unknown) > 5 else ""
            raise UnusableError(file, ProblemCode.UNKNOWN_LABEL, text + hint)
        labels = np.zeros(values.shape, np.uint8 if max(self.mapping.values()) < 256 else np.uint16)
        for value, label in self.mapping.items():
            if label:
                labels[values == value] = label
        mapped = [
            f"{value} to {label}" for value, label in self.mapping.items() if value != label and (values == value).any()
        ]
        if mapped:
            changes.append(f"mask values mapped: {', '.join(mapped)}")
        if not labels.any() and values.any():
            changes.append("the mask became empty: the label map has only background for its values")
        return labels, changes


MaskLabels = BinaryMask | LabelMap
"""The meaning of the values of masks."""


def count_labels(labels: np.ndarray) -> dict[int, int]:
    """Count the voxels of every label in a label map of small non-negative integers.

    >>> count_labels(np.array([[0, 2], [2, 2]]))
    {0: 1, 2: 3}
    """
    counts = np.bincount(labels.ravel())
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}


def describe_lost_labels(before: np.ndarray, after: np.ndarray) -> list[str]:
    """A description of the labels that a resized label map has lost.

    >>> describe_lost_labels(np.array([[0, 1], [0, 2]]), np.array([[2]]))
    ['resizing removed all pixels of a label: 1']
    """
    lost = sorted(set(np.unique(before).tolist()) - set(np.unique(after).tolist()) - {0})
    if not lost:
        return []
    if not after.any():
        return ["the mask became empty: its foreground is smaller than a pixel of the new size"]
    return [f"resizing removed all pixels of a label: {shorten(lost)}"]


def _first_invalid(values: np.ndarray) -> str:
    """The first value that is negative or not an integer."""
    return format_value(values[(values < 0) | (values != np.rint(values))].flat[0])
