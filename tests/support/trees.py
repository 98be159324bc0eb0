"""The content of folders, to check that nothing has changed."""

from pathlib import Path


def snapshot(root: Path, *changeable: Path) -> dict[str, tuple]:
    """(is a link, is a folder, modification time, bytes) by path; the time of the `changeable` folders is None."""
    entries = {}
    for path in sorted(root.rglob("*")):
        time = path.lstat().st_mtime_ns if path not in changeable else None
        content = path.read_bytes() if path.is_file() else None
        entries[path.relative_to(root).as_posix()] = (path.is_symlink(), path.is_dir(), time, content)
    return entries


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of every file in `root`, including hidden files."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
