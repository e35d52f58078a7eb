"""Trained networks in a file, and the version of the run folders that hold them. (Lightning's
checkpoints, from which training resumes, are its own.)

The file holds tensors, and the call of `build_model` that the network came from: reading it runs
none of its content, whoever wrote it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from serving.base.files import open_file, read_file
from training.errors import BuildError
from training.models import blueprint_of, drop_auxiliary_heads, structure_of

NETWORK_FILE = "network.safetensors"
STARTED_FILE = "started.json"
DONE_FILE = "done.json"

RUN_FORMAT = 4
"""Written into each stage's records. To be raised when older ones can no longer be trusted: keys,
results or files of networks hold something else. Records without one are of 1."""

# Names of the tensors of heads that only help training.
_AUXILIARY = ("auxiliary.", "aux1.", "aux2.")
_BLUEPRINT = "convserve"
_NUMBERS = "convserve_numbers"


def save_network(network: nn.Module, path: Path) -> None:
    """Writes a network of `build_model`, on the CPU; it is put into evaluation mode.

    Beside the tensors, whose shapes tell the sizes of layers, stand the numbers by which the
    modules of a pruned network differ from those of a fresh one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = network.cpu().eval().state_dict()
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    name, classes, options = blueprint_of(network)
    fresh = _without_auxiliary(structure_of(name, classes, **options), state)
    metadata = {
        _BLUEPRINT: json.dumps([name, classes, options]),
        _NUMBERS: json.dumps(_other_numbers(network, fresh)),
    }
    save_file(tensors, partial, metadata)
    partial.replace(path)


def load_network(path: Path) -> nn.Module:
    """Reads what save_network wrote. Raises BuildError for a file that cannot be read, and for one
    that holds something else or the network of another version."""
    try:
        open_file(path).close()  # the library would wait for a pipe's writer
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        name, classes, options = json.loads(metadata[_BLUEPRINT])
        network = _without_auxiliary(structure_of(name, classes, **options), state)
        _set_numbers(network, json.loads(metadata[_NUMBERS]))
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


def _without_auxiliary(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    if not any(key.startswith(_AUXILIARY) for key in state):
        drop_auxiliary_heads(network)
    return network


def _other_numbers(network: nn.Module, fresh: nn.Module) -> dict[str, dict[str, Any]]:
    """By module and attribute, the numbers in which a network differs from a fresh one."""
    others = dict(fresh.named_modules())
    return {
        name: found
        for name, module in network.named_modules()
        if (
            found := {
                key: value
                for key, value in _numbers(module).items()
                if value != _numbers(others[name]).get(key)
            }
        )
    }


def _numbers(module: nn.Module) -> dict[str, Any]:
    """Sizes, counts and factors that a module keeps: in_channels, num_heads, normalized_shape."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and _is_number(value)
    }


def _is_number(value: object) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(part, int | float) for part in value)
    return isinstance(value, int | float)


def _set_numbers(network: nn.Module, numbers: dict[str, dict[str, Any]]) -> None:
    """Raises ValueError where a module has no number of that name."""
    for name, found in numbers.items():
        module = network.get_submodule(name)
        own = _numbers(module)
        for key, value in found.items():
            if key not in own or not _is_number(value):
                raise ValueError(f"{name}.{key} is no number of the network")
            setattr(module, key, type(own[key])(value))


def _resize(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives the tensors of a network the shapes of those of `state`, without values. Raises
    ValueError where a tensor has another type, rank or kernel."""
    for name, module in network.named_modules():
        direct = [*module._parameters.items(), *module._buffers.items()]
        for key, own in direct:
            given = state.get(f"{name}.{key}" if name else key)
            if own is None or given is None:
                continue
            if given.dtype != own.dtype:
                raise ValueError(f"{name}.{key}: expected {own.dtype}, got {given.dtype}")
            if given.ndim != own.ndim or (own.ndim == 4 and given.shape[2:] != own.shape[2:]):
                raise ValueError(
                    f"{name}.{key}: expected {list(own.shape)} but for the channels, "
                    f"got {list(given.shape)}"
                )
            if given.shape != own.shape:
                empty = torch.empty_like(given, device="meta")
                kind = nn.Parameter if key in module._parameters else (lambda values: values)
                setattr(module, key, kind(empty))


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
