"""TLS between a connection of the event loop and its protocol.

The event loops have TLS of their own. Theirs tells the protocol of a connection only after the
handshake, so that callers who never finish it are not counted, and keeps answers that nobody reads
where the protocol does not see them. Here the protocol has its connection from the first moment,
counts it and cuts it, and sees what waits; the bytes are OpenSSL's business all the same.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from serving.server.tls.certificates import Certificates, Port
from serving.server.tls.peer import names_of

# Records that are read until others have their turn. A record takes 2 us and brings up to 16 KiB;
# more lets a caller who sends tiny ones hold up the event loop for longer.
_RECORDS = 128
_RECORD_BYTES = 16 << 10
# Bytes that OpenSSL gets at a time, to decrypt or to encrypt. It keeps as much memory for each
# direction of a connection; fewer take more calls.
_PIECE = 32 << 10
# Seconds that the other side may take to read why its handshake failed.
_LINGER_SECONDS = 1.0
_SPEAKS_TLS = b"this port speaks TLS: call it by https://\n"
_PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Server: convserve\r\nConnection: close\r\n\r\n%b"
) % (len(_SPEAKS_TLS), _SPEAKS_TLS)


class TlsStream(asyncio.Transport, asyncio.Protocol):
    """The protocol of a plain connection, and the transport of `inner`, which speaks through it.

    failed: called where the handshake fails.
    """

    def __init__(
        self,
        inner: asyncio.Protocol,
        certificates: Certificates,
        port: Port,
        failed: Callable[[], None],
    ) -> None:
        super().__init__()
        self._inner = inner
        self._turns = certificates.turns
        self._failed = failed
        self._context = certificates.current.contexts[port]
        # gRPC is HTTP/2, which TLS must have agreed on; HTTP/1.1 needs no agreement.
        self._protocol = "h2" if port == "grpc" else None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # The handshake is over, and with it this was proved.
        self._greeted = False
        self._certificate: tuple[str, ...] | None = None
        # Bytes that are to be decrypted.
        self._arrived: bytes | memoryview = b""
        # Nothing more is read at all.
        self._deaf = False
        # The inner protocol wants no more for now; it is this stream's turn later; there is more.
        self._paused = self._turning = self._more = False
        # The other side takes no more for now.
        self._stuck = False
        # Bytes that are to be encrypted, and what is to be done then.
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._ending: Callable[[], None] | None = None

    # The protocol of the plain connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tells the inner protocol, which may refuse it."""
        # Those of uvloop are no instances of it.
        self._pipe = cast("asyncio.Transport", transport)
        self._inner.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the inner protocol."""
        self._deaf = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Decrypts it, or goes on with the handshake."""
        if self._deaf:
            return
        self._arrived = bytes(self._arrived) + data if self._arrived else data
        if not self._greeted:
            self._wait()
        elif self._paused:
            self._more = True
        elif not self._turning:
            self._read()

    def pause_writing(self) -> None:
        """The other side reads less than it is sent."""
        self._stuck = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has read on."""
        self._stuck = False
        self._write_waiting()
        if not self._stuck:
            self._inner.resume_writing()

    def _wait(self) -> None:
        """Goes on in a later round of the event loop, after others."""
        if not self._turning:
            self._turning = True
            self._pipe.pause_reading()
            self._turns.wait(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if self._deaf or self._pipe.is_closing():
            return
        if not self._greeted:
            self._shake_hands()
        if self._greeted and not self._paused and not self._deaf:
            self._read()
        if not (self._turning or self._paused):
            self._pipe.resume_reading()

    def _shake_hands(self) -> None:
        self._feed()
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            if self._arrived:
                self._wait()
            return
        except ssl.SSLError as error:
            self._refuse(error.reason)
            return
        if self._protocol is not None and self._tls.selected_alpn_protocol() != self._protocol:
            self._refuse("ALPN")
            return
        self._greeted = True
        proved = self._tls.getpeercert(binary_form=True)
        self._certificate = names_of(proved) if proved else None
        self._send()
        self._write_waiting()

    def _refuse(self, reason: str | None) -> None:
        """Ends a handshake that has failed, so that the other side can read why."""
        self._deaf = True
        self._failed()
        self._send()
        if reason == "HTTP_REQUEST":
            self._pipe.write(_PLAIN_HTTP)
        with suppress(OSError, RuntimeError):  # it is closed already
            self._pipe.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._pipe.abort)

    def _read(self) -> None:
        """Hands out what can be decrypted, as far as it is this stream's turn."""
        parts: list[bytes] = []
        ended = self._more = False
        try:
            while len(parts) < _RECORDS and not ended:
                try:
                    part = self._tls.read(_RECORD_BYTES)
                except ssl.SSLWantReadError:
                    if not self._feed():
                        break
                    continue
                parts.append(part)
                ended = not part
                # OpenSSL reads no further than a record; to ask in vain costs as much as a read.
                if not (self._incoming.pending or self._arrived):
                    break
            else:
                self._more = not ended
        except ssl.SSLError:  # not what was sent, or the other side gives up
            self.abort()
            return
        if self._outgoing.pending:  # new keys were asked for
            self._send()
        if parts:
            self._inner.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if ended:
            self.close()
        elif self._more and not self._paused:
            self._wait()

    def _feed(self) -> bool:
        """Gives OpenSSL more of what has come; False where it has all."""
        arrived = self._arrived
        if not arrived:
            return False
        if len(arrived) <= _PIECE:
            self._incoming.write(arrived)
            self._arrived = b""
        else:
            arrived = memoryview(arrived)
            self._incoming.write(arrived[:_PIECE])
            self._arrived = arrived[_PIECE:]
        return True

    def _send(self) -> None:
        data = self._outgoing.read()
        if data:
            self._pipe.write(data)

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        try:
            # All of it: a buffer in memory takes whatever it gets.
            self._tls.write(data)
        except ssl.SSLError:  # the other side has broken off
            self.abort()

    def _write_waiting(self) -> None:
        """Encrypts what waits, as far as the other side takes it."""
        waiting = self._waiting
        while waiting and not self._stuck and not self._pipe.is_closing():
            piece = waiting.popleft()
            part = piece[:_PIECE]
            self._waiting_bytes -= len(part)
            if len(piece) > len(part):
                waiting.appendleft(piece[len(part) :])
            self._encrypt(part)
            self._send()
        if self._ending is not None and not waiting:
            self._end()

    def _end(self) -> None:
        """Says that nothing more comes, when all was sent."""
        ending, self._ending = self._ending, None
        with suppress(ssl.SSLError):  # the other side has not said so yet
            self._tls.unwrap()
        self._send()
        if ending is not None:
            ending()

    # The transport of the inner protocol.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the plain connection; beside it `ssl_object`, `sslcontext`, and `certificate`: the
        names in the other side's, which was verified."""
        if name == "certificate":
            return self._certificate
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._context
        return self._pipe.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another inner protocol."""
        self._inner = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The inner protocol."""
        return self._inner

    def is_reading(self) -> bool:
        """Whether the inner protocol wants more."""
        return not self._paused

    def pause_reading(self) -> None:
        """The inner protocol gets no more, but for what is on its way to it."""
        self._paused = True
        self._pipe.pause_reading()

    def resume_reading(self) -> None:
        """It gets more."""
        self._paused = False
        if self._more:
            self._wait()
        elif not self._turning:
            self._pipe.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends it, encrypted, as fast as the other side reads."""
        if self._deaf or not data:
            return
        if self._greeted and not (self._waiting or self._stuck) and len(data) <= _PIECE:
            self._encrypt(data)
            self._send()
            return
        self._waiting.append(memoryview(data).cast("B"))
        self._waiting_bytes += len(self._waiting[-1])
        if self._greeted:
            self._write_waiting()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As of the plain connection."""
        self._pipe.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait, encrypted or not."""
        return self._pipe.get_write_buffer_size() + self._waiting_bytes

    def can_write_eof(self) -> bool:
        """True."""
        return True

    def write_eof(self) -> None:
        """Sends what waits, and that nothing more comes. Nothing more is read."""
        self._leave(self._pipe.write_eof)

    def close(self) -> None:
        """Sends what waits, and closes the connection."""
        self._leave(self._pipe.close)

    def _leave(self, ending: Callable[[], None]) -> None:
        if not self._greeted:
            self._deaf = True
            self._pipe.abort()
            return
        again, self._deaf, self._ending = self._deaf, True, ending
        if again and not self._waiting:
            ending()
        elif not self._waiting:
            self._end()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._deaf or self._pipe.is_closing()

    def abort(self) -> None:
        """Closes it at once."""
        self._deaf = True
        self._pipe.abort()
