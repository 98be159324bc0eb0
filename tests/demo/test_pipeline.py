"""The demo from end to end, through nnU-Net's own commands, on a small Decathlon folder."""

import json

import pytest
from skimage.io import imread
from support.hippocampus import decathlon_folder
from support.workspace import TEST_TRAINERS

from nnunet_xattnres.demo import pipeline
from nnunet_xattnres.utils import nnunet_cli
from nnunet_xattnres.utils.errors import StepFailedError, UserError


@pytest.mark.parametrize("images", ["MNI152", "Decathlon"])
def test_end_to_end(tmp_path, monkeypatch, capsys, images):
    monkeypatch.setattr(nnunet_cli, "trainers_path", lambda: TEST_TRAINERS)
    out = tmp_path / "demo"
    pipeline.prepare(out, overwrite=False)
    demo = pipeline.Demo(out, decathlon_folder(tmp_path) if images == "Decathlon" else None, "2d", 1, "cpu")
    # the whole of it, with trainings of a few iterations
    demo.trainers = {"stock nnU-Net": "nnUNetTrainerTest", "XAttnRes": "nnUNetTrainerXAttnResTest"}
    demo.run()

    output = capsys.readouterr().out
    for step in range(1, 9):
        assert f"[{step}/8] " in output
    assert "$ nnUNetv2_train 1 2d 0 -tr nnUNetTrainerXAttnResTest" in output
    assert "no benchmark" in output
    saved = json.loads((out / "demo.json").read_text())
    stock, ours = saved["results"]
    for result in (stock, ours):
        first, second = ("Anterior", "Posterior") if images == "Decathlon" else ("grey matter", "white matter")
        assert set(result["dice"]) == {first, second}
        summary = json.loads((out / "predictions" / result["trainer"] / "summary.json").read_text())
        assert result["dice"][first] == summary["mean"]["1"]["Dice"]
        assert result["train_seconds"] > 0
    assert ours["parameters"] > stock["parameters"] > 1e6
    assert imread(out / "demo.png").shape[0] > 300


def test_a_failing_step_is_named(tmp_path):
    out = tmp_path / "demo"
    pipeline.prepare(out, overwrite=False)
    task = decathlon_folder(tmp_path)
    (task / "labelsTr" / sorted(p.name for p in (task / "labelsTr").iterdir())[0]).write_bytes(b"not an image")
    with pytest.raises(StepFailedError, match=r"nnUNetv2_plan_and_preprocess failed .* see .*plan.txt"):
        pipeline.Demo(out, task, "2d", 1, "cpu").run()


def test_an_earlier_demo_gives_way_only_to_overwrite(tmp_path):
    out = tmp_path / "demo"
    pipeline.prepare(out, overwrite=False)
    (out / "old.txt").touch()
    with pytest.raises(UserError, match=r"holds an earlier demo: .* or pass --overwrite"):
        pipeline.prepare(out, overwrite=False)
    assert (out / "old.txt").exists()
    pipeline.prepare(out, overwrite=True)
    assert [p.name for p in out.iterdir()] == [pipeline.MARKER]
