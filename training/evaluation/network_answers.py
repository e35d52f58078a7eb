"""The answers of a network to a whole split, and the arrays that are drawn of them.

Memory holds a few numbers an image. Masks, and the probabilities of all classes, lie on disk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation import (
    confusion_matrix,
    identification,
    overlap_iou,
    overlaps,
    rank_gallery,
    verification,
)
from serving.base.machine.progress import Progress
from serving.base.task import PROBABILITY_OUTPUT, TASKS, Task
from serving.base.tensor import Array
from serving.images.postprocess import binary_mask, softmax
from training.data.readers import Pixels, Targets
from training.data.samples import Samples
from training.evaluation.class_measures import Reliability, reliability
from training.evaluation.rows_on_disk import RowsOnDisk
from training.evaluation.verification import Identification

Run = Callable[[Pixels], dict[str, Array]]

# Images that a network answers together, at most, and their pixels. More take more memory: a
# segmentation network needs some kB a pixel. More are hardly faster.
_BATCH = 32
_BATCH_PIXELS = 1 << 22
# The most ranks, and the false accept rates, of the curves that are kept.
_MAX_RANK = 20
_FALSE_ACCEPT_RATES = np.logspace(-4, 0, 41)
# Bins of the cosines of pairs; a power of two, into which their levels can be joined.
_BINS = 64


@dataclass(frozen=True)
class Embedded:
    """The embeddings behind the answers of an embedding.

    embeddings: of all N images, float32 [N, D].
    identities: the person that each image shows, int64 [N].
    probes: the rows of the P probes, int64 [P].
    nearest: the row of the gallery image nearest to each probe, int64 [P].
    """

    embeddings: NDArray[np.float32]
    identities: NDArray[np.int64]
    probes: NDArray[np.int64]
    nearest: NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """The answers of a network to N images, or to the P images that are probes of an embedding.

    predictions: classes int64 [N], identities int64 [P], or masks [N, H, W] on disk.
    confidences: float32 [N], of the winning class, for masks the mean over pixels, for identities
        the cosine.
    scores: float64 [N]: 1 is right and 0 wrong, for masks the image's own mean IoU, or the
        foreground's.
    confusion: int64 [C, C] of the whole split, in images or pixels; rows are the true classes; none
        for identities.
    overlaps: of each image's mask with the truth, int64 [N, 3, C] as serving.base.evaluation takes
        them, for masks only.
    calibration: of images, or of the pixels that count; None for identities.
    probabilities: float32 [N, C] on disk, for classes only.
    labels: the true classes int64 [N], for classes only.
    probability_maps: uint8 [N, H, W] on disk, 255 × the foreground's, for binary masks only.
    truths: uint8 [N, H, W] on disk, 1 for the foreground, 0 for the background and 255 for pixels
        that do not count, for binary masks only.
    embedded: for identities only.
    """

    predictions: Array | RowsOnDisk
    confidences: NDArray[np.float32]
    scores: NDArray[np.float64]
    confusion: NDArray[np.int64]
    overlaps: NDArray[np.int64] | None = None
    calibration: Reliability | None = None
    probabilities: RowsOnDisk | None = None
    labels: NDArray[np.int64] | None = None
    probability_maps: RowsOnDisk | None = None
    truths: RowsOnDisk | None = None
    embedded: Embedded | None = None


def answers_of(
    run: Run,
    samples: Samples,
    task: Task,
    classes: int,
    ignore_index: int | None,
    folder: Path,
    title: str = "answers",
) -> Answers:
    """Runs a network over all images, at most 32 at a time; `folder` gets the files of the answers,
    which are gone with them, and `title` names the work to who waits for it."""
    with Progress(title, len(samples)) as progress:
        batches = _batches(run, samples, progress)
        return COLLECTORS[task](batches, classes, ignore_index, folder)


Batches = Iterator[tuple[dict[str, Array], Targets]]


def _batches(run: Run, samples: Samples, progress: Progress) -> Batches:
    """The outputs for each batch of images, and the targets."""
    batch, start = 1, 0
    while start < len(samples):
        images, targets = samples.batch(range(start, min(start + batch, len(samples))))
        yield run(images), targets
        progress.advance(len(images))
        start += len(images)
        batch = images_at_once(images.shape[1:3])


def images_at_once(size: tuple[int, ...]) -> int:
    """Images of height and width `size` that a network is given at a time."""
    return max(1, min(_BATCH, _BATCH_PIXELS // (size[0] * size[1])))


def _classified(batches: Batches, classes: int, ignore_index: int | None, folder: Path) -> Answers:
    probabilities = RowsOnDisk(folder)
    predicted, confidences, labels = [], [], []
    for outputs, targets in batches:
        answered = softmax(outputs[TASKS["classification"].output]).astype(np.float32)
        probabilities.append(answered)
        predicted.append(answered.argmax(axis=1))
        confidences.append(answered.max(axis=1))
        labels.append(targets)
    predictions, true, sure = (np.concatenate(parts) for parts in (predicted, labels, confidences))
    scores = (predictions == true).astype(np.float64)
    return Answers(
        predictions,
        sure,
        scores,
        confusion_matrix(true, predictions, classes),
        calibration=reliability(sure, scores),
        probabilities=probabilities,
        labels=true,
    )


def _segmented(batches: Batches, classes: int, ignore_index: int | None, folder: Path) -> Answers:
    predictions, maps, truths = RowsOnDisk(folder), RowsOnDisk(folder), RowsOnDisk(folder)
    confidences, counts = [], []
    confusion = np.zeros((classes, classes), np.int64)
    # Numbers of pixels answered with each of 256 levels of confidence: all, and those answered
    # rightly.
    levels = np.zeros((2, 256), np.int64)
    for outputs, targets in batches:
        predicted, confident = _masks(outputs)
        counted = np.asarray(targets != (-1 if ignore_index is None else ignore_index))
        sure, right = confident[counted], (predicted == targets)[counted]
        levels += [np.bincount(sure, minlength=256), np.bincount(sure[right], minlength=256)]
        predictions.append(predicted)
        confidences.append((confident.mean(axis=(1, 2)) / 255).astype(np.float32))
        for target, mask in zip(targets, predicted, strict=True):
            of_image = confusion_matrix(target, mask, classes, ignore_index)
            confusion += of_image
            counts.append(overlaps(of_image))
        if PROBABILITY_OUTPUT in outputs:
            maps.append(outputs[PROBABILITY_OUTPUT])
            truths.append(np.where(counted, targets, 255).astype(np.uint8))
    of_images = np.stack(counts)
    return Answers(
        predictions,
        np.concatenate(confidences),
        _foreground_scores(of_images) if len(maps) else _image_scores(of_images),
        confusion,
        overlaps=of_images,
        calibration=reliability(np.arange(256) / 255, levels[1], levels[0]),
        probability_maps=maps if len(maps) else None,
        truths=truths if len(maps) else None,
    )


def _identified(batches: Batches, classes: int, ignore_index: int | None, folder: Path) -> Answers:
    """The first image of each identity is the gallery, every other one a probe. The embeddings stay
    in memory, N · D · 4 bytes: 100,000 images in 512 dimensions take 205 MB."""
    found, people = [], []
    for outputs, targets in batches:
        found.append(outputs[TASKS["embedding"].output])
        people.append(targets)
    embeddings, identities = np.concatenate(found), np.concatenate(people)
    ranking = rank_gallery(embeddings, identities)
    gallery = np.unique(identities, return_index=True)[1]
    return Answers(
        ranking.people[ranking.nearest],
        ranking.cosines,
        (ranking.ranks == 0).astype(np.float64),
        np.zeros((0, 0), np.int64),
        embedded=Embedded(embeddings, identities, ranking.probes, gallery[ranking.nearest]),
    )


COLLECTORS: dict[Task, Callable[[Batches, int, int | None, Path], Answers]] = {
    "classification": _classified,
    "segmentation": _segmented,
    "embedding": _identified,
}


def _masks(outputs: dict[str, Array]) -> tuple[Array, Array]:
    """Class maps and their confidences, of either kind of segmentation."""
    if PROBABILITY_OUTPUT in outputs:
        return binary_mask(outputs[PROBABILITY_OUTPUT])
    return outputs["mask"], outputs["confidence"]


def _image_scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU of each image; 1 for an image of ignored pixels only."""
    iou = overlap_iou(counts)
    known = ~np.isnan(iou)
    total = np.where(known, iou, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), 1.0)


def _foreground_scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.nan_to_num(overlap_iou(counts)[:, 1], nan=1.0)


def identification_of(embedded: Embedded) -> Identification:
    """The curves of all pairs and of all probes, the latter up to rank 20."""
    embeddings, identities = embedded.embeddings, embedded.identities
    curve = verification(embeddings, identities, ()).curve
    ranks = range(1, min(_MAX_RANK, len(np.unique(identities))) + 1)
    return Identification(
        auc=curve.auc,
        false_accept_rates=tuple(_FALSE_ACCEPT_RATES.tolist()),
        true_accept_rates=tuple(curve.recall_at(_FALSE_ACCEPT_RATES).tolist()),
        match_rates=tuple(identification(embeddings, identities, tuple(ranks)).values()),
    )


def foreground_levels(maps: RowsOnDisk, truths: RowsOnDisk) -> NDArray[np.int64]:
    """Numbers of pixels of the background, and of the foreground, at each of 256 levels of the
    foreground's probability, int64 [2, 256]."""
    levels = np.zeros((2, 256), np.int64)
    for found, true in zip(maps.parts(), truths.parts(), strict=True):
        levels += [np.bincount(found[true == side], minlength=256) for side in (0, 1)]
    return levels


def matches(embedded: Embedded, samples: Samples, chosen: NDArray[np.intp]) -> dict[str, Array]:
    """Pictures of the `chosen` probes: `images` uint8 [n, H, 2 W, 3], the probe with the gallery
    image nearest to it on the right, and `matches`, the names of the latter."""
    nearest = embedded.nearest[chosen]
    probes, _ = samples.batch(embedded.probes[chosen])
    found, _ = samples.batch(nearest)
    return {
        "images": np.concatenate([probes, found], axis=2),
        "matches": np.array([samples.names[row] for row in nearest]),
    }


def pair_histograms(embedded: Embedded) -> dict[str, Array]:
    """Shares of all pairs of images by their cosine, in equal bins over [-1, 1]: `genuine` pairs
    show one person, `impostor` pairs two."""
    counts = verification(embedded.embeddings, embedded.identities, ()).counts
    impostor, genuine = counts.reshape(2, _BINS, -1).sum(axis=2)
    return {
        name: pairs / pairs.sum() for name, pairs in (("genuine", genuine), ("impostor", impostor))
    }
