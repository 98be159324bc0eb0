"""What the stored values of 2-D masks mean, decided once for a whole data set.

A palette image stores indices and shows colours. A grey image with 1, 2 or 4 bits stores small integers and shows grey
values up to 255. Which of the two a data set means cannot be told from one file: a mask without the class that is red
has a palette of black and white. In the same way, a mask without foreground does not tell whether other masks are drawn
in the alpha channel.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from PIL import Image

from ..utils.errors import UserError
from .labels import LabelMap, MaskLabels
from .pictures import Picture, decode_mask, open_header
from .problems import ProblemCode, UnusableError, shorten
from .sources import SourceFile

Colour = tuple[int, int, int]

COLOUR_NOISE = 48  # largest difference between the channels of a grey mask that was saved as a colour JPEG
_NUM_COLOURS_LISTED = 8


@dataclass(frozen=True)
class MaskEncoding:
    """How the values of masks are read.

    Attributes:
        indices: palette masks, and grey masks of 1 to 4 bits, have the values that are stored, instead of the grey
            values that they show.
        colours: the colour of every index in most masks, as (index, colour) pairs; a mask in which an index has another
            colour is refused. Without pairs, any colours are accepted.
        alpha: masks with an alpha channel are drawn in it, in one colour.
    """

    indices: bool = False
    colours: tuple[tuple[int, Colour], ...] = ()
    alpha: bool = False

    def read_values(self, mask: Picture, file: SourceFile) -> np.ndarray:
        """The values of a mask (H, W).

        Raises:
            UnusableError: if the mask has colours but no palette, or is stored in another way than most masks.
        """
        stored = read_indices(mask)
        if stored is not None and self.indices:
            self._check_colours(colours_of_indices(mask, stored), file)
            return stored
        image = mask.image
        if image.mode not in ("P", "LA", "RGB", "RGBA"):
            return np.asarray(image.convert("L") if image.mode == "1" else image)
        if image.mode in ("LA", "RGBA"):
            alpha = np.asarray(image.getchannel("A"))
            if self.alpha:
                return alpha
            one_colour = all(low == high for low, high in _extrema(image)[:-1])
            if one_colour and alpha.min() < 255 and any(low for low, _ in _extrema(image)[:-1]):
                text = "the mask is drawn in the alpha channel, but others are not; save all without transparency"
                raise UnusableError(file.name, ProblemCode.MASK_COLOURS, text)
        colours = np.asarray(image.convert("RGB"))
        if not is_grey(colours, COLOUR_NOISE if mask.lossy else 0):
            text = "the mask has colours; save it as grey values or with a palette, with one value per class"
            raise UnusableError(file.name, ProblemCode.MASK_COLOURS, text)
        return np.asarray(image.convert("RGB").convert("L"))

    def _check_colours(self, colours: Mapping[int, Colour], file: SourceFile) -> None:
        usual = dict(self.colours)
        for index, colour in colours.items():
            if usual.get(index, colour) != colour:
                text = f"the palette index {index} is {colour}, in most masks it is {usual[index]}"
                hint = "save all masks with one palette, or pass --palette indices if the colours mean nothing"
                raise UnusableError(file.name, ProblemCode.PALETTE, f"{text}; {hint}")


@dataclass(frozen=True)
class StoredMask:
    """How one mask is stored.

    Attributes:
        colours: colour by index, for the indices that occur in a palette mask or in a grey mask of 1 to 4 bits.
        one_colour: whether a mask with an alpha channel has one colour; None without an alpha channel.
        varying_alpha: whether the alpha channel has more than one value.
    """

    colours: Mapping[int, Colour] = field(default_factory=dict)
    one_colour: bool | None = None
    varying_alpha: bool = False


def survey_mask(file: SourceFile) -> StoredMask:
    """Find out how a mask is stored; only masks whose meaning depends on others are decoded."""
    try:
        header = open_header(file)
        if header.image.mode not in ("P", "LA", "RGBA") and header.bits >= 8:
            return StoredMask()
        mask = decode_mask(file)
    except UnusableError:
        return StoredMask()  # reported when the case is converted
    stored = read_indices(mask)
    if stored is not None:
        return StoredMask(colours_of_indices(mask, stored))
    if mask.image.mode in ("LA", "RGBA"):
        *colours, (lowest, highest) = _extrema(mask.image)
        return StoredMask({}, all(low == high for low, high in colours), lowest != highest)
    return StoredMask()


def decide_encoding(
    masks: Iterable[StoredMask], mask_labels: MaskLabels, choice: str | None = None
) -> tuple[MaskEncoding, list[str]]:
    """Decide how the masks of a data set are read.

    Palette masks have their indices as values, unless all their colours are grey and become brighter with the index, or
    unless the label map knows only the grey values.

    Args:
        masks: how the masks are stored.
        mask_labels: the meaning of the values.
        choice: the value of --palette: "indices", "grey", or None to decide by the masks.

    Returns:
        The encoding, and notes for the user.

    Raises:
        UserError: if both readings are possible and give different labels.
    """
    masks = list(masks)
    votes: dict[int, Counter[Colour]] = defaultdict(Counter)
    for mask in masks:
        for index, colour in mask.colours.items():
            votes[index][colour] += 1
    colours = {index: votes[index].most_common(1)[0][0] for index in sorted(votes)}
    with_alpha = [mask for mask in masks if mask.one_colour is not None]
    alpha = any(mask.varying_alpha for mask in with_alpha) and all(mask.one_colour for mask in with_alpha)
    notes = ["masks are read from their alpha channel, because they have one colour"] if alpha else []
    all_colours = {colour for counter in votes.values() for colour in counter}
    if not colours:
        return MaskEncoding(alpha=alpha), notes
    grey = all(len(set(colour)) == 1 for colour in all_colours)
    values = {index: colour[0] for index, colour in colours.items()}
    indices = choice == "indices" if choice else not grey or _means_indices(values, mask_labels)
    if not grey and choice == "grey":
        raise UserError("--palette grey: the palettes of the masks have colours that are not grey")
    if not indices or any(index != value for index, value in values.items()) or not grey:
        listed = [f"{index} is {colour}" for index, colour in colours.items()]
        meaning = f"their indices: {shorten(listed, _NUM_COLOURS_LISTED)}" if indices else "their grey values"
        count = sum(bool(mask.colours) for mask in masks)
        notes.append(f"{count} masks with a palette, or with less than 8 bits, are read by {meaning}")
    # with one class, only the background must look the same everywhere
    checked = [pair for pair in colours.items() if isinstance(mask_labels, LabelMap) or pair[0] == 0]
    return MaskEncoding(indices, tuple(checked) if indices and choice is None else (), alpha), notes


def _means_indices(values: Mapping[int, int], mask_labels: MaskLabels) -> bool:
    """Whether grey palettes, with these grey values by index, are read by their indices.

    Raises:
        UserError: if that cannot be told.
    """
    greys = [values[index] for index in sorted(values)]
    hint = "pass --palette indices or --palette grey"
    if isinstance(mask_labels, LabelMap):
        known = mask_labels.mapping.keys()
        as_indices, as_greys = known >= values.keys(), known >= set(greys)
        same = all(mask_labels.mapping.get(i) == mask_labels.mapping.get(grey) for i, grey in values.items())
        if as_indices and as_greys and not same:
            text = f"masks have a grey palette, and --labels knows both its indices {shorten(list(values))} and"
            raise UserError(f"{text} its grey values {shorten(greys)}: {hint}")
        if as_indices != as_greys:
            return as_indices
    elif greys[0] > min(greys):
        text = f"masks have a grey palette in which index 0 is {greys[0]} and another index is {min(greys)}"
        raise UserError(f"{text}, so that the background is index 0 or the darkest colour: {hint}")
    return any(low >= high for low, high in pairwise(greys))


def read_indices(mask: Picture) -> np.ndarray | None:
    """The stored values (H, W) of a palette mask, or of a grey mask of 1 to 4 bits; None for other masks."""
    if mask.image.mode in ("1", "P"):
        return np.asarray(mask.image).astype(np.uint8)
    if mask.image.mode == "L" and mask.bits < 8:
        return np.asarray(mask.image) // np.uint8(255 // (2**mask.bits - 1))
    return None


def colours_of_indices(mask: Picture, stored: np.ndarray) -> dict[int, Colour]:
    """The colour of every index that occurs in a mask."""
    positions = dict(zip(*np.unique(stored, return_index=True), strict=True))
    colours = np.asarray(mask.image.convert("RGB")).reshape(-1, 3)
    return {int(index): tuple(colours[position].tolist()) for index, position in positions.items()}


def is_grey(colours: np.ndarray, tolerance: int = 0) -> bool:
    """Whether the channels of an image (H, W, 3) differ by at most `tolerance`."""
    return int((colours.max(-1).astype(int) - colours.min(-1)).max()) <= tolerance


def _extrema(image: Image.Image) -> Sequence[tuple[int, int]]:
    """The lowest and highest value of every channel of an image with several channels."""
    return image.getextrema()  # type: ignore[return-value]  # typed for one channel, too
