"""A client for VisionService: `VisionClient` for scripts, `AsyncVisionClient` for asyncio.

Stands alone on the protos: it needs grpcio, protobuf, numpy and Pillow, nothing else of ours.
"""

import asyncio
import io
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import grpc
import numpy as np
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray
from PIL import Image as PillowImage

from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc, vision_pb2_grpc
from protos.gen import vision_pb2 as pb

# A path to an image file, the bytes of one, or decoded pixels: uint8 [height, width, 3] RGB.
ImageInput = str | Path | bytes | NDArray[np.uint8]
MaskFormat = Literal["png", "rle", "raw"]
MaskSize = Literal["image", "model"]

DEFAULT_TIMEOUT = 30.0
MAX_MESSAGE_BYTES = 256 << 20

Response = TypeVar("Response")

_MASK_FORMATS = {
    "png": pb.MASK_FORMAT_PALETTE_PNG,
    "rle": pb.MASK_FORMAT_RLE,
    "raw": pb.MASK_FORMAT_RAW,
}
_MASK_SIZES = {"image": pb.MASK_SIZE_IMAGE, "model": pb.MASK_SIZE_MODEL}
_RETRIED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
_FIRST_BACKOFF = 0.05


class CallFailed(Exception):
    """A call that the server, or the way to it, did not answer: code and text of its status."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True)
class ModelInfo:
    """What a server says about a model: its task and its classes."""

    name: str
    task: str
    labels: tuple[str, ...]


class AsyncVisionClient:
    """Calls one server. `retries` counts further tries of a call that was refused for the moment
    (RESOURCE_EXHAUSTED, UNAVAILABLE), after the delay that the server names, within the timeout."""

    def __init__(self, url: str, *, timeout: float = DEFAULT_TIMEOUT, retries: int = 2) -> None:
        self._timeout = timeout
        self._retries = retries
        self._channel = grpc.aio.insecure_channel(
            url,
            options=[
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ],
        )
        self._stub = vision_pb2_grpc.VisionServiceStub(self._channel)
        self._inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

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
        """Closes the connection."""
        await self._channel.close()

    async def model_info(self, model: str) -> ModelInfo:
        """What the server says about a model. Raises CallFailed."""
        request = oip.ModelConfigRequest(name=model)
        response = await self._retrying(self._inference.ModelConfig, request)
        parameters = {k: v.string_value for k, v in response.config.parameters.items()}
        classes = parameters.get("classes", "")
        return ModelInfo(
            model, parameters.get("task", ""), tuple(classes.split("\n")) if classes else ()
        )

    async def models(self) -> list[dict[str, Any]]:
        """Every model of the server: name, version, state and reason, and for those that serve
        task, variant, engine, accuracy and latency (ms by batch size). Raises CallFailed."""
        request = oip.RepositoryIndexRequest()
        index = await self._retrying(self._inference.RepositoryIndex, request)
        lines = []
        for found in index.models:
            line: dict[str, Any] = {"name": found.name, "version": found.version}
            if found.state == "READY":
                config = oip.ModelConfigRequest(name=found.name, version=found.version)
                response = await self._retrying(self._inference.ModelConfig, config)
                described = response.config.parameters
                for key in ("task", "variant", "engine", "accuracy"):
                    line[key] = described[key].string_value if key in described else ""
                line["latency"] = json.loads(described["latency_ms"].string_value)
            lines.append({**line, "state": found.state, "reason": found.reason})
        return lines

    async def classify(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        *,
        version: str = "",
        top_k: int = 0,
        threshold: float = 0.0,
        priority: int = 0,
    ) -> pb.ClassifyResponse:
        """Ranks the classes of one or several images; top_k 0 is the server's default.

        Raises CallFailed; of several images each result has its own status instead.
        """
        request = pb.ClassifyRequest(
            model=model,
            version=version,
            images=_images(images),
            options=pb.CallOptions(priority=priority),
            top_k=top_k,
            threshold=threshold,
        )
        return await self._retrying(self._stub.Classify, request)

    async def segment(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        *,
        version: str = "",
        mask_format: MaskFormat = "png",
        mask_size: MaskSize = "image",
        overlay: bool = False,
        priority: int = 0,
    ) -> pb.SegmentResponse:
        """Gives each pixel of one or several images its class; `mask_of` reads the mask.

        Raises CallFailed; of several images each result has its own status instead.
        """
        request = pb.SegmentRequest(
            model=model,
            version=version,
            images=_images(images),
            options=pb.CallOptions(priority=priority),
            mask_format=_MASK_FORMATS[mask_format],
            mask_size=_MASK_SIZES[mask_size],
            overlay=overlay,
        )
        return await self._retrying(self._stub.Segment, request)

    async def embed(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        *,
        version: str = "",
        priority: int = 0,
    ) -> pb.EmbedResponse:
        """Gives one or several images their points on the unit sphere.

        Raises CallFailed; of several images each result has its own status instead.
        """
        request = pb.EmbedRequest(
            model=model,
            version=version,
            images=_images(images),
            options=pb.CallOptions(priority=priority),
        )
        return await self._retrying(self._stub.Embed, request)

    async def _retrying(self, method: Callable[..., Awaitable[Response]], request: Any) -> Response:
        end = time.monotonic() + self._timeout
        for attempt in range(self._retries + 1):
            try:
                return await method(request, timeout=max(0.0, end - time.monotonic()))
            except grpc.aio.AioRpcError as error:
                delay = _retry_delay(error, attempt)
                again = error.code() in _RETRIED and attempt < self._retries
                if not again or time.monotonic() + delay >= end:
                    raise CallFailed(error.code().name, error.details() or "") from error
            await asyncio.sleep(delay)
        raise AssertionError("unreachable: the last try returns or raises")


class VisionClient:
    """AsyncVisionClient for code without an event loop; not to be shared between threads."""

    def __init__(self, url: str, *, timeout: float = DEFAULT_TIMEOUT, retries: int = 2) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(_connect(url, timeout, retries))

    def __enter__(self) -> "VisionClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._runner.run(self._client.close())
        self._runner.close()

    def classify(
        self, model: str, images: ImageInput | Sequence[ImageInput], **options: Any
    ) -> pb.ClassifyResponse:
        """See AsyncVisionClient.classify."""
        return self._runner.run(self._client.classify(model, images, **options))

    def segment(
        self, model: str, images: ImageInput | Sequence[ImageInput], **options: Any
    ) -> pb.SegmentResponse:
        """See AsyncVisionClient.segment."""
        return self._runner.run(self._client.segment(model, images, **options))

    def embed(
        self, model: str, images: ImageInput | Sequence[ImageInput], **options: Any
    ) -> pb.EmbedResponse:
        """See AsyncVisionClient.embed."""
        return self._runner.run(self._client.embed(model, images, **options))


async def _connect(url: str, timeout: float, retries: int) -> AsyncVisionClient:
    """On the event loop, to which a channel belongs from the start."""
    return AsyncVisionClient(url, timeout=timeout, retries=retries)


def mask_of(result: pb.Segmentation) -> NDArray[np.uint16]:
    """The class map [height, width] of a result, whatever format it came in."""
    match result.WhichOneof("mask"):
        case "palette_png":
            with PillowImage.open(io.BytesIO(result.palette_png)) as image:
                return np.asarray(image).astype(np.uint16)
        case "rle":
            runs = np.array(result.rle.runs, dtype=np.uint32).reshape(-1, 2)
            flat = np.repeat(runs[:, 0].astype(np.uint16), runs[:, 1])
        case _:
            wide = len(result.raw) > result.height * result.width
            flat = np.frombuffer(result.raw, np.uint16 if wide else np.uint8).astype(np.uint16)
    return flat.reshape(result.height, result.width)


def _images(images: ImageInput | Sequence[ImageInput]) -> list[pb.Image]:
    if isinstance(images, str | Path | bytes | np.ndarray):
        return [_image(images)]
    return [_image(image) for image in images]


def _image(image: ImageInput) -> pb.Image:
    if isinstance(image, bytes):
        return pb.Image(encoded=image)
    if isinstance(image, str | Path):
        return pb.Image(encoded=Path(image).read_bytes())
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"pixels: expected uint8 [height, width, 3], got {image.dtype} {list(image.shape)}"
        )
    raw = pb.RawImage(height=image.shape[0], width=image.shape[1], rgb=image.tobytes())
    return pb.Image(raw=raw)


def _retry_delay(error: grpc.aio.AioRpcError, attempt: int) -> float:
    """Seconds that the server asks to wait, or else a growing pause."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    seconds = info.retry_delay.ToTimedelta().total_seconds()
                    return float(seconds)
    return _FIRST_BACKOFF * math.pow(2, attempt)
