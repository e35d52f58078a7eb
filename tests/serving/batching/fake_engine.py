"""A real implementation of the engine's interface whose time and failures a test decides."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from serving.base.tensor import Array, TensorSpec
from serving.batching.port import BatchPort, submitted
from serving.batching.ticket import Answer, Ticket


async def answered(port: BatchPort, ticket: Ticket, parts: Sequence[Mapping[str, Array]]) -> Answer:
    """A caller that waits for the answer, and withdraws its call where it is cancelled."""
    try:
        return await submitted(port, ticket, parts)
    except BaseException:
        port.withdraw(ticket)
        raise


class FakeEngine:
    """Doubles its input `x` FP32 [rows, 2]. While `hold` is cleared, every batch waits in infer."""

    name = "fake"
    device_bytes = 0
    largest_batch = 0
    check_rows = 1
    overlap_rows = 0

    def __init__(self) -> None:
        self.inputs = (TensorSpec("x", "FP32", (-1, 2)),)
        self.outputs = (TensorSpec("y", "FP32", (-1, 2)),)
        self.hold = threading.Event()
        self.hold.set()
        self.batches: list[list[float]] = []
        self.threads: list[int] = []
        self.running = 0
        self.most_at_once = 0
        self.failure: Exception | None = None
        self._lock = threading.Lock()

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._lock:
            self.threads.append(threading.get_ident())
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
            self.batches.append(inputs["x"][:, 0].tolist())
        try:
            assert self.hold.wait(timeout=10)
            if self.failure is not None:
                raise self.failure
            return {"y": inputs["x"] * 2}
        finally:
            with self._lock:
                self.running -= 1

    def close(self) -> None:
        """Nothing to free."""
