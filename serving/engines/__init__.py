"""Runtimes behind one interface. A runtime is imported only when a file is loaded into it."""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from serving.base.errors import EngineUnavailable
from serving.base.machine import nvml
from serving.engines.engine import Engine, EngineOptions, PlanProfile
from serving.repository.config_tensors import FileFacts
from serving.repository.onnx_file import NotTold, read_facts

__all__ = [
    "ENGINES",
    "Engine",
    "EngineEntry",
    "EngineOptions",
    "PlanProfile",
    "build_plan",
    "describe",
    "engine_version",
    "installed_version",
    "load_engine",
    "loaded_facts",
]

LoadEngine = Callable[[Path, EngineOptions], Engine]


@dataclass(frozen=True)
class EngineEntry:
    """One engine. A new engine is one more entry.

    module, constructor: where it lives, and the callable that loads a file into it.
    requires: packages that must be importable.
    suffixes, precisions: the files and variants that it runs.
    install: the command that brings it.
    packages: the distributions that may bring the runtime.
    device: the device that it runs on.
    check: name of a function of the module that returns the reason, other than a missing package,
        why it cannot run here; None where it can.
    replaced_by_plans: at load it compiles for minutes the networks for which plans can be built.
    """

    module: str
    constructor: str
    requires: tuple[str, ...]
    suffixes: tuple[str, ...]
    precisions: tuple[str, ...]
    install: str
    packages: tuple[str, ...]
    device: Literal["cpu", "gpu"] = "cpu"
    check: str | None = None
    replaced_by_plans: bool = False


# The simpler engines come first: a later one is chosen only where it is clearly faster.
ENGINES: dict[str, EngineEntry] = {
    "onnxruntime": EngineEntry(
        module="serving.engines.onnxruntime_cpu",
        constructor="OnnxRuntimeEngine",
        requires=("onnxruntime",),
        suffixes=(".onnx",),
        precisions=("fp32", "fp16", "int8"),
        install="pip install convserve[cpu]",
        packages=("onnxruntime", "onnxruntime-gpu"),
    ),
    "openvino": EngineEntry(
        module="serving.engines.openvino_cpu",
        constructor="OpenVinoEngine",
        requires=("openvino",),
        suffixes=(".onnx",),
        precisions=("fp32", "bf16", "fp16", "int8"),
        install="pip install convserve[cpu]",
        packages=("openvino",),
    ),
    "onnxruntime-cuda": EngineEntry(
        module="serving.engines.onnxruntime_gpu",
        constructor="cuda_engine",
        requires=("onnxruntime",),
        suffixes=(".onnx",),
        precisions=("fp32", "fp16", "int8"),
        install="pip install convserve[gpu]",
        packages=("onnxruntime-gpu",),
        device="gpu",
        check="cuda_unavailable_reason",
    ),
    "onnxruntime-tensorrt": EngineEntry(
        module="serving.engines.onnxruntime_gpu",
        constructor="tensorrt_engine",
        requires=("onnxruntime", "tensorrt"),
        suffixes=(".onnx",),
        precisions=("fp32", "fp16", "int8"),
        install="pip install convserve[gpu,tensorrt]",
        packages=("onnxruntime-gpu",),
        device="gpu",
        check="tensorrt_unavailable_reason",
        replaced_by_plans=True,
    ),
    "tensorrt": EngineEntry(
        module="serving.engines.tensorrt.engine",
        constructor="TensorRtEngine",
        requires=("tensorrt", "cuda.bindings"),
        suffixes=(".plan",),
        precisions=("fp32", "fp16", "int8"),
        install="pip install convserve[tensorrt]",
        packages=("tensorrt",),
        device="gpu",
    ),
}


def unavailable_reason(engine: str) -> str | None:
    """Why this engine cannot run here; None where it can."""
    entry = ENGINES[engine]
    if entry.device == "gpu" and (reason := nvml.unavailable_reason()) is not None:
        return reason
    for package in entry.requires:
        if not _installed(package):
            return f"Python package {package!r} is not installed ({entry.install})"
    if entry.device == "cpu":
        return None
    # A wheel may be there without the libraries that it was linked with.
    try:
        module = importlib.import_module(entry.module)
        if entry.check is None:
            return None
        return cast("Callable[[], str | None]", getattr(module, entry.check))()
    except (ImportError, OSError) as error:
        return f"cannot be imported: {error}"


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def engine_version(engine: str) -> str:
    """Version of the engine's runtime, read from the runtime itself."""
    return cast("str", importlib.import_module(ENGINES[engine].module).VERSION)


@functools.cache  # Reading a package's metadata takes 0.5 ms, with the GIL held.
def installed_version(engine: str) -> str:
    """Version of the engine's package, read without importing the runtime; the runtime's own where
    it came without a package."""
    for name in ENGINES[engine].packages:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return engine_version(engine)


def load_engine(engine: str, file: Path, options: EngineOptions) -> Engine:
    """Loads a model file. Raises EngineUnavailable where the runtime is missing or refuses it."""
    reason = unavailable_reason(engine)
    if reason is not None:
        raise EngineUnavailable(f"{engine}: {reason}")
    module = importlib.import_module(ENGINES[engine].module)
    load = cast("LoadEngine", getattr(module, ENGINES[engine].constructor))
    return load(file, options)


def loaded_facts(file: Path) -> FileFacts:
    """The inputs and outputs of a model file, loaded into the first engine that can. Raises
    EngineUnavailable where none can."""
    reasons = []
    for name, entry in ENGINES.items():
        if file.suffix not in entry.suffixes:
            continue
        try:
            engine = load_engine(name, file, EngineOptions())
        except EngineUnavailable as error:
            reasons.append(error.detail)
            continue
        facts = FileFacts(engine.inputs, engine.outputs, engine.largest_batch)
        engine.close()
        return facts
    raise EngineUnavailable(f"{file}: nothing here can read it: {'; '.join(reasons)}")


def describe(file: Path, load: Callable[[Path], FileFacts] = loaded_facts) -> FileFacts:
    """The inputs and outputs of a model file. An ONNX file that names all shapes is read without a
    runtime; every other file is described by `load`, which may do so in another process.

    Raises EngineUnavailable where nothing here can read it, and the errors of `load`.
    """
    if file.suffix == ".onnx":
        with contextlib.suppress(NotTold):
            return read_facts(file)
    return load(file)


def build_plan(onnx: Path, plan: Path, profile: PlanProfile, **settings: Any) -> None:
    """Makes a TensorRT plan. `settings` are keyword arguments of
    serving.engines.tensorrt.build.build_plan. Raises EngineUnavailable."""
    reason = unavailable_reason("tensorrt")
    if reason is not None:
        raise EngineUnavailable(f"tensorrt: {reason}")
    module = importlib.import_module("serving.engines.tensorrt.build")
    module.build_plan(onnx, plan, profile, **settings)


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
