"""What /readyz tells of processes."""

import os
from enum import StrEnum


class ProcessState(StrEnum):
    """The states of an engine process."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


def front_line() -> str:
    """The line of this process."""
    return f"process front: pid {os.getpid()}"
