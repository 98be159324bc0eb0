"""The packages and their data files; all other metadata is in pyproject.toml.

The folder `trainers/` is at the top of the checkout, so that nnUNet_extTrainer can name it, and is installed inside the
package. It has no __init__.py, because nnU-Net imports its files as top-level modules.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nnunet_xattnres*"]), "nnunet_xattnres.trainers"],
    package_dir={"nnunet_xattnres.trainers": "trainers"},
    package_data={
        "nnunet_xattnres": ["py.typed"],
        "nnunet_xattnres.maps": ["page.html"],
        "nnunet_xattnres.ops": ["cpp_*.cpp", "cpp_*.h"],
        "nnunet_xattnres.paper": ["tables/*.csv"],
        "nnunet_xattnres.convert": ["lists/*.csv"],
    },
)
