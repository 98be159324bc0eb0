"""The reasons why a case cannot be compared."""

from dataclasses import dataclass
from enum import Enum


class ScoringProblemCode(str, Enum):
    """The reason why a case cannot be compared."""

    MISSING_PREDICTION = "missing prediction"
    MISSING_REFERENCE = "missing reference"
    UNREADABLE = "unreadable"
    CHANNELS = "channels"
    UNKNOWN_VALUES = "unknown values"
    SHAPE = "shape"
    SPACING = "spacing"
    ORIGIN = "origin"
    DIRECTION = "direction"


@dataclass(frozen=True)
class ScoringProblem:
    """A case that cannot be compared.

    Attributes:
        code: the reason.
        case: the name of the case.
        text: one line for the user, with the file and the values concerned.
    """

    code: ScoringProblemCode
    case: str
    text: str

    def __str__(self) -> str:
        return f"{self.case}: {self.text}"


class NotComparableError(Exception):
    """Label maps that cannot be compared.

    Attributes:
        code: the reason.
        text: one line for the user.
    """

    def __init__(self, code: ScoringProblemCode, text: str):
        super().__init__(code, text)
        self.code, self.text = code, text
