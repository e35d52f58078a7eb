"""Worker threads that decode images and finish answers, for callers in turn."""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

# Results for each thread that the event loop has not taken yet. With more, threads whose work is
# short keep the GIL from the loop, which they take in turn; fewer leave them idle while it is busy.
_AHEAD = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


class RoundRobin(Generic[Item]):
    """Items of callers, who come in turn with one each (RFC 970).

    wanted: items of which it says no are left out. They cost their caller no turn.
    """

    def __init__(self, wanted: Callable[[Item], bool] = lambda _: True) -> None:
        self._wanted = wanted
        # By caller, in the order of their turns.
        self._lines = OrderedDict[Hashable, deque[Item]]()

    def push(self, caller: Hashable, item: Item, *, first: bool = False) -> None:
        """Adds an item behind those of its caller, or before them."""
        line = self._lines.get(caller)
        if line is None:
            self._lines[caller] = line = deque()
        if first:
            line.appendleft(item)
        else:
            line.append(item)

    def pop(self) -> tuple[Hashable, Item] | None:
        """Takes out the first item of the caller whose turn it is; None where there is none."""
        while self._lines:
            caller, line = self._lines.popitem(last=False)
            while line:
                item = line.popleft()
                if self._wanted(item):
                    if line:
                        self._lines[caller] = line  # behind the others
                    return caller, item
        return None


class _Job:
    """A piece of work, and the future of who waits for it.

    work: None once nobody waits for it. The image that it holds is counted no longer then, and may
        not stay in memory for as long as others have their turns.
    future: of its result, and of its error.
    large: it needs a place.
    placed: it has one.
    """

    __slots__ = ("future", "large", "placed", "work")

    def __init__(
        self, work: Callable[[], Any], future: "asyncio.Future[Any]", *, large: bool
    ) -> None:
        self.work: Callable[[], Any] | None = work
        self.future = future
        self.large = large
        self.placed = False

    def wanted(self) -> bool:
        """Whether a thread has to see it: somebody waits for it, or for its place."""
        return self.work is not None or self.placed


class Workers:
    """Threads that work for callers in turn.

    Whoever sends much makes others wait for the pieces that run and for one more of his at most.
    Large pieces leave one thread to the others; where more are wanted, they wait, in turn as well.
    """

    def __init__(self, threads: int) -> None:
        self._count = threads
        self._threads: list[threading.Thread] = []
        # Pieces that no thread has seen yet. The event loop takes no lock: whoever holds it may
        # wait for the GIL.
        self._arrived = deque[tuple[Hashable, _Job]]()
        # One for each piece, at least, that may begin.
        self._calls = SimpleQueue[None]()
        # One for each piece whose result may still wait for the event loop.
        self._ahead = SimpleQueue[None]()
        for _ in range(_AHEAD * threads):
            self._ahead.put(None)
        self._closing = False
        # The threads' own.
        self._lock = threading.Lock()
        self._jobs = RoundRobin(_Job.wanted)
        # Those that have no place.
        self._large = RoundRobin(_Job.wanted)
        self._places = max(1, threads - 1)

    async def run(
        self, caller: Hashable, work: Callable[[], Result], *, large: bool = False
    ) -> Result:
        """The result of work on one of the threads, or its error. Work whose call is cancelled does
        not begin; where it has begun, it ends, and keeps its place."""
        if len(self._threads) < self._count:
            self._start()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        job = _Job(work, future, large=large)
        self._arrived.append((caller, job))
        self._calls.put(None)
        try:
            return await future
        finally:
            job.work = None
            # An error that it holds knows this frame; only a collection would free both.
            del future, job

    def close(self) -> None:
        """Returns when the work under way has ended; no other begins. Nobody may wait for any."""
        self._closing = True
        for _ in self._threads:
            self._calls.put(None)
            self._ahead.put(None)  # the event loop takes no results while it waits here
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        """Raises RuntimeError where the system has not even one thread; with fewer than wanted,
        the next piece tries again."""
        for number in range(len(self._threads), self._count):
            # A process that ends without `close` does not wait for them.
            thread = threading.Thread(target=self._serve, name=f"decode_{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def _serve(self) -> None:
        while True:
            self._calls.get()
            # Before the choice: while it waits here, others may come whose turn it is.
            self._ahead.get()
            if self._closing:
                return
            job = self._next()
            work = None if job is None else job.work
            if job is None or work is None:
                self._ahead.put(None)
            else:
                self._work(work, job.future)
            if job is not None and job.placed:
                self._give_back_place()
            del job, work  # they hold an image

    def _work(self, work: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        tell: Callable[[Any], None]
        try:
            outcome, tell = work(), future.set_result
        except BaseException as error:
            outcome, tell = error, future.set_exception
        try:
            future.get_loop().call_soon_threadsafe(self._tell, future, tell, outcome)
        except RuntimeError:  # it is closed
            self._ahead.put(None)
        finally:
            del work, future, tell, outcome  # as in `run`

    def _tell(
        self, future: "asyncio.Future[Any]", tell: Callable[[Any], None], outcome: Any
    ) -> None:
        """On the event loop."""
        self._ahead.put(None)
        if future.done():
            return
        try:
            tell(outcome)
        except TypeError as refusal:  # no future takes a StopIteration
            refusal.__cause__ = outcome
            future.set_exception(refusal)

    def _next(self) -> _Job | None:
        """The piece whose turn it is; None where those that are left are large and have to wait."""
        with self._lock:
            self._sort()
            found = self._jobs.pop()
            return None if found is None else found[1]

    def _give_back_place(self) -> None:
        with self._lock:
            self._places += 1
            self._sort()

    def _sort(self) -> None:
        """Gives pieces that have arrived, and large ones for which there is a place, to those that
        may begin."""
        while self._arrived:
            caller, job = self._arrived.popleft()
            (self._large if job.large else self._jobs).push(caller, job)
        while self._places and (found := self._large.pop()):
            self._places -= 1
            caller, job = found
            job.placed = True
            # Before others of its caller: they would keep the place from those who wait for it.
            self._jobs.push(caller, job, first=True)
            # The thread that was called when it arrived may have found nothing to do.
            self._calls.put(None)
