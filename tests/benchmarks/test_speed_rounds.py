"""Rounds and table of benchmarks.serving.speed, with subjects that are made up."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.serving.speed.rounds import Bar, Case, Hole, Length, Measurement, take_turns
from benchmarks.serving.speed.table import added, table, write

LENGTH = Length(seconds=5.0, answers=100, longest=120.0)


def subject(rate: float, asked: list[float] | None = None) -> Callable[[float], Measurement]:
    """Answers `rate` a second; notes for how long it was measured."""

    def run(seconds: float) -> Measurement:
        if asked is not None:
            asked.append(seconds)
        answers = int(rate * seconds)
        return Measurement(answers, rate, 1.0, 2.0, 0.001 if rate else math.nan, 0.1, 0.0)

    return run


def failing(seconds: float) -> Measurement:
    raise RuntimeError("no server answers | at h:1\nbecause it is gone")


def play(*cases: Case, rounds: int = 3) -> list[tuple[int, str]]:
    kept: list[tuple[int, str]] = []
    take_turns(cases, rounds, LENGTH, lambda turn, case: kept.append((turn, case.name)))
    return kept


def test_subjects_take_turns_and_each_entry_is_kept_at_once() -> None:
    one, two = Case("W", "ours", subject(100)), Case("W", "echo", subject(200))
    assert play(one, two, rounds=2) == [(0, "ours"), (0, "echo"), (1, "ours"), (1, "echo")]
    assert [len(case.measured) for case in (one, two)] == [2, 2]


def test_a_slow_subject_is_measured_until_it_has_given_enough_answers() -> None:
    asked: list[float] = []
    slow = Case("W", "slow", subject(2.0, asked))
    play(slow)
    assert all(found.answers >= 100 for found in slow.measured)
    assert len(slow.measured) == 3
    # Once too short, then long enough in every round.
    assert asked[0] == 5.0
    assert asked[1:] == [pytest.approx(60.0)] * 3
    fast: list[float] = []
    play(Case("W", "fast", subject(1000.0, fast)))
    assert fast == [5.0] * 3


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_subject_too_slow_for_the_longest_round_is_a_hole(rate: float) -> None:
    asked: list[float] = []
    case = Case("W", "slow", subject(rate, asked))
    play(case)
    assert case.measured == []
    assert case.holes[0].reason == f"{int(rate * 120)} answers in 120 s, fewer than 100"
    # Given up after two tries, so that it does not take two minutes of every round.
    assert len(case.found) == 3
    assert asked.count(120.0) == 2


def test_a_subject_that_fails_costs_its_own_figures_only() -> None:
    answers = iter([subject(100), failing, subject(100)])
    sometimes = Case("W", "echo", lambda seconds: next(answers)(seconds))
    ours, never = Case("W", "ours", subject(50)), Case("W", "triton", failing)
    play(ours, sometimes, never)
    assert [type(found) for found in sometimes.found] == [Measurement, Hole, Measurement]
    lines = table([ours, sometimes, never]).splitlines()
    assert {line.count("|") for line in lines} == {11}
    assert "| ours | 50 (50 to 50) | 1.000 (1.000 to 1.000) |" in lines[2]
    assert "echo (1 of 3 rounds failed: no server answers / at h:1 because it is gone)" in lines[3]
    assert lines[3].endswith("| 0.50 | 1.00 |")
    assert lines[4].startswith("| W | triton | no server answers / at h:1 because it is gone | |")


def test_ratios_are_those_of_the_same_round() -> None:
    # The machine is half as fast in the second round, which ours missed.
    rates = iter([100.0, 50.0, 100.0])
    ours = Case("W", "ours", lambda seconds: next(own)(seconds))
    own = iter([subject(200), failing, subject(200)])
    other = Case("W", "echo", lambda seconds: subject(next(rates))(seconds))
    play(ours, other)
    assert table([ours, other]).splitlines()[3].endswith("| 2.00 | 1.00 |")


def test_what_was_measured_so_far_is_in_the_files(tmp_path: Path) -> None:
    ours, echo = Case("W", "ours", subject(100)), Case("W", "echo", failing)
    peer = Case("W", "peer", subject(0.1))
    texts = []

    def keep(turn: int, case: Case) -> None:
        texts.append(write([ours, echo, peer], "note", tmp_path))
        if len(texts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_turns([ours, echo, peer], 2, LENGTH, keep)
    assert (tmp_path / "speed.md").read_text() == texts[-1]
    assert "| W | peer | not measured yet |" in texts[-1]
    raw = json.loads((tmp_path / "speed.json").read_text())
    assert raw["W: ours"][0]["rate"] == 100
    assert raw["W: echo"] == [{"reason": "no server answers | at h:1\nbecause it is gone"}]
    assert raw["W: peer"] == []


def test_a_figure_that_a_subject_lacks_is_an_empty_cell(tmp_path: Path) -> None:
    found = Measurement(100, 10.0, math.nan, math.nan, math.nan, 0.1, math.nan)
    case = Case("W", "ours", lambda seconds: found)
    play(case, rounds=2)
    assert "nan" not in write([case], "", tmp_path)
    assert json.loads((tmp_path / "speed.json").read_text())["W: ours"][0]["p50"] is None


def test_cpu_beyond_another_subject_is_shown_beside_what_is_wanted() -> None:
    def taking(*cpus: float) -> Callable[[float], Measurement]:
        rounds = iter(cpus)
        return lambda _: Measurement(500, 100.0, 1.0, 2.0, next(rounds), 0.1, 0.0)

    ours = Case("W", "ours", taking(50e-6, 60e-6, 70e-6))
    # Of differences within a round, not of medians: the machine's pace changes between them.
    known = Case("W", "key", taking(61e-6, 72e-6, 79e-6), bar=Bar("ours", 15.0))
    play(ours, known)
    assert added([ours, known]).splitlines()[-1] == "| W | key | ours | 11.0 (9.0 to 12.0) | 15 |"
    assert added([ours]) == ""
