"""Predict a whole image as nnUNetv2_predict does, with numpy and ONNX Runtime alone.

    python predict_onnx.py network.json case_0000.nii.gz [case_0001.nii.gz ...] -o segmentation.nii.gz

The channels are NIfTI files, or arrays (C, Z, Y, X) in .npy with --spacing. For other formats there is `predict`.
Sums are in float16, as nnU-Net's: only where two labels score almost the same, rounding can change the label.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import onnxruntime

KNOWN = {"ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization"}
KNOWN |= {"RGBTo01Normalization", "resample_data_or_seg_to_shape", "DefaultPreprocessor", "LabelManager"}
RESAMPLING = {"function", "is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}
NIFTI = np.dtype({  # the fields of a header that are used here
    "names": ["dim", "type", "bits", "pixdim", "start", "slope", "intercept", "units", "magic"],
    "formats": ["8i2", "i2", "i2", "8f4", "f4", "f4", "f4", "u1", "S4"],
    "offsets": [40, 70, 72, 76, 108, 112, 116, 123, 344],
})  # fmt: skip
VOXELS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


def load_network(path):
    """The session of the network.onnx beside a network.json, and the description in network.json."""
    description, graph = json.loads(Path(path).read_bytes()), Path(path).with_name("network.onnx")
    if not isinstance(description, dict) or description.get("format_version") != 1:
        raise ValueError("expected a network.json whose format_version is 1")
    if hashlib.sha256(graph.read_bytes()).hexdigest() != description["files"].get(graph.name, {}).get("sha256"):
        raise ValueError(f"this does not describe {graph}: take both from the same export")
    before, after = description["preprocessing"], description["segmentation"]
    used = {channel["scheme"] for channel in before["normalisation"]} | {before["preprocessor"], after["label_manager"]}
    for options in (before["resampling"], after["resampling"]):
        used |= {options["function"]} | (set(options) - RESAMPLING)
        used |= {f"order {options[key]}" for key in ("order", "order_z") if options[key] not in (0, 1, 3)}
    if unknown := (used | ({"cascades"} if description["previous_stage"] else set())) - KNOWN:
        raise ValueError(f"this script does not know {', '.join(unknown)}: use nnUNetv2_predict")
    providers = [name for name in onnxruntime.get_available_providers() if name.startswith(("CUDA", "CPU"))]
    return onnxruntime.InferenceSession(graph, providers=providers), description


def predict(session, description, image, spacing):
    """The label map (Z, Y, X) of an image (C, Z, Y, X), whose spacing is in mm, in the order of its axes."""
    before, after = description["preprocessing"], description["segmentation"]
    channels, regions = before["normalisation"], after["regions_class_order"]
    if image.ndim != 4 or len(image) != len(channels) or not min(spacing) > 0:
        names = ", ".join(channel["channel"] for channel in channels)
        raise ValueError(f"expected (C, Z, Y, X) of the channels {names}, not {image.shape} of spacing {spacing}")
    image = image.transpose(0, *(axis + 1 for axis in before["transpose_forward"])).astype(np.float32)
    spacing = [spacing[axis] for axis in before["transpose_forward"]]
    nonzero = (image != 0).any(0) | ~image.any()  # an image of zeros is not cropped
    sides = [np.flatnonzero(nonzero.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(side[0], side[-1] + 1) for side in sides)
    mask = fill_holes(nonzero[box]) if any(options["use_mask"] for options in channels) else nonzero[box]
    data = np.stack([normalise(values[box], mask, options) for values, options in zip(image, channels)])
    new_spacing = [*spacing[: 3 - len(before["spacing"])], *before["spacing"]]  # in 2d, slices keep their distance
    new_shape = [round(old / new * size) for old, new, size in zip(spacing, new_spacing, mask.shape)]
    data = resample(data, new_shape, spacing, new_spacing, before["resampling"])
    logits = predict_windows(session, description, data)
    logits = resample(logits, mask.shape, new_spacing, spacing, after["resampling"])
    labels = np.zeros(mask.shape, int) if regions else logits.argmax(0)
    for label, region in zip(regions or [], logits):  # sigmoid(region) > threshold; overwrites the labels before it
        labels[region > math.log(after["threshold"] / (1 - after["threshold"]))] = label
    whole = np.zeros(nonzero.shape, np.min_scalar_type(max(regions or [len(logits) - 1])))
    whole[box] = labels
    return whole.transpose(before["transpose_backward"])


def fill_holes(mask):
    """A mask (Z, Y, X) with its holes, the voxels that no path through faces of voxels joins to the outside."""
    outside, free, count = np.pad(np.zeros_like(mask), 1, constant_values=True), np.pad(~mask, 1), 0
    while count < (count := int(outside.sum())):  # sweeps along the axes reach on, until there is nothing new
        for axis, step in itertools.product(range(3), (1, -1)):
            slices = zip(np.moveaxis(outside, axis, 0)[::step], np.moveaxis(free, axis, 0)[::step])
            for (previous, _), (current, free_here) in itertools.pairwise(slices):
                current |= previous & free_here
    return ~outside[1:-1, 1:-1, 1:-1]


def normalise(values, mask, options):
    """A channel (Z, Y, X) with the intensities that the network knows from its training."""
    inside = mask if options["scheme"] == "ZScoreNormalization" and options["use_mask"] else ...
    if options["scheme"] == "CTNormalization":
        values = np.clip(values, options["percentile_00_5"], options["percentile_99_5"])
    shift, scale = {
        "ZScoreNormalization": (values[inside].mean(), values[inside].std()),
        "CTNormalization": (options["mean"], options["std"]),
        "RescaleTo01Normalization": (values.min(), np.ptp(values)),
        "RGBTo01Normalization": (0, 255),
        "NoNormalization": (0, 1),
    }[options["scheme"]]
    values[inside] = (values[inside] - shift) / max(scale, 1e-8)  # outside the mask, values stay
    return values


def resample(image, shape, spacing, new_spacing, options):
    """An image (C, Z, Y, X) in another shape, by splines of `order`, but of `order_z` along an axis of thick slices."""
    force, limit = options["force_separate_z"], options["separate_z_anisotropy_threshold"]
    uneven = [s for s in (spacing, new_spacing) if (max(s) / min(s) > limit if force is None else force)]
    thick = [axis for axis in range(3) if uneven and uneven[0][axis] == max(uneven[0])]
    thick = thick if len(thick) == 1 else []  # where two axes are equally coarse, none is an exception
    plane = tuple(axis for axis in range(3) if axis not in thick)
    resampled = np.empty((len(image), *shape), image.dtype)
    for channel, values in enumerate(image):
        limits = values.min(plane, keepdims=True), values.max(plane, keepdims=True)
        for axis in plane:
            values = interpolate(values, axis, shape[axis], options["order"])
        values = np.clip(values, *limits)  # cubic splines overshoot
        for axis in thick:
            values = interpolate(values, axis, shape[axis], options["order_z"])
        resampled[channel] = values
    return resampled


def interpolate(values, axis, size, order):
    """The values at the centres of `size` voxels in place of those of an axis, by a spline of order 0, 1 or 3."""
    old = values.shape[axis]
    x = (np.arange(size) + 0.5) * (old / size) - 0.5
    if order == 0 or size == old:
        return values.take(np.clip(np.floor(x + 0.5), 0, old - 1).astype(int), axis)
    knots = np.arange(-12, old + 12)  # scipy repeats the first and the last voxel 12 times
    t = abs(np.subtract.outer([*x, *knots], knots))
    basis = {1: np.maximum(1 - t, 0), 3: np.where(t < 1, 4 - 6 * t**2 + 3 * t**3, np.maximum(2 - t, 0) ** 3)}[order]
    at_x, at_knots = np.split(basis, [size])
    coefficients = np.linalg.solve(at_knots, np.eye(old)[np.clip(knots, 0, old - 1)])  # it passes through the voxels
    return np.moveaxis(np.tensordot(at_x @ coefficients, values, (1, axis)), 0, axis)


def predict_windows(session, description, data):
    """The logits (K, Z, Y, X) of preprocessed data (C, Z, Y, X): the weighted mean of overlapping windows."""
    options, inputs, outputs = (description[part] for part in ("sliding_window", "input", "output"))
    size = [1, *options["patch_size"]][-3:]  # a 2d network takes one slice after the other
    missing = [max(0, s - n) for s, n in zip(size, data.shape[1:])]
    padded = np.pad(data, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    starts = [window_starts(n, s, options["tile_step_size"]) for n, s in zip(padded.shape[1:], size)]
    weights = gaussian(size, options["gaussian_sigma"])
    mirror = [axis + 2 for axis in options["mirror_axes"] or []]
    flips = [axes for n in range(len(mirror) + 1) for axes in itertools.combinations(mirror, n)]
    logits = np.zeros((outputs["channels"], *padded.shape[1:]), np.float16)
    total = np.zeros(padded.shape[1:], np.float16)
    for start in itertools.product(*starts):
        window = (slice(None), *(slice(a, a + s) for a, s in zip(start, size)))
        batch = padded[window].reshape(1, -1, *options["patch_size"])
        prediction = np.float32(0)
        for axes in flips:
            (output,) = session.run([outputs["name"]], {inputs["name"]: np.flip(batch, axes)})
            prediction += np.flip(output, axes)[0] / len(flips)
        logits[window] += weights * prediction.reshape(-1, *size)
        total[window[1:]] += weights
    inside = (slice(None), *(slice(m // 2, m // 2 + n) for m, n in zip(missing, data.shape[1:])))
    return (logits / total)[inside]


def window_starts(length, size, step):
    """Where windows begin along an axis: evenly spaced, at most `step` of their size apart."""
    number = 1 + math.ceil((length - size) / max(1, step * size))
    return np.linspace(0, length - size, number).round().astype(int)


def gaussian(size, sigma):
    """The weights of a window, highest in its middle; none may be zero, as many would be in float16."""
    distances = np.ix_(*((np.arange(n) - n // 2) / (n * sigma) for n in size))
    weights = (10 * np.exp(-0.5 * sum(d**2 for d in distances))).astype(np.float16)
    return np.maximum(weights, weights[weights > 0].min())


# What follows reads and writes files. A program with images of its own needs only what is above.


def read_nifti(path, reader="SimpleITKIO"):
    """The array (C, Z, Y, X) of a NIfTI file and its spacing in mm, as a reader of nnU-Net gives them; the header."""
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    endian = NIFTI.newbyteorder("<" if content[:1] == b"\x5c" else ">")  # the file begins with the number 348
    header = np.frombuffer(bytearray(content[:348]), endian, 1)[0]
    ndim, voxels = header["dim"][0], VOXELS.get(int(header["type"]))
    if header["magic"] != b"n+1" or not voxels or not 2 <= ndim <= 4:
        raise ValueError("expected a NIfTI-1 image of numbers with two to four axes")
    if reader not in ("SimpleITKIO", "NibabelIO"):
        raise ValueError(f"this script does not read NIfTI as {reader} does: read the image so, and call predict")
    shape = [*header["dim"][1 : ndim + 1].tolist(), 1, 1][3::-1]
    voxels = f"{header['dim'].dtype.byteorder}{voxels}"
    image = np.frombuffer(content, voxels, math.prod(shape), int(header["start"])).reshape(shape)
    if np.isfinite(header["slope"]) and (header["slope"], header["intercept"]) != (0, 0):
        image = image * float(header["slope"] or 1) + float(header["intercept"])
    unit = {1: 1000, 3: 0.001}.get(header["units"] & 7, 1) if reader == "SimpleITKIO" else 1  # metres, micrometres
    spacing = [abs(float(side)) * unit for side in header["pixdim"][3:0:-1]]
    return image, spacing if ndim > 2 else [999 * max(spacing[1:]), *spacing[1:]], header


def write_nifti(path, labels, header):
    """Write a label map (Z, Y, X) with the geometry in the header of its image."""
    header["dim"][:] = min(header["dim"][0], 3), *labels.shape[::-1], 1, 1, 1, 1
    header["type"], header["bits"] = (2, 8) if labels.dtype == np.uint8 else (512, 16)
    header["start"], header["slope"], header["intercept"] = 352, 1, 0
    voxels = labels.astype(f"{header['dim'].dtype.byteorder}u{labels.itemsize}")
    content = header.tobytes() + bytes(4) + voxels.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("description", type=Path, help="network.json, with network.onnx beside it")
    parser.add_argument("images", type=Path, nargs="+", help="the channels, in order")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the label map, in the format of the images")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="in mm, of images in .npy")
    arguments = parser.parse_args()
    output, endings = arguments.output, (".npy",) if arguments.spacing else (".nii", ".nii.gz")
    for path in (*arguments.images, output):
        if not path.name.endswith(endings):
            parser.error(f"{path} does not end with {' or '.join(endings)} (.npy takes --spacing)")
    if not output.parent.is_dir() or output.resolve() in [path.resolve() for path in arguments.images]:
        parser.error(f"{output} is in no existing folder, or is one of the images")
    partial = output.with_name(f".{os.getpid()}.{output.name}")  # nothing incomplete gets the name of the output
    path, images = arguments.description, []
    try:
        session, description = load_network(path)
        for path in arguments.images:
            reader = description["preprocessing"]["image_reader"]
            images.append((np.load(path), arguments.spacing, None) if arguments.spacing else read_nifti(path, reader))
            if images[-1][0].shape[1:] != images[0][0].shape[1:] or images[-1][1] != images[0][1]:
                raise ValueError("its size or spacing is not that of the channel before")
        labels = predict(session, description, np.concatenate([image for image, *_ in images]), images[0][1])
        np.save(partial, labels) if arguments.spacing else write_nifti(partial, labels, images[0][2])
        partial.replace(output)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        parser.exit(1, f"{parser.prog}: {path}: {error}\n")
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
