"""The page of one run, and the document behind it."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from serving.repository.manifest import Evidence
from training.evaluation.report import images, plots
from training.evaluation.report.document import Report
from training.evaluation.report.measured import Measured
from training.evaluation.report.page import render
from training.evaluation.report.report_file import PAGE_FILE, REPORT_FILE, write_json
from training.evaluation.report.summary import batch_sizes, headline, rows_of
from training.evaluation.report.svg import Plot
from training.recipes.tasks import MEASURE_TITLES, TRAINED_TASKS

# Characters of a recipe; those of people have a few thousand.
_RECIPE_LENGTH = 60_000
# Columns of the table of further measures; tasks have up to ten.
_MEASURES = 24
# What further measures are, under their table.
_EXPLAINED = {
    "ods": "ods: F-measure of the outlines at the best threshold for all images",
    "ois": "ois: at the best threshold for each image",
    "ods_threshold": "ods_threshold: the former threshold, of the probability",
    "tar@far=0.01": "tar@far=0.01: accepted pairs of one identity where 1 % of the others are",
    "eer": "eer: the rate at which as many are wrongly accepted as refused",
    "auc": "auc: area under the ROC of pairs",
    "rank5": "rank5, rank10: probes with their identity among the nearest 5, 10",
    "cosine": "cosine: mean similarity with the FP32 network's embedding of the same image",
}
_SECTIONS = {
    "variants": "Accuracy against latency",
    "search": "Search",
    "classes": "Classes",
    "pairs": "Pairs",
    "answers": "Answers",
    "calibration": "Calibration",
    "training": "Training",
    "compression": "Compression",
    "data": "Data",
    "made": "How it was made",
}


def write_report(
    folder: Path,
    report: Report,
    sheet: images.Arrays,
    pictures: images.Arrays,
    evaluated: Mapping[str, Any],
) -> Path:
    """Writes report.json and report.html into a run folder; gives the page's path.

    sheet: examples of the data stage.
    pictures, evaluated: images and findings of the verify stage; empty where it has not run.
    """
    write_json(folder / REPORT_FILE, report)
    pictured = images.answers(
        report, pictures, evaluated.get("classes", ()), evaluated.get("ignore_index")
    )
    page = folder / PAGE_FILE
    partial = page.with_name(page.name + ".partial")
    partial.write_text(report_page(report, pictured, images.examples(report, sheet)), "utf-8")
    partial.replace(page)
    return page


def report_page(
    report: Report,
    pictured: Sequence[images.Pictured] = (),
    examples: Sequence[tuple[str, int, images.Pane]] = (),
) -> str:
    """The page as HTML: all numbers are those of the report."""
    found, rows = report.verified, rows_of(report)
    classes = found.classes if found is not None else None
    reliability_plots: list[Plot] = []
    ranked_plots: list[Plot] = []
    if classes is not None:
        reliability_plots = plots.reliability(
            classes.reliability,
            classes.expected_calibration_error,
            "pixels" if classes.unit == "pixels" else "answers",
        )
        ranked_plots = plots.ranked(classes.ranked, classes.count)
    pairs = found.pairs if found is not None else None
    training_plots = list(chain.from_iterable(map(plots.training, report.training)))
    shown = {
        "variants": found,
        "search": report.searched,
        "classes": classes,
        "pairs": pairs,
        "answers": pictured,
        "calibration": reliability_plots,
        "training": training_plots,
        "compression": report.notes or report.sensitivities,
        "data": True,
        "made": True,
    }
    more = [one.evidence.measures for one in found.entries] if found is not None else []
    measured_more = list(dict.fromkeys(chain.from_iterable(more)))[:_MEASURES]
    return render(
        "report.html.j2",
        report=report,
        answer=headline(report),
        contents=[(key, words) for key, words in _SECTIONS.items() if shown[key]],
        measure=MEASURE_TITLES[report.measure],
        class_measure=TRAINED_TASKS[report.task].class_measure,
        rows=rows,
        judged=_judged(found.entries) if found is not None else [],
        sizes=batch_sizes(rows),
        tradeoff=plots.tradeoff(report, rows),
        measured_more=measured_more,
        explained=[_EXPLAINED[key] for key in measured_more if key in _EXPLAINED],
        ranked_plots=ranked_plots,
        pair_plots=plots.pairs(pairs) if pairs is not None else [],
        pictured=pictured,
        reliability_plots=reliability_plots,
        training_plots=training_plots,
        largest_class=max((row.train for row in report.data.classes), default=0) or 1,
        examples=examples,
        recipe=yaml.safe_dump(dict(report.recipe), sort_keys=False, allow_unicode=True)[
            :_RECIPE_LENGTH
        ],
    )


def _judged(entries: Sequence[Measured]) -> list[tuple[list[str], Evidence]]:
    """The gate's verdicts; variants of which it says the same share one."""
    alike: dict[str, tuple[list[str], Evidence]] = {}
    for one in entries:
        key = f"{one.evidence.gate}{one.evidence.class_drops}"
        alike.setdefault(key, ([], one.evidence))[0].append(one.title)
    return list(alike.values())
