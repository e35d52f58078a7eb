"""A shared stream, step by step. The clock and the event loop are the test's own."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import grpc
import pytest

from protos.gen import vision_pb2 as pb
from serving.client import CallFailed, streams
from serving.client.streams import SharedStream, StreamBroken
from tests.serving.client.fake_stream import FakeStream, broken
from tests.support.stepped_loop import SteppedLoop

SETTLED = 12
Task = asyncio.Task[pb.ClassifyResponse]


def request_for(name: str, own_id: str = "") -> pb.ClassifyRequest:
    request = pb.ClassifyRequest(model="m", images=[pb.Image(encoded=name.encode())])
    request.options.id = own_id
    return request


def answered(task: Task) -> str:
    return task.result().results[0].labels[0].name


def failure(task: Task) -> CallFailed:
    error = task.exception()
    assert isinstance(error, CallFailed)
    return error


@dataclass
class Bench:
    """A shared stream over fake ones."""

    loop: SteppedLoop = field(default_factory=SteppedLoop)
    opened: list[FakeStream] = field(default_factory=list)
    connected: bool = True

    def __post_init__(self) -> None:
        self.shared: SharedStream[pb.ClassifyResponse] = SharedStream([self._open], 1000)

    def _open(self) -> FakeStream:
        stream = FakeStream()
        if self.connected:
            stream.connect()
            for _ in range(1000):
                stream.let_through()
        self.opened.append(stream)
        return stream

    @property
    def stream(self) -> FakeStream:
        return self.opened[-1]

    def ask(self, name: str, left: float = 10.0, own_id: str = "", rounds: int = SETTLED) -> Task:
        request = request_for(name, own_id)
        task = self.loop.call(lambda: asyncio.create_task(self.shared.ask(request, left)))
        self.loop.rounds(rounds)
        return task

    def answer_all(self) -> None:
        while self.stream.unanswered:
            self.stream.answer(self.stream.unanswered[0])
            self.loop.rounds(SETTLED)

    def cancel(self, task: Task) -> None:
        task.cancel()
        self.loop.rounds(SETTLED)
        assert task.cancelled()

    def pass_time(self, seconds: float) -> None:
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.now += 0.05
            self.loop.rounds(2)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.run_until_complete(made.shared.close())
    made.loop.rounds(SETTLED)
    assert not made.loop.errors
    made.loop.close()


@pytest.mark.parametrize("rounds", range(10))
@pytest.mark.parametrize("connected", [True, False])
def test_callers_after_one_who_was_cancelled_get_their_own_answers(
    bench: Bench, rounds: int, connected: bool
) -> None:
    bench.connected = connected
    bench.cancel(bench.ask("first", rounds=rounds))
    others = [bench.ask(f"{index}") for index in range(5)]
    bench.stream.connect()
    for _ in range(10):
        bench.stream.let_through()
        bench.loop.rounds(SETTLED)
    bench.answer_all()
    assert [answered(task) for task in others] == [f"{index}" for index in range(5)]
    assert len(bench.opened) == 1


def test_caller_who_leaves_before_his_message_is_written_sends_nothing(bench: Bench) -> None:
    bench.connected = False
    first, second, third = (bench.ask(name) for name in ("first", "second", "third"))
    bench.cancel(second)
    bench.stream.connect()
    for _ in range(3):
        bench.stream.let_through()
    bench.loop.rounds(SETTLED)
    assert [r.images[0].encoded for r in bench.stream.written] == [b"first", b"third"]
    bench.answer_all()
    assert (answered(first), answered(third)) == ("first", "third")


def test_messages_of_callers_who_have_left_are_let_go(bench: Bench) -> None:
    bench.connected = False
    for index in range(50):
        bench.cancel(bench.ask(f"{index}"))
    current: Any = bench.shared._current
    assert not current._unsent
    assert len(current._sent) == 1


def test_more_callers_than_the_window_are_all_answered(bench: Bench) -> None:
    with patch.object(streams, "_WINDOW", 2):
        tasks = [bench.ask(f"{index}") for index in range(7)]
        assert len(bench.stream.unanswered) == 2
        bench.answer_all()
    assert [answered(task) for task in tasks] == [f"{index}" for index in range(7)]


def test_own_id_comes_back_and_is_in_the_id_that_travels(bench: Bench) -> None:
    tasks = [bench.ask("a", own_id="mine"), bench.ask("b", own_id="mine"), bench.ask("c")]
    travelled = [request.options.id for request in bench.stream.written]
    assert len(set(travelled)) == 3
    assert travelled[0].endswith("mine")
    bench.answer_all()
    assert [task.result().served.id for task in tasks] == ["mine", "mine", ""]


@pytest.mark.parametrize("said", [pb.ClassifyResponse(), None])
def test_answer_to_nobody_breaks_the_stream_and_says_so(
    bench: Bench, said: pb.ClassifyResponse | None
) -> None:
    task = bench.ask("a")
    bench.stream.say(said)
    bench.loop.rounds(SETTLED)
    error = failure(task)
    assert isinstance(error, StreamBroken)
    assert error.for_now
    assert ("which no request has" if said is not None else "cannot be read") in error.message
    assert bench.stream.ended
    second = bench.ask("b")
    bench.answer_all()
    assert answered(second) == "b"
    assert len(bench.opened) == 2


def test_second_answer_to_the_same_message_is_one_to_nobody(bench: Bench) -> None:
    first, second = bench.ask("a"), bench.ask("b")
    said = bench.stream.written[0].options.id
    bench.stream.answer(bench.stream.written[0])
    bench.stream.say(pb.ClassifyResponse(served=pb.Served(id=said)))
    bench.loop.rounds(SETTLED)
    assert answered(first) == "a"
    assert "which no request has" in failure(second).message


def test_nobody_waits_past_his_time(bench: Bench) -> None:
    bench.connected = False
    tasks = [bench.ask("a", left) for left in (0.0, 0.5, 1.5)]
    bench.pass_time(1.0)
    assert [task.done() for task in tasks] == [True, True, False]
    bench.pass_time(1.0)
    assert [failure(task).code for task in tasks] == ["DEADLINE_EXCEEDED"] * 3


def test_answer_of_a_caller_whose_time_ran_out_is_dropped(bench: Bench) -> None:
    late, other = bench.ask("late", 0.5), bench.ask("other")
    bench.pass_time(1.0)
    bench.answer_all()
    assert failure(late).code == "DEADLINE_EXCEEDED"
    assert answered(other) == "other"
    assert not bench.stream.ended


def test_message_says_how_much_time_is_left(bench: Bench) -> None:
    task = bench.ask("a", 3.0)
    bench.answer_all()
    assert bench.stream.written[0].options.timeout.ToMilliseconds() == 3000
    assert answered(task) == "a"


def test_answers_that_came_while_the_loop_stood_still_are_read(bench: Bench) -> None:
    tasks = [bench.ask(f"{index}", 1.0) for index in range(20)]
    for request in list(bench.stream.unanswered):
        bench.stream.answer(request)
    for _ in range(3):
        bench.loop.now += 5.0
        bench.loop.rounds(2)
    bench.loop.rounds(200)
    assert [answered(task) for task in tasks] == [f"{index}" for index in range(20)]


def test_large_message_fails_alone(bench: Bench) -> None:
    small, large, other = bench.ask("a"), bench.ask("x" * 1000), bench.ask("b")
    bench.answer_all()
    assert failure(large).code == "INVALID_ARGUMENT"
    assert "allows 1000" in failure(large).message
    assert (answered(small), answered(other)) == ("a", "b")


@pytest.mark.parametrize(
    ("code", "seen", "again"),
    [
        (grpc.StatusCode.INTERNAL, "UNAVAILABLE", True),
        (grpc.StatusCode.CANCELLED, "UNAVAILABLE", True),
        (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", False),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", False),
    ],
)
def test_callers_of_a_stream_that_breaks_are_told_why(
    bench: Bench, code: grpc.StatusCode, seen: str, again: bool
) -> None:
    tasks = [bench.ask("a"), bench.ask("b")]
    bench.stream.end(broken("because", code))
    bench.loop.rounds(SETTLED)
    for task in tasks:
        assert (failure(task).code, failure(task).for_now) == (seen, again)
        assert "because" in failure(task).message


@pytest.mark.parametrize("rounds", range(4))
def test_callers_of_a_stream_that_is_closed_are_told(bench: Bench, rounds: int) -> None:
    task = bench.ask("a", rounds=rounds)
    bench.loop.run_until_complete(bench.shared.close())
    bench.loop.rounds(SETTLED)
    assert isinstance(failure(task), StreamBroken)
    assert failure(bench.ask("b")).code == "CANCELLED"
    assert all(stream.ended for stream in bench.opened)


def test_message_of_many_bytes_neither_holds_up_others_nor_breaks_their_stream(
    bench: Bench,
) -> None:
    with patch.object(streams, "_ALONE", 500):
        small = bench.ask("a")
        large = bench.ask("x" * 600)
        leaving = bench.ask("y" * 600)
        other = bench.ask("b")
        shared, alone, left = bench.opened
        bench.cancel(leaving)
        assert left.ended
        alone.end(broken())
        for request in list(shared.unanswered):
            shared.answer(request)
        bench.loop.rounds(SETTLED)
        assert isinstance(failure(large), StreamBroken)
        assert (answered(small), answered(other)) == ("a", "b")
        again = bench.ask("x" * 600)
        bench.answer_all()
        assert answered(again) == "x" * 600
        assert bench.stream.ended


def test_old_stream_ends_with_its_last_caller(bench: Bench) -> None:
    first, second = bench.ask("first"), bench.ask("second")
    bench.pass_time(1.0)
    bench.loop.now += streams.MAX_AGE_SECONDS
    bench.shared._current.opened = 0.0  # type: ignore[union-attr]
    third = bench.ask("third")
    old, new = bench.opened
    assert not old.ended
    old.answer(old.unanswered[0])
    bench.loop.rounds(SETTLED)
    assert answered(first) == "first"
    assert not old.ended
    bench.cancel(second)
    assert old.ended
    bench.answer_all()
    assert answered(third) == "third"
    assert not new.ended
