"""The vision service over REST: an image file as the body, its answer as JSON by the names of
vision.proto; and what the models are, for people."""

import base64
import json
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from aiohttp import web

from serving.base.errors import AnswerTooLarge, InvalidInput, quoted
from serving.batching.ticket import Timing
from serving.images.postprocess import Mask, palette_png
from serving.models.servable import CallOptions, EncodedImage, Servable
from serving.server.endpoints import vision
from serving.server.endpoints.call import Call, InferenceCall
from serving.server.endpoints.declared import UNCOUNTED_BYTES
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import parsed
from serving.server.endpoints.inspection import Inspection
from serving.server.endpoints.raw_tensors import Buffer
from serving.server.http.body import read_body
from serving.server.http.compression import accepted_coding
from serving.server.http.deadline import Deadlines, timeout_of
from serving.server.http.pieces import body_of
from serving.server.http.port import caller_of

_MODELS = "/vision/v1/models"
# Items of a list that are written in one turn of the event loop: some 0.3 ms, of numbers and of
# labels. More hold up other calls, fewer cost more rounds.
_NUMBERS_IN_A_TURN = 1 << 10
_LABELS_IN_A_TURN = 64
_MODELS_IN_A_TURN = 4
# Bytes of base64 for each of a mask.
_BASE64 = 4 / 3
# Bytes of a mask that are encoded at a time, a multiple of 3. More keep the GIL for longer, fewer
# cost more parts.
_SLICE = 192 << 10
_INSTEAD = "send a smaller image, or ask for mask_size=model or mask_format=palette_png"

Item = TypeVar("Item")
_Work = Callable[["_Job"], Coroutine[Any, Any, list[Buffer]]]
_accepted_coding = lru_cache(64)(accepted_coding)


class Asked(NamedTuple):
    """The parameters of a call, out of its URL."""

    priority: int
    top_k: int = vision.DEFAULT_TOP_K
    threshold: float = 0.0
    at_model: bool = False
    as_png: bool = False


class _Job(NamedTuple):
    """A call with all that it needs."""

    call: InferenceCall
    model: Servable
    options: CallOptions
    image: EncodedImage
    asked: Asked


class VisionRest:
    """Converts, calls, converts. Its errors are answered by HttpPort.

    max_answer: bytes that an answer may have.
    timeout_seconds: how long a call may take once its body is there; 0 for ever.
    """

    def __init__(
        self, front: Front, inspection: Inspection, *, max_answer: int, timeout_seconds: float = 0.0
    ) -> None:
        self._front = front
        self._inspection = inspection
        self._max_answer = max_answer
        self._timeout = timeout_seconds or math.inf
        self._deadlines = Deadlines()

    def add_routes(self, app: web.Application) -> None:
        """Adds every route below /vision."""
        app.router.add_get(_MODELS, self.models)
        for model in (_MODELS + "/{model}", _MODELS + "/{model}/versions/{version}"):
            app.router.add_post(model + "/classify", self.classify)
            app.router.add_post(model + "/segment", self.segment)
            app.router.add_post(model + "/embed", self.embed)

    async def models(self, request: web.Request) -> web.Response:
        """Every version of which the caller may know, with what was measured of it."""
        with self._front.control("VisionModels", lambda: caller_of(request)) as call:
            found = await self._inspection.described(call)
            parts = await self._listed(call, "{", "models", found, _MODELS_IN_A_TURN)
            return self._response(request, parts)

    async def classify(self, request: web.Request) -> web.Response:
        """The best classes of the image."""
        return await self._answer(request, "RestClassify", ("top_k", "threshold"), self._classify)

    async def segment(self, request: web.Request) -> web.Response:
        """The class of each pixel, and the share of each class."""
        names = ("mask_size", "mask_format")
        return await self._answer(request, "RestSegment", names, self._segment)

    async def embed(self, request: web.Request) -> web.Response:
        """The image's point on the unit sphere."""
        return await self._answer(request, "RestEmbed", (), self._embed)

    async def _answer(
        self, request: web.Request, method: str, names: Sequence[str], work: _Work
    ) -> web.Response:
        with self._front.call(method, lambda: caller_of(request)) as call:
            seconds = min(self._timeout, parsed(timeout_of, request.headers))
            asked = parsed(read_parameters, request.query, names)
            body = await call.receive(read_body(call, request))
            parts = await self._deadlines.within(
                call, seconds, self._worked(call, request, asked, body, work)
            )
        return self._response(request, parts)

    async def _worked(
        self, call: InferenceCall, request: web.Request, asked: Asked, body: bytes, work: _Work
    ) -> list[Buffer]:
        model = call.resolve(request.match_info["model"], request.match_info.get("version", ""))
        call.brings(1)
        options = call.options(asked.priority, 0.0)
        return await work(_Job(call, model, options, EncodedImage(body), asked))

    def _response(self, request: web.Request, parts: list[Buffer]) -> web.Response:
        response = web.Response(body=body_of(parts), content_type="application/json")
        coding = _accepted_coding(tuple(request.headers.getall("Accept-Encoding", ())))
        if coding is not None:
            response.enable_compression(coding)
        return response

    async def _classify(self, job: _Job) -> list[Buffer]:
        top_k, threshold = job.asked.top_k, job.asked.threshold
        results = await vision.classify(
            job.model, [job.image], job.options, top_k=top_k, threshold=threshold
        )
        found = vision.only(results)
        labels = ({"index": x.index, "name": x.name, "score": x.score} for x in found.labels)
        head = _head(job.model, found.timing)
        return await self._listed(job.call, head, "labels", labels, _LABELS_IN_A_TURN)

    async def _segment(self, job: _Job) -> list[Buffer]:
        model, asked = job.model, job.asked
        most = int(self._max_answer / _BASE64)
        vision.require_task(model, "segmentation")
        if asked.as_png and len(model.facts.labels) > 256:
            raise InvalidInput(
                f"mask_format: a palette PNG holds 256 classes, model {model.facts.name!r} has "
                f"{len(model.facts.labels)}; ask for raw"
            )
        if not asked.as_png and not asked.at_model:
            await vision.check_raw_masks(model, [job.image], job.options, most, _INSTEAD)
        results = await vision.segment(
            model,
            [job.image],
            job.options,
            partial(_mask, as_png=asked.as_png, most=most),
            mask_size="model" if asked.at_model else "image",
            most=most,
            take=lambda found: found,
        )
        found = vision.only(results)
        size = sum(map(len, found.mask))
        job.call.hold("answer", size)
        areas = (
            {"index": x.index, "name": x.name, "fraction": x.fraction, "confidence": x.confidence}
            for x in found.areas
        )
        member = "palette_png" if asked.as_png else "raw"
        head = _head(model, found.timing, height=found.height, width=found.width)
        parts = await self._listed(job.call, head, "areas", areas, _LABELS_IN_A_TURN, size)
        return [*parts[:-1], f'], "{member}": "'.encode(), *found.mask, b'"}']

    async def _embed(self, job: _Job) -> list[Buffer]:
        found = vision.only(await vision.embed(job.model, [job.image], job.options))
        head, values = _head(job.model, found.timing), found.values.tolist()
        return await self._listed(job.call, head, "values", values, _NUMBERS_IN_A_TURN)

    async def _listed(
        self,
        call: Call,
        head: str,
        member: str,
        items: Iterable[Item],
        in_a_turn: int,
        size: int = 0,
    ) -> list[Buffer]:
        """An object that ends with a list, in parts, which the call holds where they are large.

        head: the object without its end.
        size: bytes that the answer has beside them.
        Raises AnswerTooLarge.
        """
        parts: list[Buffer] = [f'{head}"{member}": ['.encode()]
        left = iter(items)
        while some := list(islice(left, in_a_turn)):
            if len(parts) > 1:
                await self._front.turns.next()
                parts.append(b", ")
            parts.append(json.dumps(some)[1:-1].encode())
            size += len(parts[-1])
            if size > self._max_answer:
                raise AnswerTooLarge(f"the answer has over {self._max_answer} bytes: ask for less")
            if size > UNCOUNTED_BYTES:
                call.hold("answer", len(parts[-1]))
        return [*parts, b"]}"]


def _head(model: Servable, timing: Timing, **members: int) -> str:
    """The beginning of an answer: what gave it, and where its time went."""
    facts = model.facts
    served = {"model": facts.name, "version": facts.version, "variant": facts.variant}
    times = {
        "decode_us": round(timing.decode * 1e6),
        "queue_us": round(timing.queue * 1e6),
        "infer_us": round(timing.infer * 1e6),
        "postprocess_us": round(timing.postprocess * 1e6),
        "batch_size": timing.batch_size,
    }
    return json.dumps({**served, "timing": times, **members})[:-1] + ", "


def _mask(mask: Mask, *, as_png: bool, most: int) -> list[bytes]:
    """A mask in base64, in slices. Takes milliseconds: for a worker thread."""
    if as_png:
        data = memoryview(palette_png(mask, most))
    else:
        data = np.ascontiguousarray(mask).data.cast("B")
    return [base64.b64encode(data[at : at + _SLICE]) for at in range(0, len(data), _SLICE)]


def read_parameters(query: Mapping[str, str], names: Sequence[str]) -> Asked:
    """The parameters that a URL has of these, and `priority`. Raises InvalidInput."""
    known = ("priority", *names)
    for name in query:
        if name not in known:
            raise InvalidInput(f"no parameter {quoted(name)}; expected some of {', '.join(known)}")
    return Asked(
        _whole(query.get("priority", "0"), "priority"),
        _whole(query.get("top_k", str(vision.DEFAULT_TOP_K)), "top_k"),
        _share(query.get("threshold", "0")),
        _one_of(query.get("mask_size", "image"), "mask_size", ("image", "model")) == "model",
        _one_of(query.get("mask_format", "raw"), "mask_format", ("raw", "palette_png")) != "raw",
    )


def _whole(given: str, name: str) -> int:
    if not given.isascii() or not given.isdecimal() or len(given) > 9:
        raise InvalidInput(f"{name}: expected a whole number, got {quoted(given)}")
    return int(given)


def _share(given: str) -> float:
    try:
        return float(given)
    except ValueError as error:
        raise InvalidInput(f"threshold: expected 0 to 1, got {quoted(given)}") from error


def _one_of(given: str, name: str, words: Sequence[str]) -> str:
    if given not in words:
        raise InvalidInput(f"{name}: expected {' or '.join(words)}, got {quoted(given)}")
    return given
