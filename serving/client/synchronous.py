"""VisionClient: VisionService from code without an event loop."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from protos.gen import vision_pb2 as pb
from serving.client.asynchronous import (
    DEFAULT_CONCURRENCY,
    DEFAULT_MAX_MESSAGE_MIB,
    DEFAULT_TIMEOUT,
    AsyncVisionClient,
    ModelInfo,
)
from serving.client.calls import CallFailed
from serving.client.images import ImageInput
from serving.client.requests import ClassifyOptions, EmbedOptions, SegmentOptions
from serving.client.tls import ClientTls

Item = TypeVar("Item")


class VisionClient:
    """AsyncVisionClient on an event loop of its own; not to be shared between threads.

    Made where an event loop runs already, as in a notebook, it has a thread for its own.
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
        self._closed = False
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, "vision-client") if _a_loop_runs() else None
        connecting = _connect(urls, timeout, retries, max_message_mib, tls, headers)
        try:
            self._client = self._run(connecting)
        except BaseException:  # files that cannot be used
            self._end()
            raise

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
        """Closes every connection. The second time nothing happens."""
        if self._closed:
            return
        try:
            self._run(self._client.close())
        finally:
            self._end()

    def classify(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[ClassifyOptions],
    ) -> pb.ClassifyResponse:
        """Ranks the classes of one or several images.

        Raises CallFailed; where several images were sent, each result has its own status instead.
        """
        return self._run(self._client.classify(model, images, **options))

    def segment(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[SegmentOptions],
    ) -> pb.SegmentResponse:
        """Gives each pixel of one or several images its class; `mask_of` reads the mask.

        Raises CallFailed; where several images were sent, each result has its own status instead.
        """
        return self._run(self._client.segment(model, images, **options))

    def embed(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[EmbedOptions],
    ) -> pb.EmbedResponse:
        """Gives one or several images their points on the unit sphere.

        Raises CallFailed; where several images were sent, each result has its own status instead.
        """
        return self._run(self._client.embed(model, images, **options))

    def classify_many(
        self,
        model: str,
        images: str | Path | Iterable[ImageInput],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        **options: Unpack[ClassifyOptions],
    ) -> Iterator[tuple[ImageInput, pb.ClassifyResponse | CallFailed]]:
        """Classifies the images of a folder or of any collection. Yields each image with its answer
        or its failure, in their order; `concurrency` images are under way at a time."""
        return self._each(
            self._client.classify_many(model, images, concurrency=concurrency, **options)
        )

    def segment_many(
        self,
        model: str,
        images: str | Path | Iterable[ImageInput],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        **options: Unpack[SegmentOptions],
    ) -> Iterator[tuple[ImageInput, pb.SegmentResponse | CallFailed]]:
        """As classify_many, for segment."""
        return self._each(
            self._client.segment_many(model, images, concurrency=concurrency, **options)
        )

    def embed_many(
        self,
        model: str,
        images: str | Path | Iterable[ImageInput],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        **options: Unpack[EmbedOptions],
    ) -> Iterator[tuple[ImageInput, pb.EmbedResponse | CallFailed]]:
        """As classify_many, for embed."""
        return self._each(
            self._client.embed_many(model, images, concurrency=concurrency, **options)
        )

    def model_info(self, model: str) -> ModelInfo:
        """The task and the classes of a model. Raises CallFailed."""
        return self._run(self._client.model_info(model))

    def _run(self, work: Coroutine[Any, Any, Item]) -> Item:
        """The result of some work, which belongs to the caller's current span. Raises RuntimeError
        once the client is closed."""
        if self._closed:
            work.close()
            raise RuntimeError("the client is closed: call it inside its `with`, or make another")
        context = contextvars.copy_context()
        if self._thread is None:
            return self._runner.run(work, context=context)
        tasks: list[asyncio.Task[Any]] = []

        async def told() -> Item:
            if task := asyncio.current_task():
                tasks.append(task)
            return await work

        running = self._thread.submit(self._runner.run, told(), context=context)
        try:
            return running.result()
        except KeyboardInterrupt:
            # It reaches this thread alone; the call must not hold up the next one.
            for task in tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)
            raise

    def _end(self) -> None:
        self._closed = True
        if self._thread is None:
            self._runner.close()
            return
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _each(self, items: AsyncIterator[Item]) -> Iterator[Item]:
        async def following() -> list[Item]:
            """The next item; none at the end."""
            item = await anext(items, None)
            # What was queued meanwhile is sent before the loop stops until the next item.
            await asyncio.sleep(0)
            return [] if item is None else [item]

        while found := self._run(following()):
            yield from found


def _a_loop_runs() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _connect(
    urls: str | Sequence[str],
    timeout: float,
    retries: int,
    max_message_mib: int,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> AsyncVisionClient:
    """Runs on the event loop, since a channel belongs to the loop on which it is made."""
    return AsyncVisionClient(
        urls,
        timeout=timeout,
        retries=retries,
        max_message_mib=max_message_mib,
        tls=tls,
        headers=headers,
    )
