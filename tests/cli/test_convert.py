"""`xattnres convert` starts fast, describes its options and reports what it did; invalid options are refused."""

import subprocess
import sys

import pytest
from support import downloads

from nnunet_xattnres.cli.main import main


@pytest.fixture
def nuclei(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    return downloads.nuclei(tmp_path / "source", 10)


def test_summary(nuclei, tmp_path, capsys):
    options = ["--dataset-id", "3", "--name", "Dataset003_Nuclei", "--workers", "1"]
    assert main(["convert", "folder", str(nuclei), *options]) == 0
    out = capsys.readouterr().out
    dataset = tmp_path / "Dataset003_Nuclei"
    assert out.startswith("Nuclei: 10 cases ") and str(dataset) in out and str(dataset / "preview.png") in out
    assert "8 training, 1 validation, 1 test" in out and "10 cases: " in out
    assert out.rstrip().endswith("nnUNetv2_plan_and_preprocess -d 3 --verify_dataset_integrity")


def test_dry_run(nuclei, tmp_path, capsys):
    assert main(["convert", "folder", str(nuclei), "--dataset-id", "3", "--dry-run", "--workers", "1"]) == 0
    heading, *rows, summary, split = capsys.readouterr().out.splitlines()
    assert heading.split() == ["case", "split", "image", "mask"]
    assert {row.split()[0]: row.split()[2:] for row in rows} == {
        str(n): [f"images/{n}.png", f"masks/{n}.png"] for n in range(1, 11)
    }
    assert summary.startswith("10 cases ") and "8:1:1" in split
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("layout", ["synapse", "colondb", "clinicdb", "isic2017", "folder"])
def test_help(layout, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", layout, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--dataset-id", "--skip-bad", "--workers", *(["--organs"] if layout == "synapse" else ["--size"])):
        assert option in text
    assert f"xattnres convert {layout} " in text.split("options:")[0]  # an example


def test_help_imports_no_readers():
    heavy = {"torch", "nnunetv2", "numpy", "PIL", "SimpleITK", "skimage", "scipy", "nibabel", "h5py", "matplotlib"}
    script = f"import sys, nnunet_xattnres.cli.convert; print(*{heavy} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["--size", "1", "2", "3"], ["--size", "3"]), (["--size", "0"], ["--size", "'0'"]),
        (["--threshold", "nan"], ["--threshold", "nan"]), (["--dataset-id", "1000"], ["--dataset-id", "1000"]),
        (["--dataset-id", "0"], ["--dataset-id", "'0'"]), (["--dataset-id", "-1"], ["--dataset-id", "-1"]),
        (["--dataset-id", "x"], ["--dataset-id", "'x'"]), (["--name", "../x"], ["--name", "'../x'"]),
    ],
    ids=lambda values: " ".join(values),
)  # fmt: skip
def test_invalid_options(nuclei, tmp_path, capsys, options, texts):
    """Options of single layouts are in tests/convert/layouts."""
    try:
        code = main(["convert", "folder", str(nuclei), "--dataset-id", "3", *options])
    except SystemExit as stop:  # of argparse
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(text in error for text in texts), error
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
