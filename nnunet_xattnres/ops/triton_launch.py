"""Launch Triton kernels; those of a function are compiled side by side before its first launch.

Triton compiles a kernel in the launch that needs it first, so the kernels of a layer would be compiled one after the
other. A function is therefore called once without launching anything, in which Triton only learns which kernels it
needs and compiles them in threads, most of whose work is done outside of Python.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

import triton
from torch import Tensor

T = TypeVar("T")

_THREADS = 8

_only_compile: ContextVar[bool] = ContextVar("only_compile", default=False)

# functions with the shapes of arguments for which their kernels have been compiled
_compiled: set[tuple] = set()


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel, or only compile it within the first call by `compile_and_call`.

    Args:
        kernel: the Triton kernel.
        grid: the number of programs along up to three axes.
        arguments: the arguments of the kernel.
        options: its compile-time arguments, and those of the compiler, such as `num_warps`.
    """
    if _only_compile.get():
        kernel.warmup(*arguments, grid=grid, **options)
    else:
        kernel[grid](*arguments, **options)


def compile_and_call(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that launches kernels by `launch`, after these have been compiled side by side.

    For arguments of shapes that are new, the function is called twice, the first time without launching kernels, so its
    results must not depend on what the tensors contain, and it must not change its arguments but by kernels.

    Args:
        function: a function of tensors, of tuples and lists of them, and of values that can be hashed.
        arguments: its arguments.
    """
    # older versions of Triton have no such mode
    if hasattr(triton, "AsyncCompileMode") and os.environ.get("TRITON_INTERPRET") != "1":
        key = function, _shapes(arguments)
        if key not in _compiled:
            with ThreadPoolExecutor(_THREADS) as executor, triton.AsyncCompileMode(executor):
                token = _only_compile.set(True)
                try:
                    function(*arguments)
                finally:
                    _only_compile.reset(token)
            _compiled.add(key)
    return function(*arguments)


def _shapes(argument: Any) -> Any:
    """What of an argument decides which kernels are needed."""
    if isinstance(argument, Tensor):
        return argument.shape, argument.dtype, argument.device
    if isinstance(argument, tuple | list):
        return tuple(_shapes(a) for a in argument)
    return argument
