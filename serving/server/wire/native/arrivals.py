"""The memory of messages that have come and that nobody has read yet."""

import asyncio
import time
from collections import Counter, deque
from typing import Protocol

from serving.base.errors import QueueFull, ServingError
from serving.base.memory import MemoryBudget
from serving.server.wire.cuts import Cuts
from serving.server.wire.native.framing import Messages

# Share of the budget that messages larger than a stream's window leave to the rest, one in so many.
_LEFT_FREE = 8
# Share of the budget that is freed at a time where nothing is left, one in so many. More cuts more
# callers at once, less looks for them more often.
_FREED = 64
# Bytes that a call may hold also while nothing is left, and the share of the budget that all calls
# together may take so, one in so many: those of a stream are refused one by one by its method,
# which knows what they were, and the refusal of a call finds its way. More is to be added to the
# budget.
_SMALL = 64 << 10
_MARGIN = 16
# Seconds that a large message waits for memory until it is refused, and between two looks.
_PATIENCE = 1.0
_LOOK_SECONDS = 0.02
# Bytes from which on messages that nobody will read are freed in later rounds of the event loop,
# and bytes that are freed in one. Returning memory to the system takes 80 us for each MiB: more
# stops the loop for longer, fewer keeps the memory from others.
_FREED_LATER, _FREED_A_ROUND = 1 << 20, 8 << 20
# Seconds after which a caller that was refused may try again.
_RETRY_SECONDS = 1.0


class Arriving(Protocol):
    """A call whose messages arrive.

    site: whose connection it comes by.
    held: bytes of messages that it holds.
    refusal: the error that its method reads, where it was refused.
    """

    held: int
    refusal: ServingError | None

    @property
    def site(self) -> str: ...

    def refuse(self, error: ServingError) -> None:
        """Lets go of all that has come; its method reads the error."""

    def grant(self) -> None:
        """Lets its caller send on, where memory permits."""


class Arrivals:
    """Takes memory for what arrives.

    Where none is left, the oldest messages of the address that has most of it are refused, so that
    others are served. Large messages wait before it comes to that.

    leaving: bytes of messages that are about to be freed.
    """

    def __init__(self, budget: MemoryBudget, cuts: Cuts) -> None:
        self.budget = budget
        self._cuts = cuts
        # In the order in which they began to hold something.
        self._holders: dict[Arriving, None] = {}
        self._waiting: dict[Arriving, float] = {}
        self._look: asyncio.TimerHandle | None = None
        # Messages that are to be freed, and their bytes.
        self._unread = deque[tuple[Messages, int]]()
        self.leaving = 0

    def take(self, call: Arriving, size: int) -> None:
        """Holds `size` more bytes of the budget for a call, or refuses it."""
        try:
            self.budget.take("message", size)
        except ServingError as error:
            if call.held + size <= _SMALL and self._keep(size):
                call.held += size
                self._holders[call] = None
                return
            if not self._make_room(call, size):
                self._cuts.count("memory")
                call.refuse(error)
            if call.refusal is not None:
                return
            self.budget.keep("message", size)
        call.held += size
        self._holders[call] = None

    def open(self, size: int) -> None:
        """Holds what a call takes beside its messages. Raises QueueFull."""
        try:
            self.budget.take("message", size)
        except ServingError:
            if not self._keep(size):
                self._cuts.count("memory")
                raise

    def _keep(self, size: int) -> bool:
        """Counts bytes that the budget does not have, where they are few."""
        limit = self.budget.limit
        if self.budget.used + size > limit + limit // _MARGIN:
            return False
        self.budget.keep("message", size)
        return True

    def give_back(self, call: Arriving, size: int) -> None:
        """Gives bytes of a call back."""
        self.budget.give_back("message", size)
        call.held -= size
        if not call.held:
            self._holders.pop(call, None)
            self._waiting.pop(call, None)

    def discard(self, call: Arriving, messages: Messages) -> None:
        """Frees all messages of a call, which may be much, and gives their bytes back."""
        size = call.held
        if size < _FREED_LATER:
            messages.drop()
            self.give_back(call, size)
            return
        call.held = 0
        self._holders.pop(call, None)
        self._waiting.pop(call, None)
        self._unread.append((messages, size))
        self.leaving += size
        if len(self._unread) == 1:
            asyncio.get_running_loop().call_soon(self._free_some)

    def _free_some(self) -> None:
        freed = 0
        while self._unread and freed < _FREED_A_ROUND:
            messages, size = self._unread.popleft()
            messages.drop()
            freed += size
        self.leaving -= freed
        self.budget.give_back("message", freed)
        if self._unread:
            asyncio.get_running_loop().call_soon(self._free_some)

    def permits(self, call: Arriving, size: int) -> bool:
        """Whether `size` bytes of a large message may come. Else `call.grant` is called when that
        has changed, or `call.refuse` when it does not."""
        if self._free(size):
            self._waiting.pop(call, None)
            return True
        self._waiting.setdefault(call, time.monotonic())
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_again)
        return False

    @property
    def short(self) -> bool:
        """Whether hardly any is left for large messages."""
        return not self._free(self.budget.limit // _FREED)

    def _free(self, size: int) -> bool:
        limit = self.budget.limit
        return self.budget.used + size <= limit - limit // _LEFT_FREE

    def _look_again(self) -> None:
        self._look = None
        late = time.monotonic() - _PATIENCE
        for call, since in [*self._waiting.items()]:
            call.grant()
            if since < late and call in self._waiting:
                self._refuse(call)

    def _make_room(self, call: Arriving, size: int) -> bool:
        """Refuses calls until `size` bytes are free and some more: `call` itself may be one. False
        where messages do not hold so much."""
        sizes = Counter({call.site: size})
        for holder in self._holders:
            sizes[holder.site] += holder.held
        missing = size + self.budget.limit // _FREED
        if self._left + sizes.total() - size < missing:
            return False
        for site, _ in sizes.most_common():
            for holder in [one for one in self._holders if one.site == site]:
                if self._left >= missing:
                    return True
                self._refuse(holder)
        return True

    @property
    def _left(self) -> int:
        return self.budget.limit - self.budget.used + self.leaving

    def _refuse(self, call: Arriving) -> None:
        self._cuts.count("memory")
        call.refuse(short_of_memory())


def short_of_memory() -> QueueFull:
    """The error for a caller whose message finds no memory."""
    return QueueFull(
        "memory is short, since too many or too large messages are being received: the message "
        "was not received",
        _RETRY_SECONDS,
    )
