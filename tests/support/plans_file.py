"""A plans file with small networks, as nnU-Net writes it."""

import json
from pathlib import Path

from .plans import PLANS, REQUIRES_IMPORT, arch_kwargs


def plans_dict() -> dict:
    """Configurations 2d (PlainConvUNet) and 3d_fullres (ResidualEncoderUNet), patches of 16 voxels a side."""
    configurations = {
        name: {
            "data_identifier": "nnUNetPlans_2d",
            "batch_size": 2,
            "batch_dice": True,
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
    return {
        "dataset_name": "Dataset999_Test",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
        "configurations": configurations,
        "continue_training": False,
    }


def write_plans(folder: Path) -> Path:
    path = folder / "nnUNetPlans.json"
    path.write_text(json.dumps(plans_dict()))
    return path
