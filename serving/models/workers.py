"""Worker threads that decode images and finish answers, for callers in turn."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

# Results for each thread that the event loop has not taken yet. With more, threads whose work is
# short keep the GIL from the loop, which they take in turn; fewer leave them idle while it is busy.
_AHEAD = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


class RoundRobin(Generic[Item]):
    """Items of callers, who come in turn with one each (RFC 970)."""

    def __init__(self) -> None:
        # By caller, in the order of their turns.
        self._lines: dict[Hashable, deque[Item]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def push(self, caller: Hashable, item: Item) -> None:
        """Adds an item behind those of its caller."""
        line = self._lines.get(caller)
        if line is None:
            self._lines[caller] = line = deque()
        line.append(item)

    def pop(self) -> tuple[Hashable, Item]:
        """Takes out the first item of the caller whose turn it is. There must be one."""
        caller = next(iter(self._lines))
        line = self._lines.pop(caller)
        item = line.popleft()
        if line:
            self._lines[caller] = line  # behind the others
        return caller, item


class _Job(NamedTuple):
    """A piece of work, and the future of who waits for it."""

    work: Callable[[], Any]
    future: "asyncio.Future[Any]"
    large: bool


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
        # True for each piece, at least, that may begin; False for a thread that is to end.
        self._calls = SimpleQueue[bool]()
        # One for each piece whose result may still wait for the event loop.
        self._ahead = SimpleQueue[None]()
        for _ in range(_AHEAD * threads):
            self._ahead.put(None)
        # The threads' own.
        self._lock = threading.Lock()
        self._jobs = RoundRobin[_Job]()
        self._large = RoundRobin[_Job]()
        # Large pieces for which there is room among `_jobs` and those that run.
        self._large_left = max(1, threads - 1)

    async def run(
        self, caller: Hashable, work: Callable[[], Result], *, large: bool = False
    ) -> Result:
        """The result of work on one of the threads, or its error. Work whose call is cancelled does
        not begin; where it has begun, it ends, and keeps its place."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._arrived.append((caller, _Job(work, future, large)))
        if not self._threads:
            self._start()
        self._calls.put(True)
        try:
            return await future
        finally:
            del future  # an error that it holds knows this frame; only a collection would free both

    def close(self) -> None:
        """Returns when the work under way has ended. Nobody may wait for any more."""
        # The event loop takes no results while it waits here.
        for _ in range(self._calls.qsize() + len(self._threads)):
            self._ahead.put(None)
        for _ in self._threads:
            self._calls.put(False)
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
        for number in range(self._count):
            # A process that ends without `close` does not wait for them.
            thread = threading.Thread(target=self._serve, name=f"decode_{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while self._calls.get():
            job = self._next()
            if job is None:
                continue
            if not job.future.cancelled():
                self._ahead.get()
                self._work(job)
            if job.large:
                self._large_ended()
            del job  # it holds an image

    def _work(self, job: _Job) -> None:
        future = job.future
        tell: Callable[[Any], None]
        try:
            outcome, tell = job.work(), future.set_result
        except BaseException as error:
            outcome, tell = error, future.set_exception
        try:
            future.get_loop().call_soon_threadsafe(self._tell, future, tell, outcome)
        except RuntimeError:  # it is closed
            self._ahead.put(None)
        finally:
            del job, future, tell, outcome  # as in `run`

    def _tell(
        self, future: "asyncio.Future[Any]", tell: Callable[[Any], None], outcome: Any
    ) -> None:
        """On the event loop."""
        self._ahead.put(None)
        if not future.done():
            tell(outcome)

    def _next(self) -> _Job | None:
        """The piece whose turn it is; None where those that are left are large and have to wait."""
        with self._lock:
            self._sort()
            return self._jobs.pop()[1] if self._jobs else None

    def _large_ended(self) -> None:
        with self._lock:
            self._large_left += 1
            self._sort()

    def _sort(self) -> None:
        """Puts pieces that have arrived, and large ones for which there is room, behind the others
        of their callers."""
        while self._arrived:
            caller, job = self._arrived.popleft()
            (self._large if job.large else self._jobs).push(caller, job)
        while self._large and self._large_left:
            self._large_left -= 1
            self._jobs.push(*self._large.pop())
            # The thread that was called when it arrived may have found nothing to do.
            self._calls.put(True)
