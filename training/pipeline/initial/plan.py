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
from training.models.networks import check_network
from training.pipeline.initial.answers import Answers
from training.pipeline.initial.compose import compose, compose_file
from training.pipeline.initial.costs import epochs_within, seconds, seconds_without_training
from training.pipeline.initial.document import Section, plain
from training.pipeline.initial.drafts import Draft, drafts
from training.pipeline.initial.found.facts import Labelled, Look
from training.pipeline.initial.found.network_file import NetworkFile
from training.pipeline.initial.speed import Timing, timed
from training.recipes import parse_recipe

# Images of a timed step, and those where they are large.
_TIMED, _TIMED_LARGE, _LARGE = 32, 16, 96
# Where a network would be trained for more than so many times the epochs that it needs, more would
# gain little.
_PLENTY = 2
# Share of the time in which other processes had the cores from which on that is said.
_BUSY = 0.3


@dataclass(frozen=True)
class Plan:
    """A recipe for a folder.

    document: with the reason of each key.
    chosen: a line on each choice, by its subject.
    seconds: of each part of the build.
    measured: what was timed, in words.
    """

    document: Section
    chosen: Mapping[str, str]
    seconds: Mapping[str, float]
    measured: str


def plan_file(
    name: str, labelled: Labelled, look: Look, answers: Answers, network: NetworkFile
) -> Plan:
    """The recipe for a trained network in a file. Raises RecipeError where it does not fit."""
    taken = seconds_without_training(network.seconds, look, labelled.images)
    return Plan(
        compose_file(name, labelled, look, answers, network),
        {
            "task": answers.task,
            "network": f"{network.path}, compressed and published without training",
        },
        taken,
        f"an answer of the file was measured there, {1000 * network.seconds:.1f} ms",
    )


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
        timing = timed(recipe, _samples(look, draft, recipe.transform.channels), classes)
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
    rate = 1 / timing.step
    training = f"{epochs} epochs, {rate:.0f} images/s measured here"
    if share < 1:
        training += (
            f"; that is short, {draft.enough} epochs would be right: --minutes gives more time"
        )
    if timing.busy > _BUSY:
        training += "; other work has the cores now, and the figure is of a machine without it"
    begins = f"begins with weights, {draft.weights.how}" if draft.weights else "from scratch"
    height, width = draft.size
    return Plan(
        compose(name, labelled, look, answers, draft, epochs),
        {
            "task": answers.task,
            "network": f"{draft.network}, sees {width}x{height}, {begins}",
            "training": training,
        },
        seconds(draft, timing, look, images, epochs),
        f"a few steps of training were measured there, {rate:.0f} images/s",
    )


def _samples(look: Look, draft: Draft, channels: int) -> ArraySamples:
    """Images and targets of the data, at the size that a candidate sees; stretched, as only time
    is measured with them."""
    height, width = draft.size
    count = min(draft.batch_size, _TIMED_LARGE if min(draft.size) > _LARGE else _TIMED)
    chosen = [look.loaded[index % len(look.loaded)] for index in range(count)]
    images = [cv2.resize(one.image, (width, height))[:, :, :channels] for one in chosen]
    targets = [
        one.target if not one.target.ndim else resize_mask(one.target, height, width)
        for one in chosen
    ]
    return ArraySamples(np.stack(images), np.stack(targets))


def usable_name(folder: Path) -> str:
    """A name for the model from that of a folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")
    return name[:60] or "model"
