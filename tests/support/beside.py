"""What runs beside an attack: a probe of the server's event loop, and honest callers.

Each runs in a process of its own, so that neither the attack nor the test holds it up:

    with LoopProbe(server) as probe, Honest(server.url) as honest:
        attack()
    assert probe.pauses.longest < 0.25
    assert honest.tally.late == honest.tally.wrong == 0
"""

import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.process import ServerProcess

_ROOT = Path(__file__).parents[2]
# Seconds between an answer and the next ping. Shorter sees shorter pauses and takes more of the
# server's time: 2 ms are some 10 % of a core.
PERIOD = 0.002
# Seconds of a pause that is counted among the long ones.
LONG = 0.005
# Seconds in which a process must begin and end.
_PATIENCE = 60.0


@dataclass
class Pauses:
    """How long the server's event loop answered nobody, seconds beyond the probe's own jitter and
    without the time in which the loop was ready to run, but others had the cores: attacks take
    theirs from the same machine here.

    longest: the longest pause; the probe's connection being closed, or not accepted, is one too.
    when: seconds from the probe's start to the end of the longest.
    starved: the longest time without a core between two answers.
    long: how many were longer than LONG.
    jitter: the longest pause of the twin, a process that does nothing but echo.
    pings: answers.
    reconnects: connections that the server closed.
    """

    longest: float = 0.0
    when: float = 0.0
    starved: float = 0.0
    long: int = 0
    jitter: float = 0.0
    pings: int = 0
    reconnects: int = 0


@dataclass
class Lag:
    """How late the event loop's beats were, as the server counted them.

    beats: how many were at most so many seconds late, and more than the next smaller number.
    """

    beats: dict[float, int] = field(default_factory=dict)

    @property
    def most(self) -> float:
        """Seconds that no beat exceeds."""
        return max((bound for bound, count in self.beats.items() if count), default=0.0)

    def over(self, seconds: float) -> int:
        """Beats that were later than one of the bounds."""
        return sum(count for bound, count in self.beats.items() if bound > seconds)


@dataclass
class Tally:
    """What honest callers got.

    sent: calls; each counts in one of the next four, too.
    answered: right answers in time.
    wrong: answers that are not the caller's.
    late: answers after the deadline, DEADLINE_EXCEEDED, and CANCELLED at the deadline.
    failed: other codes, with their counts; RESOURCE_EXHAUSTED is a refusal.
    p50, p99, longest: seconds of the answered ones.
    """

    sent: int = 0
    answered: int = 0
    wrong: int = 0
    late: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0

    @property
    def refused(self) -> int:
        """Calls that the server refused for the moment, with a status that says so."""
        return self.failed.get("RESOURCE_EXHAUSTED", 0)

    @property
    def lost(self) -> int:
        """Calls that ended with another code."""
        return sum(self.failed.values()) - self.refused


class _Beside:
    """A function of this module in a process of its own, from `with` to the end of its block."""

    def __init__(self, task: str, **options: Any) -> None:
        self._command = [sys.executable, "-m", __name__, task, json.dumps(options)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        assert self._process.stdout is not None
        started = self._process.stdout.readline()
        assert started == "started\n", f"{self._command}: it did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            result, _ = self._process.communicate(timeout=_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
        assert result or error, f"{self._command}: it ended without a result"
        if result:
            self._take(json.loads(result))

    def _take(self, result: Mapping[str, Any]) -> None:
        raise NotImplementedError


class LoopProbe(_Beside):
    """Asks the server's HTTP port for /livez every `period` seconds over one connection; what it
    found is in `pauses` after the block."""

    def __init__(self, server: ServerProcess, *, period: float = PERIOD) -> None:
        split = urlsplit(server.http)
        options = {"host": split.hostname, "port": split.port, "pid": server.process.pid}
        super().__init__("probe", **options, period=period)
        self.pauses = Pauses()

    def _take(self, result: Mapping[str, Any]) -> None:
        self.pauses = Pauses(**result)


class LoopLag:
    """Reads the server's own count of late beats; those from `with` to the end of its block are in
    `lag`. A server that has ended leaves none."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.lag = Lag()

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            after = self._read()
            self.lag = Lag({bound: after[bound] - self._before[bound] for bound in after})

    def _read(self) -> dict[float, int]:
        name = 'convserve_event_loop_lag_seconds_bucket{le="'
        _, text = self._server.get(self._server.metrics_url)
        found, below = {}, 0
        for line in text.splitlines():
            if line.startswith(name):
                bound, count = line.removeprefix(name).split('"} ')
                found[float(bound)] = int(float(count)) - below
                below = int(float(count))
        return found


class Honest(_Beside):
    """Classifies small images of known colours by `model` of `tests.support.published`, `rate` a
    second, each call with a deadline in seconds: one half by VisionService, one by ModelInfer. What
    came of them is in `tally` after the block."""

    def __init__(
        self, url: str, model: str = "colours", *, rate: float = 40.0, deadline: float = 1.0
    ) -> None:
        super().__init__("call", url=url, model=model, rate=rate, deadline=deadline)
        self.tally = Tally()

    def _take(self, result: Mapping[str, Any]) -> None:
        self.tally = Tally(**result)


class _Lane:
    """One connection, and the pings over it."""

    def __init__(self, connect: Any, request: bytes) -> None:
        self._connect = connect
        self._request = request
        self._answer = b""
        self.reconnects = -1
        self.answered = time.perf_counter()
        self.due = self.answered
        self.socket: socket.socket | None = None

    def ping(self, now: float) -> None:
        """Sends one, over a new connection where the last was closed."""
        self.due = float("inf")
        try:
            if self.socket is None:
                self.socket = self._connect()
                self.reconnects += 1
            self.socket.sendall(self._request)
        except OSError:
            self._drop(now)

    def read(self, now: float) -> bool:
        """Reads what has come; whether it was the rest of an answer."""
        assert self.socket is not None
        try:
            part = self.socket.recv(1 << 16)
        except OSError:
            part = b""
        if not part:
            self._drop(now)
            return False
        self._answer += part
        if not _whole(self._answer):
            return False
        self._answer = b""
        return True

    def _drop(self, now: float) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket, self._answer = None, b""
        self.due = now + PERIOD


def _whole(answer: bytes) -> bool:
    """Whether an HTTP answer is complete."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
    return bool(end) and len(body) >= int(length or 0)


def _probe(host: str, port: int, pid: int, period: float) -> Pauses:
    # The loop runs on the main thread, whose second number here is nanoseconds without a core.
    waits = Path(f"/proc/{pid}/schedstat").open("rb", buffering=0)  # noqa: SIM115 until it ends

    def queued() -> float:
        try:
            waits.seek(0)
            return int(waits.read().split()[1]) / 1e9
        except (OSError, IndexError):  # the process has ended
            return waited

    waited = 0.0
    waited = queued()
    echo, far = socket.socketpair()
    if os.fork() == 0:
        echo.close()
        with contextlib.suppress(OSError):
            while part := far.recv(1 << 16):
                far.sendall(part)
        os._exit(0)
    far.close()
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
    twin = _Lane(lambda: echo, whole)
    request = f"GET /livez HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    server = _Lane(lambda: socket.create_connection((host, port), timeout=_PATIENCE), request)
    found = Pauses()
    # Late answers of the twin: when the answer before came, when it came, and by how much too late.
    late: deque[tuple[float, float, float]] = deque(maxlen=1000)

    def note(now: float) -> None:
        """Notes the time since the server's last answer."""
        took = now - server.answered - period
        if took <= LONG:
            return
        waiting = (twin.answered, now, now - twin.answered - period)
        own = max((x for begin, end, x in (*late, waiting) if end > server.answered), default=0.0)
        starved = queued() - waited
        found.starved = max(found.starved, starved)
        took -= max(0.0, own, starved)
        found.long += took > LONG
        if took > found.longest:
            found.longest, found.when = took, now - start

    start = twin.answered = server.answered = time.perf_counter()
    ended = False
    while not ended:
        now = time.perf_counter()
        for lane in (twin, server):
            if now >= lane.due:
                lane.ping(time.perf_counter())
        wait = max(0.0, min(twin.due, server.due, now + 0.1) - time.perf_counter())
        sockets = [lane.socket for lane in (twin, server) if lane.socket is not None]
        readable = select.select([*sockets, sys.stdin], [], [], wait)[0]
        now = time.perf_counter()
        if twin.socket in readable and twin.read(now):
            own = now - twin.answered - period
            if own > LONG / 10:
                late.append((twin.answered, now, own))
                found.jitter = max(found.jitter, own)
            twin.answered, twin.due = now, now + period
        if server.socket in readable and server.read(now):
            note(now)
            waited = queued()
            found.pings += 1
            server.answered, server.due = now, now + period
        ended = sys.stdin in readable
    note(time.perf_counter())
    found.reconnects = max(0, server.reconnects)
    return found


async def _call(url: str, model: str, rate: float, deadline: float) -> Tally:
    # Only this process needs what follows, and the probe starts quicker without it.
    import grpc
    import numpy as np

    from protos.gen import grpc_service_pb2 as oip
    from protos.gen import grpc_service_pb2_grpc as oip_grpc
    from protos.gen import vision_pb2 as vision
    from protos.gen import vision_pb2_grpc as vision_grpc
    from tests.support.pictures import encoded
    from tests.support.published import COLOURS, SIDE

    pictures = np.full((len(COLOURS), SIDE, SIDE, 3), 16, np.uint8)
    for number in range(len(COLOURS)):
        pictures[number, ..., number] = 200
    files = [encoded(picture, "PNG") for picture in pictures]
    tally, failed, seconds = Tally(), Counter[str](), []

    async with grpc.aio.insecure_channel(url) as channel:
        classify = vision_grpc.VisionServiceStub(channel).Classify
        infer = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def classified(number: int) -> int:
            image = vision.Image(encoded=files[number])
            request = vision.ClassifyRequest(model=model, images=[image], top_k=1)
            answer = await classify(request, timeout=deadline)
            return int(answer.results[0].labels[0].index)

        async def inferred(number: int) -> int:
            request = oip.ModelInferRequest(model_name=model)
            request.inputs.add(name="image", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
            request.raw_input_contents.append(pictures[number].tobytes())
            answer = await infer(request, timeout=deadline)
            return int(np.frombuffer(answer.raw_output_contents[0], np.float32).argmax())

        async def one(turn: int) -> None:
            number = turn // 2 % len(COLOURS)
            began = time.perf_counter()
            try:
                found = await (inferred if turn % 2 else classified)(number)
            except grpc.aio.AioRpcError as error:
                code = error.code()
                # A server that gives up at the deadline may be the first to say so.
                gave_up = time.perf_counter() - began > 0.8 * deadline
                expired = code is grpc.StatusCode.DEADLINE_EXCEEDED
                if expired or (code is grpc.StatusCode.CANCELLED and gave_up):
                    tally.late += 1
                else:
                    failed[code.name] += 1
                return
            took = time.perf_counter() - began
            if found != number:
                tally.wrong += 1
            elif took > deadline:
                tally.late += 1
            else:
                seconds.append(took)

        await channel.channel_ready()
        _tell("started")
        loop = asyncio.get_running_loop()
        end = loop.run_in_executor(None, sys.stdin.read)
        calls = set()
        start = loop.time()
        while not end.done():
            call = asyncio.create_task(one(tally.sent))
            calls.add(call)
            call.add_done_callback(calls.discard)
            tally.sent += 1
            due = start + tally.sent / rate
            await asyncio.wait({end}, timeout=max(0.0, due - loop.time()))
        await asyncio.gather(*calls)
    tally.answered, tally.failed = len(seconds), dict(failed)
    if seconds:
        tally.p50, tally.p99, tally.longest = (
            float(np.quantile(seconds, share, method="higher")) for share in (0.5, 0.99, 1.0)
        )
    return tally


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _main() -> None:
    task, options = sys.argv[1], json.loads(sys.argv[2])
    if task == "probe":
        _tell("started")
        found: Pauses | Tally = _probe(**options)
    else:
        found = asyncio.run(_call(**options))
    _tell(json.dumps(asdict(found)))


if __name__ == "__main__":
    _main()
