"""A search tries what its space holds, gives up on bad trials, and goes on after a kill."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from typer.testing import CliRunner

from training.cli.build import app
from training.errors import RecipeError
from training.models import build_model
from training.pipeline.study.run import Studied
from training.recipes import load_recipe

RunStudy = Callable[..., Studied]

ROOT = Path(__file__).parents[4]
COMMAND = [sys.executable, "-c", "from training.cli.build import app; app(prog_name='convserve')"]
# Weights stay as they were drawn.
HOPELESS = 1e-9


def table(outcome: dict[str, Any]) -> list[tuple[Any, ...]]:
    return sorted(
        (trial["trial"], trial["state"], trial["scores"], str(trial["overrides"]))
        for trial in outcome["trials"]
    )


def test_grid_tries_every_combination_once(studied: RunStudy, tmp_path: Path) -> None:
    study = {
        "search": {
            "sampler": "grid",
            "space": {
                "train.batch_size": {"type": "int", "low": 8, "high": 16, "step": 8},
                "train.optimizer": [{"name": "sgd", "lr": 0.02}, {"name": "adamw", "lr": 0.01}],
            },
            "pruner": None,
        }
    }
    done = studied(study, epochs=1)
    tried = [
        (trial["overrides"]["train.batch_size"], trial["overrides"]["train.optimizer"]["name"])
        for trial in done.outcome.document["trials"]
    ]
    assert sorted(tried) == [(8, "adamw"), (8, "sgd"), (16, "adamw"), (16, "sgd")]
    scores = [trial["score"] for trial in done.outcome.document["trials"]]
    assert done.outcome.document["best"]["score"] == max(scores) == scores[0]
    # The score is the one that the trial's own folder holds.
    best = done.outcome.document["best"]
    trial = tmp_path / "runs" / "colours" / "studies" / "study" / "trials" / f"{best['trial']:04}"
    metrics = json.loads((trial / "metrics.json").read_text())
    assert metrics["train"]["history"][0]["val_top1"] == best["score"]
    assert not (trial / "train" / "checkpoints").exists()
    # The best recipe can be built as it is.
    assert done.best is not None
    recipe = load_recipe(done.best)
    assert recipe.name == "colours"
    assert recipe.train.batch_size == best["overrides"]["train.batch_size"]
    assert recipe.train.optimizer.name == best["overrides"]["train.optimizer"]["name"]
    assert done.outcome.answer.startswith(f"Best: trial {best['trial']} with ")
    page = done.report.read_text()
    assert page.index(done.outcome.answer) < page.index("<table") < page.index("<figure")

    again = studied(study, epochs=1)
    assert table(again.outcome.document) == table(done.outcome.document)


def test_bad_trial_is_pruned(studied: RunStudy) -> None:
    done = studied(
        {
            "search": {
                "sampler": "grid",
                "space": {"train.optimizer.lr": [0.02, HOPELESS]},
                "pruner": {"name": "median", "startup_trials": 1, "warmup_epochs": 7},
            }
        },
        epochs=10,
        batch_size=4,
    )
    good, bad = done.outcome.document["trials"]
    assert (good["state"], good["epochs"]) == ("complete", 10)
    assert good["scores"][7] > max(bad["scores"])
    assert (bad["state"], bad["epochs"]) == ("pruned", 8)
    assert bad["overrides"] == {"train.optimizer.lr": HOPELESS}
    assert [row["state"] for row in done.outcome.rows] == ["complete", "pruned"]


def test_trial_whose_numbers_are_not_finite_fails_and_the_others_go_on(studied: RunStudy) -> None:
    space = {"train.optimizer.lr": [1e30, 0.02]}
    done = studied({"search": {"sampler": "grid", "space": space, "pruner": None}}, epochs=1)
    [good, bad] = done.outcome.document["trials"]
    assert (good["state"], good["overrides"]) == ("complete", {"train.optimizer.lr": 0.02})
    assert bad["state"] == "failed"
    assert "epoch 1: " in bad["reason"]
    assert "The learning rate is 1e+30" in bad["reason"]


def test_killed_search_goes_on_as_an_unbroken_one(
    studied: RunStudy,
    document: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = {
        "search": {
            "sampler": "random",
            "trials": 3,
            "seed": 1,
            "space": {
                "train.optimizer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
                "train.batch_size": [8, 16],
            },
            "pruner": None,
        }
    }
    unbroken = studied(study)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    arguments = ["build", str(tmp_path / "recipe.yaml"), "--study", str(tmp_path / "study.yaml")]
    arguments += ["--out", str(tmp_path / "killed"), "--json"]
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        first_epochs = 0
        while first_epochs < 2:
            line = process.stderr.readline()
            assert line, "the study ended before it could be killed"
            first_epochs += "epoch 1/3" in line
        os.killpg(process.pid, signal.SIGKILL)
    storage = tmp_path / "killed" / "colours" / "studies" / "study" / "study.db"
    states = [
        trial.state.name
        for trial in optuna.load_study(study_name="search", storage=f"sqlite:///{storage}").trials
    ]
    assert states[0] == "COMPLETE"
    assert states.count("COMPLETE") < 3
    # The first trial is not tried again.
    caplog.clear()
    caplog.set_level(logging.INFO)
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "trial 1" in caplog.text
    assert "trial 0:" not in caplog.text
    assert table(json.loads(done.stdout)) == table(unbroken.outcome.document)


def test_more_trials_may_be_asked_for_but_no_other_space(studied: RunStudy) -> None:
    search = {"sampler": "random", "trials": 1, "space": {"seed": [1, 2, 3]}, "pruner": None}
    first = studied({"search": search}, epochs=1)
    more = studied({"search": {**search, "trials": 2}}, epochs=1)
    assert len(first.outcome.rows) == 1
    assert table(more.outcome.document)[:1] == table(first.outcome.document)
    assert len(more.outcome.rows) == 2
    with pytest.raises(RecipeError, match="holds a search of another space"):
        studied({"search": {**search, "space": {"seed": [4, 5]}}}, epochs=1)
    with pytest.raises(RecipeError, match="holds a search of another space, recipe, data"):
        studied({"search": search}, epochs=2)


def test_other_first_weights_are_another_search(
    studied: RunStudy, document: dict[str, Any], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    document["model"]["pretrained"] = str(weights)
    search = {"sampler": "random", "trials": 1, "space": {"seed": [1, 2]}, "pruner": None}
    for classes in (4, 5):
        torch.save(build_model(document["model"]["name"], classes).state_dict(), weights)
        if classes == 4:
            studied({"search": search}, epochs=1)
    with pytest.raises(RecipeError, match="another space, recipe, data, first weights or"):
        studied({"search": search}, epochs=1)


def test_values_of_pruning_are_searched_on_one_training(
    studied: RunStudy, document: dict[str, Any], tmp_path: Path
) -> None:
    document["prune"] = {"ratio": 0.3, "steps": 2, "round_to": 8, "train": {"epochs": 1}}
    space = {"prune.ratio": [0.25, 0.75], "prune.train.keep": ["last"]}
    search = {"sampler": "grid", "until": "prune", "space": space}
    found = studied({"search": search}, epochs=2).outcome.document
    folders = sorted((tmp_path / "runs" / "colours" / "studies" / "study" / "trials").iterdir())
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert [one["prune"]["ratio"] for one in metrics] == [0.25, 0.75]
    assert metrics[0]["train"]["history"] == metrics[1]["train"]["history"]
    assert not (folders[1] / "train" / "checkpoints").exists()
    # The document lists them from the best to the worst, the folders by number.
    trials = sorted(found["trials"], key=lambda trial: trial["trial"])
    for trial, one in zip(trials, metrics, strict=True):
        scores = [row["val_top1"] for row in one["prune"]["history"]]
        assert trial["scores"] == scores
        assert len(scores) == 2
        assert trial["score"] == scores[-1]


def test_stage_that_is_scored_must_be_there(studied: RunStudy) -> None:
    search = {"sampler": "grid", "until": "prune", "space": {"seed": [1, 2]}}
    with pytest.raises(RecipeError, match="until: the recipe has no prune section"):
        studied({"search": search})


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (
            {"train.optimzer.lr": [0.1]},
            "train.optimzer.lr=0.1: train.optimzer: unknown key; did you mean 'optimizer'?",
        ),
        ({"train.epochs.max": [1]}, "train.epochs.max=1: train.epochs is 3, it has no keys"),
        (
            {"train.batch_size": [8, 0]},
            "train.batch_size=0: train.batch_size: input should be greater than or equal to 1",
        ),
        (
            {"augment.scale": {"type": "float", "low": 0.5, "high": 1.5}},
            "augment.scale=1.5: augment.scale: input should be less than 1",
        ),
        ({"model.name": ["resnet20_cifar", "resnet21_cifar"]}, "unknown model 'resnet21_cifar'"),
        (
            {
                "train.optimizer": [{"name": "sgd", "lr": 1}, {"name": "adamw", "lr": 1}],
                "train.optimizer.momentum": [0.5],
            },
            "train.optimizer.momentum: unknown key",
        ),
        ({"verify.max_drop": [0.1, 0.2]}, "the train stage, which is scored, does not read it"),
        ({"name": ["a", "b"]}, "trials are named by their numbers"),
    ],
)
def test_space_is_checked_before_the_first_trial(
    studied: RunStudy, tmp_path: Path, space: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RecipeError) as error:
        studied({"search": {"trials": 2, "space": space}})
    assert expected in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'study.yaml'}: search.space")
    assert not (tmp_path / "runs").exists()


def test_pruning_that_removes_nothing_is_refused_before_the_first_trial(
    studied: RunStudy, document: dict[str, Any], tmp_path: Path
) -> None:
    document["prune"] = {"ratio": 0.5, "round_to": 8}
    document["model"] = {"name": "lenet5"}
    document["transform"] = {"resize": [32, 32]}
    space = {"prune.importance": ["l1", "bn_scale"]}
    with pytest.raises(RecipeError, match=r"prune\.importance=bn_scale: .* lenet5 has none"):
        studied({"search": {"sampler": "grid", "until": "prune", "space": space}})
    assert not (tmp_path / "runs").exists()
