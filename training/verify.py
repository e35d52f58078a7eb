"""Runs every exported variant in every engine that can serve it, and judges it by the recipe.

Accuracy is measured over the whole test split on the pixels that the server would see, against the
trained network before pruning, in FP32, image by image.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.engines import ENGINES, EngineOptions, cpu_features, load_engine, unavailable_reason
from serving.engines.engine import Engine
from serving.engines.measure import core_count, device_name, machine, measure_latency
from serving.errors import EngineError, EngineUnavailable
from serving.evaluation import (
    accuracy,
    accuracy_drop,
    agreement,
    answer_distance,
    class_iou,
    confusion_matrix,
    mean_iou,
    mean_iou_drop,
)
from serving.manifest import (
    ANSWER_OUTPUT,
    IMAGE_INPUT,
    SAMPLES_FILE,
    Estimate,
    Evidence,
    Gate,
    Latency,
)
from serving.postprocess import softmax
from serving.tensor import Array, TensorSpec
from training.data.samples import Dataset, Pixels, Samples, Targets
from training.deploy import Deployed, run_deployed
from training.errors import VerificationError
from training.metrics import MEASURES, Task
from training.recipe.deliver import Verify
from training.results import NetworkSize, VariantFile, VariantResult, Verification

log = logging.getLogger(__name__)

PICTURES_FILE = "pictures.npz"

_BATCH = 32
_SAMPLES = 8
_PICTURES = 12
# What a server on another CPU may be off by, beyond twice the distance seen here: other
# instruction sets add in another order, and a class map of 8 images has few borders.
_TOLERANCE_FLOOR = 0.01
# Instruction sets without which bf16 is emulated, and slower than FP32.
_BF16_FEATURES = ("amx_bf16", "avx512_bf16")

Run = Callable[[Pixels], dict[str, Array]]


@dataclass(frozen=True)
class Answers:
    """What a network says of N images.

    predictions: int64 [N] classes, or uint8 [N, H, W] masks. confidences: float32 [N], of the
    winning class, for masks the mean over pixels. scores: float64 [N], 1 is right and 0 wrong, for
    masks the image's own mean IoU. confusions: int64 [N, C, C] for masks, of the whole split
    [1, C, C] for classes.
    """

    predictions: Array
    confidences: NDArray[np.float32]
    scores: NDArray[np.float64]
    confusions: NDArray[np.int64]


def verify(
    config: Verify,
    data: Dataset,
    task: Task,
    baseline: Deployed,
    files: Sequence[VariantFile],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    sizes: tuple[NetworkSize, NetworkSize],
    folder: Path,
) -> Verification:
    """Measures all files, FP32 being the first, and writes samples.npz and the report's pictures
    into `folder`. `sizes` are those of the baseline and of the exported network.

    Whether the build may go on is `require_pass`'s to say.
    """
    names = tuple(spec.name for spec in outputs)
    classes = len(data.classes)

    def answer(run: Run) -> Answers:
        return answers_of(run, data.test, task, classes, data.ignore_index)

    reference = answer(lambda images: run_deployed(baseline, names, images))
    samples = _choose_samples(data.test)
    expected = _write_samples(folder / SAMPLES_FILE, files[0].path, samples)[ANSWER_OUTPUT[task]]
    results: list[VariantResult] = []
    answers: dict[tuple[str, str], Answers] = {}
    for file in files:
        evidence: dict[str, Evidence] = {}
        skipped: dict[str, str] = {}
        for name in ENGINES:
            engine = _open(name, file, max(config.batch_sizes))
            if isinstance(engine, str):
                skipped[name] = engine
                # That a laptop has no GPU need not be said for every variant.
                level = logging.INFO if ENGINES[name].device == "cpu" else logging.DEBUG
                log.log(level, "verify: %s in %s skipped: %s", file.id, name, engine)
                continue
            try:
                found = answer(_runner(engine))
                distance = answer_distance(expected, _runner(engine)(samples)[ANSWER_OUTPUT[task]])
                latency = measure_latency(
                    engine, inputs, config.batch_sizes, config.latency_seconds
                )
            except EngineError as error:
                skipped[name] = str(error)
                log.warning("verify: %s in %s failed: %s", file.id, name, error)
                continue
            finally:
                engine.close()
            answers[file.id, name] = found
            measured_on = device_name(ENGINES[name].device)
            kept = Latency(machine=measured_on, milliseconds=latency)
            evidence[name] = _evidence(config, task, reference, found, distance, kept)
            gate = evidence[name].gate
            verdict = "passed" if gate.passed else "FAILED"
            log.info("verify: %s in %s %s: %s", file.id, name, verdict, gate.reason)
        results.append(_result(file, evidence, skipped))
    pictured = _fastest(results) or next(iter(answers))
    _write_pictures(folder / PICTURES_FILE, data.test, answers[pictured])
    return Verification(
        measure=MEASURES[task],
        baseline=_accuracy(task, reference),
        baseline_size=sizes[0],
        network_size=sizes[1],
        variants=tuple(results),
        pictured=pictured,
        machine=machine(),
    )


def require_pass(verification: Verification) -> None:
    """Raises VerificationError with the numbers unless FP32 passes in some engine and, where others
    were asked for and can run here, so does at least one of them.

    A variant that passes nowhere beside others that do is left out of what is published; one that
    passes in one engine is published with both verdicts, and the server heeds them.
    """
    others = [result for result in verification.variants[1:] if result.evidence]
    fp32 = verification.variants[0]
    if fp32.passed and (not others or any(result.passed for result in others)):
        return
    failed = [fp32] if not fp32.passed else others
    reasons = [
        f"{result.id} in {engine}: {evidence.gate.reason}"
        for result in failed
        for engine, evidence in result.evidence.items()
    ]
    raise VerificationError("nothing to publish: " + "; ".join(reasons or ["no engine ran it"]))


def judge(config: Verify, measured: Estimate, drop: Estimate, agreeing: float) -> Gate:
    """The verdict on one variant in one engine.

    The drop passes when it is at most max_drop. It also passes when it is larger but its interval
    holds 0, so that chance explains it, provided that there are enough images for that to mean
    anything: 3 / max_drop, below which not even n equal answers would prove the bound (the rule of
    three). With fewer the drop itself decides, and the reason says so.
    """
    few = drop.n * config.max_drop < 3
    reasons = [f"drop {_points(drop)} points, allowed {100 * config.max_drop:.2f}, n={drop.n}"]
    passed = drop.value <= config.max_drop
    if not passed and drop.low <= 0 and not few:
        passed = True
        reasons.append("more than allowed, but the interval holds 0: not told from chance")
    if few:
        needed = f"{math.ceil(3 / config.max_drop)}" if config.max_drop else "any number"
        reasons.append(
            f"too few images to prove the bound ({needed} needed)"
            if config.max_drop
            else "a bound of 0 cannot be proved by any number of images"
        )
    elif drop.high > config.max_drop and passed:
        reasons.append(f"within the bound as measured; the interval reaches {100 * drop.high:.2f}")
    if agreeing < config.min_agreement:
        passed = False
        reasons.append(f"agreement {agreeing:.4f} is under {config.min_agreement}")
    if measured.value < config.min_accuracy:
        passed = False
        reasons.append(f"accuracy {measured.value:.4f} is under {config.min_accuracy}")
    return Gate(passed=passed, reason="; ".join(reasons))


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f} [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}]"


def answers_of(
    run: Run, samples: Samples, task: Task, classes: int, ignore_index: int | None
) -> Answers:
    """Runs a network over all images in batches of 32."""
    predictions, confidences, scores, confusions = [], [], [], []
    for start in range(0, len(samples), _BATCH):
        images, targets = samples.batch(range(start, min(start + _BATCH, len(samples))))
        outputs = run(images)
        if task == "classification":
            probabilities = softmax(outputs["logits"])
            predicted = probabilities.argmax(axis=1)
            confidence = probabilities.max(axis=1)
            score = (predicted == targets).astype(np.float64)
            confusion = confusion_matrix(targets, predicted, classes)[None]
        else:
            predicted = outputs["mask"]
            confidence = outputs["confidence"].mean(axis=(1, 2)) / 255
            confusion = np.stack(
                [
                    confusion_matrix(target, mask, classes, ignore_index)
                    for target, mask in zip(targets, predicted, strict=True)
                ]
            )
            # An image of ignored pixels only has no class at all; nothing in it is wrong.
            score = _image_scores(confusion)
        predictions.append(predicted)
        confidences.append(confidence.astype(np.float32))
        scores.append(score)
        confusions.append(confusion)
    total = np.concatenate(confusions)
    return Answers(
        np.concatenate(predictions),
        np.concatenate(confidences),
        np.concatenate(scores),
        total if task == "segmentation" else total.sum(axis=0, keepdims=True),
    )


def _image_scores(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    iou = class_iou(confusions)
    known = ~np.isnan(iou)
    total = np.where(known, iou, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), 1.0)


def _accuracy(task: Task, answers: Answers) -> Estimate:
    if task == "classification":
        return accuracy(answers.scores > 0)
    return mean_iou(answers.confusions)


def _evidence(
    config: Verify,
    task: Task,
    reference: Answers,
    found: Answers,
    distance: float,
    latency: Latency,
) -> Evidence:
    measured = _accuracy(task, found)
    if task == "classification":
        drop = accuracy_drop(reference.scores > 0, found.scores > 0)
    else:
        drop = mean_iou_drop(reference.confusions, found.confusions)
    agreeing = agreement(reference.predictions, found.predictions)
    return Evidence(
        accuracy=measured,
        drop=drop,
        agreement=agreeing,
        samples_tolerance=_TOLERANCE_FLOOR + 2 * distance,
        latency=latency,
        gate=judge(config, measured, drop, agreeing),
    )


def _result(
    file: VariantFile, evidence: dict[str, Evidence], skipped: dict[str, str]
) -> VariantResult:
    content = file.path.read_bytes()
    return VariantResult(
        id=file.id,
        file=file.path.name,
        precision=file.precision,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        calibration_sha256=file.calibration_sha256,
        plan=file.plan,
        evidence=evidence,
        skipped=skipped,
    )


def _open(name: str, file: VariantFile, max_batch_size: int) -> Engine | str:
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


def _runner(engine: Engine) -> Run:
    return lambda images: engine.infer({IMAGE_INPUT: np.ascontiguousarray(images)})


def _choose_samples(samples: Samples) -> Pixels:
    """A few images spread evenly over the split."""
    chosen = np.linspace(0, len(samples) - 1, min(_SAMPLES, len(samples))).astype(np.intp)
    images, _ = samples.batch(chosen)
    return np.ascontiguousarray(images)


def _write_samples(path: Path, fp32_file: Path, images: Pixels) -> dict[str, Array]:
    """Writes the images and the FP32 file's answers to them, by tensor name; gives the answers."""
    engine = load_engine("onnxruntime", fp32_file, EngineOptions(threads=core_count()))
    try:
        answers = _runner(engine)(images)
    finally:
        engine.close()
    arrays: dict[str, Array] = {IMAGE_INPUT: images, **answers}
    np.savez(path, allow_pickle=False, **arrays)
    return answers


def _fastest(results: Sequence[VariantResult]) -> tuple[str, str] | None:
    """Variant and engine of those that passed which take the least time at the largest batch."""
    times = [
        (max(evidence.latency.milliseconds.items())[1], (result.id, engine))
        for result in results
        for engine, evidence in result.evidence.items()
        if evidence.gate.passed
    ]
    return min(times)[1] if times else None


def _write_pictures(path: Path, samples: Samples, answers: Answers) -> None:
    """The worst answers and, after them, some of the others, with the whole confusion matrix."""
    # Wrong before right, and among the wrong the surest first.
    order = np.lexsort((-answers.confidences, answers.scores))
    worst = order[: _PICTURES // 2]
    rest = np.sort(order[_PICTURES // 2 :])
    count = min(_PICTURES - len(worst), len(rest))
    others = rest[np.linspace(0, len(rest) - 1, count).astype(np.intp)] if count else rest
    chosen = np.concatenate([worst, others])
    images, targets = samples.batch(chosen)
    np.savez(
        path,
        allow_pickle=False,
        images=images,
        targets=_plain(targets),
        predictions=_plain(answers.predictions[chosen]),
        confidences=answers.confidences[chosen],
        scores=answers.scores[chosen],
        names=np.array([samples.names[i] for i in chosen]),
        confusion=answers.confusions.sum(axis=0),
    )


def _plain(targets: Targets) -> Array:
    return np.ascontiguousarray(targets)
