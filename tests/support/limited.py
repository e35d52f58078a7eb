"""A server process with a memory limit of its own, for attacks that would take the machine's.

The limit is a control group (version 1 or 2) which is made for the server and removed after it.
Where none can be made, as in most containers, it is RLIMIT_AS of the process, set when it is ready.
"""

import contextlib
import os
import resource
import shlex
import time
import uuid
from pathlib import Path
from unittest import SkipTest

from tests.support.process import ServerProcess

_MIB = 1 << 20
_ROOT = Path(__file__).parents[2]
_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
# The share of the limit that calls may hold, as the server's own default is.
_BUDGET_SHARE = 0.6
# MiB that an engine process takes beside its front, in the same group.
_ENGINE_MIB = 160 if os.environ.get("CONVSERVE_ENGINE_PROCESS") == "1" else 0
# Seconds in which the kernel lets go of a group whose processes have ended.
_REMOVAL_SECONDS = 5.0


class NoGroup(Exception):
    """The text says why no control group can be made here."""


class MemoryGroup:
    """A control group that bounds the memory of the processes in it; the kernel kills the one that
    goes past it. Raises NoGroup where none can be made.

    procs: the file into which a process is written that shall belong to it.
    """

    def __init__(self, limit: int) -> None:
        self._v1 = (_V1 / "memory.limit_in_bytes").exists()
        self._folder = (_V1 if self._v1 else _V2) / f"convserve-{uuid.uuid4().hex[:12]}"
        self.procs = self._folder / "cgroup.procs"
        try:
            self._folder.mkdir()
        except OSError as error:
            raise NoGroup(f"{self._folder}: {error.strerror}") from error
        try:
            name = "memory.limit_in_bytes" if self._v1 else "memory.max"
            (self._folder / name).write_text(str(limit))
            name = "memory.max_usage_in_bytes" if self._v1 else "memory.peak"
            # Resetting the peak of a group of version 2 counts for the descriptor that did it.
            self._peak = (self._folder / name).open("r+b", buffering=0)
        except OSError as error:
            self._folder.rmdir()
            raise NoGroup(f"{self._folder}: {error.strerror}") from error

    def peak(self) -> int:
        """The largest number of bytes in the group since `reset`, without the file cache that is in
        it now: the kernel takes that back when it needs to."""
        prefix = "total_" if self._v1 else ""
        cache = 0
        for line in (self._folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in (f"{prefix}active_file", f"{prefix}inactive_file"):
                cache += int(value)
        self._peak.seek(0)
        return max(0, int(self._peak.read()) - cache)

    def reset(self) -> None:
        """The peak begins anew. Before Linux 6.12, one of version 2 cannot."""
        with contextlib.suppress(OSError):
            self._peak.seek(0)
            self._peak.write(b"0")

    def kills(self) -> int:
        """Processes that the kernel has killed for their memory."""
        name = "memory.oom_control" if self._v1 else "memory.events"
        lines = (self._folder / name).read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def remove(self) -> None:
        """Removes it once its processes have ended."""
        self._peak.close()
        end = time.monotonic() + _REMOVAL_SECONDS
        while self._folder.exists():
            try:
                self._folder.rmdir()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)  # the kernel tells nobody when it has let go


class LimitedServer(ServerProcess):
    """`convserve serve` that may take `mib` MiB of memory, and `files` descriptors where given.

    It is ready when it has been made. Its --memory-mib is 60 % of the limit unless `flags` say
    another. `kill` ends it and removes its group. path: stands in front of its PYTHONPATH.
    """

    def __init__(
        self,
        repository: Path,
        *flags: str,
        cache: Path,
        mib: int,
        files: int | None = None,
        path: str = "",
    ) -> None:
        self.mib = mib
        if "--memory-mib" not in flags:
            flags = (*flags, "--memory-mib", str(round(mib * _BUDGET_SHARE)))
        try:
            self.group: MemoryGroup | None = MemoryGroup((mib + _ENGINE_MIB) * _MIB)
        except NoGroup as error:
            self.group, self._reason = None, str(error)
        # The shell bounds itself, then becomes the server, with the same process id. Files that an
        # attack has the server write by plain names land beside its cache.
        steps = [f"cd {shlex.quote(str(cache.parent))}"]
        if self.group is not None:
            steps.append('echo $$ > "$0"')
        if files is not None:
            steps.append(f"ulimit -n {files}")
        script = " && ".join([*steps, 'exec "$@"'])
        procs = "sh" if self.group is None else str(self.group.procs)
        try:
            super().__init__(
                repository,
                *flags,
                cache=cache,
                env={**os.environ, "PYTHONPATH": f"{path}{_ROOT}"},
                prefix=("/bin/sh", "-c", script, procs),
            )
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        if self.group is None:
            self._limit_addresses()
        self.reset_peak()

    def _limit_addresses(self) -> None:
        """Bounds what the process may still map: runtimes map far more than they use, so that what
        it has mapped by now is left out of the count. Skips the test where that is
        refused too."""
        mapped, used = self._status("VmSize"), self._status("VmRSS")
        limit = mapped - used + self.mib * _MIB
        try:
            resource.prlimit(self.process.pid, resource.RLIMIT_AS, (limit, limit))
        except (OSError, ValueError) as error:
            self.kill()
            raise SkipTest(f"no memory limit: {self._reason}; RLIMIT_AS: {error}") from error

    def _status(self, name: str) -> int:
        """Bytes of a line of the process's status."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0]) << 10

    def peak_mib(self) -> float:
        """The most memory that it has had since the start or `reset_peak`, in MiB: of its group,
        with the kernel's part; without one its resident memory."""
        peak = self._status("VmHWM") if self.group is None else self.group.peak()
        return peak / _MIB

    def reset_peak(self) -> None:
        """Begins anew with what it has now."""
        if self.group is None:
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        else:
            self.group.reset()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

    @property
    def kills(self) -> int:
        """Times that the kernel killed it, or a helper of it, for its memory."""
        return 0 if self.group is None else self.group.kills()

    def healthy(self) -> bool:
        """Whether the process runs and its models serve."""
        try:
            return self.alive and self.get(f"{self.http}/readyz")[0] == 200
        except OSError:
            return False

    def kill(self) -> None:
        """Ends it, and removes its group."""
        if hasattr(self, "process"):
            super().kill()
        if self.group is not None:
            self.group.remove()
            self.group = None
