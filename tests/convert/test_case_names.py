"""Case names that nnU-Net keeps, by nnU-Net's own functions, and that every file system can hold."""

import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from support import converted, downloads

from nnunet_xattnres.convert.case_names import choose_case_names

NAMES = [
    "p1_seg", "p1", "p2_SEG", "_seg", "a_0000", "a", "b.png", "c.nii.gz", "1.2.840.1", "Scan", "scan", "SCAN", "x_2",
    "x", "X", "train/0", "train_0", "a:b", "a?b", "a\tb", "ends.", "ends ", "con", "AUX.1", "größe",
    "gro\N{COMBINING DIAERESIS}ße", "日本", "\udcff", "n" * 300, "n" * 301, "ä" * 200, "with space", ".hidden", "-1",
    "$HOME", "100%", "a'b", "(2)",
]  # fmt: skip
"""Names of which nnU-Net or some file system drops, joins or refuses some."""

VALID = {
    "p1", "a_0000", "a", "b.png", "c.nii.gz", "1.2.840.1", "SCAN", "x_2", "X", "train_0", "größe", "日本", "with space",
    "-1", "$HOME", "100%", "a'b", "(2)",
}  # fmt: skip


@pytest.fixture(scope="module")
def chosen():
    return choose_case_names(NAMES)


def test_nnunet_keeps_every_case(chosen, tmp_path):
    """nnU-Net lists its preprocessed folder, and pairs the files of a raw dataset."""
    assert len(set(chosen.values())) == len(NAMES)
    preprocessed = tmp_path / "preprocessed"
    for folder in (preprocessed, tmp_path / "imagesTr", tmp_path / "labelsTr"):
        folder.mkdir()
    for name in chosen.values():
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            (preprocessed / (name + ending)).touch(exist_ok=False)
        (tmp_path / "imagesTr" / f"{name}_0000.png").touch()
        (tmp_path / "labelsTr" / f"{name}.png").touch()
    assert set(nnUNetDatasetBlosc2.get_identifiers(str(preprocessed))) == set(chosen.values())
    listed = get_filenames_of_train_images_and_targets(str(tmp_path), {"file_ending": ".png"})
    assert {name: (*files["images"], files["label"]) for name, files in listed.items()} == {
        name: (str(tmp_path / "imagesTr" / f"{name}_0000.png"), str(tmp_path / "labelsTr" / f"{name}.png"))
        for name in chosen.values()
    }


def test_file_systems_without_case_keep_every_file(chosen):
    """On Windows and macOS, names that differ only in case are one file; a case X has the files X and X_seg."""
    files = [f"{name}{part}.b2nd".casefold() for name in chosen.values() for part in ("", "_seg")]
    assert len(set(files)) == len(files)


def test_valid_names_stay(chosen):
    assert {name for name, new in chosen.items() if name == new} == VALID


@pytest.mark.parametrize(
    ("name", "new"),
    [("p1_seg", "p1-seg"), ("p2_SEG", "p2-SEG"), ("train/0", "train_0_2"), ("scan", "scan_3"), ("x", "x_3"),
     ("a:b", "a_b_2"), ("con", "con_"), ("gro\N{COMBINING DIAERESIS}ße", "größe_2"), (".hidden", "hidden"),
     ("ä" * 200, "ä" * 100)],
)  # fmt: skip
def test_other_names(chosen, name, new):
    assert chosen[name] == new


def test_the_order_of_the_cases_does_not_matter(chosen):
    assert choose_case_names(reversed(NAMES)) == chosen


def test_renamed_cases_are_said_recorded_and_split(convert, tmp_path, capsys):
    source = downloads.nuclei(tmp_path, 6)
    for n, name in ((1, "p_seg"), (2, "a:b"), (3, "größe")):
        for folder in ("images", "masks"):
            (source / folder / f"{n}.png").rename(source / folder / f"{name}.png")
    split = tmp_path / "split.csv"
    split.write_text("p_seg,val\na:b,test\ngröße,train\n4,train\n5,train\n6,train\n", encoding="utf-8")
    dataset = convert("folder", source, "--split", split)
    assert converted.cases_by_split(dataset) == {"train": {"größe", "4", "5", "6"}, "val": {"p-seg"}, "test": {"a_b"}}
    changes = {name: record["changes"] for name, record in converted.records(dataset).items()}
    assert "p_seg" in changes["p-seg"][0] and "a:b" in changes["a_b"][0]
    assert not any("renamed" in change for name in "456" for change in changes[name])
    assert "2 cases: for example renamed" in capsys.readouterr().out


def test_frames_of_a_published_set_are_renamed(convert, tmp_path):
    source = downloads.colondb(tmp_path, range(1, 12))
    for folder in ("images", "masks"):
        for file in (source / folder).iterdir():
            file.rename(file.with_name(f"f{file.stem}_seg.png"))
    assert converted.records(convert("colondb", source)).keys() == {f"f{n}-seg" for n in range(1, 12)}
