"""Runtimes behind one interface. A runtime is imported only when a file is loaded into it."""

import importlib
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from serving.engines.engine import Engine, EngineOptions
from serving.errors import EngineUnavailable

__all__ = ["ENGINES", "Engine", "EngineEntry", "EngineOptions", "engine_version", "load_engine"]

LoadEngine = Callable[[Path, EngineOptions], Engine]


@dataclass(frozen=True)
class EngineEntry:
    """Where an engine lives, what it needs, and what it can run. A new engine is one more entry."""

    module: str
    constructor: str
    requires: str
    suffixes: tuple[str, ...]
    precisions: tuple[str, ...]
    install: str


# The simpler engine stands first: another must beat it clearly to be chosen.
ENGINES: dict[str, EngineEntry] = {
    "onnxruntime": EngineEntry(
        module="serving.engines.ort",
        constructor="OnnxRuntimeEngine",
        requires="onnxruntime",
        suffixes=(".onnx",),
        precisions=("fp32", "fp16", "int8"),
        install="pip install convserve[cpu]",
    ),
    "openvino": EngineEntry(
        module="serving.engines.ov",
        constructor="OpenVinoEngine",
        requires="openvino",
        suffixes=(".onnx",),
        precisions=("fp32", "bf16", "fp16", "int8"),
        install="pip install convserve[cpu]",
    ),
}


def unavailable_reason(engine: str) -> str | None:
    """Why this engine cannot run here; None where it can."""
    entry = ENGINES[engine]
    if importlib.util.find_spec(entry.requires) is None:
        return f"Python package {entry.requires!r} is not installed ({entry.install})"
    return None


def engine_version(engine: str) -> str:
    """Version of the engine's runtime, read from the runtime itself."""
    return cast("str", importlib.import_module(ENGINES[engine].module).VERSION)


def load_engine(engine: str, file: Path, options: EngineOptions) -> Engine:
    """Loads a model file. Raises EngineUnavailable where the runtime is missing or refuses it."""
    reason = unavailable_reason(engine)
    if reason is not None:
        raise EngineUnavailable(f"{engine}: {reason}")
    module = importlib.import_module(ENGINES[engine].module)
    load = cast("LoadEngine", getattr(module, ENGINES[engine].constructor))
    return load(file, options)


def cpu_features() -> tuple[str, ...]:
    """The instruction sets that decide which precision is fast, as the kernel names them."""
    if platform.system() != "Linux":
        return ()
    wanted = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    flags: set[str] = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split(":", 1)[1].split())
            break
    return tuple(name for name in wanted if name in flags)
