"""Networks with random weights, exported, quantised and published, for benchmarks of time."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from serving.base.task import IMAGE_INPUT, TASKS
from serving.engines import ENGINES
from serving.repository.manifest import (
    SAMPLES_FILE,
    EvalTransform,
    Manifest,
    Normalization,
    Provenance,
    Variant,
)
from tests.support.published import evidence
from training.compress.calibration import choose_calibration
from training.compress.quantize import quantize
from training.data.samples import ArraySamples
from training.models import MODELS, build_model
from training.models.export.deployed import Deployed, Task, input_specs, output_specs, run_deployed
from training.models.export.to_onnx import export_onnx
from training.models.export.variants import SCHEMES
from training.pipeline.stages.publish import publish as publish_version
from training.recipes.deliver import Publish

OPSET = 20
# Seconds until a server has compiled and timed a handful of these networks for the first time, in
# every variant and engine, on a machine that may have other work.
COLD_SECONDS = 600.0
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CLASSES = {"classification": 1000, "segmentation": 21}
PRECISIONS = {"fp32": "fp32", "int8-s8": "int8", "int8-u8": "int8"}


@dataclass(frozen=True)
class Exported:
    """A network's files by variant.

    size: height and width of its input.
    """

    task: Task
    classes: int
    size: tuple[int, int]
    files: dict[str, Path]
    samples: Path


def export(
    name: str,
    folder: Path,
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
    **options: float,
) -> Exported:
    """A network of the registry as fp32, int8-s8 and int8-u8; made once a folder."""
    task: Task = MODELS[name].task
    classes = _CLASSES[task]

    def build() -> nn.Module:
        torch.manual_seed(seed)
        return build_model(name, classes, **options)

    stem = "-".join(
        [name, f"{size[0]}x{size[1]}", f"seed{seed}", *(f"{k}{v}" for k, v in options.items())]
    )
    return _export(build, task, classes, size, folder / stem, tuple(PRECISIONS))


def export_trivial(side: int, folder: Path) -> Exported:
    """A classifier in fp32 that costs next to nothing, for measuring everything else. Its logits
    are the channels of the first pixel."""
    folder = folder / f"trivial-{side}"
    folder.mkdir(parents=True, exist_ok=True)
    size = (side, side)
    exported = Exported(
        "classification", 3, size, {"fp32": folder / "model.fp32.onnx"}, folder / SAMPLES_FILE
    )
    [logits] = output_specs(exported.task, exported.classes, size)
    ends = {"begin": [0, 0], "end": [1, 1], "axes": [1, 2]}
    body = helper.make_graph(
        [
            helper.make_node("Slice", [IMAGE_INPUT, *ends], ["pixel"]),
            helper.make_node("Cast", ["pixel"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["values"], [logits.name]),
        ],
        "trivial",
        [helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.UINT8, ["n", side, side, 3])],
        [helper.make_tensor_value_info(logits.name, TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in ends.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    onnx.save(helper.make_model(body, opset_imports=[opset], ir_version=9), exported.files["fp32"])
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), np.uint8)
    first = images[:, 0, 0].astype(np.float32)
    np.savez(exported.samples, **{IMAGE_INPUT: images, logits.name: first})
    return exported


def _export(
    build: Callable[[], nn.Module],
    task: Task,
    classes: int,
    size: tuple[int, int],
    folder: Path,
    variants: Sequence[str],
) -> Exported:
    files = {variant: folder / f"model.{variant}.onnx" for variant in variants}
    exported = Exported(task, classes, size, files, folder / SAMPLES_FILE)
    # Written last, so that its presence shows that all files are there.
    if exported.samples.exists():
        return exported
    folder.mkdir(parents=True, exist_ok=True)
    deployed = Deployed(build(), task, IMAGENET)
    inputs, outputs = input_specs(size), output_specs(task, classes, size)
    export_onnx(deployed, inputs, outputs, OPSET, files["fp32"])
    images = np.random.default_rng(0).integers(0, 256, (32, *size, 3), np.uint8)
    calibration = choose_calibration(ArraySamples(images, np.zeros(32, np.int64)), 32, 0)
    for variant in set(variants) & set(SCHEMES):
        quantize(files["fp32"], files[variant], SCHEMES[variant], "minmax", calibration)
    answers = run_deployed(deployed, tuple(spec.name for spec in outputs), images[:4])
    answer = TASKS[task].output
    np.savez(exported.samples, **{IMAGE_INPUT: images[:4], answer: answers[answer]})
    return exported


def eval_transform(size: tuple[int, int]) -> EvalTransform:
    """At ImageNet's size a crop of the centre seven eighths, as in its evaluation; else a stretch,
    which leaves images of the right size as they are."""
    if size != (224, 224):
        return EvalTransform(resize=size)
    return EvalTransform(resize=256, crop=size)


def publish(repository: Path, name: str, exported: Exported) -> None:
    """Puts a network into a repository, as its next version. Weights are random, so the evidence is
    made up, and INT8 is not compared with the answers of FP32."""
    manifest = Manifest(
        task=exported.task,
        architecture=name,
        measure="miou" if exported.task == "segmentation" else "top1",
        transform=eval_transform(exported.size),
        normalization=IMAGENET,
        classes=tuple(f"class {index}" for index in range(exported.classes)),
        parameters=0,
        gmacs=0.0,
        provenance=Provenance(
            recipe=name,
            recipe_sha256="0" * 64,
            run="random weights",
            dataset="none",
            split="none",
            created="2026-01-01",
        ),
        variants=tuple(
            Variant(
                id=variant,
                file=file.name,
                sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
                precision=PRECISIONS[variant],
                evidence={
                    engine: evidence(tolerance=0.01 if variant == "fp32" else 100.0)
                    for engine, entry in ENGINES.items()
                    if PRECISIONS[variant] in entry.precisions
                },
            )
            for variant, file in exported.files.items()
        ),
    )
    publish_version(
        repository,
        name,
        Publish(),
        input_specs(exported.size),
        output_specs(exported.task, exported.classes, exported.size),
        manifest,
        list(exported.files.values()),
        exported.samples,
    )
