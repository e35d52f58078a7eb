"""From the findings of the verify stage, and the version that was published before, to parts of a
report."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from serving.base.errors import InvalidManifest
from serving.base.evaluation import Estimate
from serving.base.task import Measure
from serving.repository.manifest import Evidence, Manifest, read_manifest
from training.evaluation.report.measured import (
    MATRIX_CLASSES,
    MOST_CLASSES,
    MOST_PAIRS,
    Answer,
    Classes,
    ClassRow,
    Confused,
    Matrix,
    Measured,
    Pairs,
    Previous,
    Ranked,
    Reliability,
    Size,
    Verified,
    as_name,
    as_text,
)
from training.evaluation.verification import Identification, Measures, Verification
from training.recipes import Recipe
from training.recipes.tasks import MEASURE_TITLES, TRAINED_TASKS

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]

# Curves of one picture that an eye can follow.
_NAMED_CURVES = 7


def known(value: float | None) -> float | None:
    return float(value) if value is not None and isfinite(value) else None


def curve(values: Iterable[float]) -> tuple[float | None, ...]:
    """A row of numbers, to six digits; nan, where there is nothing to measure, becomes None."""
    return tuple(float(f"{x:.6g}") if isfinite(x) else None for x in values)


def _evidence(found: Evidence) -> Evidence:
    """Without measures that are no numbers: there was nothing to measure."""
    kept = {
        key: value
        for key, value in found.measures.items()
        if isfinite(value.value if isinstance(value, Estimate) else value)
    }
    drops = {as_name(key): value for key, value in found.class_drops.items() if isfinite(value)}
    return found.model_copy(update={"measures": kept, "class_drops": drops})


def verified_part(
    recipe: Recipe, verification: Verification, evaluated: Mapping[str, Any], pictures: Arrays
) -> Verified:
    names = [as_name(one) for one in evaluated["classes"]]
    skipped: dict[str, list[str]] = {}
    for result in verification.variants:
        for engine, reason in result.skipped.items():
            skipped.setdefault(as_text(f"{engine}: {reason}"), []).append(result.id)
    identification, measures = verification.identification, verification.measures
    return Verified(
        dataset=as_text(evaluated["dataset"]),
        images=evaluated["images"],
        machine=as_text(verification.machine),
        baseline=verification.baseline,
        baseline_engine=verification.baseline_engine,
        baseline_latency=verification.baseline_latency,
        baseline_bytes=verification.baseline_bytes,
        baseline_size=Size.model_validate(verification.baseline_size.model_dump()),
        network_size=Size.model_validate(verification.network_size.model_dump()),
        entries=tuple(
            Measured(
                variant=result.id,
                engine=engine,
                precision=result.precision,
                size_bytes=result.size_bytes,
                evidence=_evidence(evidence),
            )
            for result in verification.variants
            for engine, evidence in result.evidence.items()
        ),
        shown=verification.pictured,
        skipped={reason: tuple(variants) for reason, variants in skipped.items()},
        classes=None if measures is None else _classes(recipe, measures, pictures, names),
        pairs=None if identification is None else _pairs(identification, pictures),
        answers=tuple(_answers(verification.measure, pictures, names, evaluated["ignore_index"])),
    )


def _classes(recipe: Recipe, found: Measures, pictures: Arrays, names: Sequence[str]) -> Classes:
    spec = TRAINED_TASKS[recipe.task]
    rows = [
        ClassRow.model_validate(
            {key: known(value) for key, value in row.model_dump(exclude={"name"}).items()}
            | {"name": label, "support": row.support}
        )
        for label, row in zip(names, found.classes, strict=True)
    ]
    if len(rows) > MOST_CLASSES:
        key = "iou" if spec.class_measure == "IoU" else "recall"
        measured = [row for row in rows if row.support and getattr(row, key) is not None]
        rows = sorted(measured, key=lambda row: getattr(row, key))[:MOST_CLASSES]
    confusion = pictures["confusion"]
    return Classes(
        count=len(names),
        unit=spec.counted,
        beta=found.beta,
        top5=found.top5,
        expected_calibration_error=known(found.expected_calibration_error) or 0.0,
        rows=tuple(rows),
        matrix=Matrix(classes=tuple(names), counts=tuple(map(tuple, confusion.tolist())))
        if len(names) <= MATRIX_CLASSES
        else None,
        confused=_most_confused(confusion, names),
        reliability=Reliability(
            accuracy=curve(pictures["bin_accuracy"]), count=curve(pictures["bin_count"])
        ),
        ranked=tuple(_ranked(found, pictures, names)),
    )


def _most_confused(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[Confused, ...]:
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    totals = np.maximum(confusion.sum(axis=1), 1)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = np.stack(np.unravel_index(order, mistakes.shape), axis=1)
    return tuple(
        Confused(
            true=names[row],
            answer=names[column],
            count=int(mistakes[row, column]),
            share=float(mistakes[row, column] / totals[row]),
        )
        for row, column in pairs
        if mistakes[row, column]
    )


def _ranked(found: Measures, pictures: Arrays, names: Sequence[str]) -> Iterable[Ranked]:
    """Of each class, of many those with the lowest average precision; then the mean of all. None
    where no class has both examples and others."""
    if "precision" not in pictures:
        return
    areas = [row.average_precision for row in found.classes]
    having = [index for index, value in enumerate(areas) if value is not None]
    lowest = sorted(having, key=lambda index: areas[index] or 0.0)[:_NAMED_CURVES]
    for index in sorted(lowest):
        yield Ranked(
            name=names[index],
            precision=curve(pictures["precision"][index]),
            recall=curve(pictures["recall"][index]),
        )
    if len(having) > 1:
        yield Ranked(
            name="mean of all",
            precision=curve(pictures["precision"][having].mean(axis=0)),
            recall=curve(pictures["recall"][having].mean(axis=0)),
        )


def _pairs(found: Identification, pictures: Arrays) -> Pairs:
    return Pairs(
        same=curve(pictures["genuine"]),
        other=curve(pictures["impostor"]),
        auc=found.auc,
        false_accept_rates=curve(found.false_accept_rates),
        true_accept_rates=curve(found.true_accept_rates),
        match_rates=found.match_rates,
    )


def _answers(
    measure: Measure, arrays: Arrays, names: Sequence[str], ignored: int | None
) -> Iterable[Answer]:
    """The answers that are pictured, in the order of their pictures."""
    for index, image in enumerate(arrays["names"]):
        truth, answer = TOLD[measure](arrays, index, names, ignored)
        best: list[tuple[str, float]] = []
        if "best_classes" in arrays:
            labels, shares = arrays["best_classes"][index], arrays["best_shares"][index]
            best = [(names[int(n)], float(s)) for n, s in zip(labels, shares, strict=True)]
        yield Answer(
            name=as_name(str(image)),
            truth=as_text(truth),
            answer=as_text(answer),
            confidence=known(float(arrays["confidences"][index])) or 0.0,
            score=known(float(arrays["scores"][index])) or 0.0,
            best=tuple(best[:5]),
        )


def _class_told(
    arrays: Arrays, index: int, names: Sequence[str], ignored: int | None
) -> tuple[str, str]:
    return names[int(arrays["targets"][index])], names[int(arrays["predictions"][index])]


def _match_told(
    arrays: Arrays, index: int, names: Sequence[str], ignored: int | None
) -> tuple[str, str]:
    return "", as_name(str(arrays["matches"][index]))


def _masks_told(
    arrays: Arrays, index: int, names: Sequence[str], ignored: int | None
) -> tuple[str, str]:
    target = arrays["targets"][index]
    counted = target if ignored is None else target[target != ignored]
    return _seen(counted, names), _seen(arrays["predictions"][index], names)


TOLD: dict[Measure, Callable[[Arrays, int, Sequence[str], int | None], tuple[str, str]]] = {
    "top1": _class_told,
    "rank1": _match_told,
    "miou": _masks_told,
    "iou": _masks_told,
}
"""The truth and the answer of a picture, in words, by the measure."""


def _seen(mask: NDArray[Any], names: Sequence[str]) -> str:
    """The classes of a mask, without the background where there are others."""
    found = [names[value] for value in np.unique(mask) if 0 < value < len(names)]
    return ", ".join(found) or names[0]


def previous_part(
    model: Path,
    version: int | None,
    measure: Measure,
    verified: Verified | None,
    findings: Mapping[str, Any],
) -> Previous | None:
    """The newest version below `version`, or the newest of all, whose manifest can be read."""
    if verified is None or not model.is_dir():
        return None
    numbers = [int(path.name) for path in model.iterdir() if path.name.isdecimal()]
    for number in sorted(numbers, reverse=True):
        if version is not None and number >= version:
            continue
        try:
            manifest = read_manifest(model / str(number))
            if manifest is not None:
                other = _other_data(manifest, measure, verified, findings.get("sha256", ""))
                return _previous(model / str(number), number, manifest, other)
        except (InvalidManifest, ValidationError):
            log.warning(
                "report: %s cannot be compared: its manifest cannot be read", model / str(number)
            )
    return None


def _previous(folder: Path, number: int, manifest: Manifest, other: str) -> Previous:
    """Raises ValidationError where its figures are none that could be drawn."""
    return Previous(
        version=number,
        created=as_name(manifest.provenance.created),
        other=other,
        entries=tuple(
            Measured(
                variant=as_name(variant.id),
                engine=as_name(engine),
                precision=variant.precision,
                size_bytes=_bytes_of(variant.path_in(folder)),
                evidence=_evidence(evidence),
            )
            for variant in manifest.variants
            for engine, evidence in variant.evidence.items()
        ),
    )


def _other_data(manifest: Manifest, measure: Measure, verified: Verified, sha256: str) -> str:
    """Why the accuracy of a version is of other images; empty where it is of the same."""
    made = manifest.provenance
    if manifest.measure != measure:
        theirs, ours = MEASURE_TITLES[manifest.measure], MEASURE_TITLES[measure]
        return as_text(f"it was measured by {theirs}, this build by {ours}")
    if not made.data_sha256 or made.data_sha256 != sha256:
        if (made.dataset, made.split) != (verified.dataset, f"test, {verified.images} images"):
            return as_text(f"it was measured on {made.dataset} ({made.split})")
        return "its data are called the same, but were not recorded, or are other files or splits"
    return ""


def _bytes_of(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None
