"""The budget of bytes that requests may take of this process, whatever they take them for."""

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal, Protocol, Self, get_args

from serving.base.errors import DeadlineExpired, InvalidInput, QueueFull
from serving.base.trace import CallTrace

# message: requests as they came. decode: pixels of images at full size, and the decoder's own
# memory. batch: rows at the network's size, and their results. answer: masks, pictures, responses.
Use = Literal["message", "decode", "batch", "answer"]
USES: tuple[Use, ...] = get_args(Use)

_MIB = 1 << 20
# Bytes of a piece of work, above which it is large: that of some 4 million pixels, 0.1 s. Large
# work waits for its turn, so that small calls find a free thread and free memory beside it. A
# larger bound lets them wait longer, a smaller one lets fewer cores share the work.
LARGE = 32 * _MIB
# Share of the limit that large work leaves to the rest, one in so many.
_LEFT_FREE = 8
# Seconds after which a refused call may try again. Shorter costs more refusals, longer leaves
# memory idle.
_RETRY_SECONDS = 0.1
# Bytes that are given also while memory is short. More lets more of it be taken, fewer refuses
# callers that hardly need any.
_SMALL = 64 << 10
# Seconds after which a thread that waits for bytes looks whether its call has ended. Longer keeps
# the thread from others, shorter costs more looks.
_LOOK_SECONDS = 0.2


class MemoryBudget:
    """Bounds the bytes that all calls together hold. Every thread may use it.

    limit: bytes that may be held at a time.
    short: set while the process has less memory left than the budget says; then only small pieces
        are to be had.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.short = False
        self._held = dict.fromkeys(USES, 0)
        self._used = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Threads that wait for bytes.
        self._waiting = 0

    @property
    def used(self) -> int:
        """Bytes that are held."""
        return self._used

    def held(self, use: Use) -> int:
        """Bytes that are held for one use."""
        return self._held[use]

    def take(self, use: Use, size: int) -> None:
        """Takes `size` bytes, to be given back. Raises InvalidInput where the limit is smaller than
        `size`, QueueFull where others hold too much at the moment."""
        with self._lock:
            if self._used + size > self.limit or (self.short and size > _SMALL):
                self._check_possible(use, size, self.limit)
                raise self._full(use, size)
            self._held[use] += size
            self._used += size

    def keep(self, use: Use, size: int) -> None:
        """Counts bytes that are there already, whatever the limit says."""
        with self._lock:
            self._held[use] += size
            self._used += size

    def give_back(self, use: Use, size: int) -> None:
        """Returns bytes that `take` took, or `keep` counted."""
        with self._lock:
            self._held[use] -= size
            self._used -= size
            if self._waiting:
                self._changed.notify_all()

    @contextlib.contextmanager
    def decoding(
        self, size: int, deadline: float, ended: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Holds `size` bytes for an image that is decoded on the current thread. Waits for them
        while others decode, since those end soon; `deadline` is in monotonic seconds. Large work
        leaves an eighth of the limit to others.

        ended: says that the call has ended, and nobody waits for the image any more.
        Raises InvalidInput, QueueFull as `take` does, and DeadlineExpired, also where the call has
        ended.
        """
        limit = self.limit - (self.limit // _LEFT_FREE if size > LARGE else 0)
        with self._changed:
            self._check_possible("decode", size, limit)
            while self._used + size > limit or (self.short and size > _SMALL):
                if not self._held["decode"]:
                    raise self._full("decode", size)
                left = deadline - time.monotonic()
                if left <= 0 or ended():
                    raise DeadlineExpired("the deadline passed before its image was decoded")
                self._waiting += 1
                self._changed.wait(min(left, _LOOK_SECONDS))
                self._waiting -= 1
            self._held["decode"] += size
            self._used += size
        try:
            yield
        finally:
            self.give_back("decode", size)

    def _check_possible(self, use: Use, size: int, limit: int) -> None:
        if size > limit:
            raise InvalidInput(
                f"too large: {size} bytes of memory are needed for its {_NAMES[use]}, the limit is "
                f"{limit} (--memory-mib {self.limit // _MIB})"
            )

    def _full(self, use: Use, size: int) -> QueueFull:
        return QueueFull(
            f"memory is short: {self._used} of {self.limit} bytes are held, {size} more for its "
            f"{_NAMES[use]} do not fit",
            retry_after=_RETRY_SECONDS,
        )


class CallMemory(Protocol):
    """What one call may take of a budget."""

    def hold(self, use: Use, size: int) -> None:
        """Takes `size` bytes until the call ends; on the event loop. Raises InvalidInput,
        QueueFull."""

    def decoding(self, size: int, deadline: float) -> AbstractContextManager[None]:
        """`MemoryBudget.decoding`, on a worker thread."""

    @property
    def caller_key(self) -> Hashable:
        """Tells callers apart, who take turns at the worker threads."""

    @property
    def counts_pixels(self) -> bool:
        """Whether somebody wants to know the pixels of its images."""

    def loaded(self, pixels: int) -> None:
        """Counts pixels of images that were decoded; on the event loop."""

    @property
    def trace(self) -> CallTrace | None:
        """Of the call; None where it is not traced."""


class LargeWork(QueueFull):
    """A piece of work is LARGE and has no turn."""


class Unlimited:
    """The memory of calls of one's own process."""

    caller_key: Hashable = None
    counts_pixels = False
    trace: CallTrace | None = None

    def hold(self, use: Use, size: int) -> None:
        """Does nothing."""

    def decoding(self, size: int, deadline: float) -> AbstractContextManager[None]:
        """Does nothing."""
        return contextlib.nullcontext()

    def loaded(self, pixels: int) -> None:
        """Does nothing."""


UNLIMITED = Unlimited()


class Reservation:
    """The bytes of one piece of work on a worker thread: `with Reservation(...) as reserve`.

    Entering raises DeadlineExpired where nobody waits for the work any more. `reserve(size)` takes
    bytes until the block ends, in the place of those that it took before: two threads that each
    wait for more while they hold some would wait for each other.

    most: bytes that may be taken; LargeWork is raised for more.
    """

    def __init__(self, memory: CallMemory, deadline: float, most: float) -> None:
        self._memory = memory
        self._deadline = deadline
        self._most = most
        self._held: AbstractContextManager[None] | None = None

    def __call__(self, size: int) -> None:
        """Takes `size` bytes. Raises InvalidInput, QueueFull, LargeWork, DeadlineExpired."""
        if size > self._most:
            raise LargeWork("its turn has not come", _RETRY_SECONDS)
        self._give_back()
        held = self._memory.decoding(size, self._deadline)
        held.__enter__()
        self._held = held

    def __enter__(self) -> Self:
        if time.monotonic() > self._deadline:
            raise DeadlineExpired("the deadline passed before its image was processed")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)


_NAMES: dict[Use, str] = {
    "message": "message",
    "decode": "decoded image",
    "batch": "rows",
    "answer": "answer",
}
