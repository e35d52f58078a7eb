"""From a version folder to a Model that may serve: read, choose, check, time, warm up. Blocking."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving.base.errors import (
    EngineError,
    EngineUnavailable,
    InvalidManifest,
    ModelLoadError,
    SelfCheckFailed,
)
from serving.base.machine import nvml
from serving.base.machine.cpu import core_count
from serving.base.metrics import Metrics
from serving.base.task import IMAGE_INPUT, answer_output
from serving.batching.batcher import DynamicBatcher
from serving.batching.latency import LatencyTable, read_cached, write_cached
from serving.batching.turns import CoreTurns
from serving.engines import (
    ENGINES,
    Engine,
    EngineOptions,
    load_engine,
    unavailable_reason,
)
from serving.engines.engine import CHUNK_ROWS, infer_in_parts
from serving.engines.measure import measure_latency
from serving.models.choice import Candidate, Choice, choose, latency_key
from serving.models.local_plans import ENGINE as PLAN_ENGINE
from serving.models.local_plans import check_fits, with_local
from serving.models.model import Model
from serving.models.selfcheck import check_checksum, check_gate, check_samples, read_samples
from serving.models.servable import ModelFacts
from serving.repository.manifest import Manifest, Variant, read_manifest
from serving.repository.model_config import ModelConfig, check_against_engine

# Long enough for a median that holds still, short enough that a repository of many models starts.
_MEASURE_SECONDS = 0.15
# A batch handed to a thread and back costs about as much, and makes two threads fight for Python's
# lock; what takes less is run where it is.
_INLINE_SECONDS = 2e-4
# What takes less is over before a second thread has woken up to help; as that one then looks for
# more work for a while, a server of a tiny network would spend twice the CPU on a call.
_LIGHT_SECONDS = 5e-5
# What a model is taken to need before its first batch, where it cannot be measured beforehand.
_UNMEASURED_SECONDS = 0.01
# On each GPU, where the config leaves the number to us: the copies of one batch then run beside the
# other's kernels.
_INSTANCES_PER_GPU = 2
# Runtimes keep something of every network that was ever loaded. Files smaller than this leave less
# behind than a process to time them in costs.
_REHEARSED_BYTES = 8 << 20
_PLANS_INSTEAD = "onnxruntime-tensorrt"


@dataclass(frozen=True)
class LoadSettings:
    """What the server decides about every model. engine and variant: a name, or "auto".
    build_plans: TensorRT plans are made beside, and served once they are there."""

    engine: str = "auto"
    variant: str = "auto"
    threads: int = 0
    cache_dir: Path | None = None
    allow_ungated: bool = False
    build_plans: bool = False
    max_image_pixels: int = 64_000_000


def load_model(
    path: Path,
    config: ModelConfig,
    version: int,
    settings: LoadSettings,
    metrics: Metrics,
    decoders: Executor,
    turns: CoreTurns,
    rehearse: Callable[[], None] | None = None,
) -> Model:
    """Loads NAME/<version>. `rehearse` is called first where candidates are to be timed that would
    leave much behind in memory. Raises ModelLoadError naming the file and what is wrong with it."""
    folder = path / str(version)
    manifest = read_manifest(folder)
    if manifest is None and not settings.allow_ungated:
        raise InvalidManifest(
            f"{folder}: no manifest.json, so nothing says how accurate it is; "
            "--allow-ungated serves it all the same"
        )
    if manifest is not None:
        manifest = with_local(folder, manifest, config.max_batch_size, settings.cache_dir)
    threads = settings.threads or core_count()
    variants = {variant.id: variant for variant in manifest.variants} if manifest else {}
    for name in variants:  # so that the counter is there before the first failure
        metrics.self_check_failures.labels(config.name, str(version), name)
    candidates, unusable = _candidates(folder, config, manifest, settings)
    options = {
        candidate: _options(candidate, config, threads, settings) for candidate in candidates
    }

    @contextmanager
    def counted(candidate: Candidate) -> Iterator[None]:
        try:
            yield
        except SelfCheckFailed:
            labels = (config.name, str(version), candidate.variant)
            metrics.self_check_failures.labels(*labels).inc()
            raise

    def admit(candidate: Candidate) -> None:
        if manifest is None:
            return
        variant = variants[candidate.variant]
        check_fits(variant, options[candidate].devices)
        with counted(candidate):
            check_checksum(candidate.file, variant.sha256)
            if not settings.allow_ungated:
                check_gate(variant, candidate.engine)

    def check(candidate: Candidate, engine: Engine) -> None:
        check_against_engine(config, engine.inputs, engine.outputs, candidate.file)
        if manifest is not None:
            with counted(candidate):
                variant = variants[candidate.variant]
                _check_answers(folder, manifest, variant, engine, options[candidate])

    def kept(candidate: Candidate) -> Path | None:
        variant = variants.get(candidate.variant)
        return _kept_latency(candidate, variant, options[candidate])

    def known(candidate: Candidate) -> dict[int, float] | None:
        file = kept(candidate)
        return read_cached(file) if file is not None else None

    def measure(candidate: Candidate, engine: Engine, sizes: Sequence[int]) -> dict[int, float]:
        found = _latency(candidate, engine, config, sizes)
        file = kept(candidate)
        if file is not None:
            write_cached(file, (read_cached(file) or {}) | found)
        return found

    def load(candidate: Candidate) -> Engine:
        return load_engine(candidate.engine, candidate.file, options[candidate])

    if rehearse is not None:
        untimed = [
            candidate
            for candidate in candidates
            if not options[candidate].devices and kept(candidate) and known(candidate) is None
        ]
        # One that is not there is refused by name when its turn comes.
        size = sum(c.file.stat().st_size for c in untimed if c.file.exists())
        if len(untimed) > 1 and size > _REHEARSED_BYTES:
            rehearse()

    sizes = _batch_sizes(config.max_batch_size)

    def choose_on(device: str) -> Choice:
        there = [c for c in candidates if ENGINES[c.engine].device == device]
        return choose(there, sizes, load, admit, check, known, measure)

    choice = _gpu_before_cpu(candidates, choose_on)
    chosen = options[choice.candidate]
    if min(choice.latency.values()) < _LIGHT_SECONDS and chosen.threads > 1 and not chosen.devices:
        choice.engine.close()
        chosen = options[choice.candidate] = replace(chosen, threads=1)
        alone = choose([choice.candidate], sizes, load, admit, check, known, measure)
        choice = replace(alone, rejected=choice.rejected)
    facts = ModelFacts(
        config=config,
        version=str(version),
        engine_name=choice.candidate.engine,
        variant=choice.candidate.variant,
        manifest=manifest,
        inputs=config.inputs or choice.engine.inputs,
        outputs=config.outputs or choice.engine.outputs,
        output_labels=_labels(path, config),
        rejected=(*choice.rejected, *unusable),
        latency=choice.latency,
        device_bytes=choice.engine.device_bytes,
        max_image_pixels=settings.max_image_pixels,
    )
    batcher = DynamicBatcher(
        choice.engine,
        model=config.name,
        version=str(version),
        max_batch_size=config.max_batch_size,
        batching=config.batching,
        instances=chosen.instances,
        latency=LatencyTable(choice.latency),
        metrics=metrics,
        turns=turns,
        # Work on a GPU takes no turn on the cores.
        cores=0 if chosen.devices else chosen.threads,
        slo=config.slo,
        inline_seconds=_INLINE_SECONDS,
    )
    return Model(facts, engine=choice.engine, batcher=batcher, decoders=decoders, metrics=metrics)


def _gpu_before_cpu(candidates: list[Candidate], choose_on: Callable[[str], Choice]) -> Choice:
    """What runs on a GPU is not timed against the CPU, which would take minutes and whose cores
    have images to decode; the CPU serves where nothing on the GPU can."""
    devices = {ENGINES[candidate.engine].device for candidate in candidates}
    if devices != {"cpu", "gpu"}:
        return choose_on(devices.pop() if devices else "cpu")
    try:
        choice = choose_on("gpu")
        reason = "the CPU is not asked where a GPU serves"
        others = [c for c in candidates if ENGINES[c.engine].device == "cpu"]
        left_out = tuple(f"{candidate}: {reason}" for candidate in others)
    except EngineUnavailable as none_on_gpu:
        left_out = (f"on the GPU, {none_on_gpu}",)
        try:
            choice = choose_on("cpu")
        except EngineUnavailable as none_on_cpu:
            raise EngineUnavailable(f"{none_on_gpu}; {none_on_cpu}") from none_on_cpu
    return replace(choice, rejected=(*choice.rejected, *left_out))


def _options(
    candidate: Candidate, config: ModelConfig, threads: int, settings: LoadSettings
) -> EngineOptions:
    """How a candidate's engine is loaded: as many instances as the config asks for, on a GPU as
    many on each."""
    devices: tuple[int, ...] = ()
    instances = config.instances
    if ENGINES[candidate.engine].device == "gpu":
        count = instances if config.placement.kind == "gpu" else max(_INSTANCES_PER_GPU, instances)
        everywhere = tuple(device.index for device in nvml.gpus() for _ in range(count))
        devices = config.placement.gpus or everywhere
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


def _candidates(
    folder: Path, config: ModelConfig, manifest: Manifest | None, settings: LoadSettings
) -> tuple[list[Candidate], list[str]]:
    """Every file and engine that the settings allow, the simplest first: by variant as the manifest
    lists them, then by engine; and a line for each engine that cannot run here at all."""
    pinned = settings.variant if settings.variant != "auto" else config.parameters.get("variant")
    engines, unusable = _engines(config, settings)
    if manifest is None:
        file = folder / config.model_file
        if not file.exists():
            raise ModelLoadError(f"{file}: not found")
        fitting = [name for name in engines if file.suffix in ENGINES[name].suffixes]
        return [Candidate("default", engine, "fp32", file) for engine in fitting], unusable
    listed = [v for v in manifest.variants if pinned in (None, v.id)]
    if not listed:
        raise ModelLoadError(
            f"{folder}: no variant {pinned!r}; it has {[v.id for v in manifest.variants]}"
        )
    candidates = [
        Candidate(variant.id, engine, variant.precision, folder / variant.file)
        for variant in listed
        for engine in engines
        if Path(variant.file).suffix in ENGINES[engine].suffixes
        and variant.precision in ENGINES[engine].precisions
    ]
    if not candidates:
        raise EngineUnavailable(
            f"{folder}: nothing here runs {', '.join(v.id for v in listed)}: {'; '.join(unusable)}"
        )
    return candidates, unusable


def _engines(config: ModelConfig, settings: LoadSettings) -> tuple[list[str], list[str]]:
    """The engines that settings and config allow and that can run here; and why others cannot.

    Raises ModelLoadError where settings or config ask for what is not there.
    """
    if settings.engine not in ("auto", *ENGINES):
        raise ModelLoadError(f"engine {settings.engine!r}: expected auto or one of {list(ENGINES)}")
    kind = config.placement.kind
    if kind == "gpu":
        _check_gpus(config)
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
    if settings.build_plans and settings.engine == "auto" and reasons.get(PLAN_ENGINE, "") is None:
        # It would compile the same network for minutes, before anything serves.
        reasons[_PLANS_INSTEAD] = reasons.get(_PLANS_INSTEAD) or "a plan takes its place"
    usable = [name for name in allowed if reasons[name] is None]
    unusable = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    if not usable:
        raise EngineUnavailable(f"no engine can run {config.name!r} here: {'; '.join(unusable)}")
    return usable, unusable


def _check_gpus(config: ModelConfig) -> None:
    """Raises ModelLoadError where instance_group names GPUs that are not there."""
    try:
        there = {device.index for device in nvml.gpus()}
    except nvml.GpuUnavailable as reason:
        raise EngineUnavailable(f"instance_group asks for KIND_GPU: {reason}") from reason
    missing = sorted(set(config.placement.gpus) - there)
    if missing:
        raise ModelLoadError(
            f"instance_group.gpus: no GPU {', '.join(map(str, missing))}; this machine has "
            f"{sorted(there)}"
        )


def _check_answers(
    folder: Path, manifest: Manifest, variant: Variant, engine: Engine, options: EngineOptions
) -> None:
    """The published samples, run here alone and in batches so large that an engine may part them; a
    variant without evidence has no tolerance to hold."""
    evidence = variant.evidence.get(engine.name)
    output = answer_output(manifest.task, [spec.name for spec in engine.outputs])
    samples = read_samples(folder, output)
    if samples is None or evidence is None:
        return
    images, expected = samples
    rows = options.max_batch_size
    times = math.ceil(min(rows, CHUNK_ROWS * options.threads) / len(images))
    images, expected = (np.concatenate([array] * times) for array in (images, expected))
    what = f"{variant.id} in {engine.name}"
    answers = infer_in_parts(engine, IMAGE_INPUT, images, rows)[output]
    check_samples(output, answers, expected, evidence, what)
    answers[:1] = infer_in_parts(engine, IMAGE_INPUT, images[:1], rows)[output]
    check_samples(output, answers, expected, evidence, what)


def _kept_latency(
    candidate: Candidate, variant: Variant | None, options: EngineOptions
) -> Path | None:
    """Where a measured latency is kept; None for what has no checksum to know it by again."""
    if variant is None or options.cache_dir is None:
        return None
    key = latency_key(candidate, variant.sha256, options)
    return options.cache_dir / "latency" / f"{key}.json"


def _batch_sizes(max_batch_size: int) -> list[int]:
    """The sizes that batches are timed with: 1, 2, 4 ... max_batch_size."""
    sizes = [2**i for i in range(max(1, max_batch_size).bit_length())]
    return sizes if sizes[-1] >= max_batch_size else [*sizes, max_batch_size]


def _latency(
    candidate: Candidate, engine: Engine, config: ModelConfig, sizes: Sequence[int]
) -> dict[int, float]:
    """Seconds by batch size, measured here."""
    if config.max_batch_size == 0 or any(spec.datatype == "BYTES" for spec in engine.inputs):
        return {size: size * _UNMEASURED_SECONDS for size in sizes}
    try:
        milliseconds = measure_latency(engine, engine.inputs, sizes, _MEASURE_SECONDS)
    except EngineError as error:
        raise ModelLoadError(f"{candidate.file}: does not run: {error}") from error
    return {size: value / 1e3 for size, value in milliseconds.items()}


def _labels(path: Path, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Class names by output, of the outputs that name a file of them."""
    labels = {}
    for output, filename in config.label_filenames.items():
        try:
            text = (path / filename).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelLoadError(f"{path / filename}: cannot be read: {error}") from error
        labels[output] = tuple(text.splitlines())
    return labels
