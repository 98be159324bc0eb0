"""The interface of a layout: the folder structure and the file names of one download."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..plan import Plan
from ..problems import Problem
from ..sources import SourceFile


@dataclass(frozen=True)
class Layout:
    """A layout. Its module imports the readers when the plan is made, so that `xattnres convert --help` starts fast.

    Attributes:
        summary: one line for the list of layouts.
        description: the expected files and how they are split, for `xattnres convert LAYOUT --help`.
        configure: adds the options of the layout to a parser.
        make_plan: makes a plan from the files of a source, the problems found so far, and the parsed arguments; it
            raises a UserError if the source does not have this layout, or if options contradict each other.
        has_images: whether the options for 2-D images (--size, --resize-masks, --threshold) apply.
    """

    summary: str
    description: str
    configure: Callable[[argparse.ArgumentParser], None]
    make_plan: Callable[[Sequence[SourceFile], list[Problem], argparse.Namespace], Plan]
    has_images: bool = True
