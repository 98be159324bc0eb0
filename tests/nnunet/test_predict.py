"""From trained folds to predictions: best configuration, ensemble, postprocessing, export and installation."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from support.workspace import TRAINER, Workspace

MODEL = f"-d 4 -f 0 -tr {TRAINER}"
PREDICT = f"nnUNetv2_predict {MODEL} -device cpu -npp 1 -nps 1"


@pytest.fixture(scope="module")
def images(workspace):
    return workspace.raw / workspace.dataset(4) / "imagesTs"


@pytest.fixture(scope="module")
def predicted(workspace, images, trained_2d):
    """Predictions of the 2d and the 3d_fullres model with probabilities, by configuration."""
    workspace.run(f"nnUNetv2_train 4 3d_fullres 0 -tr {TRAINER} --npz -device cpu")
    folders = {}
    for configuration in ("2d", "3d_fullres"):
        folders[configuration] = workspace.root / f"predicted_{configuration}"
        workspace.run(f"{PREDICT} -i {images} -o {folders[configuration]} -c {configuration} --save_probabilities")
    return folders


def segmentations(folder):
    return {p.name: sitk.GetArrayFromImage(sitk.ReadImage(p)) for p in sorted(folder.glob("*.nii.gz"))}


def test_every_test_case_is_predicted_in_its_own_geometry(images, predicted):
    for folder in predicted.values():
        found = sorted(folder.glob("*.nii.gz"))
        assert [p.name for p in found] == sorted(p.name.replace("_0000", "") for p in images.iterdir())
        for path in found:
            image, segmentation = (sitk.ReadImage(p) for p in (images / path.name.replace(".nii", "_0000.nii"), path))
            assert segmentation.GetSize() == image.GetSize()
            assert segmentation.GetSpacing() == pytest.approx(image.GetSpacing())
            assert set(np.unique(sitk.GetArrayFromImage(segmentation))) <= {0, 1, 2}


def test_best_configuration_ensemble_and_postprocessing(workspace, predicted):
    output = workspace.run(f"nnUNetv2_find_best_configuration 4 -c 2d 3d_fullres -tr {TRAINER} -f 0 -np 1")
    assert f"{TRAINER}__nnUNetPlans__2d" in output
    ensemble, final = workspace.root / "ensemble", workspace.root / "final"
    workspace.run(f"nnUNetv2_ensemble -i {predicted['2d']} {predicted['3d_fullres']} -o {ensemble} -np 1")
    (postprocessing,) = (workspace.results / workspace.dataset(4)).rglob("postprocessing.pkl")
    plans = workspace.model(4, "2d") / "plans.json"
    description = workspace.model(4, "2d") / "dataset.json"
    workspace.run(
        f"nnUNetv2_apply_postprocessing -i {ensemble} -o {final} -pp_pkl_file {postprocessing} -np 1 "
        f"-plans_json {plans} -dataset_json {description}"
    )
    assert segmentations(final).keys() == segmentations(predicted["2d"]).keys()


def test_exported_and_installed_elsewhere_it_predicts_the_same(workspace, images, predicted, tmp_path):
    workspace.run(f"nnUNetv2_export_model_to_zip {MODEL} -c 2d -o {tmp_path / 'model.zip'}")
    elsewhere = Workspace(tmp_path)
    elsewhere.run(f"nnUNetv2_install_pretrained_model_from_zip {tmp_path / 'model.zip'}")
    elsewhere.run(f"{PREDICT} -i {images} -o {tmp_path / 'predicted'} -c 2d", new_python=True)
    before, after = segmentations(predicted["2d"]), segmentations(tmp_path / "predicted")
    assert before.keys() == after.keys()
    for name, segmentation in before.items():
        np.testing.assert_array_equal(after[name], segmentation)
