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
import time
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_log = logging.getLogger("nnunet_xattnres")

_FOLDER = Path(__file__).parent
_SOURCES = (_FOLDER / "cpp_kernels.cpp", _FOLDER / "cpp_pooling.cpp")
_HEADERS = (_FOLDER / "cpp_threads.h",)
_OPTIONS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-pthread"]
_INSTRUCTIONS = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx2", "-mfma"]}
"""Options of the compiler by PyTorch's name for what the CPU can do, because a cache may be shared between machines."""

DTYPES = (torch.float32, torch.float64)
"""The dtypes of the kernels."""

_FUNCTIONS = ("forward", "backward", "max_pool", "max_pool_backward")
_COMPILERS = ("c++", "g++", "clang++")
# a compilation may take so long
_SECONDS = 300


class LibraryUnavailableError(Exception):
    """The kernels cannot be compiled or loaded on this machine; the text says why."""


def call(function: str, dtype: torch.dtype, arguments: ctypes.Structure) -> None:
    """Call a kernel, which waits until its threads have ended.

    Raises:
        MemoryError: if there is not enough memory.
    """
    kernel = getattr(load_library(), f"{function}_{_suffix(dtype)}")
    if kernel(ctypes.addressof(arguments)):
        raise MemoryError("XAttnRes: there is not enough memory for the C++ kernels")


def pointer(tensor: Tensor | None) -> int | None:
    """The address of the first element, or null for None."""
    return None if tensor is None else tensor.data_ptr()


def _suffix(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def load_library() -> ctypes.CDLL:
    """The library of the kernels in `cpp_kernels.cpp` and `cpp_pooling.cpp`.

    The compiler is the one that the environment variable CXX names, or else the first of c++, g++ and clang++. The
    library is kept in `nnunet_xattnres` in the folder that XDG_CACHE_HOME names, or else in ~/.cache. Where that cannot
    be written, every process compiles its own.

    Raises:
        LibraryUnavailableError: if there is no compiler, if it fails, or if the library cannot be loaded.
    """
    try:
        return _load_library()
    except (OSError, ValueError, AttributeError) as error:
        raise LibraryUnavailableError(f"they cannot be compiled or loaded: {error}") from error


def _load_library() -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        raise LibraryUnavailableError(f"there is no C++ compiler: none of {', '.join(_COMPILERS)}")
    command = [*compiler, *_OPTIONS, *_INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])]
    texts = [path.read_text(encoding="utf-8") for path in (*_SOURCES, *_HEADERS)]
    built_from = (texts, command, platform.machine(), platform.libc_ver())
    key = hashlib.sha256(repr(built_from).encode()).hexdigest()[:16]
    # on some file systems, a file that is in use cannot be removed
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        folder = _cache_folder() or Path(own)
        path = _find_library(folder, key)
        if path is not None:
            with contextlib.suppress(OSError):
                return _open_library(path)
            path.unlink()
        return _open_library(_compile(command, folder, key))


def _open_library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in _FUNCTIONS:
        for dtype in DTYPES:
            function = getattr(library, f"{name}_{_suffix(dtype)}")
            function.argtypes = (ctypes.c_void_p,)
            function.restype = ctypes.c_int
    library.set_parallel.argtypes = (ctypes.c_void_p,)
    library.set_parallel.restype = None
    library.set_parallel(find_parallel())
    if hasattr(os, "register_at_fork"):
        # a new process has none of these threads, for which OpenMP would wait
        os.register_at_fork(after_in_child=lambda: library.set_parallel(None))
    return library


def find_parallel() -> int | None:
    """The address of GOMP_parallel of the OpenMP library that PyTorch has loaded, or None if there is none."""
    try:
        # PyTorch makes the symbols of its libraries global; Windows has no such symbols
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return None


def find_compiler() -> list[str] | None:
    """The command of the C++ compiler, or None if there is none."""
    if command := shlex.split(os.environ.get("CXX", "")):
        return command
    return next(([path] for name in _COMPILERS if (path := shutil.which(name))), None)


def _cache_folder() -> Path | None:
    """The cache folder of the user, or None if it cannot be written, or if others can put libraries into it."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunet_xattnres"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # there is no home folder
        return None
    if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        _log.warning("XAttnRes: %s is not used, because other users can write to it", folder)
        return None
    return folder if os.access(folder, os.W_OK) else None


def _find_library(folder: Path, key: str) -> Path | None:
    """The library in the cache. Its name ends with its size: to load a file that is cut off could end the process."""
    for path in folder.glob(f"cpp_kernels-{key}-*.so"):
        if path.stem.rpartition("-")[2] == str(path.stat().st_size):
            return path
        path.unlink()
    return None


def _compile(command: list[str], folder: Path, key: str) -> Path:
    """Compile the library to a file that appears complete; raises LibraryUnavailableError."""
    _log.info("XAttnRes: %s compiles the C++ kernels, once, into %s", command[0], folder)
    _remove_abandoned(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="compiling-", ignore_cleanup_errors=True) as temporary:
        compiled = Path(temporary) / "cpp_kernels.so"
        try:
            subprocess.run(
                [*command, "-o", str(compiled), *map(str, _SOURCES)], env={**os.environ, "LC_ALL": "C"},
                check=True, capture_output=True, text=True, errors="replace", timeout=_SECONDS,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
            first = next((line for line in lines if "error: " in line), lines[0])
            raise LibraryUnavailableError(f"{command[0]} cannot compile the C++ kernels: {first}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LibraryUnavailableError(f"{command[0]} cannot compile the C++ kernels: {error}") from error
        with compiled.open("rb+") as file:
            os.fsync(file.fileno())
        path = folder / f"cpp_kernels-{key}-{compiled.stat().st_size}.so"
        # a link and not a move, which would take the file away from processes that have just loaded theirs
        try:
            os.link(compiled, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            compiled.replace(path)
    return path


def _remove_abandoned(folder: Path) -> None:
    """Remove what compilations have left that were killed: folders that no compilation can still use."""
    for path in folder.glob("compiling-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 2 * _SECONDS:
                shutil.rmtree(path)
