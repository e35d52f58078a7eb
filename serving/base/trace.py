"""The trace of one call, as those see it who run its stages."""

from typing import NamedTuple, Protocol


class Ride(NamedTuple):
    """A call's way through a batch; monotonic seconds.

    model, version: of the batch.
    queued: when the call had its inputs.
    started: when the batch left the queue, which no other batch of the version did then; 0 where
        the call rode in none.
    began: when the engine began; 0 where the call has no answer of it.
    infer: seconds in the engine.
    rows: of the whole batch.
    """

    model: str
    version: str
    queued: float
    started: float
    began: float
    infer: float
    rows: int


class CallTrace(Protocol):
    """Is told the stages of a call that is traced; on the event loop."""

    @property
    def exemplar(self) -> dict[str, str]:
        """Names it in an exemplar: trace_id and span_id, in hexadecimal digits."""

    def ran(self, stage: str, began: float, ended: float, images: int = 0) -> None:
        """A stage of the call, in monotonic seconds, and the images that passed it."""

    def rode(self, ride: Ride) -> None:
        """The call has its answer of a batch, or none."""
