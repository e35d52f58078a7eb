"""A published model in this process: the server's own decoding, batching and engines."""

import asyncio
import hashlib
import math
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from scoring.errors import ImageFault, ScoringError
from scoring.facts import Identity
from scoring.rows import Answer, areas_answer, labels_answer
from scoring.scorers.masks import mask_png
from scoring.scorers.scorer import Question
from serving.base.errors import (
    DeadlineExpired,
    EngineError,
    InvalidInput,
    QueueFull,
    ServingError,
    Shed,
    WrongTask,
)
from serving.base.machine.cpu import core_count
from serving.base.memory import MemoryBudget, Unlimited
from serving.base.task import TASKS
from serving.cli.predictor import CACHE_DIR, Local, open_servable
from serving.cli.signing import signed_by
from serving.images.postprocess import Mask
from serving.models.facts import ModelFacts
from serving.models.loading.candidates import LoadSettings, open_cache
from serving.models.servable import CallOptions, EncodedImage, Servable
from serving.server.config import ServerConfig
from serving.server.endpoints import vision

# A server's own bounds.
_MAX_PIXELS: int = ServerConfig.model_fields["max_image_pixels"].default
# Images of a group where the measured latencies name no better number.
_ROWS = 8
# Groups under way: one in the engine, one that is decoded, one that waits for the engine; with
# small groups more, so that every core has images to decode.
_SEATS = 3
# Seconds before a group that found the queue full is given again.
_AGAIN = 0.05


class LocalScorer:
    """A model that is loaded here."""

    most_bytes = 32 << 20

    def __init__(self, model: Servable, question: Question) -> None:
        facts = model.facts
        self.identity = _identity(facts)
        self.rows = _best_rows(facts)
        self.seats = _SEATS + math.ceil(2 * core_count() / self.rows)
        self._model = model
        self._top_k = question.top_k
        self._masks = question.masks
        self._memory = _Memory()

    async def score(self, images: Sequence[bytes]) -> Sequence[Answer | ImageFault]:
        """The answer to each image, or why it has none."""
        found = await self._answers(images)
        if len(images) > 1 and any(isinstance(answer, EngineError) for answer in found):
            # A batch that fails fails all its images: the one that is to blame is found alone.
            return [answer for image in images for answer in await self.score([image])]
        return [ImageFault(str(x)) if isinstance(x, ServingError) else x for x in found]

    async def _answers(self, images: Sequence[bytes]) -> list[Answer | ServingError]:
        """The answers, once every image that found the queue full has had its turn."""
        answers: dict[int, Answer | ServingError] = {}
        left = list(range(len(images)))
        while left:
            sources = [EncodedImage(images[i]) for i in left]
            found = await self._ask(sources)
            again = []
            for i, answer in zip(left, found, strict=True):
                if isinstance(answer, QueueFull | Shed | DeadlineExpired):
                    again.append(i)
                elif isinstance(answer, InvalidInput | EngineError) or not isinstance(
                    answer, ServingError
                ):
                    answers[i] = answer
                else:
                    raise ScoringError(str(answer)) from answer
            left = again
            if left:
                await asyncio.sleep(_AGAIN)
        return [answers[i] for i in range(len(images))]

    async def _ask(self, sources: Sequence[EncodedImage]) -> Sequence[Answer | ServingError]:
        options = CallOptions(memory=self._memory)
        match self.identity.task:
            case "classification":
                labelled = await vision.classify(self._model, sources, options, top_k=self._top_k)
                return [
                    x
                    if isinstance(x, ServingError)
                    else labels_answer([(y.index, y.name, y.score) for y in x.labels])
                    for x in labelled
                ]
            case "segmentation":
                return await vision.segment(
                    self._model,
                    sources,
                    options,
                    self._png,
                    most=sys.maxsize,
                    take=_areas,
                )
            case _:
                embedded = await vision.embed(self._model, sources, options)
                return [
                    x if isinstance(x, ServingError) else {"embedding": x.values} for x in embedded
                ]

    def _png(self, mask: Mask) -> bytes:
        return mask_png(mask, self.identity.classes) if self._masks else b""


@asynccontextmanager
async def open_local(question: Question) -> AsyncIterator[LocalScorer]:
    """Loads the model as a server would. Raises ScoringError where that is not to be had."""
    signed = None if question.signers is None else signed_by(question.signers)
    settings = LoadSettings(
        engine=question.engine,
        variant=question.variant,
        threads=question.threads,
        cache_dir=open_cache(CACHE_DIR),
        max_image_pixels=_MAX_PIXELS,
    )
    try:
        async with open_servable(
            question.model, Local(question.repositories, signed), settings
        ) as model:
            if model.facts.task is None:
                raise WrongTask(f"model {question.model!r} is for plain tensors: it has no task")
            yield LocalScorer(model, question)
    except ServingError as error:
        raise ScoringError(str(error)) from error


def _identity(facts: ModelFacts) -> Identity:
    manifest, task = facts.manifest, facts.task
    assert manifest is not None
    assert task is not None
    digest = hashlib.sha256()
    for variant in manifest.variants:
        if variant.id == facts.variant:
            digest.update(repr((variant.sha256, sorted(variant.data.items()))).encode())
    seen = manifest.model_dump(mode="json", include={"classes", "transform", "interface"})
    digest.update(repr(seen).encode())
    return Identity(
        model=facts.name,
        version=facts.version,
        variant=facts.variant,
        engine=facts.engine_name,
        sha256=digest.hexdigest(),
        task=task,
        length=_length(facts) if task == "embedding" else 0,
        classes=len(facts.labels),
    )


def _length(facts: ModelFacts) -> int:
    """Values of an embedding."""
    name = facts.answer.output if facts.answer is not None else TASKS["embedding"].output
    [spec] = [spec for spec in facts.outputs if spec.name == name]
    return math.prod(spec.shape[1 if facts.batches else 0 :])


def _best_rows(facts: ModelFacts) -> int:
    """The batch size that took the least time an image when it was measured."""
    sizes = {rows: seconds / rows for rows, seconds in facts.latency.items()}
    return max(_ROWS, min(sizes, key=lambda rows: sizes[rows])) if sizes else _ROWS


def _areas(found: "vision.Segmentation[bytes]") -> Answer:
    areas = [(x.index, x.name, x.fraction, x.confidence) for x in found.areas]
    return areas_answer(found.height, found.width, areas, found.mask)


class _Memory(Unlimited):
    """The memory of images that are decoded: as much as a server lets its calls have. Files are
    bounded by their groups, rows by the engine's batch."""

    def __init__(self) -> None:
        limit = ServerConfig.model_construct(memory_mib=0).memory_bytes
        self._budget = MemoryBudget(limit)
        self.large: Any = asyncio.Semaphore(max(1, core_count() - 1))

    def decoding(self, size: int, deadline: float) -> AbstractContextManager[None]:
        """Waits while others decode; raises InvalidInput for an image that needs more than all."""
        return self._budget.decoding(size, deadline)
