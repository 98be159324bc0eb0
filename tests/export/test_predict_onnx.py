"""The stand-alone script computes every step as nnU-Net and SimpleITK do, and predicts what nnU-Net predicts."""

import ast
import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import binary_fill_holes
from support import plans
from support.plans_file import plans_dict

from nnunet_xattnres.export import predict_onnx


@pytest.mark.parametrize(
    ("shape", "new_shape", "spacing", "new_spacing", "order", "order_z", "force_separate_z", "threshold"),
    [
        ((9, 14, 11), (13, 10, 17), (1, 1, 1), (0.7, 1.4, 0.65), 3, 0, None, 3),
        ((9, 14, 11), (13, 10, 17), (1, 1, 1), (0.7, 1.4, 0.65), 1, 0, None, 3),
        ((9, 14, 11), (9, 20, 11), (1, 1, 1), (1, 0.7, 1), 3, 0, None, 3),
        ((5, 14, 11), (9, 10, 16), (6, 1, 1), (3.3, 1.4, 0.7), 3, 0, None, 3),  # thick slices in the image
        ((5, 14, 11), (10, 10, 16), (1, 1, 1), (3.5, 1, 1), 1, 0, None, 3),  # thick slices after resampling
        ((14, 6, 11), (10, 3, 16), (1, 6, 1), (1.4, 12, 0.7), 3, 1, None, 3),  # thick slices along y
        ((14, 11, 6), (10, 16, 9), (1, 1, 6), (1.4, 0.7, 4), 3, 3, None, 3),
        ((5, 14, 11), (9, 10, 16), (3.01, 1, 1), (1.7, 1.4, 0.7), 3, 0, None, 3),
        ((5, 14, 11), (9, 10, 16), (3, 1, 1), (1.7, 1.4, 0.7), 3, 0, None, 3),  # not thick enough
        ((5, 6, 11), (9, 7, 16), (6, 6, 1), (3.3, 5, 0.7), 3, 0, None, 3),  # two thick axes
        ((5, 14, 11), (9, 10, 16), (6, 1, 1), (3.3, 1.4, 0.7), 3, 0, False, 3),
        ((5, 14, 11), (9, 10, 16), (2, 1, 1), (1.1, 1.4, 0.7), 3, 0, True, 3),
        ((1, 40, 30), (1, 61, 17), (999, 1, 1), (999, 0.7, 1.8), 3, 0, None, 3),  # a picture
        ((3, 14, 11), (3, 10, 17), (1, 1, 1), (1, 1.4, 0.65), 3, 0, None, 3),  # slices of a 2d configuration
        ((4, 9, 1), (7, 5, 3), (1, 1, 1), (0.6, 1.8, 0.33), 0, 0, None, 3),
        ((5, 14, 11), (9, 10, 16), (6, 1, 1), (3.3, 1.4, 0.7), 3, 0, None, 7),
    ],
)
def test_resample(shape, new_shape, spacing, new_spacing, order, order_z, force_separate_z, threshold):
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    options = {"order": order, "order_z": order_z, "force_separate_z": force_separate_z}
    options["separate_z_anisotropy_threshold"] = threshold
    expected = resample_data_or_seg_to_shape(image, new_shape, spacing, new_spacing, is_seg=False, **options)
    assert expected.shape == (2, *new_shape)
    result = predict_onnx.resample(image, new_shape, spacing, new_spacing, options)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    assert result.dtype == np.float32


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 20, 20), (30, 1, 4)])
def test_fill_holes(shape):
    for density in (0.4, 0.6, 0.7, 0.8):
        mask = np.random.default_rng(0).random(shape) < density
        np.testing.assert_array_equal(predict_onnx.fill_holes(mask), binary_fill_holes(mask))
    shell = np.ones((7, 7, 7), bool)
    shell[2:5, 2:5, 2:5] = False
    assert predict_onnx.fill_holes(shell).all() and binary_fill_holes(shell).all()


def test_fill_holes_at_the_end_of_a_maze():
    """A spiral through which many sweeps lead."""
    mask = np.ones((3, 21, 21), bool)
    y, x, (dy, dx) = 0, 1, (1, 0)
    while True:
        mask[1, y, x] = False
        for _ in range(2):
            a, b = y + dy, x + dx
            ahead = y + 2 * dy, x + 2 * dx
            blocked = not (0 < a < 20 and 0 < b < 20) or (min(ahead) >= 0 and max(ahead) < 21 and not mask[1][ahead])
            if not blocked:
                break
            dy, dx = -dx, dy
        if blocked:
            break
        y, x = a, b
    assert (~mask).sum() > 150
    np.testing.assert_array_equal(predict_onnx.fill_holes(mask), mask)
    mask[1, 0, 1] = True  # closed
    assert predict_onnx.fill_holes(mask).all()


@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize(
    "scheme",
    [
        "ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization",
    ],
)  # fmt: skip
def test_normalise(scheme, use_mask):
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 255, (5, 6, 7)).astype(np.float32)
    mask = rng.random(values.shape) < 0.5
    intensities = {"mean": 100.5, "std": 31.0, "percentile_00_5": 20.0, "percentile_99_5": 200.0}
    nnunet = getattr(default_normalization_schemes, scheme)(use_mask_for_norm=use_mask, intensityproperties=intensities)
    expected = nnunet.run(values.copy(), np.where(mask, 0, -1))
    result = predict_onnx.normalise(values, mask, {"scheme": scheme, "use_mask": use_mask, **intensities})
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    assert result.dtype == np.float32


@pytest.mark.parametrize("size", [(16, 16, 16), (20, 128, 96), (1, 512, 448), (7, 33, 5)])
def test_gaussian(size):
    expected = compute_gaussian(size, value_scaling_factor=10, device=torch.device("cpu")).numpy()
    np.testing.assert_allclose(predict_onnx.gaussian(size, 0.125), expected, rtol=1e-3)
    assert expected.min() > 0


def test_window_starts():
    for size in (2, 7, 16, 48, 56):
        for length in range(size, 4 * size):
            for step in (0.5, 0.75, 1):
                (expected,) = compute_steps_for_sliding_window((length,), (size,), step)
                assert predict_onnx.window_starts(length, size, step).tolist() == expected
    assert predict_onnx.window_starts(5, 1, 0.5).tolist() == [0, 1, 2, 3, 4]  # the slices of a 2d network


def nifti(path, shape=(4, 5, 6), dtype="<i2", spacing=(0.7, 1.1, 3.0), units="mm", slope=None, **fields):
    """Write a NIfTI file with an oblique geometry; `fields` are written into its header as they are."""
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation @ np.diag(spacing), (-12, 7, 3.5)
    header = nibabel.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_qform(affine, 1)
    header.set_sform(affine, 2)
    header.set_xyzt_units(units)
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    voxels = (
        np.random.default_rng(sum(path.name.encode())).random(shape) * 200 - (0 if dtype[1] == "u" else 100)
    ).astype(dtype)
    path.write_bytes(header.binaryblock + bytes(4) + voxels.tobytes(order="F"))
    return path


@pytest.mark.parametrize(
    "options",
    [
        {}, {"dtype": ">i2"}, {"dtype": ">f8"}, {"shape": (4, 5)}, {"shape": (4, 5, 1)}, {"shape": (4, 5, 6, 3)},
        {"shape": (4, 5, 6, 1)}, {"units": "micron"}, {"units": "meter"}, {"units": "unknown"},
        {"scl_slope": 0.1, "scl_inter": -3}, {"scl_slope": 2, "scl_inter": 0, "dtype": ">u2"}, {"scl_slope": np.nan},
        {"scl_slope": 0, "scl_inter": 3}, {"scl_slope": 0, "scl_inter": 0}, {"scl_slope": 1, "scl_inter": 0},
        *({"dtype": f"<{kind}"} for kind in ("u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8")),
    ],
    ids=str,
)  # fmt: skip
def test_read_nifti(tmp_path, options):
    path = nifti(tmp_path / "image.nii", **options)
    expected, properties = SimpleITKIO().read_images([str(path)])
    image, spacing, _ = predict_onnx.read_nifti(path)
    np.testing.assert_allclose(image, expected, rtol=1e-6, atol=1e-5)
    assert image.shape == expected.shape
    np.testing.assert_allclose(spacing, properties["spacing"], rtol=1e-12)


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz"])
@pytest.mark.parametrize("options", [{}, {"shape": (4, 5)}, {"shape": (4, 5, 6, 3), "scl_slope": 3}, {"dtype": ">f4"}])
def test_write_nifti(tmp_path, name, options):
    path = nifti(tmp_path / "image.nii", **options)
    image, _, header = predict_onnx.read_nifti(path)
    for dtype in (np.uint8, np.uint16):
        labels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, image.shape[1:]).astype(dtype)
        predict_onnx.write_nifti(tmp_path / name, labels, header)
        written, original = SimpleITK.ReadImage(str(tmp_path / name)), SimpleITK.ReadImage(str(path))
        array = SimpleITK.GetArrayFromImage(written)
        np.testing.assert_array_equal(array.reshape(labels.shape), labels)
        assert array.dtype == dtype
        if original.GetDimension() < 4:
            assert written.GetDimension() == original.GetDimension()
            assert written.GetOrigin() == original.GetOrigin()
            assert written.GetDirection() == original.GetDirection()
        assert written.GetSpacing()[:3] == original.GetSpacing()[:3]


CASES = {
    # name: configuration, transpose_forward, shape and spacing of the image, axes of mirroring, labels
    "2d": ("2d", (2, 0, 1), (24, 29, 3), (1.3, 0.8, 3.0), (0, 1), {"background": 0, "a": 1, "b": 2}),
    "3d smaller than the patch": (
        "3d_fullres", (1, 2, 0), (21, 12, 20), (1.2, 0.9, 1.0), (0, 2), {"background": 0, "a": 1, "b": 2},
    ),
    "3d thick slices, regions": (
        "3d_fullres", (0, 1, 2), (6, 22, 20), (4.0, 0.9, 1.1), None,
        {"background": 0, "whole": [1, 2, 3], "b": [2, 3], "c": 3},
    ),
}  # fmt: skip


def build(name: str, folder: Path):
    """nnU-Net's predictor of a random network, and the folder with its network.onnx and network.json."""
    configuration, forward, _, _, mirror_axes, labels = CASES[name]
    backward = np.argsort(forward).tolist()
    regions = "regions" in name
    dim = 2 if configuration == "2d" else 3
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    threshold = {"separate_z_anisotropy_threshold": 3}
    function = "resample_data_or_seg_to_shape"
    intensities = {"mean": 2.0, "std": 1.5, "percentile_00_5": 0.5, "percentile_99_5": 4.0}
    content = plans_dict() | {
        "transpose_forward": forward, "transpose_backward": backward,
        "foreground_intensity_properties_per_channel": {"0": intensities, "1": intensities},
    }  # fmt: skip
    planned = content["configurations"][configuration]
    planned |= {
        "spacing": [1.0, 1.0, 0.7][-dim:], "patch_size": [12, 12, 16][-dim:],
        "preprocessor_name": "DefaultPreprocessor",
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"], "use_mask_for_norm": [True, False],
        "resampling_fn_data": function, "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": function, "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": function, "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
    }  # fmt: skip
    manager = PlansManager(content)
    torch.manual_seed(1)
    network = plans.build("plain 2d" if dim == 2 else "resenc 3d", deep_supervision=False, input_channels=2).eval()
    spread_logits(network, torch.randn(1, 2, *planned["patch_size"]))
    dataset = {"channel_names": {"0": "MRI", "1": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    dataset |= {"regions_class_order": [1, 2, 3]} if regions else {}
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, manager.get_configuration(configuration), [network.state_dict()], dataset, "", mirror_axes
    )
    names = {"input_names": ["image"], "output_names": ["logits"]}
    example = torch.zeros(1, 2, *planned["patch_size"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that traces is deprecated
        torch.onnx.export(network, (example,), folder / "network.onnx", dynamo=False, **names)
    graph = (folder / "network.onnx").read_bytes()
    description = {
        "format_version": 1,
        "files": {"network.onnx": {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}},
        "input": {"name": "image", "channels": 2},
        "output": {"name": "logits", "channels": 3},
        "preprocessing": {
            "image_reader": "SimpleITKIO", "transpose_forward": forward, "transpose_backward": backward,
            "preprocessor": "DefaultPreprocessor",
            "normalisation": [
                {"channel": "MRI", "scheme": "ZScoreNormalization", "use_mask": True, **intensities},
                {"channel": "CT", "scheme": "CTNormalization", "use_mask": False, **intensities},
            ],
            "spacing": planned["spacing"], "resampling": {"function": function, **resampling, **threshold},
        },
        "sliding_window": {
            "patch_size": planned["patch_size"], "tile_step_size": 0.5, "gaussian_sigma": 0.125,
            "mirror_axes": mirror_axes,
        },
        "segmentation": {
            "resampling": {"function": function, **resampling, **threshold, "order": 1},
            "label_manager": "LabelManager", "activation": "sigmoid" if regions else "softmax", "labels": labels,
            "regions_class_order": [1, 2, 3] if regions else None, "threshold": 0.5,
        },
        "previous_stage": None,
    }  # fmt: skip
    (folder / "network.json").write_text(json.dumps(description))
    return predictor, folder


@torch.no_grad()
def spread_logits(network, data):
    """Change the last layer such that every label is somewhere the most likely one."""
    head = network.decoder.seg_layers[-1]
    logits = network(data).transpose(0, 1).flatten(1)
    for parameter in (head.weight, head.bias):
        parameter.div_(logits.std(1).reshape(-1, *[1] * (parameter.ndim - 1)) / 2)
    head.bias.sub_(network(data).transpose(0, 1).flatten(1).mean(1))


def picture(shape):
    """An image (2, Z, Y, X) of values about 2 in a box of zeros, in which there is a hole."""
    image = np.random.default_rng(0).normal(2, 1, (2, *shape)).astype(np.float32)
    image += np.linspace(-1, 1, shape[-1], dtype=np.float32)
    image[:, :1] = image[:, :, -2:] = image[..., :1] = 0
    image[:, 2:5, 4:8, 1] = image[:, 2:5, 4:8, 9:12] = 0
    return image


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of the case "2d"."""
    return build("2d", tmp_path_factory.mktemp("export"))[1]


@pytest.mark.parametrize("name", CASES)
def test_predict(name, tmp_path, monkeypatch):
    predictor, folder = build(name, tmp_path)
    _, forward, shape, spacing, *_ = CASES[name]
    image = picture(shape)
    expected, expected_probabilities = predictor.predict_single_npy_array(
        image, {"spacing": spacing}, save_or_return_probabilities=True
    )
    results, resample = [], predict_onnx.resample
    monkeypatch.setattr(predict_onnx, "resample", lambda *a: results.append(resample(*a)) or results[-1])
    original = image.copy()
    labels = predict_onnx.predict(*predict_onnx.load_network(folder / "network.json"), image, spacing)
    np.testing.assert_array_equal(image, original)
    assert len(np.unique(labels)) == len(np.unique(expected)) == (4 if "regions" in name else 3)
    assert labels.shape == shape and labels.dtype == np.uint8

    box = box_of(image.any(0).transpose(forward))
    logits = torch.from_numpy(results[-1].astype(np.float32))
    probabilities = (logits.sigmoid() if "regions" in name else logits.softmax(0)).numpy()
    in_box = expected_probabilities.transpose(0, *(1 + axis for axis in forward))[(slice(None), *box)]
    # sums in float16 differ in the last of 11 bits where the network has rounded differently
    np.testing.assert_allclose(probabilities, in_box, atol=1e-3, rtol=0)
    if "regions" in name:
        margin = abs(probabilities - 0.5).min(0)
    else:
        largest, second = np.sort(probabilities, 0)[:-3:-1]
        margin = largest - second
    different = (labels != expected).transpose(forward)
    assert different.sum() == different[box].sum() <= 0.001 * different.size
    assert (margin[different[box]] < 2e-3).all()


def box_of(mask):
    return tuple(slice(indices.min(), indices.max() + 1) for indices in np.nonzero(mask))


def test_image_of_zeros(exported):
    network = predict_onnx.load_network(exported / "network.json")
    assert predict_onnx.predict(*network, np.zeros((2, 9, 10, 3)), (1, 1, 1)).shape == (9, 10, 3)


def test_command_alone(exported, tmp_path):
    """A copy of the script runs where only numpy, ONNX Runtime and the standard library can be imported."""
    files = [nifti(tmp_path / f"case_000{i}.nii.gz", (20, 24, 3)) for i in range(2)]
    script = tmp_path / "predict_onnx.py"
    script.write_bytes(Path(predict_onnx.__file__).read_bytes())
    arguments = [str(a) for a in (script, exported / "network.json", *files, "-o", tmp_path / "labels.nii.gz")]
    packages = ["torch", "scipy", "skimage", "SimpleITK", "nibabel", "nnunetv2", "nnunet_xattnres", "acvl_utils", "PIL"]
    code = f"""if True:
        import runpy, sys
        sys.argv = {arguments}
        sys.modules.update(dict.fromkeys({packages}))
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)
    image, properties = SimpleITKIO().read_images([str(file) for file in files])
    expected = predict_onnx.predict(*predict_onnx.load_network(exported / "network.json"), image, properties["spacing"])
    written = SimpleITK.ReadImage(str(tmp_path / "labels.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written), expected)
    assert written.GetDirection() == SimpleITK.ReadImage(str(files[0])).GetDirection()
    assert not list(tmp_path.glob(".*"))


def test_imports():
    tree = ast.parse(Path(predict_onnx.__file__).read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "onnxruntime"}


def call(monkeypatch, capsys, *arguments):
    """The exit status of the command, and what it prints on stderr."""
    monkeypatch.setattr(sys, "argv", ["predict_onnx.py", *map(str, arguments)])
    status = 0
    try:
        predict_onnx.main()
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


def test_command_with_arrays(exported, tmp_path, monkeypatch, capsys):
    image = picture((20, 24, 3))
    np.save(tmp_path / "image.npy", image)
    output = tmp_path / "labels.npy"
    options = (exported / "network.json", tmp_path / "image.npy", "-o", output, "--spacing", 1, 1, 3)
    assert call(monkeypatch, capsys, *options) == (0, "")
    expected = predict_onnx.predict(*predict_onnx.load_network(exported / "network.json"), image, (1, 1, 3))
    np.testing.assert_array_equal(np.load(output), expected)


def test_wrong_input(exported, tmp_path, monkeypatch, capsys):
    description = exported / "network.json"
    right, other = nifti(tmp_path / "a.nii", (20, 24, 3)), nifti(tmp_path / "b.nii", (20, 24, 4))
    wrong_magic, no_gzip = nifti(tmp_path / "d.nii", magic=b"ni1"), tmp_path / "e.nii.gz"
    no_spacing = nifti(tmp_path / "h.nii", (20, 24, 3), pixdim=[1, 0.7, 1.1, 0, 0, 0, 0, 0])
    truncated = tmp_path / "c.nii"
    truncated.write_bytes(right.read_bytes()[:-1])
    no_gzip.write_bytes(b"\x1f\x8b" + bytes(100))
    np.save(tmp_path / "f.npy", np.zeros((20, 24, 3)))
    changed = json.loads(description.read_text())
    after = changed["segmentation"]
    folders = {}
    for name, part in {
        "checksum": {"files": {"network.onnx": {"sha256": "0"}}},
        "cascade": {"previous_stage": {"configuration": "3d_lowres", "labels": [1, 2]}},
        "resampling": {"segmentation": after | {"resampling": after["resampling"] | {"function": "resample_torch"}}},
        "order": {"segmentation": after | {"resampling": after["resampling"] | {"order": 2}}},
        "argument": {"segmentation": after | {"resampling": after["resampling"] | {"order_x": 2}}},
        "preprocessor": {"preprocessing": changed["preprocessing"] | {"preprocessor": "Our_preprocessor"}},
        "only torchscript": {"files": {}},
        "normalisation": {"preprocessing": changed["preprocessing"] | {"normalisation": [{"scheme": "Our_own"}]}},
        "reader": {"preprocessing": changed["preprocessing"] | {"image_reader": "SimpleITKIOWithReorient"}},
        "format": {"format_version": 2},
    }.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "network.json").write_text(json.dumps(changed | part))
        (folders[name] / "network.onnx").write_bytes((exported / "network.onnx").read_bytes())
    (tmp_path / "list.json").write_text("[]")
    output = tmp_path / "out.nii.gz"
    cases = [
        (1, "the channels MRI, CT, not (1, 3, 24, 20)", description, right),
        (1, "b.nii: its size or spacing", description, right, other),
        (1, "c.nii", description, right, truncated),
        (1, "d.nii", description, wrong_magic, right),
        (1, "e.nii.gz", description, no_gzip, no_gzip),
        (1, "of spacing [0.0, 1.1", description, no_spacing, no_spacing),
        (1, "g.nii", description, right, tmp_path / "g.nii"),
        (2, "f.npy", description, tmp_path / "f.npy"),
        (1, "(20, 24, 3)", description, tmp_path / "f.npy", "--spacing", 1, 1, 1),
        (1, "network.onnx", folders["checksum"] / "network.json", right, right),
        (1, "cascade", folders["cascade"] / "network.json", right, right),
        (1, "resample_torch", folders["resampling"] / "network.json", right, right),
        (1, "order 2", folders["order"] / "network.json", right, right),
        (1, "order_x", folders["argument"] / "network.json", right, right),
        (1, "Our_preprocessor", folders["preprocessor"] / "network.json", right, right),
        (1, "network.onnx", folders["only torchscript"] / "network.json", right, right),
        (1, "Our_own", folders["normalisation"] / "network.json", right, right),
        (1, "SimpleITKIOWithReorient", folders["reader"] / "network.json", right, right),
        (1, "format", tmp_path / "list.json", right, right),
        (1, "format", folders["format"] / "network.json", right, right),
        (1, "nothing.json", tmp_path / "nothing.json", right, right),
        (2, "labels", description, right, right, "-o", tmp_path / "nowhere" / "labels.nii"),
        (2, "a.nii", description, right, right, "-o", right),
    ]
    for status, text, *arguments in cases:
        if "-o" not in arguments:
            arguments += ["-o", output.with_name("out.npy") if "--spacing" in arguments else output]
        code, printed = call(monkeypatch, capsys, *arguments)
        assert code == status, arguments
        (line,) = [line for line in printed.splitlines() if not line.startswith(("usage:", "    "))]
        assert text in line, line
    assert not list(tmp_path.glob("*out*")) and right.stat().st_size > 352
