"""The model card says what the files of a model say, and what they do not."""

import re

import pytest
import torch
from huggingface_hub import ModelCard
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.plans_file import plans_dict
from support.shell_lines import check, commands

from nnunet_xattnres.export.model_card import Fold, ModelFacts, RequiredCode, Scores, model_card
from nnunet_xattnres.layer import XAttnRes
from nnunet_xattnres.networks.paper_unet import PaperUNet


def make(network=None, dataset=(), plans=(), configuration=(), **facts):
    """The card of a model; what is given differs from a stock model of one label, of which little is known."""
    content = plans_dict() | dict(plans)
    content["configurations"]["2d"] |= dict(configuration)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    known = {
        "plans": content, "dataset": description | dict(dataset), "configuration_name": "2d",
        "configuration": PlansManager(content).get_configuration("2d"), "network": network or torch.nn.Conv2d(1, 2, 3),
        "trainer": "nnUNetTrainer", "trained_plans": "nnUNetPlans", "required_code": RequiredCode.NOTHING,
        "checkpoint": "checkpoint_final.pth", "mirror_axes": (0, 1), "folds": [Fold("0", None, None, None)],
        "cross_validation": None, "postprocessing": None,
    }  # fmt: skip
    return model_card(ModelFacts(**known | facts))


def rows(card):
    """The rows of all tables."""
    lines = [line for line in card.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def titles(card):
    return re.findall(r"^## (.+)$", card, re.MULTILINE)


@pytest.mark.parametrize("required_code", RequiredCode)
def test_the_commands_exist(required_code):
    card = make(
        required_code=required_code, configuration={"previous_stage": "3d_lowres"},
        folds=[Fold(f, 5, None, None) for f in ("0", "1")],
        postprocessing="crossval_results_folds_0_1/postprocessing.pkl",
    )  # fmt: skip
    (block,) = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    found = list(commands(block))
    for command in found:
        check(command)
    (predict,) = [command for command in found if command[0] == "nnUNetv2_predict_from_modelfolder"]
    position = predict.index("-f")
    assert predict[position + 1 : position + 3] == ["0", "1"] and "-prev_stage_predictions" in predict
    assert ["export" in command for command in found].count(True) == (
        required_code in (RequiredCode.TRAINERS, RequiredCode.OWN_TRAINER, RequiredCode.OWN_NETWORK)
    )


@pytest.mark.parametrize("network", [torch.nn.Conv2d(1, 2, 3), torch.nn.Sequential(XAttnRes([4, 4], 2))])
def test_a_network_in_a_file_of_the_user(network):
    architecture = plans_dict()["configurations"]["2d"]["architecture"] | {"network_class_name": "my_networks.MyUNet"}
    card = make(network, configuration={"architecture": architecture}, required_code=RequiredCode.OWN_NETWORK)
    (block,) = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    assert "PYTHONPATH" in block and "my_networks.MyUNet" in block and "nnUNet_extTrainer" not in block
    # this package only if the network has modules of it
    assert ("nnunet-xattnres" in block) == isinstance(network, torch.nn.Sequential)
    assert "`my_networks.MyUNet`" in card


def test_scores_by_label_and_what_is_not_known():
    scores = Scores(3, 0.75, {"1": 0.5, "2": float("nan")})
    dataset = {"labels": {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}, "numTraining": 12}
    folds = [Fold("0", 1000, "2.9.0", scores), Fold("1", 900, "2.9.0", None)]
    card = make(dataset=dataset, folds=folds, cross_validation=Scores(None, 0.25, {"1": 0.25, "2": 0.25}))
    assert ["", "cases", "mean", "liver", "tumour"] in rows(card)
    assert ["fold 0", "3", "0.7500", "0.5000", "undefined"] in rows(card)
    assert ["all cases of these folds", "?", "0.2500", "0.2500", "0.2500"] in rows(card)
    assert "1000 (fold 0), 900 (fold 1)" in card and not any("ignore" in row for row in rows(card))
    missing = card.partition("## Not recorded")[2].partition("##")[0]
    assert "scores of fold 1" in missing and "training cases" not in missing and "PyTorch" not in missing

    card = make()
    assert "Validation" not in titles(card)
    missing = card.partition("## Not recorded")[2].partition("##")[0]
    assert all(fact in missing for fact in ("fold 0", "training cases", "epochs", "PyTorch"))


def test_regions():
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": 3}
    scores = Scores(1, 0.5, {"(1, 2, 3)": 0.9, "(2, 3)": 0.4, "3": 0.2})
    dataset = {"labels": labels, "regions_class_order": [1, 2, 3]}
    card = make(dataset=dataset, folds=[Fold("0", 1, None, scores)])
    assert [row for row in rows(card) if row[0] in labels] == [
        ["whole", "1, 2, 3", "1"],
        ["core", "2, 3", "2"],
        ["edge", "3", "3"],
    ]
    assert ["fold 0", "1", "0.5000", "0.9000", "0.4000", "0.2000"] in rows(card)
    # nnU-Net counts a region of background alone as background
    with_air = {"labels": {**labels, "air": [0, 0]}, "regions_class_order": [1, 2, 3]}
    assert make(dataset=with_air) == make(dataset=dataset)


def test_an_order_of_classes_without_regions_is_passed_over():
    labels = {"background": 0, "liver": 1, "tumour": [2]}
    card = make(dataset={"labels": labels, "regions_class_order": [1]})
    assert card == make(dataset={"labels": labels})
    assert ["tumour", "2"] in rows(card)


@pytest.mark.parametrize("fact", ["all", "checkpoint_best.pth"])
def test_scores_that_are_not_of_these_weights_or_of_other_cases_are_said_to_be(fact):
    scores = Scores(1, 0.5, {"1": 0.5})
    usual = make(folds=[Fold("0", 1, None, scores)])
    other = {"folds": [Fold("all", 1, None, scores)]} if fact == "all" else {"checkpoint": fact}
    card = make(**{"folds": [Fold("0", 1, None, scores)]} | other)
    section = [text.partition("## Validation")[2].partition("##")[0] for text in (usual, card)]
    assert fact not in section[0] and f"`{fact}`" in section[1]


def test_pictures_have_all_channels_in_one_file():
    dataset = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}
    pictures = make(dataset=dataset, plans={"image_reader_writer": "NaturalImage2DIO"})
    assert "_0000.png" in pictures and "_0001.png" not in pictures
    assert ["B", "CASE_0002.png"] in rows(make(dataset=dataset))


def test_the_texts_of_users_break_no_table():
    card = make(dataset={"description": "two\nlines | a bar", "licence": "CC0"})
    assert ["description", r"two lines \| a bar"] in rows(card)
    assert "CC0" in card.partition("## Licence")[2]


@pytest.mark.parametrize(
    ("network", "papers"),
    [
        (torch.nn.Conv2d(1, 1, 1), {"Nature Methods"}),
        (torch.nn.Sequential(XAttnRes([4, 4], 2)), {"Nature Methods", "2604.03297"}),
        (PaperUNet(1, 2, encoder=False, decoder=False), {"Nature Methods", "2604.03297"}),
    ],
)
def test_citations(network, papers):
    cited = make(network).partition("## Citation")[2]
    assert {
        paper for paper in ("Nature Methods", "2604.03297", "EMCAD", "2604.05431", "2605.11131") if paper in cited
    } == papers


def test_the_hub_reads_the_front_matter_and_the_licence_is_left_to_the_user():
    card = make()
    data = ModelCard(card).data  # of the Hugging Face hub's own library
    assert (data.library_name, data.pipeline_tag, data.license) == ("nnunet", "image-segmentation", None)
    assert "license" in card.split("---\n")[1]
