"""`xattnres maps` on a model folder as nnU-Net writes it: files, figures, and bad input in one line."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from support.trained_model import save_model

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.utils.paths import trainers_path

SHAPE = (3, 20, 24)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with a model, two cases in imagesTs and their label maps in labelsTs."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    save_model(tmp_path / "model")
    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        for folder, name, values in (
            ("imagesTs", f"{case}_0000", rng.random(SHAPE, np.float32) + 1),
            ("labelsTs", case, np.tile(np.arange(SHAPE[2]) % 2, (*SHAPE[:2], 1)).astype(np.uint8)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = sitk.GetImageFromArray(values)
            image.SetSpacing((1, 1, 3))
            image.SetOrigin((5, 6, 7))
            sitk.WriteImage(image, str(tmp_path / folder / f"{name}.nii.gz"))
    return tmp_path


def maps(capsys, folders, *arguments, images="imagesTs", model="model"):
    """Exit code and output of the command."""
    code = main([
        "maps", "-i", str(folders / images), "-m", str(folders / model), "-o", str(folders / "out"), "--device", "cpu",
        *map(str, arguments),
    ])  # fmt: skip
    out, err = capsys.readouterr()
    return code, out + err


def test_files_and_figures(folders, capsys):
    assert maps(capsys, folders, "--labels", folders / "labelsTs", "--disable-tta")[0] == 0
    reference = sitk.ReadImage(str(folders / "labelsTs" / "a.nii.gz"))
    labels = sitk.GetArrayFromImage(reference)
    with (folders / "out" / "mean_weights.csv").open() as file:
        rows = {(r["case"], r["layer"], r["source"], int(r["label"])): float(r["weight"]) for r in csv.DictReader(file)}
    sources = json.loads((folders / "out" / "a" / "maps.json").read_text())["sources"]
    assert sources == {"e2": ["e1", "x"], "e3": ["e1", "e2", "x"], "d1": ["e1", "e2", "e3", "x"],
                       "d2": ["e1", "e2", "e3", "d1", "x"]}  # fmt: skip
    assert len(rows) == 2 * 2 * sum(map(len, sources.values()))
    for layer, names in sources.items():
        files = [folders / "out" / "a" / f"{layer}_from_{source}.nii.gz" for source in names]
        weights = np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files])
        np.testing.assert_allclose(weights.sum(0), 1, atol=1e-4)
        strongest = sitk.ReadImage(str(folders / "out" / "a" / f"{layer}_strongest.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(strongest), weights.argmax(0))
        assert strongest.GetOrigin() == reference.GetOrigin() and strongest.GetSpacing() == reference.GetSpacing()
        for source, weight in zip(names, weights, strict=True):
            for label in (0, 1):
                assert rows["a", layer, source, label] == pytest.approx(weight[labels == label].mean(), abs=1e-4)
    assert (folders / "out" / "b" / "page.html").stat().st_size > 10000


def test_cases_of_earlier_runs_stay_in_the_figures(folders, capsys):
    options = ["--layers", "e2", "--save", "--disable-tta", "-f", "0"]
    for case in ("a", "b"):
        assert maps(capsys, folders, "--cases", case, *options)[0] == 0
    with (folders / "out" / "mean_weights.csv").open() as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"a", "b"}


def test_another_number_of_channels(folders, capsys):
    for name in ("dataset", "plans"):
        file = folders / "model" / f"{name}.json"
        content = json.loads(file.read_text())
        content["channel_names"] = {"0": "a", "1": "b"}
        file.write_text(json.dumps(content))
    for fold in (0, 1):
        file = folders / "model" / f"fold_{fold}" / "checkpoint_final.pth"
        checkpoint = torch.load(file, weights_only=False)
        for name, tensor in checkpoint["network_weights"].items():
            if name.endswith("stages.0.0.convs.0.conv.weight") or name.endswith(
                "stages.0.0.convs.0.all_modules.0.weight"
            ):
                checkpoint["network_weights"][name] = tensor.repeat(1, 2, 1, 1)
        torch.save(checkpoint, file)
    code, text = maps(capsys, folders)
    assert code == 2 and text.splitlines()[-1].startswith("xattnres maps: a has 1 channels")


def test_chosen_cases_layers_folds_and_kinds(folders, capsys, monkeypatch):
    reads, read_images = [], SimpleITKIO.read_images
    monkeypatch.setattr(SimpleITKIO, "read_images", lambda *a: reads.append(a[1]) or read_images(*a))
    arguments = ["--cases", "b", "--layers", "d2", "-f", "1", "--save", "entropy", "--disable-tta"]
    assert maps(capsys, folders, *arguments)[0] == 0
    assert reads == [[str(folders / "imagesTs" / "b_0000.nii.gz")]]  # once, for the page and for the network
    out = folders / "out"
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["b/d2_entropy.nii.gz", "b/maps.json", "b/mean_weights.csv", "b/page.html", "mean_weights.csv"]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--layers", "e1"], ["e1", "e2, e3, d1, d2"]),
        (["--cases", "c"], ["c", "imagesTs"]),
        (["-f", "4"], ["fold_4"]),
        (["--labels", "imagesTs"], ["a.nii.gz"]),
        (["--step-size", "0"], ["0"]),
        (["--previous-stage", "imagesTs"], ["cascade", "--previous-stage"]),
    ],
)
def test_bad_arguments_are_one_line(folders, capsys, arguments, facts):
    arguments = [folders / "imagesTs" if argument == "imagesTs" else argument for argument in arguments]
    code, text = maps(capsys, folders, *arguments)
    line = text.splitlines()[-1]
    assert code == 2 and line.startswith("xattnres maps: ") and all(fact in line for fact in facts)
    assert not (folders / "out").exists()


@pytest.mark.parametrize("case", ["no model", "no images", "stock network", "weights of another network"])
def test_bad_folders_are_one_line(folders, capsys, case):
    options = {}
    if case == "no model":
        options = {"model": "imagesTs"}
    elif case == "no images":
        options = {"images": "model"}
    elif case == "stock network":
        save_model(folders / "stock", "nnUNetTrainerNoSkip", folds=(0,))
        options = {"model": "stock"}
    else:
        torch.save(
            torch.load(folders / "model" / "fold_0" / "checkpoint_final.pth", weights_only=False)
            | {"trainer_name": "nnUNetTrainerXAttnResReplace"},
            folders / "model" / "fold_0" / "checkpoint_final.pth",
        )
    code, text = maps(capsys, folders, **options)
    assert code == 2 and text.splitlines()[-1].startswith("xattnres maps: ") and not (folders / "out").exists()
