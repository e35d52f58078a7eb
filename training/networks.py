"""What `convserve build --list-networks` shows."""

from typing import Any

import torch

from training.models import (
    MODELS,
    STEPS,
    build_model,
    count_macs,
    count_parameters,
    drop_auxiliary_heads,
)

# The size of a head depends on the classes; papers count with these.
_CLASSES = 1000


def networks() -> list[dict[str, Any]]:
    """One row a network: name, task, input size it was designed for, parameters and GMACs at that
    size with 1,000 classes and without heads that only help training, the source of its paper,
    options, and of each step (prune, int8, the engines) what the tests say."""
    rows = []
    for name, entry in MODELS.items():
        # Without memory for weights: VGG-16 alone would take half a gigabyte.
        with torch.device("meta"):
            network = build_model(name, _CLASSES)
        drop_auxiliary_heads(network)
        rows.append(
            {
                "name": name,
                "task": entry.task,
                "input_size": list(entry.input_size),
                "parameters": count_parameters(network),
                "gmacs": round(count_macs(network, entry.input_size) / 1e9, 3),
                "paper": entry.paper if ":" in entry.paper else f"arXiv {entry.paper}",
                "options": list(entry.options),
                "tests": coverage(name),
            }
        )
    return rows


def coverage(name: str) -> dict[str, str]:
    """Of each step, whether the tests try it on this network itself ("tested"), on others of the
    same blocks ("as NAME"), or the recipe refuses it ("refused: REASON")."""
    entry = MODELS[name]
    tried = f"as {' and '.join(entry.tested_as)}" if entry.tested_as else "tested"
    return {
        step: f"refused: {entry.unsupported[step]}" if step in entry.unsupported else tried
        for step in STEPS
    }
