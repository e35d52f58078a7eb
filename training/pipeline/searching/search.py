"""The fastest network that is accurate enough, or the most accurate that is fast enough: over
depth, width, image size, pruning and precision, by measured latency."""

import logging
from pathlib import Path

from serving.base.machine.cpu import machine
from training.evaluation.searched import Searched
from training.fitting.stage_folder import copy_stage, finished
from training.pipeline.bound import Bound
from training.pipeline.pipeline import Built, build, keys_until
from training.pipeline.run_folder import one_build, refuse_own_weights
from training.pipeline.searching.laboratory import Laboratory
from training.pipeline.searching.space import Space
from training.pipeline.searching.trials import Trials
from training.recipes import Recipe
from training.recipes.compress import Search
from training.recipes.deliver import TensorRt

log = logging.getLogger(__name__)

SEARCH_FOLDER = "search"


def search(
    recipe: Recipe, bound: Bound, out: Path, repository: Path, *, hours: float | None = None
) -> Built:
    """Tries networks until recipe.search.trials are measured or so many hours have passed, then
    builds and publishes the one that the bound chooses. A trial that has begun is finished. Trials
    stay in OUT/NAME/search; those of an interrupted search count.

    Raises RecipeError, TargetNotReached, and as build does.
    """
    run = out / recipe.name
    settings = recipe.search or Search(max_ratio=0.7 if recipe.prune is not None else 0.0)
    folder = run / SEARCH_FOLDER
    space = Space(recipe, settings)
    for network in space.networks.values():
        key = "model" if network == recipe.model else "search.networks"
        refuse_own_weights(recipe.model_copy(update={"model": network}), run, key)
    laboratory = Laboratory(space, folder)
    trials = Trials(space, laboratory, bound, folder)
    tried = trials.run(hours)
    chosen = bound.choose(tried).point
    log.info("search: %s: %s", bound, chosen)
    winner = with_plans(space.recipe_of(chosen), recipe.export.tensorrt)
    with one_build(run):
        # All trials of a network share its training; the later stages are of the last one.
        for stage, key in keys_until(winner, "export").items():
            made = laboratory.stage_folder(chosen, stage)
            if finished(made, key) is not None:
                copy_stage(made, run / stage)
    return build(
        winner,
        out,
        repository,
        searched=Searched(
            tried=tuple(tried),
            chosen=chosen,
            bound=str(bound),
            measured=f"{settings.engine}, batch {settings.batch_size}, {machine()}",
            reference=trials.reference,
            too_slow=len(trials.too_slow),
            stopped=len(trials.stopped),
            refused=len(trials.refused),
            refusal=next(iter(trials.refused.values()), ""),
        ),
    )


def with_plans(recipe: Recipe, wanted: TensorRt | None) -> Recipe:
    """The recipe with those of the wanted plans whose variants it exports."""
    exported = recipe.export.variants
    kept = tuple(v for v in wanted.variants if v in exported) if wanted is not None else ()
    if wanted is None or not kept:
        return recipe
    plans = wanted.model_copy(update={"variants": kept})
    export = recipe.export.model_copy(update={"tensorrt": plans})
    return recipe.model_copy(update={"export": export})
