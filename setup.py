"""The metadata is in pyproject.toml; here is only where the packages lie.

`trainers/` stays at the top of the checkout, where nnU-Net can be pointed at it, and is installed inside the package.
It has no __init__.py: nnU-Net imports its files as top-level modules.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nnunet_xattnres*"]), "nnunet_xattnres.trainers"],
    package_dir={"nnunet_xattnres.trainers": "trainers"},
    package_data={
        "nnunet_xattnres": ["py.typed"],
        "nnunet_xattnres.paper": ["tables/*.csv"],
        "nnunet_xattnres.convert": ["lists/*.csv"],
    },
)
