"""Trained networks in a file, and the version of the run folders that hold them. (Lightning's
checkpoints, from which training resumes, are its own.)

The file holds tensors, and the call of `build_model` that the network came from: reading it runs
none of its content, whoever wrote it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from serving.base.files import open_file, read_file
from training.errors import BuildError
from training.models import blueprint_of, build_model, drop_auxiliary_heads

NETWORK_FILE = "network.safetensors"
STARTED_FILE = "started.json"
DONE_FILE = "done.json"

RUN_FORMAT = 3
"""Written into each stage's records. To be raised when older ones can no longer be trusted: keys,
results or files of networks hold something else. Records without one are of 1."""

# Names of the tensors of heads that only help training.
_AUXILIARY = ("auxiliary.", "aux1.", "aux2.")
_BLUEPRINT = "convserve"


def save_network(network: nn.Module, path: Path) -> None:
    """Writes a network of `build_model`, on the CPU; it is put into evaluation mode.

    Pruning changes the sizes of layers and no names, so the shapes of the tensors tell the rest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = network.cpu().eval().state_dict()
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    save_file(tensors, partial, {_BLUEPRINT: json.dumps(blueprint_of(network))})
    partial.replace(path)


def load_network(path: Path) -> nn.Module:
    """Reads what save_network wrote. Raises BuildError for a file that cannot be read, and for one
    that holds something else or the network of another version."""
    try:
        open_file(path).close()  # the library would wait for a pipe's writer
        with safe_open(path, "pt") as file:
            blueprint = json.loads((file.metadata() or {})[_BLUEPRINT])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        name, classes, options = blueprint
        # Without memory for weights: those of the file take their place.
        with torch.device("meta"):
            network = build_model(name, classes, **options)
        if not any(key.startswith(_AUXILIARY) for key in state):
            drop_auxiliary_heads(network)
        _resize(network, state)
        network.load_state_dict(state, assign=True)
    except (OSError, SafetensorError) as error:
        raise BuildError(f"{path}: cannot be read ({error}); build that run again") from error
    except Exception as error:  # Whoever wrote the file may have written anything into it.
        said = " ".join(str(error).split())[:300]
        raise BuildError(
            f"{path}: holds no network of this version of convserve ({said}); build that run again"
        ) from error
    return network.eval()


def _resize(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Gives the layers of a network on the meta device the sizes of the tensors of `state`. Raises
    ValueError where a tensor has another type or kernel than the layer's."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            shape = _shape(state, f"{name}.weight", layer.weight)
            if isinstance(layer, nn.Linear):
                layer.out_features, layer.in_features = shape
            else:
                _resize_convolution(layer, shape)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            key = "weight" if layer.affine else "running_mean"
            layer.num_features = state[f"{name}.{key}"].shape[0]
        else:
            continue
        for key, value in layer.state_dict().items():
            given = torch.empty_like(state[f"{name}.{key}"], device="meta")
            if given.dtype != value.dtype:
                raise ValueError(f"{name}.{key}: expected {value.dtype}, got {given.dtype}")
            setattr(layer, key, _kind(layer, key)(given))


def _resize_convolution(layer: nn.Conv2d | nn.ConvTranspose2d, shape: torch.Size) -> None:
    first, second = shape[:2]
    if layer.groups > 1:  # each channel is a group of its own
        layer.groups = first
    if isinstance(layer, nn.ConvTranspose2d):
        layer.in_channels, layer.out_channels = first, second * layer.groups
    else:
        layer.out_channels, layer.in_channels = first, second * layer.groups


def _shape(state: dict[str, Tensor], key: str, own: Tensor) -> torch.Size:
    shape = state[key].shape
    if len(shape) != own.ndim or shape[2:] != own.shape[2:]:
        raise ValueError(
            f"{key}: expected {list(own.shape)} but for the channels, got {list(shape)}"
        )
    return shape


def _kind(layer: nn.Module, key: str) -> Any:
    return nn.Parameter if key in dict(layer.named_parameters(recurse=False)) else (lambda x: x)


def other_version(stage: Path) -> bool:
    """Whether another version of convserve began or finished the stage in this folder."""
    for name in (DONE_FILE, STARTED_FILE):
        try:
            document = json.loads(read_file(stage / name))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(document, dict) or document.get("format", 1) != RUN_FORMAT:
            return True
    return False
