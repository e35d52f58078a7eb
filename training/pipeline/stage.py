"""A stage of a build: its work, and the key that decides whether the work is done already.

The work gets a recipe that holds only the sections which the key, or that of a stage before, holds:
it cannot read a setting whose change would leave it unnoticed.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.fitting.build import Build
from training.fitting.stage_folder import Results, stage_key
from training.recipes import Recipe
from training.recipes.sections import dump, only


@dataclass(frozen=True)
class Stage:
    """One stage.

    name: that of its folder in the run.
    sections: fields of the recipe that the work reads beyond those of the stages before it; a
        dotted path names a single value of a section.
    also: further ones that the work reads for some recipes only.
    work: does it, and gives the results as JSON can hold them.
    facts: everything else that the results depend on: contents of files, the machine.
    optional: it runs only where the recipe has a section of its name.
    check: refuses a recipe that the work could not do, before any stage runs; raises RecipeError.
    still_there: whether the former results, which the key vouches for, still exist.
    """

    name: str
    sections: tuple[str, ...]
    work: Callable[[Build], Results]
    also: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()
    facts: Callable[[Build], object] = lambda build: None
    optional: bool = False
    check: Callable[[Recipe], None] = lambda recipe: None
    still_there: Callable[[Build, Results], bool] = lambda build, results: True

    def wanted(self, recipe: Recipe) -> bool:
        """Whether a build of this recipe has the stage."""
        return not self.optional or getattr(recipe, self.name) is not None


@dataclass(frozen=True)
class Step:
    """A stage in one build: its key, and the build as its work sees it."""

    stage: Stage
    key: str
    build: Build


def steps(stages: Sequence[Stage], build: Build) -> Iterator[Step]:
    """The stages that a recipe wants, in their order. A key is made when its step is asked for; it
    holds the key of the step before, and so all keys before."""
    key = ""
    for stage, own, readable in _with_sections(stages, build.recipe):
        view = replace(build, recipe=only(build.recipe, readable))
        settings = [dump(build.recipe, own), stage.facts(view)]
        key = stage_key(stage.name, settings, key)
        yield Step(stage, key, view)


def read_until(stages: Sequence[Stage], recipe: Recipe, until: str) -> dict[str, Any]:
    """The values of a recipe that its stages up to `until` read."""
    last = [stage.name for stage in stages].index(until)
    read = [own for _, own, _ in _with_sections(stages[: last + 1], recipe)]
    return dump(recipe, itertools.chain.from_iterable(read))


def _with_sections(
    stages: Sequence[Stage], recipe: Recipe
) -> Iterator[tuple[Stage, tuple[str, ...], tuple[str, ...]]]:
    """Each wanted stage with its own sections and with all that it may read. A stage that is not
    wanted adds its empty section: the ones after it ask whether there is one."""
    readable: tuple[str, ...] = ()
    for stage in stages:
        if not stage.wanted(recipe):
            readable += (stage.name,)
            continue
        own = stage.sections + stage.also(recipe)
        readable += own
        yield stage, own, readable
