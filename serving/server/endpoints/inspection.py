"""Facts about the server and its models: metadata, configs, counters, states. Reads only; knows no
wire."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from protos.gen import model_config_pb2
from serving.base.counting.counters import BatchTimes
from serving.base.counting.sums import Duration
from serving.base.counting.totals import Totals
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.base.tensor import TensorSpec
from serving.models.catalogue import Catalogue, State, VersionStatus
from serving.models.facts import ModelFacts
from serving.models.servable import ENCODED_INPUT
from serving.repository.manifest import Evidence, Variant
from serving.server.endpoints.call import Call

SERVER_NAME = "convserve"
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
# Said in a model's config; never declared as an input, which plain servers would refuse.
ENCODED_PARAMETER = "encoded_image_input"


@dataclass(frozen=True)
class ServerMetadata:
    """Name, version and protocol extensions of the server."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """A model's ready versions and tensors. The fields are the protocol's, on both wires."""

    name: str
    versions: list[str]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class InferStatistics:
    """Times of one version's calls. There is no cache of answers, so nothing hits or misses it."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)


@dataclass(frozen=True)
class BatchStatistics:
    """Times of the batches of one size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True)
class ModelStatistics:
    """Counters of one version. The fields are the protocol's, on both wires."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]
    response_stats: Mapping[str, Any] = field(default_factory=dict)
    memory_usage: tuple[Any, ...] = ()


class Inspection:
    """Answers every question about the server and its models."""

    def __init__(
        self, catalogue: Catalogue, totals: Totals, version: str, *, shared_memory: bool
    ) -> None:
        """shared_memory: it is on, and so among the extensions."""
        self._catalogue = catalogue
        self._totals = totals
        memory = ("system_shared_memory",) if shared_memory else ()
        self._server = ServerMetadata(SERVER_NAME, version, EXTENSIONS + memory)

    def server(self, call: Call) -> ServerMetadata:
        """Metadata of the server. Raises NotAllowed."""
        call.require("metadata")
        return self._server

    def model(self, call: Call, name: str, version: str) -> ModelMetadata:
        """Versions, inputs and outputs of a model. Raises ModelNotFound, ModelNotReady,
        NotAllowed."""
        facts = call.find("metadata", name, version).facts
        versions = self._catalogue.ready_versions(facts.name)
        return ModelMetadata(
            facts.name, versions, facts.config.platform, facts.inputs, facts.outputs
        )

    def config(self, call: Call, name: str, version: str) -> model_config_pb2.ModelConfig:
        """config.pbtxt as it was read; `parameters` also say what serves, and how good it is.

        Raises ModelNotFound, ModelNotReady, NotAllowed.
        """
        facts = call.find("metadata", name, version).facts
        config = model_config_pb2.ModelConfig()
        config.CopyFrom(facts.config.proto)
        config.name = facts.name
        for key, value in _described(facts).items():
            config.parameters[key].string_value = value
        return config

    async def statistics(self, call: Call, name: str, version: str) -> list[ModelStatistics]:
        """Counters of the versions that serve and that the caller may read; empty name or version
        means every one.

        Raises ModelNotFound, ModelNotReady for a name or version that does not serve, NotAllowed.
        """
        if name:
            call.find("statistics", name, version)
        await self._totals.refresh()
        front, engine = self._totals.now()
        return [
            _statistics(model.facts.name, model.facts.version, front, engine)
            for model in self._catalogue.models()
            if name in ("", model.facts.name)
            and version in ("", model.facts.version)
            and call.may("statistics", model.facts.name)
        ]

    async def described(self, call: Call) -> Iterator[dict[str, Any]]:
        """Every version of which the caller may know, with its state and, where it does not serve,
        the reason; of those that serve, where he has the right to metadata, also what is known of
        them. Each is made when it is asked for."""
        lines = await self.index(call, ready_only=False)
        serving = {(m.facts.name, m.facts.version): m.facts for m in self._catalogue.models()}
        return (
            {
                "name": line.name,
                "version": line.version,
                "state": line.state.value,
                "reason": line.reason,
                **(self._known(facts) if facts and call.may("metadata", line.name) else {}),
            }
            for line in lines
            for facts in (serving.get((line.name, line.version)),)
        )

    def _known(self, facts: ModelFacts) -> dict[str, Any]:
        """A version that serves: what it is, what was measured of its variants, and what serves."""
        manifest = facts.manifest
        known: dict[str, Any] = {
            "task": facts.task,
            "variant": facts.variant,
            "engine": facts.engine_name,
            "classes": len(facts.labels),
            "latency_ms": _milliseconds(facts),
            "max_batch_size": facts.max_rows,
            "device_bytes": facts.device_bytes,
            "signed_by": facts.signed_by,
            "rejected": [self._catalogue.told(reason) for reason in facts.rejected],
        }
        if manifest is None:
            return known
        transform = facts.transform
        return known | {
            "architecture": manifest.architecture,
            "parameters": manifest.parameters,
            "gmacs": manifest.gmacs,
            "pruning_ratio": manifest.pruning_ratio,
            "image": [*transform.size, transform.channels] if transform is not None else None,
            "measure": manifest.measure,
            "dataset": manifest.provenance.dataset,
            "split": manifest.provenance.split,
            "created": manifest.provenance.created,
            "variants": [
                _measured(variant, engine, evidence, facts)
                for variant in manifest.variants
                for engine, evidence in variant.evidence.items()
            ],
        }

    async def index(self, call: Call, *, ready_only: bool) -> list[VersionStatus]:
        """Every version of which the caller may know, with its state and, where it does not serve,
        the reason."""
        lines = await self._catalogue.repository_index()
        return [
            line
            for line in lines
            if (line.state is State.READY or not ready_only) and call.sees(line.name)
        ]


def _described(facts: ModelFacts) -> dict[str, str]:
    """Parameters that say what serves, how accurate it is and how fast it was measured."""
    parameters = {"variant": facts.variant, "engine": facts.engine_name}
    if facts.signed_by:
        parameters["signed_by"] = ", ".join(facts.signed_by)
    if facts.manifest is not None:
        if facts.task is not None:
            parameters["task"] = facts.task
            parameters["classes"] = "\n".join(facts.labels)
        if facts.transform is not None:
            parameters[ENCODED_PARAMETER] = ENCODED_INPUT
        if facts.evidence is not None:
            parameters["measure"] = facts.manifest.measure
            parameters["accuracy"] = json.dumps(facts.evidence.accuracy.model_dump())
    parameters["latency_ms"] = json.dumps(_milliseconds(facts))
    return parameters


def _measured(
    variant: Variant, engine: str, evidence: Evidence, facts: ModelFacts
) -> dict[str, Any]:
    """A variant in an engine, as its build measured it."""
    return {
        "variant": variant.id,
        "precision": variant.precision,
        "engine": engine,
        "serves": (variant.id, engine) == (facts.variant, facts.engine_name),
        "bytes": facts.file_bytes.get(variant.id),
        "accuracy": evidence.accuracy.model_dump(),
        "drop": evidence.drop.model_dump(),
        "agreement": evidence.agreement,
        "latency_ms": dict(evidence.latency.milliseconds),
        "machine": evidence.latency.machine,
        "gate": evidence.gate.model_dump(),
    }


def _milliseconds(facts: ModelFacts) -> dict[int, float]:
    """Of a batch, by its size, as measured at load."""
    return {size: round(seconds * 1e3, 3) for size, seconds in facts.latency.items()}


def _statistics(
    name: str, version: str, front: FrontMetrics, engine: EngineMetrics
) -> ModelStatistics:
    calls, batches = front.counters(name, version), engine.counters(name, version)
    by_size = {
        int(rows): times
        for (*labels, rows), times in engine.by_size.children()
        if labels == [name, version]
    }
    return ModelStatistics(
        name=name,
        version=version,
        last_inference=batches.last.ms,
        inference_count=int(batches.inferences.value),
        execution_count=int(batches.executions.value),
        inference_stats=InferStatistics(
            success=calls.success,
            fail=calls.fail,
            queue=batches.queue,
            compute_input=batches.compute.compute_input,
            compute_infer=batches.compute.compute_infer,
            compute_output=batches.compute.compute_output,
        ),
        batch_stats=[_batch(size, times) for size, times in sorted(by_size.items())],
    )


def _batch(size: int, times: BatchTimes) -> BatchStatistics:
    return BatchStatistics(size, times.compute_input, times.compute_infer, times.compute_output)
