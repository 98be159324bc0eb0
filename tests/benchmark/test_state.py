"""The state of a run in every combination of files that kills and users may leave."""

import itertools
import json
import os
import random
import subprocess
import sys

import pytest
import torch
from support.benchmark import (
    EXPERIMENT,
    epoch_lines,
    finish,
    make_folders,
    run_of,
    write_checkpoint,
    write_debug,
    write_log,
    write_plans,
    write_splits,
    write_summary,
)
from support.trees import snapshot

from nnunet_xattnres.benchmark.state import (
    CHECKPOINTS,
    LOCK,
    State,
    epochs_in_name,
    is_checkpoint,
    is_locked,
    read_experiment_plans,
    read_splits,
    read_state,
    summary_cases,
    validation_cases,
)
from nnunet_xattnres.utils.errors import UserError

RUN = run_of()
FINAL, LATEST, BEST = CHECKPOINTS
CASES, OTHERS = ["a", "b", "c"], ["d", "e"]


@pytest.fixture
def folders(tmp_path):
    folders = make_folders(tmp_path)
    write_splits(folders, [CASES, OTHERS])
    return folders


def tear(path):
    path.write_bytes(path.read_bytes()[:-30])


def fill(folders, *names):
    """Write files in the fold of `RUN`; "torn" before a name cuts off the end of the file."""
    fold, summary = folders.fold(RUN), folders.validation(RUN) / "summary.json"
    fold.mkdir(parents=True)
    for description in names:
        name = description.removeprefix("torn ")
        if name == "log":
            write_log(fold, epoch_lines(0) + epoch_lines(1))
        elif name == "empty log":
            write_log(fold, [])
        elif name in CHECKPOINTS:
            write_checkpoint(fold / name)
        else:
            write_summary(folders, RUN, CASES)
        if description != name:
            tear(summary if name == "summary" else fold / name)


@pytest.mark.parametrize(
    ("files", "stage", "problems"),
    [
        ([], "to train", []),
        (["empty log"], "to train", []),
        (["torn " + BEST, "empty log"], "to train", [BEST]),
        (["log"], "started", []),
        (["log", "torn " + BEST], "started", [BEST]),
        (["log", BEST], "started", []),
        ([BEST], "started", []),
        (["log", LATEST, BEST], "started", []),
        (["log", LATEST, "torn " + BEST], "started", [BEST]),
        (["log", "torn " + LATEST, BEST], "started", [LATEST]),
        (["log", "torn " + LATEST, "torn " + BEST], "started", [LATEST, BEST]),
        # the final one is written before the latest is removed
        (["log", "torn " + FINAL, LATEST, BEST], "started", [FINAL]),
        (["log", "torn " + FINAL, BEST], "started", [FINAL]),
        (["log", FINAL, LATEST, BEST], "to validate", []),
        (["log", FINAL, BEST], "to validate", []),
        ([FINAL], "to validate", []),
        (["log", FINAL, BEST, "torn summary"], "to validate", ["summary.json"]),
        (["log", FINAL, BEST, "summary"], "done", []),
        (["log", FINAL, LATEST, BEST, "summary"], "done", []),
        (["log", FINAL, "torn " + BEST, "summary"], "done", [BEST]),
    ],
)
def test_stages(folders, files, stage, problems):
    fill(folders, *files)
    state = read_state(RUN, folders)
    assert state.stage == stage
    assert len(state.problems) == len(problems) and not state.running
    assert all(name in text for name, text in zip(problems, state.problems, strict=True))


def test_no_folder(folders):
    assert read_state(RUN, folders) == State("to train", 0, 5, None, False)
    assert not folders.fold(RUN).exists()


def test_a_validated_training_without_checkpoints_is_done(folders):
    """Users delete checkpoints, because they take gigabytes."""
    fill(folders, "log", "summary")
    assert read_state(RUN, folders).stage == "done"


@pytest.mark.parametrize(
    "files",
    [
        ["log", LATEST, BEST, "summary"],
        ["log", LATEST, "summary"],
        ["log", LATEST, "torn " + BEST, "summary"],
        ["log", "torn " + FINAL, LATEST, BEST, "summary"],
        ["log", "torn " + FINAL, BEST, "summary"],
        ["log", "torn " + LATEST, BEST, "summary"],
        ["log", "torn " + FINAL, "torn " + LATEST, "summary"],
        ["torn " + FINAL, "summary"],
    ],
)
def test_a_training_that_was_restarted(folders, files):
    """nnU-Net keeps the summary of the earlier training until the next validation."""
    fill(folders, *files)
    assert read_state(RUN, folders).stage == "started"


@pytest.mark.parametrize("found", [OTHERS, CASES[:2], CASES + OTHERS, ["A", "b", "c"]])
@pytest.mark.parametrize("files", [["log"], ["log", FINAL, BEST], ["log", LATEST, BEST]])
def test_a_summary_of_other_cases(folders, files, found):
    """The network may have been trained on the cases that this fold validates now."""
    fill(folders, *files)
    write_summary(folders, RUN, found)
    assert read_state(RUN, folders).stage == "different splits"


@pytest.mark.parametrize("ending", [".nii.gz", ".png", ".tif", ".nrrd", ".mha"])
def test_cases_whose_names_have_dots(folders, ending):
    """DICOM's identifiers have dots and begin alike."""
    cases = ["1.3.6.1", "1.3.6.2", "1.3.6.3"]
    write_splits(folders, [cases, OTHERS])
    write_checkpoint(folders.fold(RUN) / FINAL)
    write_summary(folders, RUN, cases, ending)
    assert read_state(RUN, folders).stage == "done"
    write_summary(folders, RUN, cases[:1], ending)
    assert read_state(RUN, folders).stage == "different splits"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{}", '{"metric_per_case": 5}', '{"metric_per_case": [1]}', '{"metric_per_case": [{}]}',
     '{"metric_per_case": [{"reference_file": null}]}', "\udcff"],
)  # fmt: skip
def test_unreadable_summaries(folders, content):
    fill(folders, FINAL, "summary")
    (folders.validation(RUN) / "summary.json").write_bytes(content.encode(errors="surrogateescape"))
    state = read_state(RUN, folders)
    assert state.stage == "to validate" and "summary.json" in state.problems[0]


@pytest.mark.parametrize("step", [29, pytest.param(7, marks=pytest.mark.soak)])
def test_a_summary_that_ends_anywhere(folders, step):
    fill(folders, FINAL, "summary")
    path = folders.validation(RUN) / "summary.json"
    text = path.read_text()
    for end in range(0, len(text), step):
        path.write_text(text[:end])
        assert read_state(RUN, folders).stage == "to validate"


def test_before_there_are_splits(folders):
    (folders.preprocessed_dataset(EXPERIMENT) / "splits_final.json").unlink()
    assert validation_cases(RUN, folders) is None
    fill(folders, FINAL, "torn summary")
    assert read_state(RUN, folders).stage == "to validate"
    write_summary(folders, RUN, ["whatever"])
    assert read_state(RUN, folders).stage == "done"


def test_validation_cases(folders):
    assert [validation_cases(run_of(fold=fold), folders) for fold in range(3)] == [set(CASES), set(OTHERS), None]


@pytest.mark.parametrize(
    "content",
    ["", "{", "5", "null", '{"train": [], "val": []}', '[{"train": ["a"]}]', "[[]]", '[{"train": 1, "val": 2}]'],
)
def test_unreadable_splits(folders, content):
    path = folders.preprocessed_dataset(EXPERIMENT) / "splits_final.json"
    path.write_text(content)
    for read in (lambda: read_splits(EXPERIMENT, folders), lambda: read_state(RUN, folders)):
        with pytest.raises(UserError, match=f"^{path} ") as error:
            read()
        assert "\n" not in str(error.value)


def test_splits(folders):
    assert read_splits(EXPERIMENT, folders) == [{"train": OTHERS, "val": CASES}, {"train": CASES, "val": OTHERS}]
    (folders.preprocessed_dataset(EXPERIMENT) / "splits_final.json").write_text(
        '[{"train": [1, 2], "val": [3], "test": [4]}]'
    )
    assert read_splits(EXPERIMENT, folders) == [{"train": ["1", "2"], "val": ["3"]}]


def test_epochs(folders):
    seconds = [10.0, 3.0, 2.0, 1.0]
    write_log(
        folders.fold(RUN), [line for n, s in enumerate(seconds) for line in epoch_lines(n, seconds=s)] + ["", "Epoch 4"]
    )
    write_debug(folders.fold(RUN), num_epochs=50)
    state = read_state(RUN, folders)
    assert (state.epochs, state.num_epochs) == (4, 50)
    assert state.seconds_per_epoch in (2.0, 3.0)


def test_the_length_is_in_the_name_until_debug_json_has_it(folders):
    run = run_of("nnUNetTrainer_20epochs")
    assert read_state(run, folders).num_epochs == 20
    write_debug(folders.fold(run), num_epochs=7)
    assert read_state(run, folders).num_epochs == 7
    assert read_state(run_of("nnUNetTrainer"), folders).num_epochs is None


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("nnUNetTrainer_1epoch", 1), ("nnUNetTrainer_50epochs", 50), ("nnUNetTrainerXAttnRes_2000epochs", 2000),
        ("nnUNetTrainer_250epochs_NoMirroring", 250), ("nnUNetTrainer", None), ("nnUNetTrainerDiceLoss", None),
        ("nnUNetTrainer50epochs", None), ("nnUNetTrainer_5epochsWarm", None), ("nnUNetTrainer_epochs", None),
    ],
)  # fmt: skip
def test_epochs_in_names(name, epochs):
    assert epochs_in_name(name) == epochs


def test_reading_changes_nothing(folders, tmp_path):
    fold = finish(folders, RUN, CASES)
    write_checkpoint(fold / LATEST)
    tear(fold / LATEST)
    (fold / LOCK).touch()
    before = snapshot(tmp_path)
    read_state(RUN, folders)
    assert snapshot(tmp_path) == before


# checkpoints


def loads(path):
    try:
        torch.load(path, weights_only=False)
    except Exception:
        return False
    return True


def test_a_checkpoint_that_ends_anywhere(tmp_path):
    path = write_checkpoint(tmp_path / FINAL)
    assert is_checkpoint(path) and loads(path)
    for end in reversed(range(path.stat().st_size)):
        os.truncate(path, end)
        assert not is_checkpoint(path), f"{end} bytes"


def test_a_large_checkpoint_that_ends_anywhere(tmp_path):
    path, rng = tmp_path / FINAL, random.Random(0)
    torch.save({"network_weights": {str(n): torch.rand(1000, 60) for n in range(10)}}, path)
    size = path.stat().st_size
    assert size > 2_000_000
    ends = [*range(size - 200, size), *(rng.randrange(size - 200) for _ in range(300))]
    for end in sorted(ends, reverse=True):
        os.truncate(path, end)
        assert not is_checkpoint(path), f"{end} of {size} bytes"


def test_a_checkpoint_with_zeros_at_its_end(tmp_path):
    """A power cut can leave such a file."""
    path = write_checkpoint(tmp_path / FINAL)
    content = path.read_bytes()
    for lost in range(22, len(content), 101):
        path.write_bytes(content[:-lost] + bytes(lost))
        assert not loads(path)
        assert not is_checkpoint(path)


@pytest.mark.parametrize("content", [None, b"", b"PK", b"PK\x05\x06", b"no checkpoint", b"\x80\x02}q\x00."])
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / FINAL
    if content is not None:
        path.write_bytes(content)
    assert not is_checkpoint(path)
    assert not is_checkpoint(tmp_path)


# locks

HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_a_run_of_another_process(folders):
    fold = finish(folders, RUN, CASES)
    lock = fold / LOCK
    assert not is_locked(lock)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_locked(lock)
        assert read_state(RUN, folders).running
        assert not read_state(run_of(fold=1), folders).running
        holder.communicate("\n")
    assert lock.exists()
    assert not is_locked(lock)
    assert not read_state(RUN, folders).running


def test_the_summary_of_another_operating_system(tmp_path):
    """Trained on Windows, reported on Linux, or the other way round."""
    paths = ["C:\\nnUNet\\gt_segmentations\\case_1.nii.gz", "/nnUNet/gt_segmentations/case_2.nii.gz"]
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"metric_per_case": [{"reference_file": name} for name in paths]}))
    assert summary_cases(path) == {"case_1", "case_2"}


# plans


def test_plans(folders):
    path = write_plans(folders)
    assert read_experiment_plans(EXPERIMENT, folders) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        ("{", ""),
        ("[]", "list"),
        ("{}", "nnUNetv2_plan_experiment"),
        ('{"configurations": ["2d"]}', "nnUNetv2_plan_experiment"),
        ('{"configurations": {"3d_lowres": {}, "3d_fullres": {}}}', "2d.*3d_lowres, 3d_fullres$"),
    ],
)
def test_unreadable_plans(folders, content, text):
    path = folders.plans(EXPERIMENT)
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"^{path} .*{text}") as error:
        read_experiment_plans(EXPERIMENT, folders)
    assert "\n" not in str(error.value)


def test_every_combination_has_a_stage(folders):
    """Only a combination with a summary of the fold's cases is done."""
    parts = [["", name, f"torn {name}"] for name in (*CHECKPOINTS, "summary")]
    for number, chosen in enumerate(itertools.product(*parts)):
        other = _make_folders_in(folders, number)
        fill(other, *filter(None, chosen))
        state = read_state(RUN, other)
        assert state.stage in ("to train", "started", "to validate", "done")
        assert state.stage != "done" or "summary" in chosen
        assert state.stage != "to validate" or FINAL in chosen
        assert len(state.problems) == sum(name.startswith("torn") for name in chosen)


def _make_folders_in(folders, number):
    root = folders.raw.parent / str(number)
    root.mkdir()
    other = make_folders(root)
    write_splits(other, [CASES, OTHERS])
    return other
