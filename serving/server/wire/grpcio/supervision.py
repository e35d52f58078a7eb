"""Cuts callers of the gRPC port who take too long or too much."""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress

from serving.base.errors import DeadlineExpired, ServingError
from serving.base.machine.heap import trim_heap
from serving.base.metrics import FrontMetrics
from serving.server.wire.cuts import Cuts
from serving.server.wire.grpcio.connections import Connections, address_of, peer_of
from serving.server.wire.grpcio.memory_watch import MemoryWatch
from serving.server.wire.grpcio.transfers import Transfers, Waiting, short_of_memory
from serving.server.wire.interface import Limits, Peer

logger = logging.getLogger(__name__)

# Seconds between two looks at the process's memory while something is on its way, and while nothing
# is. In 10 ms, loopback brings up to 20 MB. A look takes 10 us.
_BUSY_SECONDS = 0.01
_IDLE_SECONDS = 1.0
# Bytes above the limit at which connections are closed, since the event loop would be too slow to
# end their calls. Fewer cuts other calls of these connections more often, more needs more memory.
_MARGIN = 64 << 20
# Seconds between two looks for callers that take too long and connections that are too many.
_SWEEP_SECONDS = 1.0
# Seconds with nothing on its way, after which all memory that calls do not hold is the server's
# own. Fewer might count messages that gRPC has not freed yet.
_REST_SECONDS = 1.0
# Bytes of memory that a byte of an unfinished message takes at most, in small frames.
_PER_BYTE = 4
# Seconds that an answer has waited for its reader, after which he is cut where memory is short.
_SLOW_READER_SECONDS = 1.0


class Supervision:
    """Watches over transfers, on a thread of its own: the event loop may be busy for longer than
    it takes to fill the memory.

    limits: a call that takes one message is ended where it has not come in `receive` seconds;
        a stream may wait as long as it likes. The connection of a caller who has not read an answer
        in `send` seconds is closed.
    """

    def __init__(
        self,
        transfers: Transfers,
        connections: Connections,
        watch: MemoryWatch,
        metrics: FrontMetrics,
        limits: Limits,
    ) -> None:
        self._transfers = transfers
        self._connections = connections
        self._watch = watch
        self._limits = limits
        self._stopped = threading.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._cuts = Cuts(metrics)

    def start(self) -> None:
        """Begins to watch. To be called on the event loop of the calls."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="supervision", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread after its next look."""
        self._stopped.set()
        self._transfers.begun.set()

    def _run(self) -> None:
        swept = rested = busy = time.monotonic()
        while not self._stopped.is_set():
            try:
                now = time.monotonic()
                if self._transfers.busy(now):
                    busy = now
                before = now - _REST_SECONDS
                still = busy <= before and not self._transfers.busy(before)
                if still and (now - rested >= _REST_SECONDS or self._watch.excess() > 0):
                    rested = now
                    self._rest()
                if self._watch.excess() > 0:
                    self._make_room()
                if now - swept >= _SWEEP_SECONDS:
                    swept = now
                    self._sweep(now)
            except Exception:
                logger.exception("supervision of the gRPC port failed")
            self._pause()

    def _pause(self) -> None:
        begun = self._transfers.begun
        if not self._transfers.any:
            begun.clear()
            if not begun.wait(_IDLE_SECONDS):
                return
        self._stopped.wait(_BUSY_SECONDS)

    def _make_room(self) -> None:
        """Cuts callers until the memory is below its limit. Meanwhile their addresses send no more,
        and no call takes much. Freed memory is given back first, so that nobody is cut for it."""
        budget, asked = self._watch.budget, set[Waiting]()
        transfers = self._transfers
        budget.short = True
        try:
            trim_heap()
            while (excess := self._watch.excess()) > 0 and not self._stopped.is_set():
                if not transfers.any:
                    self._stopped.wait(_REST_SECONDS)
                    self._rest()
                    continue
                left = set(transfers.receiving())
                chosen = _older_half(left - asked)
                asked.update(chosen)
                transfers.refused = frozenset(address_of(call.peer) for call in asked)
                self._end(chosen, "memory", short_of_memory("the call was ended"))
                if excess > _MARGIN:
                    self._disconnect(asked & left, "memory")
                slow = transfers.sending(time.monotonic() - _SLOW_READER_SECONDS)
                self._disconnect(slow, "memory")
                self._stopped.wait(_BUSY_SECONDS)
                trim_heap()
        finally:
            transfers.refused = frozenset()
            budget.short = False

    def _sweep(self, now: float) -> None:
        """Ends whoever is too late, and connections that are too many."""
        receive, send = self._limits.receive, self._limits.send
        error = DeadlineExpired(f"its message did not come within {receive:g} s")
        self._end(self._transfers.late(now - receive), "receive", error)
        self._disconnect(self._transfers.sending(now - send), "send")
        self._cuts.count("connections", self._connections.cut_excess())

    def _rest(self) -> None:
        """Finds what the server has for itself. Streams may wait meanwhile, since they may do so
        for ever and models are loaded; a message that they have in part is none of the server's."""
        since = time.monotonic()
        found = self._watch.at_rest(self._arriving)
        if not self._transfers.busy(since):
            self._watch.rest = found

    def _arriving(self) -> int:
        """The most memory that messages of waiting streams may have by now: as much as has come
        over their connections and was not taken."""
        taken, count = Counter[Peer | None](), Counter[Peer | None]()
        for stream in self._transfers.waiting_streams():
            peer = peer_of(stream.peer)
            taken[peer] += stream.taken
            count[peer] += 1
        received = self._connections.received() if count else {}
        total = 0
        for peer, number in count.items():
            # Of a Unix socket, and elsewhere than on Linux, it is not known what has come.
            most = number * self._limits.message
            come = received[peer] - taken[peer] if peer and peer in received else most
            total += min(_PER_BYTE * max(0, come), most)
        return total

    def _end(self, calls: Collection[Waiting], reason: str, error: ServingError) -> None:
        """Ends calls that wait for a message, with the status of an error."""

        async def end(waiting: Waiting) -> None:
            if self._transfers.is_receiving(waiting):
                with suppress(Exception):  # its caller has gone away
                    await waiting.call.refuse(error)

        def begin() -> None:
            for call in calls:
                task = asyncio.create_task(end(call))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

        if calls:
            self._loop.call_soon_threadsafe(begin)
            self._cuts.count(reason, len(calls))

    def _disconnect(self, calls: Collection[Waiting], reason: str) -> None:
        """Closes the connections of calls. A caller who does not read would not get a status
        either: it waits behind the answer, and gRPC ends no call without one."""
        peers = {peer for call in calls if (peer := peer_of(call.peer))}
        if peers:
            self._cuts.count(reason, self._connections.cut(peers))


def _older_half(calls: Collection[Waiting]) -> list[Waiting]:
    """The larger half of the calls: first those of the address that has most, oldest first."""
    addresses = {call: address_of(call.peer) for call in calls}
    counts = Counter(addresses.values())
    ranked = sorted(calls, key=lambda call: (-counts[addresses[call]], call.since))
    return ranked[: (len(ranked) + 1) // 2]
