"""Fair shares of the batches: callers come in turn, each with a batch's worth of rows.

A caller's rows beyond that go into later rounds, and all rows of a round go before those of the
next. So whoever floods a model makes others wait for the batch that runs and one more of his at
most. This is round robin over callers (RFC 970), with the rows of a batch as quantum.
"""

from collections.abc import Iterable

from serving.batching.ticket import Ticket

# Callers that are remembered before those go who have had their turn.
_REMEMBERED = 1024


class Rounds:
    """The rounds of one model.

    rows: of a caller in a round.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        # That of the batch which has begun last.
        self._now = 0
        # By caller, his last round and his rows in it.
        self._last: dict[int, tuple[int, int]] = {}
        # Callers with which it is looked for those who have had their turn.
        self._most = _REMEMBERED

    def next(self, caller: int, rows: int) -> int:
        """The round of a call that comes now."""
        last, used = self._last.get(caller, (0, 0))
        if last < self._now:
            return self._now
        return last + 1 if used and used + rows > self._rows else last

    def entered(self, caller: int, ticket: Ticket) -> None:
        """Counts a call that has its place."""
        last, used = self._last.get(caller, (-1, 0))
        if len(self._last) >= self._most:
            self._last = {one: at for one, at in self._last.items() if at[0] >= self._now}
            # Where most of them wait, the next look is as many callers later: one for each call
            # would cost ten times the call.
            self._most = max(_REMEMBERED, 2 * len(self._last))
        self._last[caller] = ticket.round, ticket.rows + (used if last == ticket.round else 0)

    def begun(self, tickets: Iterable[Ticket]) -> None:
        """Counts a batch that begins."""
        if not self._last:  # callers are not told apart
            return
        for ticket in tickets:
            if ticket.round > self._now:
                self._now = ticket.round

    def restart(self) -> None:
        """Forgets all callers, while nobody waits."""
        self._last.clear()
        self._most = _REMEMBERED
