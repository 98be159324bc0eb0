"""Trained models and their cases, against nnU-Net's own preprocessing for prediction."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.inference.data_iterators import PreprocessAdapterFromNpy
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from support.trained_model import save_model

from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.paths import trainers_path
from nnunet_xattnres.utils.trained_models import (
    check_previous_stage,
    find_cases,
    find_folds,
    load_model,
    preprocess_case,
    read_case,
)


@pytest.fixture
def cascade(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    model = save_model(tmp_path / "model", folds=(0,), configuration="3d_cascade_fullres")
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    load_model(predictor, model, ["0"], "checkpoint_final.pth")
    return predictor


def test_folds(tmp_path):
    save_model(tmp_path / "model", folds=("all", 2))
    found = nnUNetPredictor.auto_detect_available_folds(str(tmp_path / "model"), "checkpoint_final.pth")
    save_model(tmp_path / "backup", folds=("2_1",))
    (tmp_path / "backup" / "fold_2_1").rename(tmp_path / "model" / "fold_2_1")  # of the user's
    assert find_folds(tmp_path / "model", None, "checkpoint_final.pth") == ["2"] == [str(fold) for fold in found]
    assert find_folds(tmp_path / "model", ["all", "2", "all"], "checkpoint_final.pth") == ["all", "2"]
    with pytest.raises(UserError, match="fold_1"):
        find_folds(tmp_path / "model", ["2", "1"], "checkpoint_final.pth")
    with pytest.raises(UserError, match=r"dataset\.json"):
        find_folds(tmp_path, None, "checkpoint_final.pth")


def test_cases(tmp_path):
    for name in ("b_0000.nii.gz", "a_0001.nii.gz", "a_0000.nii.gz", "a.nii.gz", "a_0000.png"):
        (tmp_path / name).touch()
    assert find_cases(tmp_path, ".nii.gz") == {
        "a": [str(tmp_path / "a_0000.nii.gz"), str(tmp_path / "a_0001.nii.gz")], "b": [str(tmp_path / "b_0000.nii.gz")],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"CASE_0000\.bmp"):
        find_cases(tmp_path, ".bmp")


def test_a_cascade_is_preprocessed_as_by_nnunet(cascade, tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((8, 20, 24)) > 0.5).astype(np.int16)
    for name, values in (("a_0000", rng.random(labels.shape, np.float32)), ("a", labels)):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((1.2, 1, 2))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    image, properties = read_case(cascade, [tmp_path / "a_0000.nii.gz"])
    data = preprocess_case(cascade, image, properties, tmp_path / "a.nii.gz")
    adapter = PreprocessAdapterFromNpy(
        [image], [labels[None]], [{"spacing": [2, 1, 1.2]}], [None], cascade.plans_manager, cascade.dataset_json,
        cascade.configuration_manager, 1,
    )  # fmt: skip
    assert len(data) == 2
    torch.testing.assert_close(data, next(adapter)["data"], rtol=0, atol=0)


def test_the_previous_stage_of_a_cascade_is_needed(cascade, tmp_path):
    with pytest.raises(UserError, match="3d_lowres"):
        check_previous_stage(cascade, tmp_path, None)
    check_previous_stage(cascade, tmp_path, tmp_path)


def test_another_number_of_channels(cascade, tmp_path):
    files = [tmp_path / f"a_000{n}.nii.gz" for n in range(2)]
    for file in files:
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 4, 5), np.float32)), str(file))
    with pytest.raises(UserError, match=r"^a has 2 channels.*of 1$"):
        read_case(cascade, files)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_images_that_cannot_be_read(cascade, tmp_path, content):
    (tmp_path / "a_0000.nii.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"^a cannot be read .*$") as error:
        read_case(cascade, [tmp_path / "a_0000.nii.gz"])
    assert len(str(error.value).splitlines()) == 1


def test_a_previous_stage_of_another_image(cascade, tmp_path):
    for name, shape in (("a_0000", (4, 8, 9)), ("a", (4, 8, 8))):
        sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, np.uint8)), str(tmp_path / f"{name}.nii.gz"))
    image, properties = read_case(cascade, [tmp_path / "a_0000.nii.gz"])
    with pytest.raises(UserError, match=r"a\.nii\.gz has the shape \(4, 8, 8\), its image \(4, 8, 9\)"):
        preprocess_case(cascade, image, properties, tmp_path / "a.nii.gz")


def test_a_compiled_network_is_loaded(cascade, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "t")
    load_model(cascade, tmp_path / "model", ["0"], "checkpoint_final.pth")
    assert hasattr(cascade.network, "_orig_mod")


@pytest.mark.parametrize("fault", ["unknown trainer", "other weights", "no checkpoint"])
def test_models_that_cannot_be_loaded(cascade, tmp_path, fault):
    file = tmp_path / "model" / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    if fault == "unknown trainer":
        torch.save(checkpoint | {"trainer_name": "nnUNetTrainerOfSomebody"}, file)
    elif fault == "other weights":
        torch.save(checkpoint | {"network_weights": {"a": torch.ones(1)}}, file)
    else:
        file.write_text("no checkpoint")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_model(cascade, tmp_path / "model", ["0"], "checkpoint_final.pth")
    assert len(str(error.value).splitlines()) == 1
