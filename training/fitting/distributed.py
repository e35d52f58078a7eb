"""Several processes that train one network together, as torchrun starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def processes() -> int:
    """Processes that torchrun started on all nodes; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if _under_torchrun() else 1


def rank() -> int:
    """Number of this process, from 0. Process 0 writes the files and does the other stages."""
    return int(os.environ["RANK"]) if _under_torchrun() else 0


def processes_here() -> int:
    """Number of them on this node."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _under_torchrun() else 1


@contextmanager
def process_group(count: int) -> Iterator[None]:
    """Connects `count` processes (gloo on CPUs, NCCL on GPUs) while the block runs, which begins
    when all have come. Nothing where the count is 1."""
    if count == 1:
        yield
        return
    # Imported here: how many processes there are is told before torch is imported.
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group()
    try:
        torch.distributed.barrier()
        yield
    finally:
        torch.distributed.destroy_process_group()


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ
