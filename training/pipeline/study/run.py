"""From a recipe and a study file to trainings, a table, a page and the best recipe."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serving.base.files import write_whole
from training.evaluation.report.page import render
from training.pipeline.environment import environment
from training.pipeline.study.ablation import ablation
from training.pipeline.study.cross_validation import cross_validation
from training.pipeline.study.definition import StudyDefinition
from training.pipeline.study.outcome import Outcome
from training.pipeline.study.search import search
from training.pipeline.study.trials import Trials
from training.recipes import parse_recipe


@dataclass(frozen=True)
class Studied:
    """A study that is done, and its files; `best` is a recipe to build, of a search only."""

    outcome: Outcome
    report: Path
    best: Path | None


def run_study(
    document: dict[str, Any], definition: StudyDefinition, study: Path, out: Path
) -> Studied:
    """Runs what is left of a study on a recipe, given as plain dicts, in OUT/NAME/studies/STUDY;
    STUDY is the name of the file `study` without its suffix.

    Raises RecipeError before the first training where one of them could not be built, DataError,
    and BuildError where none came to its end.
    """
    name = parse_recipe(document).name
    folder = out / name / "studies" / study.stem
    outcome = _run(definition, Trials(document, folder), str(study))
    text = json.dumps(outcome.document, indent=2) + "\n"
    write_whole(folder / "study.json", text.encode())
    best = None
    if outcome.best is not None:
        best = folder / "best.yaml"
        write_whole(best, _yaml(outcome.best).encode())
    report = folder / "report.html"
    asked = definition.model_dump(mode="json", exclude_none=True)
    write_whole(report, study_page(outcome, name, asked, document).encode())
    return Studied(outcome, report, best)


def _run(definition: StudyDefinition, trials: Trials, where: str) -> Outcome:
    if definition.search is not None:
        return search(definition.search, trials, where)
    if definition.ablation is not None:
        return ablation(definition.ablation, trials, where)
    if definition.cross_validation is not None:
        return cross_validation(definition.cross_validation, trials, where)
    raise ValueError("a study of no kind")


def study_page(outcome: Outcome, name: str, study: dict[str, Any], document: dict[str, Any]) -> str:
    """The page of a study on the recipe `document`, as HTML."""
    return render(
        "study.html.j2",
        study=name,
        outcome=outcome,
        scale=_scale(outcome),
        environment=environment(),
        texts={
            "Recipe of the best trial": _yaml(outcome.best) if outcome.best else "",
            "Study": _yaml(study),
            "Recipe": _yaml(document),
        },
    )


def _scale(outcome: Outcome) -> tuple[float, float]:
    """The lowest and the highest score."""
    scores = [score for row in outcome.scores.values() for score in row]
    return min(scores, default=0.0), max(scores, default=1.0)


def _yaml(document: Any) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
