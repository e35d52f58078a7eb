"""Sends raw tensors from this process, for benchmarks that watch the server meanwhile."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from loadtest.generator.arrivals import Arrivals
from loadtest.generator.player import Client, Player, WorkerShare
from loadtest.payloads.content import Payload, TensorInput
from loadtest.payloads.draws import ALWAYS_ZERO, draws
from loadtest.results import OK, STATUSES, Records, records_of
from loadtest.wire.messages import ModelFacts, Request, infer_request
from serving.base.task import IMAGE_INPUT


def image_requests(models: Sequence[str], side: int, rows: int = 1) -> list[Request]:
    """A request for each model, with random images, uint8 [rows, side, side, 3]."""
    images = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), np.uint8)
    inputs = (TensorInput(IMAGE_INPUT, "UINT8", images.shape),)
    return [
        infer_request(
            number, ModelFacts(name, inputs=inputs), Payload(tensors={IMAGE_INPUT: images})
        )
        for number, name in enumerate(models)
    ]


async def play(
    client: Client,
    requests: Sequence[Request],
    arrivals: Arrivals,
    *,
    seconds: float,
    limit: int = 0,
    seed: int = 0,
    answered: Callable[[], None] = lambda: None,
) -> Records:
    """Sends the requests at random, each as likely as the others. A closed loop ends after
    `limit` of them where it is given. `answered` is called at each answer.

    Raises RuntimeError where a request is not answered.
    """
    chunks: list[bytes] = []

    def emit(record: bytes) -> None:
        chunks.append(record)
        answered()

    share = WorkerShare(
        arrivals=arrivals,
        seconds=seconds,
        start=asyncio.get_running_loop().time(),
        seed=seed,
        worker=0,
        workers=1,
        max_in_flight=10_000,
        requests=limit,
    )
    drawn = draws([(1, 1.0)] * len(requests), ALWAYS_ZERO, ALWAYS_ZERO, (seed,))
    await Player(drawn, emit).play(client, requests, share)
    records = records_of(chunks)
    failed = sorted({STATUSES[status] for status in records["status"] if status != OK})
    if failed:
        raise RuntimeError(f"requests failed: {', '.join(failed)}")
    return records
