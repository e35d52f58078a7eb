"""VisionService: images in; labels, masks and embeddings out."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from protos.gen import vision_pb2 as pb
from serving.base.errors import InvalidInput, ServingError
from serving.base.task import Task
from serving.batching.ticket import Timing
from serving.models.servable import CallOptions, ImageSource, Servable
from serving.server.endpoints import vision
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import parsed
from serving.server.error_status import message_of
from serving.server.rpc.call import caller_of, inference_call
from serving.server.rpc.conversation import Conversation
from serving.server.rpc.images import (
    MAX_IMAGES_PER_CALL,
    Request,
    read_names,
    read_request,
    source_of,
    wrong_number,
)
from serving.server.rpc.masks import (
    INSTEAD,
    SMALL,
    AnswerSize,
    check_form,
    failed_field,
    mask_field,
    result_field,
    segment_response,
)
from serving.server.rpc.methods import methods_of
from serving.server.wire.errors import code_of, retry_delay
from serving.server.wire.interface import Call, Method

# Seconds of the longest google.protobuf.Duration: 10,000 years.
_LONGEST_TIMEOUT = 315_576_000_000

Images = Sequence[pb.Image | memoryview]
Found = TypeVar("Found")
Result = TypeVar("Result")
# The fields of a message: a message of its own would be copied into the one that it is for.
_Fields = dict[str, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["VisionService"]


class VisionService:
    """Converts, calls, converts. Each method takes a serialised request and gives a serialised
    answer, of `max_answer` bytes at most."""

    def __init__(self, front: Front, max_answer: int) -> None:
        self._front = front
        self._max_answer = max_answer

    def methods(self) -> dict[str, Method]:
        """The methods of the service, by path."""
        return methods_of(SERVICE, self, self._admit)

    def _admit(self, method: str, rpc: Call) -> None:
        self._front.meet(self._front.call(method, caller_of(rpc)))

    async def Classify(self, data: bytes, rpc: Call) -> bytes:
        """Ranks the classes of each image."""
        with inference_call(self._front, "Classify", data, rpc) as call:
            return await _classify(*read_request(pb.ClassifyRequest, data), call)

    async def Segment(self, data: bytes, rpc: Call) -> bytes:
        """Gives each pixel of each image its class."""
        with inference_call(self._front, "Segment", data, rpc) as call:
            return await self._segment(*read_request(pb.SegmentRequest, data), call)

    async def Embed(self, data: bytes, rpc: Call) -> bytes:
        """Gives each image a point on the unit sphere."""
        with inference_call(self._front, "Embed", data, rpc) as call:
            return await _embed(*read_request(pb.EmbedRequest, data), call)

    async def ClassifyStream(self, rpc: Call) -> None:
        """Classify, many calls over one stream."""
        await self._stream(
            "ClassifyStream", rpc, pb.ClassifyRequest, _classify, pb.ClassifyResponse
        )

    async def SegmentStream(self, rpc: Call) -> None:
        """Segment, many calls over one stream."""
        await self._stream(
            "SegmentStream", rpc, pb.SegmentRequest, self._segment, pb.SegmentResponse
        )

    async def EmbedStream(self, rpc: Call) -> None:
        """Embed, many calls over one stream."""
        await self._stream("EmbedStream", rpc, pb.EmbedRequest, _embed, pb.EmbedResponse)

    async def _stream(
        self,
        method: str,
        rpc: Call,
        request: type[Request],
        handle: Callable[[Request, Images, InferenceCall], Awaitable[bytes]],
        response: Callable[..., pb.ClassifyResponse | pb.SegmentResponse | pb.EmbedResponse],
    ) -> None:
        """Answers each request of a stream by `handle`; a call that fails says so in its answer."""
        deadline, caller = rpc.deadline, caller_of(rpc)

        async def answer(data: bytes) -> bytes:
            given = None
            try:
                with self._front.call(method, caller, len(data), deadline) as call:
                    given, images = read_request(request, data)
                    return await handle(given, images, call)
            except ServingError as error:
                if given is None:  # it was refused before it was read
                    with suppress(InvalidInput):
                        given = read_names(request, data)
                return response(served=_failed(given, error)).SerializeToString()

        await Conversation(self._front, method, rpc, answer).run()

    async def _segment(
        self, request: pb.SegmentRequest, images: Images, call: InferenceCall
    ) -> bytes:
        model, sources = _opened(request, images, call, "segmentation")
        options = _options(request, call)
        mask_format = _named(request.mask_format, "mask_format", pb.MaskFormat)
        at_model = _named(request.mask_size, "mask_size", pb.MaskSize) == pb.MASK_SIZE_MODEL
        check_form(mask_format, model.facts)
        most, overlay = self._max_answer, request.overlay
        size = AnswerSize(call, most)
        if mask_format == pb.MASK_FORMAT_RAW and not at_model:
            await vision.check_raw_masks(model, sources, options, most, INSTEAD)

        results = await vision.segment(
            model,
            sources,
            options,
            lambda mask: mask_field(mask, mask_format, most),
            mask_size="model" if at_model else "image",
            overlay=overlay,
            most=most,
            take=lambda found: size.add(result_field(found, _timing(found.timing))),
        )
        parts = _each(results, lambda found: found, failed_field)
        served = _served(model, request)
        if size.total <= SMALL:
            return segment_response(served, parts)
        return await model.run_aside(
            lambda _: segment_response(served, parts), options.memory, options.deadline
        )


async def _classify(request: pb.ClassifyRequest, images: Images, call: InferenceCall) -> bytes:
    model, sources = _opened(request, images, call, "classification")
    options = _options(request, call)
    top_k = request.top_k or vision.DEFAULT_TOP_K

    found = await vision.classify(model, sources, options, top_k=top_k, threshold=request.threshold)
    response = pb.ClassifyResponse(
        served=_served(model, request), results=_each(found, _classification, _status_alone)
    )
    return response.SerializeToString()


def _classification(found: vision.Classification) -> _Fields:
    labels = [{"index": x.index, "name": x.name, "score": x.score} for x in found.labels]
    return {"timing": _timing(found.timing), "labels": labels}


async def _embed(request: pb.EmbedRequest, images: Images, call: InferenceCall) -> bytes:
    model, sources = _opened(request, images, call, "embedding")
    found = await vision.embed(model, sources, _options(request, call))
    response = pb.EmbedResponse(
        served=_served(model, request), results=_each(found, _embedding, _status_alone)
    )
    return response.SerializeToString()


def _embedding(found: vision.Embedding) -> _Fields:
    return {"timing": _timing(found.timing), "values": found.values.tolist()}


def _status_alone(status: pb.Status) -> _Fields:
    return {"status": status}


_AnyRequest = pb.ClassifyRequest | pb.SegmentRequest | pb.EmbedRequest


def _opened(
    request: _AnyRequest, images: Images, call: InferenceCall, task: Task
) -> tuple[Servable, list[ImageSource]]:
    """The model and the images of a request. Raises ServingError for either."""
    options = request.options
    call.id = options.id
    if options.traceparent:
        call.join_trace(options.traceparent, options.tracestate)
    model = call.resolve(request.model, request.version)
    vision.require_task(model, task)
    if not 1 <= len(images) <= MAX_IMAGES_PER_CALL:
        raise wrong_number(len(images))
    call.brings(len(images))
    sources = [parsed(source_of, image, index) for index, image in enumerate(images)]
    return model, sources


def _options(request: _AnyRequest, call: InferenceCall) -> CallOptions:
    """Priority and timeout; a timeout of 0 is none, as one that is not set."""
    timeout = request.options.timeout
    seconds = timeout.seconds + timeout.nanos / 1e9
    if not 0 <= timeout.seconds <= _LONGEST_TIMEOUT or not 0 <= timeout.nanos < 1_000_000_000:
        raise InvalidInput(
            f"options.timeout: expected 0 s to {_LONGEST_TIMEOUT} s, nanos of 0 to 999999999, "
            f"got {timeout.seconds} s and {timeout.nanos} ns"
        )
    return call.options(request.options.priority, seconds)


def _named(number: int, field: str, values: Any) -> int:
    """The number of an enum's value. Raises InvalidInput for one that the enum does not have."""
    if number not in values.values():
        raise InvalidInput(f"{field}: expected one of {', '.join(values.keys())}, got {number}")
    return number


def _each(
    found: Sequence[Found | ServingError],
    result: Callable[[Found], Result],
    failed: Callable[[pb.Status], Result],
) -> list[Result]:
    """The result of every image. A single one that fails fails the call; of several, each carries
    its own status."""
    if len(found) == 1:
        return [result(vision.only(found))]
    return [
        failed(_status(item)) if isinstance(item, ServingError) else result(item) for item in found
    ]


def _status(error: ServingError) -> pb.Status:
    return pb.Status(
        code=code_of(error).value[0], message=message_of(error), retry_delay=retry_delay(error)
    )


def _served(model: Servable, request: _AnyRequest) -> pb.Served:
    return pb.Served(
        model=model.facts.name,
        version=model.facts.version,
        variant=model.facts.variant,
        id=request.options.id,
    )


def _failed(request: _AnyRequest | None, error: ServingError) -> pb.Served:
    """The answer to a call of a stream that failed; it names no model where the request is no
    message."""
    if request is None:
        return pb.Served(status=_status(error))
    return pb.Served(
        model=request.model,
        version=request.version,
        id=request.options.id,
        status=_status(error),
    )


def _timing(timing: Timing) -> _Fields:
    return {
        "decode_us": round(timing.decode * 1e6),
        "queue_us": round(timing.queue * 1e6),
        "infer_us": round(timing.infer * 1e6),
        "postprocess_us": round(timing.postprocess * 1e6),
        "batch_size": timing.batch_size,
    }
