"""The calls that wait for an engine process."""

from serving.remote.front.ticket import RemoteTicket


class Waiting:
    """Calls whose inputs are there and that no engine process has.

    Those that ran when a process died go one at a time, each in a batch of its own: `alone` is the
    one that does.
    """

    def __init__(self) -> None:
        self.alone: RemoteTicket | None = None
        self._held: dict[int, RemoteTicket] = {}
        self._suspects: dict[int, RemoteTicket] = {}

    def __len__(self) -> int:
        return len(self._held) + len(self._suspects)

    def all(self) -> list[RemoteTicket]:
        """Every call that waits."""
        return [*self._held.values(), *self._suspects.values()]

    def keep(self, ticket: RemoteTicket) -> None:
        """Keeps a call until an engine process takes it."""
        kept = self._suspects if ticket.crashes else self._held
        kept[ticket.number] = ticket

    def remove(self, ticket: RemoteTicket) -> None:
        """Keeps a call no longer."""
        if self._held.pop(ticket.number, None) is None:
            self._suspects.pop(ticket.number, None)

    def take(self, port: object) -> list[RemoteTicket]:
        """The calls of a version that may share batches, which wait no longer."""
        found = [ticket for ticket in self._held.values() if ticket.port is port]
        for ticket in found:
            del self._held[ticket.number]
        return found

    def take_alone(self) -> RemoteTicket | None:
        """The next call that is to run alone, which waits no longer; None where another one does,
        or none can."""
        if self.alone is None:
            for ticket in self._suspects.values():
                if ticket.port.number:
                    self.alone = self._suspects.pop(ticket.number)
                    return self.alone
        return None
