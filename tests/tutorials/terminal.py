"""The reader's terminal: one bash for a whole page, in whose folder it works."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

# Seconds for the commands of one block, on a machine that does other things too.
BLOCK_SECONDS = 900
_END = "end-of-block"
# Below the ephemeral ports of Linux, 32768 to 60999.
_FREE = (20000, 32768)


def ports_for(named: Sequence[int]) -> dict[int, int]:
    """Free ports of the loopback address by the ports that pages name. They are below those that
    the kernel gives to whoever asks, since a page's servers leave and take them several times."""
    found: dict[int, int] = {}
    for port in named:
        while port not in found:
            with socket.socket() as tried, contextlib.suppress(OSError):
                tried.bind(("127.0.0.1", random.randrange(*_FREE)))
                found[port] = tried.getsockname()[1]
    return found


class Terminal:
    """Runs blocks one after the other; background jobs go on between them.

    path: folders whose programs are found before others.
    ports: free ports by the ports that the page names; a page's `localhost:8001` means them.
    """

    def __init__(self, folder: Path, path: list[Path], ports: dict[int, int]) -> None:
        self._folder = folder
        self._ports = ports
        home = folder.parent / f"{folder.name}-home"
        home.mkdir()
        self._block = home / "block.sh"
        names = dict(zip(("GRPC", "HTTP", "METRICS"), ports.values(), strict=False))
        found = [*map(str, path), str(Path(sys.executable).parent), os.environ["PATH"]]
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **{name: value for name, value in os.environ.items() if name != "CI"},
                **{f"CONVSERVE_{name}_PORT": str(port) for name, port in names.items()},
                "PATH": os.pathsep.join(found),
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PYTHONUNBUFFERED": "1",
                "HOME": str(home),
                "XDG_CACHE_HOME": str(home / "cache"),
                "XDG_RUNTIME_DIR": str(home),
                "COLUMNS": "160",  # tables are not folded,
            },
        )
        self._output: list[str] = []
        self._ended = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._type("set -m")  # background jobs are %1, %2, as on a terminal

    def run(self, commands: str) -> tuple[int, str]:
        """Types commands. The status of the first one that fails, or 0, and what is printed until
        then, by jobs in the background too."""
        self._block.write_text(self._with_ports(commands))
        with self._ended:
            self._output.clear()
            # A command that fails ends the inner shell's list, not the shell that has the jobs.
            self._type(f"trap 'trap - ERR; return' ERR; source {self._block} </dev/null")
            self._type(f"echo {_END} $?; trap - ERR")
            status = self._ended.wait_for(self._status, BLOCK_SECONDS)
            printed = "".join(self._output)
        text, _, _ = printed.partition(f"{_END} ")
        for port, free in self._ports.items():
            text = text.replace(f":{free}", f":{port}")
        return (int(status) - 1 if status else -1), text

    def save(self, name: str, text: str) -> None:
        """Writes a file."""
        place = self._folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(self._with_ports(text))

    def _with_ports(self, text: str) -> str:
        for port, free in self._ports.items():
            for host in ("localhost", "127.0.0.1"):
                text = text.replace(f"{host}:{port}", f"{host}:{free}")
        return text

    def close(self) -> None:
        """Ends the shell and everything that it started."""
        session = self._process.pid
        for end in (signal.SIGTERM, signal.SIGKILL):
            for process in _of_session(session):
                process.send_signal(end)
            psutil.wait_procs(_of_session(session), timeout=10)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._ended:
                self._output.append(line)
                self._ended.notify_all()

    def _status(self) -> int:
        """1 more than the status of the block; 0 while it runs."""
        for line in reversed(self._output):  # jobs in the background may print after it
            _, found, status = line.partition(f"{_END} ")
            if found:
                return int(status) + 1
        return 0


def _of_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except ProcessLookupError:
            continue
    return found
