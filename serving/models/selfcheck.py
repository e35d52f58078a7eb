"""Is a variant what was published, and does it still answer as it did then, on this machine?"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from serving.base.errors import SelfCheckFailed
from serving.base.evaluation import output_distance
from serving.base.task import IMAGE_INPUT
from serving.base.tensor import Array
from serving.repository.manifest import SAMPLES_FILE, Evidence, Variant


def check_gate(variant: Variant, engine: str) -> Evidence:
    """The evidence of a variant in an engine.

    Raises SelfCheckFailed where there is none, or where the gate did not pass.
    """
    evidence = variant.evidence.get(engine)
    if evidence is None:
        raise SelfCheckFailed(f"{variant.id} was not verified in {engine}")
    if not evidence.gate.passed:
        raise SelfCheckFailed(f"{variant.id} failed its gate in {engine}: {evidence.gate.reason}")
    return evidence


def check_checksum(file: Path, expected: str) -> None:
    """Raises SelfCheckFailed where the file is missing or is not the one that was published."""
    try:
        stat = file.stat()
        actual = _sha256(file, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise SelfCheckFailed(f"{file}: cannot be read: {error.strerror}") from error
    if actual != expected:
        raise SelfCheckFailed(f"{file}: sha256 is {actual}, the manifest says {expected}")


@lru_cache(maxsize=256)
def _sha256(file: Path, modified: int, size: int) -> str:
    """One read for all engines that try a file; the stamp makes a changed file a new key."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_samples(folder: Path, output: str) -> tuple[Array, Array] | None:
    """Sample inputs uint8 [n, H, W, 3] and FP32's answers to them, of the output of that name; None
    where none were published.

    Raises SelfCheckFailed where the file does not hold them.
    """
    path = folder / SAMPLES_FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as samples:
            return samples[IMAGE_INPUT], samples[output]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise SelfCheckFailed(f"{path}: cannot be read: {error}") from error


def check_samples(
    output: str, answers: Array, expected: Array, evidence: Evidence, what: str
) -> None:
    """Raises SelfCheckFailed where the answers given here are too far from FP32's."""
    distance = output_distance(output, expected, answers)
    if not distance <= evidence.samples_tolerance:
        raise SelfCheckFailed(
            f"{what} answers wrongly on this machine: its distance from the published answers is "
            f"{distance:.4f}, the tolerance {evidence.samples_tolerance:.4f}"
        )
