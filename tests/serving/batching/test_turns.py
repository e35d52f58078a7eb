from collections.abc import Callable

from serving.batching.turns import CoreTurns, Turn

A, B, C = object(), object(), object()
OWNERS = {"a": A, "b": B, "c": C, "g": object()}


def asker(turns: CoreTurns, started: list[str]) -> Callable[..., Turn]:
    """A function that asks for a turn under a name, and notes when it starts."""

    def ask(name: str, *, cores: int = 2, seconds: float = 1.0, now: float = 0.0) -> Turn:
        turn = Turn(OWNERS[name[0]], cores, seconds, lambda _: started.append(name))
        turns.ask(turn, now)
        return turn

    return ask


def test_one_batch_at_a_time_where_each_wants_every_core() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    first = ask("a1")
    ask("b1")
    assert started == ["a1"]
    turns.give_back(first, 1.0)
    assert started == ["a1", "b1"]


def test_flood_on_one_model_lets_another_in_after_one_batch() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    running = ask("a1")
    ask("b1")
    for index in range(2, 5):
        ask(f"a{index}")
        turns.give_back(running, float(index))
        running = next(turn for turn in turns._running)
    assert started == ["a1", "b1", "a2", "a3"]


def test_small_batches_run_side_by_side_while_cores_last() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    for name in ("a1", "b1", "c1"):
        ask(name, cores=1)
    assert started == ["a1", "b1"]


def test_large_batch_is_not_overtaken_for_ever_by_small_ones() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    first = ask("a1", cores=1)
    ask("b1", cores=2)
    ask("c1", cores=1)
    assert started == ["a1"]
    turns.give_back(first, 1.0)
    assert started == ["a1", "b1"]


def test_work_on_another_device_never_waits() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    ask("a1")
    ask("b1")
    ask("g1", cores=0)
    assert started == ["a1", "g1"]


def test_wait_is_the_rest_of_what_runs_and_what_was_asked_for_before() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    assert turns.wait(C, 2, now=0.0) == 0.0
    ask("a1", seconds=2.0, now=0.0)
    assert turns.wait(C, 2, now=0.5) == 1.5
    ask("b1", seconds=3.0, now=0.5)
    assert turns.wait(C, 2, now=1.0) == 1.0 + 3.0
    assert turns.wait(B, 2, now=1.0) == 1.0
