"""What lies in a folder, for saying that nothing changed."""

from pathlib import Path


def snapshot(root: Path, *changeable: Path) -> dict[str, tuple]:
    """Kind, time of change and bytes of everything in `root`; of `changeable` folders only that they are there."""
    found = {}
    for path in sorted(root.rglob("*")):
        time = path.lstat().st_mtime_ns if path not in changeable else None
        content = path.read_bytes() if path.is_file() else None
        found[path.relative_to(root).as_posix()] = (path.is_symlink(), path.is_dir(), time, content)
    return found


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of every file in `root`, the hidden ones too."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
