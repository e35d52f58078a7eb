"""Whatever fails between the grant of a turn and the answers, no call and no turn is lost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving.base.counting.counters import BatchCounters
from serving.base.counting.sums import Distribution
from serving.batching import batcher as batcher_module
from serving.batching.batch import Batch
from serving.batching.batcher import DynamicBatcher
from serving.batching.execution import BatchExecution
from serving.batching.queue import BatchQueue
from serving.batching.waiting import Waiting
from tests.serving.batching.house import Fuse, House

ALWAYS = 10**9
Plant = Callable[[House, Fuse, pytest.MonkeyPatch], None]


def attribute(find: Callable[[House], list[Any]], name: str) -> Plant:
    """A fuse in one method of some objects or classes."""

    def plant(house: House, fuse: Fuse, patch: pytest.MonkeyPatch) -> None:
        for owner in find(house):
            patch.setattr(owner, name, fuse.wrap(getattr(owner, name)))

    return plant


def of_loop(name: str, callbacks: set[str]) -> Plant:
    """A fuse in a method of the loop, for callbacks of these names only: asyncio's own are not
    ours to guard."""

    def plant(house: House, fuse: Fuse, patch: pytest.MonkeyPatch) -> None:
        original = getattr(house.loop, name)

        def fused(*args: Any, **options: Any) -> Any:
            if callbacks & {getattr(argument, "__name__", "") for argument in args}:
                fuse.burn()
            return original(*args, **options)

        patch.setattr(house.loop, name, fused)

    return plant


def unequal_outputs(house: House, fuse: Fuse, patch: pytest.MonkeyPatch) -> None:
    """Outputs that cannot be cut into rows."""

    class Uncut(np.ndarray[Any, Any]):
        def __getitem__(self, index: Any) -> Any:
            fuse.burn()
            return super().__getitem__(index)

    for engine in house.engines.values():
        infer = engine.infer
        patch.setattr(engine, "infer", lambda inputs, infer=infer: {
            name: array.view(Uncut) for name, array in infer(inputs).items()
        })  # fmt: skip


def engines(house: House) -> list[Any]:
    return list(house.engines.values())


def latencies(house: House) -> list[Any]:
    return list(house.latency.values())


STEPS: dict[str, Plant] = {
    "clock": attribute(lambda house: [house], "clock"),
    "prediction": attribute(latencies, "predict"),
    "prediction at load": attribute(latencies, "at_load"),
    "good size": attribute(latencies, "good_size"),
    "learning from a batch": attribute(latencies, "observe"),
    "turn start": attribute(lambda house: [DynamicBatcher], "_start"),
    "asking for a turn": attribute(lambda house: [house.turns], "ask"),
    "next round": of_loop("call_soon", {"_fill"}),
    "timer": of_loop("call_later", {"_ring"}),
    "timer before the end": of_loop("call_later", {"_about_to_end"}),
    "handing to the pool": of_loop("run_in_executor", {"_outcome"}),
    "pool": attribute(lambda house: [house.threads], "submit"),
    "company": attribute(lambda house: [batcher_module.QueueDelay], "holds_back"),
    "size": attribute(lambda house: [batcher_module], "rows_to_run"),
    "first in the queue": attribute(lambda house: [BatchQueue], "peek"),
    "taking a batch": attribute(lambda house: [BatchQueue], "pop_batch"),
    "calls that ride": attribute(lambda house: [Waiting], "take"),
    "running": attribute(lambda house: [DynamicBatcher], "_run"),
    "starting the batch": attribute(lambda house: [BatchExecution], "start"),
    "allocation": attribute(engines, "allocate"),
    "gathering": attribute(lambda house: [BatchExecution], "_gather"),
    "engine": attribute(engines, "infer"),
    "cutting outputs": unequal_outputs,
    "handing out answers": attribute(lambda house: [Batch], "answer"),
    "record": attribute(lambda house: [Batch], "record"),
    "batch size metric": attribute(lambda house: [Distribution], "observe"),
    "batch counters": attribute(lambda house: [BatchCounters], "batch_done"),
    "shed metric": attribute(lambda house: [house.metrics.shed], "labels"),
    "cancelled metric": attribute(lambda house: [house.metrics.cancelled], "labels"),
    "shapes": attribute(lambda house: [batcher_module], "row_shapes"),
    "queueing": attribute(lambda house: [BatchQueue], "push"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [1, 3, ALWAYS], ids=["once", "some times", "from then on"])
def test_failure_at_any_step_loses_no_call_and_no_turn(
    step: str,
    count: int,
    house: Callable[[], House],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")
    tried = 0
    for after in range(12):
        built, fuse = house(), Fuse(after, count)
        with monkeypatch.context() as patch:
            STEPS[step](built, fuse, patch)
            built.live(fuse)
        built.check_nothing_lost()
        built.check_still_serves()
        if not fuse.went_off:
            break
        tried += 1
    assert tried or step == "allocation"
