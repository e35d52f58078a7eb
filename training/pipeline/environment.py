"""The software and hardware that a build ran on: enough to repeat it, or to see why another one
differs."""

import importlib.metadata
import platform

from serving.base.machine.cpu import machine
from serving.base.machine.nvml import GpuUnavailable, gpus
from serving.engines import ENGINES, cpu_features, engine_version, unavailable_reason

# All that reads data, draws, trains, changes or writes a network; engines tell theirs.
PACKAGES = (
    "numpy",
    "onnx",
    "onnxscript",
    "opencv-python-headless",
    "optuna",
    "pillow",
    "pyarrow",
    "pycocotools",
    "pytorch-lightning",
    "safetensors",
    "scikit-learn",
    "scipy",
    "segmentation-models-pytorch",
    "simplejpeg",
    "timm",
    "torch",
    "torch-pruning",
    "torchmetrics",
    "torchvision",
)


def engine_versions() -> dict[str, str]:
    """Versions of the engines that can run here, by name."""
    return {name: engine_version(name) for name in ENGINES if unavailable_reason(name) is None}


def gpu_facts() -> list[dict[str, str]]:
    """Name, compute capability and driver of each GPU that this process may use."""
    try:
        found = gpus()
    except GpuUnavailable:
        return []
    return [
        {
            "name": gpu.name,
            "compute_capability": gpu.compute_capability,
            "driver": gpu.driver,
        }
        for gpu in found
    ]


def measuring_facts() -> dict[str, object]:
    """Everything that a latency, or an answer of an engine, depends on beside the file."""
    return {
        "machine": machine(),
        "cpu_features": list(cpu_features()),
        "gpus": gpu_facts(),
        "engines": engine_versions(),
    }


def environment() -> dict[str, object]:
    """Python, packages, engines and processor, ready for JSON."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": machine(),
        "cpu_features": list(cpu_features()),
        "engines": engine_versions(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
