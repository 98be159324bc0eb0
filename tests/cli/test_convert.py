"""`xattnres convert` says what it did, teaches in --help, and takes no nonsense."""

import pytest
from support import downloads

from nnunet_xattnres.cli.main import main


@pytest.fixture
def nuclei(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    return downloads.nuclei(tmp_path / "source", 10)


def test_what_it_says(nuclei, tmp_path, capsys):
    assert main(["convert", "folder", str(nuclei), "--dataset-id", "3", "--name", "Nuclei", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"Nuclei: 10 cases, in {tmp_path}/Dataset003_Nuclei",
        "  split: 8:1:1 with seed 0: 8 training, 1 validation, 1 test",
        "  10 cases: 0/255 to 0/1",
    ]
    assert lines[-1].endswith("then: nnUNetv2_plan_and_preprocess -d 3 --verify_dataset_integrity")


def test_dry_run(nuclei, tmp_path, capsys):
    assert main(["convert", "folder", str(nuclei), "--dataset-id", "3", "--dry-run", "--workers", "1"]) == 0
    assert "10 cases of images and masks can be converted" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("layout", ["synapse", "colondb", "clinicdb", "isic2017", "folder"])
def test_help(layout, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", layout, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--dataset-id", "--skip-bad", "--workers", *(["--organs"] if layout == "synapse" else ["--size"])):
        assert option in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "1", "2", "3"], "--size takes one number or two, got 3"), (["--size", "0"], "at least 1, got '0'"),
        (["--labels", "red=cell"], "expected VALUE=NAME such as 255=nucleus, got 'red=cell'"),
        (["--labels", "1=cell", "--threshold", "3"], "pass one of them"),
        (["--labels", "0=background"], "no foreground"), (["--images", "none"], "no images found in the source"),
        (["--masks", "none"], "no masks found in the source"), (["--split", "8:1"], "--split 8:1 cannot be read"),
        (["--channels", "CMYK"], "invalid choice"), (["--labels", "9=ignore"], "no foreground"),
        (["--foreground", "background"], "must name a class"), (["--foreground", ""], "must name a class"),
        (["--foreground", "a", "--labels", "1=b"], "pass one of them"), (["--threshold", "300"], "up to 255"),
    ],
)  # fmt: skip
def test_nonsense(nuclei, tmp_path, capsys, options, message):
    try:
        code = main(["convert", "folder", str(nuclei), "--dataset-id", "3", *options])
    except SystemExit as stop:  # of argparse
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
