"""Peak memory of INT8 quantisation by network, method and number of calibration images.

Networks have random weights and images are noise, since memory depends on shapes alone. Each row is
measured in a process of its own, and so is its reference, which answers one image with the FP32
file. "over" is the difference of their peaks. The exit status is 1 where it is beyond the bound, or
where it grows with the number of images from 32 on.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from serving.base.machine.cpu import core_count, machine
from serving.base.task import IMAGE_INPUT, Task
from serving.engines import EngineOptions, load_engine
from training.compress.calibration import choose_calibration
from training.compress.quantize import Quantizer
from training.data.readers import Loaded
from training.data.samples import FileSamples
from training.evaluation.report.tables import print_table
from training.models import build_model
from training.models.export.deployed import Deployed, input_specs, output_specs
from training.models.export.to_onnx import export_onnx
from training.models.export.variants import Scheme
from training.recipes.data import Normalization

# Networks by name: task, classes, and height and width of the images.
NETWORKS: dict[str, tuple[Task, int, tuple[int, int]]] = {
    "resnet18": ("classification", 1000, (224, 224)),
    "resnet50": ("classification", 1000, (224, 224)),
    "vgg16_bn": ("classification", 1000, (224, 224)),
    "deeplabv3plus_resnet50": ("segmentation", 21, (480, 352)),
    "unet_resnet18": ("segmentation", 12, (480, 352)),
    "unet_vgg16_bn": ("segmentation", 12, (480, 352)),
}
METHODS = ("minmax", "percentile")
DEFAULT_NETWORKS = ("resnet50", "vgg16_bn", "deeplabv3plus_resnet50", "unet_vgg16_bn")
DEFAULT_IMAGES = (32, 64)
# Images that one run of the engine takes, at most; below, memory grows with their number.
FULL_RUN = 32
# GB that quantisation may take beyond the FP32 network, at most.
BOUND = 2.5
# GB by which the peak may grow with more images: the noise of the allocator.
GROWTH = 0.25
_SCHEMES: tuple[Scheme, ...] = ("s8", "u8")
_OPSET = 20


def noise(count: int, size: tuple[int, int]) -> FileSamples:
    """Images that are made on request, as those of a folder are decoded."""

    def load(seed: int) -> Loaded:
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        return Loaded(image, np.asarray(0), size)

    return FileSamples([str(index) for index in range(count)], range(count), load)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--images", nargs="+", type=int, default=DEFAULT_IMAGES)
    parser.add_argument("--bound", type=float, default=BOUND, help="GB over the network itself")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        print(json.dumps(_work(**json.loads(given.work))))
        return 0
    print(machine())
    networks = given.networks or DEFAULT_NETWORKS
    unknown = sorted(set(networks) - set(NETWORKS))
    if unknown:
        parser.error(f"networks: expected some of {', '.join(NETWORKS)}; got {', '.join(unknown)}")
    rows = list(_rows(networks, given.methods, sorted(given.images), given.bound))
    print_table("INT8: peak memory in GB", rows)
    return 0 if all(row["bound"] == "kept" for row in rows) else 1


def _rows(
    networks: Sequence[str], methods: Sequence[str], counts: Sequence[int], bound: float
) -> Iterator[dict[str, str]]:
    for network in networks:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.onnx")
            _process(task="export", network=network, path=path)
            itself = _process(task="answer", network=network, path=path)["peak"]
            for method in methods:
                most = bound
                for count in counts:
                    peak, seconds = math.nan, math.nan
                    try:
                        found = _process(
                            task="quantize", network=network, path=path, method=method, count=count
                        )
                        peak, seconds = found["peak"], found["seconds"]
                    except RuntimeError as error:
                        print(error, file=sys.stderr)
                    over = peak - itself
                    row = {
                        "network": network,
                        "method": method,
                        "images": str(count),
                        "itself": f"{itself:.2f}",
                        "peak": f"{peak:.2f}",
                        "over": f"{over:.2f}",
                        "seconds": f"{seconds:.0f}",
                        "bound": "kept" if over <= most else "BROKEN",
                    }
                    print("  ".join(row.values()), file=sys.stderr, flush=True)
                    yield row
                    if count >= FULL_RUN:
                        most = min(most, over + GROWTH)


def _process(**work: object) -> dict[str, float]:
    """Runs one measurement in a process of its own. Raises RuntimeError where it fails."""
    command = [sys.executable, "-m", "benchmarks.training.calibration_memory"]
    done = subprocess.run(
        [*command, "--work", json.dumps(work)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        ended = f"killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
        raise RuntimeError(f"{work}: {ended}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(
    task: str, network: str, path: str, method: str = "minmax", count: int = 1
) -> dict[str, float]:
    file, (kind, classes, size) = Path(path), NETWORKS[network]
    began = time.monotonic()
    if task == "export":
        torch.manual_seed(0)
        shown = Deployed(build_model(network, classes).eval(), kind, Normalization())
        export_onnx(shown, input_specs(size), output_specs(kind, classes, size), _OPSET, file)
    elif task == "answer":
        engine = load_engine("onnxruntime", file, EngineOptions(threads=core_count()))
        engine.infer({IMAGE_INPUT: noise(1, size).batch([0])[0]})
        engine.close()
    else:
        calibration = choose_calibration(noise(count, size), count, 0)
        quantizer = Quantizer(
            file, "percentile" if method == "percentile" else "minmax", calibration
        )
        for scheme in _SCHEMES:
            quantizer.write(file.with_name(f"{scheme}.onnx"), scheme)
    return {"peak": _peak(), "seconds": time.monotonic() - began}


def _peak() -> float:
    """Peak memory of this process, GB. getrusage would include its parent's before exec."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
