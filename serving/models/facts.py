"""The description of a served version, which may go to another process."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import TypeAdapter

from serving.base.errors import InvalidInput
from serving.base.task import TASKS, Task
from serving.base.tensor import TensorSpec
from serving.repository.interface import TaskOutput
from serving.repository.manifest import EvalTransform, Evidence, Manifest
from serving.repository.model_config import ModelConfig


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a served version, which never change while it serves.

    engine_name, variant: the engine and the variant that were chosen.
    manifest: None for a model that was published elsewhere and takes tensors only.
    inputs, outputs: as config.pbtxt declares them, otherwise as the file has them.
    output_labels: class names by output, for the outputs that have a file of them.
    rejected: a line for each variant and engine that was not chosen.
    latency: seconds by batch size, measured at load; empty where nothing could be measured.
    device_bytes: GPU memory that the engine reports; 0 where it reports none.
    max_image_pixels: the largest image that is decoded for it.
    signed_by: ids of the trusted keys that have signed it; empty where nothing asks for any.
    files: differs where the files differ that it was loaded from.
    file_bytes: the size of each variant's files, by its id.
    """

    config: ModelConfig
    version: str
    engine_name: str
    variant: str
    manifest: Manifest | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    latency: Mapping[int, float] = field(default_factory=dict)
    device_bytes: int = 0
    max_image_pixels: int = 64_000_000
    signed_by: tuple[str, ...] = ()
    files: str = ""
    file_bytes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: bytes) -> "ModelFacts":
        """The facts that `to_json` wrote. Raises ValueError for another text."""
        return _json().validate_json(text)

    def to_json(self) -> bytes:
        """The facts for another process."""
        return _json().dump_json(self)

    @cached_property
    def name(self) -> str:
        """The name under which it is called: its folder's."""
        return self.config.name

    @property
    def task(self) -> Task | None:
        """The task that its manifest names; None for a model that has tensors only."""
        return self.manifest.task if self.manifest else None

    @property
    def transform(self) -> EvalTransform | None:
        """The resize and crop of images; None where the model takes no images."""
        return self.manifest.transform if self.manifest else None

    @property
    def answer(self) -> TaskOutput | None:
        """The output that answers the task of a network with an interface of its own; None for one
        in the form that a build publishes."""
        interface = self.manifest.interface if self.manifest else None
        return interface.answer if interface else None

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes of the model: the manifest's, or else those of the first labelled output."""
        if self.manifest is not None and self.manifest.classes:
            return self.manifest.classes
        return next(iter(self.output_labels.values()), ())

    def labels_of(self, output: str) -> tuple[str, ...]:
        """The class names by which one output is ranked; empty where it has none."""
        deployed = self.manifest is not None and self.manifest.interface is None
        if deployed and self.task == "classification" and output == TASKS["classification"].output:
            return self.labels
        return self.output_labels.get(output, ())

    @cached_property
    def evidence(self) -> Evidence | None:
        """The measurements of the variant and engine that serve; None where there are none."""
        for variant in self.manifest.variants if self.manifest else ():
            if variant.id == self.variant:
                return variant.evidence.get(self.engine_name)
        return None

    @property
    def batches(self) -> bool:
        """Whether the first dimension of every tensor is the batch."""
        return self.config.max_batch_size > 0

    @property
    def max_rows(self) -> int:
        """The most rows of one call."""
        return max(1, self.config.max_batch_size)

    def check_rows(self, rows: int) -> None:
        """Raises InvalidInput for more rows than a call may have, or none."""
        if not 1 <= rows <= self.max_rows:
            raise InvalidInput(
                f"batch of {rows} for model {self.name!r}: expected 1 to {self.max_rows} rows"
            )

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of the inputs and outputs of one row, without tensors whose shape each call
        chooses."""
        skipped = 1 if self.batches else 0
        return sum(
            math.prod(spec.shape[skipped:]) * spec.dtype.itemsize
            for spec in (*self.inputs, *self.outputs)
            if -1 not in spec.shape[skipped:]
        )

    @cached_property
    def input_names(self) -> frozenset[str]:
        """The names of the inputs."""
        return frozenset(spec.name for spec in self.inputs)

    @cached_property
    def output_types(self) -> Mapping[str, str]:
        """The wire's datatypes ("FP32") by output name, in the order of the outputs."""
        return {spec.name: spec.datatype for spec in self.outputs}

    @cached_property
    def row_elements(self) -> Mapping[str, int | None]:
        """The elements in one row of each output; None where each call may have another number."""
        begin = 1 if self.batches else 0
        return {
            spec.name: None if -1 in spec.shape[begin:] else math.prod(spec.shape[begin:])
            for spec in self.outputs
        }

    @cached_property
    def row_elements_in_all(self) -> float:
        """The elements in one row of all outputs; inf where each call may have another number."""
        return sum(math.inf if size is None else size for size in self.row_elements.values())

    @cached_property
    def takes_text(self) -> bool:
        """Whether an input holds strings."""
        return any(spec.datatype == "BYTES" for spec in self.inputs)


@functools.cache
def _json() -> TypeAdapter[ModelFacts]:
    return TypeAdapter(ModelFacts)
