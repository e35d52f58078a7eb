"""The recipe for a folder of labelled images, and the time that it takes here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.base.errors import InvalidInput
from serving.images.preprocess import load_image
from training.data.samples import ArraySamples
from training.errors import DataError, RecipeError
from training.initial.answers import Answers
from training.initial.compose import compose
from training.initial.costs import Counts, epochs_within, seconds
from training.initial.document import Section, plain
from training.initial.drafts import Draft, drafts
from training.initial.facts import Labelled, Look
from training.initial.speed import Timing, timed
from training.models.networks import check_network
from training.recipes import Recipe, parse_recipe

# Images of a timed step, and those where they are large.
_TIMED, _TIMED_LARGE, _LARGE = 32, 16, 96
# Where a network would be trained for more than so many times the epochs that it needs, more would
# gain little.
_PLENTY = 2


@dataclass(frozen=True)
class Plan:
    """A recipe for a folder.

    document: with the reason of each key.
    seconds: of each part of the build.
    images_per_second: of training.
    enough: there is time to train as long as such data needs.
    """

    draft: Draft
    document: Section
    epochs: int
    seconds: Mapping[str, float]
    images_per_second: float
    enough: bool


def plan(name: str, labelled: Labelled, look: Look, answers: Answers, images: Counts) -> Plan:
    """The best of the candidates that can be trained long enough in the time that is given; where
    none can, the one that comes closest.

    Raises RecipeError where the answers do not fit the data.
    """
    best: tuple[float, Draft, Timing] | None = None
    for draft in drafts(answers, look, images.train):
        recipe = parse_recipe(plain(_composed(name, labelled, look, answers, draft, images)))
        check_network(recipe)
        classes = max(2, len(labelled.classes))
        timing = timed(recipe, _samples(recipe, labelled, draft, classes), classes)
        epochs = epochs_within(answers.minutes * 60, draft, timing, look, images)
        share = epochs / draft.enough
        if best is None or share > best[0]:
            best = share, draft, timing
        if share >= 1:
            break
    if best is None:
        raise RecipeError(f"--network: {answers.network} suits no candidate")
    share, draft, timing = best
    epochs = max(1, min(int(share * draft.enough), _PLENTY * draft.enough))
    return Plan(
        draft,
        _composed(name, labelled, look, answers, draft, images, epochs),
        epochs,
        seconds(draft, timing, look, images, epochs),
        1 / timing.step,
        share >= 1,
    )


def _composed(
    name: str,
    labelled: Labelled,
    look: Look,
    answers: Answers,
    draft: Draft,
    images: Counts,
    epochs: int | None = None,
) -> Section:
    return compose(name, labelled, look, answers, draft, epochs or draft.enough, images)


def _samples(recipe: Recipe, labelled: Labelled, draft: Draft, classes: int) -> ArraySamples:
    """Images of the data as the network sees them; their targets only have the right form."""
    count = min(draft.batch_size, _TIMED_LARGE if min(draft.size) > _LARGE else _TIMED)
    images = []
    for file in labelled.sample:
        try:
            images.append(load_image(file.read_bytes(), recipe.transform).pixels)
        except (InvalidInput, OSError):
            continue
        if len(images) == count:
            break
    if not images:
        raise DataError(f"{labelled.data['root']}: no image can be decoded")
    pixels = np.resize(np.stack(images), (count, *images[0].shape))
    if recipe.task == "segmentation":
        targets = np.random.default_rng(0).integers(0, classes, pixels.shape[:3], np.uint8)
        return ArraySamples(pixels, targets)
    return ArraySamples(pixels, np.arange(count, dtype=np.int64) % classes)


def usable_name(folder: Path) -> str:
    """A name for the model from that of a folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")
    return name[:60] or "model"
