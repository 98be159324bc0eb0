"""The labels of a dataset.json, and files that are none."""

import json

import pytest
from support.label_maps import write_dataset_json

from nnunet_xattnres.evaluation.labels import Labels, find_dataset_json, find_plans, read_labels
from nnunet_xattnres.utils.errors import UserError


@pytest.mark.parametrize(
    ("description", "regions", "known", "ignore"),
    [
        ({"background": 0, "liver": 1, "spleen": 2}, {"liver": (1,), "spleen": (2,)}, {0, 1, 2}, None),
        ({"background": "0", "liver": "1"}, {"liver": (1,)}, {0, 1}, None),
        ({"liver": 1, "nothing": 0}, {"liver": (1,)}, {0, 1}, None),
        ({"background": 0, "whole": [1, 2], "core": [2], "edge": 3}, {"whole": (1, 2), "core": (2,), "edge": (3,)},
         {0, 1, 2, 3}, None),
        ({"background": 0, "liver": 1, "ignore": 2}, {"liver": (1,)}, {0, 1, 2}, 2),
        ({"background": 0, "whole": [1, 2], "ignore": 3}, {"whole": (1, 2)}, {0, 1, 2, 3}, 3),
    ],
)  # fmt: skip
def test_labels_of_a_dataset_json(tmp_path, description, regions, known, ignore):
    expected = Labels(regions, frozenset(known), ignore, ".png")
    assert read_labels(write_dataset_json(tmp_path, description, ".png")) == expected


def test_the_reader_of_a_dataset_json(tmp_path):
    path = write_dataset_json(tmp_path, overwrite_image_reader_writer="NibabelIO")
    assert read_labels(path).reader == "NibabelIO"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"labels": {"liver": 1}}', '{"file_ending": ".png"}', '{"file_ending": ".png", "labels": [1]}',
     '{"file_ending": ".png", "labels": {"0": "background", "1": "liver"}}',
     '{"file_ending": ".png", "labels": {"liver": null}}', '{"file_ending": ".png", "labels": {"liver": ["a"]}}',
     '{"file_ending": 3, "labels": {"liver": 1}}', '{"file_ending": ".png", "labels": {"liver": 1.5}}',
     '{"file_ending": ".png", "labels": {"liver": -1}}', '{"file_ending": ".png", "labels": {"liver": true}}',
     '{"file_ending": ".png", "labels": {"liver": []}}', '{"file_ending": ".png", "labels": {"liver": [[1]]}}',
     '{"file_ending": ".png", "labels": {"liver": 1}, "overwrite_image_reader_writer": ["NibabelIO"]}'],
)  # fmt: skip
def test_a_file_that_is_no_dataset_json(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path / 'dataset.json'} ") as error:
        read_labels(tmp_path / "dataset.json")
    assert "\n" not in str(error.value)


def test_the_order_in_which_dataset_json_is_searched(tmp_path):
    folders = tmp_path / "predictions", tmp_path / "Dataset1" / "labelsTs", tmp_path / "Dataset1"
    for folder in (*folders[:2], tmp_path / "other"):
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match="--dataset-json") as error:
        find_dataset_json(*folders[:2])
    assert all(str(folder) in str(error.value) for folder in folders)
    for folder in reversed(folders):
        path = write_dataset_json(folder)
        assert find_dataset_json(*folders[:2]) == path


V1 = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "numTraining": 2}


def test_the_form_of_nnunet_v1(tmp_path):
    """The message has the command that converts it."""
    (tmp_path / "dataset.json").write_text(json.dumps(V1))
    with pytest.raises(UserError, match=f"v1.*nnUNetv2_convert_old_nnUNet_dataset {tmp_path} "):
        read_labels(tmp_path / "dataset.json")


@pytest.mark.parametrize("labels", [{"0": "background", "1": "liver"}, {"0": "background", "01": "whole liver"}])
def test_labels_in_reverse(tmp_path, labels):
    """The message has the labels in the right form."""
    path = write_dataset_json(tmp_path, labels)
    with pytest.raises(UserError, match="reverse") as error:
        read_labels(path)
    written = json.loads("{" + str(error.value).partition("write ")[2] + "}")["labels"]
    assert written == {name: int(value) for value, name in labels.items()}


@pytest.mark.parametrize("labels", [{"0": 0, "1": 1}, {"0": "0", "1": "1"}])
def test_names_that_are_numbers(tmp_path, labels):
    assert read_labels(write_dataset_json(tmp_path, labels)).regions == {"1": (1,)}


def test_the_plans_of_predictions(tmp_path):
    """nnUNetv2_predict stores them beside its output; those of a validation are in the folder of the model."""
    predictions, validation = tmp_path / "predictions", tmp_path / "model" / "fold_0" / "validation"
    for folder in (predictions, validation):
        folder.mkdir(parents=True)
        assert find_plans(folder) is None
    for path, folder in ((predictions, predictions), (validation.parents[1], validation)):
        (path / "plans.json").write_text('{"image_reader_writer": "NibabelIO"}')
        assert find_plans(folder) == {"image_reader_writer": "NibabelIO"}
