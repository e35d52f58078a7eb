"""One HTML file a person can read: the recipe, the accuracy, the mistakes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from training.evaluation.report.answer_figures import answer_pictures
from training.evaluation.report.compression_figures import pareto_picture, sensitivity_picture
from training.evaluation.report.data_figures import data_pictures
from training.evaluation.report.embedding_figures import embedding_pictures
from training.evaluation.report.figures import (
    Picture,
    calibration,
    class_pictures,
    ranking_curves,
    training_curves,
)
from training.evaluation.report.tables import measure_rows, variant_rows
from training.evaluation.searched import Searched
from training.evaluation.verification import Verification
from training.fitting.lightning_module import History
from training.recipes import Recipe
from training.recipes.tasks import MEASURE_TITLES, TRAINED_TASKS

# Pairs of classes that are listed since a matrix of many classes does not show them.
_CONFUSED_PAIRS = 15


def write_report(
    path: Path,
    *,
    recipe: Recipe,
    environment: Mapping[str, Any],
    findings: Mapping[str, Any],
    sheet: Path,
    histories: Mapping[str, History],
    sensitivities: Mapping[str, Sequence[Mapping[str, Any]]],
    notes: Sequence[str],
    searched: Searched | None,
    seconds: Mapping[str, float],
    verification: Verification | None,
    evaluated: Mapping[str, Any],
    pictures: Path,
) -> None:
    """Writes the report of a run; parts whose stage has not run yet are left out.

    findings, sheet: of the data stage.
    evaluated, pictures: of the verify stage.
    """
    templates = Environment(
        loader=PackageLoader("training.evaluation.report"),
        autoescape=True,  # by its ending, a template would be no HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with np.load(sheet) as arrays:
        data = data_pictures(findings, dict(arrays))
    curves = [training_curves(stage, history) for stage, history in histories.items() if history]
    layers = [
        sensitivity_picture(stage, found) for stage, each in sensitivities.items() for found in each
    ]
    answers: list[Picture] = []
    classes: list[Picture] = []
    confused: list[tuple[str, str, str]] = []
    if verification is not None:
        with np.load(pictures) as loaded:
            arrays = dict(loaded)
        names = evaluated["classes"]
        if verification.identification is not None:
            classes = embedding_pictures(arrays, verification.identification)
        else:
            classes = class_pictures(recipe.task, arrays["confusion"], names)
            confused = _most_confused(arrays["confusion"], names)
        found = verification.measures
        if found is not None:
            unit = "pixels" if TRAINED_TASKS[recipe.task].counted == "pixels" else "answers"
            classes.append(calibration(arrays, found.expected_calibration_error, unit))
            if "precision" in arrays:
                precisions = [row.average_precision for row in found.classes]
                classes += ranking_curves(arrays, names, precisions)
        answers = answer_pictures(verification.measure, arrays, evaluated)
    html = templates.get_template("report.html.j2").render(
        recipe=recipe,
        recipe_text=yaml.safe_dump(
            recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
        ),
        environment=environment,
        findings=findings,
        data_pictures=data,
        seconds=seconds,
        verification=verification,
        evaluated=evaluated,
        measure=MEASURE_TITLES[verification.measure] if verification is not None else "",
        rows=variant_rows(verification) if verification is not None else [],
        measures=measure_rows(verification) if verification is not None else [],
        skipped=_skipped(verification) if verification is not None else {},
        curves=curves,
        layer_pictures=layers,
        notes=notes,
        search_picture=pareto_picture(searched) if searched is not None else None,
        class_pictures=classes,
        confused=confused,
        answer_pictures=answers,
    )
    path.write_text(html, encoding="utf-8")


def _skipped(verification: Verification) -> dict[str, list[str]]:
    """The variants that were not measured, by engine and reason."""
    skipped: dict[str, list[str]] = {}
    for result in verification.variants:
        for engine, reason in result.skipped.items():
            skipped.setdefault(f"{engine}: {reason}", []).append(result.id)
    return skipped


def _most_confused(confusion: NDArray[np.int64], classes: list[str]) -> list[tuple[str, str, str]]:
    """True class, predicted class, and the share of the true class that this happens to."""
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    totals = np.maximum(confusion.sum(axis=1), 1)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_CONFUSED_PAIRS]
    pairs = np.stack(np.unravel_index(order, mistakes.shape), axis=1)
    return [
        (classes[row], classes[column], f"{100 * mistakes[row, column] / totals[row]:.1f}")
        for row, column in pairs
        if mistakes[row, column]
    ]
