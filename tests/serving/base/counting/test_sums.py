"""What several processes count, added up."""

import json
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from serving.base.counting.sums import Snapshot
from serving.base.counting.totals import Totals
from serving.base.metrics import EngineMetrics, FrontMetrics

Process = tuple[FrontMetrics, EngineMetrics]


def answered(process: Process) -> None:
    front, engine = process
    front.requests.count("m", "1", "ModelInfer", "OK")
    front.counters("m", "1").success.took(0.25)
    front.request_seconds.labels("m", "1").observe(0.25)
    engine.counters("m", "1").batch_done(3, [0.1, 0.2], 0.01, 0.02, 0.03)
    engine.batch_size.labels("m", "1").observe(3)


def refused(process: Process) -> None:
    front, engine = process
    front.shed.count("", "bytes")
    engine.shed.count("m", "deadline")
    front.counters("m", "1").fail.took(0.001)


def waits(process: Process) -> None:
    _, engine = process
    engine.counters("m", "1").pending.value += 1
    engine.queue_depth.labels("m", "1").set_function(lambda: 2)


EVENTS: list[Callable[[Process], None]] = [answered, refused, waits]
LEVELS = ("queue_depth", "pending_request_count")


def samples(totals: Totals) -> dict[str, float]:
    lines = generate_latest(totals.registry).decode().splitlines()
    found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


@settings(deadline=None, max_examples=30, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([*EVENTS, None])), max_size=30))
def test_counters_never_fall_and_nothing_is_lost_when_processes_end(
    steps: list[tuple[int, Callable[[Process], None] | None]],
) -> None:
    processes: list[Process] = [(FrontMetrics(), EngineMetrics()) for _ in range(3)]
    alone: Process = (FrontMetrics(), EngineMetrics())
    ended: Process = (FrontMetrics(), EngineMetrics())
    before: dict[str, float] = {}
    for number, event in steps:
        if event is not None:
            event(processes[number])
            event(alone)
        else:  # it ends, and another one begins
            for share in processes[number]:
                taken = Snapshot(*json.loads(json.dumps(share.snapshot())))
                for kept in ended:
                    if type(kept) is type(share):
                        kept.add(taken.counts)
            processes[number] = (FrontMetrics(), EngineMetrics())
        now = samples(Totals(*ended, *(share for process in processes for share in process)))
        counters = {k: v for k, v in now.items() if not any(level in k for level in LEVELS)}
        assert all(counters[name] >= value for name, value in before.items())
        before = counters
    expected = {k: v for k, v in samples(Totals(*alone)).items() if k in before}
    assert {k: round(v, 6) for k, v in before.items()} == {
        k: round(v, 6) for k, v in expected.items()
    }


def test_levels_of_live_processes_add_up_and_those_of_others_are_gone() -> None:
    processes: list[Process] = [(FrontMetrics(), EngineMetrics()) for _ in range(2)]
    for process in processes:
        waits(process)
    depth = 'convserve_queue_depth{model="m",version="1"}'
    assert samples(Totals(*(share for process in processes for share in process)))[depth] == 4
    assert samples(Totals(*processes[0]))[depth] == 2
    base = EngineMetrics()
    base.add(processes[1][1].snapshot().counts)
    assert samples(Totals(*processes[0], base))[depth] == 2
