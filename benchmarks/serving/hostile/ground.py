"""Where attack and server meet: servers with a memory limit, and what is watched meanwhile."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.serving.hostile.new_memory import page_of_host_seconds
from benchmarks.serving.hostile.session import SHARED_MEMORY, Session
from benchmarks.serving.hostile.table import Row
from tests.support.beside import Honest, LoopLag, LoopProbe, Tally
from tests.support.limited import LimitedServer
from tests.support.timed_loop import TimedLoop

# Honest calls a second: a tenth of what one core answers.
RATE = 40.0
# Processes that only compute, one more than the cores of the machine that the figures are of: what
# honest callers wait for there is no attack's doing.
BUSY = 3
# Deadlines of honest calls, seconds; the first that none misses at twice their number holds.
DEADLINES = (1.0, 2.0, 4.0)
# Where honest callers call from, if the machine has IPv6: attackers call from IPv4, and the server
# tells callers without credentials apart by their address.
_HONEST_ADDRESS = "::1"
# MiB for what no call holds in the budget: messages that gRPC is receiving, buffers of sockets.
BESIDE_BUDGET = 256
# Identity models have no manifest; ready is a server all of whose models serve; some attacks make
# objects of shared memory of this name, which others must not reach.
_FLAGS = ("--allow-ungated", "--strict-readiness", "--shared-memory", SHARED_MEMORY)
# MiB that a server may keep after an attack and still meet the next, whose peak is to be its own.
_HELD = 200
# Seconds that an attack may take longer than it should, before it is given up.
_OVERTIME = 60.0
# Seconds after an attack within which the server must serve.
_RECOVERY = 10.0


class Attack:
    """An attack, by the name of its function.

    files: descriptors that its server may have; None for the machine's limit.
    flags: further flags of its server.
    """

    def __init__(
        self,
        run: Callable[[Session], Awaitable[None]],
        *,
        name: str = "",
        files: int | None = None,
        flags: tuple[str, ...] = (),
    ) -> None:
        self.run = run
        self.name = name or getattr(run, "__name__", "").replace("_", "-")
        self.files = files
        self.flags = flags

    @property
    def server(self) -> tuple[int | None, tuple[str, ...]]:
        """What tells its server from that of other attacks."""
        return self.files, self.flags


class Ground:
    """Starts servers and lets attacks meet them.

    folder: has the models in `models`.
    mib: memory limit of each server.
    seconds: how long attacks go on.
    new_memory: what `new_memory_seconds` found.
    callbacks: the event loop's callbacks are timed, which takes another loop than uvloop.

    busy: what honest callers got beside BUSY processes that compute and send nothing; None before
        the first attack.
    """

    def __init__(
        self,
        folder: Path,
        mib: int,
        seconds: float,
        new_memory: float = 0.0,
        *,
        callbacks: bool = False,
    ) -> None:
        self._folder = folder
        self._page = page_of_host_seconds(new_memory)
        self._apart = _has_ipv6()
        self._timed = TimedLoop(folder / "timed") if callbacks else None
        self._mib = mib
        self._seconds = seconds
        self._written = folder / "written"
        self._written.mkdir()
        self._server: LimitedServer | None = None
        self._met: tuple[int | None, tuple[str, ...]] | None = None
        self._idle = 0.0
        self._alone: Tally | None = None
        self.busy: Tally | None = None
        self._deadline = DEADLINES[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server = None

    def _ready(self, attack: Attack) -> LimitedServer:
        """A server that serves: the last one, or a new one where it does not, or has other limits
        and flags, or holds on to what an attack had it take."""
        server = self._server
        if server is not None:
            server.reset_peak()
            holds = server.peak_mib() > self._idle + _HELD
            if holds or self._met != attack.server or not server.healthy():
                self._stop()
                server = None
        if server is None:
            self._met = attack.server
            server = self._server = LimitedServer(
                self._folder / "models",
                *_FLAGS,
                *(("--host", "::") if self._apart else ()),
                *("--files-dir", str(self._written)),
                *attack.flags,
                cache=self._folder / "cache",
                mib=self._mib,
                files=attack.files,
                path=self._timed.path if self._timed else "",
            )
            self._measure_alone(server)
        server.reset_peak()
        return server

    def _honest_url(self, server: LimitedServer) -> str:
        """Where honest callers reach a server."""
        port = server.url.rpartition(":")[2]
        return f"[{_HONEST_ADDRESS}]:{port}" if self._apart else server.url

    def _measure_alone(self, server: LimitedServer) -> None:
        """Honest callers without an attack, then twice as many, once; memory each time."""
        if self._alone is None:
            seconds = max(1.0, self._seconds)
            with Honest(self._honest_url(server), rate=RATE, deadline=DEADLINES[-1]) as honest:
                time.sleep(seconds)
            self._alone = honest.tally
            with contextlib.ExitStack() as stack:
                for _ in range(BUSY):
                    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    stack.callback(busy.wait)
                    stack.callback(busy.kill)
                with Honest(self._honest_url(server), rate=RATE, deadline=DEADLINES[-1]) as honest:
                    time.sleep(seconds)
            self.busy = honest.tally
            for deadline in DEADLINES:
                self._deadline = deadline
                with Honest(self._honest_url(server), rate=2 * RATE, deadline=deadline) as honest:
                    time.sleep(seconds)
                if not honest.tally.late:
                    break
        server.reset_peak()
        self._idle = server.peak_mib()

    def meet(self, attack: Attack) -> Row:
        """Lets an attack meet a server."""
        server = self._ready(attack)
        folder = self._folder / "attack"
        folder.mkdir()
        session = Session(server, folder, self._written, self._seconds)
        loop = LoopLag(server)
        probe = LoopProbe(server)
        honest = Honest(self._honest_url(server), rate=RATE, deadline=self._deadline)
        began = time.monotonic()
        assert self._alone is not None
        if self._timed:
            self._timed.forget()
        try:
            # An attacker has a machine of his own: his thread leaves honest callers and the server
            # the cores of this one.
            with loop, probe, honest, ThreadPoolExecutor(1, initializer=_go_last) as thread:
                thread.submit(asyncio.run, _attack(attack, session)).result()
        finally:
            shutil.rmtree(folder)
        budget = round(self._mib * 0.6)
        row: dict[str, Any] = {
            "attack": attack.name,
            "seconds": time.monotonic() - began,
            "sent": session.sent,
            "statuses": dict(session.statuses),
            "lag": loop.lag,
            "pauses": probe.pauses,
            "callback": self._timed.longest() if self._timed else None,
            "page": self._page,
            "peak": server.peak_mib() if server.group or server.alive else self._mib,
            "bound": min(self._mib, self._idle + budget + BESIDE_BUDGET),
            "alone": self._alone,
            "beside": honest.tally,
            "alive": server.alive,
            "healthy": _recovers(server),
            "kills": server.kills,
            "harm": session.harm,
        }
        if row["kills"] or not row["healthy"]:
            self._stop()
        return Row(**row)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((_HONEST_ADDRESS, 0))
    except OSError:
        return False
    return True


def _go_last() -> None:
    """Lowers the priority of this thread, and of processes that it starts, to the last."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


async def _attack(attack: Attack, session: Session) -> None:
    session.connect()
    try:
        async with asyncio.timeout(session.seconds + _OVERTIME):
            await attack.run(session)
    except TimeoutError:
        session.harm.append(f"it took {_OVERTIME:.0f} s longer than it was to")
    finally:
        with contextlib.suppress(Exception):
            await session.close()


def _recovers(server: LimitedServer) -> bool:
    end = time.monotonic() + _RECOVERY
    while server.alive and time.monotonic() < end:
        if server.healthy():
            return True
        time.sleep(0.1)  # between two looks at a condition that no event tells of
    return False
