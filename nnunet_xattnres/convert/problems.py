"""What is wrong with a file of the source: collected over all files, then told together."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One line of the list: the file as the user knows it, and what was expected, what came, what to do."""

    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


class UnusableError(Exception):
    """A file of the source cannot be used; `problem` says why."""

    def __init__(self, file: str, text: str):
        super().__init__(file, text)
        self.problem = Problem(file, text)
