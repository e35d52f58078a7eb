"""A server without its process: every endpoint and both wires, on an engine that a test decides."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
from aiohttp import web
from google.protobuf import text_format

from protos.gen import model_config_pb2
from serving.base.counting.totals import Totals
from serving.base.memory import MemoryBudget
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.base.task import Task
from serving.base.tensor import Array, TensorSpec
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.batching.port import BatchPort
from serving.models.catalogue import Catalogue, ModelEntry, State
from serving.models.facts import ModelFacts
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.loader import Loader
from serving.models.workers import Workers
from serving.repository.manifest import EvalTransform, Manifest, Normalization, Provenance
from serving.repository.model_config import from_proto
from serving.repository.places.repositories import Repositories
from serving.server.access.setup import Access
from serving.server.config_sources import load_config
from serving.server.console.pages import add_console
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.admin_calls import AdminCalls
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.front import Front
from serving.server.endpoints.health import Health
from serving.server.endpoints.inspection import Inspection
from serving.server.endpoints.log_settings import LogSettings
from serving.server.endpoints.oip import OpenInference
from serving.server.endpoints.shared_memory import SharedMemory
from serving.server.endpoints.tracing import Tracer
from serving.server.http.body import LARGEST
from serving.server.http.connections import HttpLimits
from serving.server.http.health import MetricsText, add_batches, add_probes
from serving.server.http.origin import Hosts
from serving.server.http.port import HttpPort
from serving.server.http.rest import RestService
from serving.server.http.vision import VisionRest
from serving.server.rpc import inference, vision
from serving.server.rpc.health import HealthService
from serving.server.rpc.inference import InferenceService
from serving.server.rpc.reflection import Reflection
from serving.server.rpc.vision import VisionService
from serving.server.telemetry.tracing import Tracing
from serving.server.wire import wire_for

CLASSES = ("red", "green", "blue")
SIDE = 4
_OUTPUTS: dict[Task | None, tuple[TensorSpec, ...]] = {
    None: (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("z", "FP32", (-1, 3))),
    "classification": (TensorSpec("logits", "FP32", (-1, 3)),),
    "segmentation": (
        TensorSpec("mask", "UINT8", (-1, SIDE, SIDE)),
        TensorSpec("confidence", "UINT8", (-1, SIDE, SIDE)),
    ),
    "embedding": (TensorSpec("embedding", "FP32", (-1, 3)),),
}


class ColourEngine:
    """`image` uint8 [rows, 4, 4, 3] to the outputs of a task; without one `x` FP32 [rows, 3] comes
    back doubled as `y` and tripled as `z`. Raises `failure` where a test sets it."""

    name = "fake"
    device_bytes = 0
    check_rows = 1
    overlap_rows = 0
    largest_batch = None

    def __init__(self, task: Task | None) -> None:
        image = TensorSpec("image", "UINT8", (-1, SIDE, SIDE, 3))
        self.inputs = (image if task else TensorSpec("x", "FP32", (-1, 3)),)
        self.outputs = _OUTPUTS[task]
        self.failure: Exception | None = None
        self._task = task

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self.failure is not None:
            raise self.failure
        if self._task is None:
            return {"y": inputs["x"] * 2, "z": inputs["x"] * 3}
        means = inputs["image"].mean(axis=(1, 2), dtype=np.float32)
        if self._task == "classification":
            return {"logits": means / 25}
        if self._task == "embedding":
            return {"embedding": means / np.linalg.norm(means, axis=1, keepdims=True)}
        image = inputs["image"]
        return {"mask": image.argmax(3).astype(np.uint8), "confidence": image.max(3)}

    def close(self) -> None:
        """Nothing to free."""


def _manifest(task: Task) -> Manifest:
    return Manifest(
        task=task,
        architecture="colours",
        measure="top1",
        transform=EvalTransform(resize=(SIDE, SIDE)),
        normalization=Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        classes=CLASSES,
        parameters=0,
        gmacs=0.0,
        provenance=Provenance(
            recipe="none", recipe_sha256="0" * 64, run="none", dataset="none", split="none",
            created="2026-01-01",
        ),
        variants=(),
    )  # fmt: skip


@dataclass
class InProcess:
    """What a test looks at: both wires and their addresses (gRPC, REST), the engines by model, and
    the inside."""

    urls: tuple[str, str]
    http: aiohttp.ClientSession
    channel: grpc.aio.Channel
    engines: dict[str, ColourEngine]
    front: Front
    metrics: Totals
    logs: LogSettings
    memory: SharedMemory

    def value(self, name: str, **labels: str) -> float:
        """A sample of the metrics, 0 where it is not there yet."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def rest(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of an answer, None where it has no body. What it sends is said to be
        JSON."""
        headers = {"Content-Type": "application/json"} | options.pop("headers", {})
        options["headers"] = headers
        async with self.http.request(method, path, **options) as response:
            body = await response.read()
            return response.status, await response.json(content_type=None) if body else None

    async def rpc(self, method: str, message: Any) -> bytes:
        """The serialised answer of a unary method to a message, or to bytes as they are."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        unary: Any = self.channel.unary_unary(method)
        answer: bytes = await unary(data, timeout=10)
        return answer

    async def stream(self, method: str, messages: Sequence[Any]) -> list[bytes]:
        """The serialised answers of a stream."""
        sent = iter([m if isinstance(m, bytes) else m.SerializeToString() for m in messages])
        stream: Any = self.channel.stream_stream(method)
        return [answer async for answer in stream(sent, timeout=10)]


def _served(
    name: str,
    engine: ColourEngine,
    task: Task | None,
    metrics: EngineMetrics,
    labels_of: Mapping[str, tuple[str, ...]],
) -> tuple[ModelFacts, BatchPort]:
    proto = text_format.Parse(
        'max_batch_size: 8 platform: "fake" dynamic_batching { }', model_config_pb2.ModelConfig()
    )
    config = from_proto(proto, Path(name) / "config.pbtxt")
    batcher = DynamicBatcher(
        engine,
        model=name,
        version="1",
        max_batch_size=8,
        batching=config.batching,
        instances=1,
        latency=LatencyTable({1: 1e-4, 8: 2e-4}),
        metrics=metrics,
        turns=CoreTurns(1),
        cores=1,
    )
    facts = ModelFacts(
        config,
        "1",
        engine_name="fake",
        variant="fp32",
        manifest=_manifest(task) if task else None,
        inputs=engine.inputs,
        outputs=engine.outputs,
        output_labels=labels_of,
        latency=batcher.latency,
        max_image_pixels=10_000,
    )
    return facts, batcher


@asynccontextmanager
async def in_process(
    repository: Path,
    *,
    labels_of: Mapping[str, tuple[str, ...]] | None = None,
    admin: Admin | None = None,
    access: Mapping[str, Any] | None = None,
    files: Path | None = None,
    max_body: int = 1 << 20,
    max_json: int = 8 << 20,
    max_answer: int = 1 << 20,
    slow_seconds: float = 0.0,
    memory_bytes: int = 1 << 30,
    rest_timeout: float = 0.0,
    limits: HttpLimits | None = None,
    wire_name: str = "",
    tracing: Tracing | None = None,
) -> AsyncIterator[InProcess]:
    """Serves the models colours, regions, points (of the three tasks) and plain (tensors only).
    admin: by default every caller may do everything.
    access: settings of who may come in, which are followed closely; by default everybody may.
    tracing: traces calls; by default nobody does."""
    metrics, engine_metrics = FrontMetrics(), EngineMetrics()
    totals = Totals(metrics, engine_metrics)
    tasks: dict[str, Task | None] = {
        "colours": "classification",
        "regions": "segmentation",
        "points": "embedding",
        "plain": None,
    }
    engines = {name: ColourEngine(task) for name, task in tasks.items()}
    with Workers(1) as workers:
        catalogue = Catalogue(Repositories.of(repository), workers, metrics)
        loader = Loader(
            Repositories.of(repository),
            LoadSettings(),
            engine_metrics,
            catalogue,
            drain_seconds=1.0,
        )
        batchers = []
        for name, task in tasks.items():
            labels = labels_of or {}
            if task == "classification":
                labels = {"logits": CLASSES}
            facts, batcher = _served(name, engines[name], task, engine_metrics, labels)
            batchers.append(batcher)
            entry = catalogue.entries[name] = ModelEntry(State.READY, "")
            catalogue.serve(entry, facts, batcher)
        budget = MemoryBudget(memory_bytes)
        admin = admin or Admin("open", explicit=True, memory=True)
        settings = load_config({"model_repository": repository, **(access or {})}, {})
        callers = Access(settings, admin, metrics, look_seconds=0.01)
        await callers.start()
        front = Front(catalogue, metrics, budget, slow_seconds, callers.door, tracing)
        failures = metrics.write_failures
        folder = FilesFolder(files)
        memory = SharedMemory("convserve")
        tracer, logs = Tracer(folder, failures), LogSettings(folder, failures)
        health = Health(catalogue, strict=False)
        endpoints = (
            front, OpenInference(memory, tracer, admin, max_answer, front.turns),
            Inspection(catalogue, totals, "0", shared_memory=True),
            AdminCalls(catalogue, loader, admin, memory, tracer, logs), health,
        )  # fmt: skip
        app = web.Application()
        app[LARGEST] = max_body
        RestService(*endpoints, max_json=max_json, timeout_seconds=rest_timeout).add_routes(app)
        VisionRest(
            front, endpoints[2], max_answer=max_answer, timeout_seconds=rest_timeout
        ).add_routes(app)
        add_console(app)
        add_probes(app, health, front)
        add_batches(app, catalogue, front)
        app.router.add_get("/debug/metrics", MetricsText(totals, front).answer)
        http_port = HttpPort("http", app, limits or HttpLimits(), metrics, budget, Hosts())
        # Its wire is that of CONVSERVE_WIRE, as a server's, unless a test needs one of them.
        chosen = {"wire": wire_name} if wire_name else {}
        config = load_config({"model_repository": repository, **chosen})
        wire = wire_for(config, budget, front.copies, metrics)
        port = wire.bind("127.0.0.1", 0)
        await wire.start(
            InferenceService(*endpoints).methods()
            | VisionService(front, max_answer).methods()
            | HealthService(front, health, ()).methods()
            | Reflection(front, (inference.SERVICE, vision.SERVICE)).methods()
        )
        address = f"http://127.0.0.1:{await http_port.listen('127.0.0.1', 0)}"
        async with (
            aiohttp.ClientSession(address) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            urls = f"127.0.0.1:{port}", address
            yield InProcess(urls, http, channel, engines, front, totals, logs, memory)
        await wire.stop(0)
        await http_port.close(1.0, 1.0)
        for batcher in batchers:
            await batcher.drain(1.0)
            batcher.close()
        await callers.stop()
        await loader.close()
        await asyncio.sleep(0)
