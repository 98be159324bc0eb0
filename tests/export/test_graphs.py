"""Ensembles, the sizes of images, and the files of graphs; `tests/networks/test_export.py` has the other networks."""

import onnx
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from support.trained_model import save_model

from nnunet_xattnres.export.graphs import (
    FORMATS,
    ImageSizes,
    ensemble_network,
    has_fixed_size,
    image_sizes,
    load_onnx,
    move_onnx,
    save_onnx,
)  # fmt: skip
from nnunet_xattnres.utils.paths import trainers_path
from nnunet_xattnres.utils.trained_models import load_model


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))

    def load(trainer="nnUNetTrainerXAttnRes", folds=(0,), configuration="2d", **planned):
        model = save_model(tmp_path / trainer, trainer, folds, configuration, **planned)
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        load_model(predictor, model, [str(fold) for fold in folds], "checkpoint_final.pth")
        return predictor

    return load


def test_the_ensemble_is_the_mean_of_the_folds(load):
    predictor = load(folds=(0, 1, 2))
    image = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        logits = []
        for parameters in predictor.list_of_parameters:
            predictor.network.load_state_dict(parameters)
            logits.append(predictor.network.eval()(image))
        torch.testing.assert_close(ensemble_network(predictor)(image), torch.stack(logits).mean(0))
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(
    ("trainer", "configuration", "sizes"),
    [
        ("nnUNetTrainerXAttnRes", "2d", ImageSizes([4, 4], [8, 8])),
        ("nnUNetTrainerXAttnResReplace", "3d_fullres", ImageSizes([2, 4, 4], [4, 8, 8])),
        ("nnUNetTrainerPaperUNetXAttnRes", "2d", ImageSizes([1, 1], [33, 33])),
    ],
)
def test_the_sizes_that_a_network_takes(load, trainer, configuration, sizes):
    predictor = load(trainer, configuration=configuration)
    assert image_sizes(predictor) == sizes
    with torch.no_grad():
        assert predictor.network.eval()(torch.zeros(1, 1, *sizes.minimum)).shape[2:] == tuple(sizes.minimum)


@pytest.mark.parametrize("name", ["onnx", "torchscript", pytest.param("program", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "trainer", ["nnUNetTrainerXAttnRes", pytest.param("nnUNetTrainerUSEMA", marks=pytest.mark.slow)]
)
def test_files_of_graphs(load, tmp_path, name, trainer):
    predictor = load(trainer, folds=(0, 1))
    network, sizes = ensemble_network(predictor), image_sizes(predictor)
    fixed = has_fixed_size(network, name)
    assert fixed == (name == "program" and "USEMA" in trainer)
    writer, example = FORMATS[name], torch.zeros(1, 1, 16, 16) if fixed else torch.zeros(2, 1, 8, 8)
    writer.save(network, example, None if fixed else sizes, tmp_path / writer.file)
    graph = writer.load(tmp_path / writer.file)
    for shape in [(1, 1, 16, 16)] if fixed else [(1, 1, 16, 16), (3, 1, 12, 40)]:
        image = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(graph(image), network(image), rtol=1e-4, atol=1e-5)


def test_weights_in_files_of_their_own_become_one_file(load, tmp_path):
    network = ensemble_network(load())
    save_onnx(network, torch.zeros(2, 1, 8, 8), None, tmp_path / "network.onnx")
    (tmp_path / "scattered").mkdir()
    # as PyTorch writes a graph of more than 2 GB
    onnx.save_model(
        onnx.load(tmp_path / "network.onnx"), tmp_path / "scattered" / "network.onnx", save_as_external_data=True,
        all_tensors_to_one_file=False, size_threshold=0,
    )  # fmt: skip
    assert len(list((tmp_path / "scattered").iterdir())) > 10
    (tmp_path / "moved").mkdir()
    move_onnx(tmp_path / "scattered" / "network.onnx", tmp_path / "moved" / "network.onnx")
    assert {path.name for path in (tmp_path / "moved").iterdir()} == {"network.onnx", "network.onnx.data"}
    image = torch.randn(1, 1, 16, 16)
    graphs = [load_onnx(tmp_path / "moved" / "network.onnx"), load_onnx(tmp_path / "network.onnx")]
    assert torch.equal(graphs[0](image), graphs[1](image))
