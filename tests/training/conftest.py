"""Plans as nnU-Net writes them, without a data set."""

import pytest
from support.plans_file import plans_dict


@pytest.fixture
def prepared_plans(tmp_path, monkeypatch) -> dict:
    """Arguments `plans` and `dataset_json` of a trainer; nnU-Net's folders are temporary."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    plans = plans_dict()
    folder = tmp_path / "nnUNet_preprocessed" / plans["dataset_name"] / "nnUNetPlans_2d"
    folder.mkdir(parents=True)
    (folder / "case.b2nd").touch()  # nnU-Net looks at the suffix of the files
    labels = {"background": 0, "organ": 1}
    dataset_json = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    return {"plans": plans, "dataset_json": dataset_json}
