"""Servers that have the model, asked over gRPC: as many calls under way as they take, and each by
its speed."""

import asyncio
import io
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from protos.gen import vision_pb2 as pb
from scoring.errors import ImageFault, ScoringError
from scoring.facts import Identity
from scoring.rows import Answer, areas_answer, labels_answer
from scoring.scorers.masks import PALETTE_CLASSES, mask_png
from scoring.scorers.scorer import Question
from serving.base.task import TASKS, Task
from serving.cli.predictor import model_info
from serving.client import AsyncVisionClient, BadTls, CallFailed, ModelInfo, mask_of
from serving.client.calls import failed

# Images of a call. More cost a server less, and wait longer for each other.
_ROWS = 32
# Calls under way at each server. Fewer leave its batches unfilled while answers travel; more only
# wait in its queue.
_SEATS = 4
# Bytes of the images of a call; a larger image goes alone, in a message of at most so many MiB.
_MOST_BYTES, _MESSAGE_MIB = 8 << 20, 33
# Seconds of a call, and seconds without an answer of any server after which the job ends.
_TIMEOUT, _PATIENCE = 60.0, 180.0
# Seconds before a server is asked again that refused and named no delay; doubled each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# Seconds: no delay that a server asks for is longer.
_LONGEST_DELAY = 3600.0
# Tries of a call, while others are answered, after which its images are tried one by one; and tries
# of such an image after which it is the image's fault.
_TOGETHER, _ALONE = 3, 20
# Codes that say something of the images, and not of the caller or the model.
_OF_THE_IMAGES = ("INVALID_ARGUMENT", "INTERNAL", "UNKNOWN", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED")
_PNG = b"\x89PNG\r\n\x1a\n"


class _Apart(Exception):
    """A call failed for which one of its images may be to blame."""


@dataclass
class _Server:
    """One server.

    refusals: calls in a row that it refused for the moment.
    """

    url: str
    client: AsyncVisionClient
    refusals: int = 0


class ServerScorer:
    """A model on one or several servers."""

    rows = _ROWS
    most_bytes = _MOST_BYTES

    def __init__(self, servers: Sequence[_Server], identity: Identity, question: Question) -> None:
        self.identity = identity
        self.seats = _SEATS * len(servers)
        self._question = question
        # A call takes the seat that has been free for longest: of a fast server there is one soon.
        self._free: asyncio.Queue[_Server] = asyncio.Queue()
        for _ in range(_SEATS):
            for server in servers:
                self._free.put_nowait(server)
        self._answered = 0
        # When every server had refused or failed since; inf while one answers.
        self._silent_since = math.inf

    async def score(self, images: Sequence[bytes]) -> Sequence[Answer | ImageFault]:
        """The answer to each image, or why it has none."""
        answers: dict[int, Answer | ImageFault] = {}
        left = list(range(len(images)))
        tries, answered = 0, self._answered
        while left:
            try:
                found = await self._ask([images[i] for i in left])
            except _Apart:
                found, tries = [""] * len(left), _TOGETHER
            reason = ""
            for i, answer in zip(list(left), found, strict=True):
                if isinstance(answer, str):
                    reason = answer
                else:
                    answers[i] = answer
                    left.remove(i)
            # A try counts where other images had better luck meanwhile.
            tries += self._answered > answered
            answered = self._answered
            if len(images) > 1 and tries >= _TOGETHER:
                for i in left:
                    [answers[i]] = await self.score([images[i]])
                left = []
            elif left and tries >= _ALONE:
                answers[left.pop()] = ImageFault(f"refused {tries} times: {reason}")
        return [answers[i] for i in range(len(images))]

    async def _ask(self, images: Sequence[bytes]) -> Sequence[Answer | ImageFault | str]:
        """What one server says to images now: answers, faults, and the reasons of those that it
        refuses for the moment."""
        server = await self._free.get()
        pause = 0.0
        try:
            response = await _call(server.client, self.identity.task, images, self._question)
            self._check_served(server, response.served)
            found = [self._read(result, server) for result in response.results]
            failures = [one for one in found if isinstance(one, CallFailed)]
            pause = self._pause(server, failures[0]) if failures else 0.0
            if len(failures) < len(found):
                server.refusals = 0
                self._answered += 1
                self._silent_since = math.inf
            return [str(one) if isinstance(one, CallFailed) else one for one in found]
        except CallFailed as error:
            if not _for_now(error):
                fault = self._fault(error, server)
                if len(images) > 1:
                    raise _Apart from error
                return [fault]
            pause = self._pause(server, error)
            self._silent_since = min(self._silent_since, time.monotonic())
            if time.monotonic() - self._silent_since > _PATIENCE:
                raise ScoringError(
                    f"{server.url}: no answer for {_PATIENCE:.0f} s: {error}"
                ) from error
            return [str(error)] * len(images)
        finally:
            asyncio.get_running_loop().call_later(pause, self._free.put_nowait, server)

    def _pause(self, server: _Server, error: CallFailed) -> float:
        """Seconds in which nobody takes the seat again that was refused."""
        server.refusals += 1
        if error.retry_after is not None:
            return min(error.retry_after, _LONGEST_DELAY)
        return float(min(_FIRST_PAUSE * 2.0 ** min(server.refusals, 10), _LONGEST_PAUSE))

    def _read(self, result: Any, server: _Server) -> Answer | ImageFault | CallFailed:
        """One result of an answer; a CallFailed is one that was refused for the moment."""
        if result.HasField("status") and result.status.code:
            error = failed(result.status)
            return error if _for_now(error) else self._fault(error, server)
        try:
            return self._answer(result)
        except ValueError as error:
            raise ScoringError(f"{server.url}: its answer does not fit: {error}") from error

    def _fault(self, error: CallFailed, server: _Server) -> ImageFault:
        """The error of an image. Raises ScoringError for one that every image would have."""
        if error.code not in _OF_THE_IMAGES:
            raise ScoringError(f"{server.url}: {error}") from error
        return ImageFault(error.message if error.code == "INVALID_ARGUMENT" else str(error))

    def _answer(self, result: Any) -> Answer:
        """Raises ValueError for one that does not fit the model."""
        identity = self.identity
        if identity.task == "classification":
            labels = [(x.index, x.name, x.score) for x in result.labels]
            if not labels:
                raise ValueError("no labels")
            self._check_classes([index for index, _, _ in labels])
            return labels_answer(labels)
        if identity.task == "embedding":
            values = np.array(result.values, np.float32)
            if len(values) != identity.length or not np.isfinite(values).all():
                raise ValueError(f"{len(values)} values, expected {identity.length} finite ones")
            return {"embedding": values}
        areas = [(x.index, x.name, x.fraction, x.confidence) for x in result.areas]
        self._check_classes([index for index, *_ in areas])
        return areas_answer(result.height, result.width, areas, self._png(result))

    def _png(self, result: pb.Segmentation) -> bytes:
        if not self._question.masks:
            return b""
        if self.identity.classes > PALETTE_CLASSES:
            return mask_png(mask_of(result), self.identity.classes)
        if not result.palette_png.startswith(_PNG):
            raise ValueError("no PNG of the mask")
        return result.palette_png

    def _check_classes(self, indices: Sequence[int]) -> None:
        highest, classes = max(indices, default=0), self.identity.classes
        if classes and highest >= classes:
            raise ValueError(f"class {highest}, the model has {classes}")

    def _check_served(self, server: _Server, served: pb.Served) -> None:
        """Raises ScoringError where another version or variant has answered."""
        now = (served.version, served.variant)
        if now != (self.identity.version, self.identity.variant):
            raise ScoringError(
                f"{server.url}: version {now[0]}, {now[1]} answers now; the job began with "
                f"{self.identity}"
            )


@asynccontextmanager
async def open_servers(question: Question) -> AsyncIterator[ServerScorer]:
    """Connects to all servers, which must have the same version and variant of the model. Raises
    ScoringError where one has not."""
    async with AsyncExitStack() as stack:
        servers, identities = [], []
        for url in question.servers:
            try:
                # Tries are made here, where another server may have a seat.
                client = AsyncVisionClient(
                    url,
                    timeout=_TIMEOUT,
                    retries=0,
                    max_message_mib=_MESSAGE_MIB,
                    tls=question.tls,
                    headers=question.headers,
                )
                await stack.enter_async_context(client)
                info = await model_info(client, question.model, url)
                identities.append(await _identity(client, info, question))
            except (CallFailed, BadTls) as error:
                raise ScoringError(f"{url}: {error}") from error
            servers.append(_Server(url, client))
            if identities[-1] != identities[0]:
                raise ScoringError(
                    f"{url} has {identities[-1]}, {servers[0].url} has {identities[0]}; servers of "
                    "one job must agree (serve --variant)"
                )
        yield ServerScorer(servers, identities[0], question)


async def _identity(client: AsyncVisionClient, info: ModelInfo, question: Question) -> Identity:
    """The version and the variant that answer, by asking for a grey image."""
    task = next((task for task in TASKS if task == info.task), None)
    if task is None:
        raise CallFailed("FAILED_PRECONDITION", f"model {info.name!r} is for plain tensors")
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(picture, format="PNG")
    while True:
        try:
            response = await _call(client, task, [picture.getvalue()], question)
            break
        except CallFailed as error:
            if error.code != "RESOURCE_EXHAUSTED" or not error.for_now:
                raise
            await asyncio.sleep(error.retry_after or _FIRST_PAUSE)
    return Identity(
        model=info.name,
        version=response.served.version,
        variant=response.served.variant,
        engine="",
        sha256="",
        task=task,
        length=len(response.results[0].values) if task == "embedding" else 0,
        classes=len(info.labels),
    )


async def _call(
    client: AsyncVisionClient, task: Task, images: Sequence[bytes], question: Question
) -> Any:
    model = question.model
    if task == "classification":
        return await client.classify(model, images, top_k=question.top_k)
    if task == "embedding":
        return await client.embed(model, images)
    # Run lengths are the smallest form, where nobody wants the mask.
    return await client.segment(model, images, mask_format="png" if question.masks else "rle")


def _for_now(error: CallFailed) -> bool:
    """Whether the same call may succeed later; a time-out is that of a server that stands still."""
    return error.for_now or error.code == "DEADLINE_EXCEEDED"
