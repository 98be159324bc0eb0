"""The content of converted datasets, and that problems leave everything as it was. Kills are in test_kill.py."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split
from PIL import Image
from support import converted, downloads, faults
from support.trees import snapshot

from nnunet_xattnres import __version__

NAME = "Dataset007_Images"


@pytest.fixture
def nuclei(tmp_path):
    return downloads.nuclei(tmp_path / "source", 10)


class TestContent:
    def test_manifest(self, convert, nuclei):
        before = snapshot(nuclei)
        dataset = convert("folder", nuclei, "--foreground", "nucleus", "--seed", 5)
        manifest = converted.read_manifest(dataset)
        assert manifest.keys() == {"dataset", "made_by", "made_at", "settings", "split", "notes", "left_out", "cases"}
        assert manifest["made_by"] == f"nnunet-xattnres {__version__}"
        assert manifest["settings"]["layout"] == "folder" and manifest["settings"]["seed"] == 5
        assert manifest["settings"]["source"] == [str(nuclei)]
        assert re.findall(r"\d+", manifest["split"]) == ["8", "1", "1", "5", "8", "1", "1"]  # ratio, seed, numbers
        assert [record["case"] for record in manifest["cases"]] == sorted(map(str, range(1, 11)))
        splits = converted.cases_by_split(dataset)
        for record in manifest["cases"]:
            assert record["case"] in splits[record["split"]]
            for source in record["source"]:
                assert hashlib.sha256((nuclei / source["file"]).read_bytes()).hexdigest() == source["sha256"]
        assert snapshot(nuclei) == before
        assert not [path for path in dataset.parent.iterdir() if path != dataset]

    def test_workers_do_not_change_the_result(self, convert, run, real_preview, nuclei, folders):
        one_worker = convert("folder", nuclei)
        assert run("folder", nuclei, "--dataset-id", 8, "--workers", 2) == 0

        def content(folder):
            files = {path: data for path, (_, _, _, data) in snapshot(folder).items()}
            return files | {"manifest.json": json.loads(files["manifest.json"]) | {"made_at": ""}}

        assert content(folders["nnUNet_raw"] / "Dataset008_Images") == content(one_worker)

    def test_overwrite_replaces_the_dataset_and_renames_its_splits(self, convert, nuclei, folders, tmp_path, capsys):
        dataset = convert("folder", nuclei)
        (dataset / "imagesTr" / "old_0000.png").write_bytes(b"")
        splits = folders["nnUNet_preprocessed"] / dataset.name / "splits_final.json"
        splits.parent.mkdir()
        splits.write_text('[{"train": ["mine"], "val": ["other"]}]')
        assert convert("folder", downloads.nuclei(tmp_path / "other", 6), "--overwrite") == dataset
        assert str(splits.parent) in capsys.readouterr().out
        assert not (dataset / "imagesTr" / "old_0000.png").exists()
        assert len(converted.records(dataset)) == 6
        assert not splits.exists()
        assert json.loads((splits.parent / "splits_final.replaced1.json").read_text())[0]["train"] == ["mine"]

    def test_converting_a_dataset_of_nnunet(self, convert, nuclei):
        options = ("--images", "imagesTr/{case}_0000", "--masks", "labelsTr")
        dataset = convert("folder", convert("folder", nuclei, "--split", "1:0:0"), *options, number=8)
        assert set().union(*converted.cases_by_split(dataset).values()) == set(map(str, range(1, 11)))

    def test_a_source_that_would_be_replaced(self, convert, refuse_line, nuclei):
        dataset = convert("folder", nuclei)
        before = snapshot(dataset)
        options = ("--images", "imagesTr/{case}_0000", "--masks", "labelsTr", "--overwrite")
        refuse_line("folder", dataset, *options)
        assert snapshot(dataset) == before

    @pytest.mark.parametrize("count", [4, 5])
    def test_too_few_cases_for_the_folds_of_nnunet(self, convert, tmp_path, count):
        manifest = converted.read_manifest(convert("folder", downloads.nuclei(tmp_path, count), "--split", "1:0:0"))
        names = [record["case"] for record in manifest["cases"]]
        try:
            possible = len(generate_crossval_split(names)) == 5
        except ValueError:  # of scikit-learn
            possible = False
        assert possible == (not any("five folds" in note for note in manifest["notes"])) == (count >= 5)

    def test_a_split_file_whose_name_is_not_utf8(self, convert, real_preview, tmp_path):
        split = tmp_path / "\udcff.csv"
        split.write_text("1,train\n2,train\n3,val\n4,val\n")
        dataset = convert("folder", downloads.nuclei(tmp_path, 4), "--split", split)
        assert converted.read_manifest(dataset)["settings"]["split"] == str(split)

    def test_masks_without_any_foreground(self, convert, refuse, nuclei, capsys):
        for mask in (nuclei / "masks").iterdir():
            Image.new("L", (32, 32)).save(mask)
        faults.check_listed(refuse("folder", nuclei), [("the source", "no-foreground", "--threshold")])
        manifest = converted.read_manifest(convert("folder", nuclei, "--skip-bad"))
        assert capsys.readouterr().err.startswith("warning: the source: no-foreground: ")
        assert [note for note in manifest["notes"] if "foreground" in note]


class TestManyFaults:
    """Every fault of a 2-D image in a case of its own, followed by some good cases."""

    good = 8

    @pytest.fixture
    def source(self, tmp_path):
        source = downloads.nuclei(tmp_path, len(faults.IMAGE_FAULTS) + self.good)
        for n, fault in enumerate(faults.IMAGE_FAULTS.values(), 1):
            fault.change(source, n)
        return source

    expected = tuple(fault.expected(n) for n, fault in enumerate(faults.IMAGE_FAULTS.values(), 1))

    def test_all_are_listed(self, refuse, source):
        lines = refuse("folder", source)
        faults.check_listed(lines, self.expected)
        assert refuse("folder", source, "--dry-run") == lines

    def test_a_dry_run_that_skips_them(self, run, source, tmp_path, capsys):
        before = snapshot(tmp_path)
        assert run("folder", source, "--dry-run", "--skip-bad") == 0
        assert snapshot(tmp_path) == before
        out, err = capsys.readouterr()
        assert f"\n{self.good} cases " in out
        lines = [line.removeprefix("skipped: ") for line in err.splitlines()]
        faults.check_problems(map(faults.parse_problem, lines), self.expected)

    def test_they_are_skipped_and_recorded(self, convert, source, capsys):
        before = snapshot(source)
        dataset = convert("folder", source, "--skip-bad")
        assert snapshot(source) == before
        good = {str(n) for n in range(len(self.expected) + 1, len(self.expected) + self.good + 1)}
        assert converted.records(dataset).keys() == good
        for images, suffix in (("images", "_0000"), ("labels", "")):
            names = [path.name for part in ("Tr", "Ts") for path in (dataset / f"{images}{part}").iterdir()]
            assert sorted(names) == sorted(f"{name}{suffix}.png" for name in good)
        num_training = len(list((dataset / "imagesTr").iterdir()))
        assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == num_training
        skipped = [(s["file"], s["code"], s["problem"]) for s in converted.read_manifest(dataset)["left_out"]]
        faults.check_problems(skipped, self.expected)
        assert capsys.readouterr().err.splitlines() == [f"skipped: {': '.join(problem)}" for problem in skipped]

    @pytest.mark.parametrize("options", [(), ("--dry-run",)])
    def test_no_case_is_left(self, refuse, tmp_path, options):
        source = downloads.nuclei(tmp_path, 6)
        for n in range(1, 7):
            faults.truncate(faults.image(source, n))
        title, *lines = refuse("folder", source, "--skip-bad", *options)
        assert "none of 6 cases" in title
        faults.check_problems(map(faults.parse_problem, lines), [(f"images/{n}.png", "damaged") for n in range(1, 7)])


class TestTarget:
    """nnU-Net's folders must be ready for the dataset."""

    @pytest.fixture
    def source(self, tmp_path):
        return downloads.nuclei(tmp_path, 6)

    @pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
    def test_the_number_is_taken(self, refuse_line, folders, source, variable):
        other = folders[variable] / "Dataset007_Other"
        other.mkdir()
        line = refuse_line("folder", source)
        assert str(other) in line and "--dataset-id" in line

    @pytest.mark.parametrize("options", [(), ("--dry-run",)])
    def test_the_dataset_exists(self, refuse_line, folders, source, options):
        dataset = folders["nnUNet_raw"] / NAME
        dataset.mkdir()
        (dataset / "dataset.json").write_text("hello")
        line = refuse_line("folder", source, *options)
        assert str(dataset) in line and "--overwrite" in line

    @pytest.mark.parametrize("value", [None, "", "{root}/missing"])
    def test_no_folder_of_raw_datasets(self, refuse_line, monkeypatch, tmp_path, source, value):
        if value is None:
            monkeypatch.delenv("nnUNet_raw")
        else:
            monkeypatch.setenv("nnUNet_raw", value.format(root=tmp_path))
        line = refuse_line("folder", source)
        assert "export nnUNet_raw=" in line and (value or "").format(root=tmp_path) in line

    @pytest.mark.parametrize(
        ("content", "options"),
        [
            (json.dumps([{"train": ["1"], "val": ["2"]}]), ()),
            ('[{"train": ["1", ', ()),
            ('{"train": ["1"], "val": ["2"]}', ()),
            ("", ()),
            # without validation cases there is no fold to compare, but nnU-Net would train with the test cases
            (json.dumps([{"train": ["1", "2", "3", "4"], "val": ["5", "6"]}]), ("--split", "4:0:2")),
        ],
        ids=["other", "damaged", "object", "empty", "with test cases"],
    )
    def test_other_splits_in_the_preprocessed_folder(self, refuse_line, folders, source, content, options):
        file = folders["nnUNet_preprocessed"] / NAME / "splits_final.json"
        file.parent.mkdir()
        file.write_text(content)
        line = refuse_line("folder", source, *options)
        assert str(file) in line and "--overwrite" in line

    def test_the_source_is_the_dataset(self, refuse_line, folders, source):
        source = source.rename(folders["nnUNet_raw"] / NAME)
        assert str(source) in refuse_line("folder", source, "--overwrite")

    @pytest.mark.parametrize(
        ("folder", "error", "code"),
        [
            (f".{NAME}.converting", PermissionError(13, "Permission denied"), 2),
            *((name, OSError(28, "No space left on device"), 1) for name in ("dataset", "imagesTr", "records")),
        ],
    )
    def test_a_folder_cannot_be_made(self, refuse_line, folders, monkeypatch, source, folder, error, code):
        mkdir = Path.mkdir

        def fail(self, *arguments, **options):
            if self.name == folder:
                raise type(error)(*error.args, str(self))
            return mkdir(self, *arguments, **options)

        monkeypatch.setattr(Path, "mkdir", fail)
        line = refuse_line("folder", source, code=code)
        assert str(folders["nnUNet_raw"]) in line and error.strerror in line


LIMITED = """\
import resource, sys
from nnunet_xattnres.cli.main import main
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    sys.exit(main(sys.argv[1:]))
"""
"""A script that cannot write files larger than the limit, as on a full disk."""

DYING = """\
import os, sys
from nnunet_xattnres.convert.images import ImageReader
if __name__ == "__mp_main__":
    read = ImageReader.read
    ImageReader.read = lambda self, case: os._exit(9) if case.name == "3" else read(self, case)
else:
    from nnunet_xattnres.cli.main import main
    sys.exit(main(sys.argv[1:]))
"""
"""A script whose worker processes die at the case 3."""


PLAIN = "import sys; from nnunet_xattnres.cli.main import main; sys.exit(main(sys.argv[1:]))"


class TestProcesses:
    def run_script(self, root, script, *arguments):
        path = root / "script.py"
        path.write_text(script)
        command = [sys.executable, path, "convert", "folder", *map(str, arguments), "--dataset-id", "7"]
        return subprocess.run(command, env=os.environ, cwd=root, capture_output=True, text=True, timeout=120)

    @staticmethod
    def large_images(root):
        downloads.write_photos(root / "large", range(1, 5), 1, lambda n: (200, 200))
        return root / "large"

    @staticmethod
    def scans_with_noise(root):
        source = downloads.scans(root)
        noise = np.random.default_rng(0).normal(size=(20, 60, 60)).astype(np.float32)
        downloads.write_volume(noise, faults.image(source, 3, "nii.gz"), 1)
        downloads.write_volume((noise > 0).astype(np.uint8), faults.mask(source, 3, "nii.gz"), 1)
        return source

    @pytest.mark.parametrize(
        ("build", "limit", "options", "file"),
        [
            ("large_images", 20_000, ["--workers", 1], "the case 1"),
            pytest.param("large_images", 20_000, ["--workers", 2], "the case ", marks=pytest.mark.slow),
            ("scans_with_noise", 20_000, ["--workers", 1], "the case 3"),
            pytest.param("nuclei", 20_000, ["--workers", 1], NAME, marks=pytest.mark.slow),
            pytest.param("nuclei", 5_000, ["--workers", 1, "--size", 8], "manifest.json", marks=pytest.mark.slow),
            pytest.param("nuclei", 150, ["--workers", 1], "settings.json", marks=pytest.mark.slow),
        ],
        ids=["image", "image, two workers", "volume", "preview", "manifest", "settings"],
    )
    def test_a_full_disk(self, folders, tmp_path, build, limit, options, file):
        source = downloads.nuclei(tmp_path) if build == "nuclei" else getattr(self, build)(tmp_path)
        before = snapshot(source)
        process = self.run_script(tmp_path, LIMITED.format(limit=limit), source, *options)
        *others, line = process.stderr.splitlines()
        assert process.returncode in (1, 2) and not process.stdout
        assert line.startswith("xattnres convert: cannot write ") and file in line
        assert all(other.startswith("** ERROR: NWAD: ") for other in others)  # niftilib prints these
        assert not list(folders["nnUNet_raw"].iterdir())
        assert snapshot(source) == before

    def test_a_worker_dies(self, folders, tmp_path):
        source = downloads.nuclei(tmp_path, 6)
        before = snapshot(source)
        process = self.run_script(tmp_path, DYING, source, "--workers", 2)
        (line,) = process.stderr.splitlines()
        assert process.returncode == 1 and not process.stdout
        assert line.startswith("xattnres convert: ") and "--workers 1" in line
        assert not list(folders["nnUNet_raw"].iterdir())
        assert snapshot(source) == before

    def test_a_file_name_that_is_not_utf8(self, folders, tmp_path):
        source = downloads.nuclei(tmp_path, 6)
        for folder in ("images", "masks"):
            os.rename(source / folder / "3.png", os.path.join(os.fsencode(source / folder), b"\xff.png"))
        process = self.run_script(tmp_path, PLAIN, source, "--workers", 1)
        assert process.returncode == 0 and "\\udcff" in process.stdout, process.stderr
        records = converted.records(folders["nnUNet_raw"] / NAME)
        assert records.keys() == {"1", "2", "_", "4", "5", "6"} and "\udcff" in records["_"]["changes"][0]

    def test_names_beyond_ascii_in_a_locale_of_ascii(self, folders, tmp_path, monkeypatch):
        """The split file is UTF-8 in every locale; the file system's encoding cannot hold the name."""
        source = downloads.nuclei(tmp_path, 6)
        for folder in ("images", "masks"):
            (source / folder / "3.png").rename(source / folder / "größe.png")
        text = "größe,val\n" + "".join(f"{n},train\n" for n in (1, 2, 4, 5, 6))
        (tmp_path / "split.csv").write_text(text, encoding="utf-8")
        for variable, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
            monkeypatch.setenv(variable, value)
        process = self.run_script(tmp_path, PLAIN, source, "--workers", 1, "--split", "split.csv")
        assert process.returncode == 0 and process.stdout.isascii(), process.stderr
        dataset = folders["nnUNet_raw"] / NAME
        assert converted.cases_by_split(dataset)["val"] == {"gr__e"}
        assert "größe" in converted.records(dataset)["gr__e"]["changes"][0]
