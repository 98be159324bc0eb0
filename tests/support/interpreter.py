"""Triton's interpreter, as exact as a GPU, and without work for nothing."""

import dataclasses

import numpy as np
import torch


def round_to_nearest() -> None:
    """Let Triton's interpreter round float32 to the nearest bfloat16, as GPUs do. On its own it cuts the digits off."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def convert_float(data, source, target, rounding):
        if source == tl.float32 and target == tl.bfloat16:
            rounded = torch.from_numpy(np.ascontiguousarray(data)).view(torch.float32).to(torch.bfloat16)
            return rounded.view(torch.int16).numpy().view(np.uint16)
        return convert(data, source, target, rounding)

    interpreter._convert_float = convert_float


def skip_overflow_checks() -> None:
    """Let the interpreter compute sums and products of integers once; a second time, it ignores the result."""
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
