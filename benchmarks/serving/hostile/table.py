"""What an attack came to, as a row of the table, and what of it is a fault."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.support.beside import Lag, Pauses, Tally
from tests.support.timed_loop import Callback

# Longest pause of the event loop, seconds: a bound of the server's histogram.
PAUSE_SECONDS = 0.05
# p99 of honest callers beside an attack, seconds, where that is more than twice theirs alone: some
# batches of the largest tensors take the cores for so long, and no engine interrupts them.
P99_SECONDS = 0.1
# Longest callback of the event loop, seconds on a core, beside those that the host of a virtual
# machine takes for pages: so many of a callback.
CALLBACK_SECONDS, HOST_PAGES = 0.005, 2


@dataclass(frozen=True)
class Row:
    """One attack.

    attack: its name.
    seconds: how long it took.
    sent, statuses: calls, messages or connections, and what came of them.
    lag: of the event loop, as the server counts it.
    pauses: how late answers of /livez were, each of which takes several rounds of the loop.
    callback: of the event loop, that took longest on a core; None where none was timed or noted.
    page: seconds that the host takes to give a page of memory.
    peak, bound: memory in MiB.
    alone, beside: honest callers without the attack and with it.
    alive, healthy: the process runs, and its models serve, soon after the attack.
    kills: processes that the kernel killed for their memory.
    harm: what the attack achieved.
    """

    attack: str
    seconds: float
    sent: int
    statuses: Mapping[str, int]
    lag: Lag
    pauses: Pauses
    callback: Callback | None
    page: float
    peak: float
    bound: float
    alone: Tally
    beside: Tally
    alive: bool
    healthy: bool
    kills: int
    harm: Sequence[str] = field(default_factory=tuple)

    @property
    def refused(self) -> float:
        """The share of honest calls that were refused."""
        return self.beside.refused / max(1, self.beside.sent)

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        beside = self.beside
        checks = (
            (not self.alive, "the server ended"),
            (self.alive and not self.healthy, "the server does not serve any more"),
            (self.kills > 0, f"the kernel killed {self.kills} processes for their memory"),
            (
                self.lag.over(PAUSE_SECONDS) > 0,
                f"the event loop stood still {self.lag.over(PAUSE_SECONDS)} times, "
                f"for {self.lag.most * 1e3:g} ms at most",
            ),
            (
                self.callback is not None
                and self.callback.seconds > CALLBACK_SECONDS + HOST_PAGES * self.page,
                f"a callback of the event loop took {self.callback}",
            ),
            (self.peak > self.bound, f"{self.peak:.0f} MiB, the bound is {self.bound:.0f}"),
            (
                beside.p99 > max(P99_SECONDS, 2 * self.alone.p99),
                f"honest calls have a p99 of {beside.p99 * 1e3:.0f} ms, alone "
                f"{self.alone.p99 * 1e3:.0f}",
            ),
            (beside.late > 0, f"{beside.late} of {beside.sent} honest calls were late"),
            (beside.wrong > 0, f"{beside.wrong} honest calls got a wrong answer"),
            (beside.lost > 0, f"honest calls ended with {beside.failed}"),
        )
        return [*(text for fault, text in checks if fault), *self.harm]

    def line(self) -> str:
        """The row."""
        statuses = " ".join(f"{name}:{n}" for name, n in sorted(self.statuses.items()))
        cells = (
            self.attack,
            f"{self.sent}",
            statuses,
            f"{self.lag.most * 1e3:g}",
            f"{self.pauses.longest * 1e3:.0f}",
            f"{self.callback.seconds * 1e3:.1f}" if self.callback else "-",
            f"{self.peak:.0f} of {self.bound:.0f}",
            f"{self.alone.p99 * 1e3:.0f} / {self.beside.p99 * 1e3:.0f}",
            f"{self.refused:.0%}",
            f"{self.beside.late}",
            "yes" if self.healthy else "NO",
        )
        return f"| {' | '.join(cells)} |"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "statuses": dict(self.statuses), "faults": self.faults}


def table(rows: Sequence[Row]) -> str:
    """All rows, in Markdown."""
    head = (
        "| attack | sent | statuses | longest pause, at most ms | /livez late, ms "
        "| longest callback, ms | peak memory, MiB "
        "| honest p99 alone / beside, ms | refused | late | healthy |"
    )
    return "\n".join([head, "| --- " * 11 + "|", *(row.line() for row in rows)])
