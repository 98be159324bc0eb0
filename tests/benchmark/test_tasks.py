"""The remaining commands of every task in every state, and the files that are written before and after them."""

import inspect
import json
import os
import shlex
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_entrypoints
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from support.benchmark import (
    DATASET,
    EXPERIMENT,
    epoch_lines,
    finish,
    make_folders,
    run_of,
    write_checkpoint,
    write_data,
    write_log,
    write_plans,
    write_raw,
    write_splits,
    write_summary,
)
from support.trees import contents, snapshot

from nnunet_xattnres.benchmark.folders import find_dataset
from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.benchmark.tasks import (
    Predict,
    Prepare,
    RunOptions,
    Train,
    find_test_cases,
    make_splits,
    predict_tasks,
    prepare_tasks,
    train_tasks,
)
from nnunet_xattnres.utils.errors import UserError

CASES = [f"case_{n:02d}" for n in range(12)]
OPTIONS = RunOptions("cpu", processes=3)
RESENC = "nnUNetResEncUNetMPlans"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty folders that nnU-Net's variables name."""
    folders = make_folders(tmp_path)
    for name, value in folders.environment().items():
        monkeypatch.setenv(name, value)
    return folders


@pytest.fixture
def prepared(folders):
    """A dataset with plans, preprocessed for 2d."""
    write_raw(folders, CASES)
    write_plans(folders)
    write_data(folders, CASES)
    return folders


def commands(task, folders, options=OPTIONS):
    return [shlex.join(command) for command in task.commands(folders, options)]


# prepare

PREPARE = Prepare(DATASET, "nnUNetPlans", ("2d",))
BOTH = Prepare(DATASET, "nnUNetPlans", ("2d", "3d_fullres"))


def test_plan_a_new_dataset(folders):
    write_raw(folders, CASES)
    plan = "nnUNetv2_plan_and_preprocess -d 4 -npfp 3 --verify_dataset_integrity --no_pp"
    assert commands(PREPARE, folders) == [plan, *PREPROCESS]
    both = "nnUNetv2_preprocess -d 4 -plans_name nnUNetPlans -c 2d 3d_fullres -np 3 3"
    assert commands(BOTH, folders) == [plan, both]
    with_planner = f"{plan} -pl nnUNetPlannerResEncM"
    assert commands(replace(PREPARE, plans=RESENC), folders) == [
        with_planner,
        PREPROCESS[0].replace("nnUNetPlans", RESENC),
    ]


def test_planning_sets_no_marker(folders):
    write_raw(folders, CASES)
    folders.preprocessed_dataset(EXPERIMENT).mkdir()
    assert PREPARE.begin(folders) == []
    write_plans(folders)
    write_data(folders, CASES)
    assert commands(PREPARE, folders) == []


def test_cases_that_other_plans_have_preprocessed(prepared):
    """nnU-Net would empty the folder that trainings of the other plans read."""
    experiment = replace(EXPERIMENT, plans=RESENC)
    path = write_plans(prepared, experiment)
    path.write_text(path.read_text().replace(f"{RESENC}_2d", "nnUNetPlans_2d"))
    assert commands(replace(PREPARE, plans=RESENC), prepared) == []


@pytest.mark.parametrize("plans", ["nnUNetPlans", RESENC, "nnUNetResEncUNetLPlans", "nnUNetResEncUNetXLPlans"])
def test_planners(folders, monkeypatch, plans):
    """nnU-Net's own command makes the plans with this name."""
    command, _ = Prepare(DATASET, plans, ("2d", "3d_fullres")).commands(folders, OPTIONS)
    calls = called(
        monkeypatch, plan_and_preprocess_entrypoints, "plan_and_preprocess_entry", command,
        "extract_fingerprints", "plan_experiments", "preprocess",
    )  # fmt: skip
    fingerprints, planning, preprocessing = calls
    assert preprocessing is None
    folder = Path(plan_and_preprocess_entrypoints.__file__).parent
    planner = recursive_find_python_class(str(folder), planning.args[1], "nnunetv2.experiment_planning")
    assert inspect.signature(planner).parameters["plans_name"].default == plans
    assert fingerprints.args[0] == planning.args[0] == [4]
    assert fingerprints.args[2:5] == (3, True, False)


def called(monkeypatch, module, entry, command, *replaced):
    """The calls of an nnU-Net command to functions of its module, which are replaced."""
    calls = mock.Mock()
    monkeypatch.setattr(sys, "argv", command)
    for name in replaced:
        monkeypatch.setattr(module, name, getattr(calls, name))
    for name in ("set_num_threads", "set_num_interop_threads"):
        monkeypatch.setattr(torch, name, mock.Mock())
    getattr(module, entry)()
    return [getattr(calls, name).call_args for name in replaced]


def test_plans_without_a_planner(folders):
    task = replace(PREPARE, plans="MyPlans")
    with pytest.raises(UserError, match=rf"{DATASET}.* MyPlans.* nnUNetPlans, nnUNetResEncUNetMPlans"):
        task.commands(folders, OPTIONS)


def test_existing_plans_are_kept(prepared):
    before = contents(prepared.preprocessed)
    assert commands(PREPARE, prepared) == []
    assert commands(BOTH, prepared) == ["nnUNetv2_preprocess -d 4 -plans_name nnUNetPlans -c 3d_fullres -np 3"]
    assert contents(prepared.preprocessed) == before


def test_plans_of_the_user(folders):
    """Plans of the user are only preprocessed."""
    experiment = replace(EXPERIMENT, plans="MyPlans")
    write_plans(folders, experiment)
    task = Prepare(DATASET, "MyPlans", ("2d",))
    assert commands(task, folders) == ["nnUNetv2_preprocess -d 4 -plans_name MyPlans -c 2d -np 3"]
    write_data(folders, CASES, experiment)
    assert commands(task, folders) == []


def test_nnunet_accepts_the_preprocessing_command(folders, monkeypatch):
    write_plans(folders)
    (command,) = BOTH.commands(folders, OPTIONS)
    ((args, named),) = called(monkeypatch, plan_and_preprocess_entrypoints, "preprocess_entry", command, "preprocess")
    assert args == ([4], "nnUNetPlans")
    assert (named["configurations"], named["num_processes"]) == (["2d", "3d_fullres"], [3, 3])


def test_a_configuration_that_the_plans_lack(prepared):
    with pytest.raises(UserError, match=r"nnUNetPlans\.json .*3d_lowres.* 2d, 3d_fullres, 2d_bs4"):
        replace(PREPARE, configurations=("2d", "3d_lowres")).commands(prepared, OPTIONS)


def test_a_configuration_that_inherits_its_data(prepared):
    assert commands(replace(PREPARE, configurations=("2d_bs4",)), prepared) == []


PREPROCESS = ["nnUNetv2_preprocess -d 4 -plans_name nnUNetPlans -c 2d -np 3"]


@pytest.mark.parametrize(
    "lost",
    [
        ["*"],
        ["case_03*"],
        ["case_03.b2nd"],
        ["case_11.pkl"],  # written after the data
        ["case_*.pkl"],
        ["case_11.pkl", "case_11_seg.b2nd"],
    ],
)
def test_files_after_a_killed_preprocessing(prepared, lost):
    folder = prepared.preprocessed_dataset(EXPERIMENT) / "nnUNetPlans_2d"
    for pattern in lost:
        for file in folder.glob(pattern):
            file.unlink()
    assert commands(PREPARE, prepared) == PREPROCESS


def test_an_unfinished_preprocessing_is_repeated(prepared):
    """Existing files may come from an earlier preprocessing."""
    assert PREPARE.begin(prepared) == []
    assert commands(PREPARE, prepared) == PREPROCESS
    PREPARE.end(prepared)
    assert commands(PREPARE, prepared) == []


def test_a_case_that_was_added_later(prepared):
    (prepared.raw_dataset(EXPERIMENT) / "imagesTr" / "case_12_0000.png").touch()
    assert commands(PREPARE, prepared) == PREPROCESS


def test_a_label_map_without_an_image(prepared):
    """nnU-Net ignores such a label map."""
    (prepared.raw_dataset(EXPERIMENT) / "labelsTr" / "case_12.png").touch()
    assert commands(PREPARE, prepared) == []


@pytest.mark.parametrize(("listed", "expected"), [(CASES, []), (CASES[:-1], []), ([*CASES, "other"], None)])
def test_cases_that_dataset_json_lists(prepared, listed, expected):
    path = prepared.raw_dataset(EXPERIMENT) / "dataset.json"
    entries = {case: {"images": [f"imagesTr/{case}_0000.png"], "label": f"labelsTr/{case}.png"} for case in listed}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": entries}))
    assert commands(PREPARE, prepared) == (PREPROCESS if expected is None else expected)


def test_other_files_beside_cases(prepared):
    for name in (".case_99.png", "._case_99.png", "notes.txt"):
        (prepared.raw_dataset(EXPERIMENT) / "labelsTr" / name).touch()
    assert commands(PREPARE, prepared) == []


def test_a_preprocessed_dataset_without_the_raw_one(folders):
    write_plans(folders)
    write_data(folders, CASES)
    assert commands(PREPARE, folders) == []


def test_the_older_format_of_preprocessed_cases(prepared):
    """The cases are npz files, and npy files where a training has unpacked them."""
    folder = prepared.preprocessed_dataset(EXPERIMENT) / "nnUNetPlans_2d"
    for case in CASES:
        for name in (f"{case}.b2nd", f"{case}_seg.b2nd"):
            (folder / name).unlink()
        for name in (f"{case}.npz", f"{case}.npy", f"{case}_seg.npy"):
            (folder / name).touch()
    assert commands(PREPARE, prepared) == []
    (folder / "case_05.npz").unlink()
    assert commands(PREPARE, prepared) == PREPROCESS


def test_a_folder_with_other_files(prepared):
    """nnU-Net itself would end with an AssertionError."""
    folder = prepared.preprocessed_dataset(EXPERIMENT) / "nnUNetPlans_2d"
    (folder / "Thumbs.db").touch()
    with pytest.raises(UserError, match=str(folder)) as error:
        PREPARE.commands(prepared, OPTIONS)
    assert "\n" not in str(error.value)


# train


def test_a_training_from_its_start(folders):
    write_splits(folders, [CASES[:6], CASES[6:]])
    train = f"nnUNetv2_train {DATASET} 2d 0 -tr nnUNetTrainer_5epochs -p nnUNetPlans -device"
    assert commands(Train(run_of()), folders) == [f"{train} cpu --c"]
    assert commands(Train(run_of()), folders, RunOptions("cuda", 2)) == [f"{train} cuda -num_gpus 2 --c"]
    assert commands(Train(run_of(repeat=1)), folders) == [f"{train} cpu --c"]
    other = run_of("T", 1, experiment=replace(EXPERIMENT, configuration="3d_fullres", plans="MyPlans"))
    assert commands(Train(other), folders) == [
        f"nnUNetv2_train {DATASET} 3d_fullres 1 -tr T -p MyPlans -device cpu --c"
    ]


@pytest.mark.parametrize(
    ("files", "flag"),
    [
        (["log"], "--c"),
        (["checkpoint_best.pth"], "--c"),
        (["log", "checkpoint_latest.pth", "checkpoint_best.pth"], "--c"),
        (["log", "checkpoint_latest.pth", "checkpoint_best.pth", "summary"], "--c"),
        (["log", "checkpoint_final.pth", "checkpoint_best.pth"], "--val"),
        (["log", "checkpoint_final.pth", "checkpoint_latest.pth"], "--val"),
        (["log", "checkpoint_final.pth", "checkpoint_best.pth", "summary"], None),
        (["log", "summary"], None),
    ],
)
def test_a_training_continues(folders, files, flag):
    write_splits(folders, [CASES[:6], CASES[6:]])
    run = run_of()
    for name in files:
        if name == "log":
            write_log(folders.fold(run), epoch_lines(0))
        elif name == "summary":
            write_summary(folders, run, CASES[:6])
        else:
            write_checkpoint(folders.fold(run) / name)
    train = f"nnUNetv2_train {DATASET} 2d 0 -tr nnUNetTrainer_5epochs -p nnUNetPlans -device cpu"
    assert commands(Train(run), folders) == ([f"{train} {flag}"] if flag else [])


def test_a_training_on_other_splits_is_an_error(folders):
    """The network may have been trained on the cases that this fold validates now."""
    write_splits(folders, [CASES[:6], CASES[6:]])
    fold = finish(folders, run_of(), CASES[3:9])
    before = snapshot(folders.results)
    with pytest.raises(UserError, match=f"^{fold} .*splits_final.json"):
        Train(run_of()).commands(folders, OPTIONS)
    assert snapshot(folders.results) == before


RUN_TRAINING = inspect.signature(run_training.run_training)


@pytest.mark.parametrize("stage", ["started", "trained"])
def test_nnunet_accepts_the_training_command(folders, monkeypatch, stage):
    run = run_of("T", 3)
    if stage == "trained":
        write_checkpoint(folders.fold(run) / "checkpoint_final.pth")
    (command,) = Train(run).commands(folders, RunOptions("cpu", 2))
    ((args, named),) = called(monkeypatch, run_training, "run_training_entry", command, "run_training")
    assert RUN_TRAINING.bind(*args, **named).arguments == {
        "dataset_name_or_id": DATASET, "configuration": "2d", "fold": "3", "trainer_class_name": "T",
        "plans_identifier": "nnUNetPlans", "pretrained_weights": None, "num_gpus": 2,
        "export_validation_probabilities": False, "continue_training": stage == "started",
        "only_run_validation": stage == "trained", "disable_checkpointing": False, "val_with_best": False,
        "device": torch.device("cpu"),
    }  # fmt: skip


def tear(path):
    path.write_bytes(path.read_bytes()[:-30])


def test_incomplete_checkpoints_are_renamed(folders):
    write_splits(folders, [CASES[:6], CASES[6:]])
    fold = folders.fold(run_of())
    kept = write_checkpoint(fold / "checkpoint_latest.pth").read_bytes()
    torn = {}
    for name in ("checkpoint_final", "checkpoint_best"):
        tear(write_checkpoint(fold / f"{name}.pth"))
        torn[name] = (fold / f"{name}.pth").read_bytes()
    messages = Train(run_of()).begin(folders)
    assert contents(fold) == {
        "checkpoint_latest.pth": kept,
        "checkpoint_final.broken1": torn["checkpoint_final"],
        "checkpoint_best.broken1": torn["checkpoint_best"],
    }
    for name, message in zip(torn, messages, strict=True):
        assert str(fold / f"{name}.pth") in message and f"{name}.broken1" in message
    assert Train(run_of()).begin(folders) == []


def test_no_incomplete_checkpoint_replaces_another(folders):
    write_splits(folders, [CASES[:6], CASES[6:]])
    fold = folders.fold(run_of())
    fold.mkdir(parents=True)
    for number in range(12):
        (fold / "checkpoint_latest.pth").write_text(f"torn {number}")
        Train(run_of()).begin(folders)
    assert sorted(contents(fold).values()) == sorted(f"torn {number}".encode() for number in range(12))


def test_complete_checkpoints_are_kept(folders):
    write_splits(folders, [CASES[:6], CASES[6:]])
    fold = finish(folders, run_of(), CASES[:6])
    before = snapshot(fold)
    assert Train(run_of()).begin(folders) == []
    Train(run_of()).end(folders)
    assert snapshot(fold) == before


@pytest.mark.parametrize("task", [Train(run_of()), Predict((run_of(),))])
def test_a_number_of_two_datasets(folders, monkeypatch, task):
    """nnU-Net gets the full name, because the number would be ambiguous."""
    write_raw(folders, CASES, ["test_1"])
    write_raw(folders, CASES, dataset="Dataset004_Other")
    assert find_dataset(DATASET, folders) == DATASET
    (command,) = task.commands(folders, OPTIONS)
    name = command[1] if isinstance(task, Train) else command[command.index("-d") + 1]
    assert maybe_convert_to_dataset_name(name) == DATASET


# splits


def splits_of_nnunet(folders, folder):
    """The splits that nnU-Net's trainer writes."""
    trainer = SimpleNamespace(
        dataset_class=None, preprocessed_dataset_folder=str(folder), fold=0, folder_with_segs_from_previous_stage=None,
        preprocessed_dataset_folder_base=str(folder.parent), print_to_log_file=lambda *_: None,
    )  # fmt: skip
    nnUNetTrainer.do_split(trainer)
    path = folder.parent / "splits_final.json"
    splits = json.loads(path.read_text())
    path.unlink()
    return splits


@pytest.mark.parametrize(
    "cases", [CASES, [f"{n}" for n in range(23)], ["b", "B", "a_1", "a", "ä"], ["1.10", "1.9", "1.2", "1.1", "2", "10"]]
)
def test_splits_are_those_of_nnunet(folders, cases):
    write_plans(folders)
    folder = write_data(folders, cases)
    expected = splits_of_nnunet(folders, folder)
    make_splits(EXPERIMENT, folders)
    assert json.loads((folder.parent / "splits_final.json").read_text()) == expected
    assert sorted(case for fold in expected for case in fold["val"]) == sorted(cases)


def test_splits_of_a_configuration_that_inherits_its_data(prepared):
    expected = splits_of_nnunet(prepared, prepared.preprocessed_dataset(EXPERIMENT) / "nnUNetPlans_2d")
    make_splits(replace(EXPERIMENT, configuration="2d_bs4"), prepared)
    assert json.loads((prepared.preprocessed_dataset(EXPERIMENT) / "splits_final.json").read_text()) == expected


def test_splits_are_made_before_the_first_training(prepared):
    Train(run_of()).begin(prepared)
    assert len(json.loads((prepared.preprocessed_dataset(EXPERIMENT) / "splits_final.json").read_text())) == 5


@pytest.mark.parametrize("content", ['[{"train": ["case_00"], "val": ["case_01"]}]', "[]", "no splits"])
def test_existing_splits_are_kept(prepared, content):
    path = prepared.preprocessed_dataset(EXPERIMENT) / "splits_final.json"
    path.write_text(content)
    before = snapshot(prepared.preprocessed)
    if content == "no splits":
        with pytest.raises(UserError, match=str(path)):
            make_splits(EXPERIMENT, prepared)
    else:
        make_splits(EXPERIMENT, prepared)
    assert snapshot(prepared.preprocessed) == before


def test_too_few_cases_for_five_folds(folders):
    write_plans(folders)
    write_data(folders, CASES[:4])
    with pytest.raises(UserError) as error:
        make_splits(EXPERIMENT, folders)
    assert "\n" not in str(error.value)
    assert not (folders.preprocessed_dataset(EXPERIMENT) / "splits_final.json").exists()


@pytest.mark.parametrize("times", [10, pytest.param(30, marks=pytest.mark.soak)])
def test_concurrent_trainings_make_the_splits(prepared, times):
    path, wrong = prepared.preprocessed_dataset(EXPERIMENT) / "splits_final.json", []
    make_splits(EXPERIMENT, prepared)
    expected = path.read_text()

    def make():
        barrier.wait()
        try:
            make_splits(EXPERIMENT, prepared)
            wrong.extend([path.read_text()] if path.read_text() != expected else [])
        except Exception as error:
            wrong.append(error)

    for _ in range(times):
        path.unlink()
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["nnUNetPlans.json", "nnUNetPlans_2d", "splits_final.json"]


# predict

PREDICT = Predict((run_of(), run_of(fold=2)))
TESTS = ["test_1", "test_2"]


@pytest.fixture
def tested(folders):
    """A dataset with test cases."""
    write_raw(folders, CASES, TESTS)
    return folders


def test_test_cases_are_predicted_once(tested):
    folder = tested.model(run_of()) / "test_folds_0_2"
    predict = f"nnUNetv2_predict -i {tested.raw / DATASET / 'imagesTs'} -o {folder} -d {DATASET} -c 2d"
    predict += " -tr nnUNetTrainer_5epochs -p nnUNetPlans -f 0 2 -npp 3 -nps 3 -device cpu"
    assert commands(PREDICT, tested) == [predict]
    folder.mkdir(parents=True)
    for case in TESTS:
        assert commands(PREDICT, tested) == [predict]
        (folder / f"{case}.png").touch()
    assert PREDICT.is_done(tested) and commands(PREDICT, tested) == []


def test_test_cases_are_predicted_again_after_a_fold_was_trained_again(tested):
    folder, final = PREDICT.folder(tested), tested.fold(run_of(fold=2)) / "checkpoint_final.pth"
    for file in (*(folder / f"{case}.png" for case in TESTS), final):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (1e9, 1e9))
    assert not PREDICT.is_outdated(tested) and commands(PREDICT, tested) == []
    os.utime(final, (2e9, 2e9))
    assert PREDICT.is_done(tested) and PREDICT.is_outdated(tested)
    assert len(commands(PREDICT, tested)) == 1
    (folder / f"{TESTS[0]}.png").touch()  # the other is still old
    assert PREDICT.is_outdated(tested)


@pytest.mark.parametrize(("processes", "used"), [(1, "1"), (2, "2"), (3, "3"), (64, "3")])
def test_processes_of_a_prediction(tested, processes, used):
    """Each process keeps whole volumes in memory, so at most nnU-Net's default of 3 is used."""
    (command,) = PREDICT.commands(tested, RunOptions("cpu", processes=processes))
    assert [command[command.index(option) + 1] for option in ("-npp", "-nps")] == [used, used]


def test_an_unfinished_prediction_is_repeated(tested):
    folder = PREDICT.folder(tested)
    folder.mkdir(parents=True)
    for case in TESTS:
        (folder / f"{case}.png").touch()
    assert PREDICT.begin(tested) == []
    assert not PREDICT.is_done(tested) and len(commands(PREDICT, tested)) == 1
    PREDICT.end(tested)
    assert PREDICT.is_done(tested) and commands(PREDICT, tested) == []


def test_nnunet_accepts_the_prediction_command(tested, monkeypatch):
    (command,) = PREDICT.commands(tested, OPTIONS)
    (tested.results / DATASET).mkdir()
    (predictor,) = called(monkeypatch, predict_from_raw_data, "predict_entry_point", command, "nnUNetPredictor")
    assert predictor.kwargs["device"] == torch.device("cpu")
    made = predict_from_raw_data.nnUNetPredictor.return_value
    assert made.initialize_from_trained_model_folder.call_args.args[:2] == (str(tested.model(run_of())), [0, 2])
    files = made.predict_from_files.call_args
    assert files.args[:2] == (str(tested.raw / DATASET / "imagesTs"), str(PREDICT.folder(tested)))
    assert (files.kwargs["num_processes_preprocessing"], files.kwargs["num_processes_segmentation_export"]) == (3, 3)
    assert files.kwargs["overwrite"]


def test_a_test_case_has_an_image_and_a_reference(tested):
    folder = tested.raw / DATASET
    (folder / "imagesTs" / "only_an_image_0000.png").touch()
    (folder / "labelsTs" / "only_a_reference.png").touch()
    (folder / "labelsTs" / ".test_3.png").touch()
    (folder / "imagesTs" / ".test_3_0000.png").touch()
    (folder / "labelsTs" / "notes.txt").touch()
    assert find_test_cases(EXPERIMENT, tested) == TESTS


@pytest.mark.parametrize("name", ["scan[1]", "scan?", "scan*", "1.2.3", "a b", "ä"])
def test_names_of_test_cases(folders, name):
    write_raw(folders, CASES, [name])
    assert find_test_cases(EXPERIMENT, folders) == [name]


def test_no_test_cases(folders):
    write_raw(folders, CASES)
    assert find_test_cases(EXPERIMENT, folders) == [] == commands(PREDICT, folders)
    (folders.raw / DATASET / "imagesTs").mkdir()
    assert find_test_cases(EXPERIMENT, folders) == [] == commands(PREDICT, folders)
    (folders.raw / DATASET / "labelsTs").mkdir()
    assert find_test_cases(EXPERIMENT, folders) == [] == commands(PREDICT, folders)


# the tasks of a grid

GRID = Grid((DATASET, "Dataset005_B"), ("T", "U"), ("2d", "3d_fullres"), ("nnUNetPlans", RESENC), (0, 1), 2)


def test_tasks_of_a_grid():
    prepare, train, predict = (list(tasks(GRID)) for tasks in (prepare_tasks, train_tasks, predict_tasks))
    assert prepare == [
        Prepare(dataset, plans, ("2d", "3d_fullres")) for dataset in GRID.datasets for plans in GRID.plans
    ]
    assert [task.run for task in train] == list(GRID.runs())
    assert sorted(run for task in predict for run in task.runs) == sorted(GRID.runs())
    for task in predict:
        assert [run.fold for run in task.runs] == [0, 1]
        assert len({(run.experiment, run.trainer, run.repeat) for run in task.runs}) == 1
        assert task.repeat == task.runs[0].repeat


def planner_of(plans):
    name = "ExperimentPlanner" if plans == "nnUNetPlans" else "nnUNetPlannerResEncM"
    folder = Path(plan_and_preprocess_entrypoints.__file__).parent
    return recursive_find_python_class(str(folder), name, "nnunetv2.experiment_planning")


def written_by(prepare):
    """The folders of preprocessed cases that nnU-Net writes."""
    planner, plans = planner_of(prepare.plans), SimpleNamespace(plans_identifier=prepare.plans)
    return {(prepare.dataset, planner.generate_data_identifier(plans, c)) for c in prepare.configurations}


def test_a_training_depends_on_all_preparations_that_write_its_cases():
    """Plans may share a folder of cases."""
    prepare = list(prepare_tasks(GRID))
    for task in train_tasks(GRID):
        experiment = task.run.experiment
        (mine,) = [p for p in prepare if (p.dataset, p.plans) == (experiment.dataset, experiment.plans)]
        (read,) = written_by(replace(mine, configurations=(experiment.configuration,)))
        required = [p for p in prepare if task.depends_on(p)]
        assert mine in required
        assert required == [p for p in prepare if p == mine or read in written_by(p)]


def test_dependencies():
    prepare, train, predict = (list(tasks(GRID)) for tasks in (prepare_tasks, train_tasks, predict_tasks))
    assert not any(task.depends_on(other) for task in prepare for other in [*prepare, *train, *predict])
    assert not any(task.depends_on(other) for task in train for other in [*train, *predict])
    for task in predict:
        required = [other for other in train if task.depends_on(other)]
        assert [other.run for other in required] == list(task.runs)


def test_names_of_tasks():
    grid = replace(
        GRID, datasets=(DATASET,), trainers=("T",), configurations=("2d",), plans=("nnUNetPlans",), folds=(0,)
    )
    names = [str(task) for tasks in (prepare_tasks, train_tasks, predict_tasks) for task in tasks(grid)]
    name = f"{DATASET}, 2d, nnUNetPlans: T"
    assert names == [
        f"prepare {DATASET}, nnUNetPlans",
        f"{name}, fold 0",
        f"{name}, fold 0, repeat 1",
        f"{name}, test cases",
        f"{name}, test cases, repeat 1",
    ]
