"""The measures of the training loop agree with those of the final evaluation."""

import numpy as np
import pytest
import torch

from serving.base.evaluation import confusion_matrix, mean_iou
from serving.base.evaluation.masks import overlaps
from training.fitting.epoch_metrics import build_metric


def test_top1_is_the_share_of_right_answers() -> None:
    metric = build_metric("classification", 3, None)
    metric.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_foreground_iou_takes_small_logits_for_logits() -> None:
    """0.2 is more likely foreground than not; as a probability it would be background."""
    metric = build_metric("segmentation", 1, 255)
    metric.update(torch.full((1, 1, 4, 4), 0.2), torch.ones(1, 4, 4, dtype=torch.long))
    assert metric.compute().item() == 1.0


def test_mean_iou_agrees_with_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    truth, answer = rng.integers(0, 3, (4, 8, 8)), rng.integers(0, 3, (4, 8, 8))
    truth[0, :2] = 255
    metric = build_metric("segmentation", 3, 255)
    metric.update(torch.from_numpy(answer), torch.from_numpy(truth))
    pairs = zip(truth, answer, strict=True)
    confusions = np.stack([confusion_matrix(t, a, 3, 255) for t, a in pairs])
    assert metric.compute().item() == pytest.approx(mean_iou(overlaps(confusions)).value, abs=1e-6)
