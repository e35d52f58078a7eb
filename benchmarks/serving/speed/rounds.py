"""Measures subjects in turns, with rounds long enough for the slowest. A failure costs one
figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Share of all cores that other processes may use. Where they use more, a measurement does not
# count.
VOID_SHARE = 0.05
# Failures after which a subject is not tried again.
_TRIES = 2
# Share by which a round is longer than the last rate requires, since rates vary between rounds.
_MARGIN = 1.2


@dataclass(frozen=True)
class Measurement:
    """Figures of one subject in one round; a figure that a subject does not have is nan.

    answers: in the measured time.
    rate: answers a second.
    p50, p99: milliseconds.
    cpu: CPU seconds of the server an answer.
    generator: share of all cores that the load generator took.
    others: share of all cores that other processes took.
    """

    answers: int
    rate: float
    p50: float
    p99: float
    cpu: float
    generator: float
    others: float

    @property
    def void(self) -> bool:
        """Whether other processes used so much that it does not count."""
        return self.others > VOID_SHARE


@dataclass(frozen=True)
class Hole:
    """A round in which a subject was not measured."""

    reason: str


@dataclass(frozen=True)
class Length:
    """Length of a round.

    seconds: at least.
    answers: at least; a subject that gives fewer in `seconds` is measured again for longer.
    longest: seconds at most; a subject that gives fewer answers even then is a hole.
    """

    seconds: float
    answers: int
    longest: float


@dataclass(frozen=True)
class Bar:
    """How much more CPU of the server an answer may take than of another subject.

    beside: that subject, of the same workload.
    """

    beside: str
    microseconds: float


@dataclass
class Case:
    """One row of the table.

    run: measures the subject for so many seconds.
    found: one entry for each round.
    bar: where it has one.
    """

    workload: str
    name: str
    run: Callable[[float], Measurement]
    found: list[Measurement | Hole] = field(default_factory=list)
    seconds: float = 0.0
    bar: Bar | None = None

    @property
    def measured(self) -> list[Measurement]:
        """The rounds in which it was measured."""
        return [found for found in self.found if isinstance(found, Measurement)]

    @property
    def holes(self) -> list[Hole]:
        """The rounds in which it was not measured."""
        return [found for found in self.found if isinstance(found, Hole)]


def take_turns(
    cases: Sequence[Case], rounds: int, length: Length, keep: Callable[[int, Case], None]
) -> None:
    """Measures every case once a round. `keep` is called with round and case after each entry."""
    for turn in range(rounds):
        for case in cases:
            case.found.append(_entry(case, length))
            keep(turn, case)


def _entry(case: Case, length: Length) -> Measurement | Hole:
    if len(case.holes) >= _TRIES:
        return case.holes[-1]
    try:
        return _long_enough(case, length)
    # A subject may fail in any way; the figures of the others are kept.
    except Exception as error:
        return Hole(str(error) or type(error).__name__)


def _long_enough(case: Case, length: Length) -> Measurement:
    """Measures for as long as the subject needs for enough answers; later rounds start with that
    length."""
    case.seconds = case.seconds or length.seconds
    while True:
        found = case.run(case.seconds)
        if found.answers >= length.answers:
            return found
        if case.seconds >= length.longest:
            raise RuntimeError(
                f"{found.answers} answers in {case.seconds:.0f} s, fewer than {length.answers}"
            )
        needed = case.seconds * length.answers / max(found.answers, 1)
        case.seconds = min(_MARGIN * needed, length.longest)
