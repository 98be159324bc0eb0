"""New plans hold the network of a trainer, and what nnU-Net makes of them is that network."""

import math
from copy import deepcopy

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_xattnres.planning.plans import default_plans_name, make_plans, network_trainer
from nnunet_xattnres.training.names import NETWORKS, TrainerName
from nnunet_xattnres.training.planned import PlannedNetworkTrainer
from nnunet_xattnres.training.trainer_classes import trainer_class
from nnunet_xattnres.utils.errors import UserError
from tests.support.plans_file import plans_dict

XATTNRES = "nnUNetTrainerXAttnRes"


def cascade():
    """Plans as nnU-Net makes them, with the configurations of a cascade and one that a user has added."""
    plans = plans_dict()
    configurations = plans["configurations"]
    for configuration in configurations.values():
        dim = len(configuration["patch_size"])
        configuration |= {"patch_size": [32] * dim, "median_image_size_in_voxels": [48.0] * dim}
    configurations["3d_lowres"] = deepcopy(configurations["3d_fullres"])
    configurations["3d_lowres"] |= {"data_identifier": "nnUNetPlans_3d_lowres", "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    configurations["2d_bs9"] = {"inherits_from": "2d", "batch_size": 9}
    return plans


def make(plans, name=XATTNRES, **options):
    _, trainer = network_trainer(name)
    return make_plans(plans, trainer, "new", 2, 3, **options)


def build(plans, configuration, deep_supervision=True):
    """The network that nnU-Net's own trainer builds."""
    manager = PlansManager(plans)
    return nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(configuration), 2, 3, deep_supervision
    )


@pytest.mark.parametrize(
    "name",
    [
        str(TrainerName(network, routing))
        for network, entry in NETWORKS.items()
        if issubclass(trainer_class(entry.trainer), PlannedNetworkTrainer)
        for routing in ("NoSkip", "XAttnRes", "XAttnResUpsampled", "XAttnResGated")
    ],
)
def test_nnunets_trainer_builds_the_network_of_the_trainer(name):
    plans = cascade()
    for configuration in plans["configurations"].values():  # widths that suit every network
        if "architecture" in configuration:
            configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [32, 32, 32]
    made, _ = make(plans, name)
    for configuration in made["configurations"]:
        manager = PlansManager(plans)
        own = trainer_class(name).build_network_architecture(
            manager, manager.get_configuration(configuration), 2, 3, True
        )
        network = build(made, configuration)
        assert type(network) is type(own) and network.connections == own.connections
        assert {n: p.shape for n, p in network.state_dict().items()} == {
            n: p.shape for n, p in own.state_dict().items()
        }


@pytest.mark.parametrize("keep_sizes", [True, False])
def test_everything_else_stays(keep_sizes):
    plans = cascade()
    before = deepcopy(plans)
    made, changes = make(plans, keep_sizes=keep_sizes)
    assert plans == before
    assert made["plans_name"] == "new"
    new, old = PlansManager(made), PlansManager(plans)
    replaced = {"architecture", "patch_size", "batch_size"}
    for name in plans["configurations"]:
        a, b = new.get_configuration(name).configuration, old.get_configuration(name).configuration
        assert {k: v for k, v in a.items() if k not in replaced} == {k: v for k, v in b.items() if k not in replaced}
        assert all(new <= old for new, old in zip(a["patch_size"], b["patch_size"], strict=True))
        assert a["batch_size"] <= b["batch_size"]
        if keep_sizes:
            assert (a["patch_size"], a["batch_size"]) == (b["patch_size"], b["batch_size"])
    assert {k: v for k, v in made.items() if k not in ("configurations", "plans_name")} == {
        k: v for k, v in plans.items() if k not in ("configurations", "plans_name")
    }
    assert {change.configuration for change in changes} == {"2d", "3d_fullres", "3d_lowres", "2d_bs9"}
    assert all(change.memory_ratio > 1 if keep_sizes else change.memory_ratio <= 1 for change in changes)


def test_memory_is_that_of_nnunets_own_estimate():
    """The planner's function that nnU-Net sizes its batches with says the same."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    plans = cascade()
    plans["configurations"]["2d"]["batch_size"] = 40
    made, changes = make(plans)

    def estimate(configuration):
        return configuration.batch_size * ExperimentPlanner.static_estimate_VRAM_usage(
            configuration.patch_size, 2, 3, configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs, configuration.network_arch_init_kwargs_req_import,
        )  # fmt: skip

    for change in changes:
        old, new = (PlansManager(p).get_configuration(change.configuration) for p in (plans, made))
        assert change.memory_ratio == pytest.approx(estimate(new) / estimate(old))
        assert change.batch_size == (old.batch_size, new.batch_size)
    assert changes[0].batch_size[1] > 2 and changes[0].memory_ratio > 0.95  # a batch of one more would not fit


def test_plans_of_this_package_are_refused():
    """Their sizes are not those that nnU-Net has planned."""
    made, _ = make(cascade())
    with pytest.raises(UserError) as error:
        make(made, "nnUNetTrainerXAttnResReplace")
    assert "2d" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("planned", ["USEMA", "CSAPPlanned", "XAttnResReplace", "XAttnResGated"])
@pytest.mark.parametrize("name", ["XAttnRes", "USEMABot", "CSAPPlannedXAttnRes"])
def test_a_trainer_trains_the_network_of_its_own_name_with_any_plans(planned, name):
    plans = cascade()
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [32, 32, 32]
    made, _ = make(plans, f"nnUNetTrainer{planned}", keep_sizes=True)
    networks = []
    for content in (plans, made):
        manager = PlansManager(content)
        configuration = manager.get_configuration("3d_fullres")
        cls = trainer_class(f"nnUNetTrainer{name}")
        networks.append(cls.build_network_architecture(manager, configuration, 2, 3, True))
    expected, network = networks
    assert type(network) is type(expected) and network.connections == expected.connections
    assert network.state_dict().keys() == expected.state_dict().keys()


def test_another_network_is_one_line():
    plans = cascade()
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "my.own.Network"
    with pytest.raises(UserError) as error:
        make(plans)
    assert all(fact in str(error.value) for fact in ("3d_fullres", "my.own.Network")) and "\n" not in str(error.value)


def test_a_patch_that_cannot_become_smaller_is_one_line():
    plans = cascade()
    # the smallest patch that nnU-Net plans, in its smallest batch
    plans["configurations"]["3d_fullres"]["patch_size"] = [8, 16, 16]
    with pytest.raises(UserError) as error:
        make(plans)
    assert "3d_fullres" in str(error.value) and "8 x 16 x 16" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerEMCAD", f"{XATTNRES}_5epochs", f"{XATTNRES}Replac"])
def test_trainers_whose_network_plans_cannot_have(name):
    with pytest.raises(UserError) as error:
        network_trainer(name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_the_default_name_is_that_of_plans_and_network():
    for name in (XATTNRES, "nnUNetTrainerXAttnResGated"):
        assert default_plans_name("P", network_trainer(name)[0]) == "P" + name.removeprefix("nnUNetTrainer")


def test_measured_memory_takes_the_place_of_the_estimate():
    """Measurements that say 1 MB for a planned patch and 1.5 MB for a new one: two thirds of the batch fit."""
    plans, asked = cascade(), []
    plans["configurations"]["2d"]["batch_size"] = 40

    def peak(configuration, trainer, patch, batch):
        asked.append((id(configuration), trainer, tuple(patch), batch))
        assert len(asked) == len(set(asked))  # none is measured twice
        share = math.prod(patch) / math.prod(configuration.patch_size)
        return None if batch * share > 60 else int(1e6 * batch * share * (1 if trainer == "nnUNetTrainer" else 1.5))

    _, changes = make(plans, peak_memory=peak)
    assert changes[0].batch_size == (40, 26) and changes[0].memory_ratio == pytest.approx(26 * 1.5 / 40)
    assert len([a for a in asked if a[1] == XATTNRES and len(a[2]) == 2]) < 16  # bisection, in two configurations
    for change in changes:
        assert change.memory_ratio <= 1


def test_planned_networks_that_do_not_fit_the_gpu_are_one_line():
    with pytest.raises(UserError) as error:
        make(cascade(), peak_memory=lambda *_: None)
    assert "2d" in str(error.value) and "\n" not in str(error.value)
