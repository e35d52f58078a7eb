"""Accuracy lost and time gained by distillation, pruning and INT8, on real images.

Builds the recipes of benchmarks/training/recipes in their order. A network of two recipes is
trained once. A build fails where its gate does; the other targets are checked here.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.archives import extracted
from serving.base.machine.cpu import core_count, machine
from serving.engines import ENGINES, EngineOptions, load_engine
from training.compress.stopwatch import speedup
from training.data import load_dataset
from training.errors import BuildError
from training.evaluation.report.tables import print_table, variant_rows
from training.evaluation.verification import Verification
from training.models import build_model
from training.models.export.deployed import Deployed, run_deployed
from training.models.weights import load_weights
from training.pipeline.pipeline import Built, build
from training.recipes import Recipe, load_recipe

RECIPES = Path(__file__).with_name("recipes")
RUNS = Path("runs")
REPOSITORY = RUNS / "model_repo"

# Recipes in order: each with its data, and the recipe whose trained network it starts from.
WORK = {
    "resnet56-int8": ("cifar10", None),
    "resnet56-half": ("cifar10", "resnet56-int8"),
    "resnet20-distilled": ("cifar10", None),
    "camvid-int8": ("camvid", None),
    "camvid-pruned": ("camvid", "camvid-int8"),
}
# Least speed of the pruned ResNet-56 as a multiple of the whole one, in INT8 at batch 32.
SPEEDUPS = {"onnxruntime": ("int8-u8", 1.5), "openvino": ("int8-s8", 1.5)}

# Least gain of fine-tuning over ResNet-56's published weights, and least mean IoU of a U-Net on
# CamVid after an hour of training from scratch.
GAIN, MEAN_IOU, TRAINING_SECONDS = 0.03, 0.42, 3600.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="*", help=f"of {', '.join(WORK)}; all without")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.KEY=VALUE")
    given = parser.parse_args()
    if unknown := sorted(set(given.work) - set(WORK)):
        parser.error(f"unknown: {', '.join(unknown)}; expected some of {', '.join(WORK)}")
    print(machine())
    failed = [name for name in given.work or WORK if not run(name, given.set)]
    print("all reached" if not failed else f"MISSED: {', '.join(failed)}")
    return 1 if failed else 0


def run(name: str, overrides: list[str]) -> bool:
    """Builds one recipe. Returns whether it reached its targets."""
    data, trained_in = WORK[name]
    extracted(data)
    if trained_in is not None:
        take_training(RUNS / trained_in, RUNS / name)
    began = time.monotonic()
    try:
        recipe = load_recipe(RECIPES / f"{name}.yaml", overrides)
        built = build(recipe, RUNS, REPOSITORY)
    except BuildError as error:
        print(f"{name}: {error}; see {RUNS / name / 'report.html'}")
        return False
    if built.verification is not None:
        print_table(f"{name}, {time.monotonic() - began:.0f} s", variant_rows(built.verification))
    results = json.loads((built.folder / "metrics.json").read_text())
    if name == "resnet56-int8":
        return bool(served_by_each_engine(results) & fine_tuned_is_better(recipe, results))
    if name == "camvid-int8":
        return bool(served_by_each_engine(results) & segments_well(results))
    if name == "resnet56-half":
        return served_by_each_engine(results) and is_faster(built)
    if name == "resnet20-distilled":
        return distilled_is_better(results)
    return served_by_each_engine(results)


def fine_tuned_is_better(recipe: Recipe, results: dict[str, Any]) -> bool:
    """Compares the fine-tuned network with the weights that it started from."""
    data = load_dataset(recipe)
    network = build_model(recipe.model.architecture, len(data.classes))
    load_weights(network, str(recipe.model.pretrained), recipe.model.architecture)
    deployed = Deployed(network, recipe.task, recipe.normalization)
    right = 0
    for start in range(0, len(data.test), 500):
        images, labels = data.test.batch(range(start, min(start + 500, len(data.test))))
        logits = run_deployed(deployed, ("logits",), images)["logits"]
        right += int((logits.argmax(axis=1) == labels).sum())
    given = right / len(data.test)
    tuned = baseline_of(results)
    seconds = sum(epoch["seconds"] for epoch in results["train"]["history"])
    print(
        f"top-1 of {len(data.test)} images: {100 * given:.2f} % as given, {100 * tuned:.2f} % "
        f"after {recipe.train.epochs} epochs in {seconds:.0f} s; {100 * GAIN:.0f} points wanted"
    )
    return tuned - given >= GAIN


def segments_well(results: dict[str, Any]) -> bool:
    """Checks the trained network against its target after an hour."""
    seconds = sum(epoch["seconds"] for epoch in results["train"]["history"])
    found = baseline_of(results)
    print(f"mean IoU {found:.4f} after {seconds:.0f} s of training; {MEAN_IOU} wanted")
    return found >= MEAN_IOU and seconds <= TRAINING_SECONDS


def baseline_of(results: dict[str, Any]) -> float:
    """Accuracy of the trained network in FP32, before compression."""
    return Verification.model_validate(results["verify"]["verification"]).baseline.value


def take_training(source: Path, target: Path) -> None:
    """Copies the stages that two recipes share; a build reuses them where their keys are equal."""
    for stage in ("data", "train"):
        if (source / stage).is_dir() and not (target / stage).exists():
            shutil.copytree(source / stage, target / stage)


def served_by_each_engine(results: dict[str, Any]) -> bool:
    """Whether a variant passed in each engine, an INT8 variant where there are any. An INT8 variant
    is made for one engine; its failure in another is printed and is no failure here."""
    verification = Verification.model_validate(results["verify"]["verification"])
    int8 = [result for result in verification.variants if result.precision == "int8"]
    passed, engines = set(), set()
    for result in int8 or verification.variants:
        for engine, evidence in result.evidence.items():
            engines.add(engine)
            if evidence.gate.passed:
                passed.add(engine)
            else:
                print(f"{result.id} in {engine}: {evidence.gate.reason}")
    return passed == engines


def is_faster(half: Built) -> bool:
    """Times the whole and the pruned network in turns, in each engine."""
    batch = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
    reached = True
    for name, (variant, wanted) in SPEEDUPS.items():
        if name not in ENGINES:
            continue
        options = EngineOptions(precision="int8", threads=core_count(), max_batch_size=32)
        files = [
            folder / "export" / f"model.{variant}.onnx"
            for folder in (RUNS / "resnet56-int8", half.folder)
        ]
        whole, pruned = (load_engine(name, file, options) for file in files)
        ratios = [speedup(whole, pruned, {"image": batch}, 5.0) for _ in range(5)]
        whole.close()
        pruned.close()
        found = float(np.median(ratios))
        print(
            f"{variant} in {name}, batch 32: {found:.2f} times as fast as unpruned "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {wanted} wanted"
        )
        reached &= found >= wanted
    return reached


def distilled_is_better(results: dict[str, Any]) -> bool:
    """Compares the distilled student with the same network trained alone, on the test images."""
    notes = results["distill"]["notes"]
    for where, said in notes.items():
        print(f"{where}: {said}")
    gain = results["distill"]["gain"]
    return bool(gain["value"] > 0)


if __name__ == "__main__":
    sys.exit(main())
