"""The files and engines that could serve a version on this machine, the simplest first."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

from serving.base.errors import EngineUnavailable, ModelLoadError
from serving.base.files import own_folder
from serving.base.machine import nvml
from serving.base.machine.cpu import core_count
from serving.base.machine.memory import memory_limit
from serving.engines import ENGINES, EngineOptions, installed_version, unavailable_reason
from serving.engines.measure import device_name
from serving.models.loading.local_plans import ENGINE as PLAN_ENGINE
from serving.repository.manifest import Manifest
from serving.repository.model_config import ModelConfig

logger = logging.getLogger(__name__)

# Instances on each GPU where the config leaves the number to the server. With two, the copies of
# one batch overlap the kernels of the other; more take more GPU memory.
_INSTANCES_PER_GPU = 2


@dataclass(frozen=True)
class LoadSettings:
    """The server's settings for every model.

    engine, variant: a name, or "auto".
    threads: CPU threads of the engines; 0 for every core.
    cache_dir: where measurements and compiled models are kept; None for nowhere.
    allow_ungated: models without a passed gate are served too.
    build_plans: TensorRT plans are made in the background, and served once they are there.
    strict_config: config.pbtxt must exist and be complete; nothing is taken from the model file.
    max_image_pixels: the largest image that is decoded.
    memory_bytes: memory that all calls together may hold, and so the buffers of a model's batches.
    gpus: the numbers in config.pbtxt of the GPUs of this process, of `gpu_count` that the server
        has; None where it has all. In this process they have numbers from 0.
    """

    engine: str = "auto"
    variant: str = "auto"
    threads: int = 0
    cache_dir: Path | None = None
    allow_ungated: bool = False
    build_plans: bool = False
    strict_config: bool = False
    max_image_pixels: int = 64_000_000
    memory_bytes: int = field(default_factory=memory_limit)
    gpus: tuple[int, ...] | None = None
    gpu_count: int = 0


def open_cache(path: Path) -> Path | None:
    """The folder of a cache, in which nobody else may write: compiled networks in it are run, and
    what would tell that they were replaced lies beside them. None where there can be none."""
    try:
        return own_folder(path.expanduser())
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        reason = f"{path}: {error}"
        if isinstance(error, OSError):
            reason = f"{error.filename}: {error.strerror}"
        logger.warning("nothing is cached", extra={"reason": reason})
        return None


@dataclass(frozen=True)
class Candidate:
    """One file with the engine and the precision in which it could run."""

    variant: str
    engine: str
    precision: str
    file: Path

    def __str__(self) -> str:
        return f"{self.variant} in {self.engine}"


@dataclass(frozen=True)
class Candidates:
    """The candidates of a version.

    found: candidates that may be tried.
    unusable: a line for each engine that cannot run here.
    """

    found: list[Candidate]
    unusable: list[str] = field(default_factory=list)


def find_candidates(
    folder: Path, config: ModelConfig, manifest: Manifest | None, settings: LoadSettings
) -> Candidates:
    """Every variant and engine that the settings allow: by variant in the manifest's order, then by
    engine. Raises ModelLoadError where there is none."""
    engines, unusable = usable_engines(config, settings)
    if manifest is None:
        file = folder / config.model_file
        if not file.exists():
            raise ModelLoadError(f"{file}: not found")
        fitting = [name for name in engines if file.suffix in ENGINES[name].suffixes]
        if not fitting:
            raise EngineUnavailable(
                f"{file}: no engine here runs a file of this kind: {'; '.join(unusable)}"
            )
        return Candidates([Candidate("default", name, "fp32", file) for name in fitting], unusable)
    pinned = settings.variant if settings.variant != "auto" else config.parameters.get("variant")
    listed = [v for v in manifest.variants if pinned in (None, v.id)]
    if not listed:
        raise ModelLoadError(
            f"{folder}: no variant {pinned!r}; it has {[v.id for v in manifest.variants]}"
        )
    found = [
        Candidate(variant.id, engine, variant.precision, variant.path_in(folder))
        for variant in listed
        for engine in engines
        if Path(variant.file).suffix in ENGINES[engine].suffixes
        and variant.precision in ENGINES[engine].precisions
    ]
    if not found:
        raise EngineUnavailable(
            f"{folder}: nothing here runs {', '.join(v.id for v in listed)}: {'; '.join(unusable)}"
        )
    return Candidates(found, unusable)


def usable_engines(config: ModelConfig, settings: LoadSettings) -> tuple[list[str], list[str]]:
    """The engines that settings and config allow and that can run here; and a line with the reason
    for each other one that they allow.

    Raises ModelLoadError where settings or config ask for an engine or a GPU that is not there.
    """
    if settings.engine not in ("auto", *ENGINES):
        raise ModelLoadError(f"engine {settings.engine!r}: expected auto or one of {list(ENGINES)}")
    kind = config.placement.kind
    if kind == "gpu":
        _check_gpus(config, settings)
    allowed = [
        name
        for name, entry in ENGINES.items()
        if settings.engine in ("auto", name) and kind in ("auto", entry.device)
    ]
    if not allowed:
        raise ModelLoadError(
            f"engine {settings.engine!r} runs on the {ENGINES[settings.engine].device.upper()}; "
            f"instance_group of {config.name!r} asks for KIND_{kind.upper()}"
        )
    reasons = {name: unavailable_reason(name) for name in allowed}
    plans_come = (
        settings.build_plans and settings.engine == "auto" and reasons.get(PLAN_ENGINE, "") is None
    )
    for name in allowed:
        if plans_come and ENGINES[name].replaced_by_plans:
            reasons[name] = reasons[name] or "a plan takes its place"
    usable = [name for name in allowed if reasons[name] is None]
    unusable = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    if not usable:
        raise EngineUnavailable(f"no engine can run {config.name!r} here: {'; '.join(unusable)}")
    return usable, unusable


def is_placed_here(config: ModelConfig, settings: LoadSettings) -> bool:
    """Whether this process has a GPU that instance_group names, or where it names none. One that
    the server has not, its load refuses."""
    named = config.placement.gpus
    if settings.gpus is None or not named or max(named) >= settings.gpu_count:
        return True
    return not set(named).isdisjoint(settings.gpus)


def _check_gpus(config: ModelConfig, settings: LoadSettings) -> None:
    """Raises ModelLoadError where instance_group names GPUs that are not there."""
    try:
        there = {device.index for device in nvml.gpus()}
    except nvml.GpuUnavailable as reason:
        raise EngineUnavailable(f"instance_group asks for KIND_GPU: {reason}") from reason
    if settings.gpus is not None:
        there = set(range(settings.gpu_count))
    missing = sorted(set(config.placement.gpus) - there)
    if missing:
        raise ModelLoadError(
            f"instance_group.gpus: no GPU {', '.join(map(str, missing))}; this machine has "
            f"{sorted(there)}"
        )


def latency_key(candidate: Candidate, sha256: str, options: EngineOptions, shapes: str = "") -> str:
    """The name under which a measurement is cached: it holds for one artefact, engine, machine and
    setting.

    shapes: `timing_key` of the config.
    """
    parts = [
        sha256,
        candidate.precision,
        candidate.engine,
        installed_version(candidate.engine),
        device_name(ENGINES[candidate.engine].device),
        str(options.devices),
        str(options.graph_batch_sizes),
        str(options.instances),
        str(options.threads),
        str(options.max_batch_size),
    ]
    parts += [shapes] if shapes else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def options_for(candidate: Candidate, config: ModelConfig, settings: LoadSettings) -> EngineOptions:
    """The options with which a candidate's engine is loaded: as many instances as the config asks
    for, and on GPUs as many on each."""
    threads = settings.threads or core_count()
    devices: tuple[int, ...] = ()
    instances = config.instances
    if ENGINES[candidate.engine].device == "gpu":
        count = instances if config.placement.kind == "gpu" else max(_INSTANCES_PER_GPU, instances)
        everywhere = tuple(device.index for device in nvml.gpus() for _ in range(count))
        devices = _devices_here(config.placement.gpus, settings) or everywhere
        instances = len(devices)
    return EngineOptions(
        precision=candidate.precision,
        instances=instances,
        threads=max(1, threads // instances),
        max_batch_size=max(1, config.max_batch_size),
        cache_dir=settings.cache_dir,
        devices=devices,
        graph_batch_sizes=config.placement.graph_batch_sizes if devices else (),
    )


def _devices_here(named: tuple[int, ...], settings: LoadSettings) -> tuple[int, ...]:
    """The instances on GPUs of this process, by its own numbers."""
    if settings.gpus is None:
        return named
    return tuple(settings.gpus.index(number) for number in named if number in settings.gpus)
