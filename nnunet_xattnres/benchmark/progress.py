"""The progress of a benchmark, and an estimate of the remaining time."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median_high

from ..utils.errors import UserError
from ..utils.tables import format_table
from .folders import NnUNetFolders
from .grid import Grid, Run
from .state import State, read_state

_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class RemainingWork:
    """Remaining epochs, their seconds if any epoch was timed, and the number of trainings of unknown length."""

    epochs: int
    seconds: float | None
    unknown: int


def read_states(grid: Grid, folders: NnUNetFolders) -> dict[Run, State | str]:
    """The state of every run, or an error message where it cannot be read."""
    states: dict[Run, State | str] = {}
    for run in grid.runs():
        try:
            states[run] = read_state(run, folders)
        except UserError as error:
            states[run] = str(error)
    return states


def estimate_remaining(states: dict[Run, State | str]) -> RemainingWork:
    """The remaining work; the time of an epoch is that of the run, of its trainer or of its experiment."""
    known = {run: state for run, state in states.items() if isinstance(state, State)}
    epochs, seconds, unknown, timed = 0, 0.0, 0, True
    for run, state in known.items():
        if state.stage in ("done", "to validate", "different splits"):
            continue
        num_epochs = state.num_epochs or next(
            (s.num_epochs for r, s in known.items() if r.trainer == run.trainer and s.num_epochs), None
        )
        if num_epochs is None:
            unknown += 1
            continue
        remaining = max(0, num_epochs - state.epochs)
        epochs += remaining
        epoch_seconds = _epoch_seconds(run, known)
        timed = timed and epoch_seconds is not None
        seconds += remaining * (epoch_seconds or 0.0)
    return RemainingWork(epochs, seconds if timed else None, unknown)


def _epoch_seconds(run: Run, states: dict[Run, State]) -> float | None:
    """Median seconds per epoch of this run, or of this trainer in the experiment, or of any trainer in it."""
    for is_similar in (
        lambda other: other == run,
        lambda other: (other.experiment, other.trainer) == (run.experiment, run.trainer),
        lambda other: other.experiment == run.experiment,
    ):
        values = [s.seconds_per_epoch for r, s in states.items() if is_similar(r) and s.seconds_per_epoch is not None]
        if values:
            return median_high(values)
    return None


def format_status(grid: Grid, folders: NnUNetFolders, jobs: Mapping[str, str] | None = None) -> str:
    """A table with a line for every run, and a summary with the remaining time.

    Args:
        grid: all trainings of the benchmark.
        folders: nnU-Net's folders.
        jobs: states of jobs on a cluster, by the text of their run.
    """
    jobs = jobs or {}
    states = read_states(grid, folders)
    rows = [["", "trainer", "fold", "state", "epochs", "s/epoch"]]
    previous = None
    for run, state in sorted(states.items(), key=lambda item: (item[0].experiment, item[0].repeat)):
        experiment = f"{run.experiment}{run.repeat_suffix}"
        title, previous = "" if experiment == previous else experiment, experiment
        if isinstance(state, str):
            rows.append([title, run.trainer, str(run.fold), state])
            continue
        epochs = f"{state.epochs} of {state.num_epochs or '?'}" if state.epochs or state.num_epochs else ""
        seconds = "" if state.seconds_per_epoch is None else f"{state.seconds_per_epoch:.1f}"
        rows.append([title, run.trainer, str(run.fold), _format_state(state, jobs.get(str(run))), epochs, seconds])
    counts: dict[str, int] = {}
    for run, state in states.items():
        running = isinstance(state, State) and (state.running or jobs.get(str(run)) == "running")
        word = "unreadable" if isinstance(state, str) else "running" if running else state.stage
        counts[word] = counts.get(word, 0) + 1
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    remaining = _format_remaining(estimate_remaining(states))
    return f"{format_table(rows, left_aligned=4)}\n\n{len(states)} trainings: {summary}.{remaining}"


def _format_state(state: State, job: str | None) -> str:
    word = "running" if state.running else str(state.stage)
    if job and job != word:
        word += f", job {job}"
    return f"{word} ({'; '.join(state.problems)})" if state.problems else word


def _format_remaining(work: RemainingWork) -> str:
    if not work.epochs and not work.unknown:
        return ""
    text = f" {work.epochs} epochs remain"
    if work.unknown:
        return f"{text}, and {work.unknown} trainings whose number of epochs is not known before they start."
    if work.seconds is None:
        return f"{text}; the time is not known before the first epoch."
    return f"{text}: about {timedelta(seconds=round(work.seconds))} in sequence, without validation."


@contextlib.contextmanager
def progress(grid: Grid, folders: NnUNetFolders, shown: bool) -> Iterator[Callable[[str], None]]:
    """A progress bar over all epochs while trainings run; yields a function that prints a line above it."""
    from tqdm import tqdm

    if not shown:
        yield lambda line: print(line, flush=True)
        return
    states = read_states(grid, folders)
    bar = tqdm(desc="training", unit="epoch", total=1, disable=None, leave=False, file=sys.stderr)
    _show(bar, states)
    bar.initial = bar.n  # so that the rate is that of this call
    stop = threading.Event()

    def poll() -> None:
        duration = 0.0
        while not stop.wait(max(_POLL_SECONDS, 20 * duration)):  # reading the logs of many long trainings takes a while
            start = time.monotonic()
            _show(bar, read_states(grid, folders))
            duration = time.monotonic() - start

    watcher = threading.Thread(target=poll, daemon=True)
    if not bar.disable:
        watcher.start()
    try:
        yield lambda line: tqdm.write(line, file=sys.stdout)
    finally:
        stop.set()
        if not bar.disable:
            watcher.join()
        bar.close()


def _show(bar, states: dict[Run, State | str]) -> None:
    known: Sequence[State] = [state for state in states.values() if isinstance(state, State)]
    done = sum(
        state.num_epochs or state.epochs if state.stage in ("done", "to validate") else state.epochs for state in known
    )
    bar.total = done + estimate_remaining(states).epochs
    bar.n = done
    finished = sum(state.stage == "done" for state in known)
    bar.set_postfix_str(f"{finished} of {len(states)} trainings done")
