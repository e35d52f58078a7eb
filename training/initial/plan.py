"""The recipe for a folder of labelled images, and the time that it takes here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from serving.images.postprocess import resize_mask
from training.data.samples import ArraySamples
from training.errors import RecipeError
from training.initial.answers import Answers
from training.initial.compose import compose
from training.initial.costs import epochs_within, seconds
from training.initial.document import Section, plain
from training.initial.drafts import Draft, drafts
from training.initial.facts import Labelled, Look
from training.initial.speed import Timing, timed
from training.models.networks import check_network
from training.recipes import parse_recipe

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


def plan(name: str, labelled: Labelled, look: Look, answers: Answers) -> Plan:
    """The best of the candidates that can be trained long enough in the time that is given; where
    none can, the one that comes closest.

    Raises RecipeError where the answers do not fit the data.
    """
    images = labelled.images
    classes = max(2, len(labelled.classes))
    best: tuple[float, Draft, Timing] | None = None
    for draft in drafts(answers, look, images.train):
        recipe = parse_recipe(plain(compose(name, labelled, look, answers, draft, draft.enough)))
        check_network(recipe)
        timing = timed(recipe, _samples(look, draft), classes)
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
        compose(name, labelled, look, answers, draft, epochs),
        epochs,
        seconds(draft, timing, look, images, epochs),
        1 / timing.step,
        share >= 1,
    )


def _samples(look: Look, draft: Draft) -> ArraySamples:
    """Images and targets of the data, at the size that a candidate sees; stretched, as only time
    is measured with them."""
    height, width = draft.size
    count = min(draft.batch_size, _TIMED_LARGE if min(draft.size) > _LARGE else _TIMED)
    chosen = [look.loaded[index % len(look.loaded)] for index in range(count)]
    images = [cv2.resize(one.image, (width, height)) for one in chosen]
    targets = [
        one.target if not one.target.ndim else resize_mask(one.target, height, width)
        for one in chosen
    ]
    return ArraySamples(np.stack(images), np.stack(targets))


def usable_name(folder: Path) -> str:
    """A name for the model from that of a folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")
    return name[:60] or "model"
