"""A page with the maps of one case, in one HTML file: slices, sliders over layers and sources, mean weights."""

import base64
import html
import io
import json
from collections.abc import Sequence
from importlib.resources import files

import numpy as np

from ..utils.plotting import choose_evenly
from .summary import MeanWeight

MAX_SIDE = 256
"""The longest side of the slices on the page, in pixels; larger ones are reduced."""

MAX_SLICES = 5
"""The number of slices of a volume on the page."""


class MapsPage:
    """Collects what the page shows, one layer at a time.

    Args:
        case: the name of the case.
        image: the image (Z, H, W) in the order of nnU-Net's readers; its first channel.
        label_map: the label map (Z, H, W).
        labels: names of labels by their value.
    """

    def __init__(self, case: str, image: np.ndarray, label_map: np.ndarray, labels: dict[int, str]):
        self.case = case
        self.labels = labels
        self.slices = choose_slices(label_map)
        self.step = -(-max(image.shape[1:]) // MAX_SIDE)
        self.background = [
            _png(_to_bytes(image[z], *np.percentile(image[z], (1, 99)))[self._reduced]) for z in self.slices
        ]
        self.layers: list[dict] = []

    @property
    def _reduced(self) -> tuple[slice, slice]:
        return slice(None, None, self.step), slice(None, None, self.step)

    def add_layer(
        self, name: str, sources: Sequence[str], weights: np.ndarray, entropy: np.ndarray, means: Sequence[MeanWeight]
    ) -> None:
        """Add the maps of a layer.

        Args:
            name: the name of the layer.
            sources: the names of the K+1 sources.
            weights: (K+1, Z, H, W).
            entropy: (Z, H, W).
            means: the mean weights by label.
        """
        maps = [
            # one picture a slice, with the maps of all sources and the entropy one below the other
            _png(np.concatenate([_to_bytes(m[z], 0, 1)[self._reduced] for m in (*weights, entropy)]))
            for z in self.slices
        ]
        counted = {mean.label for mean in means}
        table = {
            self.labels.get(label, str(label)): {m.source: round(m.weight, 4) for m in means if m.label == label}
            for label in sorted(counted)
        }
        self.layers.append({"name": name, "sources": [*sources], "maps": maps, "means": table})

    def html(self) -> str:
        """The page."""
        from matplotlib import colormaps

        height, width = np.asarray(_decode(self.background[0])).shape
        colours = (colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(int).tolist()
        data = {
            "slices": [int(z) for z in self.slices], "background": self.background, "layers": self.layers,
            "width": width, "height": height, "colours": colours,
        }  # fmt: skip
        template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        # "</" would end the script in which the data are
        text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
        return template.replace("{{title}}", html.escape(self.case)).replace("{{data}}", text)


def choose_slices(label_map: np.ndarray) -> list[int]:
    """At most MAX_SLICES slices at even distances among those with a label, or among all where there is none."""
    labelled = np.flatnonzero((label_map > 0).any((1, 2)))
    slices = labelled if len(labelled) else np.arange(len(label_map))
    return choose_evenly(slices.tolist(), MAX_SLICES)


def _to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (values.astype(np.float32) - low) / max(high - low, 1e-9)
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _decode(png: str) -> "np.ndarray":
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
