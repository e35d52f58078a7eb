"""CPU and memory of a server on this machine, found by the port on which it listens.

Reads /proc, so that nothing is found where there is none, or where it does not show the server.
"""

import ipaddress
import os
import socket
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"


def local_server(url: str) -> int | None:
    """Process that listens on the port of `url` (host:port or http://host:port) on this machine."""
    host, _, port = url.split("://")[-1].rstrip("/").rpartition(":")
    if not port.isdigit() or not _is_here(host.strip("[]")):
        return None
    inodes = _listening(int(port))
    for process in _processes():
        try:
            for descriptor in (_PROC / str(process) / "fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    return process
        except OSError:
            continue
    return None


def usage(process: int) -> tuple[float, int]:
    """CPU seconds so far and resident bytes of a process and its descendants; 0 where it ended."""
    members = _tree(process)
    ticks = resident = 0
    for member in members:
        try:
            fields = _stat(member)
            ticks += int(fields[11]) + int(fields[12])
            resident += int(fields[21])
        except (OSError, IndexError, ValueError):
            continue
    return ticks / os.sysconf("SC_CLK_TCK"), resident * os.sysconf("SC_PAGE_SIZE")


def _is_here(host: str) -> bool:
    try:
        address = socket.gethostbyname(host or "localhost")
    except OSError:
        return False
    return ipaddress.ip_address(address).is_loopback


def _listening(port: int) -> set[str]:
    """Sockets that listen on a port, in the form of the links in /proc/PID/fd."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _processes() -> list[int]:
    try:
        return [int(p.name) for p in _PROC.iterdir() if p.name.isdigit()]
    except OSError:
        return []


def _stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: the second, a name, may hold spaces."""
    return (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()


def _tree(process: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for other in _processes():
        try:
            children.setdefault(int(_stat(other)[1]), []).append(other)
        except (OSError, IndexError, ValueError):
            continue
    found = [process]
    for member in found:
        found.extend(children.get(member, []))
    return found
