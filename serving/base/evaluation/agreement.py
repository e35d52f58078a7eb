"""Distance of an output from its reference."""

import math

import numpy as np

from serving.base.task import PROBABILITY_OUTPUT
from serving.base.tensor import Array


def agreement(reference: Array, candidate: Array) -> float:
    """Share of equal elements of two integer arrays of one shape: predicted classes or masks."""
    return float(np.mean(reference == candidate)) if reference.size else 1.0


def answer_distance(reference: Array, candidate: Array) -> float:
    """Distance of an output from its reference; inf where their shapes differ or it is not finite.

    Floating point: the norm of the difference over the norm of the reference.
    Integers (class maps) and booleans: the share of elements that differ.
    """
    if reference.shape != candidate.shape:
        return math.inf
    if reference.dtype.kind in "biu":
        return 1.0 - agreement(reference, candidate)
    difference = np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))
    distance = float(difference / max(float(np.linalg.norm(reference.astype(np.float64))), 1e-12))
    return distance if math.isfinite(distance) else math.inf


def output_distance(name: str, reference: Array, candidate: Array) -> float:
    """answer_distance, except for probability maps, whose integers are levels and not classes.

    Their distance is the norm of the difference over the norm of the reference. The latter counts
    as at least one level a pixel: a reference of zeros would make every distance infinite.
    """
    if name != PROBABILITY_OUTPUT or reference.shape != candidate.shape:
        return answer_distance(reference, candidate)
    difference = np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))
    size = max(float(np.linalg.norm(reference.astype(np.float64))), math.sqrt(reference.size))
    return float(difference / max(size, 1.0))
