"""How long a REST call may take: HTTP has no deadlines, so headers and a setting give them."""

import asyncio
import math
import re
import time
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from serving.base.errors import DeadlineExpired, InvalidInput, quoted
from serving.server.endpoints.call import InferenceCall

Answer = TypeVar("Answer")

# gRPC's header, which gateways between HTTP and gRPC take too: a number and a unit.
_GRPC = "Grpc-Timeout"
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# The milliseconds after which Envoy, and meshes made of it, will have given up.
_ENVOY = "X-Envoy-Expected-Rq-Timeout-Ms"


def timeout_of(headers: Mapping[str, str]) -> float:
    """The seconds after which a caller gives up, inf where no header says so. Raises
    InvalidInput."""
    seconds = math.inf
    given = headers.get(_GRPC)
    if given is not None:
        found = re.fullmatch("([0-9]{1,8})([HMSmun])", given)
        if found is None:
            raise InvalidInput(
                f"{_GRPC}: expected up to 8 digits and one of H, M, S, m, u, n, got {quoted(given)}"
            )
        seconds = int(found[1]) * _UNITS[found[2]]
    given = headers.get(_ENVOY)
    if given is not None:
        if re.fullmatch("[0-9]{1,12}", given) is None:
            raise InvalidInput(f"{_ENVOY}: expected milliseconds, got {quoted(given)}")
        # Envoy says 0 where it will wait for ever.
        seconds = min(seconds, int(given) / 1e3 or math.inf)
    return seconds


class Deadlines:
    """Ends the calls whose deadline passes. One timer serves all: one for each call would cost a
    tenth of a small one."""

    def __init__(self) -> None:
        # When the task of each call is to end, in monotonic seconds.
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    async def within(
        self, call: InferenceCall, seconds: float, work: Coroutine[Any, Any, Answer]
    ) -> Answer:
        """What `work` returns, with a deadline for the call. Raises DeadlineExpired."""
        if seconds == math.inf:
            return await work
        task = asyncio.current_task()
        assert task is not None
        self._ends[task] = call.deadline = end = call.began + seconds
        if end < self._next:
            self._wake_at(end)
        try:
            return await work
        except asyncio.CancelledError as error:
            if task in self._overdue and task.uncancel() == 0:
                raise DeadlineExpired(f"no answer within {seconds:g} s") from error
            raise
        finally:
            self._overdue.discard(task)
            del self._ends[task]

    def _wake_at(self, end: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = end
        # A clock may be a little behind the other: the call is found overdue at the second look.
        delay = max(end - time.monotonic(), 0.0) + 0.001
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for task, end in self._ends.items():
            if end <= now and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
        self._timer, self._next = None, math.inf
        left = [end for task, end in self._ends.items() if task not in self._overdue]
        if left:
            self._wake_at(min(left))
