"""A shared stream's whole life in any order: callers come, are cancelled at any step and run out of
time while streams connect, stall, answer, break, lie and grow old. The clock and the event loop are
the test's own."""

import asyncio
import itertools
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protos.gen import vision_pb2 as pb
from serving.client import CallFailed, streams
from serving.client.streams import SharedStream
from tests.serving.client.fake_stream import FakeStream, broken
from tests.support.stepped_loop import SteppedLoop

MAX_AGE = 4.0
# Small, so that it is full now and then.
WINDOW = 3
# Bytes of messages that share a stream, and that are sent at all.
ALONE, MOST = 500, 1000
# More rounds than anything needs from its cause to its effect.
SETTLED = 12
# Seconds that a caller may wait past his time: a timer that rings late gives answers this long.
LATE = 2 * streams._LATE


class StreamLife(RuleBasedStateMachine):
    """Every caller sends a name of his own, which his answer has to bring back."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.names = itertools.count()
        self.opened: list[FakeStream] = []
        # Name, request, own id, when his time runs out, and the task.
        self.callers: list[
            tuple[str, pb.ClassifyRequest, str, float, asyncio.Task[pb.ClassifyResponse]]
        ] = []
        self.cancelled: set[asyncio.Task[Any]] = set()
        self.closing: asyncio.Task[None] | None = None
        self.limits = patch.multiple(streams, _WINDOW=WINDOW, _ALONE=ALONE)
        self.limits.start()
        self.shared: SharedStream[pb.ClassifyResponse] = SharedStream(
            [self.open_stream], max_message_bytes=MOST, max_age=MAX_AGE
        )

    def open_stream(self) -> FakeStream:
        self.opened.append(FakeStream())
        return self.opened[-1]

    @property
    def living(self) -> list[FakeStream]:
        return [stream for stream in self.opened if not stream.ended]

    @property
    def answerable(self) -> list[FakeStream]:
        return [stream for stream in self.living if stream.unanswered]

    @rule(
        left=st.sampled_from([0.0, 0.5, 5.0, 50.0, 50.0]),
        own_id=st.sampled_from(["", "mine", "1 ", "2 mine"]),
        size=st.sampled_from([0, 0, 0, 0, 0, ALONE + 50, MOST + 50]),
        count=st.integers(1, 4),
        rounds=st.integers(0, 3),
    )
    def ask(self, left: float, own_id: str, size: int, count: int, rounds: int) -> None:
        for _ in range(count):
            name = f"{next(self.names)}".ljust(size, "x")
            request = pb.ClassifyRequest(model="m", images=[pb.Image(encoded=name.encode())])
            request.options.id = own_id
            due = self.loop.now + left
            task = self.loop.call(lambda r=request: asyncio.create_task(self.shared.ask(r, left)))
            self.callers.append((name, request, own_id, due, task))
        self.loop.rounds(rounds)

    @precondition(lambda self: any(not task.done() for *_, task in self.callers))
    @rule(data=st.data(), rounds=st.integers(0, 3))
    def cancel(self, data: st.DataObject, rounds: int) -> None:
        waiting = [task for *_, task in self.callers if not task.done()]
        task = data.draw(st.sampled_from(waiting))
        task.cancel()
        self.cancelled.add(task)
        self.loop.rounds(rounds)

    @rule(count=st.integers(1, 4))
    def rounds(self, count: int) -> None:
        self.loop.rounds(count)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.living)).connect()

    @precondition(lambda self: self.living)
    @rule(data=st.data(), count=st.integers(1, 4))
    def let_writes_through(self, data: st.DataObject, count: int) -> None:
        stream = data.draw(st.sampled_from(self.living))
        stream.connect()
        for _ in range(count):
            stream.let_through()
        self.loop.rounds(2)

    @precondition(lambda self: self.answerable)
    @rule(data=st.data(), count=st.integers(1, 4), rounds=st.integers(0, 3))
    def answer_in_order(self, data: st.DataObject, count: int, rounds: int) -> None:
        stream = data.draw(st.sampled_from(self.answerable))
        for request in list(stream.unanswered)[:count]:
            stream.answer(request)
        self.loop.rounds(rounds)

    @precondition(lambda self: self.answerable)
    @rule(data=st.data(), rounds=st.integers(0, 3))
    def answer_out_of_turn(self, data: st.DataObject, rounds: int) -> None:
        stream = data.draw(st.sampled_from(self.answerable))
        stream.answer(data.draw(st.sampled_from(list(stream.unanswered))))
        self.loop.rounds(rounds)

    @precondition(lambda self: self.answerable)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.answerable))
        stream.answer(stream.unanswered[0], status=pb.Status(code=8, message="full"))

    @precondition(lambda self: self.living)
    @rule(
        data=st.data(),
        said=st.sampled_from(
            [None, pb.ClassifyResponse(), pb.ClassifyResponse(served=pb.Served(id="mine"))]
        ),
    )
    def answer_nobody(self, data: st.DataObject, said: pb.ClassifyResponse | None) -> None:
        stream = data.draw(st.sampled_from(self.living))
        stream.say(said)
        self.loop.rounds(SETTLED)
        assert stream.ended

    @precondition(lambda self: self.living)
    @rule(data=st.data(), cleanly=st.booleans(), rounds=st.integers(0, 2))
    def end(self, data: st.DataObject, cleanly: bool, rounds: int) -> None:
        data.draw(st.sampled_from(self.living)).end(None if cleanly else broken())
        self.loop.rounds(rounds)

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0, 2 * MAX_AGE]))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.rounds()

    @precondition(lambda self: self.closing is None and len(self.callers) > 8)
    @rule(rounds=st.integers(0, 3))
    def close(self, rounds: int) -> None:
        self.closing = self.loop.call(lambda: asyncio.create_task(self.shared.close()))
        self.loop.rounds(rounds)

    @invariant()
    def every_answer_is_its_callers_own(self) -> None:
        for name, request, own_id, _, task in self.callers:
            assert request.options.id == own_id
            if not task.done():
                continue
            if task.cancelled():
                assert task in self.cancelled
            elif (error := task.exception()) is None:
                response = task.result()
                assert response.results[0].labels[0].name == name
                assert response.served.id == own_id
            else:
                assert isinstance(error, CallFailed), error

    @invariant()
    def no_stream_holds_more_than_its_window(self) -> None:
        assert all(len(stream.unanswered) <= WINDOW for stream in self.living)

    def pass_time(self, seconds: float) -> None:
        """Moves the clock without a jump, as where the loop never stands still."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.now += streams._LATE / 2
            self.loop.rounds(2)

    @rule()
    def nobody_waits_past_his_time(self) -> None:
        self.pass_time(LATE)
        now = self.loop.now
        late = [
            caller for caller in self.callers if not caller[4].done() and caller[3] + LATE < now
        ]
        assert not late

    def teardown(self) -> None:
        """Nobody and nothing is left once every caller's time has run out."""
        self.loop.now += 50.0
        self.loop.rounds()
        self.pass_time(LATE)
        self.loop.rounds(SETTLED)
        self.every_answer_is_its_callers_own()
        assert all(task.done() for *_, task in self.callers)
        assert len(self.living) <= 1
        closing = self.closing or self.loop.call(lambda: asyncio.create_task(self.shared.close()))
        self.loop.rounds(SETTLED)
        assert closing.done()
        assert not closing.exception()
        assert not self.living
        assert not self.shared._all
        self.callers.clear()
        self.loop.rounds()
        assert not self.loop.errors
        self.limits.stop()
        self.loop.close()


TestStreamLife = StreamLife.TestCase
TestStreamLife.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
