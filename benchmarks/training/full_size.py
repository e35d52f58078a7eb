"""Pruning, quantisation and latency of networks of full size, with random weights.

agreement: ResNet-50, VGG-16 and DeepLabV3+ on ResNet-50 are pruned by 30 % of their channels,
exported and quantised; the share of 200 photographs that engines answer as torch does in FP32.
latency: ResNet-50 is pruned until it is 1.5 times as fast as unpruned, both in INT8 in OpenVINO at
batch 8.
Batch norms take their statistics from the photographs, and the head is scaled by the spread of its
answers; otherwise all photographs would get one class.
"""

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.archives import extracted
from serving.base.machine.cpu import core_count, machine
from serving.base.task import IMAGE_INPUT, Task
from serving.base.tensor import Array
from serving.engines import ENGINES, EngineOptions, load_engine, unavailable_reason
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.compress.calibration import choose_calibration
from training.compress.channel_pruner import ChannelPruner
from training.compress.prune import find_ratio
from training.compress.quantize import quantize
from training.compress.stopwatch import Stopwatch
from training.data.readers import Pixels
from training.data.samples import ArraySamples
from training.evaluation.report.tables import print_table
from training.models import build_model, count_macs, head_layers
from training.models.export.deployed import Deployed, input_specs, output_specs, run_deployed
from training.models.export.to_onnx import export_onnx
from training.recipes.compress import Prune
from training.recipes.data import Normalization

SIZE = (224, 224)
OPSET = 20
NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NETWORKS: dict[str, tuple[Task, int]] = {
    "resnet50": ("classification", 1000),
    "vgg16": ("classification", 1000),
    "deeplabv3plus_resnet50": ("segmentation", 21),
}
AGREEMENT = 0.99
CLASSES = 20
SPEEDUP = 1.5
_BATCH = 20
_CALIBRATION = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=["agreement", "latency"])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)}; all without")
    given = parser.parse_args()
    torch.manual_seed(0)
    print(machine())
    images = photos()
    if given.work == "latency":
        return 0 if latency(images) else 1
    reached = [agreement(name, images) for name in given.networks or NETWORKS]
    return 0 if all(reached) else 1


def photos() -> Pixels:
    """uint8 [200, 224, 224, 3]: the centre of each photograph."""
    folder = extracted("photos")
    shown = EvalTransform(resize=256, crop=SIZE)
    files = sorted(folder.glob("*.jpg"))
    return np.stack([load_image(file.read_bytes(), shown).pixels for file in files])


def deployed(network: nn.Module, task: Task) -> Deployed:
    return Deployed(network, task, NORMALIZATION)


@torch.no_grad()
def adapt(network: nn.Module, task: Task, images: Pixels) -> None:
    """Gives the batch norms the statistics of the photographs, and the head a scale by which the
    answers of every class vary equally between images, around 0."""
    batch_norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in batch_norms:
        layer.reset_running_stats()
        layer.momentum = None
    shown = deployed(network, task)
    for layer in batch_norms:
        layer.train()
    for start in range(0, len(images), _BATCH):
        network(shown.normalized(torch.from_numpy(images[start : start + _BATCH])))
    network.eval()
    answers = torch.cat(
        [
            network(shown.normalized(torch.from_numpy(images[start : start + _BATCH])))
            for start in range(0, len(images), _BATCH)
        ]
    ).float()
    over = [axis for axis in range(answers.ndim) if axis != 1]
    mean, spread = answers.mean(dim=over), answers.std(dim=over).clamp(min=1e-6)
    head = head_layers(network)[0]
    if not isinstance(head, nn.Linear | nn.Conv2d):
        raise TypeError(f"the head is {type(head).__name__}")
    bias = head.bias if head.bias is not None else torch.zeros_like(mean)
    factor = (1 / spread).reshape(-1, *[1] * (head.weight.ndim - 1))
    head.weight.mul_(factor)
    head.bias = nn.Parameter((bias - mean) / spread)


def agreement(name: str, images: Pixels) -> bool:
    """Prunes, exports and quantises a network, and compares its answers."""
    task, classes = NETWORKS[name]
    began = time.monotonic()
    network = build_model(name, classes).eval()
    full = count_macs(network, SIZE)
    ChannelPruner(network, _pruning(ratio=0.3), 0.3, SIZE, _no_gradients).step()
    adapt(network, task, images)
    expected = _classes(task, _torch_answers(network, task, classes, images))
    seen = len(np.unique(expected))
    rows = []
    reached = seen >= CLASSES
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "model.onnx"
        _export(network, task, classes, fp32)
        calibration = choose_calibration(_samples(images), _CALIBRATION, 0)
        files = {"fp32": fp32}
        for scheme in ("s8", "u8"):
            files[f"int8-{scheme}"] = Path(folder) / f"{scheme}.onnx"
            quantize(fp32, files[f"int8-{scheme}"], scheme, "minmax", calibration)
        for variant, file in files.items():
            for engine in ENGINES:
                if unavailable_reason(engine) is not None:
                    continue
                found = _classes(task, _engine_answers(engine, file, variant, images))
                share = float((found == expected).mean())
                reached &= variant != "fp32" or share >= AGREEMENT
                rows.append(
                    {"variant": variant, "engine": engine, "agreement %": f"{100 * share:.2f}"}
                )
    share = count_macs(network, SIZE) / full
    print_table(
        f"{name}: {100 * share:.0f} % of the MACs, {len(images)} photographs, {seen} classes seen, "
        f"{time.monotonic() - began:.0f} s; {'reached' if reached else 'MISSED'}",
        rows,
    )
    return reached


def latency(images: Pixels) -> bool:
    """Prunes ResNet-50 against the clock."""
    began = time.monotonic()
    network = build_model("resnet50", 1000).eval()
    calibration = choose_calibration(_samples(images), 8, 0)

    def write(candidate: nn.Module, path: Path) -> None:
        float_file = path.with_name("float.onnx")
        _export(candidate, "classification", 1000, float_file)
        quantize(float_file, path, "s8", "minmax", calibration)

    config = _pruning(latency={"speedup": SPEEDUP, "batch_size": 8, "seconds": 6.0})
    spec = input_specs(SIZE)[0]
    with Stopwatch(write, network, "openvino", "int8", spec, 8, 6.0) as stopwatch:
        ratio = find_ratio(network, config, SIZE, _no_gradients, (), stopwatch.speedup)
        pruned = copy.deepcopy(network)
        ChannelPruner(pruned, config, ratio, SIZE, _no_gradients).step()
        # Measured again, since the search may have stopped at a ratio that was large by chance.
        found = [stopwatch.speedup(pruned) for _ in range(3)]
    share = count_macs(pruned, SIZE) / count_macs(network, SIZE)
    reached = float(np.median(found)) >= SPEEDUP
    print(
        f"resnet50 in OpenVINO INT8 at batch 8: ratio {ratio:.2f}, {100 * share:.0f} % of the MACs,"
        f" {np.median(found):.2f} times as fast as unpruned ({min(found):.2f} to {max(found):.2f}),"
        f" {SPEEDUP} {'reached' if reached else 'MISSED'}; {time.monotonic() - began:.0f} s"
    )
    return reached


def _pruning(**target: object) -> Prune:
    train = {"epochs": 1, "batch_size": 1, "optimizer": {"name": "sgd", "lr": 0.1}}
    return Prune.model_validate({"round_to": 16, "train": train, **target})


def _no_gradients(network: nn.Module) -> None:
    raise ValueError("importance l2 asks for no gradients")


def _samples(images: Pixels) -> ArraySamples:
    return ArraySamples(images, np.zeros(len(images), np.int64))


def _export(network: nn.Module, task: Task, classes: int, path: Path) -> None:
    shown = deployed(network, task)
    export_onnx(shown, input_specs(SIZE), output_specs(shown.task, classes, SIZE), OPSET, path)


def _torch_answers(network: nn.Module, task: Task, classes: int, images: Pixels) -> Array:
    shown = deployed(network, task)
    names = tuple(spec.name for spec in output_specs(shown.task, classes, SIZE))
    answers = [
        run_deployed(shown, names, images[start : start + _BATCH])[names[0]]
        for start in range(0, len(images), _BATCH)
    ]
    return np.concatenate(answers)


def _engine_answers(engine: str, file: Path, variant: str, images: Pixels) -> Array:
    precision = "fp32" if variant == "fp32" else "int8"
    options = EngineOptions(precision=precision, threads=core_count(), max_batch_size=_BATCH)
    loaded = load_engine(engine, file, options)
    try:
        return np.concatenate(
            [
                loaded.infer({IMAGE_INPUT: np.ascontiguousarray(images[start : start + _BATCH])})[
                    loaded.outputs[0].name
                ]
                for start in range(0, len(images), _BATCH)
            ]
        )
    finally:
        loaded.close()


def _classes(task: Task, answers: Array) -> Array:
    return answers.argmax(axis=1) if task == "classification" else answers


if __name__ == "__main__":
    sys.exit(main())
