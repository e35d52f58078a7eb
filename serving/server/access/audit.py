"""The record of who did what: JSON lines on a logger of its own, beside the log of the server.

The log settings of callers govern the root logger and its files; this one has its own level and
passes nothing on to the root, so that they cannot silence it.
"""

import logging
import random
import time
from collections import Counter
from typing import NamedTuple

from serving.server.access.caller import site_of

AUDIT_LOGGER = "audit"

logger = logging.getLogger(AUDIT_LOGGER)

# Lines a second for calls that were refused, in all and of one address; the next line says how many
# were left out. More lets whoever is refused fill the disk, and with as many of one as in all he
# could hide what others try.
_REFUSALS_A_SECOND = 20
_OF_ONE = 5
# Characters of a caller's text in a line.
_TEXT = 200


class Entry(NamedTuple):
    """A decision.

    who: the caller's name; empty where nobody knows it.
    address: where the call came from; "socket" for the admin socket.
    method: of the protocol.
    action: as policies name it.
    target: model, region or nothing.
    decision: allowed or refused.
    code: how the call ended.
    reason: why it was refused, or failed.
    request_id: the name that its caller gave the call.
    """

    who: str
    address: str
    method: str
    action: str
    target: str
    decision: str
    code: str
    reason: str
    request_id: str


class Audit:
    """Writes decisions.

    sample: the share of calls that infer of which there is a line, 0 to 1.
    """

    def __init__(self, sample: float) -> None:
        self._sample = sample
        # The second whose refusals are counted, those of them that were written, by address, and
        # those that were left out since the last line.
        self._second = 0
        self._written: Counter[str] = Counter()
        self._left_out = 0

    @property
    def samples(self) -> bool:
        """Whether the call that infers at the moment gets a line."""
        return self._sample > 0 and random.random() < self._sample

    def refused(self, entry: Entry) -> None:
        """Writes a refusal, unless the second has had its share."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._written = second, Counter()
        site = site_of(entry.address)
        if self._written[site] >= _OF_ONE or self._written.total() >= _REFUSALS_A_SECOND:
            self._left_out += 1
            return
        self._written[site] += 1
        left_out, self._left_out = self._left_out, 0
        self._write(entry, {"left_out": left_out} if left_out else {})

    def allowed(self, entry: Entry) -> None:
        """Writes a call of an admin, or a sampled one."""
        self._write(entry, {})

    def _write(self, entry: Entry, more: dict[str, int]) -> None:
        fields = {name: value[:_TEXT] for name, value in entry._asdict().items() if value}
        logger.info("call", extra=fields | more)


def open_audit(handler: logging.Handler) -> None:
    """Lets a handler write the record, and nothing else have a say in it."""
    logger.propagate = False
    logger.disabled = False
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
