"""A case of the source, and what a reader makes of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .sources import File

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: nnU-Net's case identifier.
        split: "train", "val" or "test".
        image: its files; several where slices make a volume.
        mask: the files of its label map, none where there is no label map or the image's files hold it.
    """

    name: str
    split: str
    image: tuple[File, ...]
    mask: tuple[File, ...] = ()

    @property
    def files(self) -> tuple[File, ...]:
        return self.image + self.mask


@dataclass
class CaseData:
    """What was read.

    Attributes:
        image: as the reader writes it.
        labels: as the reader writes it, None where there is none.
        changes: what is not as in the source, in words.
        counts: voxels per label value.
    """

    image: Any
    labels: Any | None
    changes: list[str] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)


class Reader(Protocol):
    """Image and label map of a case. Readers are small, picklable and without state: they travel to the workers."""

    ending: str

    def read(self, case: Case) -> CaseData:
        """Read and check a case.

        Raises:
            UnusableError: if a file of it cannot be used.
        """

    def write(self, content: Any, path: Path) -> None:
        """Write an image or a label map that `read` gave.

        Raises:
            OSError: if it could not be written whole.
        """

    def show(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        """Written image (H, W) or (H, W, 3) and label map (H, W) for a picture; of a volume its fullest slice."""


def count_labels(labels: np.ndarray) -> dict[int, int]:
    """Voxels per value of a label map of small non-negative integers."""
    counts = np.bincount(labels.ravel())
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
