"""AsyncVisionClient: VisionService from asyncio."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc, vision_pb2_grpc
from protos.gen import vision_pb2 as pb
from serving.client.images import ImageInput, as_messages, each_image
from serving.client.streams import SharedStream, StreamBroken

DEFAULT_TIMEOUT = 30.0
# Calls of classify_many and its like that are under way at a time: enough for full batches.
DEFAULT_CONCURRENCY = 64
MAX_MESSAGE_BYTES = 256 << 20

Response = TypeVar("Response")
Answer = TypeVar("Answer", pb.ClassifyResponse, pb.SegmentResponse, pb.EmbedResponse)
AnyRequest = pb.ClassifyRequest | pb.SegmentRequest | pb.EmbedRequest

_MASK_FORMATS = {
    "png": pb.MASK_FORMAT_PALETTE_PNG,
    "rle": pb.MASK_FORMAT_RLE,
    "raw": pb.MASK_FORMAT_RAW,
}
_MASK_SIZES = {"image": pb.MASK_SIZE_IMAGE, "model": pb.MASK_SIZE_MODEL}
_RETRIED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
_FIRST_BACKOFF = 0.05
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallFailed(Exception):
    """A call that the server, or the way to it, did not answer: code and text of its status.
    retry_after: seconds that the server asked to wait; None where it named none."""

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True)
class ModelInfo:
    """What a server says about a model: its task and its classes."""

    name: str
    task: str
    labels: tuple[str, ...]


class EmbedOptions(TypedDict, total=False):
    """version: empty for the newest. priority: 1 is the most urgent, 0 the model's default."""

    version: str
    priority: int


class ClassifyOptions(EmbedOptions, total=False):
    """top_k: labels an image, 0 for the server's default. threshold: the lowest score to list."""

    top_k: int
    threshold: float


class SegmentOptions(EmbedOptions, total=False):
    """mask_size: the image's or the model's. overlay: also a PNG of the mask over the image."""

    mask_format: Literal["png", "rle", "raw"]
    mask_size: Literal["image", "model"]
    overlay: bool


class AsyncVisionClient:
    """Calls one server, or several in turn.

    `timeout` is the time of a call in seconds, tries included. `retries` counts further tries of a
    call that was refused for the moment (RESOURCE_EXHAUSTED, UNAVAILABLE): after the delay that the
    server names, or a growing one, and on the next server where there are several.
    """

    def __init__(
        self, urls: str | Sequence[str], *, timeout: float = DEFAULT_TIMEOUT, retries: int = 2
    ) -> None:
        self._timeout = timeout
        self._retries = retries
        options = [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ]
        self._channels = [
            grpc.aio.insecure_channel(url, options=options)
            for url in ([urls] if isinstance(urls, str) else urls)
        ]
        self._stubs = [vision_pb2_grpc.VisionServiceStub(channel) for channel in self._channels]
        self._inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(self._channels[0])
        self._turn = 0
        self._classify_stream: SharedStream[AnyRequest, pb.ClassifyResponse] = SharedStream(
            [stub.ClassifyStream for stub in self._stubs]
        )
        self._segment_stream: SharedStream[AnyRequest, pb.SegmentResponse] = SharedStream(
            [stub.SegmentStream for stub in self._stubs]
        )
        self._embed_stream: SharedStream[AnyRequest, pb.EmbedResponse] = SharedStream(
            [stub.EmbedStream for stub in self._stubs]
        )

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
        """Closes every connection."""
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

        Raises CallFailed; of several images each result has its own status instead.
        """
        request = _classify_request(model, images, options)
        response: pb.ClassifyResponse = await self._unary("Classify", request)
        return response

    async def segment(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[SegmentOptions],
    ) -> pb.SegmentResponse:
        """Gives each pixel of one or several images its class; `mask_of` reads the mask.

        Raises CallFailed; of several images each result has its own status instead.
        """
        request = _segment_request(model, images, options)
        response: pb.SegmentResponse = await self._unary("Segment", request)
        return response

    async def embed(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[EmbedOptions],
    ) -> pb.EmbedResponse:
        """Gives one or several images their points on the unit sphere.

        Raises CallFailed; of several images each result has its own status instead.
        """
        request = _embed_request(model, images, options)
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
        """Classifies the images of a folder or of any collection; each with its answer, or with
        what went wrong, in their order."""
        return self._many(
            images,
            concurrency,
            self._classify_stream,
            lambda image: _classify_request(model, image, options),
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
        return self._many(
            images,
            concurrency,
            self._segment_stream,
            lambda image: _segment_request(model, image, options),
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
        return self._many(
            images,
            concurrency,
            self._embed_stream,
            lambda image: _embed_request(model, image, options),
        )

    # What the server has.

    async def model_info(self, model: str) -> ModelInfo:
        """What the server says about a model. Raises CallFailed."""
        config = await self._config(oip.ModelConfigRequest(name=model))
        classes = config.get("classes", "")
        return ModelInfo(
            model, config.get("task", ""), tuple(classes.split("\n")) if classes else ()
        )

    async def models(self) -> list[dict[str, Any]]:
        """Every model of the server: name, version, state and reason, and for those that serve
        task, variant, engine, accuracy and latency (ms by batch size). Raises CallFailed."""
        request = oip.RepositoryIndexRequest()
        index = await self._retrying(
            lambda left: self._inference.RepositoryIndex(request, timeout=left)
        )
        lines = []
        for found in index.models:
            line: dict[str, Any] = {"name": found.name, "version": found.version}
            if found.state == "READY":
                wanted = oip.ModelConfigRequest(name=found.name, version=found.version)
                config = await self._config(wanted)
                for key in ("task", "variant", "engine", "accuracy"):
                    line[key] = config.get(key, "")
                line["latency"] = json.loads(config["latency_ms"])
            lines.append({**line, "state": found.state or "not loaded", "reason": found.reason})
        return lines

    async def _config(self, request: oip.ModelConfigRequest) -> dict[str, str]:
        response = await self._retrying(
            lambda left: self._inference.ModelConfig(request, timeout=left)
        )
        return {key: value.string_value for key, value in response.config.parameters.items()}

    # How calls are made.

    async def _unary(self, method: str, request: AnyRequest) -> Any:
        async def call(left: float) -> Any:
            stub = self._stubs[self._turn % len(self._stubs)]
            self._turn += 1
            return await getattr(stub, method)(request, timeout=left)

        return await self._retrying(call)

    async def _many(
        self,
        images: str | Path | Iterable[ImageInput],
        concurrency: int,
        stream: SharedStream[AnyRequest, Answer],
        request_for: Callable[[ImageInput], AnyRequest],
    ) -> AsyncIterator[tuple[ImageInput, Answer | CallFailed]]:
        async def one(image: ImageInput) -> Answer | CallFailed:
            try:
                request = request_for(image)
            except (OSError, ValueError) as error:
                return CallFailed("INVALID_ARGUMENT", f"{image!r}: {error}")
            try:
                return await self._retrying(lambda left: _ask(stream, request, left))
            except CallFailed as failure:
                return failure

        window: list[tuple[ImageInput, asyncio.Task[Answer | CallFailed]]] = []
        try:
            for image in each_image(images):
                window.append((image, asyncio.create_task(one(image))))
                if len(window) >= concurrency:
                    first, task = window.pop(0)
                    yield first, await task
            while window:
                first, task = window.pop(0)
                yield first, await task
        finally:
            for _, task in window:
                task.cancel()

    async def _retrying(self, call: Callable[[float], Awaitable[Response]]) -> Response:
        """Calls, with the seconds that are left, until it is answered or there is no more try."""
        end = time.monotonic() + self._timeout
        attempt = 0
        while True:
            try:
                return await call(max(0.0, end - time.monotonic()))
            except (grpc.aio.AioRpcError, StreamBroken, CallFailed) as error:
                failure = _failure(error)
            delay = failure.retry_after
            if delay is None:
                delay = _FIRST_BACKOFF * 2.0**attempt
            again = failure.code in _RETRIED and attempt < self._retries
            if not again or time.monotonic() + delay >= end:
                raise failure
            attempt += 1
            await asyncio.sleep(delay)


async def _ask(
    stream: SharedStream[AnyRequest, Answer], request: AnyRequest, left: float
) -> Answer:
    """One call over a stream; its status and timeout travel in the messages."""
    request.options.timeout.CopyFrom(_duration(left))
    response = await stream.ask(request)
    status = response.served.status
    if status.code:
        delay = status.retry_delay if status.HasField("retry_delay") else None
        raise CallFailed(_CODE_NAMES[status.code], status.message, _seconds(delay))
    return response


def _failure(error: grpc.aio.AioRpcError | StreamBroken | CallFailed) -> CallFailed:
    if isinstance(error, CallFailed):
        return error
    if isinstance(error, StreamBroken):
        return CallFailed("UNAVAILABLE", str(error))
    failure = CallFailed(error.code().name, error.details() or "", _retry_after(error))
    failure.__cause__ = error
    return failure


def _retry_after(error: grpc.aio.AioRpcError) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return _seconds(info.retry_delay)
    return None


def _seconds(duration: Duration | None) -> float | None:
    return None if duration is None else duration.seconds + duration.nanos / 1e9


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def _classify_request(
    model: str, images: ImageInput | Sequence[ImageInput], options: ClassifyOptions
) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(
        model=model,
        version=options.get("version", ""),
        images=as_messages(images),
        options=pb.CallOptions(priority=options.get("priority", 0)),
        top_k=options.get("top_k", 0),
        threshold=options.get("threshold", 0.0),
    )


def _segment_request(
    model: str, images: ImageInput | Sequence[ImageInput], options: SegmentOptions
) -> pb.SegmentRequest:
    return pb.SegmentRequest(
        model=model,
        version=options.get("version", ""),
        images=as_messages(images),
        options=pb.CallOptions(priority=options.get("priority", 0)),
        mask_format=_MASK_FORMATS[options.get("mask_format", "png")],
        mask_size=_MASK_SIZES[options.get("mask_size", "image")],
        overlay=options.get("overlay", False),
    )


def _embed_request(
    model: str, images: ImageInput | Sequence[ImageInput], options: EmbedOptions
) -> pb.EmbedRequest:
    return pb.EmbedRequest(
        model=model,
        version=options.get("version", ""),
        images=as_messages(images),
        options=pb.CallOptions(priority=options.get("priority", 0)),
    )
