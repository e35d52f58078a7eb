"""VisionClient: VisionService from code without an event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar, Unpack

from protos.gen import vision_pb2 as pb
from serving.client.asynchronous import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT,
    AsyncVisionClient,
    ModelInfo,
)
from serving.client.calls import CallFailed
from serving.client.images import ImageInput
from serving.client.requests import ClassifyOptions, EmbedOptions, SegmentOptions

Item = TypeVar("Item")


class VisionClient:
    """AsyncVisionClient on an event loop of its own; not to be shared between threads."""

    def __init__(
        self, urls: str | Sequence[str], *, timeout: float = DEFAULT_TIMEOUT, retries: int = 2
    ) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(_connect(urls, timeout, retries))

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
        """Closes every connection."""
        self._runner.run(self._client.close())
        self._runner.close()

    def classify(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[ClassifyOptions],
    ) -> pb.ClassifyResponse:
        """See AsyncVisionClient.classify."""
        return self._runner.run(self._client.classify(model, images, **options))

    def segment(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[SegmentOptions],
    ) -> pb.SegmentResponse:
        """See AsyncVisionClient.segment."""
        return self._runner.run(self._client.segment(model, images, **options))

    def embed(
        self,
        model: str,
        images: ImageInput | Sequence[ImageInput],
        **options: Unpack[EmbedOptions],
    ) -> pb.EmbedResponse:
        """See AsyncVisionClient.embed."""
        return self._runner.run(self._client.embed(model, images, **options))

    def classify_many(
        self,
        model: str,
        images: str | Path | Iterable[ImageInput],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        **options: Unpack[ClassifyOptions],
    ) -> Iterator[tuple[ImageInput, pb.ClassifyResponse | CallFailed]]:
        """See AsyncVisionClient.classify_many."""
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
        """See AsyncVisionClient.segment_many."""
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
        """See AsyncVisionClient.embed_many."""
        return self._each(
            self._client.embed_many(model, images, concurrency=concurrency, **options)
        )

    def model_info(self, model: str) -> ModelInfo:
        """See AsyncVisionClient.model_info."""
        return self._runner.run(self._client.model_info(model))

    def _each(self, items: AsyncIterator[Item]) -> Iterator[Item]:
        async def following() -> list[Item]:
            """The next item; none at the end."""
            return [item] if (item := await anext(items, None)) is not None else []

        while found := self._runner.run(following()):
            yield from found


async def _connect(urls: str | Sequence[str], timeout: float, retries: int) -> AsyncVisionClient:
    """On the event loop, to which a channel belongs from the start."""
    return AsyncVisionClient(urls, timeout=timeout, retries=retries)
