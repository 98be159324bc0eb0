"""The demo from end to end with nnU-Net's own commands, its failures, and its folder."""

import json
import time
from pathlib import Path

import pytest
from skimage.io import imread
from support import preloaded
from support.hippocampus import decathlon_folder
from support.workspace import TEST_TRAINERS, shrink

from nnunet_xattnres.demo import pipeline
from nnunet_xattnres.utils import nnunet_cli
from nnunet_xattnres.utils.errors import StepFailedError, UserError


def run_preloaded(command, env, log):
    """Like `run_command`, in a fork of a process that has nnU-Net imported, and with narrow networks in the plans."""
    start = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    process = preloaded.start(command, env, log.parent, log)
    process.join(900)
    assert process.exitcode == 0, log.read_text()[-3000:]
    if command[0] == "nnUNetv2_plan_and_preprocess":
        (path,) = Path(env["nnUNet_preprocessed"]).glob("*/nnUNetPlansDemo.json")
        plans = json.loads(path.read_text())
        shrink(plans)
        path.write_text(json.dumps(plans))
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("images", "run_command"),
    [
        ("MNI152", run_preloaded),
        pytest.param("Decathlon", nnunet_cli.run_command, marks=pytest.mark.slow),
    ],
)
def test_end_to_end(tmp_path, monkeypatch, capsys, images, run_command):
    monkeypatch.setattr(nnunet_cli, "run_command", run_command)
    monkeypatch.setattr(nnunet_cli, "trainers_path", lambda: TEST_TRAINERS)
    out = tmp_path / "demo"
    pipeline.prepare(out, overwrite=False)
    demo = pipeline.Demo(out, decathlon_folder(tmp_path) if images == "Decathlon" else None, "2d", 1, "cpu")
    # all steps, but trainings of a few iterations
    demo.trainers = {"stock nnU-Net": "nnUNetTrainerTest", "XAttnRes": "nnUNetTrainerXAttnResTest"}
    demo.run()

    output = capsys.readouterr().out
    for step in range(1, 9):
        assert f"[{step}/8] " in output
    assert "$ nnUNetv2_train 1 2d 0 -tr nnUNetTrainerXAttnResTest" in output
    saved = json.loads((out / "demo.json").read_text())
    stock, ours = saved["results"]
    for result in (stock, ours):
        first, second = ("Anterior", "Posterior") if images == "Decathlon" else ("grey matter", "white matter")
        assert set(result["dice"]) == {first, second}
        summary = json.loads((out / "predictions" / result["trainer"] / "summary.json").read_text())
        assert result["dice"][first] == summary["mean"]["1"]["Dice"]
        assert result["train_seconds"] > 0
    assert ours["parameters"] > stock["parameters"] > 1e4
    assert imread(out / "demo.png").shape[0] > 300


def test_a_failing_command_is_named(tmp_path, monkeypatch):
    """`false` stands in for every nnU-Net command."""
    monkeypatch.setattr(nnunet_cli, "find_executable", lambda command: "/bin/false")
    with pytest.raises(StepFailedError, match=r"nnUNetv2_plan_and_preprocess .*plan.txt") as error:
        pipeline.Demo(tmp_path, None, "2d", 1, "cpu").run()
    assert error.value.exit_code == 1


@pytest.mark.slow
def test_a_damaged_image_stops_the_demo(tmp_path):
    """nnU-Net's own command detects it."""
    out = tmp_path / "demo"
    pipeline.prepare(out, overwrite=False)
    task = decathlon_folder(tmp_path)
    (task / "labelsTr" / sorted(p.name for p in (task / "labelsTr").iterdir())[0]).write_bytes(b"not an image")
    with pytest.raises(StepFailedError, match=r"nnUNetv2_plan_and_preprocess .*plan.txt"):
        pipeline.Demo(out, task, "2d", 1, "cpu").run()


def test_an_earlier_demo_is_only_deleted_with_overwrite(tmp_path):
    out = tmp_path / "demo"
    pipeline.prepare(out, overwrite=False)
    (out / "old.txt").touch()
    with pytest.raises(UserError, match=f"{out} .*--overwrite"):
        pipeline.prepare(out, overwrite=False)
    assert (out / "old.txt").exists()
    pipeline.prepare(out, overwrite=True)
    assert [p.name for p in out.iterdir()] == [pipeline.MARKER]
