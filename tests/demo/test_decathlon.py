"""The test cases of a Decathlon folder: its labelled test cases, or training cases that are held out."""

import json
import shutil

import pytest
from support.hippocampus import decathlon_folder

from nnunet_xattnres.demo import decathlon
from nnunet_xattnres.utils.errors import UserError


@pytest.fixture
def source(tmp_path):
    return decathlon_folder(tmp_path)


@pytest.fixture
def converted(source, tmp_path):
    """The dataset as nnUNetv2_convert_MSD_dataset converts it."""
    dataset = tmp_path / "Dataset001_Hippocampus"
    shutil.copytree(source, dataset)
    for folder in ("imagesTr", "imagesTs"):
        for image in (dataset / folder).iterdir():
            image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    (dataset / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", "numTraining": 10}))
    return dataset


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_labelled_test_cases_are_used(source, converted):
    (source / "labelsTs").mkdir()
    image = sorted((source / "imagesTs").iterdir())[0]
    shutil.copyfile(image, source / "labelsTs" / image.name)
    cases = decathlon.hold_out(source, converted)
    assert cases == [image.name.removesuffix(".nii.gz")]
    assert names(converted / "labelsTs") == [image.name]
    assert names(converted / "imagesTs") == [f"{cases[0]}_0000.nii.gz"]
    assert len(names(converted / "imagesTr")) == 10


def test_without_labels_training_cases_are_held_out(source, converted):
    before = names(converted / "labelsTr")
    cases = decathlon.hold_out(source, converted)
    assert names(converted / "labelsTs") == [f"{c}.nii.gz" for c in cases] == before[-2:]
    assert names(converted / "imagesTs") == [f"{c}_0000.nii.gz" for c in cases]
    assert names(converted / "labelsTr") == before[:-2]
    assert names(converted / "imagesTr") == [n.replace(".nii", "_0000.nii") for n in before[:-2]]
    assert json.loads((converted / "dataset.json").read_text())["numTraining"] == 8


def test_the_source_is_not_changed(source, converted):
    before = sorted(p.relative_to(source) for p in source.rglob("*"))
    decathlon.hold_out(source, converted)
    assert sorted(p.relative_to(source) for p in source.rglob("*")) == before


@pytest.mark.parametrize("missing", ["dataset.json", "imagesTr", "labelsTr", "imagesTs"])
def test_incomplete_folder(source, missing):
    path = source / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"{source} .*{missing}$"):
        decathlon.check(source)


@pytest.mark.parametrize("name", ["Hippocampus", "Task_Hippocampus", "Taskfoo", "Task04_Hippo_campus"])
def test_folder_of_another_name(source, name):
    other = source.rename(source.with_name(name))
    with pytest.raises(UserError, match=f"Task<NN>_<Name>.* {name}$"):
        decathlon.check(other)


def test_too_few_cases(source):
    for label in sorted((source / "labelsTr").iterdir())[6:]:
        label.unlink()
    with pytest.raises(UserError, match=r"7 .*Task04_Hippocampus.* 6$"):
        decathlon.check(source)


def test_a_complete_folder_passes(source):
    decathlon.check(source)
