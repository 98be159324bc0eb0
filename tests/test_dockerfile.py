"""The Dockerfile agrees with the package: what pip reads is sent to Docker, and nnU-Net's variables are set."""

import re
from pathlib import Path

from nnunet_xattnres.utils.paths import PATH_VARIABLES

REPOSITORY = Path(__file__).resolve().parents[1]


def test_what_pip_reads_is_not_ignored():
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    project = (REPOSITORY / "pyproject.toml").read_text()
    files = {
        re.search(r'^readme = "(.+)"', project, re.M)[1],
        *re.findall(r'^license-files = \["(.+)"\]', project, re.M),
    }
    packages = {"nnunet_xattnres", *re.findall(r'package_dir=\{.*: "(.+)"\}', (REPOSITORY / "setup.py").read_text())}
    assert sent == {"pyproject.toml", "setup.py", *files, *packages}
    assert all((REPOSITORY / name).exists() for name in sent)


def test_variables():
    text = (REPOSITORY / "Dockerfile").read_text()
    variables = dict(re.findall(r"^(?:ENV|   ) (\w+)=(\S+)", text, re.M))
    assert {name: variables[name] for name in PATH_VARIABLES} == {name: f"/data/{name}" for name in PATH_VARIABLES}
    # the build compares it with `xattnres trainers`
    assert variables["nnUNet_extTrainer"].endswith("/site-packages/nnunet_xattnres/trainers")
