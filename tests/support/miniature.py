"""nnU-Net's commands in miniature: they read and write the same files, but train nothing.

    python -I -S miniature.py FOLDER COMMAND ARGUMENT...

FOLDER has `settings.json`, the checkpoint that is saved after every epoch (`checkpoints/3.pth`) and plans; it gets
`journal.jsonl`, a line for every start, epoch and validation. The event "wrong" is an error of the caller.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

FOLDER = Path(sys.argv[1] if __name__ == "__main__" else ".")
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")


def main(name, arguments):
    parser = argparse.ArgumentParser()
    if name == "nnUNetv2_train":
        for position in ("dataset", "configuration", "fold"):
            parser.add_argument(position)
        for option in ("-tr", "-p", "-device", "-num_gpus"):
            parser.add_argument(option)
        for flag in ("--c", "--val"):
            parser.add_argument(flag, action="store_true")
        Training(parser.parse_args(arguments)).run()
        return
    several = ("-c", "-np", "-f")
    for option in ("-d", "-c", "-np", "-npfp", "-pl", "-plans_name", "-i", "-o", "-tr", "-p", "-f", "-npp", "-nps"):
        parser.add_argument(option, nargs="+" if option in several else None)
    parser.add_argument("-device")
    for flag in ("--verify_dataset_integrity", "--no_pp"):
        parser.add_argument(flag, action="store_true")
    arguments = parser.parse_args(arguments)
    journal("start", command=name)
    predict(arguments) if name == "nnUNetv2_predict" else preprocess(name, arguments)


def settings():
    """The content of settings.json: epochs, save_every, seconds of every step, and where a run fails."""
    return json.loads((FOLDER / "settings.json").read_text())


def journal(event, **about):
    line = json.dumps({"event": event, **about}) + "\n"
    handle = os.open(FOLDER / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)


def work():
    time.sleep(settings()["seconds"])


def dataset_of(name):
    folders = {f.name for v in ("nnUNet_raw", "nnUNet_preprocessed") for f in Path(os.environ[v]).glob("Dataset*")}
    (found,) = [f for f in folders if f == name or (name.isdecimal() and f.startswith(f"Dataset{int(name):03d}_"))]
    return found


def write_slowly(path, content):
    """Write a file in two parts, so that a kill leaves an incomplete file."""
    with path.open("wb") as file:
        for part in (content[: len(content) // 2], content[len(content) // 2 :]):
            file.write(part)
            file.flush()
            work()


class Training:
    def __init__(self, arguments):
        self.a, self.settings = arguments, settings()
        dataset = dataset_of(arguments.dataset)
        self.preprocessed = Path(os.environ["nnUNet_preprocessed"]) / dataset
        model = f"{arguments.tr}__{arguments.p}__{arguments.configuration}"
        self.fold = Path(os.environ["nnUNet_results"]) / dataset / model / f"fold_{arguments.fold}"
        self.name = f"{arguments.tr} {arguments.fold}"
        splits = json.loads((self.preprocessed / "splits_final.json").read_text())
        self.cases = splits[int(arguments.fold)]["val"]

    def run(self):
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        journal(
            "start", run=self.name, flags=[flag for flag in ("c", "val") if getattr(self.a, flag)], gpus=gpus,
            folder=str(self.fold), trainers=os.environ["nnUNet_extTrainer"], num_gpus=self.a.num_gpus,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            for name in (self.fold, *(gpus.split(",") if gpus else [])):
                stack.enter_context(exclusive(str(name)))
            stack.enter_context(worker())
            self.fold.mkdir(parents=True, exist_ok=True)
            now = datetime.now()
            self.log = self.fold / f"training_log_{now.year}_{now.month}_{now.day}_{now:%H_%M_%S}.txt"
            epoch = self.load()
            if not self.a.val:
                self.train(epoch)
            self.validate()
        journal("end", run=self.name)

    def fail(self, where):
        if self.settings["fail"].get(self.name) == where:
            print("Traceback (most recent call last):\n  File ...\nRuntimeError: CUDA out of memory\n", flush=True)
            raise SystemExit(1)

    def load(self):
        names = CHECKPOINTS if self.a.c else CHECKPOINTS[:1]
        existing = [self.fold / name for name in names if (self.fold / name).exists()]
        if self.a.val and not existing:
            raise SystemExit("RuntimeError: Cannot run validation because the training is not finished yet!")
        if not existing:
            return 0
        content = existing[0].read_bytes()
        for epoch in range(self.settings["epochs"] + 1):
            if content == (FOLDER / "checkpoints" / f"{epoch}.pth").read_bytes():
                return epoch
        journal("wrong", reason=f"{existing[0]} is incomplete")
        raise SystemExit("RuntimeError: PytorchStreamReader failed reading zip archive")

    def save(self, name, epoch):
        write_slowly(self.fold / name, (FOLDER / "checkpoints" / f"{epoch}.pth").read_bytes())

    def print_to_log(self, line):
        with self.log.open("a") as file:
            file.write(f"{datetime.now()}: {line} \n")
        print(line, flush=True)

    def train(self, first):
        epochs = self.settings["epochs"]
        for epoch in range(first, epochs):
            for line in ("", f"Epoch {epoch}", "Current learning rate: 0.01"):
                self.print_to_log(line)
            work()
            self.fail("training")
            for line in ("train_loss -0.5", "val_loss -0.4", "Pseudo dice [np.float32(0.5)]", "Epoch time: 1.5 s"):
                self.print_to_log(line)
            journal("epoch", run=self.name, epoch=epoch)
            if (epoch + 1) % self.settings["save_every"] == 0 and epoch + 1 < epochs:
                self.save("checkpoint_latest.pth", epoch + 1)
            self.save("checkpoint_best.pth", epoch + 1)
        self.save("checkpoint_final.pth", epochs)
        (self.fold / "checkpoint_latest.pth").unlink(missing_ok=True)
        self.print_to_log("Training done.")

    def validate(self):
        self.fail("validation")
        folder = self.fold / "validation"
        folder.mkdir(exist_ok=True)
        files = [folder / f"{case}.png" for case in self.cases]
        for file in files:
            file.write_bytes(b"")
            work()
        references = self.preprocessed / "gt_segmentations"
        cases = [{"prediction_file": str(f), "reference_file": str(references / f.name), "metrics": {}} for f in files]
        if self.settings["fail"].get(self.name) != "summary":
            write_slowly(folder / "summary.json", json.dumps({"metric_per_case": cases}).encode())
        journal("validated", run=self.name)


@contextlib.contextmanager
def exclusive(name):
    """Something that two processes must never use at the same time."""
    with (FOLDER / f"used {name.replace('/', '_')}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            journal("wrong", reason=f"two processes use {name}")
            raise SystemExit(f"two processes use {name}") from None
        yield


@contextlib.contextmanager
def worker():
    """A child process that runs until it is killed."""
    pid = os.fork()
    if not pid:
        time.sleep(3600)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


PLANS = {None: "nnUNetPlans", "nnUNetPlannerResEncM": "nnUNetResEncUNetMPlans"}


def preprocess(name, arguments):
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset_of(arguments.d)
    cases = [file.stem for file in (Path(os.environ["nnUNet_raw"]) / folder.name / "labelsTr").iterdir()]
    if name == "nnUNetv2_plan_and_preprocess":
        (folder / f"{PLANS[arguments.pl]}.json").write_text((FOLDER / "plans.json").read_text())
        assert arguments.no_pp
        return
    for configuration in arguments.c:
        data = folder / f"nnUNetPlans_{configuration}"  # all plans share this folder
        with exclusive(str(data)):
            data.mkdir(exist_ok=True)
            for file in list(data.iterdir()):
                file.unlink()
            for case in sorted(cases):
                for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                    write_slowly(data / f"{case}{ending}", b"12")


def predict(arguments):
    dataset = dataset_of(arguments.d)
    model = Path(os.environ["nnUNet_results"]) / dataset / f"{arguments.tr}__{arguments.p}__{arguments.c[0]}"
    for fold in arguments.f:
        if not (model / f"fold_{fold}" / "checkpoint_final.pth").exists():
            raise SystemExit(f"FileNotFoundError: fold_{fold}")
    for image in sorted(Path(arguments.i).iterdir()):
        write_slowly(Path(arguments.o) / image.name.replace("_0000", ""), b"12")


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3:])
