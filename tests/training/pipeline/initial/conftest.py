"""Recipes for folders without the wait for measurements."""

from collections.abc import Callable
from pathlib import Path

import pytest

import training.pipeline.initial.plan
from training.models import build_model, count_macs
from training.pipeline.initial.first_recipe import Given, Outcome, first_recipe
from training.pipeline.initial.speed import Timing
from training.recipes import Recipe, load_recipe

# Multiply-accumulates a second of a machine of two cores, in training.
_MACS = 25e9


@pytest.fixture
def fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates take times that follow from their multiply-accumulates."""

    def timed(recipe: Recipe, samples: object, classes: int) -> Timing:
        channels = recipe.transform.channels
        network = build_model(recipe.model.architecture, classes, channels=channels)
        macs = count_macs(network, recipe.transform.size)
        return Timing(3 * macs / _MACS, macs / _MACS)

    monkeypatch.setattr(training.pipeline.initial.plan, "timed", timed)


Init = Callable[..., tuple[Outcome, Recipe]]


@pytest.fixture
def init(fixed_speed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Init:
    """Runs init in a folder of its own and gives what it says and the recipe that it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(folder: str, **options: object) -> tuple[Outcome, Recipe]:
        given = Given(Path(folder), quiet=True, download=False, **options)  # type: ignore[arg-type]
        outcome = first_recipe(given)
        return outcome, load_recipe(Path(outcome.recipe))

    return run
