"""How far answers are from those of a reference."""

import math

import numpy as np
import pytest

from serving.base.evaluation import (
    agreement,
    answer_distance,
    output_distance,
)


def test_agreement_is_the_share_of_equal_elements() -> None:
    assert agreement(np.array([[1, 2], [3, 4]]), np.array([[1, 0], [3, 0]])) == 0.5
    assert agreement(np.array([], int), np.array([], int)) == 1.0


def test_distance_of_numbers_is_relative_to_the_reference() -> None:
    reference = np.array([[3, 4]], np.float32)
    assert answer_distance(reference, reference) == 0
    assert answer_distance(reference, reference + np.float32([0.3, -0.4])) == pytest.approx(0.1)
    assert answer_distance(1000 * reference, 1001 * reference) == pytest.approx(1e-3)


def test_distance_of_half_precision_does_not_overflow() -> None:
    reference = np.full(100, 60000, np.float16)
    assert answer_distance(reference, -reference) == pytest.approx(2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_])
def test_distance_of_class_maps_is_the_share_that_differs(dtype: type[np.generic]) -> None:
    reference = np.array([[0, 1], [1, 0]]).astype(dtype)
    candidate = np.array([[0, 1], [1, 1]]).astype(dtype)
    assert answer_distance(reference, candidate) == 0.25


def test_distance_to_another_shape_is_infinite() -> None:
    assert answer_distance(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)) == math.inf


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_distance_to_a_broken_answer_is_infinite(broken: float) -> None:
    reference = np.array([1, 2], np.float32)
    assert answer_distance(reference, np.array([1, broken], np.float32)) == math.inf


def test_distance_from_a_reference_of_zeros_is_large_not_undefined() -> None:
    zeros = np.zeros(4, np.float32)
    assert answer_distance(zeros, zeros) == 0
    assert 1e6 < answer_distance(zeros, zeros + 1) < math.inf


def test_distance_of_probability_maps_is_by_amount() -> None:
    reference = np.full((1, 4, 4), 200, np.uint8)
    assert output_distance("probability", reference, reference + np.uint8(2)) == pytest.approx(0.01)
    assert output_distance("mask", reference, reference + np.uint8(2)) == 1
    nothing = np.zeros((1, 4, 4), np.uint8)
    assert output_distance("probability", nothing, nothing) == 0
    assert output_distance("probability", nothing, nothing + np.uint8(1)) == 1
    assert output_distance("probability", reference, nothing) == 1
    assert output_distance("probability", reference, nothing[:, :2]) == math.inf
