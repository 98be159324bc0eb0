"""A case of the source, and the interface of the readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .sources import SourceFile

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SourceCase:
    """One case of a data set.

    Attributes:
        name: nnU-Net's case identifier.
        split: "train", "val" or "test".
        image: the files of the image; several files where slices form a volume.
        mask: the files of the mask; empty if there is no mask, or if the files of the image hold it.
        source_name: the name in the source, if nnU-Net cannot keep it, else None.
    """

    name: str
    split: str
    image: tuple[SourceFile, ...]
    mask: tuple[SourceFile, ...] = ()
    source_name: str | None = None

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """All files of the case."""
        return self.image + self.mask


@dataclass
class CaseData:
    """Image and label map of a case, in the type of the reader that read them.

    Attributes:
        image: the image.
        labels: the label map, None if the case has no mask.
        changes: descriptions of what differs from the source.
        counts: number of voxels by label.
        nnunet_reader: name of nnU-Net's reader that the data set needs because of this case, None for its usual one.
    """

    image: Any
    labels: Any | None
    changes: list[str] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    nnunet_reader: str | None = None


class Reader(Protocol):
    """Reads and writes cases. Readers are small, picklable and have no state, because worker processes use them."""

    @property
    def ending(self) -> str:
        """The file ending that `write` expects, such as .png."""

    def prepare(self, cases: Sequence[SourceCase], workers: int) -> tuple[Reader, list[str]]:
        """Decide what must be the same for all cases of a data set, before any is read.

        Returns:
            The reader to use, and notes for the user.

        Raises:
            UserError: if the files do not tell, and the user must.
        """

    def read(self, case: SourceCase) -> CaseData:
        """Read and check a case.

        Raises:
            UnusableError: if one of its files cannot be used.
        """

    def write(self, image: Any, path: Path) -> None:
        """Write an image or a label map that `read` returned.

        Raises:
            OSError: if the file could not be written completely.
        """

    def load_preview(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        """Load a written image (H, W) or (H, W, 3) and its label map (H, W).

        Of volumes this is the slice with the most foreground.
        """
