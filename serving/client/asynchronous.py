"""AsyncVisionClient: VisionService from asyncio."""

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import grpc

from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc
from protos.gen import vision_pb2 as pb
from serving.client import many
from serving.client.calls import CallFailed, Tries, serialised
from serving.client.images import ImageInput, as_messages
from serving.client.requests import (
    AnyRequest,
    ClassifyOptions,
    EmbedOptions,
    SegmentOptions,
    classify_request,
    embed_request,
    segment_request,
)
from serving.client.streams import SharedStream
from serving.client.tls import ClientTls, channel_to, fault_of
from serving.client.trace import trace_headers

# Seconds of a call, all of its tries included.
DEFAULT_TIMEOUT = 30.0
# Images of classify_many and the like that are under way at a time. Fewer leave batches unfilled,
# more hold more of the server's queue and memory.
DEFAULT_CONCURRENCY = 64
# MiB of the largest message that is sent or taken: the server's own default.
DEFAULT_MAX_MESSAGE_MIB = 32

_SERVICE = pb.DESCRIPTOR.services_by_name["VisionService"].full_name
_RESPONSES: dict[str, Any] = {
    "Classify": pb.ClassifyResponse,
    "Segment": pb.SegmentResponse,
    "Embed": pb.EmbedResponse,
}


@dataclass(frozen=True)
class ModelInfo:
    """A model as its server describes it.

    task: classification, segmentation or embedding; empty for a model without a manifest.
    labels: names of its classes, by index.
    """

    name: str
    task: str
    labels: tuple[str, ...]


class AsyncVisionClient:
    """Calls one server, or several in turn.

    urls: host:port of each server, or grpcs://host:port for TLS.
    timeout: seconds of a call, all of its tries included.
    retries: further tries of a call that was refused for the moment (RESOURCE_EXHAUSTED,
        UNAVAILABLE). Each comes after the delay that the server names, or a growing one, and goes
        to the next server where there are several.
    max_message_mib: the largest message that is sent or taken, as the servers' setting of that
        name. A larger one fails with INVALID_ARGUMENT before it is sent.
    tls: speaks TLS to every server but those of grpc://. Raises BadTls for files that cannot be
        used.
    headers: sent with every call, such as {"x-api-key": KEY}. It may change meanwhile: streams are
        opened anew each minute, and take what it has then.

    Calls belong to the current span of OpenTelemetry, where there is one.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = 2,
        max_message_mib: int = DEFAULT_MAX_MESSAGE_MIB,
        tls: ClientTls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        servers = [urls] if isinstance(urls, str) else urls
        self._headers = headers
        self._tries = Tries(timeout, retries, lambda: _fault(servers, tls))
        self._most = max_message_mib << 20
        # What is sent is measured here, since gRPC would end a whole stream for one message.
        options = [("grpc.max_receive_message_length", self._most)]
        self._channels = [channel_to(url, tls, options) for url in servers]
        self._inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(self._channels[0])
        self._turn = 0
        self._unary_calls: dict[str, list[Any]] = {
            name: [
                channel.unary_unary(
                    f"/{_SERVICE}/{name}", response_deserializer=response.FromString
                )
                for channel in self._channels
            ]
            for name, response in _RESPONSES.items()
        }
        self._classify_stream = self._stream("Classify")
        self._segment_stream = self._stream("Segment")
        self._embed_stream = self._stream("Embed")

    async def __aenter__(self) -> "AsyncVisionClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection; calls that are under way fail with CANCELLED."""
        self._tries.close()
        for stream in (self._classify_stream, self._segment_stream, self._embed_stream):
            await stream.close()
        for channel in self._channels:
            await channel.close()

    # One call.

    async def classify(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[ClassifyOptions],
    ) -> pb.ClassifyResponse:
        """Ranks the classes of one or several images.

        Raises CallFailed; where several images were sent, each result has its own status instead.
        """
        request = classify_request(model, as_messages(images), options)
        response: pb.ClassifyResponse = await self._unary("Classify", request)
        return response

    async def segment(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[SegmentOptions],
    ) -> pb.SegmentResponse:
        """Gives each pixel of one or several images its class; `mask_of` reads the mask.

        Raises CallFailed; where several images were sent, each result has its own status instead.
        """
        request = segment_request(model, as_messages(images), options)
        response: pb.SegmentResponse = await self._unary("Segment", request)
        return response

    async def embed(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[EmbedOptions],
    ) -> pb.EmbedResponse:
        """Gives one or several images their points on the unit sphere.

        Raises CallFailed; where several images were sent, each result has its own status instead.
        """
        request = embed_request(model, as_messages(images), options)
        response: pb.EmbedResponse = await self._unary("Embed", request)
        return response

    # Many calls, over shared streams.

    def classify_many(
        self,
        model: str,
        images: str | Path | Iterable[ImageInput],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        **options: Unpack[ClassifyOptions],
    ) -> AsyncIterator[tuple[ImageInput, pb.ClassifyResponse | CallFailed]]:
        """Classifies the images of a folder or of any collection. Yields each image with its answer
        or its failure, in their order; `concurrency` images are under way at a time. Small images
        share messages."""
        return many.answers(
            images,
            concurrency,
            self._classify_stream,
            lambda messages: classify_request(model, messages, options),
            self._tries,
        )

    def segment_many(
        self,
        model: str,
        images: str | Path | Iterable[ImageInput],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        **options: Unpack[SegmentOptions],
    ) -> AsyncIterator[tuple[ImageInput, pb.SegmentResponse | CallFailed]]:
        """As classify_many, for segment."""
        return many.answers(
            images,
            concurrency,
            self._segment_stream,
            lambda messages: segment_request(model, messages, options),
            self._tries,
        )

    def embed_many(
        self,
        model: str,
        images: str | Path | Iterable[ImageInput],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[tuple[ImageInput, pb.EmbedResponse | CallFailed]]:
        """As classify_many, for embed."""
        return many.answers(
            images,
            concurrency,
            self._embed_stream,
            lambda messages: embed_request(model, messages, options),
            self._tries,
        )

    # Models of the server.

    async def model_info(self, model: str) -> ModelInfo:
        """The task and the classes of a model. Raises CallFailed."""
        config = await self._config(oip.ModelConfigRequest(name=model))
        classes = config.get("classes", "")
        return ModelInfo(
            model, config.get("task", ""), tuple(classes.split("\n")) if classes else ()
        )

    async def models(self) -> list[dict[str, Any]]:
        """Every model of the server: name, version, state and reason. Models that serve also have
        task, variant, engine and latency_ms (by batch size); those that were measured also measure
        and accuracy (value, low and high as fractions of n). Raises CallFailed."""
        request = oip.RepositoryIndexRequest()
        index = await self._ask(self._inference.RepositoryIndex, request)
        lines = []
        for found in index.models:
            line: dict[str, Any] = {"name": found.name, "version": found.version}
            if found.state == "READY":
                wanted = oip.ModelConfigRequest(name=found.name, version=found.version)
                config = await self._config(wanted)
                for key in ("task", "variant", "engine"):
                    line[key] = config.get(key, "")
                if "accuracy" in config:
                    line["measure"] = config.get("measure", "")
                    line["accuracy"] = _numbers(config, "accuracy")
                line["latency_ms"] = _numbers(config, "latency_ms")
            lines.append({**line, "state": found.state or "not loaded", "reason": found.reason})
        return lines

    async def _config(self, request: oip.ModelConfigRequest) -> dict[str, str]:
        response = await self._ask(self._inference.ModelConfig, request)
        return {key: value.string_value for key, value in response.config.parameters.items()}

    # The call itself.

    async def _unary(self, method: str, request: AnyRequest) -> Any:
        data = serialised(request, self._most)
        calls = self._unary_calls[method]

        async def call(left: float) -> Any:
            turn = self._turn
            self._turn += 1
            return await calls[turn % len(calls)](data, timeout=left, metadata=self._metadata())

        response = await self._run(call)
        many.check_count(response, len(request.images))
        return response

    async def _ask(self, method: Any, request: Any) -> Any:
        """The answer of a method of the protocol."""
        return await self._run(
            lambda left: method(request, timeout=left, metadata=self._metadata())
        )

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple({**trace_headers(), **(self._headers or {})}.items())

    async def _run(self, call: Callable[[float], Awaitable[Any]]) -> Any:
        response = await self._tries.run(call)
        if response is None:
            # As gRPC hands out what is no message.
            raise CallFailed("INTERNAL", "the server's answer cannot be read")
        return response

    def _stream(self, method: str) -> SharedStream[Any]:
        def opener(channel: grpc.aio.Channel) -> Callable[[], Any]:
            stream: Any = channel.stream_stream(
                f"/{_SERVICE}/{method}Stream",
                response_deserializer=_RESPONSES[method].FromString,
            )
            # Calls of several traces share a stream: the messages carry them.
            return lambda: stream(metadata=tuple((self._headers or {}).items()))

        return SharedStream([opener(channel) for channel in self._channels], self._most)


def _fault(urls: Sequence[str], tls: ClientTls | None) -> str:
    """Why TLS keeps calls from some server; empty where it does not."""
    faults = ((url, fault_of(url, tls)) for url in urls)
    return next((f"{url}: {fault}" for url, fault in faults if fault), "")


def _numbers(config: Mapping[str, str], key: str) -> dict[str, float]:
    """A parameter that holds a JSON object of numbers; empty where it is absent. Raises CallFailed
    for a text of another form."""
    try:
        found: dict[str, float] = json.loads(config.get(key, "{}"))
        if not all(math.isfinite(number) for number in found.values()):
            raise ValueError("expected finite numbers")
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CallFailed("INTERNAL", f"the server's {key} cannot be read") from error
    return found
