"""From the values of a mask to nnU-Net's labels 0..N."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .problems import UnusableError

_SMEAR = (64, 191)  # what JPEG makes of an edge lies in between
_MOST_SMEARED = 0.05  # of the pixels; lossy edges of a mask stay far below
_FEWEST_SMEARED = 9  # values; fewer, in a file without loss, are classes
_TOLD_VALUES = 5


@dataclass(frozen=True)
class BinaryMask:
    """One foreground class, from masks that are 0/1, 0/255, or smeared by JPEG.

    Attributes:
        name: of the class.
        threshold: values from here on are foreground; None finds out for every mask.
    """

    name: str
    threshold: int | None = None

    @property
    def names(self) -> dict[str, int]:
        return {"background": 0, self.name: 1}

    def apply(self, values: np.ndarray, file: str, lossy: bool = False) -> tuple[np.ndarray, list[str]]:
        """Labels (*spatial) uint8 of a mask's values, and what was changed.

        Raises:
            UnusableError: if the values are not those of a mask.
        """
        if self.threshold is not None:
            return (values >= self.threshold).astype(np.uint8), [f"values from {self.threshold} on are {self.name}"]
        highest, lowest = values.max(), values.min()
        if lowest < 0 or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
            raise UnusableError(file, f"is no mask: it has values such as {_first(values)}; expected 0/1 or 0/255")
        if highest == 0 or (highest == 1 and not lossy):
            return values.astype(np.uint8), []
        if highest == 1:
            raise UnusableError(file, "its values go up to 1, which JPEG has rounded: save masks without loss")
        if highest < _SMEAR[1]:
            wanted = "expected a mask of 0/1 or 0/255: pass --threshold, or --labels for several classes"
            raise UnusableError(file, f"its values go up to {highest}; {wanted}")
        if highest > 255:
            raise UnusableError(file, f"its values go up to {highest}; expected a mask of 0/1 or 0/255")
        between = values[(values != 0) & (values != 255)]
        distinct = np.unique(between)
        if not lossy and 0 < len(distinct) < _FEWEST_SMEARED:
            some = ", ".join(map(str, distinct))
            raise UnusableError(
                file, f"has the values {some} beside 0 and 255: pass --labels for several classes, or --threshold"
            )
        smeared = np.count_nonzero((values >= _SMEAR[0]) & (values <= _SMEAR[1])) / values.size
        if smeared > _MOST_SMEARED:
            share = f"{100 * smeared:.0f} % of its pixels lie between {_SMEAR[0]} and {_SMEAR[1]}"
            raise UnusableError(file, f"{share}: not the mask of one class; pass --labels for several, or --threshold")
        change = f"{len(between)} smeared pixels, threshold 128" if len(between) else "0/255 to 0/1"
        return (values >= 128).astype(np.uint8), [change]


@dataclass(frozen=True)
class LabelMap:
    """Several classes by their values in the source.

    Attributes:
        values: label by value in the source; every other value is a problem.
        names: label by name, with the background.
    """

    values: Mapping[int, int]
    names: Mapping[str, int]

    def apply(self, values: np.ndarray, file: str, lossy: bool = False) -> tuple[np.ndarray, list[str]]:
        """Labels (*spatial) uint8 of a mask's values, and what was changed.

        Raises:
            UnusableError: if a value is not known.
        """
        known = np.array(sorted(self.values))
        unknown = np.unique(values[~np.isin(values, known)])
        if len(unknown):
            some = ", ".join(f"{v:g}" for v in unknown[:_TOLD_VALUES]) + (" ..." if len(unknown) > _TOLD_VALUES else "")
            kept = ", ".join(map(str, known))
            cause = "; JPEG has smeared it, save masks without loss" if lossy and len(unknown) > _TOLD_VALUES else ""
            raise UnusableError(file, f"has the values {some}; the label map knows {kept}{cause}")
        labels = np.zeros(values.shape, np.uint8)
        for value, label in self.values.items():
            if label:
                labels[values == value] = label
        moved = [f"{v} to {label}" for v, label in self.values.items() if v != label and (values == v).any()]
        return labels, [f"values {', '.join(moved)}"] if moved else []


def _first(values: np.ndarray) -> str:
    odd = values[(values < 0) | (values != np.rint(values))]
    return f"{odd.flat[0]:g}"
