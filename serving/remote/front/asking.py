"""The calls that have asked their engine process for a place."""

import asyncio

from serving.base.errors import ServingError


class Asking:
    """Those that wait for its word, by their numbers."""

    def __init__(self) -> None:
        self._futures: dict[int, asyncio.Future[None]] = {}

    def __contains__(self, call: int) -> bool:
        return call in self._futures

    async def ask(self, call: int) -> None:
        """Returns when the place is certain, or the process is gone: then the next one decides.
        Raises its refusal."""
        future = self._futures[call] = asyncio.get_running_loop().create_future()
        try:
            await future
        finally:
            self._futures.pop(call, None)

    def answered(self, call: int, refusal: ServingError | None) -> None:
        """The process has decided about a call; nothing where that waits no longer."""
        future = self._futures.get(call)
        if future is None or future.done():
            return
        if refusal is None:
            future.set_result(None)
        else:
            future.set_exception(refusal)

    def over(self) -> None:
        """The process decides nothing any more."""
        for future in self._futures.values():
            if not future.done():
                future.set_result(None)
