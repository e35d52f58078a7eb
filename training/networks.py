"""What `convserve build --list-networks` shows."""

from typing import Any

import torch

from training.models import MODELS, build_model, count_macs, count_parameters

# The size of a head depends on the classes; papers count with these.
_CLASSES = 1000


def networks() -> list[dict[str, Any]]:
    """One row a network: name, task, input size it was designed for, parameters and GMACs at that
    size with 1,000 classes, arXiv id of its paper, options."""
    rows = []
    for name, entry in MODELS.items():
        # Without memory for weights: VGG-16 alone would take half a gigabyte.
        with torch.device("meta"):
            network = build_model(name, _CLASSES)
        rows.append(
            {
                "name": name,
                "task": entry.task,
                "input_size": list(entry.input_size),
                "parameters": count_parameters(network),
                "gmacs": round(count_macs(network, entry.input_size) / 1e9, 3),
                "paper": f"arXiv {entry.paper}",
                "options": list(entry.options),
            }
        )
    return rows
