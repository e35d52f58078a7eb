"""The times of the calls of one version: counted, and told to the traces of those that have one."""

import time

from serving.base.counting.sums import Count
from serving.base.metrics import FrontMetrics
from serving.base.trace import CallTrace, Ride
from serving.batching.ticket import Timing
from serving.models.facts import ModelFacts


class Times:
    """Counts what the calls of a version took. A call that is traced is told too, and becomes an
    exemplar of the buckets that it falls into."""

    def __init__(self, facts: ModelFacts, metrics: FrontMetrics) -> None:
        self._name, self._version = facts.name, facts.version
        self._stages, self._requests = metrics.stage_seconds, metrics.request_seconds
        self._calls = metrics.requests
        # By method and status.
        self._ended: dict[tuple[str, str], Count] = {}
        self._counters = metrics.counters(self._name, self._version)
        self._request_seconds = self._requests.labels(self._name, self._version)
        self._seconds = {
            stage: self._stages.labels(self._name, self._version, stage)
            for stage in ("decode", "queue", "infer", "postprocess")
        }
        # Attributes, since every call reads them.
        self._queue_seconds = self._seconds["queue"]
        self._infer_seconds = self._seconds["infer"]
        self._decode_seconds = self._seconds["decode"]

    def answered(self, timing: Timing, images: int = 1, trace: CallTrace | None = None) -> None:
        """Counts a batch for each of some images of a call."""
        self._queue_seconds.observe(timing.queue, images)
        self._infer_seconds.observe(timing.infer, images)
        if trace is not None:
            self._mark("queue", timing.queue, trace)
            self._mark("infer", timing.infer, trace)

    def rode(self, trace: CallTrace, queued: float, timing: Timing) -> None:
        """Tells a trace of a batch; or that the call, queued at that time, came into none."""
        trace.rode(
            Ride(
                self._name, self._version, queued, timing.started, timing.began, timing.infer,
                timing.batch_size,
            )
        )  # fmt: skip

    def ran(
        self, stage: str, seconds: float, images: int = 1, trace: CallTrace | None = None
    ) -> None:
        """Counts the time of each of some images in a stage that has just ended."""
        self._seconds[stage].observe(seconds, images)
        if trace is not None:
            now = time.monotonic()
            trace.ran(stage, now - seconds * images, now, images)
            self._mark(stage, seconds, trace)

    def decoded(self, seconds: list[float], began: float, trace: CallTrace | None) -> None:
        """Counts the time of each image of a call, whose decoding began at `began`, monotonic
        seconds."""
        for each in seconds:
            self._decode_seconds.observe(each)
        if trace is not None:
            trace.ran("decode", began, time.monotonic(), len(seconds))
            for each in seconds:
                self._mark("decode", each, trace)

    def ended(self, method: str, code: str, seconds: float, trace: CallTrace | None = None) -> None:
        """Counts a call, from its arrival to its answer or error, by its method and its status."""
        calls = self._ended.get((method, code))
        if calls is None:
            calls = self._calls.labels(self._name, self._version, method, code)
            self._ended[method, code] = calls
        calls.value += 1  # without its lock: nobody else writes to it
        if code == "OK":
            self._counters.success.took(seconds)
            self._request_seconds.observe(seconds)
            if trace is not None:
                self._requests.mark((self._name, self._version), seconds, trace.exemplar)
        else:
            self._counters.fail.took(seconds)

    def _mark(self, stage: str, seconds: float, trace: CallTrace) -> None:
        self._stages.mark((self._name, self._version, stage), seconds, trace.exemplar)
