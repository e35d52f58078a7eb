"""Ablation: rows of changes, each trained with the same seeds, compared with the first row."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from training.errors import RecipeError
from training.pipeline.study.definition import Ablation
from training.pipeline.study.outcome import Outcome
from training.pipeline.study.trials import Trials, same_training

log = logging.getLogger(__name__)

CONFIDENCE = 0.95
# Rows that the answer of a study names.
_NAMED = 3


def ablation(config: Ablation, trials: Trials, where: str) -> Outcome:
    """Trains every row with every seed, as far as that is not done yet.

    Raises RecipeError, beginning with `where`, before the first training where a row cannot be
    built or is trained as the first row is.
    """
    _check(config, trials, f"{where}: ablation.rows")
    scores: dict[str, list[float]] = {name: [] for name in config.rows}
    seconds = dict.fromkeys(config.rows, 0.0)
    # Seed by seed: a study that is cut short has all rows with the same seeds.
    for seed in config.seeds:
        for name, overrides in config.rows.items():
            log.info("%s: seed %d", name, seed)
            recipe = trials.recipe({**overrides, "seed": seed}, name)
            trained = trials.train(recipe, f"{name}/seed-{seed}")
            scores[name].append(trained.score)
            seconds[name] += trained.seconds
            log.info("%s: seed %d: %.2f %%", name, seed, 100 * trained.score)
    first = next(iter(scores))
    rows, documents = [], []
    for name, values in scores.items():
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        difference = None if name == first else paired_difference(values, scores[first])
        rows.append(
            {
                "row": name,
                "n": str(len(values)),
                "mean %": f"{100 * mean:.2f}",
                "std, points": f"{100 * deviation:.2f}",
                f"minus {first}, points": "" if difference is None else _points(difference),
                "seconds": f"{seconds[name]:.0f}",
            }
        )
        documents.append(
            {
                "row": name,
                "overrides": dict(config.rows[name]),
                "scores": dict(zip(map(str, config.seeds), values, strict=True)),
                "mean": mean,
                "std": deviation,
                "difference": difference,
                "seconds": round(seconds[name], 2),
            }
        )
    return Outcome(
        title=f"ablation, {len(scores)} rows, {len(config.seeds)} seeds",
        answer=_answer(documents),
        rows=rows,
        note=(
            f"Validation {trials.measure} over n seeds: mean, sample standard deviation, and the "
            f"mean difference to {first} with its {CONFIDENCE:.0%} Student t interval, paired by "
            "seed. The split is the same throughout, so this is the spread of training, not of "
            "the data; intervals are not corrected for the number of rows."
        ),
        document={"measure": trials.measure, "confidence": CONFIDENCE, "rows": documents},
        scores=scores,
    )


def _answer(documents: Sequence[Mapping[str, Any]]) -> str:
    """Which rows differ from the first one by more than chance."""
    first, *others = documents
    differing = [one for one in others if one["difference"][1] > 0 or one["difference"][2] < 0]
    if not differing:
        return f"No row differs from {first['row']} beyond chance"
    differing.sort(key=lambda one: -abs(one["difference"][0]))
    found = "; ".join(f"{one['row']} {_points(one['difference'])}" for one in differing[:_NAMED])
    more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    return f"Against {first['row']}, in points: {found}{more}"


def _check(config: Ablation, trials: Trials, where: str) -> None:
    recipes = {name: trials.recipe(row, f"{where}.{name}") for name, row in config.rows.items()}
    first, *others = recipes
    for name in others:
        if same_training(recipes[first], recipes[name]):
            raise RecipeError(
                f"{where}.{name}: changes nothing that the train stage reads; it is {first} again"
            )


def paired_difference(
    values: Sequence[float], reference: Sequence[float]
) -> tuple[float, float, float]:
    """Mean of values - reference, paired by place, with the low and high end of its Student t
    interval (mean ± t · s / √n, n - 1 degrees of freedom)."""
    differences = np.asarray(values) - np.asarray(reference)
    mean, count = float(differences.mean()), len(differences)
    spread = float(differences.std(ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread
    return mean, mean - reach, mean + reach


def _points(difference: tuple[float, float, float]) -> str:
    mean, low, high = (100 * value for value in difference)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
