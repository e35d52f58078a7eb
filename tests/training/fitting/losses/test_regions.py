"""Region losses against values worked out by hand."""

import pytest
import torch

from training.fitting.losses.regions import dice, iou, lovasz

TARGETS = torch.tensor([[[0, 1], [1, 0]]])


@pytest.mark.parametrize("loss", [dice, iou, lovasz])
def test_sure_and_right_answer_costs_nothing(loss: object) -> None:
    assert callable(loss)
    logits = torch.nn.functional.one_hot(TARGETS, 2).permute(0, 3, 1, 2) * 100.0
    assert loss(logits, TARGETS).item() == pytest.approx(0.0, abs=1e-6)
    assert loss(logits[:, 1:] - 50, TARGETS).item() == pytest.approx(0.0, abs=1e-6)


def test_dice_of_even_odds_by_hand() -> None:
    # Per class: p = 0.5 on 4 pixels, 2 of them true: 1 - (2 * 1 + 1) / (2 + 2 + 1).
    assert dice(torch.zeros(1, 2, 2, 2), TARGETS).item() == pytest.approx(0.4)
    assert dice(torch.zeros(1, 1, 2, 2), TARGETS).item() == pytest.approx(0.4)


def test_iou_of_even_odds_by_hand() -> None:
    # 1 - (1 + 1) / (2 + 2 - 1 + 1).
    assert iou(torch.zeros(1, 2, 2, 2), TARGETS).item() == pytest.approx(0.5)
    assert iou(torch.zeros(1, 1, 2, 2), TARGETS).item() == pytest.approx(0.5)


def test_lovasz_of_hard_answers_is_one_minus_iou() -> None:
    # One of four pixels is wrong: IoU 1/2 for class 0 (1 of 2), 2/3 for class 1 (2 of 3).
    answer = torch.tensor([[[1, 1], [1, 0]]])
    logits = torch.nn.functional.one_hot(answer, 2).permute(0, 3, 1, 2) * 100.0
    assert lovasz(logits, TARGETS).item() == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_absent_class_is_left_out_of_dice() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    # p = 1/3: 1 - (2 * 2/3 + 1) / (4/3 + 2 + 1) for both classes that are there.
    assert dice(logits, TARGETS).item() == pytest.approx(1 - (4 / 3 + 1) / (4 / 3 + 3))
