"""What a conversion writes and leaves alone beside the cases themselves."""

import hashlib
import json

import pytest
from PIL import Image
from support import converted, downloads

from nnunet_xattnres import __version__
from nnunet_xattnres.cli.main import main


def tree(folder):
    return {p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def nuclei(tmp_path):
    return downloads.nuclei(tmp_path / "source", 10)


def test_manifest(convert, nuclei):
    before = tree(nuclei)
    dataset = convert("folder", nuclei, "--foreground", "nucleus", "--seed", 5)
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["made_by"] == f"nnunet-xattnres {__version__}"
    assert manifest["settings"]["layout"] == "folder" and manifest["settings"]["seed"] == 5
    assert manifest["settings"]["source"] == [str(nuclei)]
    assert manifest["split"] == "8:1:1 with seed 5: 8 training, 1 validation, 1 test"
    assert [record["case"] for record in manifest["cases"]] == sorted(map(str, range(1, 11)))
    parts = converted.split(dataset)
    for record in manifest["cases"]:
        assert record["case"] in parts[record["split"]]
        for source in record["source"]:
            assert hashlib.sha256((nuclei / source["file"]).read_bytes()).hexdigest() == source["sha256"]
    assert tree(nuclei) == before
    assert not [p for p in dataset.parent.iterdir() if p != dataset]


def test_workers_make_no_difference(convert, nuclei, folders):
    alone = convert("folder", nuclei)
    command = ["convert", "folder", str(nuclei), "--dataset-id", "8", "--workers", "2"]
    assert main(command) == 0
    together = folders["nnUNet_raw"] / "Dataset008_Images"
    contents = [{name: data for name, (data, _) in tree(folder).items()} for folder in (alone, together)]
    manifests = [json.loads(content.pop(next(n for n in content if n.name == "manifest.json"))) for content in contents]
    assert contents[0] == contents[1]
    assert [m | {"made_at": ""} for m in manifests] == [manifests[0] | {"made_at": ""}] * 2


def test_overwrite_replaces_all_and_sets_splits_aside(convert, nuclei, folders, tmp_path, capsys):
    dataset = convert("folder", nuclei)
    (dataset / "imagesTr" / "old_0000.png").write_bytes(b"")
    splits = folders["nnUNet_preprocessed"] / dataset.name / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text('[{"train": ["mine"], "val": ["other"]}]')
    other = downloads.nuclei(tmp_path / "other", 6)
    assert convert("folder", other, "--overwrite") == dataset
    assert "plan and preprocess again" in capsys.readouterr().out
    assert not (dataset / "imagesTr" / "old_0000.png").exists()
    assert len(converted.manifest(dataset)) == 6
    assert not splits.exists()
    assert json.loads((splits.parent / "splits_final.replaced1.json").read_text())[0]["train"] == ["mine"]


def test_a_source_inside_the_target_is_safe(convert, nuclei, capsys):
    dataset = convert("folder", nuclei)
    before = tree(dataset)
    command = [
        "convert",
        "folder",
        str(dataset),
        "--images",
        "imagesTr",
        "--masks",
        "labelsTr",
        "--image-suffix",
        "_0000",
    ]
    assert main([*command, "--dataset-id", "7", "--overwrite", "--workers", "1"]) == 2
    assert "would be replaced" in capsys.readouterr().err
    assert tree(dataset) == before


def test_another_dataset_in_nnunets_form(convert, nuclei):
    dataset = convert("folder", nuclei, "--split", "1:0:0")
    again = convert(
        "folder", dataset, "--images", "imagesTr", "--masks", "labelsTr", "--image-suffix", "_0000", number=8
    )
    assert converted.cases(again / "imagesTr") | converted.cases(again / "imagesTs") == set(map(str, range(1, 11)))


def test_masks_without_any_foreground(convert, nuclei, capsys):
    for mask in (nuclei / "masks").iterdir():
        Image.new("L", (32, 32)).save(mask)
    assert main(["convert", "folder", str(nuclei), "--dataset-id", "7", "--workers", "1"]) == 2
    assert "the source: no mask has any foreground" in capsys.readouterr().err
    dataset = convert("folder", nuclei, "--skip-bad")
    assert "despite: the source: no mask has any foreground" in capsys.readouterr().err
    assert "no case has the label foreground" in json.loads((dataset / "manifest.json").read_text())["notes"]
