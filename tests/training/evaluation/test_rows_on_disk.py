"""Arrays on disk: what is read back, and what memory the answers of a long split take."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.base.task import Task
from serving.base.tensor import Array
from training.data.readers import Loaded, Pixels
from training.data.samples import FileSamples
from training.evaluation import rows_on_disk
from training.evaluation.accuracy import accuracy_of, agreement_of, drop_of
from training.evaluation.class_measures import measures
from training.evaluation.network_answers import Answers, answers_of, foreground_levels
from training.evaluation.rows_on_disk import RowsOnDisk

SIDE = 64
CLASSES = 40


def test_rows_come_back_as_they_were_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_on_disk, "_PART", 3 * 5 * 2)
    rows = np.random.default_rng(0).normal(size=(8, 5, 2)).astype(np.float32)
    stored = RowsOnDisk(tmp_path)
    for part in (rows[:3], rows[3:4], rows[4:, ::-1][:, ::-1]):
        stored.append(part)
    assert len(stored) == 8
    assert [len(part) for part in stored.parts()] == [3, 3, 2]
    assert np.array_equal(np.concatenate(list(stored.parts())), rows)
    assert np.array_equal(stored.rows(np.array([7, 0, 0])), rows[[7, 0, 0]])
    assert stored.rows(np.array([], np.intp)).shape == (0, 5, 2)
    assert np.array_equal(stored.columns(1, 3), rows[:, 1:3])
    # A build that is killed leaves nothing behind.
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    stored = RowsOnDisk(tmp_path)
    stored.append(np.zeros((2, 3), np.uint8))
    for other in (np.zeros((2, 4), np.uint8), np.zeros((2, 3), np.float32)):
        with pytest.raises(ValueError, match="expected rows uint8"):
            stored.append(other)


def _images(count: int, target: Callable[[int], Array]) -> FileSamples:
    """Images that are made on request, as those of a folder are decoded."""

    def load(index: int) -> Loaded:
        image = np.full((SIDE, SIDE, 3), index % 256, np.uint8)
        return Loaded(image, target(index), (SIDE, SIDE))

    return FileSamples([str(index) for index in range(count)], range(count), load)


def _mask(index: int) -> Array:
    return np.full((SIDE, SIDE), index % 2, np.uint8)


def _run(output: str) -> Callable[[Pixels], dict[str, Array]]:
    def run(images: Pixels) -> dict[str, Array]:
        grey = images[..., 0]
        match output:
            case "logits":
                return {"logits": np.eye(CLASSES, dtype=np.float32)[grey[:, 0, 0] % CLASSES]}
            case "probability":
                return {"probability": grey}
            case _:
                return {"mask": grey % CLASSES, "confidence": grey}

    return run


def _judged(task: Task, output: str, count: int, folder: Path) -> int:
    """The most memory that a verdict on `count` images takes, in bytes."""
    target = _mask if task == "segmentation" else lambda index: np.asarray(index % CLASSES)
    classes = 2 if output == "probability" else CLASSES

    def answers() -> Answers:
        return answers_of(_run(output), _images(count, target), task, classes, None, folder)

    tracemalloc.start()
    try:
        reference, found = answers(), answers()
        measure = "top1" if task == "classification" else "miou"
        accuracy_of(measure, found)
        drop_of(measure, reference, found)
        assert agreement_of(reference, found) == 1.0
        assert found.calibration is not None
        levels = None
        if found.probability_maps is not None and found.truths is not None:
            levels = foreground_levels(found.probability_maps, found.truths)
        names = [str(index) for index in range(classes)]
        measures(
            names, found.confusion, found.calibration, 2.0, found.labels, found.probabilities,
            levels,
        )  # fmt: skip
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("task", "output"),
    [("classification", "logits"), ("segmentation", "mask"), ("segmentation", "probability")],
)
def test_verdict_on_more_images_takes_a_few_numbers_more_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, output: str
) -> None:
    monkeypatch.setattr(rows_on_disk, "_PART", 1 << 16)
    monkeypatch.setattr("training.evaluation.class_measures._SCORES", 1 << 12)
    monkeypatch.setattr("serving.base.evaluation.estimate._WEIGHTS", 1 << 16)
    few, many = (_judged(task, output, count, tmp_path) for count in (128, 640))
    # Of masks the overlaps of 40 classes, int64 [3, 40] and float64 of both sides; a mask alone
    # would be 4,096 bytes, an image's confusion matrix 12,800. Of classes a few numbers; the
    # probabilities would be 160 bytes for each of the two.
    most = 600 if task == "classification" else 6000
    assert (many - few) / 512 < most
