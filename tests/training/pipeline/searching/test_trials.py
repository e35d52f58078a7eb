"""Trials that are passed over or stopped, and what is measured before any fine-tuning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.base.errors import EngineUnavailable
from training.errors import BuildError, TargetNotReached
from training.evaluation.report.report_file import read_report
from training.evaluation.searched import Point
from training.models import count_macs, count_parameters
from training.models.checkpoint import load_network
from training.pipeline.bound import Bound
from training.pipeline.pipeline import build
from training.pipeline.searching.chances import Chances, Part
from training.pipeline.searching.laboratory import Laboratory
from training.pipeline.searching.screening import Screening
from training.pipeline.searching.search import search
from training.pipeline.searching.space import Space
from training.recipes import Recipe
from training.recipes.compress import Search

MakeRecipe = Callable[..., Recipe]

SETTINGS: dict[str, Any] = {"engine": "onnxruntime", "batch_size": 2, "seconds": 0.01}


def float_recipe(make: MakeRecipe, **search_settings: object) -> Recipe:
    """A recipe of a search in FP32 whose trainings take an epoch."""
    return make(
        {
            "train.epochs": 1,
            "prune.train": {"epochs": 1},
            "quantize": None,
            "export.variants": ["fp32"],
            "verify.max_drop": 1.0,
            "verify.min_accuracy": 0.0,
            "search": {**SETTINGS, **search_settings},
        }
    )


def test_bound_that_no_network_can_keep_trains_nothing(
    digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = float_recipe(digits_recipe, max_ratio=0.1)
    with pytest.raises(TargetNotReached, match="none of 1 networks is as fast, so that none was"):
        search(recipe, Bound("latency", 1e-6), tmp_path / "runs", tmp_path / "repository")
    assert list(tmp_path.rglob("train")) == []


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_structure_before_training_is_that_of_the_pruned_network(
    digits_recipe: MakeRecipe, tmp_path: Path, scope: str
) -> None:
    recipe = digits_recipe({"train.epochs": 1, "prune.train": {"epochs": 1}, "prune.scope": scope})
    space = Space(recipe, Search(**SETTINGS))
    laboratory = Laboratory(space, tmp_path)
    tilt = 0.5 if scope == "uniform" else 0.0
    point = space.own.model_copy(update={"ratio": 0.4, "tilt": tilt, "variant": "int8-u8"})
    screening = Screening(space, laboratory)
    before = screening.structure(point)
    assert before[0] < screening.structure(space.own)[0]
    assert screening.milliseconds(point) > 0
    build(space.recipe_of(point), tmp_path / point.trained, tmp_path, until="prune")
    pruned = load_network(laboratory.build_of(point).network_file)
    assert (count_macs(pruned, (16, 16)), count_parameters(pruned)) == before


@pytest.mark.usefixtures("any_latency_will_do")
def test_training_that_cannot_win_is_stopped_and_not_tried_again(
    digits_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def hopeless(self: Chances, part: Part, epoch: int, accuracy: float) -> bool:
        return part == "train" or epoch == 0

    monkeypatch.setattr(Chances, "is_within_reach", hopeless)
    caplog.set_level("INFO", logger="training")
    recipe = float_recipe(digits_recipe, max_ratio=0.1, trials=2)
    folders = tmp_path / "runs", tmp_path / "repository"
    built = search(recipe, Bound("drop", 100), *folders)
    [stopped] = [said for said in caplog.messages if ": stopped: " in said]
    assert " % after epoch 1 cannot become " in stopped
    report = read_report(built.folder)
    assert report.searched is not None
    assert report.searched.stopped == 1
    assert [one.point for one in report.searched.tried] == [Space(recipe, Search()).own]
    caplog.clear()
    search(recipe, Bound("drop", 100), *folders)
    assert "stopped" not in caplog.text
    assert "prune: started" not in caplog.text


@pytest.mark.usefixtures("any_latency_will_do")
def test_network_whose_training_is_stopped_is_not_pruned(
    digits_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Chances, "is_within_reach", lambda self, part, epoch, accuracy: False)
    caplog.set_level("INFO", logger="training")
    recipe = float_recipe(digits_recipe, max_ratio=0, sizes=[12], trials=2)
    search(recipe, Bound("drop", 100), tmp_path / "runs", tmp_path / "repository")
    [stopped] = [said for said in caplog.messages if ": stopped: " in said]
    assert stopped.startswith("search: resnet20_cifar at 12x12, 0 % pruned, fp32: stopped: ")


def refuse(monkeypatch: pytest.MonkeyPatch, *variants: str) -> None:
    """The engine refuses files of these variants."""
    measured = Laboratory.milliseconds

    def milliseconds(self: Laboratory, path: Path, point: Point) -> float:
        if point.variant in variants:
            raise EngineUnavailable("it would answer wrongly")
        return measured(self, path, point)

    monkeypatch.setattr(Laboratory, "milliseconds", milliseconds)


@pytest.mark.usefixtures("any_latency_will_do")
def test_networks_that_the_engine_refuses_are_left_out(
    digits_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuse(monkeypatch, "int8-u8")
    changes = {"train.epochs": 1, "prune.train": {"epochs": 1}, "verify.max_drop": 1.0}
    settings = {**SETTINGS, "max_ratio": 0.0, "trials": 2}
    recipe = digits_recipe({**changes, "verify.min_accuracy": 0.0, "search": settings})
    built = search(recipe, Bound("drop", 100), tmp_path / "runs", tmp_path / "repository")
    left_out = [said for said in caplog.messages if ": left out: " in said]
    assert left_out == [
        "search: resnet20_cifar at 16x16, 0 % pruned, int8-u8: left out: it would answer wrongly"
    ]
    report = read_report(built.folder)
    assert report.searched is not None
    assert report.searched.refused >= 1
    assert report.searched.refusal == "it would answer wrongly"
    # Which of the two comes first depends on the clock.
    assert {one.point.variant for one in report.searched.tried} == {"fp32", "int8-s8"}


def test_engine_that_refuses_every_network_ends_the_search_before_any_training(
    digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "fp32")
    recipe = float_recipe(digits_recipe, max_ratio=0.1)
    with pytest.raises(BuildError, match="onnxruntime runs none of the networks: it would answer"):
        search(recipe, Bound("drop", 1), tmp_path / "runs", tmp_path / "repository")
    assert list(tmp_path.rglob("train")) == []
