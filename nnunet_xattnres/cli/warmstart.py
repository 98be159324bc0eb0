"""xattnres warmstart: start a training of XAttnRes from the weights of a trained stock network.

The command reads a checkpoint of nnU-Net, builds the network of a trainer of this package for the same plans, carries
over all weights that fit, and lists those that do not. It computes both networks on a random image and prints by how
much their logits differ. With the default trainer, nnUNetTrainerXAttnResGated, they are equal: its gates start at 0, at
which the network is the stock network. The other routings start with other logits, because their layers compute a mean.

There are two ways to use the result:
  -o FILE   weights for nnUNetv2_train -pretrained_weights FILE; nnU-Net then gives the segmentation heads new initial
            values, as it always does
  -f FOLD   a checkpoint in nnUNet_results from which nnUNetv2_train --c starts at epoch 0, segmentation heads included

examples:
  xattnres warmstart fold_0/checkpoint_final.pth -f 0
  nnUNetv2_train 4 2d 0 -tr nnUNetTrainerXAttnResGated --c

  xattnres warmstart fold_0/checkpoint_final.pth -o warm.pth --plans $nnUNet_preprocessed/Dataset007_X/nnUNetPlans.json
  nnUNetv2_train 7 2d 0 -tr nnUNetTrainerXAttnResGated -pretrained_weights warm.pth
"""

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError, last_line
from ..utils.files import replaced_file

if TYPE_CHECKING:
    from torch import nn

    from ..training.warm_start import WarmStart

_SMALLEST_SIDE = 4
"""The side of the deepest features on the random image, in voxels."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of nnU-Net, such as fold_0/checkpoint_final.pth")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("-o", "--out", type=Path, metavar="FILE", help="write weights for -pretrained_weights")
    target.add_argument("-f", "--fold", metavar="FOLD", help="write a checkpoint of this fold, or of all, for --c")
    parser.add_argument(
        "-tr", "--trainer", default="nnUNetTrainerXAttnResGated", metavar="TRAINER",
        help="the trainer that will train the network (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--plans", type=Path, metavar="FILE", help="the plans of the new training (default: those of the checkpoint)"
    )
    parser.add_argument(
        "-c", "--configuration", metavar="C", help="its configuration (default: that of the checkpoint)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of -o")


def run(arguments: argparse.Namespace) -> int:
    _check_target(arguments)
    import torch

    from ..training.lookup import find_trainer
    from ..training.warm_start import carry_over, logits_difference
    from ..utils.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(arguments.checkpoint)
    old = _Training.of_checkpoint(checkpoint)
    new = _Training(
        find_trainer(arguments.trainer), *_new_plans(arguments, old), arguments.configuration or old.configuration
    )
    new.check(arguments.plans or arguments.checkpoint)
    if arguments.fold is not None:
        _check_fold(new.fold_folder(arguments.fold))
    trained, network = old.build(), new.build()
    trained.load_state_dict(carry_over(checkpoint["network_weights"], trained).weights)
    warm = carry_over(checkpoint["network_weights"], network)
    _refuse_misfit(warm, new.trainer, arguments.checkpoint)
    network.load_state_dict(warm.weights)
    _print_report(warm)
    if old.channels == new.channels and old.classes == new.classes:
        image = torch.randn(1, old.channels, *new.small_patch(), generator=torch.Generator().manual_seed(0))
        difference = logits_difference(trained, network, image)
        equal = "equal" if difference == 0 else f"differ by up to {difference:.3g}"
        print(f"logits of the trained network and of the new one on a random image: {equal}")
    if arguments.out is not None:
        with replaced_file(arguments.out) as temporary:
            torch.save({"network_weights": warm.weights}, temporary)
        print(f"written: {arguments.out}\ntrain with: nnUNetv2_train ... -tr {arguments.trainer} "
              f"-pretrained_weights {arguments.out} (nnU-Net initialises the segmentation heads again)")  # fmt: skip
        return 0
    file = new.write_checkpoint(arguments.fold, warm.weights)
    print(f"written: {file}\ntrain with: nnUNetv2_train {new.plans.dataset_name} {new.configuration} {arguments.fold} "
          f"-p {new.plans.plans_name} -tr {arguments.trainer} --c")  # fmt: skip
    return 0


def _refuse_misfit(warm: "WarmStart", trainer: type, checkpoint: Path) -> None:
    """Raise an error if the checkpoint is of another network, or weights that are not in it would be frozen."""
    from ..training.recipes import LayersOnly

    # biases and normalisations fit many networks
    kernels = [name for name in warm.carried if name.startswith("encoder.") and warm.weights[name].ndim > 2]
    if not kernels:
        raise UserError(
            f"no convolution of {checkpoint} fits the encoder of {trainer.__name__}: expected a checkpoint "
            "of plans with the same network (nnUNetv2_move_plans_between_datasets)"
        )
    missing = [
        name
        for name in (*warm.initial, *warm.other_shape)
        if not name.startswith("xattnres.") and ".seg_layers." not in name
    ]
    if missing and issubclass(trainer, LayersOnly):
        raise UserError(
            f"{trainer.__name__} freezes {len(missing)} tensors that the checkpoint does not have, the first is "
            f"{missing[0]}: use the same trainer without _LayersOnly"
        )


def _check_target(arguments: argparse.Namespace) -> None:
    if arguments.fold is not None and not (arguments.fold == "all" or arguments.fold.isdecimal()):
        raise UserError(f"-f must be the number of a fold, or all, got {arguments.fold!r}")
    if arguments.fold is not None and not os.environ.get("nnUNet_results"):
        raise UserError("nnUNet_results is not set: export nnUNet_results=/path/to/nnUNet_results, as for nnU-Net")
    if arguments.out is not None:
        if not arguments.out.absolute().parent.is_dir():
            raise UserError(f"the folder {arguments.out.absolute().parent} does not exist: make it first")
        if arguments.out.exists() and not arguments.overwrite:
            raise UserError(f"{arguments.out} exists: choose another file, or replace it with --overwrite")


def _new_plans(arguments: argparse.Namespace, old: "_Training") -> tuple[Any, dict]:
    """The plans and the dataset.json of the new training."""
    if arguments.plans is None:
        return old.plans, old.dataset
    from ..utils.plans_file import read_dataset_json, read_plans

    dataset = read_dataset_json(arguments.plans)
    if dataset is None:
        raise UserError(f"{arguments.plans.parent} has no dataset.json, which nnU-Net writes beside its plans")
    return read_plans(arguments.plans), dataset


class _Training:
    """A trainer with plans and data, whose network can be built without training it."""

    def __init__(self, trainer: Any, plans: Any, dataset: dict, configuration: str):
        self.trainer, self.plans, self.dataset, self.configuration = trainer, plans, dataset, configuration

    @classmethod
    def of_checkpoint(cls, checkpoint: dict[str, Any]) -> "_Training":
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        from ..training.lookup import find_trainer

        arguments = checkpoint["init_args"]
        return cls(
            find_trainer(checkpoint["trainer_name"]), PlansManager(arguments["plans"]), arguments["dataset_json"],
            arguments["configuration"],
        )  # fmt: skip

    def check(self, path: Path) -> None:
        """Raise an error if the trainer cannot train the configuration."""
        from ..training.trainer import XAttnResTrainer
        from ..utils.plans_file import get_configuration

        configuration = get_configuration(self.plans, self.configuration, path)
        if issubclass(self.trainer, XAttnResTrainer):
            try:
                self.trainer.check_configuration(configuration)
                self.trainer.check_channels(configuration, self.dataset)
                self.trainer.check_labels(self.plans.get_label_manager(self.dataset))
            except ValueError as error:
                raise UserError(str(error)) from None

    @property
    def _manager(self) -> Any:
        return self.plans.get_configuration(self.configuration)

    @property
    def channels(self) -> int:
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

        return determine_num_input_channels(self.plans, self._manager, self.dataset)

    @property
    def classes(self) -> int:
        return self.plans.get_label_manager(self.dataset).num_segmentation_heads

    def small_patch(self) -> list[int]:
        """The size of an image that takes little time: at most that of the patches."""
        from ..training.patches import planned_strides

        strides = planned_strides(self._manager)
        return [
            min(side, _SMALLEST_SIDE * stride) for side, stride in zip(self._manager.patch_size, strides, strict=True)
        ]

    def build(self) -> "nn.Module":
        """The network with its initial weights, as nnU-Net builds it for inference."""
        import torch

        with torch.random.fork_rng(devices=[]):
            return self.trainer.build_network_architecture(
                self.plans, self._manager, self.channels, self.classes, False
            )

    def fold_folder(self, fold: str) -> Path:
        """Where nnU-Net puts the checkpoints of a fold, in nnUNet_results."""
        from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier

        model = convert_trainer_plans_config_to_identifier(
            self.trainer.__name__, self.plans.plans_name, self.configuration
        )
        return Path(os.environ["nnUNet_results"]) / self.plans.dataset_name / model / f"fold_{fold}"

    def write_checkpoint(self, fold: str, weights: dict[str, Any]) -> Path:
        """Write the checkpoint from which `nnUNetv2_train --c` starts at epoch 0."""
        import torch

        from ..utils.quiet import silence_libraries

        # nnUNetv2_train adds the entry, the trainer removes it
        plans = {**self.plans.plans, "continue_training": False}
        number = fold if fold == "all" else int(fold)
        with silence_libraries():
            try:
                trainer = self.trainer(plans, self.configuration, number, self.dataset, device=torch.device("cpu"))
                trainer.initialize()
            except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
                # nnU-Net looks at the preprocessed data, and says little where it finds none
                raise UserError(
                    f"nnU-Net cannot start this training ({last_line(error)}): set nnUNet_preprocessed, and preprocess "
                    f"{self.plans.dataset_name} first"
                ) from None
            trainer.network.load_state_dict(weights)
            trainer.current_epoch = -1  # the checkpoint holds the next epoch
            file = Path(trainer.output_folder) / "checkpoint_latest.pth"
            trainer.save_checkpoint(str(file))
        return file


def _check_fold(folder: Path) -> None:
    """Raise an error if the training of a fold has begun."""
    existing = sorted(folder.glob("checkpoint_*.pth"))
    if existing:
        raise UserError(f"{existing[0]} exists: this training has begun; move the folder {folder} away first")


def _print_report(warm: "WarmStart") -> None:
    """Print what has been carried over, and what has not, by stage or layer."""
    total = len(warm.carried) + len(warm.initial) + len(warm.other_shape)
    print(f"{len(warm.carried)} of {total} tensors are those of the trained network")
    for reason, names in (
        ("not in the checkpoint, initial values", warm.initial),
        ("other shapes in the checkpoint, initial values", warm.other_shape),
        ("in the checkpoint only, not used", warm.unused),
    ):
        stages = Counter(_stage_of_tensor(name) for name in names)
        if stages:
            print(f"{reason}: {', '.join(f'{stage} ({count})' for stage, count in stages.items())}")


def _stage_of_tensor(name: str) -> str:
    """The stage or the layer that a tensor belongs to.

    >>> _stage_of_tensor("encoder.stages.0.0.convs.0.conv.weight"), _stage_of_tensor("xattnres.3.gate")
    ('encoder.stages.0', 'xattnres')
    """
    parts = name.split(".")
    return parts[0] if parts[0] == "xattnres" else ".".join(parts[:3])
