"""How near an output is to its reference."""

import math

import numpy as np

from serving.base.task import PROBABILITY_OUTPUT
from serving.base.tensor import Array


def agreement(reference: Array, candidate: Array) -> float:
    """Share of equal elements of two integer arrays of one shape: predicted classes or masks."""
    return float(np.mean(reference == candidate)) if reference.size else 1.0


def answer_distance(reference: Array, candidate: Array) -> float:
    """How far an output is from its reference of the same shape. Floating point: the norm of the
    difference over the norm of the reference. Integers (class maps): the share that differs."""
    if reference.shape != candidate.shape:
        return math.inf
    if reference.dtype.kind in "biu":
        return 1.0 - agreement(reference, candidate)
    difference = np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))
    distance = float(difference / max(float(np.linalg.norm(reference.astype(np.float64))), 1e-12))
    return distance if math.isfinite(distance) else math.inf


def output_distance(name: str, reference: Array, candidate: Array) -> float:
    """answer_distance of the output of that name. A probability map is an amount: the norm of the
    difference over that of the reference, which counts as one level a pixel at least, so that a
    map of nothing but zeros is no infinite distance from one of ones."""
    if name != PROBABILITY_OUTPUT or reference.shape != candidate.shape:
        return answer_distance(reference, candidate)
    difference = np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))
    size = max(float(np.linalg.norm(reference.astype(np.float64))), math.sqrt(reference.size))
    return float(difference / max(size, 1.0))
