"""What a network says of a whole split, and how good that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation import (
    Estimate,
    accuracy,
    accuracy_drop,
    agreement,
    class_iou,
    confusion_matrix,
    foreground_iou,
    foreground_iou_drop,
    identification,
    in_top_k,
    mean_iou,
    mean_iou_drop,
    rank_gallery,
    verification,
)
from serving.base.task import ANSWER_OUTPUT, PROBABILITY_OUTPUT
from serving.base.tensor import Array
from serving.images.postprocess import binary_mask, softmax
from training.data.samples import Pixels, Samples
from training.evaluation.boundary_benchmark import boundary_scores
from training.evaluation.class_measures import Reliability, reliability
from training.evaluation.verification import Identification
from training.fitting.epoch_metrics import Measure, Task

Run = Callable[[Pixels], dict[str, Array]]

_BATCH = 32
_FALSE_ACCEPT_RATE = 0.01
_RANKS = (5, 10)
# Of the curves that are kept: the most ranks, and the false accept rates.
_MAX_RANK = 20
_FALSE_ACCEPT_RATES = np.logspace(-4, 0, 41)
_BINS = 80
_WORST_CLASSES = 10
# At which a probability map's outlines are compared: 0.05, 0.1 ... 0.95.
_THRESHOLDS = 19


@dataclass(frozen=True)
class Embedded:
    """What stands behind the answers of an embedding: all N embeddings float32 [N, D], who each
    image shows int64 [N], and for each of P probes its row and that of the gallery image nearest to
    it, int64 [P] each."""

    embeddings: NDArray[np.float32]
    identities: NDArray[np.int64]
    probes: NDArray[np.int64]
    nearest: NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What a network says of N images, or of the P images that are probes of an embedding.

    predictions: int64 [N] classes, int64 [P] identities, or uint8 [N, H, W] masks. confidences:
    float32 [N], of the winning class, for masks the mean over pixels, for identities the cosine.
    scores: float64 [N], 1 is right and 0 wrong, for masks the image's own mean IoU, or the
    foreground's. confusions: int64 [N, C, C] for masks, of the whole split [1, C, C] for classes,
    none for identities. calibration: of images, or of the pixels that count; None for identities.
    probabilities float32 [N, C] and the true labels int64 [N]: for classes only. probability_maps
    uint8 [N, H, W], 255 × the foreground's, and truths uint8 [N, H, W], 1 for the foreground, 0 for
    the background and 255 for what does not count: for binary masks only.
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
    if task == "embedding":
        return _identified(run, samples)
    predictions, confidences, scores, confusions, ranked, labels = [], [], [], [], [], []
    maps, truths = [], []
    # How many pixels were answered with each of 256 levels of confidence, and how many rightly.
    levels = np.zeros((2, 256), np.int64)
    for start in range(0, len(samples), _BATCH):
        images, targets = samples.batch(range(start, min(start + _BATCH, len(samples))))
        outputs = run(images)
        if task == "classification":
            probabilities = softmax(outputs["logits"])
            predicted = probabilities.argmax(axis=1)
            confidence = probabilities.max(axis=1)
            ranked.append(probabilities.astype(np.float32))
            labels.append(targets)
            score = (predicted == targets).astype(np.float64)
            confusion = confusion_matrix(targets, predicted, classes)[None]
        else:
            predicted, confident = _masks(outputs)
            confidence = confident.mean(axis=(1, 2)) / 255
            confusion = np.stack(
                [
                    confusion_matrix(target, mask, classes, ignore_index)
                    for target, mask in zip(targets, predicted, strict=True)
                ]
            )
            counted = np.asarray(targets != (-1 if ignore_index is None else ignore_index))
            sure = confident[counted]
            right = (predicted == targets)[counted]
            levels += [np.bincount(sure, minlength=256), np.bincount(sure[right], minlength=256)]
            score = _image_scores(confusion)
            if PROBABILITY_OUTPUT in outputs:
                score = _foreground_scores(confusion)
                maps.append(outputs[PROBABILITY_OUTPUT])
                truths.append(np.where(counted, targets, 255).astype(np.uint8))
        predictions.append(predicted)
        confidences.append(confidence.astype(np.float32))
        scores.append(score)
        confusions.append(confusion)
    total = np.concatenate(confusions)
    if task == "segmentation":
        return Answers(
            np.concatenate(predictions),
            np.concatenate(confidences),
            np.concatenate(scores),
            total,
            reliability(np.arange(256) / 255, levels[1], levels[0]),
            probability_maps=np.concatenate(maps) if maps else None,
            truths=np.concatenate(truths) if truths else None,
        )
    sureness, rightness = np.concatenate(confidences), np.concatenate(scores)
    return Answers(
        np.concatenate(predictions),
        sureness,
        rightness,
        total.sum(axis=0, keepdims=True),
        reliability(sureness, rightness),
        np.concatenate(ranked),
        np.concatenate(labels),
    )


def _masks(outputs: dict[str, Array]) -> tuple[Array, Array]:
    """Class maps and their confidences, of whichever kind of segmentation."""
    if PROBABILITY_OUTPUT in outputs:
        return binary_mask(outputs[PROBABILITY_OUTPUT])
    return outputs["mask"], outputs["confidence"]


def _identified(run: Run, samples: Samples) -> Answers:
    """The first image of each identity is the gallery, every other one a probe."""
    batches, people = [], []
    for start in range(0, len(samples), _BATCH):
        images, targets = samples.batch(range(start, min(start + _BATCH, len(samples))))
        batches.append(run(images)[ANSWER_OUTPUT["embedding"]])
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


def _image_scores(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU of each image. One of ignored pixels only has no class at all; nothing in it is
    wrong."""
    iou = class_iou(confusions)
    known = ~np.isnan(iou)
    total = np.where(known, iou, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), 1.0)


def _foreground_scores(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.nan_to_num(class_iou(confusions)[:, 1], nan=1.0)


def accuracy_of(measure: Measure, answers: Answers) -> Estimate:
    """The figure that the gate judges."""
    match measure:
        case "top1" | "rank1":
            return accuracy(answers.scores > 0)
        case "miou":
            return mean_iou(answers.confusions)
        case "iou":
            return foreground_iou(answers.confusions)


def drop_of(measure: Measure, reference: Answers, found: Answers) -> Estimate:
    """How much lower it is than the reference's, on the same images."""
    match measure:
        case "top1" | "rank1":
            return accuracy_drop(reference.scores > 0, found.scores > 0)
        case "miou":
            return mean_iou_drop(reference.confusions, found.confusions)
        case "iou":
            return foreground_iou_drop(reference.confusions, found.confusions)


def class_drops(
    measure: Measure, reference: Answers, found: Answers, classes: Sequence[str]
) -> dict[str, float]:
    """How much less recall, or IoU of masks, the classes have that lost most; at most ten, the
    worst first. Those of identities are not counted: each has a few images only."""
    if measure == "rank1":
        return {}
    before, after = (_by_class(measure, one.confusions.sum(axis=0)) for one in (reference, found))
    drops = {
        name: float(drop)
        for name, drop in zip(classes, before - after, strict=True)
        if np.isfinite(drop) and drop > 0
    }
    worst = sorted(drops, key=lambda name: -drops[name])[:_WORST_CLASSES]
    return {name: drops[name] for name in worst}


def _by_class(measure: Measure, confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    if measure == "top1":
        with np.errstate(invalid="ignore"):
            return np.asarray(np.diagonal(confusion) / confusion.sum(axis=1))
    return class_iou(confusion)


def agreement_of(reference: Answers, found: Answers) -> float:
    """Share of equal answers: classes, pixels, nearest people."""
    return agreement(reference.predictions, found.predictions)


def other_measures(reference: Answers, found: Answers) -> dict[str, Estimate | float]:
    """What else is measured of a task, by the names that the manifest and tables use.

    Binary masks: ODS and OIS of the regions' outlines, and the threshold of the former. Embeddings:
    TAR at a FAR of 1 %, EER, AUC, rank-5, rank-10, and the mean cosine with the reference's.
    """
    if found.probability_maps is not None and found.truths is not None:
        return _outlines(found.probability_maps, found.truths)
    if found.embedded is None or reference.embedded is None:
        return {}
    here, there = found.embedded, reference.embedded
    verified = verification(here.embeddings, here.identities, (_FALSE_ACCEPT_RATE,))
    ranking = rank_gallery(here.embeddings, here.identities)
    return {
        f"tar@far={_FALSE_ACCEPT_RATE:g}": verified.tar_at_far[_FALSE_ACCEPT_RATE],
        "eer": verified.eer,
        "auc": verified.curve.auc,
        **{f"rank{k}": accuracy(in_top_k(ranking.scores, ranking.labels, k)) for k in _RANKS},
        "cosine": float((here.embeddings * there.embeddings).sum(axis=1).mean()),
    }


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
    """How many pixels of the background, and of the foreground, have each of 256 levels of its
    probability, int64 [2, 256]."""
    return np.stack([np.bincount(maps[truths == side], minlength=256) for side in (0, 1)])


def _outlines(maps: NDArray[np.uint8], truths: NDArray[np.uint8]) -> dict[str, Estimate | float]:
    """Image by image, since a whole split in floating point would not fit into memory."""
    scores = boundary_scores(
        (levels.astype(np.float32) / 255 for levels in maps),
        ([truth == 1] for truth in truths),
        thresholds=_THRESHOLDS,
        regions=True,
        counted=(truth != 255 for truth in truths),
    )
    return {"ods": scores.ods, "ois": scores.ois, "ods_threshold": scores.threshold}


def matches(embedded: Embedded, samples: Samples, chosen: NDArray[np.intp]) -> dict[str, Array]:
    """Of some of the probes: `images` uint8 [n, H, 2 W, 3], the probe with the gallery image
    nearest to it on the right, and `matches`, the names of the latter."""
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
