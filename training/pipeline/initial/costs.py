"""The time that a build takes here, from a few measured steps."""

from collections.abc import Mapping

from training.data.samples import MEMORY_LIMIT_BYTES
from training.pipeline.initial.drafts import Draft
from training.pipeline.initial.found.facts import Counts, Look
from training.pipeline.initial.speed import Timing

# Seconds of a build that hardly depend on the data: imports, export, timing of every variant in
# every engine.
_FIXED = 40.0
# Passes over images that quantising and verifying take, in forward passes of the network as torch
# trains it: files of several variants in two engines.
_CALIBRATIONS, _VERIFICATIONS = 8.0, 7.0
# An epoch takes so much longer than its steps: the loop around them, checkpoints.
_LOOP, _EPOCH_SECONDS = 1.1, 0.3


def seconds(
    draft: Draft, timing: Timing, look: Look, images: Counts, epochs: int
) -> Mapping[str, float]:
    """Seconds of each part of a build."""
    return {
        **seconds_without_training(timing.forward, look, images),
        "train": epochs * _epoch_seconds(draft, timing, look, images),
    }


def seconds_without_training(forward: float, look: Look, images: Counts) -> Mapping[str, float]:
    """Seconds of each part of a build but its training; `forward` of them answer for an image."""
    calibrated = min(images.train, 256) + min(images.val, 1000)
    return {
        "data": images.all * (look.seconds + 0.001),
        "compress and verify": _FIXED
        + _CALIBRATIONS * calibrated * forward
        + _VERIFICATIONS * images.test * forward,
    }


def epochs_within(limit: float, draft: Draft, timing: Timing, look: Look, images: Counts) -> float:
    """The epochs for which a build of `limit` seconds has time; below 1 where there is not enough
    for one."""
    others = sum(seconds(draft, timing, look, images, 0).values())
    # A short build still spends half of its time on training.
    return max(limit - others, limit / 2) / _epoch_seconds(draft, timing, look, images)


def _epoch_seconds(draft: Draft, timing: Timing, look: Look, images: Counts) -> float:
    height, width = draft.size
    again = look.seconds if images.all * height * width * 3 > MEMORY_LIMIT_BYTES else 0.0
    steps = images.train * (timing.step + again) + images.val * (timing.forward + again)
    return steps * _LOOP + _EPOCH_SECONDS
