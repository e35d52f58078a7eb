"""Random changes of valid requests of both wires, all methods, sent to a server as they are."""

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.serving.hostile.images import segment
from benchmarks.serving.hostile.session import (
    PATIENCE,
    Session,
    exchange,
    http_status,
)
from tests.support import mutation, valid_requests

_WORKERS = 16
# Seconds that a request waits which may have announced more than it has.
_UNDUE_SECONDS = 1.0
# Codes of gRPC that are no answer of the server's.
_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
_FAULTS = ("INTERNAL", "UNKNOWN", "500", "502", "503")


@dataclass(frozen=True)
class Sent:
    """A mutated request.

    wire, name: "grpc" and its method, or "rest" and its path.
    data: what is sent: a message, or head and body.
    due: whether it is whole in itself, so that an answer must come.
    """

    wire: str
    name: str
    data: bytes
    due: bool = True


def requests(seed: int) -> Callable[[int], Sent]:
    """Gives the request of a number: the same for the same seed."""
    messages, documents, files = (
        valid_requests.messages(),
        valid_requests.documents(),
        valid_requests.files(),
    )

    def request(number: int) -> Sent:
        rng = random.Random(f"{seed}/{number}")
        if rng.random() < 0.15:
            # The message is whole; the picture in it is not.
            file = mutation.changed_bytes(rng, rng.choice(files))
            return Sent("grpc", "/convserve.vision.v1.VisionService/Segment", segment(file))
        if rng.random() < 0.55:
            method, message = rng.choice(messages)
            data = message.SerializeToString()
            return Sent("grpc", method, mutation.changed_message(rng, data))
        verb, path, document = rng.choice(documents)
        body = b"" if document is None else mutation.changed_json(rng, document)
        headers = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        head = f"{verb} {path} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode()
        if rng.random() < 0.25:
            body = b"" if document is None else json.dumps(document).encode()
            return Sent("rest", path, mutation.changed_head(rng, head) + body, due=False)
        return Sent("rest", path, head + body)

    return request


async def mutations(session: Session, *, count: int, seed: int) -> None:
    """`count` mutated requests, each of which must get a status that is no fault of the server's.
    The ones that do not, and those that are under way when the server ends, are printed in hex."""
    request = requests(seed)
    under_way: dict[int, Sent] = {}
    turns = iter(range(count))
    bad: list[str] = []
    senders = {"grpc": _grpc, "rest": _rest}

    async def work() -> None:
        for number in turns:
            if not session.server.alive:
                return
            sent = under_way[number] = request(number)
            status = await senders[sent.wire](session, sent)
            if not session.server.alive:
                return
            del under_way[number]
            session.count(status)
            lost = sent.due and status in (*_LOST, "closed", "no-answer", "no HTTP")
            if lost or status in _FAULTS:
                bad.append(f"{status}: {_told(seed, number, sent)}")

    await asyncio.gather(*(work() for _ in range(_WORKERS)))
    bad += [f"under way: {_told(seed, *item)}" for item in under_way.items()]
    if bad:
        session.harm.append(f"{len(bad)} requests without an answer of the server's")
        print("\n".join(bad[:50]), file=sys.stderr)


def _told(seed: int, number: int, sent: Sent) -> str:
    return f"--seed {seed}, request {number}, {sent.name}: {sent.data.hex()}"


async def _grpc(session: Session, sent: Sent) -> str:
    call: Callable[[], Awaitable[str]]
    if "Stream" in sent.name:
        call = session.stream(sent.name, [sent.data] * 3)
    else:
        call = session.unary(sent.name, sent.data)
    return await call()


async def _rest(session: Session, sent: Sent) -> str:
    wait = PATIENCE if sent.due else _UNDUE_SECONDS
    return http_status(await exchange(session.http, sent.data, wait=wait))
