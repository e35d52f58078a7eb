from collections.abc import Callable

from serving.batching.core_turns import CoreShare, CoreTurns, Turn


def asker(turns: CoreTurns, started: list[str]) -> Callable[..., Turn]:
    """A function that asks for a turn under a name, the model's and a number, and notes when it
    starts."""
    shares = {model: CoreShare() for model in "abcg"}

    def ask(name: str, *, cores: int = 2, seconds: float = 1.0, now: float = 0.0) -> Turn:
        turn = Turn(shares[name[0]], cores, seconds, lambda _: started.append(name))
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


def test_model_that_took_little_goes_before_a_flood_again() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    flood = ask("a1", seconds=10.0)
    light = ask("b1", seconds=1.0)
    ask("a2", seconds=10.0, now=10.0)
    turns.give_back(flood, 10.0)
    # A call that comes while b1 runs does not wait for a2.
    ask("b2", seconds=1.0, now=10.5)
    turns.give_back(light, 11.0)
    assert started == ["a1", "b1", "b2"]


def test_two_floods_share_the_cores_by_time_and_not_by_batches() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    seconds = {"a": 3.0, "b": 1.0}
    for name in ("a", "b"):
        ask(name, seconds=seconds[name])
    now = 0.0
    for _ in range(40):
        [running] = turns._running
        now += seconds[started[-1]]
        ask(started[-1], seconds=seconds[started[-1]], now=now)
        turns.give_back(running, now)
    assert abs(3 * started.count("a") - started.count("b")) <= 3


def test_turn_counts_by_what_it_took_where_it_took_longer() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    slow = ask("a1", seconds=0.1)
    turns.give_back(slow, 5.0)
    running = ask("c1", now=5.0)
    ask("a2", now=5.0)
    ask("b1", now=5.5)
    turns.give_back(running, 6.0)
    assert started == ["a1", "c1", "b1"]


def test_model_that_was_idle_has_no_claim_on_that_time() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    for second in range(100):
        turns.give_back(ask("a", now=float(second)), second + 1.0)
    started.clear()
    now = 100.0
    running = ask("a", now=now)
    for _ in range(6):
        ask("b", now=now)
    for _ in range(5):
        now += 1.0
        ask("a", now=now)
        turns.give_back(running, now)
        [running] = turns._running
    assert started.count("a") == started.count("b") == 3


def test_wait_is_the_rest_of_what_runs_and_what_goes_before() -> None:
    turns, started = CoreTurns(2), list[str]()
    ask = asker(turns, started)
    new = CoreShare()
    assert turns.wait(new, 2, now=0.0) == 0.0
    running = ask("a1", seconds=2.0, now=0.0)
    assert turns.wait(new, 2, now=0.5) == 1.5
    waiting = ask("b1", seconds=3.0, now=0.5)
    assert turns.wait(new, 2, now=1.0) == 1.0 + 3.0
    assert turns.wait(waiting.share, 2, now=1.0) == 1.0
    # The model that runs has had more by then than one that is new.
    ask("a2", seconds=2.0, now=1.0)
    assert turns.wait(new, 2, now=1.0) == 1.0 + 3.0
    assert turns.wait(running.share, 2, now=1.0) == 1.0 + 3.0
