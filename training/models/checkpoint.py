"""Whole networks in a file. (Lightning's checkpoints, from which training resumes, are its own.)"""

from pathlib import Path

import torch
from torch import nn


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
    pickle can run code."""
    network = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(network, nn.Module):
        raise TypeError(f"{path}: expected a network, got {type(network).__name__}")
    return network.eval()
