"""The demo, step by step: convert, plan, train stock nnU-Net and XAttnRes alike, predict, evaluate, report."""

import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..training.lengths import suffix
from ..utils import nnunet_cli, overlays
from ..utils.errors import UserError
from . import decathlon, mni, report

MARKER = "xattnres_demo.json"
_DATASET_ID = 1
_CPU_MEMORY_TARGET = 0.07  # GB, for nnU-Net's planner
_PICTURE_ROWS = 2
_NO_BENCHMARK = (
    "This shows that the machinery works. It is no benchmark: the training is far too short, the cases are few, "
    "and nnU-Net does not fix its seeds."
)
_ONE_BRAIN = "All slices come from one averaged brain, so the held-out ones are nearly known."


@dataclass
class Demo:
    """One demo run.

    Attributes:
        out: folder for everything the demo writes.
        data: a Decathlon folder, None for slices of the MNI152 template.
        configuration: nnU-Net configuration to train.
        epochs: training length, one that nnU-Net has a trainer for.
        device: "cpu", "cuda" or "mps".
    """

    out: Path
    data: Path | None
    configuration: str
    epochs: int
    device: str

    def __post_init__(self):
        self.trainers = {
            "stock nnU-Net": f"nnUNetTrainer_{suffix(self.epochs)}",
            "XAttnRes": f"nnUNetTrainerXAttnRes_{suffix(self.epochs)}",
        }
        # the plans of a CPU run get a name of their own: their batches are smaller than nnU-Net's
        self.plans = "nnUNetPlans" if self.device == "cuda" else "nnUNetPlansDemo"
        self.processes = max(1, min(8, (os.cpu_count() or 2) // 2))
        self.done = 0
        self.steps = 2 + 3 * len(self.trainers)

    def run(self) -> None:
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
            self._say(f"converting slices of the MNI152 template to {self.dataset}")
            self.cases = mni.convert(self.dataset)
        else:
            command = f"nnUNetv2_convert_MSD_dataset -overwrite_id {_DATASET_ID} -np {self.processes} -i"
            self._nnunet([*command.split(), str(self.data.resolve())], "convert")
            self.dataset = next(raw.glob(f"Dataset{_DATASET_ID:03d}_*"))
            self.cases = decathlon.hold_out(self.data, self.dataset)
        self.description = json.loads((self.dataset / "dataset.json").read_text())
        print(f"      {self.description['numTraining']} training and {len(self.cases)} held-out cases")

    def _plan(self) -> None:
        n = self.processes
        command = f"nnUNetv2_plan_and_preprocess -d {_DATASET_ID} -c {self.configuration} -np {n} -npfp {n}"
        command += " --verify_dataset_integrity"
        if self.device != "cuda":
            # nnU-Net fills the memory of a GPU; a processor would take minutes for one such batch
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
            parameters=self._parameters(trainer),
            train_seconds=train_seconds,
            predict_seconds=predict_seconds,
        )

    def _parameters(self, trainer: str) -> int:
        import torch

        results = self.out / "nnUNet_results" / self.dataset.name / f"{trainer}__{self.plans}__{self.configuration}"
        weights = torch.load(results / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
        # nnU-Net registers some modules twice; a parameter's storage tells
        return sum({w.data_ptr(): w.numel() for w in weights["network_weights"].values()}.values())

    def _report(self, results: list[report.Result], seconds: float) -> None:
        print(f"\n{report.table(results)}\n")
        note = f"{_NO_BENCHMARK} {_ONE_BRAIN}" if self.data is None else _NO_BENCHMARK
        budget = f"{self.epochs} x 250 iterations of training each"
        print(f"Dice in % on {len(self.cases)} held-out cases, {budget}; seconds are of the whole commands. {note}\n")
        folders = [self.dataset / "labelsTs", *(self.out / "predictions" / t for t in self.trainers.values())]
        overlays.draw_overlays(
            [
                (case, overlays.read_slices(self.dataset / "imagesTs", folders, case, self.description))
                for case in self._chosen()
            ],
            ["image", "reference", *self.trainers],
            self.description["labels"],
            self.out / "demo.png",
        )
        report.save_json(
            results, self.out / "demo.json", note=note, dataset=self.dataset.name,
            configuration=self.configuration, epochs=self.epochs, device=self.device, seconds=round(seconds),
        )  # fmt: skip
        print(
            f"Picture: {self.out / 'demo.png'}    numbers: {self.out / 'demo.json'}    took {seconds / 60:.1f} minutes"
        )

    def _chosen(self) -> list[str]:
        """Cases spread evenly over the held-out ones."""
        rows = min(_PICTURE_ROWS, len(self.cases))
        return [self.cases[len(self.cases) * (2 * row + 1) // (2 * rows)] for row in range(rows)]

    def _say(self, text: str) -> None:
        self.done += 1
        print(f"[{self.done}/{self.steps}] {text}", flush=True)

    def _nnunet(self, command: list[str], log: str) -> float:
        self._say(f"$ {shlex.join(command)}")
        seconds = nnunet_cli.run_command(command, self.env, self.out / "logs" / f"{log}.txt")
        print(f"      {seconds:4.0f} s", flush=True)
        return seconds


def prepare(out: Path, overwrite: bool) -> None:
    """Make the demo's folder; an earlier demo gives way to --overwrite, anything else is never touched.

    Raises:
        UserError: if `out` is there already, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARKER).is_file():
            raise UserError(f"{out} exists and is not the folder of an earlier demo: choose another with --out")
        if not overwrite:
            raise UserError(f"{out} holds an earlier demo: choose another folder with --out, or pass --overwrite")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text(json.dumps({"command": sys.argv[1:]}) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another folder with --out") from error
