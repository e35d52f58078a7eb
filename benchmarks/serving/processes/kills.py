"""Kills the processes of a server under load, at random."""

import asyncio
import contextlib
import os
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.serving.processes.callers import (
    LOAD_PATIENCE,
    Callers,
    Ended,
    Loads,
    publish_models,
)
from benchmarks.serving.soak.looks import Look, grown, look
from tests.support.process import ServerProcess

# Shares of the kills.
SHARES = {"engine": 0.4, "loader": 0.35, "front": 0.25}
# Share of the kills after which the next one does not wait until everything serves again.
HASTE = 0.2
# Seconds until the next kill, at most; and those until a loader process dies, from its start.
PAUSE, LOADER_PAUSE = 1.0, 0.5
# Seconds after which a process that should be there, or gone, counts as one that is not.
PATIENCE = 30.0
# Descriptors that a front may have more after the death of another process, on average; and slabs
# at the end than at the beginning, by the median of a quarter of the kills.
FILES_A_KILL, SLABS = 0.3, 8
# The environment of all processes of the server names this.
MARK = "KILLS_OF"
# Becomes `convserve serve` that does not give up where engine processes die often; the words of its
# command follow.
_PATIENT = """
import runpy, sys
from serving.remote.front import supervisor
supervisor._MOST_ENDS = 1000
sys.argv = sys.argv[3:]
runpy.run_module("convserve", run_name="__main__")
"""


class Ground:
    """A server, and the one after it where it is killed, on the same ports.

    folder: holds its models, cache and temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self.models, self.own = folder / "models", folder / "server"
        self.own.mkdir(parents=True)
        publish_models(self.models)
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.server = self._start()
        self.port, self._http = self.server.url.rpartition(":")[2], self.server.http
        self.outlived = list[float]()

    def _start(self, *flags: str) -> ServerProcess:
        return ServerProcess(
            self.models, "--engine-process", "--model-control", "explicit", "--allow-ungated",
            "--engine", "onnxruntime", *flags,
            cache=self.own / "cache",
            env={**os.environ, MARK: self._mark},
            prefix=(sys.executable, "-c", _PATIENT),
        )  # fmt: skip

    def restart(self) -> None:
        """Starts the next server where the former is dead, once nothing of that one is left. Raises
        AssertionError where a process outlives it."""
        began = time.monotonic()
        while left := self._marked():
            assert time.monotonic() - began < PATIENCE, f"processes outlive their front: {left}"
            time.sleep(0.005)  # between two looks at processes of somebody else
        self.outlived.append(time.monotonic() - began)
        http = self._http.rpartition(":")[2]
        self.server = self._start("--grpc-port", self.port, "--http-port", http)

    def _marked(self) -> list[int]:
        """The processes of the server."""
        mark, found = f"{MARK}={self._mark}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended, or is another user's
        return found

    def close(self) -> None:
        """Ends every process."""
        self.server.kill()
        for pid in self._marked():
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


async def child(pid: int) -> int:
    """The first process that a process starts, or has started."""
    end = time.monotonic() + PATIENCE
    while not (found := children(pid)):
        assert time.monotonic() < end, f"process {pid} starts none"
        await asyncio.sleep(0.005)  # between two looks at a process of somebody else
    return found[0]


def _connections(pid: int) -> set[str]:
    """The TCP sockets where a process runs, as its descriptors name them."""
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {f"socket:[{row[9]}]" for row in rows}


def own_files(pid: int, temporary: Path) -> tuple[int, int]:
    """Descriptors of a process that are neither TCP, nor slabs, nor temporary files, and slabs. A
    front keeps one temporary file for each model that a load call has brought."""
    names, calls = [], _connections(pid)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            names.append(str(entry.readlink()))
    calls |= _connections(pid)
    names = [name for name in names if name not in calls and not name.startswith(str(temporary))]
    slabs = sum(name.startswith("/memfd:convserve-slab") for name in names)
    return len(names) - slabs, slabs


class Kills:
    """The kills.

    looks: at front and engine process after each one, by kind and process; descriptors are
        those of `own_files`.
    slabs: slabs that the same have open.
    shared: files of /dev/shm that the same had mapped.
    back: seconds until everything served again, by the kind that was killed.
    """

    def __init__(self, ground: Ground, callers: Callers, seed: int) -> None:
        self._ground, self._callers = ground, callers
        self._dice = random.Random(seed)
        self._began = time.monotonic()
        self.looks: dict[str, list[tuple[int, Look]]] = defaultdict(list)
        self.slabs: dict[str, list[int]] = defaultdict(list)
        self.shared = set[Path]()
        self.back: dict[str, list[float]] = defaultdict(list)
        self.stale = 0.0

    async def run(self, kills: int) -> None:
        """Kills so often."""
        order = [kind for kind, share in SHARES.items() for _ in range(round(share * kills))]
        self._dice.shuffle(order)
        await self._serving()
        await self._look()
        for number, kind in enumerate(order, 1):
            await asyncio.sleep(self._dice.uniform(0, PAUSE))
            began = await getattr(self, f"_{kind}")()
            if self._dice.random() >= HASTE or number == len(order):
                await self._serving()
                self.back[kind].append(time.monotonic() - began)
                await self._look()

    async def _serving(self) -> None:
        """Returns when everything serves."""
        async with asyncio.timeout(LOAD_PATIENCE):
            await self._callers.up.wait()
        await asyncio.to_thread(self._ground.server.wait_ready)

    async def _look(self) -> None:
        at, front = time.monotonic() - self._began, self._ground.server.process.pid
        pids = {"front": front, "engine": await child(front)}
        for kind, pid in pids.items():
            files, slabs = own_files(pid, self._ground.own)
            self.looks[kind].append((pid, replace(look(pid, at), files=files)))
            self.slabs[kind].append(slabs)
            self.shared |= shared_files(pid)

    async def _engine(self) -> float:
        pid = await child(self._ground.server.process.pid)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.001)  # as above
        return began

    async def _loader(self) -> float:
        engine = await child(self._ground.server.process.pid)
        pid = await child(engine)
        await asyncio.sleep(self._dice.uniform(0, LOADER_PAUSE))
        began = time.monotonic()
        if pid in children(engine):
            os.kill(pid, signal.SIGKILL)
        else:  # it was done
            os.kill(await child(engine), signal.SIGKILL)
        return began

    async def _front(self) -> float:
        self.note_stale()
        self._ground.server.process.kill()
        self._callers.up.clear()
        began = time.monotonic()
        await asyncio.to_thread(self._ground.server.wait)
        await asyncio.to_thread(self._ground.restart)
        return began

    def note_stale(self) -> None:
        """Counts the stale answers of the front that runs."""
        _, text = self._ground.server.get(self._ground.server.metrics_url)
        for line in text.splitlines():
            if line.startswith("convserve_stale_answers"):
                self.stale += float(line.split()[-1])


def files_a_kill(looks: Sequence[tuple[int, Look]]) -> float:
    """Descriptors that a process has more after each kill that it survives, on average."""
    by_process = defaultdict(list)
    for pid, one in looks:
        by_process[pid].append(one.files)
    survived = sum(len(files) - 1 for files in by_process.values())
    return sum(files[-1] - files[0] for files in by_process.values()) / max(1, survived)


def shared_files(pid: int) -> set[Path]:
    """Files of /dev/shm that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {Path(line[line.index("/dev/shm/") :]) for line in lines if "/dev/shm/" in line}


def _left(ground: Ground, shared: set[Path]) -> list[str]:
    """Files that should be gone."""
    # The folder of the admin sockets stays with the user, empty. `.ses` is ONNX Runtime's.
    kept = {ground.own / name for name in ("cache", "convserve", ".ses")}
    left = [path for path in ground.own.iterdir() if path not in kept]
    left += list((ground.own / "convserve").iterdir())
    left += [path for path in (ground.own / "cache").rglob("*") if "partial" in path.name]
    left += [path for path in shared if path.exists()]
    return [f"left behind: {path}" for path in left]


def _print(kills: Kills, ended: Ended, ground: Ground, seconds: float) -> None:
    print(f"\n{ended.begun} calls in {seconds:.0f} s; the longest took {ended.longest:.1f} s\n")
    print("| calls | ended with |\n| --- | --- |")
    for kind, statuses in ended.statuses.items():
        print(f"| {kind} | {', '.join(f'{s} {n}' for s, n in statuses.most_common())} |")
    print("\n| killed | serves again after (median, longest), s |\n| --- | --- |")
    for kind, back in kills.back.items():
        print(f"| {kind} | {statistics.median(back):.1f}, {max(back):.1f} |")
    longest = max(ground.outlived, default=0.0)
    print(f"\nlast process of a dead front gone after {longest:.3f} s at most")
    for kind, looks in kills.looks.items():
        print(
            f"{kind}: {len({pid for pid, _ in looks})} processes; {looks[0][1]} at first, "
            f"{looks[-1][1]} at last; {max(kills.slabs[kind])} slabs at most"
        )
    print(f"front: {files_a_kill(kills.looks['front']):+.2f} descriptors a kill")


async def run(folder: Path, kills: int, seed: int) -> list[str]:
    """Kills so many processes. Prints what came of it; the faults."""
    ground, ended, began = Ground(folder), Ended(), time.monotonic()
    try:
        callers = Callers(ground.server, ended, seed)
        loads = Loads(ground.server, callers, ended, ground.models)
        killing = Kills(ground, callers, seed)
        async with asyncio.TaskGroup() as group:
            group.create_task(callers.run())
            group.create_task(loads.run())
            await killing.run(kills)
            callers.over = True
        killing.note_stale()
        status = await asyncio.to_thread(ground.server.terminate)
    finally:
        ground.close()
    _print(killing, ended, ground, time.monotonic() - began)
    faults = ended.faults() + _left(ground, killing.shared)
    if status:
        faults.append(f"the last server ended with status {status}")
    if killing.stale:
        faults.append(f"{killing.stale:.0f} stale answers")
    if (more := files_a_kill(killing.looks["front"])) > FILES_A_KILL:
        faults.append(f"front: {more:.1f} descriptors more a kill")
    for kind, looks in killing.looks.items():
        faults += [f"{kind}: {fault}" for fault in grown([one for _, one in looks])]
        slabs = killing.slabs[kind]
        quarter = max(1, len(slabs) // 4)
        early, late = statistics.median(slabs[:quarter]), statistics.median(slabs[-quarter:])
        if late - early > SLABS:
            faults.append(f"{kind}: slabs grew from {early:g} to {late:g}")
    return faults
