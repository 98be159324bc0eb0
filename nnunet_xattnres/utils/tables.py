"""Tables of text, and sizes in them, as the commands print them."""

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]], left_aligned: int = 1) -> str:
    """Format rows as a table of aligned columns, two spaces apart.

    >>> print(format_table([["trainer", "Dice"], ["nnUNetTrainer", "90.1"], ["nnUNetTrainerXAttnRes", "9.5"]]))
    trainer                Dice
    nnUNetTrainer          90.1
    nnUNetTrainerXAttnRes   9.5

    Args:
        rows: the cells of each row. A short row leaves its last columns empty.
        left_aligned: the number of columns, from the first, that are aligned to the left; the others to the right.
    """
    num_columns = max(map(len, rows))
    rows = [[*row, *[""] * (num_columns - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    justify = [str.ljust if column < left_aligned else str.rjust for column in range(num_columns)]
    lines = ([j(cell, width) for j, cell, width in zip(justify, row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def format_size(size: Sequence[int]) -> str:
    """A size for tables and messages.

    >>> format_size((512, 512, 200))
    '512x512x200'
    """
    return "x".join(map(str, size))
