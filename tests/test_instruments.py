"""The instruments of attacks see what they are for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import limited
from tests.support.beside import Honest, LoopProbe
from tests.support.limited import LimitedServer, MemoryGroup, NoGroup

MIB = 1 << 20
TAKES = "import sys; taken = bytes(b'x' * (int(sys.argv[1]) << 20)); print(len(taken))"


def take(group: MemoryGroup, mib: int) -> int:
    """Exit status of a process of the group that takes this much memory."""
    script = 'echo $$ > "$0" && exec "$@"'
    command = ["/bin/sh", "-c", script, str(group.procs), sys.executable, "-c", TAKES, str(mib)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


def test_a_group_kills_what_goes_past_its_limit_and_tells_its_peak() -> None:
    try:
        group = MemoryGroup(100 * MIB)
    except NoGroup as reason:
        pytest.skip(str(reason))
    try:
        assert take(group, 40) == 0
        assert 40 * MIB < group.peak() < 90 * MIB
        group.reset()
        assert group.peak() < 20 * MIB
        assert group.kills() == 0
        assert take(group, 120) == -signal.SIGKILL
        assert group.kills() == 1
    finally:
        group.remove()
    assert not group.procs.exists()


def test_a_server_that_stands_still_shows_as_a_pause_and_in_late_calls(
    colours: Path, cache: Path
) -> None:
    server = LimitedServer(colours, cache=cache, mib=1024)
    try:
        with LoopProbe(server) as probe, Honest(server.url, deadline=0.25) as honest:
            os.kill(server.process.pid, signal.SIGSTOP)
            time.sleep(0.4)  # the length of the pause is what is measured
            os.kill(server.process.pid, signal.SIGCONT)
        assert 0.3 < probe.pauses.longest < 2.0
        assert probe.pauses.pings > 0
        assert honest.tally.late > 0
        assert honest.tally.wrong == honest.tally.lost == 0
        assert server.healthy()
        assert 0 < server.peak_mib() < server.mib
    finally:
        server.kill()


def test_without_a_group_the_address_space_is_limited(
    colours: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(limit: int) -> MemoryGroup:
        raise NoGroup("none here")

    monkeypatch.setattr(limited, "MemoryGroup", none)
    server = LimitedServer(colours, cache=cache, mib=1024)
    try:
        text = Path(f"/proc/{server.process.pid}/limits").read_text()
        limit = int(text.split("Max address space")[1].split()[0])
        assert limit > 1024 * MIB
        assert server.healthy()
        assert 0 < server.peak_mib() < server.mib
    finally:
        server.kill()
