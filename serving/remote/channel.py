"""The socket of the records: SOCK_SEQPACKET between two processes of this machine.

All records of one round of the event loop go as one packet, which costs a call a fraction of a
system call and of a wake-up on the other side. The kernel orders memory between sender and reader,
keeps packets whole, and reports the death of the peer as the end of the stream.
"""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from serving.remote.records import PACKET_BYTES, BadRecord

# Bytes of control data: room for some descriptors, of which a packet may carry one.
_ANCILLARY = socket.CMSG_SPACE(4 * array.array("i").itemsize)

# Takes a packet and the descriptors that came with it, which are closed afterwards.
Received = Callable[[bytes, Sequence[int]], None]


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end, on the current event loop.

    received: called with each packet. Where it raises BadRecord, the channel closes.
    ended: called once, with the reason, where the peer closed it, died or sent nonsense.
    """

    def __init__(
        self, end: socket.socket, received: Received, ended: Callable[[str], None]
    ) -> None:
        self._socket = end
        self._received = received
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._packets: deque[tuple[bytes, int | None]] = deque()
        self._flushing = self._blocked = False
        self.open = True
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, records: bytes) -> None:
        """Sends a record, with the text that follows it, with others of this round."""
        if not self.open:
            return
        size = self._bytes + len(records)
        if size > PACKET_BYTES:
            self._pack()
            size = len(records)
        self._waiting.append(records)
        self._bytes = size
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def send_file(self, record: bytes, file: int) -> None:
        """Sends a record with the descriptor of a file, after those that were sent before."""
        if not self.open:
            return
        self._pack()
        self._packets.append((record, os.dup(file)))
        if not self._blocked:
            self._write()

    def close(self) -> None:
        """Closes this end. Nothing is reported any more."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, file in self._packets:
            if file is not None:
                os.close(file)
        self._packets.clear()

    def _pack(self) -> None:
        if self._waiting:
            self._packets.append((b"".join(self._waiting), None))
            self._waiting.clear()
            self._bytes = 0

    def _flush(self) -> None:
        self._flushing = False
        self._pack()
        if not self._blocked and self.open:
            self._write()

    def _write(self) -> None:
        """Sends packets until the socket takes no more; those that wait are bounded by the slots
        and by the places in the queues."""
        packets = self._packets
        while packets:
            packet, file = packets[0]
            try:
                if file is None:
                    self._socket.send(packet)
                else:
                    socket.send_fds(self._socket, [packet], [file])
            except BlockingIOError:
                if not self._blocked:
                    self._blocked = True
                    self._loop.add_writer(self._socket.fileno(), self._writable)
                return
            except OSError as error:
                self._end(f"{error.strerror}")
                return
            packets.popleft()
            if file is not None:
                os.close(file)

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._blocked = False
        self._write()

    def _readable(self) -> None:
        try:
            packet, control, flags, _ = self._socket.recvmsg(
                PACKET_BYTES, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(f"{error.strerror}")
            return
        files = _files(control) if control else ()
        try:
            if not packet:
                self._end("it closed its socket")
            elif flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self._end("it sent too large a packet")
            else:
                self._received(packet, files)
        except BadRecord as error:
            self._end(f"it sent {error}")
        finally:
            for file in files:
                os.close(file)

    def _end(self, reason: str) -> None:
        if self.open:
            self.close()
            self._ended(reason)


def _files(control: Sequence[tuple[int, int, bytes]]) -> Sequence[int]:
    found = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found
