"""Small published models whose right answers are plain to see: the dominant colour wins."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.base.evaluation import Estimate
from serving.base.task import IMAGE_INPUT, TASKS, Task
from serving.engines import ENGINES, EngineOptions, load_engine
from serving.repository.manifest import (
    SAMPLES_FILE,
    EvalTransform,
    Evidence,
    Gate,
    Latency,
    Manifest,
    Normalization,
    Provenance,
    Variant,
    write_manifest,
)

# What runs without a GPU.
CPU_ENGINES = [name for name, entry in ENGINES.items() if entry.device == "cpu"]
COLOURS = ("red", "green", "blue")
SIDE = 8
_PASSED = Gate(passed=True, reason="within bounds")
_OUTPUTS = {
    "classification": 'output { name: "logits" data_type: TYPE_FP32 dims: [3]\n'
    '         label_filename: "labels.txt" }\n',
    "segmentation": f'output {{ name: "mask" data_type: TYPE_UINT8 dims: [{SIDE}, {SIDE}] }}\n'
    f'output {{ name: "confidence" data_type: TYPE_UINT8 dims: [{SIDE}, {SIDE}] }}\n',
    "embedding": 'output { name: "embedding" data_type: TYPE_FP32 dims: [3] }\n',
}


def graph(task: Task, gain: float = 10.0) -> onnx.ModelProto:
    """image uint8 [b, 8, 8, 3] to the outputs of a task. Classification: logits are `gain` times
    the mean of each channel in [0, 1]. Segmentation: the strongest channel of each pixel, and its
    value. Embedding: the channel means, L2-normalised."""
    image = helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.UINT8, ["b", SIDE, SIDE, 3])
    cast = helper.make_node("Cast", [IMAGE_INPUT], ["f"], to=TensorProto.FLOAT)
    constants = [
        numpy_helper.from_array(np.array(gain / 255, np.float32), "gain"),
        numpy_helper.from_array(np.array([1, 2], np.int64), "pixels"),
        numpy_helper.from_array(np.array([3], np.int64), "channel"),
    ]
    if task == "segmentation":
        nodes = [
            cast,
            helper.make_node("ArgMax", ["f"], ["index"], axis=3, keepdims=0),
            helper.make_node("Cast", ["index"], ["mask"], to=TensorProto.UINT8),
            helper.make_node("ReduceMax", ["f", "channel"], ["value"], keepdims=0),
            helper.make_node("Cast", ["value"], ["confidence"], to=TensorProto.UINT8),
        ]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["b", SIDE, SIDE])
            for name in ("mask", "confidence")
        ]
    else:
        nodes = [
            cast,
            helper.make_node("Mul", ["f", "gain"], ["scaled"]),
            helper.make_node("ReduceMean", ["scaled", "pixels"], ["logits"], keepdims=0),
        ]
        name = TASKS[task].output
        if task == "embedding":
            nodes.append(helper.make_node("LpNormalization", ["logits"], [name], axis=1, p=2))
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3])]
    body = helper.make_graph(nodes, task, [image], outputs, constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def config(task: Task, *, max_batch_size: int = 8, extra: str = "") -> str:
    """A config.pbtxt that fits `graph`; `extra` is appended."""
    return (
        f'platform: "onnxruntime_onnx"\nmax_batch_size: {max_batch_size}\n'
        f'input {{ name: "{IMAGE_INPUT}" data_type: TYPE_UINT8 dims: [{SIDE}, {SIDE}, 3] }}\n'
        f"{_OUTPUTS[task]}dynamic_batching {{ }}\n{extra}\n"
    )


def samples() -> np.ndarray:
    """uint8 [6, 8, 8, 3]: two images of each colour, brighter and darker, with some noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (6, SIDE, SIDE, 3), np.uint8)
    for index in range(6):
        images[index, ..., index % 3] += np.uint8(180 if index < 3 else 120)
    return images


def evidence(*, gate: Gate = _PASSED, tolerance: float = 0.01) -> Evidence:
    """What a verify stage would have written."""
    return Evidence(
        accuracy=Estimate(value=0.99, low=0.97, high=1.0, n=400),
        drop=Estimate(value=0.0, low=-0.01, high=0.01, n=400),
        agreement=1.0,
        samples_tolerance=tolerance,
        latency=Latency(machine="test", milliseconds={1: 0.1, 8: 0.2}),
        gate=gate,
    )


def publish(
    repository: Path,
    name: str = "colours",
    task: Task = "classification",
    *,
    version: int = 1,
    gain: float = 10.0,
    engines: Sequence[str] = tuple(CPU_ENGINES),
    gate: Gate = _PASSED,
    extra_config: str = "",
    max_batch_size: int = 8,
) -> Path:
    """Writes one version of a model and its config.pbtxt; the version's folder."""
    model = repository / name
    folder = model / str(version)
    folder.mkdir(parents=True)
    file = folder / "model.onnx"
    onnx.save(graph(task, gain), file)
    images = samples()
    engine = load_engine("onnxruntime", file, EngineOptions())
    answers = engine.infer({IMAGE_INPUT: images})
    np.savez(folder / SAMPLES_FILE, **{IMAGE_INPUT: images, **answers})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    variant = Variant(
        id="fp32",
        file="model.onnx",
        sha256=digest,
        precision="fp32",
        evidence={name: evidence(gate=gate) for name in engines},
    )
    write_manifest(
        folder,
        Manifest(
            task=task,
            architecture="colours",
            measure="miou" if task == "segmentation" else "top1",
            transform=EvalTransform(resize=(SIDE, SIDE)),
            normalization=Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
            classes=COLOURS,
            parameters=0,
            gmacs=0.0,
            provenance=Provenance(
                recipe="none",
                recipe_sha256="0" * 64,
                run="none",
                dataset="none",
                split="none",
                created="2026-01-01",
            ),
            variants=(variant,),
        ),
    )
    (model / "labels.txt").write_text("\n".join(COLOURS) + "\n")
    (model / "config.pbtxt").write_text(
        config(task, max_batch_size=max_batch_size, extra=extra_config)
    )
    return folder
