"""The paper's recipes in nnU-Net's trainer: optimiser, schedule, loss, scales, clipping, labels they cannot train."""

import pytest
import torch
from monai.losses import DiceLoss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.emcad import small_encoder

from nnunet_xattnres.training.losses import SubsetsLoss, WeightedBCEIoULoss
from nnunet_xattnres.training.trainer_classes import trainer_class


@pytest.fixture
def make(prepared_plans, monkeypatch):
    """A function from a trainer's name to an initialised trainer; `labels` are those of dataset.json."""
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")

    def make(name, labels=None, configuration="2d", **dataset):
        prepared_plans["dataset_json"].update(dataset, labels=labels or {"background": 0, "organ": 1})
        trainer = trainer_class(name)(**prepared_plans, configuration=configuration, fold=0, device=torch.device("cpu"))
        trainer.initialize()
        return trainer

    with small_encoder():
        yield make


@pytest.mark.parametrize("recipe", ["PaperMulticlass", "PaperBinary"])
def test_optimiser_and_constant_learning_rate(make, recipe):
    trainer = make(f"nnUNetTrainerXAttnRes_{recipe}")
    assert type(trainer.optimizer) is torch.optim.AdamW
    (group,) = trainer.optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in trainer.network.parameters()}
    assert (group["lr"], group["weight_decay"], trainer.initial_lr, trainer.weight_decay) == (1e-4,) * 4
    for epoch in (0, 1, trainer.num_epochs - 1):
        trainer.lr_scheduler.step(epoch)
        assert group["lr"] == 1e-4


def test_without_a_recipe_everything_is_nnunets(make):
    trainer = make("nnUNetTrainerXAttnRes")
    assert type(trainer.optimizer) is torch.optim.SGD
    outputs = [torch.randn(2, 2, 16, 16), torch.randn(2, 2, 8, 8)]
    targets = [torch.randint(2, (2, 1, *o.shape[2:])).float() for o in outputs]
    assert trainer.loss(outputs, targets) == nnUNetTrainer._build_loss(trainer)(outputs, targets)


def multiclass_loss(x, y):
    dice = DiceLoss(softmax=True, to_onehot_y=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    return 0.3 * torch.nn.functional.cross_entropy(x, y[:, 0].long()) + 0.7 * dice(x, y)


LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def test_multiclass_loss(make):
    loss = make("nnUNetTrainerPaperUNet_PaperMulticlass", LABELS).loss
    x, y = torch.randn(2, 3, 16, 16), torch.randint(3, (2, 1, 16, 16))
    torch.testing.assert_close(loss(x, y), multiclass_loss(x, y))


def test_the_loss_keeps_nnunets_weights_of_the_scales(make):
    trainer = make("nnUNetTrainerXAttnRes_PaperMulticlass", LABELS)
    stock = nnUNetTrainer._build_loss(trainer)
    assert isinstance(trainer.loss, DeepSupervisionWrapper)
    assert list(trainer.loss.weight_factors) == list(stock.weight_factors)
    x, y = torch.randn(2, 3, 16, 16), torch.randint(3, (2, 1, 16, 16))
    torch.testing.assert_close(trainer.loss.loss(x, y), multiclass_loss(x, y))


def test_an_ignored_label_does_not_count(make):
    labels = {**LABELS, "ignore": 3}
    loss = make("nnUNetTrainerPaperUNet_PaperMulticlass", labels).loss
    x, y = torch.randn(2, 3, 16, 16), torch.randint(3, (2, 1, 16, 16))
    y[..., 9:] = 3
    torch.testing.assert_close(loss(x, y), multiclass_loss(x[..., :9], y[..., :9]))


@pytest.mark.parametrize(
    ("name", "subsets", "reduction"),
    [("nnUNetTrainerEMCAD", "all", "mean"), ("nnUNetTrainerEMCAD_PaperMulticlass", "all", "sum"),
     ("nnUNetTrainerEMCAD_PaperBinary", "single and sum", "sum")],
)  # fmt: skip
def test_heads_of_emcad(make, name, subsets, reduction):
    loss = make(name).loss
    assert isinstance(loss, SubsetsLoss)
    assert (loss.subsets, loss.reduction) == (subsets, reduction)


class Recorder:
    """Replaces nnU-Net's training step: keeps the batches, and returns their number as the loss."""

    def __init__(self):
        self.batches = []

    def __call__(self, trainer, batch):
        self.batches.append(batch)
        return {"loss": float(len(self.batches))}


def test_every_batch_at_three_scales(make, monkeypatch):
    record = Recorder()
    monkeypatch.setattr(nnUNetTrainer, "train_step", lambda self, batch: record(self, batch))
    trainer = make("nnUNetTrainerXAttnRes_PaperBinary")
    labels = torch.zeros(2, 1, 32, 48, dtype=torch.int16)
    labels[..., 24:] = 1
    batch = {"data": torch.ones(2, 1, 32, 48), "target": [labels, labels[..., ::2, ::2]]}
    assert trainer.train_step(batch)["loss"] == 2
    # strides 1, 2 and 2: whole multiples of 4
    assert [tuple(b["data"].shape[2:]) for b in record.batches] == [(24, 36), (32, 48), (40, 60)]
    for scaled in record.batches:
        size = scaled["data"].shape[2:]
        assert [tuple(t.shape[2:]) for t in scaled["target"]] == [tuple(size), tuple(s // 2 for s in size)]
        torch.testing.assert_close(scaled["data"], torch.ones_like(scaled["data"]))
        for target in scaled["target"]:
            assert target.dtype == torch.int16
            half = target.shape[-1] // 2
            assert not target[..., :half].any()
            assert (target[..., half:] == 1).all()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # three multiples of the total stride of 4: half a multiple goes to the even one
        ("nnUNetTrainerXAttnRes_PaperBinary", [(8, 24), (12, 32), (16, 40)]),
        ("nnUNetTrainerPaperUNet_PaperBinary", [(9, 24), (12, 32), (15, 40)]),
        ("nnUNetTrainerEMCAD_PaperBinary", [(9, 24), (12, 32), (15, 40)]),
    ],
)
def test_sizes_of_the_scaled_batches(make, monkeypatch, name, sizes):
    record = Recorder()
    monkeypatch.setattr(nnUNetTrainer, "train_step", lambda self, batch: record(self, batch))
    make(name).train_step({"data": torch.ones(1, 1, 12, 32), "target": torch.zeros(1, 1, 12, 32)})
    assert [tuple(b["data"].shape[2:]) for b in record.batches] == sizes


def test_gradients_are_unscaled_before_they_are_clipped(make):
    trainer = make("nnUNetTrainerPaperUNet_PaperBinary")
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    seen = []

    def keep_median(*_):
        gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()])
        seen.append(gradients.abs().median().item())

    trainer.optimizer.register_step_pre_hook(keep_median)
    labels = torch.randint(2, (2, 1, 32, 32))
    trainer.train_step({"data": torch.randn(2, 1, 32, 32), "target": labels})
    assert len(seen) == 3
    # gradients that are still scaled would all be clipped
    assert 0 < max(seen) < 0.5


def test_gradients_are_clipped_value_by_value(make):
    trainer = make("nnUNetTrainerPaperUNet_PaperBinary")
    for n, parameter in enumerate(trainer.network.parameters()):
        parameter.grad = torch.full_like(parameter, 0.1 if n else -7.0)
    trainer.optimizer.step()
    first, *rest = (p.grad for p in trainer.network.parameters())
    assert (first == -0.5).all()
    assert all((gradient == 0.1).all() for gradient in rest)


def test_the_binary_loss_trains(make):
    """The loss on one batch decreases."""
    torch.manual_seed(0)
    trainer = make("nnUNetTrainerPaperUNetXAttnRes_PaperBinary")
    assert isinstance(trainer.loss, WeightedBCEIoULoss)
    labels = torch.zeros(2, 1, 32, 32, dtype=torch.int16)
    labels[..., 10:25, 5:20] = 1
    batch = {"data": labels + 0.3 * torch.randn(2, 1, 32, 32), "target": labels}
    losses = [trainer.train_step(dict(batch))["loss"] for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("name", "labels", "dataset", "declared", "hint"),
    [
        ("nnUNetTrainerXAttnRes_PaperBinary", LABELS, {}, "2 foreground labels", "with _PaperMulticlass"),
        ("nnUNetTrainerEMCAD_PaperBinary", REGIONS, {"regions_class_order": [1, 2]}, "regions", "without _PaperBinary"),
        ("nnUNetTrainer_PaperMulticlass", REGIONS, {"regions_class_order": [1, 2]}, "regions",
         "without _PaperMulticlass"),
    ],
)  # fmt: skip
def test_labels_that_a_recipe_cannot_train(make, tmp_path, name, labels, dataset, declared, hint):
    """The error names the trainer, what dataset.json declares and which recipe would do; nothing is written."""
    with pytest.raises(ValueError, match=f"^{name}: .*{declared}.*{hint}") as error:
        make(name, labels, **dataset)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nnUNet_results").exists()


@pytest.mark.parametrize("name", ["nnUNetTrainerXAttnRes_PaperBinary", "nnUNetTrainerEMCAD", "nnUNetTrainerPaperUNet"])
def test_three_dimensional_plans_for_a_two_dimensional_trainer(make, tmp_path, name):
    with pytest.raises(ValueError, match=rf"^{name} .*16 x 16 x 16.*2d$") as error:
        make(name, configuration="3d_fullres")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nnUNet_results").exists()


def test_layers_only_trains_the_layers_and_the_heads(make):
    """A step with nnU-Net's own code changes these weights and no others."""
    trainer = make("nnUNetTrainerXAttnResGated_LayersOnly")
    assert type(trainer.optimizer) is torch.optim.SGD and trainer.num_epochs == 1000
    torch.nn.init.constant_(trainer.network.xattnres["1"].gate, 0.5)
    before = {name: parameter.clone() for name, parameter in trainer.network.named_parameters()}
    targets = [torch.randint(2, (2, 1, side, side)).float() for side in (16, 8)]
    trainer.train_step({"data": torch.randn(2, 1, 16, 16), "target": targets})
    changed = {name for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])}
    assert {".".join(name.split(".")[:2]) for name in changed} >= {"xattnres.1", "decoder.seg_layers"}
    assert all(name.startswith(("xattnres.", "decoder.seg_layers.")) for name in changed)
    frozen = {name for name, p in trainer.network.named_parameters() if p.grad is None}
    assert {name.split(".")[0] for name in frozen} == {"encoder", "decoder"}


def test_layers_only_needs_trained_weights(prepared_plans):
    trainer = trainer_class("nnUNetTrainerXAttnResGated_LayersOnly")(
        **prepared_plans, configuration="2d", fold=0, device=torch.device("cpu")
    )
    with pytest.raises(RuntimeError, match="warmstart"):
        trainer.on_train_start()


def test_layers_only_keeps_running_statistics(make, prepared_plans):
    arguments = prepared_plans["plans"]["configurations"]["2d"]["architecture"]["arch_kwargs"]
    arguments["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm2d"
    trainer = make("nnUNetTrainerXAttnResGated_LayersOnly")
    before = {name: buffer.clone() for name, buffer in trainer.network.named_buffers()}
    assert before
    trainer.on_train_epoch_start()
    targets = [torch.randint(2, (2, 1, side, side)).float() for side in (16, 8)]
    trainer.train_step({"data": torch.randn(2, 1, 16, 16), "target": targets})
    assert all(torch.equal(buffer, before[name]) for name, buffer in trainer.network.named_buffers())
