"""Ablations and cross-validations: what is trained, and the numbers that come of it."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from scipy import stats

from training.errors import RecipeError
from training.pipeline.study.ablation import paired_difference
from training.pipeline.study.run import Studied

RunStudy = Callable[..., Studied]


def scores_in(folder: Path) -> list[float]:
    """The best validation score of a training, as its own folder tells it."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return [row["val_top1"] for row in metrics["train"]["history"]]


def test_ablation_compares_rows_over_the_same_seeds(studied: RunStudy, tmp_path: Path) -> None:
    rows: dict[str, Any] = {"plain": {}, "small-batch": {"train.batch_size": 4}}
    done = studied({"ablation": {"seeds": [0, 5], "rows": rows}}, epochs=2)
    folder = tmp_path / "runs" / "colours" / "studies" / "study"
    measured = {
        name: [max(scores_in(folder / name / f"seed-{seed}")) for seed in (0, 5)] for name in rows
    }
    plain, small = done.outcome.document["rows"]
    assert plain["scores"] == dict(zip(("0", "5"), measured["plain"], strict=True))
    assert small["mean"] == pytest.approx(mean(measured["small-batch"]))
    assert small["std"] == pytest.approx(stdev(measured["small-batch"]))
    assert plain["difference"] is None
    assert small["difference"][0] == pytest.approx(small["mean"] - plain["mean"])
    assert [row["n"] for row in done.outcome.rows] == ["2", "2"]
    assert "95% Student t interval" in done.outcome.note

    # A row more trains that row only.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("train/done.json")}
    rows["adamw"] = {"train.optimizer": {"name": "adamw", "lr": 0.01}}
    more = studied({"ablation": {"seeds": [0, 5], "rows": rows}}, epochs=2)
    assert more.outcome.document["rows"][:2] == [plain, small]
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("train/done.json")}
    assert len(after) == len(before) + 2
    assert {path: after[path] for path in before} == before


def test_paired_difference_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    values, reference = rng.normal(0.9, 0.02, 6), rng.normal(0.88, 0.02, 6)
    interval = stats.ttest_rel(values, reference).confidence_interval(0.95)
    found = paired_difference(list(values), list(reference))
    assert found == pytest.approx((float((values - reference).mean()), interval.low, interval.high))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"train.epoch": 2}, "train.epoch=2: train.epoch: unknown key; did you mean 'epochs'?"),
        ({"verify.max_drop": 0.5}, "changes nothing that the train stage reads; it is plain again"),
        ({"model.name": "resnet21"}, "unknown model 'resnet21'"),
    ],
)
def test_row_is_checked_before_the_first_training(
    studied: RunStudy, tmp_path: Path, row: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RecipeError) as error:
        studied({"ablation": {"seeds": [0, 1], "rows": {"plain": {}, "other": row}}})
    assert expected in str(error.value)
    assert f"{tmp_path / 'study.yaml'}: ablation.rows.other" in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_cross_validation_scores_every_image_once(studied: RunStudy, tmp_path: Path) -> None:
    done = studied({"cross_validation": {"folds": 3, "seed": 1}}, epochs=1)
    folder = tmp_path / "runs" / "colours" / "studies" / "study"
    scores = [max(scores_in(folder / f"fold-{index}")) for index in range(3)]
    folds = done.outcome.document["folds"]
    assert [fold["score"] for fold in folds] == scores
    assert done.outcome.document["mean"] == pytest.approx(mean(scores))
    assert done.outcome.document["std"] == pytest.approx(stdev(scores))
    # 48 images, of which the test split keeps a fifth of each class, rounded up.
    assert [sum(fold["images"]) for fold in folds] == [36, 36, 36]
    assert sum(fold["images"][1] for fold in folds) == 36
    last = done.outcome.rows[-1]
    assert last["score %"] == f"{100 * mean(scores):.2f} ± {100 * stdev(scores):.2f}"
