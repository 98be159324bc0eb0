"""The generated downloads have the file names and values of the real ones."""

import zipfile

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from support import downloads


def liver_is_largest(label, liver):
    counts = np.bincount(label.astype(int).ravel())[1:]
    return counts.argmax() + 1 == liver and counts.max() > 3 * np.sort(counts)[-2]


def opened(path):
    with Image.open(path) as image:
        image.load()
    return image


def npz(path):
    with np.load(path) as file:
        return file["image"], file["label"]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_btcv(tmp_path):
    source = downloads.btcv(tmp_path)
    training = source / "Training"
    assert names(training / "img") == [n.replace("label", "img") for n in names(training / "label")]
    assert len(names(training / "img")) == 30
    assert names(source / "Testing" / "img") == ["img0061.nii.gz", "img0062.nii.gz"]
    for path in (training / "img").iterdir():
        image = sitk.ReadImage(path)
        label = sitk.ReadImage(training / "label" / path.name.replace("img", "label"))
        assert label.IsSameImageGeometryAs(image, 0, 0)
        assert image.GetPixelID() == sitk.sitkInt16 and label.GetPixelID() == sitk.sitkUInt8
        assert image.GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)
        hu, values = sitk.GetArrayViewFromImage(image), sitk.GetArrayFromImage(label)
        assert (hu.min(), hu.max()) == (-1024, 1500)
        assert set(np.unique(values)) == set(range(14)) and liver_is_largest(values, 6)


@pytest.mark.parametrize(
    ("order", "liver"),
    [
        ("transunet", 5),
        pytest.param("paper", 6, marks=pytest.mark.slow),
        pytest.param("btcv", 6, marks=pytest.mark.slow),
    ],
)
def test_transunet(tmp_path, order, liver):
    source = downloads.transunet(tmp_path, order)
    assert len(names(source / "train_npz")) == 2211
    assert len(names(source / "test_vol_h5")) == 12
    cases = []
    for n, slices in downloads.TRANSUNET_SLICES.items():
        paths = [source / "train_npz" / f"case{n:04d}_slice{k:03d}.npz" for k in range(slices)]
        images, labels = zip(*map(npz, paths), strict=True)
        cases.append((np.stack(images), np.stack(labels)))
    for path in (source / "test_vol_h5").iterdir():
        with h5py.File(path) as file:
            cases.append([file[key][:] for key in ("image", "label")])
    for image, label in cases:
        assert image.dtype == label.dtype == np.float32 and image.shape == label.shape
        hu = image.astype(float) * 400 - 125
        assert hu.min() >= -125 and hu.max() <= 275 and np.allclose(hu, np.rint(hu), rtol=0, atol=1e-4)
        assert set(np.unique(label)) == set(range(14 if order == "btcv" else 9)) and liver_is_largest(label, liver)


def test_orders_name_the_same_voxels():
    paper, transunet, btcv = (downloads.make_transunet_arrays(6, 1, order)[1] for order in downloads.LABEL_ORDERS)
    for voxels in ((paper == 5, transunet == 6, btcv == 11), (paper == 1, transunet == 7, btcv == 1)):
        assert voxels[0].any() and all((voxels[0] == other).all() for other in voxels)


@pytest.mark.parametrize(
    "form", ["tif", "png", *(pytest.param(form, marks=pytest.mark.slow) for form in ("both", "flat"))]
)
def test_clinicdb(tmp_path, form):
    source = downloads.clinicdb(tmp_path, form)
    for images, masks, suffix in downloads.CLINICDB_FORMS[form]:
        assert names(source / images) == names(source / masks) == sorted(f"{n}.{suffix}" for n in range(1, 613))
        assert opened(source / images / f"7.{suffix}").mode == "RGB"
        assert opened(source / masks / f"7.{suffix}").mode == ("RGB" if suffix == "tif" else "L")
    assert (source / "metadata.csv").exists() == (form == "both")


def test_photos(tmp_path):
    colondb, nuclei = downloads.colondb(tmp_path), downloads.nuclei(tmp_path)
    assert len(names(colondb / "images")) == 380 and len(names(nuclei / "images")) == 20
    for source in (colondb, nuclei):
        assert names(source / "images") == names(source / "masks")
        for path in (source / "images").iterdir():
            image, mask = opened(path), opened(source / "masks" / path.name)
            assert (image.mode, mask.mode) == ("RGB", "L") and image.size == mask.size
            assert set(np.unique(mask)) == {0, 255}
    assert len({opened(path).size for path in (colondb / "images").iterdir()}) == 2


def test_isic2017(tmp_path):
    source = downloads.isic2017(tmp_path)
    parts = {"Training": 6, "Validation": 2, "Test_v2": 3}
    ids = []
    for part, count in parts.items():
        data, truth = source / f"ISIC-2017_{part}_Data", source / f"ISIC-2017_{part}_Part1_GroundTruth"
        found = [path.stem for path in data.glob("*.jpg")]
        assert len(found) == count
        assert names(truth) == sorted(f"{name}_segmentation.png" for name in found)
        extra = {f"ISIC-2017_{part}_Data_metadata.csv", *(f"{name}_superpixels.png" for name in found)}
        assert set(names(data)) == extra | {f"{name}.jpg" for name in found}
        ids += found
    assert sorted(ids) == [f"ISIC_{n:07d}" for n in range(11)]


@pytest.mark.parametrize("flavour", downloads.FLAVOURS)
def test_masks(tmp_path, flavour):
    mask = downloads.discs((28, 24), np.random.default_rng(0))
    path = tmp_path / f"mask{downloads.ending(flavour)}"
    downloads.save_mask(mask, path, flavour)
    image = opened(path)
    grey = np.asarray(image.convert("L"))
    threshold = {"0/1": 0, "palette dark red": 20}.get(flavour, 127)
    assert ((grey > threshold) == mask).all()
    modes = {"bool": "1", "palette": "P", "palette dark red": "P", "RGBA": "RGBA", "LA": "LA"}
    assert image.mode == modes.get(flavour, "RGB" if "RGB" in flavour else "L")
    assert (len(np.unique(grey)) > 2) == flavour.startswith("jpeg")


def test_archives(tmp_path):
    source = downloads.nuclei(tmp_path, 2)
    with zipfile.ZipFile(downloads.zipped(source, tmp_path / "nuclei.zip")) as file:
        assert {"Nuclei_DSB2018/", "Nuclei_DSB2018/images/1.png"} < set(file.namelist())
    with zipfile.ZipFile(downloads.write_zip_with(tmp_path / "evil.zip", {"../evil.png": b"x"})) as file:
        assert file.namelist() == ["../evil.png"]
