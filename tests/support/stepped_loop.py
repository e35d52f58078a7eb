"""An event loop on a clock of its own, which a test advances by hand; and a thread pool without
threads, whose work ends when the test says so. Nothing sleeps."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class SteppedLoop(asyncio.SelectorEventLoop):
    """Runs one round at a time. `now`: its time, in seconds; timers ring by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        # What was raised in callbacks.
        self.errors: list[dict[str, Any]] = []
        super().__init__()
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self.now

    def rounds(self, count: int = 1) -> None:
        """Runs so many rounds: what is ready, and timers that are due."""
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()

    def call(self, function: Callable[[], Result]) -> Result:
        """The result of a function that runs on the loop."""

        async def on_loop() -> Result:
            return function()

        return self.run_until_complete(on_loop())


class ManualExecutor(Executor):
    """Runs what was submitted when `finish` is called, in this thread."""

    def __init__(self) -> None:
        self.work: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.stopped = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.stopped:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        self.work.append((future, lambda: function(*args, **kwargs)))
        return future

    def finish(self, index: int = 0) -> None:
        """Runs one piece of work."""
        future, run = self.work.pop(index)
        try:
            future.set_result(run())
        except BaseException as error:
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.stopped = True
        while wait and self.work:
            self.finish()
