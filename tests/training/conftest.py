"""Plans as nnU-Net writes them, without a data set."""

import pytest
from support.plans import PLANS, REQUIRES_IMPORT, arch_kwargs


@pytest.fixture
def prepared_plans(tmp_path, monkeypatch) -> dict:
    """Arguments `plans` and `dataset_json` of a trainer; nnU-Net's folders are in a temporary place."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    configurations = {
        name: {
            "data_identifier": "nnUNetPlans_2d",
            "batch_size": 2,
            "patch_size": [16] * PLANS[kind][1],
            "spacing": [1.0] * PLANS[kind][1],
            "normalization_schemes": ["ZScoreNormalization"],
            "architecture": {
                "network_class_name": f"dynamic_network_architectures.architectures.unet.{PLANS[kind][0]}",
                "arch_kwargs": arch_kwargs(kind),
                "_kw_requires_import": REQUIRES_IMPORT,
            },
        }
        for name, kind in {"2d": "plain 2d", "3d_fullres": "resenc 3d"}.items()
    }
    plans = {
        "dataset_name": "Dataset999_Test",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": configurations,
        "continue_training": False,
    }
    labels = {"background": 0, "organ": 1}
    return {"plans": plans, "dataset_json": {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}}
