"""The steps of the demo: convert, plan, train stock nnU-Net and XAttnRes, predict, evaluate, report."""

import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..training.names import length_name
from ..utils import nnunet_cli, overlays
from ..utils.errors import UserError
from ..utils.plotting import choose_evenly
from . import decathlon, mni, report

MARKER = "xattnres_demo.json"
_DATASET_ID = 1
_CPU_MEMORY_TARGET = 0.07  # GB, the GPU memory that nnU-Net's planner assumes
_NUM_FIGURE_ROWS = 2
_NO_BENCHMARK = (
    "This shows that training and prediction work. It is no benchmark: the training is far too short, there are few "
    "cases, and nnU-Net does not fix its random seeds."
)
_ONE_BRAIN = "All slices are from one averaged brain, so the held-out slices are very similar to the training slices."


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        out: the folder for everything that the demo writes.
        data: a Decathlon folder, or None for slices of the MNI152 template.
        configuration: the nnU-Net configuration, "2d" or "3d_fullres".
        epochs: the number of epochs, one of `EPOCHS` in training/names.py.
        device: "cpu", "cuda" or "mps".
    """

    out: Path
    data: Path | None
    configuration: str
    epochs: int
    device: str

    def __post_init__(self):
        self.trainers = {
            "stock nnU-Net": f"nnUNetTrainer_{length_name(self.epochs)}",
            "XAttnRes": f"nnUNetTrainerXAttnRes_{length_name(self.epochs)}",
        }
        # other plans than nnUNetPlans need another name: without CUDA, the batches are smaller
        self.plans = "nnUNetPlans" if self.device == "cuda" else "nnUNetPlansDemo"
        self.processes = max(1, min(8, (os.cpu_count() or 2) // 2))
        self.num_started = 0
        self.num_steps = 2 + 3 * len(self.trainers)

    def run(self) -> None:
        """Run all steps, print the results, and write them to demo.json and demo.png.

        Raises:
            StepFailedError: if an nnU-Net command fails.
        """
        start = time.monotonic()
        self.env = nnunet_cli.make_environment(self.out, self.processes)
        self._convert()
        self._plan()
        results = [self._train_and_test(name, trainer) for name, trainer in self.trainers.items()]
        self._report(results, time.monotonic() - start)

    def _convert(self) -> None:
        raw = self.out / "nnUNet_raw"
        if self.data is None:
            self.dataset = raw / f"Dataset{_DATASET_ID:03d}_MNI152"
            self._print_step(f"converting slices of the MNI152 template to {self.dataset}")
            self.cases = mni.convert(self.dataset)
        else:
            command = f"nnUNetv2_convert_MSD_dataset -overwrite_id {_DATASET_ID} -np {self.processes} -i"
            self._nnunet([*command.split(), str(self.data.resolve())], "convert")
            self.dataset = next(raw.glob(f"Dataset{_DATASET_ID:03d}_*"))
            self.cases = decathlon.hold_out(self.data, self.dataset)
        self.description = json.loads((self.dataset / "dataset.json").read_text(encoding="utf-8"))
        print(f"      {self.description['numTraining']} training and {len(self.cases)} held-out cases")

    def _plan(self) -> None:
        n = self.processes
        command = f"nnUNetv2_plan_and_preprocess -d {_DATASET_ID} -c {self.configuration} -np {n} -npfp {n}"
        command += " --verify_dataset_integrity"
        if self.device != "cuda":
            # nnU-Net plans batches that fill the memory of a GPU; one such batch takes minutes on a CPU
            command += f" -gpu_memory_target {_CPU_MEMORY_TARGET} -overwrite_plans_name {self.plans}"
        self._nnunet(command.split(), "plan")

    def _train_and_test(self, name: str, trainer: str) -> report.Result:
        model = f"-tr {trainer} -p {self.plans} -device {self.device}"
        train = f"nnUNetv2_train {_DATASET_ID} {self.configuration} 0 {model}"
        train_seconds = self._nnunet(train.split(), f"train_{trainer}")

        images, references = str(self.dataset / "imagesTs"), str(self.dataset / "labelsTs")
        predictions = self.out / "predictions" / trainer
        predict = f"nnUNetv2_predict -d {_DATASET_ID} -c {self.configuration} -f 0 {model} -npp 1 -nps 1"
        predict_seconds = self._nnunet([*predict.split(), "-i", images, "-o", str(predictions)], f"predict_{trainer}")

        description, plans = str(predictions / "dataset.json"), str(predictions / "plans.json")
        evaluate = ["nnUNetv2_evaluate_folder", references, str(predictions), "-djfile", description, "-pfile", plans]
        self._nnunet([*evaluate, "-np", "1"], f"evaluate_{trainer}")
        return report.Result(
            name=name,
            trainer=trainer,
            dice=report.read_dice(predictions / "summary.json", self.description["labels"]),
            parameters=self._count_parameters(trainer),
            train_seconds=train_seconds,
            predict_seconds=predict_seconds,
        )

    def _count_parameters(self, trainer: str) -> int:
        import torch

        results = self.out / "nnUNet_results" / self.dataset.name / f"{trainer}__{self.plans}__{self.configuration}"
        weights = torch.load(results / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
        # nnU-Net registers some modules twice, so parameters are counted by their storage
        return sum({w.data_ptr(): w.numel() for w in weights["network_weights"].values()}.values())

    def _report(self, results: list[report.Result], seconds: float) -> None:
        print(f"\n{report.format_results(results)}\n")
        note = f"{_NO_BENCHMARK} {_ONE_BRAIN}" if self.data is None else _NO_BENCHMARK
        training = f"{self.epochs} x 250 training iterations each"
        print(f"Dice in % on {len(self.cases)} held-out cases, {training}; seconds of the whole commands. {note}\n")
        folders = [self.dataset / "labelsTs", *(self.out / "predictions" / t for t in self.trainers.values())]
        overlays.draw_overlays(
            [
                (case, overlays.read_slices(self.dataset / "imagesTs", folders, case, self.description))
                for case in choose_evenly(self.cases, _NUM_FIGURE_ROWS)
            ],
            ["image", "reference", *self.trainers],
            self.description["labels"],
            self.out / "demo.png",
        )
        report.save_json(
            results, self.out / "demo.json", note=note, dataset=self.dataset.name,
            configuration=self.configuration, epochs=self.epochs, device=self.device, seconds=round(seconds),
        )  # fmt: skip
        print(f"Figure: {self.out / 'demo.png'}    results: {self.out / 'demo.json'}    {seconds / 60:.1f} minutes")

    def _print_step(self, text: str) -> None:
        self.num_started += 1
        print(f"[{self.num_started}/{self.num_steps}] {text}", flush=True)

    def _nnunet(self, command: list[str], log: str) -> float:
        self._print_step(f"$ {shlex.join(command)}")
        seconds = nnunet_cli.run_command(command, self.env, self.out / "logs" / f"{log}.txt")
        print(f"      {seconds:4.0f} s", flush=True)
        return seconds


def prepare(out: Path, overwrite: bool) -> None:
    """Make the folder of a demo.

    Args:
        out: the folder.
        overwrite: whether to delete an earlier demo there. Other folders are never deleted.

    Raises:
        UserError: if `out` has other files, or an earlier demo without `overwrite`, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARKER).is_file():
            raise UserError(f"{out} exists and is not the folder of an earlier demo: choose another folder with --out")
        if not overwrite:
            raise UserError(f"{out} has an earlier demo: choose another folder with --out, or pass --overwrite")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text(json.dumps({"command": sys.argv[1:]}) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another folder with --out") from error
