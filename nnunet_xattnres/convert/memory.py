"""Check of the memory that images need, before any of it is allocated."""

from pathlib import Path

from PIL import Image

from ..utils.errors import UserError

_BYTES_PER_PIXEL = 20  # image and label map, the image before its height is resized, and the count of the labels
_PILLOW_FACTOR = 2  # Pillow warns above its limit, and refuses above twice the limit


def check_size(size: tuple[int, int], workers: int) -> None:
    """Check that images of a size can be made by the workers, and can be read by nnU-Net.

    Args:
        size: (height, width) in pixels.
        workers: number of processes, each of which makes one image at a time.

    Raises:
        UserError: if the images would be too large.
    """
    pixels = size[0] * size[1]
    title = f"--size {size[0]} {size[1]} gives images of {pixels / 1e6:,.0f} million pixels"
    limit = _PILLOW_FACTOR * (Image.MAX_IMAGE_PIXELS or pixels)
    if pixels > limit:
        raise UserError(f"{title}, nnU-Net reads at most {limit / 1e6:,.0f} million: choose a smaller --size")
    available = available_memory()
    if available is not None and pixels * _BYTES_PER_PIXEL * workers > available:
        needed, free = (bytes_ / 2**30 for bytes_ in (pixels * _BYTES_PER_PIXEL * workers, available))
        hint = "choose a smaller --size, or fewer --workers"
        raise UserError(
            f"{title}, which takes {needed:.1f} GiB with {workers} workers; {free:.1f} GiB are free: {hint}"
        )


def available_memory() -> int | None:
    """The bytes of memory that programs can still take, within the limit of a container; None where that is unknown."""
    amounts = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        amounts.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, ValueError, KeyError):  # not Linux
        return None
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            amounts.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no container, or `max`
            continue
    return min(amounts)
