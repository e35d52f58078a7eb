"""Runs every exported variant in every engine that can serve it, and collects the evidence.

Accuracy is measured over the whole test split on the pixels that the server would see, against the
trained network before pruning, in FP32, image by image.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.base.errors import EngineError, EngineUnavailable, ModelLoadError
from serving.base.evaluation import output_distance
from serving.base.files import sha256
from serving.base.machine.cpu import core_count, machine
from serving.base.machine.progress import Progress
from serving.base.task import IMAGE_INPUT, PROBABILITY_OUTPUT, Task, measure_of
from serving.base.tensor import Array, TensorSpec
from serving.engines import ENGINES, EngineOptions, cpu_features, load_engine, unavailable_reason
from serving.engines.engine import Engine, infer_in_parts
from serving.engines.measure import device_name, measure_latency
from serving.repository.manifest import SAMPLES_FILE, Evidence, Latency
from training.data.readers import Pixels, Targets
from training.data.samples import Dataset, Samples
from training.evaluation.accuracy import accuracy_of
from training.evaluation.class_measures import measures
from training.evaluation.gate import Verdict, verdict
from training.evaluation.network_answers import (
    Answers,
    Run,
    answers_of,
    foreground_levels,
    identification_of,
    matches,
    pair_histograms,
)
from training.evaluation.rows_on_disk import RowsOnDisk
from training.evaluation.verification import (
    Measures,
    NetworkSize,
    VariantFile,
    VariantResult,
    Verification,
)
from training.models.export.deployed import Served, run_deployed
from training.recipes.deliver import Verify

log = logging.getLogger(__name__)

PICTURES_FILE = "pictures.npz"

# Images whose answers are published, for a server to check its own by. More find rarer faults of an
# engine, and lengthen each load.
SAMPLES = 8
_PICTURES = 12
# Classes that are told with each of them.
_BEST = 5
# Distance from the samples' answers that a server on another CPU may have, beyond twice the one
# measured here: other instruction sets add in another order, and a class map of 8 images has few
# borders. Larger lets a wrong file pass the self-check, smaller refuses a right one.
_TOLERANCE_FLOOR = 0.01
# Instruction sets without which bf16 is emulated, and slower than FP32.
_BF16_FEATURES = ("amx_bf16", "avx512_bf16")


def verify(
    config: Verify,
    data: Dataset,
    task: Task,
    baseline: Served,
    files: Sequence[VariantFile],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    sizes: tuple[NetworkSize, NetworkSize],
    max_batch_size: int,
    folder: Path,
) -> Verification:
    """Measures all files, FP32 being the first, and writes samples.npz and the report's pictures
    into `folder`. `sizes` are those of the baseline and of the exported network; `max_batch_size`
    is the one that plans were made for, with plans no smaller than any of `config.batch_sizes`.

    `require_pass` decides whether the build goes on.
    """
    names = tuple(spec.name for spec in outputs)
    measure = measure_of(task, binary=names[0] == PROBABILITY_OUTPUT)

    def answer(run: Run, title: str) -> Answers:
        return answers_of(
            run, data.test, task, len(data.classes), data.ignore_index, folder, f"verify: {title}"
        )

    largest = max(max_batch_size, *config.batch_sizes)
    reference = answer(lambda images: run_deployed(baseline, names, images), "reference in torch")
    samples = _choose_samples(data.test)
    expected = _write_samples(folder / SAMPLES_FILE, files[0].path, samples)[names[0]]
    results: list[VariantResult] = []
    answers: dict[tuple[str, str], Answers] = {}
    for file in files:

        def measured(engine: Engine, file: VariantFile = file) -> Measured:
            run = _runner(engine, largest)
            found = answer(run, f"{file.id} in {engine.name}")
            answers[file.id, engine.name] = found
            return Measured(
                verdict(config, measure, data.classes, reference, found),
                output_distance(names[0], expected, run(samples)[names[0]]),
                _timed(engine, inputs, config, f"verify: timing {file.id} in {engine.name}"),
            )

        results.append(measure_in_engines(file, largest, "verify", measured))
        # Masks of a whole split take gigabytes of disk: only those that may be drawn are kept.
        for other in set(answers) - {_fastest(results) or next(iter(answers), None)}:
            del answers[other]
    pictured = _fastest(results) or next(iter(answers))
    pictures = _write_pictures(folder / PICTURES_FILE, data, answers[pictured], config.beta)
    embedded = answers[pictured].embedded
    return Verification(
        measure=measure,
        baseline=accuracy_of(measure, reference),
        baseline_size=sizes[0],
        network_size=sizes[1],
        variants=tuple(results),
        pictured=pictured,
        machine=machine(),
        measures=pictures,
        identification=None if embedded is None else identification_of(embedded),
    )


class Measured(NamedTuple):
    """One variant in one engine.

    distance: of its answers to the samples from FP32's.
    milliseconds: of a call, by batch size.
    """

    verdict: Verdict
    distance: float
    milliseconds: Mapping[int, float]

    def evidence(self, engine: str) -> Evidence:
        """As the manifest keeps it."""
        timed = Latency(machine=device_name(ENGINES[engine].device), milliseconds=self.milliseconds)
        tolerance = _TOLERANCE_FLOOR + 2 * self.distance
        return Evidence(**self.verdict._asdict(), samples_tolerance=tolerance, latency=timed)


def measure_in_engines(
    file: VariantFile, max_batch_size: int, title: str, measured: Callable[[Engine], Measured]
) -> VariantResult:
    """A variant with its evidence, or the reason against it, by engine: `measured` is called with
    each that can run it here. `title` begins the lines of the log."""
    evidence: dict[str, Evidence] = {}
    skipped: dict[str, str] = {}
    for name in ENGINES:
        engine = open_engine(name, file, max_batch_size)
        if isinstance(engine, str):
            skipped[name] = engine
            # A laptop without a GPU would repeat it for every variant.
            level = logging.INFO if ENGINES[name].device == "cpu" else logging.DEBUG
            log.log(level, "%s: %s in %s skipped: %s", title, file.id, name, engine)
            continue
        try:
            found = evidence[name] = measured(engine).evidence(name)
        except (EngineError, ModelLoadError) as error:
            skipped[name] = error.detail
            log.warning("%s: %s in %s failed: %s", title, file.id, name, error)
            continue
        finally:
            engine.close()
        verdict = "passed" if found.gate.passed else "FAILED"
        log.info("%s: %s in %s %s: %s", title, file.id, name, verdict, found.gate.reason)
    return VariantResult(
        id=file.id,
        file=file.path.name,
        precision=file.precision,
        sha256=sha256(file.path),
        size_bytes=file.path.stat().st_size,
        calibration_sha256=file.calibration_sha256,
        plan=file.plan,
        evidence=evidence,
        skipped=skipped,
    )


def timed_in_engines(
    file: VariantFile,
    engines: Iterable[str],
    inputs: tuple[TensorSpec, ...],
    config: Verify,
    max_batch_size: int,
) -> dict[str, dict[int, float]]:
    """Milliseconds of a call by batch size, in each engine that can run a file."""
    found = {}
    for name in engines:
        engine = open_engine(name, file, max(max_batch_size, *config.batch_sizes))
        if isinstance(engine, str):
            continue
        try:
            found[name] = _timed(engine, inputs, config, f"verify: timing {file.id} in {name}")
        except (EngineError, ModelLoadError) as error:
            log.warning("verify: %s in %s failed: %s", file.id, name, error)
        finally:
            engine.close()
    return found


def open_engine(name: str, file: VariantFile, max_batch_size: int) -> Engine | str:
    """The loaded engine, or why it cannot run this variant."""
    if file.path.suffix not in ENGINES[name].suffixes:
        return f"{name} does not run {file.path.suffix} files"
    if file.precision not in ENGINES[name].precisions:
        return f"{name} does not run {file.precision}"
    if file.precision == "bf16" and not set(_BF16_FEATURES) & set(cpu_features()):
        return f"this CPU has neither {' nor '.join(_BF16_FEATURES)}"
    reason = unavailable_reason(name)
    if reason is not None:
        return reason
    options = EngineOptions(
        precision=file.precision, threads=core_count(), max_batch_size=max_batch_size
    )
    try:
        return load_engine(name, file.path, options)
    except EngineUnavailable as error:
        return str(error)


def _timed(
    engine: Engine, inputs: tuple[TensorSpec, ...], config: Verify, title: str
) -> dict[int, float]:
    """Milliseconds of a call by batch size."""
    latency: dict[int, float] = {}
    with Progress(title, len(config.batch_sizes), "batch sizes") as progress:
        for size in config.batch_sizes:
            latency |= measure_latency(engine, inputs, (size,), config.latency_seconds)
            progress.advance()
    return latency


def _runner(engine: Engine, largest: int) -> Run:
    """Runs any number of images, in batches that a plan was made for."""
    return lambda images: infer_in_parts(engine, {IMAGE_INPUT: images}, largest)


def _choose_samples(samples: Samples) -> Pixels:
    """A few images spread evenly over the split."""
    chosen = np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).astype(np.intp)
    images, _ = samples.batch(chosen)
    return np.ascontiguousarray(images)


def _write_samples(path: Path, fp32_file: Path, images: Pixels) -> dict[str, Array]:
    """Writes the images and the FP32 file's answers to them, by tensor name; gives the answers."""
    engine = load_engine("onnxruntime", fp32_file, EngineOptions(threads=core_count()))
    try:
        answers = _runner(engine, len(images))(images)
    finally:
        engine.close()
    arrays: dict[str, Array] = {IMAGE_INPUT: images, **answers}
    np.savez(path, allow_pickle=False, **arrays)
    return answers


def _fastest(results: Sequence[VariantResult]) -> tuple[str, str] | None:
    """The variant and engine that passed and take the least time at the largest batch."""
    times = [
        (max(evidence.latency.milliseconds.items())[1], (result.id, engine))
        for result in results
        for engine, evidence in result.evidence.items()
        if evidence.gate.passed
    ]
    return min(times)[1] if times else None


def _write_pictures(path: Path, data: Dataset, answers: Answers, beta: float) -> Measures | None:
    """Writes the arrays that the report draws: the worst answers and, after them, some of the
    others; the whole confusion matrix; curves and calibration. Gives the measures of all."""
    samples, confusion = data.test, answers.confusion
    # Wrong before right, and among the wrong the surest first.
    order = np.lexsort((-answers.confidences, answers.scores))
    worst = order[: _PICTURES // 2]
    rest = np.sort(order[_PICTURES // 2 :])
    count = min(_PICTURES - len(worst), len(rest))
    others = rest[np.linspace(0, len(rest) - 1, count).astype(np.intp)] if count else rest
    chosen = np.concatenate([worst, others])
    embedded = answers.embedded
    rows = chosen if embedded is None else embedded.probes[chosen]
    images, targets = samples.batch(rows)
    arrays: dict[str, Array] = {"images": images}
    found = None
    if embedded is not None:
        arrays = {**matches(embedded, samples, chosen), **pair_histograms(embedded)}
    if answers.calibration is not None:
        levels = None
        if answers.probability_maps is not None and answers.truths is not None:
            levels = foreground_levels(answers.probability_maps, answers.truths)
        found, ranking = measures(
            data.classes, confusion, answers.calibration, beta, answers.labels,
            answers.probabilities, levels,
        )  # fmt: skip
        arrays |= {
            "confusion": confusion,
            "bin_confidence": answers.calibration.confidence,
            "bin_accuracy": answers.calibration.accuracy,
            "bin_count": answers.calibration.count,
        }
        if ranking is not None:
            arrays |= {"recall": ranking.recall, "precision": ranking.precision}
    if answers.probabilities is not None:
        shares = answers.probabilities.rows(chosen)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :_BEST]
        arrays |= {
            "best_classes": best,
            "best_shares": np.take_along_axis(shares, best, axis=1),
        }
    np.savez(
        path,
        allow_pickle=False,
        targets=_plain(targets),
        predictions=_plain(
            answers.predictions.rows(chosen)
            if isinstance(answers.predictions, RowsOnDisk)
            else answers.predictions[chosen]
        ),
        confidences=answers.confidences[chosen],
        scores=answers.scores[chosen],
        names=np.array([samples.names[i] for i in rows]),
        **arrays,
    )
    return found


def _plain(targets: Targets) -> Array:
    return np.ascontiguousarray(targets)
