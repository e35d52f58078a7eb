"""One call, whatever wire it came by and whatever it asks for."""

import logging
import math
import time
from collections.abc import Awaitable, Hashable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from serving.base.errors import ModelNotFound, ModelNotReady, ServingError
from serving.base.memory import Use
from serving.models.servable import CallOptions, Servable
from serving.server.access.caller import Caller, GetCaller, site_of
from serving.server.access.door import Visit
from serving.server.access.policy import Action
from serving.server.endpoints.guard import unreadable
from serving.server.error_status import status_of

if TYPE_CHECKING:
    from serving.server.endpoints.front import Front
    from serving.server.telemetry.tracing import SampledTrace

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
    trace: is told its stages; None where it is not traced.
    """

    __slots__ = (
        "_caller", "_front", "_held", "began", "deadline", "ended", "id", "method", "model",
        "received", "trace", "visit",
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
        self.trace: SampledTrace | None = None
        self.began = time.monotonic()

    @property
    def caller(self) -> Caller:
        """Who calls."""
        return self._caller()

    @property
    def caller_key(self) -> Hashable:
        """Tells callers apart at the worker threads: the number that the door knows, and without a
        door the address; None is the admin socket."""
        if self.visit is not None:
            return self.visit.number
        address = self._caller().address
        return None if address is None else site_of(address)

    def __enter__(self) -> Self:
        front = self._front
        front.running += 1
        try:
            if front.tracing is not None:
                self.trace = front.tracing.begin(self.method, self._caller(), self.began)
            if front.closing:
                raise ModelNotReady("the server is shutting down")
            if front.door is not None:
                self.visit = visit = front.door.visit(self._caller())
                visit.enter()
            if self.received:
                self.hold("message", self.received)
        except Exception as refusal:
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
        if self.trace is not None:
            facts = self.model.facts if self.model is not None else None
            self.trace.end(now, code, facts, self.id, self.received)
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

    def join_trace(self, traceparent: str, tracestate: str) -> None:
        """Makes it part of the trace that its message names, in the place of that of its head."""
        tracing = self._front.tracing
        if tracing is not None:
            named = {"traceparent": [traceparent], "tracestate": [tracestate]}
            caller = self._caller()._replace(header=lambda name: named[name])
            self.trace = tracing.begin(self.method, caller, self.began)

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

    def require(self, action: Action, model: str | None = None) -> None:
        """Raises NotAllowed where its caller has no right to an action on a model, or on none where
        it concerns none; ModelNotFound for a model that is not there, or of which he may not know.
        The text names no other model than he may know of."""
        if self.visit is None:
            return
        known = self._front.catalogue.entries
        self.visit.require(action, model, known)
        if model is not None and model not in known:
            raise ModelNotFound(self.visit.no_model(model, known))

    def may(self, action: Action, model: str) -> bool:
        """Whether its caller has a right on a model."""
        return self.visit is None or action in self.visit.rights.on(model)

    def sees(self, model: str) -> bool:
        """Whether its caller may know of a model."""
        return self.visit is None or self.visit.sees(model)

    def brings(self, images: int) -> None:
        """Counts images of its caller. Raises OverLimit."""
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

    async def receive(self, arriving: Awaitable[bytes]) -> bytes:
        """The message of a call that arrives after its head does, held by whoever reads it; the
        call's time begins when it is there. A sender that stops halfway does not hold up the end of
        the server.

        Raises InvalidInput for whatever goes wrong on the way, ModelNotReady where the server has
        begun to shut down meanwhile.
        """
        front, asked = self._front, self.began
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
            if self.trace is not None:
                self.trace.ran("receive", asked, self.began)
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
        else:
            model.times.ended(self.method, code, seconds, self.trace)
