"""Keeps an engine process running for a front.

The front itself supervises, without a third process: it has the ports, the calls and their memory,
all that must outlive an engine process, and nothing of it could outlive the front. Its own end is
noticed by whoever runs the server, as ever; the engine process ends with it.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from serving.base import log_lines
from serving.base.errors import ServingError
from serving.base.machine.children import how_it_ended
from serving.base.metrics import FrontMetrics
from serving.batching.batch import BatchRecord
from serving.models.catalogue import Catalogue
from serving.remote.channel import Channel
from serving.remote.control import Control, Question
from serving.remote.flight import calls_at_death
from serving.remote.front.calls import Calls
from serving.remote.front.child import Child
from serving.remote.front.loads import RemoteLoads
from serving.remote.front.mirror import Mirror
from serving.remote.front.port import RemotePort
from serving.remote.front.seats import Seat
from serving.remote.front.share import RemoteShare
from serving.remote.front.states import ProcessState, front_line
from serving.remote.records import BadRecord
from serving.remote.slots import Slots

logger = logging.getLogger(__name__)

# Seconds without a word after which an engine process counts as hung: it speaks four times as often
# as once a second. Fewer end one that holds the GIL while it loads, more leave callers waiting.
HUNG_SECONDS = 10
# The same before its first word, while it imports.
_START_SECONDS = 120
# Seconds between two looks at it.
_LOOK_SECONDS = 1.0
# Seconds before the next start, doubled for each that fails soon. Less might start processes in
# vain, more leaves calls waiting.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# So many ends in so many seconds, and the server is not ready: it starts none for as long.
_MOST_ENDS, _IN_SECONDS = 5, 60.0
# Seconds that a start is expected to take before one was measured.
_USUAL_START = 2.0
# Seconds for an answer to whoever looks at metrics.
_PATIENCE = 1.0
# Seconds for the last steps of an engine process that has drained.
_LAST_SECONDS = 5.0


class Supervisor:
    """One engine process after the other. Its side of the server: loading and batching.

    module: its `main` runs an engine process.
    settings: of the server, as JSON can hold them.
    catalogue: kept by what the process tells.
    slots: the memory of calls.
    hung_seconds: silence after which it is ended.
    seat: where it runs.
    loader: remembers what load and unload calls have changed; by default of this one alone.
    share, shares: the sums that it keeps.
    tried: set once a process has loaded its models, or has ended.
    """

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any],
        catalogue: Catalogue,
        metrics: FrontMetrics,
        slots: Slots,
        hung_seconds: int = HUNG_SECONDS,
        seat: Seat | None = None,
        loader: RemoteLoads | None = None,
    ) -> None:
        self._module = module
        self._seat = seat or Seat()
        self._settings = {**settings, **self._seat.settings}
        self.catalogue = catalogue
        self._metrics = metrics
        self._hung_seconds = hung_seconds
        self.calls = Calls(slots, metrics, self._expected)
        self.share = RemoteShare(partial(self._try, "sums", patience=_PATIENCE))
        self.shares = (self.share,)
        self._mirror = Mirror(catalogue, self.calls, self._recent)
        self.loader = loader or RemoteLoads(self.ask_started)
        self.tried = asyncio.Event()
        self.state, self._reason = ProcessState.STOPPED, ""
        self._since = time.time()
        self._began, self._usual = time.monotonic(), _USUAL_START
        self.child: Child | None = None
        self._control: Control | None = None
        self._over: asyncio.Future[tuple[str, str]] | None = None
        # Set while the engine process takes questions about models.
        self._started = asyncio.Event()
        self._silent = 0
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    # The side of the server.

    def start(self, after: asyncio.Event | None = None) -> None:
        """Begins to load models, when an event is set."""
        self._set(ProcessState.STARTING, "")
        self._task = asyncio.get_running_loop().create_task(self._run(after))

    def stop_following(self) -> None:
        """Leaves everything as it stands from now on; what serves goes on serving."""
        if self._control is not None:
            self._control.tell("stop_following")

    async def refuse(self) -> None:
        """Fails the calls that wait for a batch with ModelNotReady, and all that come."""
        await self._try("refuse")
        self.calls.gave_up("the server is shutting down")

    async def close(self) -> None:
        """Ends the engine process, once it has answered the accepted calls, and frees the memory of
        calls."""
        await self.finish()
        self.calls.slots.close()
        self.loader.close()

    async def finish(self) -> None:
        """Ends the engine process, once it has answered the accepted calls."""
        self._closing = True
        if self.state is ProcessState.RUNNING:
            await self._try("close", patience=math.inf)
        if self.child is not None:
            await asyncio.wait([self.child.ended], timeout=_LAST_SECONDS)
        await self.ended()

    async def ended(self) -> None:
        """Returns when no engine process runs any more."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # What the server shows.

    def ready(self) -> bool:
        """Whether calls are answered."""
        return self.state is ProcessState.RUNNING

    def answer(self) -> bool:
        """Whether calls are answered."""
        return self.ready()

    def lines(self) -> Sequence[str]:
        """A line for each process."""
        return front_line(), self.line()

    def line(self) -> str:
        """The line of the engine process."""
        since = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds")
        pid = self.child.pid if self.child is not None else "none"
        reason = f": {self._reason}" if self._reason else ""
        return f"process {self._seat.name}: pid {pid}, {self.state} since {since}{reason}"

    async def _recent(self, port: RemotePort) -> Sequence[BatchRecord]:
        found = await self._try("recent", patience=_PATIENCE, number=port.number)
        return [BatchRecord(**record) for record in found or ()]

    async def _ask(self, what: str, data: bytes = b"", /, **fields: Any) -> Any:
        control = self._control or Control(self._told, self._asked)
        return await control.ask(what, data, **fields)

    async def ask_started(self, what: str, data: bytes = b"", /, **fields: Any) -> Any:
        """The answer to a question, once a process that is started takes questions. Raises its
        ServingError, and ModelNotReady where it is gone."""
        if self.state is not ProcessState.FAILED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_START_SECONDS):
                    await self._started.wait()
        return await self._ask(what, data, **fields)

    async def _try(self, what: str, *, patience: float = _LAST_SECONDS, **fields: Any) -> Any:
        """The answer; None where there is none."""
        try:
            async with asyncio.timeout(None if patience == math.inf else patience):
                return await self._ask(what, **fields)
        except (TimeoutError, ServingError):
            return None

    # Engine processes.

    def _expected(self) -> float:
        """Seconds until an engine process is likely to serve."""
        return max(_FIRST_PAUSE, self._usual - (time.monotonic() - self._began))

    async def _run(self, after: asyncio.Event | None) -> None:
        if after is not None:
            await after.wait()
        ends: deque[float] = deque(maxlen=_MOST_ENDS)
        pause = _FIRST_PAUSE
        while not self._closing:
            self._began = time.monotonic()
            kind, reason = await self._live()
            if self._closing:
                break
            now = time.monotonic()
            ends.append(now)
            self._metrics.engine_ends.count(kind)
            told = {"kind": kind, "reason": reason, **self._seat.about}
            logger.error("engine process ended", extra=told)
            self.tried.set()
            if len(ends) == _MOST_ENDS and now - ends[0] < _IN_SECONDS:
                reason = (
                    f"it ended {_MOST_ENDS} times within {_IN_SECONDS:.0f} s, at last: {reason}"
                )
                self._set(ProcessState.FAILED, reason)
                self.calls.gave_up(f"no engine process: {reason}")
                pause = _IN_SECONDS
            else:
                self._set(ProcessState.RESTARTING, reason)
                lived = now - self._began
                pause = _FIRST_PAUSE if lived > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause)
        self._set(ProcessState.STOPPED, "")

    async def _live(self) -> tuple[str, str]:
        """One engine process; the kind of its end, and the reason."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        try:
            self.child = child = Child(self._module, self._seat)
        except OSError as error:
            return "crash", f"it cannot be started: {error}"
        self._silent = self._hung_seconds - _START_SECONDS
        channel = Channel(child.data, self.calls.received, lambda why: self._end("crash", why))
        self._control = control = Control(self._told, self._asked)
        self._channel = channel
        child.ended.add_done_callback(
            lambda ended: self._end("crash", how_it_ended(ended.result()))
        )
        tasks = [
            loop.create_task(work)
            for work in (self._converse(control, child), self._begin(control), self._watch())
        ]
        kind, reason = "stop", "the server stops"
        try:
            kind, reason = await self._over
            # Its sockets close a little before it is dead; the status says more.
            await asyncio.wait([child.ended], timeout=0.0 if kind != "crash" else _PATIENCE)
            if kind == "crash" and child.ended.done():
                reason = how_it_ended(child.ended.result())
        finally:
            self.calls.disconnected(reason)
            channel.close()
            control.close()
            for task in tasks:
                task.cancel()
            child.kill()
            await asyncio.shield(child.ended)
            self._bury(child)
        return kind, reason

    def _bury(self, child: Child) -> None:
        """Takes everything back from a process that is dead."""
        running = calls_at_death(child.flight, self._mirror.numbers())
        self._control = None
        self._started.clear()
        self._mirror.lost()
        self.share.ended()
        self.calls.died(running)
        child.close()

    def _end(self, kind: str, reason: str) -> None:
        """The engine process has to go, or has gone."""
        if self._over is not None and not self._over.done():
            self._over.set_result((kind, reason))

    async def _converse(self, control: Control, child: Child) -> None:
        self._end("crash", await control.run(child.control))

    async def _begin(self, control: Control) -> None:
        """Has models loaded, as they were in the process before."""
        try:
            await control.wait_open()
            but = sorted(self.loader.unloaded)
            given = {"settings": self._settings, "but": but, **self._seat.place}
            loading = asyncio.ensure_future(control.ask("start", **given))
            await asyncio.sleep(0)  # it is sent: what is asked from now on comes after it
            self._started.set()
            await loading
        except ServingError:
            return  # it has ended, which is noticed elsewhere
        await self.loader.restore(self._ask)
        self._mirror.settled()
        self.tried.set()
        self._usual = time.monotonic() - self._began

    async def _watch(self) -> None:
        """Ends a process that does not speak any more. It counts looks, not seconds: a front that
        was stopped itself has not listened."""
        level = logging.INFO
        while self._silent < self._hung_seconds:
            await asyncio.sleep(_LOOK_SECONDS)
            self._silent += 1
            if (now := logging.getLogger().level) != level and self._control is not None:
                level = now
                self._control.tell("log_level", level=level)
        self._end("hung", f"it has said nothing for {self._hung_seconds} s")

    def _told(self, fact: Question) -> None:
        """Takes a fact of the engine process. Raises BadRecord."""
        if fact.what == "log":
            try:
                log_lines.write(fact.fields, self._seat.about)
            except ValueError as error:
                raise BadRecord(str(error)) from error
            return
        self._silent = 0
        if fact.what == "hello":
            self.calls.connected(self._channel)
            self._set(ProcessState.RUNNING, "")
        elif fact.what == "models":
            self._mirror.told(fact.fields)
        elif fact.what == "beat":
            if fact.fields.get("stuck"):
                self._end("stuck", str(fact.fields["stuck"])[:200])
            if "sums" in fact.fields:
                self.share.took(fact.fields["sums"])
        else:
            raise BadRecord(f"a fact of kind {fact.what!r:.80}")

    async def _asked(self, question: Question) -> Any:
        raise ServingError(f"a front answers no questions, such as {question.what!r:.80}")

    def _set(self, state: ProcessState, reason: str) -> None:
        self.state, self._reason, self._since = state, reason, time.time()
        self.catalogue.changed()
