"""Text as the commands print it."""

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table: the first columns, `left` of them, to the left, the others to the right; rows may differ in length."""
    length = max(map(len, rows))
    rows = [[*row, *[""] * (length - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    justify = [str.ljust if column < left else str.rjust for column in range(length)]
    lines = ([j(cell, width) for j, cell, width in zip(justify, row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)
