"""The C++ kernels, compiled once by the C++ compiler of the machine and kept in the cache folder of the user."""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

_log = logging.getLogger("nnunet_xattnres")

_SOURCE = Path(__file__).with_name("cpp_kernels.cpp")
_OPTIONS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared"]
_INSTRUCTIONS = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx2", "-mfma"]}
"""Options of the compiler by PyTorch's name for what the CPU can do, because a cache may be shared between machines."""

_FUNCTIONS = ("forward_float32", "forward_float64", "backward_float32", "backward_float64")
_COMPILERS = ("c++", "g++", "clang++")
_SECONDS = 300


class LibraryUnavailableError(Exception):
    """The kernels cannot be compiled or loaded on this machine; the text says why."""


@cache
def load_library() -> ctypes.CDLL:
    """The library of the kernels in `cpp_kernels.cpp`.

    The compiler is the one that the environment variable CXX names, or else the first of c++, g++ and clang++. The
    library is kept in `nnunet_xattnres` in the folder that XDG_CACHE_HOME names, or else in ~/.cache. Where that cannot
    be written, every process compiles its own.

    Raises:
        LibraryUnavailableError: if there is no compiler, if it fails, or if the library cannot be loaded.
    """
    compiler = find_compiler()
    if compiler is None:
        raise LibraryUnavailableError(f"there is no C++ compiler: none of {', '.join(_COMPILERS)}")
    command = [*compiler, *_OPTIONS, *_INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])]
    built_from = (_SOURCE.read_text(encoding="utf-8"), command, platform.machine(), platform.libc_ver())
    name = f"cpp_kernels-{hashlib.sha256(repr(built_from).encode()).hexdigest()[:16]}.so"
    with contextlib.ExitStack() as stack:
        try:
            folder = _cache_folder()
        except OSError:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / name
        if not path.exists():
            _compile(command, path)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryUnavailableError(f"{path} cannot be loaded: {error}") from error
    for name in _FUNCTIONS:
        function = getattr(library, name)
        # a pointer to the arguments, the sample and the slab
        function.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        function.restype = None
    return library


def find_compiler() -> list[str] | None:
    """The command of the C++ compiler, or None if there is none."""
    if command := shlex.split(os.environ.get("CXX", "")):
        return command
    return next(([path] for name in _COMPILERS if (path := shutil.which(name))), None)


def _cache_folder() -> Path:
    """The cache folder of the user; raises OSError if it cannot be written."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunet_xattnres"
    except RuntimeError as error:
        raise OSError(f"there is no home folder: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder


def _compile(command: list[str], path: Path) -> None:
    """Compile the library to a file that appears complete; raises LibraryUnavailableError."""
    _log.info("XAttnRes: %s compiles the C++ kernels, once, into %s", command[0], path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            compiled = Path(folder) / path.name
            subprocess.run(
                [*command, "-o", str(compiled), str(_SOURCE)],
                check=True, capture_output=True, text=True, errors="replace", timeout=_SECONDS,
            )  # fmt: skip
            compiled.replace(path)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise LibraryUnavailableError(f"{command[0]} cannot compile the C++ kernels: {first}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LibraryUnavailableError(f"{command[0]} cannot compile the C++ kernels: {error}") from error
