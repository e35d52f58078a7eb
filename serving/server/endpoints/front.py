"""The door that every call goes through, whatever wire it came by and whatever it asks for."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from serving.base.errors import QueueFull, ServingError
from serving.base.memory import MemoryBudget, Use
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies, Turns
from serving.models.catalogue import Catalogue
from serving.server.access.caller import GetCaller
from serving.server.access.door import Door, Visit
from serving.server.access.policy import Action
from serving.server.endpoints.call import Call, InferenceCall

if TYPE_CHECKING:
    from serving.server.telemetry.tracing import Tracing


class Front:
    """The door: opens every call, and counts the calls under way.

    running: calls under way.
    last_seen: when the last call ended, seconds on the monotonic clock.
    closing: new calls are refused.
    slow_seconds: calls that take longer are logged; 0 logs none.
    copies: turns of long copies on the event loop.
    turns: turns of other long work there.
    door: decides about callers; None where all may do all that no admin must.
    tracing: traces calls; None where it is off.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        metrics: FrontMetrics,
        budget: MemoryBudget,
        slow_seconds: float = 0.0,
        door: Door | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.door = door
        self.tracing = tracing
        self.catalogue = catalogue
        self.metrics = metrics
        self.slow_seconds = slow_seconds or math.inf
        self.closing = False
        self.running = 0
        self.last_seen = -math.inf
        self.budget = budget
        metrics.watch_memory(budget)
        self.give_back = budget.give_back
        self.copies = Copies()
        self.turns = Turns(lambda: self.running > 1)
        self.readers: set[asyncio.Task[None]] = set()

    def call(
        self, method: str, caller: GetCaller, received: int = 0, deadline: float = math.inf
    ) -> InferenceCall:
        """A call that infers, to be entered by `with`. Entering raises ModelNotReady once the
        server shuts down, QueueFull and InvalidInput where its message finds no memory."""
        return InferenceCall(self, method, caller, received, deadline)

    def control(self, method: str, caller: GetCaller, received: int = 0) -> Call:
        """A call that infers nothing: metadata, statistics, repository, settings, memory."""
        return Call(self, method, caller, received, math.inf)

    def meet(self, call: Call) -> None:
        """Refuses a call, like any other, whose caller is refused whatever its message says, before
        that is received. Raises Unauthenticated, ModelNotReady."""
        try:
            if self.door is not None:
                self.door.known(call.caller)
        except ServingError:
            with call:
                return

    def ask(
        self, method: str, caller: GetCaller, action: Action, model: str | None = None
    ) -> Visit | None:
        """What the caller may do of a question that is no call: the metrics, the batches,
        reflection. Raises Unauthenticated, NotAllowed, ModelHidden, ModelNotReady, OverLimit; None
        where nobody decides about callers."""
        if self.door is None:
            return None
        return self.door.ask(method, caller, action, model, self.catalogue.entries)

    def seen_by(self, caller: GetCaller) -> Callable[[str], bool]:
        """Tells of which models the caller of a probe may know."""
        return (lambda _: True) if self.door is None else self.door.seen_by(caller())

    def stream(self, method: str, caller: GetCaller) -> AbstractContextManager[None]:
        """Counts a stream until its end. Entering raises Unauthenticated, OverLimit."""
        return nullcontext() if self.door is None else self.door.stream(method, caller)

    def quiet_for(self, seconds: float) -> bool:
        """True where no call has been under way for this long."""
        return not self.running and time.monotonic() - self.last_seen >= seconds

    def close(self) -> None:
        """Refuses new calls as UNAVAILABLE, which callers may retry elsewhere; those under way are
        finished, and a stream ends when its requests so far are answered."""
        self.closing = True
        for reader in self.readers:
            reader.cancel()

    def take(self, use: Use, size: int) -> None:
        """Takes of the memory budget. Raises InvalidInput, and QueueFull, which it counts."""
        try:
            self.budget.take(use, size)
        except QueueFull:
            self.metrics.shed.count("", "bytes")
            raise

    @contextmanager
    def decoding(self, size: int, deadline: float, ended: Callable[[], bool]) -> Iterator[None]:
        """Holds memory for work on the current worker thread. Raises InvalidInput, DeadlineExpired,
        and QueueFull, which it counts."""
        with ExitStack() as held:
            try:
                held.enter_context(self.budget.decoding(size, deadline, ended))
            except QueueFull:
                self.metrics.shed.count("", "bytes")
                raise
            yield
