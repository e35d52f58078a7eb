"""The answers of a network to a whole split, and the arrays that are drawn of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation import (
    class_iou,
    confusion_matrix,
    identification,
    rank_gallery,
    verification,
)
from serving.base.task import PROBABILITY_OUTPUT, TASKS, Task
from serving.base.tensor import Array
from serving.images.postprocess import binary_mask, softmax
from training.data.samples import Pixels, Samples, Targets
from training.evaluation.class_measures import Reliability, reliability
from training.evaluation.verification import Identification

Run = Callable[[Pixels], dict[str, Array]]

_BATCH = 32
# The most ranks, and the false accept rates, of the curves that are kept.
_MAX_RANK = 20
_FALSE_ACCEPT_RATES = np.logspace(-4, 0, 41)
_BINS = 80


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

    predictions: classes int64 [N], identities int64 [P], or masks uint8 [N, H, W].
    confidences: float32 [N], of the winning class, for masks the mean over pixels, for identities
        the cosine.
    scores: float64 [N]: 1 is right and 0 wrong, for masks the image's own mean IoU, or the
        foreground's.
    confusions: int64 [N, C, C] for masks, of the whole split [1, C, C] for classes, none for
        identities; rows are the true classes.
    calibration: of images, or of the pixels that count; None for identities.
    probabilities: float32 [N, C], for classes only.
    labels: the true classes int64 [N], for classes only.
    probability_maps: uint8 [N, H, W], 255 × the foreground's, for binary masks only.
    truths: uint8 [N, H, W], 1 for the foreground, 0 for the background and 255 for pixels that do
        not count, for binary masks only.
    embedded: for identities only.
    """

    predictions: Array
    confidences: NDArray[np.float32]
    scores: NDArray[np.float64]
    confusions: NDArray[np.int64]
    calibration: Reliability | None = None
    probabilities: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    probability_maps: NDArray[np.uint8] | None = None
    truths: NDArray[np.uint8] | None = None
    embedded: Embedded | None = None


def answers_of(
    run: Run, samples: Samples, task: Task, classes: int, ignore_index: int | None
) -> Answers:
    """Runs a network over all images in batches of 32."""
    return COLLECTORS[task](run, samples, classes, ignore_index)


def _batches(run: Run, samples: Samples) -> Iterator[tuple[dict[str, Array], Targets]]:
    """The outputs for each batch of images, and the targets."""
    for start in range(0, len(samples), _BATCH):
        images, targets = samples.batch(range(start, min(start + _BATCH, len(samples))))
        yield run(images), targets


def _classified(run: Run, samples: Samples, classes: int, ignore_index: int | None) -> Answers:
    answered, true = [], []
    for outputs, targets in _batches(run, samples):
        answered.append(softmax(outputs[TASKS["classification"].output]).astype(np.float32))
        true.append(targets)
    probabilities, labels = np.concatenate(answered), np.concatenate(true)
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    scores = (predicted == labels).astype(np.float64)
    return Answers(
        predicted,
        confidences,
        scores,
        confusion_matrix(labels, predicted, classes)[None],
        reliability(confidences, scores),
        probabilities,
        labels,
    )


def _segmented(run: Run, samples: Samples, classes: int, ignore_index: int | None) -> Answers:
    predictions, confidences, confusions, maps, truths = [], [], [], [], []
    # Numbers of pixels answered with each of 256 levels of confidence: all, and those answered
    # rightly.
    levels = np.zeros((2, 256), np.int64)
    for outputs, targets in _batches(run, samples):
        predicted, confident = _masks(outputs)
        counted = np.asarray(targets != (-1 if ignore_index is None else ignore_index))
        sure, right = confident[counted], (predicted == targets)[counted]
        levels += [np.bincount(sure, minlength=256), np.bincount(sure[right], minlength=256)]
        predictions.append(predicted)
        confidences.append((confident.mean(axis=(1, 2)) / 255).astype(np.float32))
        confusions += [
            confusion_matrix(target, mask, classes, ignore_index)
            for target, mask in zip(targets, predicted, strict=True)
        ]
        if PROBABILITY_OUTPUT in outputs:
            maps.append(outputs[PROBABILITY_OUTPUT])
            truths.append(np.where(counted, targets, 255).astype(np.uint8))
    confusion = np.stack(confusions)
    return Answers(
        np.concatenate(predictions),
        np.concatenate(confidences),
        _foreground_scores(confusion) if maps else _image_scores(confusion),
        confusion,
        reliability(np.arange(256) / 255, levels[1], levels[0]),
        probability_maps=np.concatenate(maps) if maps else None,
        truths=np.concatenate(truths) if truths else None,
    )


def _identified(run: Run, samples: Samples, classes: int, ignore_index: int | None) -> Answers:
    """The first image of each identity is the gallery, every other one a probe."""
    batches, people = [], []
    for outputs, targets in _batches(run, samples):
        batches.append(outputs[TASKS["embedding"].output])
        people.append(targets)
    embeddings, identities = np.concatenate(batches), np.concatenate(people)
    ranking = rank_gallery(embeddings, identities)
    best = ranking.scores.argmax(axis=1)
    gallery = np.unique(identities, return_index=True)[1]
    return Answers(
        ranking.people[best],
        ranking.scores.max(axis=1),
        (best == ranking.labels).astype(np.float64),
        np.zeros((0, 0, 0), np.int64),
        embedded=Embedded(embeddings, identities, ranking.probes, gallery[best]),
    )


COLLECTORS: dict[Task, Callable[[Run, Samples, int, int | None], Answers]] = {
    "classification": _classified,
    "segmentation": _segmented,
    "embedding": _identified,
}


def _masks(outputs: dict[str, Array]) -> tuple[Array, Array]:
    """Class maps and their confidences, of either kind of segmentation."""
    if PROBABILITY_OUTPUT in outputs:
        return binary_mask(outputs[PROBABILITY_OUTPUT])
    return outputs["mask"], outputs["confidence"]


def _image_scores(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU of each image; 1 for an image of ignored pixels only."""
    iou = class_iou(confusions)
    known = ~np.isnan(iou)
    total = np.where(known, iou, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), 1.0)


def _foreground_scores(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.nan_to_num(class_iou(confusions)[:, 1], nan=1.0)


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


def foreground_levels(maps: NDArray[np.uint8], truths: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers of pixels of the background, and of the foreground, at each of 256 levels of the
    foreground's probability, int64 [2, 256]."""
    return np.stack([np.bincount(maps[truths == side], minlength=256) for side in (0, 1)])


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
    upper = np.triu_indices(len(embedded.identities), k=1)
    similarity = (embedded.embeddings @ embedded.embeddings.T)[upper]
    same = (embedded.identities[:, None] == embedded.identities[None, :])[upper]
    return {
        name: np.histogram(pairs, _BINS, (-1.0, 1.0))[0] / len(pairs)
        for name, pairs in (("genuine", similarity[same]), ("impostor", similarity[~same]))
    }
