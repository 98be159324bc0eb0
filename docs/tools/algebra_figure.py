"""Draw docs/assets/algebra.svg.

python docs/tools/algebra_figure.py [FILE.svg]

The upper part shows the tensors for one history entry of 64 x 64 pixels in a stage of 256 x 256 pixels and 64 channels,
as the literal equations and as this package compute them. The lower part shows the squared norm between two neighbours
along one axis.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

FILE = Path(__file__).resolve().parents[1] / "assets" / "algebra.svg"
SIDE, ENTRY, CHANNELS = 256, 64, 64
FULL, SMALL = 1.5, 0.55  # sides of the drawn sheets
GREY, TEAL, ORANGE = "#b0b8c0", "#009485", "#d95f02"


def stack(
    axes, x: float, y: float, side: float, sheets: int, colour: str, label: str, channels: int, pixels: int
) -> None:
    """A feature as a stack of sheets, centred at (x, y), with its shape and its number of elements below."""
    offset = 0.05
    for n in reversed(range(sheets)):
        corner = (x - side / 2 + n * offset, y - side / 2 + n * offset)
        axes.add_patch(plt.Rectangle(corner, side, side, facecolor=colour, edgecolor="white", linewidth=0.7))
    axes.text(x, y + FULL / 2 + 0.55, label, ha="center", va="bottom", fontsize=9)
    count = channels * pixels**2
    elements = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e3:.0f} k"
    axes.text(
        x,
        y - FULL / 2 - 0.15,
        f"{channels} x {pixels} x {pixels}\n{elements} values",
        ha="center",
        va="top",
        fontsize=8,
    )


def pipeline(axes, y: float, title: str, steps: list[tuple]) -> None:
    axes.text(-1.2, y + FULL / 2 + 1.15, title, fontsize=11, fontweight="bold", ha="left")
    for n, (side, sheets, colour, label, channels, pixels) in enumerate(steps):
        x = 2.7 * n
        stack(axes, x, y, side, sheets, colour, label, channels, pixels)
        if n:
            axes.annotate("", (x - 0.95, y), (x - 1.6, y), arrowprops={"arrowstyle": "->", "color": "#555"})


def draw_pipelines(axes) -> None:
    pipeline(axes, 4.6, "Taken literally", [
        (SMALL, 8, GREY, "entry, 128 channels", 128, ENTRY),
        (FULL, 8, GREY, "resized", 128, SIDE),
        (FULL, 8, ORANGE, "projected: value V", CHANNELS, SIDE),
        (FULL, 8, ORANGE, "normalised: key", CHANNELS, SIDE),
        (FULL, 1, TEAL, "logit", 1, SIDE),
    ])  # fmt: skip
    pipeline(axes, 0, "As computed", [
        (SMALL, 8, GREY, "entry, 128 channels", 128, ENTRY),
        (SMALL, 8, ORANGE, "projected: P", CHANNELS, ENTRY),
        (SMALL, 5, TEAL, "q·P and 4 squares", 5, ENTRY),
        (FULL, 2, TEAL, "upsampled", 2, SIDE),
        (FULL, 1, TEAL, "logit", 1, SIDE),
    ])  # fmt: skip
    axes.set_xlim(-1.4, 12)
    axes.set_ylim(-1.6, 6.9)
    axes.set_aspect("equal")
    axes.axis("off")


def draw_squared_norm(axes) -> None:
    u, v = np.array([1.0, 0.4]), np.array([-0.5, 1.2])
    a = np.linspace(0, 1, 101)
    chord = (1 - a) * (u @ u) + a * (v @ v)
    exact = (((1 - a)[:, None] * u + a[:, None] * v) ** 2).sum(1)
    assert np.allclose(exact, chord - a * (1 - a) * ((v - u) @ (v - u)))
    axes.plot(a, chord, color=GREY, linewidth=2)
    axes.plot(a, exact, color=TEAL, linewidth=2)
    axes.fill_between(a, exact, chord, color=ORANGE, alpha=0.25)
    axes.text(0.03, 1.55, "(1-a)|u|² + a|v|²: interpolated squares", fontsize=9, color="#666")
    axes.text(0.5, 0.95, "a(1-a)|v-u|²", fontsize=9, color=ORANGE, ha="center")
    axes.text(0.5, 0.43, "|(1-a)u + av|²: square of the interpolated vector", fontsize=9, color=TEAL, ha="center")
    axes.set_xlabel("a: position between two neighbours u and v", fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0.3, 1.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main(file: Path = FILE) -> None:
    settings = {"svg.fonttype": "none", "svg.hashsalt": "algebra", "font.family": "sans-serif"}
    with plt.rc_context(settings):
        figure, (above, below) = plt.subplots(2, 1, figsize=(9, 8.6), height_ratios=[2.6, 1])
        draw_pipelines(above)
        draw_squared_norm(below)
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
