"""One engine process, from its start to its end, as its front sees it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

from serving.remote.channel import channel_pair
from serving.remote.ends import Ends
from serving.remote.flight import recorder_file
from serving.remote.front.seats import Seat

# As helpers do, the process uses this one's sys.path, and until then looks into no folder that the
# environment or the place where it is started names. It takes its cores before libraries count
# them.
_START = (
    "import json, os, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "cores = json.loads(sys.argv[4]); cores and os.sched_setaffinity(0, cores); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)


class Child:
    """A process that is running, or has been.

    data, control: this side of its sockets.
    flight: the file of its flight recorder.
    ended: its exit status, once it is dead for certain: a status below 0 is a signal.
    """

    def __init__(self, module: str, seat: Seat) -> None:
        """Starts `module.main()`. Raises OSError."""
        self.data, data = channel_pair()
        self.control, control = socket.socketpair()
        self.flight = recorder_file()
        path = json.dumps([entry for entry in sys.path if entry])
        ends = Ends(data.fileno(), control.fileno(), self.flight)
        try:
            # From the main thread, with which PR_SET_PDEATHSIG ends the process.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-c",
                    _START,
                    path,
                    module,
                    json.dumps([*ends, os.getpid()]),
                    json.dumps(seat.cores),
                ],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **seat.environment},
                pass_fds=ends,
            )
        except BaseException:
            self.close()
            raise
        finally:
            data.close()
            control.close()
        self.pid = self._process.pid
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._reap)

    def kill(self) -> None:
        """Ends it at once; `ended` tells when it is dead."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Closes everything of it. To be called once it is dead."""
        self.data.close()
        self.control.close()
        os.close(self.flight)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._process.wait()
        if not self.ended.done():
            self.ended.set_result(status)
