"""The grammar of trainer names: all names, and their parts."""

import hashlib
import inspect
import re
import subprocess
import sys

import pytest
from nnunetv2.training.nnUNetTrainer.variants.training_length import nnUNetTrainer_Xepochs

from nnunet_xattnres.training import names
from nnunet_xattnres.training.names import TrainerName, parse, trainer_names


def test_the_names_are_those_of_version_0_1():
    """Results folders and checkpoints have these names: none may be lost or renamed.

    New networks, routings and recipes, such as XAttnResGated, add names.
    """
    everything = {name: parse(name) for name in trainer_names(lengths=True)}
    networks, recipes = ("", "PaperUNet", "EMCAD"), ("", "PaperMulticlass", "PaperBinary")
    first = [
        name
        for name, parts in everything.items()
        if parts.network in networks and parts.recipe in recipes and parts.routing != "XAttnResGated"
    ]
    assert len(first) == len(set(first)) == 1313
    digest = hashlib.sha256("\n".join(sorted(first)).encode()).hexdigest()
    assert digest == "ad080a80e22b645637f3031e130a5c4fd79fdc8db311cbe5d94b7527ce796375"


def test_parse_and_str_are_inverse():
    for name in trainer_names(lengths=True):
        assert str(parse(name)) == name


def test_parts_of_a_name():
    assert parse("nnUNetTrainerXAttnResReplace_PaperMulticlass_1epoch") == TrainerName(
        "", "XAttnResReplace", "PaperMulticlass", 1
    )
    assert parse("nnUNetTrainerPaperUNet") == TrainerName("PaperUNet", "", "", None)
    assert parse("nnUNetTrainerEMCADNoSkip_PaperBinary") == TrainerName("EMCAD", "NoSkip", "PaperBinary", None)


def test_every_name_has_the_form_of_the_grammar():
    routings = "|".join(sorted(filter(None, names.ROUTINGS), key=len, reverse=True))
    networks, recipes = ("|".join(filter(None, part)) for part in (names.NETWORKS, names.RECIPES))
    form = rf"nnUNetTrainer({networks})?({routings})?(_({recipes}))?(_\d+epochs?)?"
    everything = trainer_names(lengths=True)
    for name in everything:
        assert re.fullmatch(form, name), name
        assert "__" not in name  # separates trainer, plans and configuration in nnU-Net's folders
    assert len(everything) == 13 * len(trainer_names())
    assert set(trainer_names()) < set(everything)
    assert not any("epoch" in name for name in trainer_names())
    assert {"nnUNetTrainer", "nnUNetTrainer_5epochs"}.isdisjoint(everything)  # nnU-Net's own


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainer", "nnUNetTrainer_5epochs", "nnUNetTrainerXAttnRess", "nnUNetTrainerXAttnRes_3epochs",
        "nnUNetTrainerEMCADXAttnResEncoder", "nnUNetTrainerXAttnRes_5epochs_PaperBinary", "nnUNetTrainerXAttnRes_",
        "nnUNetTrainerCSAPNoSkip", "nnUNetTrainerNoSkip_LayersOnly", "nnUNetTrainerEMCADXAttnRes_LayersOnly",
        "XAttnRes", "", "_1epoch", "__path__",
    ],
)  # fmt: skip
def test_other_names(name):
    with pytest.raises(ValueError) as error:
        parse(name)
    assert str(error.value).startswith(f"{name} ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("nnUNetTrainerXAttnRes", (2, 3)),
        ("nnUNetTrainer_PaperMulticlass", (2, 3)),
        ("nnUNetTrainer_PaperBinary", (2,)),
        ("nnUNetTrainerPaperUNet", (2,)),
        ("nnUNetTrainerEMCAD_5epochs", (2,)),
        ("nnUNetTrainerCSAPXAttnRes_PaperMulticlass", (2,)),
        ("nnUNetTrainerCSAPPlannedXAttnResReplace_1epoch", (2, 3)),
    ],
)
def test_dims(name, dims):
    assert parse(name).dims == dims


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nnUNetTrainerXAttnRes", {}),
        ("nnUNetTrainerPaperUNetNoSkip", {"skip": False, "encoder": False, "decoder": False}),
        ("nnUNetTrainerXAttnResXavierNoSkip_1epoch", {"skip": False, "init": "xavier_uniform"}),
        ("nnUNetTrainerXAttnResGated_PaperMulticlass_20epochs", {"gate": True}),
        ("nnUNetTrainerEMCADXAttnResGated", {"gate": True}),
        # EMCAD has no option `encoder`
        ("nnUNetTrainerEMCADNoSkip", {"skip": False, "decoder": False}),
        ("nnUNetTrainerCSAP", {"decoder": False}),
        ("nnUNetTrainerCSAPPlanned", {"encoder": False, "decoder": False}),
    ],
)
def test_network_options(name, options):
    assert parse(name).network_options == options


def test_routings_differ():
    for network in names.NETWORKS:
        options = [str(parse(n).network_options) for n in trainer_names() if parse(n).network == network]
        routings = {parse(n).routing for n in trainer_names() if parse(n).network == network}
        assert len(set(options)) == len(routings)


def test_the_lengths_are_nnunets():
    stock = {
        name.removeprefix("nnUNetTrainer_"): int(re.search(r"num_epochs = (\d+)", inspect.getsource(cls)).group(1))
        for name, cls in vars(nnUNetTrainer_Xepochs).items()
        if re.fullmatch(r"nnUNetTrainer_\d+epochs?", name)
    }
    assert {names.length_name(epochs): epochs for epochs in names.EPOCHS} == stock


def test_descriptions():
    """No two trainers have the same row in the list."""
    rows = [names.describe(name) for name in trainer_names()]
    assert {row["name"] for row in rows} == set(trainer_names())
    assert len({(row["network"], row["routing"], row["recipe"]) for row in rows}) == len(rows)


def test_markdown_has_a_row_for_every_part():
    text = names.markdown()
    cells = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    for parts in (names.NETWORKS, names.ROUTINGS, names.RECIPES, map(names.length_name, names.EPOCHS)):
        for part in parts:
            assert (f"`{part}`" if part else "*(none)*") in cells
    columns = [line.count("|") for line in text.split("## Routing")[1].split("## Recipe")[0].splitlines() if line]
    assert len(set(columns)) == 1
    assert str(len(trainer_names())) in re.findall(r"\d+", text)


def test_the_grammar_needs_neither_torch_nor_nnunet():
    program = "import sys; from nnunet_xattnres.training.names import parse; parse('nnUNetTrainerXAttnRes')"
    program += "; sys.exit(' '.join({'torch', 'nnunetv2', 'numpy', 'timm'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", program], check=True)
