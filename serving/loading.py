"""From a version folder to a Model that may serve: read, choose, check, time, warm up. Blocking."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.batching.batcher import DynamicBatcher
from serving.batching.latency import LatencyTable, read_cached, write_cached
from serving.batching.turns import CoreTurns
from serving.engines import ENGINES, Engine, EngineOptions
from serving.engines.choice import Candidate, choose, latency_key
from serving.engines.measure import core_count, measure_latency
from serving.errors import EngineError, InvalidManifest, ModelLoadError, SelfCheckFailed
from serving.manifest import IMAGE_INPUT, Manifest, Variant, answer_output, read_manifest
from serving.metrics import Metrics
from serving.model import Model
from serving.model_config import ModelConfig, check_against_engine
from serving.selfcheck import check_checksum, check_gate, check_samples, read_samples

# Long enough for a median that holds still, short enough that a repository of many models starts.
_MEASURE_SECONDS = 0.15
# What a model is taken to need before its first batch, where it cannot be measured beforehand.
_UNMEASURED_SECONDS = 0.01


@dataclass(frozen=True)
class LoadSettings:
    """What the server decides about every model. engine and variant: a name, or "auto"."""

    engine: str = "auto"
    variant: str = "auto"
    threads: int = 0
    cache_dir: Path | None = None
    allow_ungated: bool = False
    max_image_pixels: int = 64_000_000


def load_model(
    path: Path,
    config: ModelConfig,
    version: int,
    settings: LoadSettings,
    metrics: Metrics,
    decoders: Executor,
    turns: CoreTurns,
) -> Model:
    """Loads NAME/<version>. Raises ModelLoadError naming the file and what is wrong with it."""
    folder = path / str(version)
    manifest = read_manifest(folder)
    if manifest is None and not settings.allow_ungated:
        raise InvalidManifest(
            f"{folder}: no manifest.json, so nothing says how accurate it is; "
            "--allow-ungated serves it all the same"
        )
    threads = settings.threads or core_count()
    options = EngineOptions(
        instances=config.instances,
        threads=max(1, threads // config.instances),
        max_batch_size=max(1, config.max_batch_size),
        cache_dir=settings.cache_dir,
    )
    variants = {variant.id: variant for variant in manifest.variants} if manifest else {}
    for name in variants:  # so that the counter is there before the first failure
        metrics.self_check_failures.labels(config.name, str(version), name)
    candidates = _candidates(folder, config, manifest, settings)

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
        with counted(candidate):
            check_checksum(candidate.file, variant.sha256)
            if not settings.allow_ungated:
                check_gate(variant, candidate.engine)

    def check(candidate: Candidate, engine: Engine) -> None:
        check_against_engine(config, engine.inputs, engine.outputs, candidate.file)
        if manifest is not None:
            with counted(candidate):
                _check_answers(folder, manifest, variants[candidate.variant], engine)

    def latency_of(candidate: Candidate, engine: Engine) -> dict[int, float]:
        variant = variants.get(candidate.variant)
        return _latency(candidate, variant, engine, options, config)

    choice = choose(candidates, options, admit, check, latency_of)
    engine, name = choice.engine, choice.candidate.engine
    return Model(
        config,
        version,
        engine=engine,
        engine_name=name,
        variant=choice.candidate.variant,
        manifest=manifest,
        labels=_labels(path, config, manifest),
        batcher=DynamicBatcher(
            engine,
            model=config.name,
            version=str(version),
            max_batch_size=config.max_batch_size,
            batching=config.batching,
            instances=config.instances,
            latency=LatencyTable(choice.latency),
            metrics=metrics,
            turns=turns,
            cores=options.threads,
            slo=config.slo,
        ),
        decoders=decoders,
        max_image_pixels=settings.max_image_pixels,
        metrics=metrics,
        rejected=choice.rejected,
    )


def _candidates(
    folder: Path, config: ModelConfig, manifest: Manifest | None, settings: LoadSettings
) -> list[Candidate]:
    """Every file and engine that the settings allow, the simplest first: by variant as the manifest
    lists them, then by engine."""
    pinned = settings.variant if settings.variant != "auto" else config.parameters.get("variant")
    engines = [name for name in ENGINES if settings.engine in ("auto", name)]
    if not engines:
        raise ModelLoadError(f"engine {settings.engine!r}: expected auto or one of {list(ENGINES)}")
    if manifest is None:
        file = folder / config.model_file
        if not file.exists():
            raise ModelLoadError(f"{file}: not found")
        return [Candidate("default", engine, "fp32", file) for engine in engines]
    listed = [v for v in manifest.variants if pinned in (None, v.id)]
    if not listed:
        raise ModelLoadError(
            f"{folder}: no variant {pinned!r}; it has {[v.id for v in manifest.variants]}"
        )
    return [
        Candidate(variant.id, engine, variant.precision, folder / variant.file)
        for variant in listed
        for engine in engines
        if Path(variant.file).suffix in ENGINES[engine].suffixes
        and variant.precision in ENGINES[engine].precisions
    ]


def _check_answers(folder: Path, manifest: Manifest, variant: Variant, engine: Engine) -> None:
    """The published samples, run here; a variant without evidence has no tolerance to hold."""
    evidence = variant.evidence.get(engine.name)
    output = answer_output(manifest.task, [spec.name for spec in engine.outputs])
    samples = read_samples(folder, output)
    if samples is None or evidence is None:
        return
    images, expected = samples
    answers = engine.infer({IMAGE_INPUT: images})[output]
    check_samples(output, answers, expected, evidence, f"{variant.id} in {engine.name}")


def _latency(
    candidate: Candidate,
    variant: Variant | None,
    engine: Engine,
    options: EngineOptions,
    config: ModelConfig,
) -> dict[int, float]:
    """Seconds by batch size: 1, 2, 4 ... max_batch_size; from the cache where it was measured."""
    if config.max_batch_size == 0 or any(spec.datatype == "BYTES" for spec in engine.inputs):
        return {1: _UNMEASURED_SECONDS}
    cached = None
    if variant is not None and options.cache_dir is not None:
        key = latency_key(candidate, variant.sha256, options)
        cached = options.cache_dir / "latency" / f"{key}.json"
        seconds = read_cached(cached)
        if seconds:
            return seconds
    sizes = [2**i for i in range(config.max_batch_size.bit_length())]
    if sizes[-1] != config.max_batch_size:
        sizes.append(config.max_batch_size)
    try:
        milliseconds = measure_latency(engine, engine.inputs, sizes, _MEASURE_SECONDS)
    except EngineError as error:
        raise ModelLoadError(f"{candidate.file}: does not run: {error}") from error
    seconds = {size: value / 1e3 for size, value in milliseconds.items()}
    if cached is not None:
        write_cached(cached, seconds)
    return seconds


def _labels(path: Path, config: ModelConfig, manifest: Manifest | None) -> tuple[str, ...]:
    if manifest is not None:
        return manifest.classes
    for filename in config.label_filenames.values():
        try:
            return tuple((path / filename).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ModelLoadError(f"{path / filename}: cannot be read: {error}") from error
    return ()
