"""Hyper-parameter search: Optuna chooses the values and prunes, SQLite keeps the trials."""

import itertools
import logging
import math
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from training.errors import BuildError, Diverged, RecipeError
from training.fitting.stage_folder import stage_key
from training.pipeline.pipeline import check_recipe, keys_until
from training.pipeline.study.definition import (
    Choices,
    FloatRange,
    Hyperband,
    IntRange,
    Median,
    Search,
    Values,
    text_of,
)
from training.pipeline.study.outcome import Outcome
from training.pipeline.study.plots import importances, search_plots
from training.pipeline.study.trials import Trials, same_training, training_of
from training.recipes import Recipe

log = logging.getLogger(__name__)

STORAGE_FILE = "study.db"
# Most combinations that are all checked before the first trial ; of more, each value is checked by
# itself.
_CHECKED_COMBINATIONS = 2000
# Sections of which each value is tried before the first trial, as a build does before it trains.
_STAGES_TRIED = ("distill", "model", "prune")
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def search(config: Search, trials: Trials, where: str) -> Outcome:
    """Runs the trials that are left of a search, the interrupted one first.

    Raises RecipeError before the first one where the recipe does not take a value of the space, or
    a combination of values (these beginning with `where`), where a path does not matter to
    training, and where the folder holds a search of another space or recipe; BuildError where no
    trial could be trained.
    """
    _check(config, trials, f"{where}: search.space")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials.folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{trials.folder.resolve() / STORAGE_FILE}")
    try:
        study = _opened(config, trials, storage)
        while (trial := _next_trial(config, study, storage)) is not None:
            _run(config, trials, study, trial)
        return _outcome(config, trials, study)
    finally:
        storage.engine.dispose()


def _check(config: Search, trials: Trials, where: str) -> None:
    edges = {path: values.edges() for path, values in config.space.items()}
    for path, values in edges.items():
        if path == "name":
            raise RecipeError(f"{where}.name: trials are named by their numbers")
        recipes = [trials.recipe({path: value}, where) for value in values]
        if path.partition(".")[0] in _STAGES_TRIED:
            for value, recipe in zip(values, recipes, strict=True):
                _check_stages(recipe, config.until, f"{where}: {path}={text_of(value)}")
        if len(recipes) > 1 and all(
            same_training(recipes[0], other, config.until) for other in recipes[1:]
        ):
            raise RecipeError(
                f"{where}.{path}: the {config.until} stage, which is scored, does not read it"
            )
    if math.prod(map(len, edges.values())) <= _CHECKED_COMBINATIONS:
        for combination in itertools.product(*edges.values()):
            recipe = trials.recipe(dict(zip(edges, combination, strict=True)), where)
            if config.until != "train" and getattr(recipe, config.until) is None:
                raise RecipeError(
                    f"{where.removesuffix('space')}until: the recipe has no {config.until} section"
                )


def _check_stages(recipe: Recipe, until: str, where: str) -> None:
    try:
        check_recipe(recipe, until)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _opened(config: Search, trials: Trials, storage: optuna.storages.RDBStorage) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        study_name="search",
        direction="maximize",
        load_if_exists=True,
        pruner=_pruner(config),
    )
    # More trials may be asked for later; other changes would mix scores that do not compare.
    settings = config.model_dump(mode="json", exclude={"trials"})
    key = stage_key("search", [settings, keys_until(trials.base, config.until)], "")
    former = study.user_attrs.get("key")
    if former is None:
        study.set_user_attr("key", key)
    elif former != key:
        raise RecipeError(
            f"{trials.folder}: holds a search of another space, recipe, data, first weights or "
            "version of convserve; rename the study file to begin a new one, or delete this folder"
        )
    if config.sampler == "grid":
        texts = [_stored(values) for values in config.space.values()]
        for combination in itertools.product(*texts):
            study.enqueue_trial(
                dict(zip(config.space, combination, strict=True)), skip_if_exists=True
            )
    return study


def _stored(values: Values) -> list[Any]:
    """The values of a grid as Optuna stores them."""
    return values.texts if isinstance(values, Choices) else values.grid() or []


def _pruner(config: Search) -> optuna.pruners.BasePruner:
    match config.pruner:
        case Median(startup_trials=startup, warmup_epochs=warmup):
            return optuna.pruners.MedianPruner(startup, n_warmup_steps=warmup)
        case Hyperband(min_epochs=epochs, reduction_factor=factor):
            return optuna.pruners.HyperbandPruner(epochs, reduction_factor=factor)
        case None:
            return optuna.pruners.NopPruner()


def _sampler(config: Search, number: int) -> optuna.samplers.BaseSampler:
    """A sampler whose draws depend on the trials before and the trial's number alone, so that an
    interrupted search goes on as it would have."""
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    if config.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _next_trial(
    config: Search, study: optuna.Study, storage: optuna.storages.RDBStorage
) -> Trial | None:
    everything = study.get_trials(deepcopy=False)
    begun = [trial for trial in everything if trial.state != TrialState.WAITING]
    for trial in begun:
        # One process works on a study at a time, so a trial that runs has lost its process.
        if trial.state == TrialState.RUNNING:
            study.sampler = _sampler(config, trial.number)
            known = storage.get_study_id_from_name(study.study_name)
            return Trial(
                study, storage.get_trial_id_from_study_id_trial_number(known, trial.number)
            )
    if config.trials is not None and len(begun) >= config.trials:
        return None
    if config.sampler == "grid" and len(begun) == len(everything):
        return None
    study.sampler = _sampler(config, len(begun))
    return study.ask()


def _suggested(trial: Trial, path: str, values: Values) -> Any:
    match values:
        case Choices():
            chosen = trial.suggest_categorical(path, values.texts)
            return values.values[values.texts.index(chosen)]
        case IntRange():
            return trial.suggest_int(
                path, values.low, values.high, step=values.step, log=values.log
            )
        case FloatRange():
            return trial.suggest_float(
                path, values.low, values.high, step=values.step, log=values.log
            )


def _run(config: Search, trials: Trials, study: optuna.Study, trial: Trial) -> None:
    """Trains a trial and puts its end on record."""
    overrides = {path: _suggested(trial, path, values) for path, values in config.space.items()}
    where = f"trial {trial.number}"
    log.info("%s: %s", where, "  ".join(f"{k}={text_of(v)}" for k, v in overrides.items()))
    recorded = set(study.trials[trial.number].intermediate_values)
    name = f"trials/{trial.number:04}"
    try:
        recipe = trials.recipe(overrides, where)
        epochs = training_of(recipe, config.until).epochs

        def on_epoch(epoch: int, score: float) -> None:
            # The last epoch before a kill may come again; Optuna counts steps from 0.
            if epoch - 1 not in recorded:
                trial.report(score, epoch - 1)
            if epoch < epochs and trial.should_prune():
                raise optuna.TrialPruned

        if config.until == "train":
            trained = trials.train(recipe, name, on_epoch)
        else:
            trained = trials.train(recipe, name, until=config.until)
            for step, score in enumerate(trained.scores):
                if step not in recorded:
                    trial.report(score, step)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        trials.tidy(name)
        log.info("%s: pruned", where)
        return
    except (RecipeError, Diverged, torch.OutOfMemoryError) as error:
        # Caused by these values alone; anything else would end the next trial too.
        _fail(study, trial, str(error).splitlines()[0])
        return
    study.tell(trial, trained.score)
    log.info("%s: %s %.2f %%", where, trials.measure, 100 * trained.score)


def _fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.FAIL)
    log.warning("trial %d: failed: %s", trial.number, reason)


def _outcome(config: Search, trials: Trials, study: optuna.Study) -> Outcome:
    ended = study.get_trials(states=tuple(_STATES))
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = [trial.user_attrs.get("reason", "it was pruned") for trial in ended]
        raise BuildError(f"no trial was trained to its end; of the last one: {reasons[-1]}")
    # The best on top; a pruned trial has the score of its last epoch, a failed one has none.
    ended.sort(key=lambda t: (t.state != TrialState.COMPLETE, 1.0 if t.value is None else -t.value))
    best = study.best_trial
    shares = importances(study)
    counts = [f"{sum(t.state == state for t in ended)} {word}" for state, word in _STATES.items()]
    assert best.value is not None
    return Outcome(
        answer=f"Best: trial {best.number} with {100 * best.value:.2f} % validation "
        f"{trials.measure}",
        detail=", ".join(f"{path} {value}" for path, value in _shown(config, best).items()),
        title=f"{config.sampler} search, {len(ended)} trials: {', '.join(counts)}",
        rows=[_row(config, trial) for trial in ended],
        note=(
            f"Score is the validation {trials.measure} of the {config.until} stage's network, of a "
            "trial that the pruner ended that of its last epoch. "
            "The best of many trials is flattered by chance: what it is worth, the test split "
            "tells, which no trial has seen, when its recipe is built."
        ),
        document={
            "measure": trials.measure,
            "trials": [_document(config, trial) for trial in ended],
            "best": _document(config, best),
        },
        plots=search_plots(study, trials.measure, shares),
        importances=shares,
        best=trials.changed(_overrides(config, best)),
    )


def _overrides(config: Search, trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial as a recipe takes them."""
    found = {}
    for path, value in trial.params.items():
        values = config.space[path]
        if isinstance(values, Choices):
            value = values.values[values.texts.index(value)]
        found[path] = value
    return found


def _document(config: Search, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": _STATES[trial.state],
        "score": trial.value,
        "epochs": len(trial.intermediate_values),
        "scores": [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
        "seconds": round(trial.duration.total_seconds(), 2) if trial.duration else None,
        "reason": trial.user_attrs.get("reason"),
        "overrides": _overrides(config, trial),
    }


def _row(config: Search, trial: FrozenTrial) -> dict[str, str]:
    return {
        "trial": str(trial.number),
        "state": _STATES[trial.state],
        "score %": "" if trial.value is None else f"{100 * trial.value:.2f}",
        "epochs": str(len(trial.intermediate_values)),
        **_shown(config, trial),
    }


def _shown(config: Search, trial: FrozenTrial) -> dict[str, str]:
    """The values of a trial as texts."""
    return {
        path: f"{value:.4g}" if isinstance(value, float) else text_of(value)
        for path, value in _overrides(config, trial).items()
    }
