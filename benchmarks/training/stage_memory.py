"""Peak memory of every stage of a build by task and number of images, and how well a build tells
the memory of its training beforehand.

Each stage runs in a process of its own, on files of 224x224 that are decoded for each batch, as
those of a long set are. The exit status is 1 where a stage takes more memory for more images, or a
training differs by more than 30 % from what was told.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serving.base.machine.cpu import machine
from serving.base.task import Task
from training.data import samples
from training.data.readers import Loaded
from training.data.samples import FileSamples
from training.errors import VerificationError
from training.evaluation.report.tables import print_table
from training.fitting.step_memory import training_memory
from training.fitting.train import fit
from training.models import build_model
from training.pipeline.needs import AROUND
from training.pipeline.pipeline import STAGE_NAMES, build
from training.recipes import parse_recipe
from training.recipes.data import Augment, Normalization
from training.recipes.train import Train

SIDE = 224
# GB by which a stage's peak may grow with the number of images: the noise of the allocator.
GROWTH = 0.25
# Share by which a training may differ from what was told.
TOLD = 0.3
CLASSES = 4
_NETWORKS: dict[Task, dict[str, Any]] = {
    "classification": {"name": "mobilenet_v3_small"},
    "segmentation": {"name": "unet_slim", "options": {"width": 0.125}},
}
# Networks whose training is told and measured: name, task, side of the images, batch size.
TRAININGS: tuple[tuple[str, Task, int, int], ...] = (
    ("resnet20_cifar", "classification", 32, 256),
    ("resnet18", "classification", 224, 32),
    ("mobilenet_v2", "classification", 224, 16),
    ("vgg16_bn", "classification", 224, 4),
    ("unet_resnet18", "segmentation", 224, 8),
    ("vit_b_16", "classification", 224, 4),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=list(_NETWORKS), default=list(_NETWORKS))
    parser.add_argument("--images", nargs="+", type=int, default=[200, 2000])
    parser.add_argument("--networks", nargs="*", default=[name for name, *_ in TRAININGS])
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        print(json.dumps(_work(**json.loads(given.work))))
        return 0
    print(machine())
    stages = list(_stage_rows(given.tasks, sorted(given.images)))
    trainings = list(_training_rows(given.networks))
    if stages:
        print_table("Peak memory of a stage's process, GB", stages)
    if trainings:
        print_table("Memory of a training beside what the process had before, GB", trainings)
    return 0 if all(row["bound"] == "kept" for row in (*stages, *trainings)) else 1


def _stage_rows(tasks: Sequence[Task], counts: Sequence[int]) -> Iterator[dict[str, str]]:
    for task in tasks:
        peaks: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for count in counts:
                _write_images(Path(folder) / str(count), task, count)
                for stage in STAGE_NAMES:
                    if stage == "distill":
                        continue
                    found = _process(
                        work="stage", task=task, folder=f"{folder}/{count}", stage=stage
                    )
                    peaks.setdefault(stage, []).append(found["peak"])
        for stage, found_peaks in peaks.items():
            grown = max(found_peaks) - found_peaks[0]
            yield {
                "task": task,
                "stage": stage,
                **{f"{n} images": f"{x:.2f}" for n, x in zip(counts, found_peaks, strict=True)},
                "bound": "kept" if grown <= GROWTH else "BROKEN",
            }


def _training_rows(names: Sequence[str]) -> Iterator[dict[str, str]]:
    for name, task, side, batch in TRAININGS:
        if name not in names:
            continue
        work = {"network": name, "task": task, "side": side, "batch": batch}
        told, real = (_process(work=kind, **work) for kind in ("tell", "train"))
        difference = told["memory"] / real["memory"] - 1
        row = {
            "network": name,
            "batch": f"{batch} of {side}x{side}",
            "told": f"{told['memory']:.2f}",
            "measured": f"{real['memory']:.2f}",
            "difference": f"{100 * difference:+.0f} %",
            "seconds to tell": f"{told['seconds']:.1f}",
            "bound": "kept" if abs(difference) <= TOLD else "BROKEN",
        }
        print("  ".join(row.values()), file=sys.stderr, flush=True)
        yield row


def _process(**work: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.training.stage_memory", "--work", json.dumps(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{work}: {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{work}: {found}", file=sys.stderr, flush=True)
    return found


def _work(work: str, **given: Any) -> dict[str, float]:
    begun = time.monotonic()
    before = _resident("VmRSS")
    if work == "stage":
        _run_stage(**given)
        return {"peak": _resident("VmHWM"), "seconds": time.monotonic() - begun}
    network = build_model(given["network"], CLASSES)
    before = _resident("VmRSS")
    task, side, batch = given["task"], given["side"], given["batch"]
    config = Train.model_validate(
        {"epochs": 1, "batch_size": batch, "precision": "fp32", "keep": "last",
         "optimizer": {"name": "sgd", "lr": 0.001}}
    )  # fmt: skip
    common = {
        "task": task,
        "classes": CLASSES,
        "ignore_index": None,
        "normalization": Normalization(),
        "changes": Augment(),
    }
    train, val = _noise(task, side, 2 * batch), _noise(task, side, batch)
    if work == "tell":
        memory = training_memory(network, config, train, **common)
        return {"memory": (AROUND + memory.of(batch)) / 1e9, "seconds": time.monotonic() - begun}
    with tempfile.TemporaryDirectory() as folder:
        fit(network, config, train, val, seed=0, folder=Path(folder), title="train", **common)
    return {"memory": _resident("VmHWM") - before, "seconds": time.monotonic() - begun}


def _run_stage(task: Task, folder: str, stage: str) -> None:
    # Sets that fit into memory are kept there: these shall be decoded as long ones are.
    samples.MEMORY_LIMIT_BYTES = 0
    classification = task == "classification"
    training = {"epochs": 1, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.01}}
    recipe = parse_recipe(
        {
            "name": "memory",
            "task": task,
            "data": {"source": "image_folder" if classification else "mask_folder", "root": folder},
            "transform": {"resize": [SIDE, SIDE]},
            "model": _NETWORKS[task],
            "train": training,
            "prune": {"ratio": 0.2, "train": {"epochs": 1}},
            "quantize": {"calibration_images": 1000, "calibrate": "percentile"},
            "export": {"variants": ["fp32", "int8-u8"]},
            "verify": {"max_drop": 1.0, "min_agreement": 0.0, "latency_seconds": 0.02},
        },
        "stage_memory",
    )
    run = Path(folder).with_name(f"{Path(folder).name}-run")
    # Noise is not learnt: the gate's verdict does not matter here.
    with contextlib.suppress(VerificationError):
        build(recipe, run, run / "repository", until=stage)


def _write_images(root: Path, task: Task, count: int) -> None:
    """Half of the images for training, a tenth for validation, the others for the test."""
    rng = np.random.default_rng(0)
    shares = {"train": count // 2, "val": count // 10, "test": count - count // 2 - count // 10}
    for split, number in shares.items():
        for index in range(number):
            label = index % CLASSES
            picture = rng.integers(0, 60, (SIDE, SIDE, 3), np.uint8) + np.uint8(60 * label)
            if task == "classification":
                folder = root / split / f"class-{label}"
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{index}.jpg"), picture)
                continue
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[label * 50 : label * 50 + 60] = 1 + label % (CLASSES - 1)
            for name, pixels, suffix in (("images", picture, "jpg"), ("masks", mask, "png")):
                folder = root / split / name
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{index}.{suffix}"), pixels)
    if task == "segmentation":
        names = "".join(f"class-{index}\n" for index in range(CLASSES))
        (root / "classes.txt").write_text(names)


def _noise(task: Task, side: int, count: int) -> FileSamples:
    """Images that are made on request, as those of a folder are decoded."""

    def load(seed: int) -> Loaded:
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        if task == "classification":
            return Loaded(image, np.asarray(seed % CLASSES), (side, side))
        return Loaded(image, rng.integers(0, CLASSES, (side, side), np.uint8), (side, side))

    return FileSamples([str(index) for index in range(count)], range(count), load)


def _resident(line: str) -> float:
    """Memory of this process, GB: VmRSS now, VmHWM at its peak."""
    text = Path(f"/proc/{os.getpid()}/status").read_text()
    return int(text.split(f"{line}:")[1].split()[0]) * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
