"""Nothing that a library prints reaches the terminal, and afterwards everything is as before."""

import logging
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from nnunet_xattnres.utils.quiet import silence_libraries


def test_all_kinds_of_output(capfd):
    with silence_libraries():
        print("printed")
        print("an error", file=sys.stderr)
        os.write(1, b"from C")
        os.write(2, b"from C++")
        warnings.warn("warned", stacklevel=1)
        logging.getLogger("a library").error("logged")
    assert capfd.readouterr() == ("", "")
    print("out", flush=True)
    os.write(2, b"err")
    assert capfd.readouterr() == ("out\n", "err")
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)


def test_logs_are_back_after_an_error(caplog):
    with pytest.raises(KeyError), silence_libraries():
        raise KeyError
    logging.getLogger("a library").warning("logged")
    assert caplog.messages == ["logged"]


def test_warnings_of_itk(tmp_path, capfd):
    """ITK prints from C++: here because the spacing in the header contradicts the matrix."""
    path = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), path)
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(-2).tobytes()  # pixdim[1]
    path.write_bytes(content)
    sitk.ReadImage(path)
    assert "WARNING" in capfd.readouterr().err
    with silence_libraries():
        sitk.ReadImage(path)
    assert capfd.readouterr() == ("", "")


def test_a_process_without_streams():
    """As under pythonw on Windows, or as a service."""
    program = "from nnunet_xattnres.utils.quiet import silence_libraries\nimport os, sys\n"
    program += "os.close(1)\nsys.stdout = None\nwith silence_libraries(): print('x')\n"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
