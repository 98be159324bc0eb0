"""Tiny data sets with the folders and file names of the real downloads."""

import itertools
import zipfile
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk  # noqa: N813
from PIL import Image

LIVER = 6
BTCV_LABELLED = (*range(1, 11), *range(21, 41))
BTCV_UNLABELLED = (61, 62)
TRANSUNET_SLICES = {
    5: 117, 6: 131, 7: 163, 9: 149, 10: 148, 21: 143, 23: 96, 24: 124, 26: 131, 27: 88, 28: 89, 30: 153, 31: 93,
    33: 104, 34: 98, 37: 99, 39: 90, 40: 195,
}  # fmt: skip
"""Number of slices by training case."""

TRANSUNET_TEST = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)
LABEL_ORDERS = {
    "paper": (1, 2, 3, 4, 11, 6, 7, 8),
    "transunet": (8, 4, 3, 2, 6, 11, 1, 7),
    "btcv": tuple(range(1, 14)),
}
"""BTCV's labels of the organs with the values 1, 2, ... in an order."""

CLINICDB_FORMS = {
    "png": (("PNG/Original", "PNG/Ground Truth", "png"),),
    "tif": (("Original", "Ground Truth", "tif"),),
    "both": (("PNG/Original", "PNG/Ground Truth", "png"), ("TIF/Original", "TIF/Ground Truth", "tif")),
    "flat": (("images", "masks", "png"),),
}
ISIC_COUNTS = {"Training": 6, "Validation": 2, "Test": 3}
_ISIC_NAMES = {"Training": "Training", "Validation": "Validation", "Test": "Test_v2"}
_ISIC_SIZES = ((40, 30), (36, 48), (32, 32))
_MASKS = {
    "0/255": lambda mask: _to_grey(mask),
    "0/1": lambda mask: Image.fromarray(mask.astype(np.uint8)),
    "bool": lambda mask: Image.fromarray(mask),
    "palette": lambda mask: _indexed(mask, (255, 255, 255)),
    "palette dark red": lambda mask: _indexed(mask, (128, 0, 0)),
    "RGB": lambda mask: _to_grey(mask).convert("RGB"),
    "RGBA": lambda mask: _to_grey(mask).convert("RGBA"),
    "LA": lambda mask: _to_grey(mask).convert("LA"),
    "jpeg": lambda mask: _to_grey(mask),
    "jpeg RGB": lambda mask: _to_grey(mask).convert("RGB"),
    "bmp": lambda mask: _to_grey(mask),
    "tif": lambda mask: _to_grey(mask),
}
FLAVOURS = tuple(_MASKS)
"""The kinds of mask files that are in use."""


def btcv(root: Path, cases=BTCV_LABELLED, unlabelled=True) -> Path:
    """BTCV's RawData as Synapse offers it: labelled `cases` and two without labels."""
    source = root / "RawData"
    images, labels, test = (source / folder for folder in ("Training/img", "Training/label", "Testing/img"))
    for folder in (images, labels, test):
        folder.mkdir(parents=True)
    for n in cases:
        hu, label = make_abdomen(_btcv_shape(n), n)
        write_volume(hu, images / f"img{n:04d}.nii.gz", n)
        write_volume(label, labels / f"label{n:04d}.nii.gz", n)
    for n in BTCV_UNLABELLED if unlabelled else ():
        write_volume(make_abdomen(_btcv_shape(n), n)[0], test / f"img{n:04d}.nii.gz", n)
    return source


def transunet(root: Path, order: str) -> Path:
    """TransUNet's preprocessed Synapse: slices for training, volumes for testing, labels in one of `LABEL_ORDERS`."""
    source = root / "Synapse"
    slices, volumes = source / "train_npz", source / "test_vol_h5"
    for folder in (slices, volumes):
        folder.mkdir(parents=True)
    for n, depth in TRANSUNET_SLICES.items():
        for k, (image, label) in enumerate(zip(*make_transunet_arrays(depth, n, order), strict=True)):
            np.savez(slices / f"case{n:04d}_slice{k:03d}.npz", image=image, label=label)
    for n in TRANSUNET_TEST:
        image, label = make_transunet_arrays(5 + n % 3, n, order)
        with h5py.File(volumes / f"case{n:04d}.npy.h5", "w") as file:
            file["image"], file["label"] = image, label
    return source


def colondb(root: Path, numbers=range(1, 381)) -> Path:
    """CVC-ColonDB, where every tenth image has another size."""
    source = root / "CVC-ColonDB"
    write_photos(source, numbers, 1, lambda n: (25, 30) if n % 10 == 0 else (28, 24))
    return source


def clinicdb(root: Path, form: str, numbers=range(1, 613)) -> Path:
    """CVC-ClinicDB in one of `CLINICDB_FORMS`."""
    source = root / "CVC-ClinicDB"
    for images, masks, suffix in CLINICDB_FORMS[form]:
        write_photos(source, numbers, 2, lambda n: (28, 24), images, masks, suffix)
    if form == "both":
        rows = ["frame_id,sequence_id,tif_image_path,tif_mask_path,png_image_path,png_mask_path"]
        for n in numbers:
            paths = (f"{s.upper()}/{folder}/{n}.{s}" for s in ("tif", "png") for folder in ("Original", "Ground Truth"))
            rows.append(f"{n},{(n - 1) // 22 + 1},{','.join(paths)}")
        (source / "metadata.csv").write_text("\n".join(rows) + "\n")
        (source / "class_dict.csv").write_text("class_names,r,g,b\nbackground,0,0,0\npolyp,255,255,255\n")
    return source


def isic2017(root: Path, counts=ISIC_COUNTS) -> Path:
    """The unpacked archives of part 1 of ISIC 2017, with superpixel files between the images."""
    source = root / "ISIC2017"
    numbers = itertools.count()
    for part, count in counts.items():
        name = f"ISIC-2017_{_ISIC_NAMES[part]}"
        data, truth = source / f"{name}_Data", source / f"{name}_Part1_GroundTruth"
        data.mkdir(parents=True)
        truth.mkdir()
        rows = ["image_id,age_approximate,sex"]
        for n in itertools.islice(numbers, count):
            rng = np.random.default_rng([3, n])
            mask = discs(_ISIC_SIZES[n % len(_ISIC_SIZES)], rng)
            _photo(mask, rng).save(data / f"ISIC_{n:07d}.jpg")
            _superpixels(mask.shape).save(data / f"ISIC_{n:07d}_superpixels.png")
            _to_grey(mask).save(truth / f"ISIC_{n:07d}_segmentation.png")
            rows.append(f"ISIC_{n:07d},{5 * rng.integers(3, 17)},{'female' if n % 2 else 'male'}")
        (data / f"{data.name}_metadata.csv").write_text("\n".join(rows) + "\n")
    return source


def nuclei(root: Path, count=20) -> Path:
    """Microscopy images of several nuclei, with one mask per image."""
    source = root / "Nuclei_DSB2018"
    write_photos(source, range(1, count + 1), 4, lambda n: (32, 32), num_discs=4)
    return source


def scans(root: Path, count=5, ending="nii.gz") -> Path:
    """Volumes in a folder `images` and masks of one class in a folder `masks`."""
    source = root / "scans"
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    for n in range(1, count + 1):
        hu, label = make_abdomen((6, 14, 16), n)
        write_volume(hu, source / "images" / f"{n}.{ending}", 1)
        write_volume((label > 0).astype(np.uint8), source / "masks" / f"{n}.{ending}", 1)
    return source


def zipped(folder: Path, archive: Path) -> Path:
    """A zip archive of `folder` with its name as the top folder."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in (folder, *sorted(folder.rglob("*"))):
            file.write(path, path.relative_to(folder.parent))
    return archive


def write_zip_with(path: Path, contents: dict[str, bytes]) -> Path:
    """A zip archive with exactly these names, which may be unsafe."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def ending(flavour: str) -> str:
    """The file ending of masks of this flavour."""
    return {"jpeg": ".jpg", "jpeg RGB": ".jpg", "bmp": ".bmp", "tif": ".tif"}.get(flavour, ".png")


def save_mask(mask: np.ndarray, path: Path, flavour: str) -> None:
    """Write a boolean mask in one of `FLAVOURS`."""
    _MASKS[flavour](mask).save(path, **({"quality": 75} if ending(flavour) == ".jpg" else {}))


def _btcv_shape(n: int) -> tuple[int, int, int]:
    return 12 + n % 3, 20 + n % 2, 24 + n % 4


def make_abdomen(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """HU and BTCV's labels: the liver is an ellipsoid on one side, the other organs are small boxes on the other."""
    rng = np.random.default_rng([0, seed])
    depth, height, width = shape
    z, y, x = ((axis + 0.5) / size for axis, size in zip(np.ogrid[:depth, :height, :width], shape, strict=True))
    liver = ((z - 0.5) / 0.45) ** 2 + ((y - 0.5) / 0.42) ** 2 + ((x - 0.25) / 0.22) ** 2 < 1
    labels = np.where(liver, LIVER, 0).astype(np.uint8)
    for cell, value in enumerate(v for v in range(1, 14) if v != LIVER):
        row, column = divmod(cell, 4)
        start, length = width // 2 + 1 + rng.integers(3), rng.integers(1, 4)
        labels[
            depth * row // 3 : depth * (row + 1) // 3,
            height * column // 4 + 1 : height * (column + 1) // 4,
            start : start + length,
        ] = value
    hu = np.rint(rng.normal(20, 40, shape) + 12.0 * labels)
    hu[:, 0], hu[:, -1, -1] = -1024, 1500
    return hu.astype(np.int16), labels


def write_volume(array: np.ndarray, path: Path, n: int) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.75, 0.75, 3.0) if n % 2 else (0.8125, 0.8125, 5.0))
    image.SetOrigin((172.5, 180.25, -300.0 - n))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, path)


def make_transunet_arrays(depth: int, n: int, order: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map of a case as TransUNet's script writes them: float32, the image windowed to [0, 1]."""
    hu, label = make_abdomen((depth, 16, 16), n)
    values = np.zeros(14, np.float32)
    values[list(LABEL_ORDERS[order])] = np.arange(1, len(LABEL_ORDERS[order]) + 1)
    return ((np.clip(hu, -125, 275) + 125) / 400).astype(np.float32), values[label]


def write_photos(source, numbers, seed, size, images="images", masks="masks", suffix="png", num_discs=1) -> None:
    """Write numbered images and masks with the size `size(number)` (width, height); the masks of TIFFs are RGB."""
    for folder in (images, masks):
        (source / folder).mkdir(parents=True)
    for n in numbers:
        rng = np.random.default_rng([seed, n])
        mask = discs(size(n), rng, num_discs)
        _photo(mask, rng).save(source / images / f"{n}.{suffix}")
        _to_grey(mask).convert("RGB" if suffix == "tif" else "L").save(source / masks / f"{n}.{suffix}")


def discs(size: tuple[int, int], rng: np.random.Generator, count=1) -> np.ndarray:
    width, height = size
    y, x = np.ogrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(count):
        centre, radius = rng.uniform(0.3, 0.7, 2) * (height, width), rng.uniform(0.4, 0.6) * min(size) / (1 + count)
        mask |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    return mask


def _photo(mask: np.ndarray, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray((rng.integers(0, 100, (*mask.shape, 3)) + 120 * mask[..., None]).astype(np.uint8))


def _superpixels(shape: tuple[int, int]) -> Image.Image:
    """Blocks of 8x8 pixels, the block's number in the red channel."""
    y, x = np.indices(shape) // 8
    return Image.fromarray(np.stack([y * 8 + x, 0 * y, 0 * y], -1).astype(np.uint8))


def _to_grey(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _indexed(mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, *colour])
    return image
