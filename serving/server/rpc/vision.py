"""VisionService: images in; labels, masks and embeddings out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from protos.gen import vision_pb2 as pb
from protos.gen import vision_pb2_grpc
from serving.base.errors import InvalidInput, ServingError
from serving.base.task import Task
from serving.batching.ticket import Timing
from serving.images.postprocess import run_lengths
from serving.models.servable import CallOptions, EncodedImage, ImageSource, RawPixels, Servable
from serving.server.endpoints import vision
from serving.server.endpoints.front import Call, Front
from serving.server.rpc.call import Context, stream, unary
from serving.server.rpc.status import code_of, retry_delay

MAX_IMAGES_PER_CALL = 256

Result = TypeVar("Result", pb.Classification, pb.Segmentation, pb.Embedding)


class VisionService(vision_pb2_grpc.VisionServiceServicer):
    """Converts, calls, converts."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """See vision.proto."""
        return await unary(self._front, "Classify", request, context, _classify)

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:
        """See vision.proto."""
        return await unary(self._front, "Segment", request, context, _segment)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """See vision.proto."""
        return await unary(self._front, "Embed", request, context, _embed)

    async def ClassifyStream(self, _: AsyncIterator[pb.ClassifyRequest], context: Context) -> None:
        """See vision.proto."""

        def failed(request: pb.ClassifyRequest, error: ServingError) -> pb.ClassifyResponse:
            return pb.ClassifyResponse(served=_failed(request, error))

        await stream(self._front, "ClassifyStream", context, _classify, failed)

    async def SegmentStream(self, _: AsyncIterator[pb.SegmentRequest], context: Context) -> None:
        """See vision.proto."""

        def failed(request: pb.SegmentRequest, error: ServingError) -> pb.SegmentResponse:
            return pb.SegmentResponse(served=_failed(request, error))

        await stream(self._front, "SegmentStream", context, _segment, failed)

    async def EmbedStream(self, _: AsyncIterator[pb.EmbedRequest], context: Context) -> None:
        """See vision.proto."""

        def failed(request: pb.EmbedRequest, error: ServingError) -> pb.EmbedResponse:
            return pb.EmbedResponse(served=_failed(request, error))

        await stream(self._front, "EmbedStream", context, _embed, failed)


async def _classify(request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
    model, sources = _opened(request, call, "classification")
    options = _options(request, call)
    top_k = request.top_k or vision.DEFAULT_TOP_K

    async def one(source: ImageSource) -> pb.Classification:
        found = await vision.classify(
            model, source, options, top_k=top_k, threshold=request.threshold
        )
        labels = [{"index": x.index, "name": x.name, "score": x.score} for x in found.labels]
        return pb.Classification(timing=_timing(found.timing), labels=labels)

    results = await _each(sources, one, pb.Classification)
    return pb.ClassifyResponse(served=_served(model, request), results=results)


async def _segment(request: pb.SegmentRequest, call: Call) -> pb.SegmentResponse:
    model, sources = _opened(request, call, "segmentation")
    options = _options(request, call)
    mask_format = request.mask_format or pb.MASK_FORMAT_PALETTE_PNG
    png = mask_format == pb.MASK_FORMAT_PALETTE_PNG
    if mask_format not in pb.MaskFormat.values():
        raise InvalidInput(f"mask_format: expected one of {pb.MaskFormat.keys()}")
    if png and len(model.facts.labels) > 256:
        raise InvalidInput(
            f"mask_format: a palette PNG holds 256 classes, model {model.facts.name!r} has "
            f"{len(model.facts.labels)}; ask for RLE or raw"
        )

    async def one(source: ImageSource) -> pb.Segmentation:
        found = await vision.segment(
            model,
            source,
            options,
            mask_size="model" if request.mask_size == pb.MASK_SIZE_MODEL else "image",
            png=png,
            overlay=request.overlay,
        )
        height, width = found.mask.shape
        result = pb.Segmentation(
            timing=_timing(found.timing), height=height, width=width, overlay_png=found.overlay_png
        )
        for area in found.areas:
            result.areas.add(
                index=area.index,
                name=area.name,
                fraction=area.fraction,
                confidence=area.confidence,
            )
        if found.palette_png is not None:
            result.palette_png = found.palette_png
        elif mask_format == pb.MASK_FORMAT_RLE:
            result.rle.runs.extend(run_lengths(found.mask).tolist())
        else:
            result.raw = np.ascontiguousarray(found.mask).tobytes()
        return result

    results = await _each(sources, one, pb.Segmentation)
    return pb.SegmentResponse(served=_served(model, request), results=results)


async def _embed(request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
    model, sources = _opened(request, call, "embedding")
    options = _options(request, call)

    async def one(source: ImageSource) -> pb.Embedding:
        found = await vision.embed(model, source, options)
        return pb.Embedding(timing=_timing(found.timing), values=found.values.tolist())

    results = await _each(sources, one, pb.Embedding)
    return pb.EmbedResponse(served=_served(model, request), results=results)


_AnyRequest = pb.ClassifyRequest | pb.SegmentRequest | pb.EmbedRequest


def _opened(request: _AnyRequest, call: Call, task: Task) -> tuple[Servable, list[ImageSource]]:
    """The model and the images of a request. Raises what is wrong with either."""
    call.id = request.options.id
    model = call.resolve(request.model, request.version)
    vision.require_task(model, task)
    if not 1 <= len(request.images) <= MAX_IMAGES_PER_CALL:
        raise InvalidInput(
            f"images: expected 1 to {MAX_IMAGES_PER_CALL} in a call, got {len(request.images)}"
        )
    sources = [_source(image, index) for index, image in enumerate(request.images)]
    call.hold(sum(len(source.data) for source in sources))
    return model, sources


def _source(image: pb.Image, index: int) -> ImageSource:
    match image.WhichOneof("source"):
        case "encoded":
            return EncodedImage(image.encoded)
        case "raw":
            return RawPixels(image.raw.rgb, image.raw.height, image.raw.width)
        case _:
            raise InvalidInput(f"images[{index}]: expected encoded or raw, got neither")


def _options(request: _AnyRequest, call: Call) -> CallOptions:
    timeout = request.options.timeout
    return call.options(request.options.priority, timeout.seconds + timeout.nanos / 1e9)


async def _each(
    sources: Sequence[ImageSource],
    one: Callable[[ImageSource], Awaitable[Result]],
    empty: Callable[..., Result],
) -> list[Result]:
    """The result of every image. A single one that fails fails the call; of several, each carries
    its own status."""
    if len(sources) == 1:
        return [await one(sources[0])]

    async def guarded(source: ImageSource) -> Result:
        try:
            return await one(source)
        except ServingError as error:
            return empty(status=_status(error))

    return list(await asyncio.gather(*(guarded(source) for source in sources)))


def _status(error: ServingError) -> pb.Status:
    return pb.Status(
        code=code_of(error).value[0], message=str(error), retry_delay=retry_delay(error)
    )


def _served(model: Servable, request: _AnyRequest) -> pb.Served:
    return pb.Served(
        model=model.facts.name,
        version=model.facts.version,
        variant=model.facts.variant,
        id=request.options.id,
    )


def _failed(request: _AnyRequest, error: ServingError) -> pb.Served:
    return pb.Served(
        model=request.model,
        version=request.version,
        id=request.options.id,
        status=_status(error),
    )


def _timing(timing: Timing) -> dict[str, int]:
    """The fields of a Timing: a message of its own would be copied into the one that it is for."""
    return {
        "decode_us": round(timing.decode * 1e6),
        "queue_us": round(timing.queue * 1e6),
        "infer_us": round(timing.infer * 1e6),
        "postprocess_us": round(timing.postprocess * 1e6),
        "batch_size": timing.batch_size,
    }
