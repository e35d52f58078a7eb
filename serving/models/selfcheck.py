"""Checks whether a variant may be served on this machine.

A version comes with ONNX files, verified on the machine that built it. Here an engine on a GPU may
run the same file, or a plan that TensorRT made of it; neither was measured on the evaluation split.
They may serve on two conditions: the file passed its gate in the engine that verified it, and its
answers here to the published samples lie within the published tolerance.
"""

import math
from pathlib import Path

import numpy as np

from serving.base.digest import sha256
from serving.base.errors import SelfCheckFailed, quoted
from serving.base.evaluation import output_distance
from serving.base.task import IMAGE_INPUT, answer_output
from serving.base.tensor import Array
from serving.engines import ENGINES, Engine, unavailable_reason
from serving.engines.engine import infer_in_parts
from serving.models import local_plans
from serving.repository.manifest import SAMPLES_FILE, Evidence, Manifest, Variant
from serving.repository.model_file import check_model_file, find_in_version
from serving.repository.samples import read_samples


def on_this_machine(
    folder: Path, manifest: Manifest, max_batch_size: int, cache_dir: Path | None
) -> Manifest:
    """The manifest with this machine's own plans as variants, and with evidence for engines on GPUs
    that the version's builder did not have.

    It is unchanged where there is no GPU, and where no samples were published to check answers
    against.
    """
    engines = [
        name
        for name, entry in ENGINES.items()
        if entry.device == "gpu" and unavailable_reason(name) is None
    ]
    if not engines or not (folder / SAMPLES_FILE).exists():
        return manifest
    variants = [_vouched_for(variant, engines) for variant in manifest.variants]
    if cache_dir is not None and local_plans.ENGINE in engines:
        for request in local_plans.plan_requests(folder, manifest, max_batch_size, cache_dir):
            built = local_plans.built(request)
            if built is not None:
                evidence = _evidence(request.source)
                vouched = {local_plans.ENGINE: evidence} if evidence is not None else {}
                built = built.model_copy(update={"evidence": vouched})
                # It replaces a published plan of its name, which is for another TensorRT.
                variants = [*(v for v in variants if v.id != built.id), built]
    return manifest.model_copy(update={"variants": tuple(variants)})


def _vouched_for(variant: Variant, engines: list[str]) -> Variant:
    evidence = _evidence(variant)
    added = {
        engine: evidence
        for engine in engines
        if evidence is not None
        and engine not in variant.evidence
        and Path(variant.file).suffix in ENGINES[engine].suffixes
    }
    return variant.model_copy(update={"evidence": {**variant.evidence, **added}})


def _evidence(variant: Variant) -> Evidence | None:
    """The measurements of the same file in another engine, preferably one in which it passed its
    gate."""
    found = sorted(variant.evidence.items(), key=lambda item: not item[1].gate.passed)
    if not found:
        return None
    engine, evidence = found[0]
    reason = f"as verified in {engine}: {evidence.gate.reason}"
    gate = evidence.gate.model_copy(update={"reason": reason})
    return evidence.model_copy(update={"gate": gate})


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
    """Raises SelfCheckFailed where the file is missing, lies elsewhere, or differs from the
    published one."""
    try:
        actual = sha256(find_in_version(file.parent, file.name))
    except OSError as error:
        raise SelfCheckFailed(f"{file}: cannot be read: {error.strerror}") from error
    if actual != expected:
        raise SelfCheckFailed(f"{file}: sha256 is {actual}, the manifest says {expected}")


def check_files(file: Path, variant: Variant) -> None:
    """Raises SelfCheckFailed where the file of a variant, or a file that holds its weights, is not
    the published one, and the errors of `check_model_file`."""
    check_checksum(file, variant.sha256)
    unknown = set(check_model_file(file)) - set(variant.data)
    if unknown:
        raise SelfCheckFailed(
            f"{file}: its weights lie in {quoted(sorted(unknown))}, of which the manifest has no "
            "checksum; publish it again"
        )
    for name, expected in variant.data.items():
        check_checksum(file.parent / name, expected)


def check_answers(
    folder: Path, manifest: Manifest, variant: Variant, engine: Engine, max_batch_size: int
) -> None:
    """Runs the published samples alone, and in a batch of `check_rows` rows. A variant without
    evidence has no tolerance, so it is not checked.

    Raises SelfCheckFailed where the answers differ, EngineError where a batch fails.
    """
    evidence = variant.evidence.get(engine.name)
    output = answer_output(manifest.task, [spec.name for spec in engine.outputs])
    samples = read_samples(folder, output)
    if samples is None or evidence is None:
        return
    images, expected = samples
    times = math.ceil(min(max_batch_size, engine.check_rows) / len(images))
    images, expected = (np.concatenate([array] * times) for array in (images, expected))
    what = f"{variant.id} in {engine.name}"
    answers = infer_in_parts(engine, IMAGE_INPUT, images, max_batch_size)[output]
    if answers.shape != expected.shape:
        raise SelfCheckFailed(
            f"{what} answers with {list(answers.shape)} to samples whose published answers are "
            f"{list(expected.shape)}"
        )
    check_samples(output, answers, expected, evidence, what)
    answers[:1] = infer_in_parts(engine, IMAGE_INPUT, images[:1], max_batch_size)[output]
    check_samples(output, answers, expected, evidence, what)


def check_samples(
    output: str, answers: Array, expected: Array, evidence: Evidence, what: str
) -> None:
    """Raises SelfCheckFailed where the answers of this machine are too far from FP32's."""
    distance = output_distance(output, expected, answers)
    if not distance <= evidence.samples_tolerance:
        raise SelfCheckFailed(
            f"{what} answers wrongly on this machine: its distance from the published answers is "
            f"{distance:.4f}, the tolerance {evidence.samples_tolerance:.4f}"
        )
