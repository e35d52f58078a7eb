"""Whole networks in a file, and the version of the run folders that hold them. (Lightning's
checkpoints, from which training resumes, are its own.)"""

import json
from pathlib import Path

import torch
from torch import nn

from training.errors import BuildError

NETWORK_FILE = "network.pt"
STARTED_FILE = "started.json"
DONE_FILE = "done.json"

RUN_FORMAT = 2
"""Written into each stage's records. To be raised when older ones can no longer be trusted: modules
of pickled networks moved, or keys or results hold something else. Records without one are of 1."""


def save_network(network: nn.Module, path: Path) -> None:
    """Writes a network with its structure, on the CPU and in evaluation mode.

    The structure is stored because pruning changes it: no name and no options could build it again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(network.cpu().eval(), partial)
    partial.replace(path)


def load_network(path: Path) -> nn.Module:
    """Reads what save_network wrote. Only for files of one's own builds: it is a pickle, and a
    pickle can run code. Raises BuildError for a network of another version's modules and for a file
    that cannot be read, TypeError for one that holds something else."""
    try:
        network = torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise BuildError(
            f"{path}: saved by another version of convserve ({error}); build that run again"
        ) from error
    except Exception as error:  # Damaged files make pickle raise almost anything.
        raise BuildError(f"{path}: cannot be read ({error}); build that run again") from error
    if not isinstance(network, nn.Module):
        raise TypeError(f"{path}: expected a network, got {type(network).__name__}")
    return network.eval()


def other_version(stage: Path) -> bool:
    """Whether another version of convserve began or finished the stage in this folder."""
    for name in (DONE_FILE, STARTED_FILE):
        try:
            document = json.loads((stage / name).read_text())
        except (OSError, ValueError):
            continue
        if not isinstance(document, dict) or document.get("format", 1) != RUN_FORMAT:
            return True
    return False
