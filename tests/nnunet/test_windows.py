"""The commands run where Python lacks what only Unix has, as on Windows."""

import json

import numpy as np
from PIL import Image

from nnunet_xattnres.cli.main import COMMANDS
from nnunet_xattnres.convert.layouts import LAYOUTS

HELP = [
    *([command] for command in COMMANDS),
    *(["convert", layout] for layout in LAYOUTS),
    *(["benchmark", action] for action in ("run", "status", "report")),
]


def test_every_command(workspace, tmp_path):
    source = tmp_path / "source"
    for folder, maximum in (("images", 255), ("masks", 1)):
        (source / folder).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, maximum, (16, 16), np.uint8, endpoint=True)
            Image.fromarray(pixels).save(source / folder / f"{number}.png")
    dataset = workspace.raw / "Dataset041_Windows"
    labels, plans = dataset / "labelsTr", workspace.preprocessed / "Dataset004_Hippocampus/nnUNetPlans.json"
    calls = [
        *([*command, "--help"] for command in HELP),
        ["trainers"],
        ["trainers", "--list", "--plans", plans, "-c", "3d_fullres"],
        ["convert", "folder", source, "--dataset-id", "41", "--name", "Windows", "--workers", "1"],
        ["evaluate", labels, labels, "--json", tmp_path / "scores.json", "--workers", "1"],
        ["doctor"],
    ]
    report, file = tmp_path / "report.json", tmp_path / "calls.json"
    file.write_text(json.dumps([list(map(str, call)) for call in calls]))
    output = workspace.run(f"support.without_unix:main {file} {report}")
    assert dict(zip(map(str, calls), json.loads(report.read_text()), strict=True)) == dict.fromkeys(map(str, calls), 0)
    assert "No problem found" in output
    assert len(json.loads((tmp_path / "scores.json").read_text())["cases"]) == 2
