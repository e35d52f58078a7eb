"""Reports of builds that never ran: what a page draws, in milliseconds and of any size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serving.base.evaluation import Estimate, accuracy, confusion_matrix
from serving.repository.manifest import Evidence, Gate, Latency
from training.evaluation.class_measures import GRID, measures, reliability
from training.evaluation.report.document import Report, State
from training.evaluation.report.from_build import report_of
from training.evaluation.report.images import answers, examples
from training.evaluation.report.report import report_page, write_report
from training.evaluation.searched import Searched
from training.evaluation.verification import (
    Identification,
    NetworkSize,
    VariantResult,
    Verification,
)
from training.recipes import parse_recipe

MACHINE = "a machine, 2 cores"
PUBLISHED = State(kind="published", stage="publish")


@dataclass(frozen=True)
class Made:
    """A report, and the arrays of its pictures."""

    report: Report
    sheet: dict[str, Any]
    pictures: dict[str, Any]
    evaluated: dict[str, Any]

    def page(self) -> str:
        pictured = answers(
            self.report,
            self.pictures,
            self.evaluated.get("classes", ()),
            self.evaluated.get("ignore_index"),
        )
        return report_page(self.report, pictured, examples(self.report, self.sheet))

    def write(self, folder: Path) -> Path:
        """As a build leaves it; gives the page."""
        folder.mkdir(parents=True)
        return write_report(folder, self.report, self.sheet, self.pictures, self.evaluated)


@dataclass(frozen=True)
class Findings:
    """The values that tests change.

    right: share of right answers.
    milliseconds: of the fastest variant, batch 1.
    """

    name: str = "flowers"
    names: Sequence[str] = ("daisy", "rose", "tulip", "poppy")
    images: int = 200
    right: float = 0.9
    milliseconds: float = 0.8
    machine: str = MACHINE
    data_sha256: str = "d" * 64
    description: str = "photographs of flowers"
    state: State = PUBLISHED
    version: int | None = 3
    repository: Path = Path("model_repo")
    searched: Searched | None = None
    changes: dict[str, Any] = field(default_factory=dict)


def classification(found: Findings | None = None) -> Made:
    found = found or Findings()
    rng = np.random.default_rng(0)
    count, classes = found.images, len(found.names)
    labels = np.arange(count) % classes
    wrong = rng.random(count) > found.right
    predicted = np.where(wrong, (labels + 1 + rng.integers(0, 2, count)) % classes, labels)
    confidences = rng.uniform(0.4, 1, count).astype(np.float32)
    confusion = confusion_matrix(labels, predicted, classes)
    calibration = reliability(confidences, predicted == labels)
    measured, _ = measures(found.names, confusion, calibration, 2.0)
    curve = np.sqrt(GRID)[None].repeat(classes, axis=0)
    classes_measured = [
        one.model_copy(update={"average_precision": 0.9, "auc": 0.95}) for one in measured.classes
    ]
    shown = np.arange(min(12, count))
    best = (predicted[shown, None] + np.arange(min(5, classes))) % classes
    pictures = {
        "images": rng.integers(0, 255, (len(shown), 32, 32, 3), np.uint8),
        "names": np.array([f"test/{n}.jpg" for n in shown]),
        "targets": labels[shown],
        "predictions": predicted[shown],
        "confidences": confidences[shown],
        "scores": (predicted == labels)[shown].astype(float),
        "best_classes": best,
        "best_shares": np.linspace(0.7, 0.01, best.shape[1])[None].repeat(len(shown), axis=0),
        "confusion": confusion,
        "bin_accuracy": calibration.accuracy,
        "bin_confidence": calibration.confidence,
        "bin_count": calibration.count,
        "precision": 1 - curve / 4,
        "recall": curve,
    }
    rows = min(20, classes)
    sheet = {
        "images": rng.integers(0, 255, (rows, 8, 16, 16, 3), np.uint8),
        "classes": np.array(list(found.names)[:rows]),
        "counts": np.full(rows, 8),
    }
    verification = _verification(
        found,
        accuracy(predicted == labels),
        measures=measured.model_copy(
            update={
                "classes": tuple(classes_measured),
                "top5": accuracy(np.ones(count, bool)) if classes > 5 else None,
            }
        ),
    )
    return _made(found, "classification", "resnet20_cifar", verification, sheet, pictures)


def segmentation(found: Findings | None = None) -> Made:
    found = found or Findings(name="streets", names=("ground", "road", "car", "tree"))
    rng = np.random.default_rng(1)
    classes, side = len(found.names), 160
    targets = np.zeros((8, side, side), np.uint8)
    for index in range(8):
        targets[index, 20 + 8 * index : 90, 30:110] = 1 + index % (classes - 1)
    targets[:, :4] = 255
    predicted = np.where(targets == 255, 0, np.roll(targets, 6, axis=2)).astype(np.uint8)
    confusion = confusion_matrix(targets, predicted, classes, 255)
    calibration = reliability(rng.uniform(0.4, 1, 500), rng.random(500) < found.right)
    measured, _ = measures(found.names, confusion, calibration, 2.0)
    images = (rng.integers(0, 90, (8, side, side, 3)) + 30 * targets[..., None] % 150).astype(
        np.uint8
    )
    pictures = {
        "images": images,
        "names": np.array([f"test/{n}.png" for n in range(8)]),
        "targets": targets,
        "predictions": predicted,
        "confidences": np.linspace(0.6, 0.9, 8),
        "scores": np.linspace(0.2, 0.9, 8),
        "confusion": confusion,
        "bin_accuracy": calibration.accuracy,
        "bin_confidence": calibration.confidence,
        "bin_count": calibration.count,
    }
    sheet = {"images": images, "masks": np.where(targets == 255, 0, targets)}
    verification = _verification(
        found, Estimate(value=0.61, low=0.55, high=0.66, n=found.images), measures=measured
    )
    return _made(found, "segmentation", "unet_slim", verification, sheet, pictures)


def embedding(found: Findings | None = None) -> Made:
    found = found or Findings(name="people", names=("p1", "p2", "p3"))
    rng = np.random.default_rng(2)
    bins = np.linspace(-1, 1, 64)
    same, other = (np.exp(-(((bins - mean) / 0.2) ** 2)) for mean in (0.7, 0.1))
    rates = np.logspace(-4, 0, 41)
    pictures = {
        "images": rng.integers(0, 255, (10, 56, 92, 1), np.uint8),
        "names": np.array([f"s21/{n}.png" for n in range(10)]),
        "matches": np.array([f"s22/{n}.png" for n in range(10)]),
        "targets": np.zeros(10, int),
        "predictions": np.zeros(10, int),
        "confidences": np.linspace(0.4, 0.9, 10),
        "scores": (np.arange(10) > 3).astype(float),
        "genuine": same / same.sum(),
        "impostor": other / other.sum(),
    }
    sheet = {
        "images": rng.integers(0, 255, (3, 8, 56, 46, 1), np.uint8),
        "classes": np.array(found.names[:3]),
        "counts": np.array([8, 8, 5]),
    }
    verification = _verification(
        found,
        Estimate(value=0.93, low=0.86, high=0.97, n=90),
        identification=Identification(
            auc=0.981,
            false_accept_rates=tuple(rates),
            true_accept_rates=tuple(rates**0.1),
            match_rates=tuple(
                Estimate(value=v, low=v - 0.05, high=min(1.0, v + 0.03), n=90)
                for v in (0.93, 0.95, 0.97, 0.98)
            ),
        ),
    )
    return _made(found, "embedding", "resnet20_cifar", verification, sheet, pictures)


def _verification(found: Findings, measured: Estimate, **parts: Any) -> Verification:
    drop = Estimate(value=0.011, low=-0.004, high=0.026, n=measured.n)

    def evidence(milliseconds: float, *, passed: bool = True) -> Evidence:
        return Evidence(
            accuracy=measured,
            measures={"balanced accuracy": measured, "MCC": 0.81},
            drop=drop,
            class_drops={found.names[0]: 0.05},
            agreement=0.97,
            samples_tolerance=0.01,
            latency=Latency(
                machine=found.machine, milliseconds={1: milliseconds, 8: 5 * milliseconds}
            ),
            gate=Gate(passed=passed, reason="drop 1.10 [-0.40, 2.60] points, allowed 5.00"),
        )

    def variant(name: str, precision: Any, size: int, *, passed: bool = True) -> VariantResult:
        factor = 1.0 if precision == "int8" else 2.0
        return VariantResult(
            id=name,
            file=f"model.{name}.onnx",
            precision=precision,
            sha256="0" * 64,
            size_bytes=size,
            calibration_sha256=None,
            evidence={
                "onnxruntime": evidence(1.4 * factor * found.milliseconds, passed=passed),
                "openvino": evidence(factor * found.milliseconds, passed=passed),
            },
            skipped={"onnxruntime-cuda": "no NVIDIA driver here"},
        )

    whole = found.milliseconds * 3.1
    return Verification(
        measure="top1",  # replaced by that of the recipe
        baseline=Estimate(
            value=min(1.0, measured.value + 0.011), low=measured.low, high=1.0, n=measured.n
        ),
        baseline_latency={"onnxruntime": {1: whole, 8: 5 * whole}, "openvino": {1: whole, 8: 9.0}},
        baseline_bytes=1_100_000,
        baseline_size=NetworkSize(parameters=272_000, macs=41_000_000),
        network_size=NetworkSize(parameters=161_000, macs=22_000_000),
        variants=(
            variant("fp32", "fp32", 650_000),
            variant("int8-s8", "int8", 194_000),
            variant("int8-u8", "int8", 212_000, passed=False),
        ),
        pictured=("int8-s8", "openvino"),
        machine=found.machine,
        **parts,
    )


def _made(
    found: Findings,
    task: str,
    network: str,
    verification: Verification,
    sheet: dict[str, Any],
    pictures: dict[str, Any],
) -> Made:
    document: dict[str, Any] = {
        "name": found.name if found.name.isalnum() else "hostile",
        "task": task,
        "data": {"source": "digits"},
        "transform": {"resize": [32, 32]},
        "model": {"name": network},
        "train": {"epochs": 5, "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.05}},
    }
    if task == "segmentation":
        document["data"] = {"source": "mask_folder", "root": "streets"}
    if task == "embedding":
        document["data"] = {"source": "identity_folder", "root": "p", "test_identities": ["p1"]}
        document |= {"embedding_size": 16}
        document["train"]["loss"] = {"name": "arcface"}
    recipe = parse_recipe({**document, **found.changes})
    verification = verification.model_copy(update={"measure": recipe.measure})
    masks = task == "segmentation"
    findings = {
        "description": found.description,
        "sha256": found.data_sha256,
        "images": {"train": 900, "val": 100, "test": found.images},
        "classes": {
            name: {"train": 0.2 if masks else 40 + n, "val": 0.1 if masks else 5, "test": 0.1}
            for n, name in enumerate(found.names)
        },
        "unit": "pixels" if masks else "images",
        "sizes": {"median": [40, 40], "shown": [32, 32]},
        "warnings": ["images of val that are nearly also in train: 1 (0.5 %)"],
        "duplicates": {"exact": {"first": []}, "near": {"first": [["train/a.png", "val/b.png"]]}},
    }
    evaluated = {
        "dataset": found.description,
        "images": found.images,
        "classes": list(found.names),
        "ignore_index": 255 if masks else None,
    }
    history = [
        {"epoch": n + 1, "loss": 2 / (n + 1), "val_loss": 2.2 / (n + 1), "seconds": 3.0,
         f"val_{recipe.measure}": 0.5 + 0.08 * n}
        for n in range(5)
    ]  # fmt: skip
    layers = {f"layer{n}.conv": 1 - 0.02 * n for n in range(6)}
    done = found.state.kind in ("published", "refused")
    report = report_of(
        created="2026-11-30T00:00:00+00:00",
        recipe=recipe,
        recipe_sha256="a" * 64,
        state=found.state,
        environment={
            "python": "3.11.2",
            "system": "Linux x86_64",
            "machine": found.machine,
            "engines": {"onnxruntime": "1.23"},
            "packages": {"torch": "2.9"},
        },
        findings=findings,
        sheet=sheet,
        results={
            "train": {"history": history},
            "prune": {
                "sensitivity": [
                    {"title": "half of its channels go", "images": 60, "agreement": layers,
                     "left_alone": ["layer5.conv"]}
                ],
                "notes": {"round_to": "8 channels, as measured here"},
            },
            "verify": evaluated,
        },
        seconds={"data": 1.0, "train": 60.0, "prune": 30.0, "verify": 8.0},
        verification=verification if done else None,
        pictures=pictures if done else {},
        repository=found.repository,
        version=found.version,
        searched=found.searched,
    )  # fmt: skip
    return Made(report, sheet, pictures if done else {}, evaluated)
