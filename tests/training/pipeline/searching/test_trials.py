"""Trials that are passed over or stopped, and what is measured before any fine-tuning."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch import nn

from serving.base.errors import EngineUnavailable
from tests.support.exported import Foreign, export_foreign
from tests.training.conftest import digits_document, merged
from tests.training.pipeline.searching.conftest import SETTINGS, float_recipe
from training.errors import BuildError, Diverged, TargetNotReached
from training.evaluation.report.report_file import read_report
from training.evaluation.searched import Point
from training.evaluation.validation_trial import Trial as ValidationTrial
from training.models import count_macs, count_parameters
from training.models.checkpoint import load_network
from training.pipeline.bound import Bound
from training.pipeline.pipeline import build
from training.pipeline.searching.chances import Chances, Part
from training.pipeline.searching.laboratory import Laboratory
from training.pipeline.searching.screening import Screening
from training.pipeline.searching.search import search
from training.pipeline.searching.space import Space
from training.pipeline.searching.trials import Trials
from training.recipes import Recipe, document_of, parse_recipe
from training.recipes.compress import Search

MakeRecipe = Callable[..., Recipe]


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


@pytest.mark.parametrize("ends", ["slow", "refused"])
def test_a_variant_between_the_first_and_the_last_may_win(
    digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    def milliseconds(self: Laboratory, path: Path, point: Point) -> float:
        if point.variant != "int8-u8" and ends == "refused":
            raise EngineUnavailable("it would answer wrongly")
        return 1.0 if point.variant == "int8-u8" else 10.0

    monkeypatch.setattr(Laboratory, "milliseconds", milliseconds)
    changes: dict[str, Any] = {
        "train.epochs": 1,
        "verify.max_drop": 1.0,
        "verify.min_accuracy": 0.0,
    }
    settings = {**SETTINGS, "max_ratio": 0, "trials": 1}
    changes |= {"export.variants": ["fp32", "int8-u8", "int8-s8"], "search": settings}
    recipe = digits_recipe(changes)
    built = search(recipe, Bound("latency", 2), tmp_path / "runs", tmp_path / "repository")
    report = read_report(built.folder)
    assert report.searched is not None
    assert report.searched.chosen.variant == "int8-u8"


def test_a_network_whose_training_diverged_is_not_pruned_by_its_weights(
    digits_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained = Laboratory.train

    def train(self: Laboratory, point: Point, on_epoch: Any = None) -> tuple[float, ...]:
        if point.size == (12, 12):
            raise Diverged("the loss is nan")
        return trained(self, point, on_epoch)

    monkeypatch.setattr(Laboratory, "train", train)
    monkeypatch.setattr(Chances, "is_fast_enough", lambda self, milliseconds: True)
    recipe = float_recipe(digits_recipe, max_ratio=0.05, sizes=[12], trials=5)
    prune = recipe.prune.model_copy(update={"scope": "global"}) if recipe.prune else None
    recipe = recipe.model_copy(update={"prune": prune})
    search(recipe, Bound("drop", 100), tmp_path / "runs", tmp_path / "repository")
    failed = [said for said in caplog.messages if ": failed: the loss is nan" in said]
    assert len(failed) == 1


def test_trials_of_other_images_do_not_count(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Chances, "is_fast_enough", lambda self, milliseconds: True)
    changes = {
        "train.epochs": 1,
        "prune": None,
        "quantize": None,
        "export.variants": ["fp32"],
        "verify": {"max_drop": 1.0, "min_accuracy": 0.0},
        "search": {**SETTINGS, "max_ratio": 0, "trials": 1},
        "data": {"source": "image_folder", "root": str(tmp_path / "images")},
    }
    recipe = parse_recipe(merged(digits_document(), changes))
    counts = []
    for seed in (0, 1):
        draw_images(tmp_path / "images", seed)
        space = Space(recipe, recipe.search or Search())
        folder = tmp_path / "search"
        trials = Trials(space, Laboratory(space, folder), Bound("drop", 100), folder)
        assert trials.reference is None
        trials.run()
        again = Trials(space, Laboratory(space, folder), Bound("drop", 100), folder)
        assert again.reference == trials.reference
        counts.append(len(again.run()))
    assert counts == [1, 1]


def draw_images(root: Path, seed: int) -> None:
    """Two classes of 16x16, told apart by their brightness."""
    rng = np.random.default_rng(seed)
    for split, name in itertools.product(("train", "val", "test"), ("dark", "light")):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(20):
            pixels = rng.integers(0, 120, (16, 16, 3)) + (120 if name == "light" else 0)
            cv2.imwrite(str(folder / f"{number}.png"), pixels.astype(np.uint8))


def test_a_trial_that_was_killed_while_it_was_recorded_is_made_again(
    digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    space = Space(float_recipe(digits_recipe, max_ratio=0), Search(**SETTINGS))
    laboratory = Laboratory(space, tmp_path)
    trials = Trials(space, laboratory, Bound("drop", 1), tmp_path)
    killed = trials._study.ask(space.distributions)
    killed.set_user_attr("curves", {"train": [0.0, 0.5], "prune": []})
    again = Trials(space, laboratory, Bound("drop", 1), tmp_path)
    assert again._known == {}


@pytest.mark.parametrize("engine", ["runs it", "refuses it"])
def test_a_file_that_cannot_be_tried_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    file = export_foreign(layers, tmp_path / "net.onnx", 16, Foreign(), opset=17, batch=None)
    document = {**digits_document(), "model": {"onnx": str(file)}, "train": "none"}
    for key in ("prune", "quantize", "export"):
        del document[key]
    document["verify"] = {"max_drop": 1.0, "min_accuracy": 0.0}
    # The file takes images of one size only.
    document["search"] = {**SETTINGS, "max_ratio": 0, "sizes": [12], "trials": 3}
    recipe = parse_recipe(document)
    assert parse_recipe(document_of(recipe)) == recipe
    folders = tmp_path / "runs", tmp_path / "repository"
    if engine == "runs it":
        built = search(recipe, Bound("drop", 100), *folders)
        assert built.version == 1
        assert "at 12x12, 0 % pruned, fp32: failed: " in caplog.text
        # Another search asks the trials that there are.
        for again in (built, search(recipe, Bound("drop", 100), *folders)):
            report = read_report(again.folder)
            assert report.searched is not None
            assert report.searched.refused == 1
            assert "takes no image of 12x12" in report.searched.refusal
        return

    def file_of(self: ValidationTrial, path: Path, precision: str, engine: str) -> None:
        raise EngineUnavailable("it would answer wrongly")

    monkeypatch.setattr(ValidationTrial, "file", file_of)
    with pytest.raises(BuildError, match="no network was built and measured: it would answer"):
        search(recipe, Bound("drop", 100), *folders)


def test_engine_that_refuses_every_network_ends_the_search_before_any_training(
    digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "fp32")
    recipe = float_recipe(digits_recipe, max_ratio=0.1)
    with pytest.raises(BuildError, match="onnxruntime runs none of the networks: it would answer"):
        search(recipe, Bound("drop", 1), tmp_path / "runs", tmp_path / "repository")
    assert list(tmp_path.rglob("train")) == []
