"""How many files and connections this process may have open."""

import contextlib
import resource

# Descriptors that no caller of an API port can take: for models, libraries, helper processes, the
# metrics port and the probes. A server with a dozen models has some 100 open.
_RESERVE = 256
# The fewest connections that a port takes, however low the limit is.
_FEWEST = 16


def raise_file_limit() -> int:
    """Raises the limit of open files to what this process may set it to, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Refused where the kernel's own limit (fs.nr_open) is lower.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def connections_within(file_limit: int, wanted: int, ports: int) -> int:
    """The connections that each of so many ports may take: `wanted`, or what the limit of open
    files leaves each of them."""
    return min(wanted, max(_FEWEST, (file_limit - _RESERVE) // ports))
