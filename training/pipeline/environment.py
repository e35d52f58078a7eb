"""What a build ran on: enough to repeat it, or to see why another one differs."""

import importlib.metadata
import platform

from serving.base.machine.cpu import machine
from serving.engines import ENGINES, cpu_features, engine_version, unavailable_reason

_PACKAGES = (
    "numpy",
    "onnx",
    "pytorch-lightning",
    "torch",
    "torch-pruning",
    "torchmetrics",
    "torchvision",
)


def engine_versions() -> dict[str, str]:
    """Versions of the engines that can run here, by name."""
    return {name: engine_version(name) for name in ENGINES if unavailable_reason(name) is None}


def environment() -> dict[str, object]:
    """Python, packages, engines and processor, ready for JSON."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": machine(),
        "cpu_features": list(cpu_features()),
        "engines": engine_versions(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
