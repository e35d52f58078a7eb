"""From a model that is served to one with variants, a gate and a manifest beside it."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.files import sha256
from serving.base.machine.cpu import core_count
from serving.base.text import escaped
from serving.engines import Engine, EngineOptions, load_engine
from serving.images.tensor import ToTensor
from serving.repository.interface import TaskOutput
from serving.repository.manifest import Manifest, Provenance, Variant
from serving.repository.onnx_file import external_files
from training.data.class_names import as_classes_of
from training.data.samples import Dataset
from training.errors import DataError, ExportError, VerificationError
from training.evaluation.report.tables import evidence_document, evidence_row, print_table
from training.evaluation.verification import VariantResult
from training.pipeline.adopt.against_fp32 import AgainstFp32
from training.pipeline.adopt.against_labels import AgainstLabels
from training.pipeline.adopt.description import held_by
from training.pipeline.adopt.items import Data
from training.pipeline.adopt.judging import Yardstick, choose_samples, measure
from training.pipeline.adopt.mixing import Mixing
from training.pipeline.adopt.plan import Plan, Request, key_of
from training.pipeline.adopt.publishing import Staging, publish, sign, staging, tidy
from training.pipeline.adopt.served import RECIPE, ServedModel
from training.pipeline.adopt.variants import CalibrationRuns, make_variants
from training.recipes.tasks import MEASURE_TITLES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adopted:
    """The outcome.

    published: False where nothing had changed.
    results: of every variant that was measured.
    mixed: a sentence on each variant in mixed precision, by its id.
    refused: the reason for each variant that is not served, by its id.
    """

    plan: Plan
    published: bool
    measure: str
    results: tuple[VariantResult, ...]
    mixed: Mapping[str, str]
    refused: Mapping[str, str]

    def rows(self) -> list[dict[str, str]]:
        """A row for each variant and engine, ready to be shown."""
        title = MEASURE_TITLES[self.measure]
        return [
            evidence_row(result, engine, evidence, title)
            for result in self.results
            for engine, evidence in result.evidence.items()
        ]

    def document(self) -> dict[str, Any]:
        """The outcome for --json."""
        model = self.plan.model
        return {
            "model": model.config.name,
            "version": model.version,
            "published": self.published,
            "measure": self.measure,
            "variants": [
                evidence_document(result, engine, evidence)
                for result in self.results
                for engine, evidence in result.evidence.items()
            ],
            "mixed": dict(self.mixed),
            "refused": dict(self.refused),
        }

    def show(self) -> None:
        """Prints the outcome."""
        model = self.plan.model
        if self.published:
            print_table(model.config.name, self.rows())
        lines = [f"{variant}: {said}" for variant, said in self.mixed.items()]
        lines += [f"{variant} is not served: {reason}" for variant, reason in self.refused.items()]
        lines.append(
            f"Published beside {model.file}"
            if self.published
            else "Nothing has changed, so nothing was written."
        )
        sys.stdout.write("".join(escaped(line) + "\n" for line in lines))


def adopt(request: Request, planned: Plan, key: Ed25519PrivateKey | None = None) -> Adopted:
    """Makes, measures and publishes the variants; `key` signs the version. Raises BuildError where
    none can be served, the FP32 file as it is included; then nothing is changed."""
    former = planned.model.former
    if planned.done and former is not None:
        tidy(planned.model)
        if key is not None:
            sign(planned.model, key)
        return Adopted(planned, False, former.measure, (), {}, former.refused)
    try:
        reference = load_engine(
            "onnxruntime", planned.model.file, EngineOptions(threads=core_count())
        )
    except EngineUnavailable as error:
        raise ExportError(error.detail) from error
    try:
        with staging(planned.model) as place:
            return _adopt(request, planned, reference, place, key)
    except EngineError as error:
        raise ExportError(
            f"{planned.model.file}: does not run on the data: {error.detail}"
        ) from error
    finally:
        reference.close()


def _adopt(
    request: Request,
    planned: Plan,
    reference: Engine,
    place: Staging,
    key: Ed25519PrivateKey | None,
) -> Adopted:
    model, data = planned.model, planned.data
    samples = choose_samples(reference, model, data.measured)
    answer = planned.answer
    if answer is not None and request.holds is None and answer.holds == "logits":
        answer = held_by(answer, samples.answers[answer.output])
        log.info("adopt: output %s holds %s", answer.output, answer.holds)
    bounds, task = request.bounds, request.task
    measured, calibrated = (
        AgainstFp32(reference, model, items, samples, bounds, task, answer)
        for items in (data.measured, data.calibration)
    )
    yardstick: Yardstick = measured
    trial: Yardstick = calibrated
    classes, labelled = planned.classes, data.labelled
    if labelled is not None and answer is not None and task is not None:
        assert planned.described.image is not None, "a task is done on images"
        labelled, classes = _in_numbers_of(planned, labelled, answer, samples.answers)
        to_tensor = ToTensor(planned.described.image, model.inputs[0])
        yardstick, trial = (
            AgainstLabels(reference, model, part, bounds, task, answer, to_tensor, place.folder)
            for part in (labelled, replace(labelled, test=labelled.train))
        )
    mixing = Mixing(
        reference, model, trial, calibrated, len(data.calibration), request.max_float, place.folder
    )
    runs = CalibrationRuns(data.calibration, model)
    files, mixed, refused = make_variants(
        model, request.variants, runs, request.calibrate, mixing, place.folder
    )
    for variant, reason in refused.items():
        log.warning("adopt: %s refused: %s", variant, reason)
    results = [measure(file, model, yardstick, samples) for file in files]
    passed = [result for result in results if result.passed]
    _require_fp32(model, results)
    refused |= {result.id: _why_not(result) for result in results if not result.passed}
    manifest = _manifest(
        request, planned, answer, classes, yardstick.measure, passed, refused, data
    )
    if key_of(request, model, data) != planned.key:
        raise ExportError(f"{model.path}: changed while it was adopted, nothing is published")
    chosen = {result.id for result in passed}
    paths = [file.path for file in files if file.id in chosen]
    publish(model, manifest, paths, samples, place, key)
    return Adopted(planned, True, yardstick.measure, tuple(results), mixed, refused)


def _require_fp32(model: ServedModel, results: list[VariantResult]) -> None:
    fp32 = next(result for result in results if result.id == "fp32")
    if not fp32.passed:
        raise VerificationError(f"{model.file}: nothing is published: fp32: {_why_not(fp32)}")


def _why_not(result: VariantResult) -> str:
    judged = {name: found.gate.reason for name, found in result.evidence.items()}
    reasons = [f"{name}: {reason}" for name, reason in (judged or result.skipped).items()]
    return "; ".join(reasons) or "no engine here runs it"


def _in_numbers_of(
    planned: Plan, data: Dataset, answer: TaskOutput, answers: Mapping[str, Any]
) -> tuple[Dataset, tuple[str, ...]]:
    """The data set with the network's classes, and their names: by name where they are known, else
    in their order where the data has as many. Raises DataError."""
    if answer.holds == "embedding":
        return data, ()
    if planned.classes:
        try:
            return as_classes_of(data, planned.classes, "the list of its classes"), planned.classes
        except DataError as error:
            raise DataError(f"{error}; --unlabelled compares with FP32 instead") from error
    values = answers[answer.output]
    if answer.holds == "classes":
        return data, data.classes
    if values.ndim < 4:
        count = values[0].size
    else:
        count = values.shape[-3] if answer.layout == "NCHW" else values.shape[-1]
    if max(2, count) != len(data.classes):
        raise DataError(
            f"the data has {len(data.classes)} classes, output {answer.output!r} {count}, and "
            "nothing names them: give --classes FILE, one a line, or --unlabelled to compare with "
            "FP32 instead"
        )
    return data, data.classes


def _manifest(
    request: Request,
    planned: Plan,
    answer: TaskOutput | None,
    classes: tuple[str, ...],
    measured_by: str,
    passed: list[VariantResult],
    refused: Mapping[str, str],
    data: Data,
) -> Manifest:
    model = planned.model
    return Manifest.model_validate(
        {
            "task": request.task,
            "architecture": model.graph.graph.name or model.path.name,
            "measure": measured_by,
            "transform": planned.described.transform,
            "classes": classes,
            "parameters": model.parameters,
            "gmacs": None,
            "provenance": Provenance(
                recipe=RECIPE,
                recipe_sha256=planned.key,
                run=f"{RECIPE}/{planned.key[:12]}",
                dataset=data.description,
                split=f"{len(data.measured)} items",
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            ),
            "variants": tuple(_variant(model, result) for result in passed),
            "refused": refused,
            "interface": planned.described.interface(answer),
        }
    )


def _variant(model: ServedModel, result: VariantResult) -> Variant:
    own = result.file == model.file.name
    weights = external_files(model.file) if own else {}
    return Variant(
        id=result.id,
        file=result.file,
        sha256=result.sha256,
        data={name: sha256(model.file.parent / name) for name in weights},
        precision=result.precision,
        evidence=result.evidence,
        calibration_sha256=result.calibration_sha256,
    )
