"""Checks whether a variant may be served on this machine.

A version comes with ONNX files, verified on the machine that built it. Here an engine on a GPU may
run the same file, or a plan that TensorRT made of it; neither was measured on the evaluation split.
They may serve on two conditions: the file passed its gate in the engine that verified it, and its
answers here to the published samples lie within the published tolerance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from serving.base.errors import (
    EngineError,
    InvalidManifest,
    ModelLoadError,
    SelfCheckFailed,
    quoted,
)
from serving.base.evaluation import output_distance
from serving.base.files import sha256
from serving.base.task import answer_output
from serving.base.tensor import Array, TensorSpec
from serving.engines import ENGINES, Engine, unavailable_reason
from serving.engines.engine import infer_each, infer_in_parts
from serving.engines.measure import time_batches
from serving.models.loading import local_plans
from serving.models.loading.timing_shapes import Specs, check_memory, timing_key
from serving.repository.interface import misfit
from serving.repository.manifest import (
    MANIFEST_FILE,
    SAMPLES_FILE,
    Evidence,
    Manifest,
    Variant,
)
from serving.repository.model_config import ModelConfig
from serving.repository.model_file import check_model_file, find_in_version
from serving.repository.samples import Samples, read_samples


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


def published_samples(
    folder: Path, manifest: Manifest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Samples | None:
    """The samples of a version whose model has these tensors: with the answer of the task and, of a
    network with an interface of its own, every output. None where none were published.

    Raises SelfCheckFailed where they are none of this model's.
    """
    names = [spec.name for spec in outputs]
    if manifest.interface is None and manifest.task is not None:
        names = [answer_output(manifest.task, names)]
    samples = read_samples(folder, [spec.name for spec in inputs], names)
    if samples is None:
        return None
    for spec in inputs:
        array = samples.inputs[spec.name]
        fits = spec.fits(array.shape) or spec.fits(array.shape[1:])
        if array.dtype != spec.dtype or not fits:
            raise SelfCheckFailed(
                f"{folder / SAMPLES_FILE}: expected samples of {spec}, got {spec.name} "
                f"{array.dtype} {list(array.shape)}"
            )
    return samples


def infer_samples(
    engine: Engine, inputs: Mapping[str, Array], specs: Sequence[TensorSpec], rows: int
) -> dict[str, Array]:
    """The answers to samples: run as rows in batches of `rows` at most or, where each of them is a
    whole call, one by one. Raises EngineError."""
    if all(spec.fits(inputs[spec.name].shape) for spec in specs):
        return infer_in_parts(engine, inputs, rows)
    return infer_each(engine, inputs)


def check_answers(
    samples: Samples,
    variant: Variant,
    engine: Engine,
    specs: Sequence[TensorSpec],
    max_batch_size: int,
    *,
    briefly: bool = False,
) -> None:
    """Runs the published samples alone, and in a batch of `check_rows` rows. A variant without
    evidence has no tolerance, so it is not checked.

    specs: the inputs as config.pbtxt declares them.
    briefly: only the first sample is run. The tolerance was found for all: the first alone may be
        farther by the square root of their number, and counts beside the published answers of the
        others.
    Raises SelfCheckFailed where the answers differ, EngineError where a batch fails.
    """
    evidence = variant.evidence.get(engine.name)
    if evidence is None:
        return
    rows = 1 if briefly else min(max_batch_size, engine.check_rows)
    times = math.ceil(rows / len(samples))
    inputs, expected = (
        {name: np.concatenate([array] * times) for name, array in arrays.items()}
        for arrays in (samples.inputs, samples.answers)
    )
    what = f"{variant.id} in {engine.name}"
    alone = {name: array[:1] for name, array in inputs.items()}
    first = infer_samples(engine, alone, specs, max_batch_size)
    answers = first if briefly else infer_samples(engine, inputs, specs, max_batch_size)
    for name, wanted in expected.items():
        shape = wanted[:1].shape if briefly else wanted.shape
        if answers[name].shape != shape:
            raise SelfCheckFailed(
                f"{what} answers with {name} {list(answers[name].shape)} to samples whose "
                f"published answers are {list(shape)}"
            )
        if briefly:
            alone_at_most = math.sqrt(len(wanted)) * evidence.samples_tolerance
            check_samples(name, first[name], wanted[:1], alone_at_most, what)
        else:
            check_samples(name, answers[name], wanted, evidence.samples_tolerance, what)
        others = (wanted if briefly else answers[name])[1:]
        together = np.concatenate([first[name], others])
        check_samples(name, together, wanted, evidence.samples_tolerance, what)


def check_samples(
    output: str, answers: Array, expected: Array, tolerance: float, what: str
) -> None:
    """Raises SelfCheckFailed where the answers of this machine are too far from FP32's."""
    distance = output_distance(output, expected, answers)
    if not distance <= tolerance:
        raise SelfCheckFailed(
            f"{what} answers wrongly on this machine: its distance from the published answers is "
            f"{distance:.4f}, the tolerance {tolerance:.4f}"
        )


class Published:
    """What a manifest promises of one version; nothing where it has none.

    times: whether the samples also time its candidates. A network that was made elsewhere may take
        inputs of any size and kind: its samples are the best there is to time it with.
    limit: bytes that the largest batch of them may take.
    """

    def __init__(
        self, folder: Path, manifest: Manifest | None, config: ModelConfig, limit: int
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._config = config
        self._limit = limit
        self._read: Samples | None = None
        self._is_read = False
        foreign = manifest is not None and manifest.interface is not None
        self.times = foreign and self._sha256 != ""

    @cached_property
    def _sha256(self) -> str:
        try:
            return sha256(find_in_version(self._folder, SAMPLES_FILE))
        except OSError:
            return ""

    @property
    def timing_key(self) -> str:
        """A text that identifies what config and samples set for timing; empty where that is
        nothing."""
        return timing_key(self._config) + (self._sha256 if self.times else "")

    def check(self, variant: Variant, engine: Engine, rows: int, *, briefly: bool = False) -> None:
        """Raises InvalidManifest where the manifest describes other tensors than the model has,
        SelfCheckFailed where the answers to the samples differ, EngineError where a batch of
        `rows` fails.

        briefly: only the first sample is run, alone.
        """
        inputs = self._config.inputs or engine.inputs
        self._check_interface(inputs, self._config.outputs or engine.outputs)
        samples = self._samples(engine)
        if samples is not None:
            check_answers(samples, variant, engine, inputs, rows, briefly=briefly)

    def seconds(self, engine: Engine, sizes: Sequence[int], seconds: float) -> dict[int, float]:
        """Seconds by batch size, each measured for about `seconds`, of the samples repeated as rows
        or, where the model has no batch, of the first alone. Raises ModelLoadError where they do
        not run, or take more memory than calls may hold."""
        try:
            found = time_batches(engine, self._batches(engine, sizes), seconds)
        except EngineError as error:
            raise ModelLoadError(
                f"{self._folder / SAMPLES_FILE}: does not run: {error.detail}"
            ) from error
        return {size: milliseconds / 1e3 for size, milliseconds in found.items()}

    def _batches(
        self, engine: Engine, sizes: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        samples = self._samples(engine)
        assert samples is not None, "of a version that `times`"
        if self._config.max_batch_size == 0:
            alone = {name: np.asarray(a[0], order="C") for name, a in samples.inputs.items()}
            yield from ((size, alone) for size in sizes)
            return
        arrays = samples.inputs.items()
        specs = [replace(spec, shape=samples.inputs[spec.name].shape) for spec in engine.inputs]
        check_memory(tuple(specs), max(sizes), self._limit)
        for size in sizes:
            yield size, {name: np.resize(array, (size, *array.shape[1:])) for name, array in arrays}

    def _samples(self, engine: Engine) -> Samples | None:
        if not self._is_read and self._manifest is not None:
            inputs = self._config.inputs or engine.inputs
            self._read = published_samples(self._folder, self._manifest, inputs, engine.outputs)
            self._is_read = True
        return self._read

    def _check_interface(self, inputs: Specs, outputs: Specs) -> None:
        if self._manifest is None or self._manifest.interface is None:
            return
        transform = self._manifest.transform
        size = transform.size if transform is not None else None
        reason = misfit(self._manifest.interface, size, inputs, outputs)
        if reason:
            raise InvalidManifest(f"{self._folder / MANIFEST_FILE}: interface: {reason}")
