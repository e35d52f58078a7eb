"""The door that every call goes through, whatever wire it came by and whatever it asks for."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Self

from serving.base.errors import ModelNotFound, ModelNotReady, QueueFull, ServingError
from serving.base.machine.cpu import core_count
from serving.base.memory import LargeTurns, MemoryBudget, Use
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.models.catalogue import Catalogue
from serving.models.servable import CallOptions, Servable
from serving.server.access.caller import Caller, GetCaller
from serving.server.access.door import Door, Visit
from serving.server.access.policy import Action
from serving.server.endpoints.guard import unreadable
from serving.server.error_status import status_of

logger = logging.getLogger(__name__)


# Characters of a call's id in the log; a caller may give it megabytes.
_LOGGED_ID = 200


class Call:
    """One call, from its arrival to its answer: `with front.call(...) as call`.

    Leaving the block counts how the call ended. A failure that is not a ServingError goes to the
    log with its traceback, and leaves the block as a plain INTERNAL.

    method: its name in metrics and logs.
    deadline: when its caller gives up, seconds on the monotonic clock, inf for never.
    began: when it arrived, on the same clock.
    received: bytes of its message. Where it has come by the start, it holds them from there on.
    id: the name that its caller gave it.
    model: the model that it infers with, once that is known.
    ended: it has left the block; threads may still work for it.
    visit: what its caller may do; None where nobody decides about callers.
    """

    __slots__ = (
        "_caller", "_front", "_held", "began", "deadline", "ended", "id", "method", "model",
        "received", "visit",
    )  # fmt: skip

    _infers = False

    def __init__(
        self, front: "Front", method: str, caller: GetCaller, received: int, deadline: float
    ) -> None:
        self._front = front
        self._caller = caller
        self._held: dict[Use, int] = {}
        self.method = method
        self.deadline = deadline
        self.received = received
        self.id = ""
        self.ended = False
        self.model: Servable | None = None
        self.visit: Visit | None = None
        self.began = time.monotonic()

    @property
    def caller(self) -> Caller:
        """Who calls."""
        return self._caller()

    def __enter__(self) -> Self:
        front = self._front
        front.running += 1
        try:
            if front.closing:
                raise ModelNotReady("the server is shutting down")
            if front.door is not None:
                self.visit = visit = front.door.visit(self._caller())
                visit.enter()
            if self.received:
                self.hold("message", self.received)
        except ServingError as refusal:
            self.__exit__(type(refusal), refusal, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ended = True
        front = self._front
        for use, size in self._held.items():
            front.give_back(use, size)
        front.running -= 1
        front.last_seen = now = time.monotonic()
        seconds = now - self.began
        code = "OK" if error is None else self._code(error)
        self._count(code, seconds)
        if front.door is not None:
            refusal = error if isinstance(error, ServingError) else None
            outcome = code, self.id, refusal
            front.door.ended(self.visit, self._caller, self.method, outcome, infers=self._infers)
        if seconds > front.slow_seconds:
            logger.warning("slow call", extra=self._described(code, seconds))
        if isinstance(error, Exception) and not isinstance(error, ServingError):
            raise ServingError("internal error; the server's log says more") from error

    def _code(self, error: BaseException) -> str:
        if isinstance(error, ServingError):
            return status_of(error).code
        if isinstance(error, Exception):
            about = {"method": self.method, "request_id": self.id[:_LOGGED_ID]}
            logger.error("call failed", exc_info=error, extra=about)
            return "INTERNAL"
        return "CANCELLED"

    def _count(self, code: str, seconds: float) -> None:
        self._front.metrics.control_calls.count(self.method, code)

    def _described(self, code: str, seconds: float) -> dict[str, object]:
        return {
            "method": self.method,
            "request_id": self.id[:_LOGGED_ID],
            "caller": self.caller.address,
            "model": self.model.facts.name if self.model else "",
            "bytes": self.received,
            "code": code,
            "milliseconds": round(seconds * 1e3, 1),
        }

    def hold(self, use: Use, size: int) -> None:
        """Takes `size` bytes of the server's memory budget until the call ends. Raises InvalidInput
        where the limit does not allow that much, QueueFull where others, or the caller by a limit
        of his, hold too much."""
        if self.visit is not None:
            self.visit.hold(size)
        self._front.take(use, size)
        self._held[use] = self._held.get(use, 0) + size

    def decoding(self, size: int, deadline: float) -> AbstractContextManager[None]:
        """Holds `size` bytes for work on the current worker thread; `MemoryBudget.decoding`."""
        return self._front.decoding(size, deadline, lambda: self.ended)

    def find(self, action: Action, name: str, version: str = "") -> Servable:
        """The model that the call names, for something that its caller must have a right to.
        Raises ModelNotFound, ModelNotReady, NotAllowed."""
        self.require(action, name)
        return self._front.catalogue.get(name, version)

    def require(self, action: Action, model: str = "") -> None:
        """Raises NotAllowed where its caller has no right to an action on a model, or on none where
        none is named; ModelNotFound for a model that is not there, or of which he may not know."""
        if self.visit is None:
            return
        known = self._front.catalogue.entries
        self.visit.require(action, model, known)
        if model and model not in known:
            raise ModelNotFound(self.visit.no_model(model, known))

    def may(self, action: Action, model: str) -> bool:
        """Whether its caller has a right on a model."""
        return self.visit is None or action in self.visit.rights.on(model)

    def sees(self, model: str) -> bool:
        """Whether its caller may know of a model."""
        return self.visit is None or self.visit.sees(model)

    def brings(self, images: int) -> None:
        """Counts images of its caller."""
        if self.visit is not None:
            self.visit.images(images)

    @property
    def counts_pixels(self) -> bool:
        """Whether somebody wants to know the pixels of its images."""
        return self.visit is not None

    def loaded(self, pixels: int) -> None:
        """Counts pixels of its images."""
        if self.visit is not None:
            self.visit.pixels(pixels)

    @property
    def large(self) -> LargeTurns:
        """The turns of large work."""
        return self._front.large

    async def receive(self, arriving: Awaitable[bytes]) -> bytes:
        """The message of a call that arrives after its head does, held by whoever reads it; the
        call's time begins when it is there. A sender that stops halfway does not hold up the end of
        the server.

        Raises InvalidInput for whatever goes wrong on the way, ModelNotReady where the server has
        begun to shut down meanwhile.
        """
        front = self._front
        front.running -= 1
        try:
            message = await arriving
        except ServingError:
            raise
        except Exception as error:
            raise unreadable(error) from error
        finally:
            front.running += 1
            self.began = time.monotonic()
        if front.closing:
            raise ModelNotReady("the server is shutting down")
        self.received = len(message)
        return message


class InferenceCall(Call):
    """A call that infers. The model's counters count it."""

    __slots__ = ()

    _infers = True

    def resolve(self, name: str, version: str) -> Servable:
        """The model that the call names. Raises ModelNotFound, ModelNotReady, NotAllowed."""
        if self.visit is None:
            self.model = model = self._front.catalogue.get(name, version)
        else:
            self.model = model = self.find("infer", name, version)
        return model

    def options(self, priority: int, timeout: float) -> CallOptions:
        """priority 0 and timeout 0 (seconds) are the model's defaults."""
        caller = 0 if self.visit is None else self.visit.number
        seconds = timeout if timeout > 0 else math.inf
        return CallOptions(priority, self.deadline, seconds, self, caller)

    def _count(self, code: str, seconds: float) -> None:
        model = self.model
        if model is None:
            self._front.metrics.requests.count("", "", self.method, code)
            return
        facts = model.facts
        self._front.metrics.requests.count(facts.name, facts.version, self.method, code)
        model.call_ended(seconds, ok=code == "OK")


class Front:
    """The door: opens every call, and counts the calls under way.

    running: calls under way.
    last_seen: when the last call ended, seconds on the monotonic clock.
    closing: new calls are refused.
    slow_seconds: calls that take longer are logged; 0 logs none.
    large: turns of work that takes much memory and time. They leave one worker thread to the rest.
    copies: turns of long copies on the event loop.
    door: decides about callers; None where all may do all that no admin must.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        metrics: FrontMetrics,
        budget: MemoryBudget,
        slow_seconds: float = 0.0,
        door: Door | None = None,
    ) -> None:
        self.door = door
        self.catalogue = catalogue
        self.metrics = metrics
        self.slow_seconds = slow_seconds or math.inf
        self.closing = False
        self.running = 0
        self.last_seen = -math.inf
        self.budget = budget
        metrics.watch_memory(budget)
        self.give_back = budget.give_back
        self.large = asyncio.Semaphore(max(1, core_count() - 1))
        self.copies = Copies()
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

    def ask(self, method: str, caller: GetCaller, action: Action) -> Visit | None:
        """What the caller may do of a question that is no call: the metrics, the batches,
        reflection. Raises Unauthenticated, NotAllowed, ModelNotReady, OverLimit; None where nobody
        decides about callers."""
        return None if self.door is None else self.door.ask(method, caller, action)

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
