"""Three cases of a comparison over their images: where a trainer lost, where it was as usual, where it won."""

from pathlib import Path

from ...utils.errors import UserError
from ...utils.files import read_json
from ...utils.overlays import draw_overlays, read_slices
from ..folders import NnUNetFolders
from ..grid import Run
from .analysis import PairedComparison
from .figures import chosen_cases


def draw_cases(paired: PairedComparison, folders: NnUNetFolders, path: Path) -> None:
    """Image, reference, baseline and trainer.

    Raises:
        UserError: if the images are not there any more.
    """
    results = paired.results
    images = folders.raw_dataset(results.experiment) / "imagesTr"
    if not images.is_dir():
        raise UserError(f"there is no {images}")
    description = folders.preprocessed_dataset(results.experiment) / "dataset.json"
    dataset = read_json(description, "nnU-Net's dataset.json")
    if missing := [key for key in ("labels", "file_ending") if key not in dataset]:
        raise UserError(f"{description} has no {' and no '.join(missing)}")
    rows = []
    for name, (case, (repeat, fold), difference) in chosen_cases(paired).items():
        runs = [Run(results.experiment, trainer, fold, repeat) for trainer in (results.baseline, paired.trainer)]
        label_folders = [folders.references(results.experiment), *(folders.validation(run) for run in runs)]
        rows.append(
            (f"{name}\n{case}\n{100 * difference:+.2f} points", read_slices(images, label_folders, case, dataset))
        )
    columns = ["image", "reference", results.baseline, paired.trainer]
    draw_overlays(rows, columns, dataset["labels"], path)
