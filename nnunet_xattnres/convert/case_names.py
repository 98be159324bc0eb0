"""Names of cases that nnU-Net and file systems keep as they are."""

import re
import sys
import unicodedata
from collections.abc import Iterable

_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_MAX_BYTES = 200  # file systems allow 255, and nnU-Net adds endings


def choose_case_names(names: Iterable[str]) -> dict[str, str]:
    """Choose nnU-Net's case identifiers for names in a source; most names stay.

    nnU-Net writes the label map of a case X to X_seg.b2nd, and therefore drops cases whose name ends in _seg. Names
    must be possible on every file system, where names that differ only in case may be the same file.

    >>> choose_case_names(["a", "A", "a_seg", "train/0"])
    {'A': 'A', 'a': 'a_2', 'a_seg': 'a-seg', 'train/0': 'train_0'}
    """
    names = sorted(names)
    kept: dict[str, str] = {}  # by what file systems without case compare
    for name in names:
        if _make_valid(name) == name:
            kept.setdefault(name.casefold(), name)
    chosen = {name: name for name in kept.values()}
    taken = set(kept)
    for name in (name for name in names if name not in chosen):
        valid = candidate = _make_valid(name)
        number = 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{valid}_{number}"
        taken.add(candidate.casefold())
        chosen[name] = candidate
    return chosen


def readable_text(name: str) -> str:
    """A path or a part of one as lists have it: in UTF-8 whatever the locale, and with composed characters.

    >>> readable_text("Scha\N{COMBINING DIAERESIS}del")
    'Schädel'
    """
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))


def _make_valid(name: str) -> str:
    """The name without what nnU-Net or a file system cannot keep."""
    encoding = sys.getfilesystemencoding()
    name = _FORBIDDEN.sub("_", readable_text(name))
    if not (name.isascii() and name.isprintable()):
        name = "".join(c if c.isprintable() and c.encode(encoding, "ignore") else "_" for c in name)
    while len(name.encode()) > _MAX_BYTES:
        name = name[:-1]
    name = name.lstrip(". ").rstrip(". ") or "case"
    if name.lower().endswith("_seg"):
        name = f"{name[:-4]}-{name[-3:]}"
    return f"{name}_" if _WINDOWS_DEVICES.fullmatch(name) else name
