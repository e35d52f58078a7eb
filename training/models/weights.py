"""A network's first weights, where they do not come from chance.

A recipe's `model.pretrained` is a file (a `state_dict` in .pth, or .safetensors), the folder of a
run or, for networks of timm, one in the layout of the Hugging Face hub, or the name of weights that
torchvision or timm offers for the network or for its backbone: only those are downloaded.
"""

import hashlib
import logging
import pickle
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models import WeightsEnum

from training.errors import RecipeError
from training.models import head_layers
from training.models.architectures.resnet_cifar import CifarResNet
from training.models.architectures.segmentation import Segmenter
from training.models.archive import is_compressed
from training.models.attention import Attention
from training.models.channels import input_channels, sum_colours
from training.models.checkpoint import NETWORK_FILE, load_network, other_version
from training.models.factory import Chosen
from training.models.timm_weights import TimmWeights, encoder_state, hub_state, timm_weights
from training.recipes.model import TIMM, ModelChoice
from training.recipes.timm_settings import HUB_CONFIG

log = logging.getLogger(__name__)

_FILES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_RUN_NETWORK = Path("train") / NETWORK_FILE
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# Names that trainers give the weights among the other things that they save, and prefixes that
# wrappers put before every key.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
_PREFIXES = ("module.", "model.", "network.", "net.", "state_dict.", "_orig_mod.")
_SHOWN = 6
# Names of the layers of heads that only help training.
_AUXILIARY = ("auxiliary.", "aux1.", "aux2.")

State = dict[str, Tensor]


def check_weights(source: str, architecture: str) -> None:
    """Raises RecipeError where `source` is no file, no run folder, no folder of the hub, and no
    name of weights for the network called `architecture`. Downloads and reads nothing."""
    path = Path(source)
    if path.is_dir():
        if (path / HUB_CONFIG).is_file():
            _hub_file(path)
            return
        if other_version(path / _RUN_NETWORK.parent):
            raise RecipeError(
                f"model.pretrained: {source} was built by another version of convserve; build it "
                "again"
            )
        if not (path / _RUN_NETWORK).is_file():
            raise RecipeError(f"model.pretrained: {source} is no run: it holds no {_RUN_NETWORK}")
    elif path.suffix in _FILES:
        if not path.is_file():
            raise RecipeError(f"model.pretrained: {source}: no such file")
    else:
        _named_weights(source, architecture)


def weights_fingerprint(choice: ModelChoice) -> str | None:
    """sha256 of the file that a network's weights come from, or the address of those that are
    downloaded; None where they come from chance."""
    if choice.pretrained is None:
        return None
    file = _local_file(choice.pretrained)
    if file is None:
        weights = _named_weights(choice.pretrained, choice.architecture)
        return str(weights.url if isinstance(weights, WeightsEnum) else weights)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_weights(
    network: nn.Module, source: str, architecture: str, *, whole: bool = False
) -> None:
    """Puts the weights of `source` into a network of `build_model`, in place.

    Heads of another number of classes stay as they are, as do auxiliary heads and attention that
    the weights lack, and the log says so; projections that they lack become the zero-padded
    identity of their shortcuts. Weights of a backbone alone go into the encoder of a
    segmentation network; the layers behind it there are left out.
    `whole` refuses that: the network will not be trained.
    Raises RecipeError where weights cannot be had, or where anything else differs, naming keys and
    shapes.
    """
    file = _local_file(source)
    if file is not None:
        state = _read(file, own=file == Path(source) / _RUN_NETWORK)
    else:
        state = _download(_named_weights(source, architecture))
    grey = input_channels(network) == 1
    if isinstance(network, Chosen) and not any(key.startswith("network.") for key in state):
        network = network.network
    target, left_out = network, list[str]()
    if isinstance(network, Segmenter) and not any(key.startswith("encoder.") for key in state):
        target = network.encoder
        if TIMM in architecture:
            state, left_out = encoder_state(target, state)
        else:
            left_out = [key for key in state if _is_behind(key, target)]
            state = {key: value for key, value in state.items() if key not in left_out}
    elif architecture.startswith(TIMM):
        state = hub_state(network, state)
    summed = sum_colours(target, state) if grey else []
    answers = {key: len(value) for key, value in state.items() if value.ndim}
    fresh = _fitting_heads(network, target, state)
    state, attention = _fitting_attention(target, state)
    if isinstance(target, CifarResNet):
        state = target.zero_padding() | state
    _require_match(source, target, state, fresh | attention)
    if whole:
        new = {key for key in fresh if not key.startswith(_AUXILIARY)} | attention
        _require_whole(source, network, target, answers, new)
    target.load_state_dict(state, strict=False)
    part = "the backbone" if target is not network else "all layers"
    log.info("pretrained: %s from %s", part, source)
    if summed:
        log.info("pretrained: summed over the colours, for grey images: %s", ", ".join(summed))
    if left_out:
        log.info("pretrained: left out, behind the encoder: %s", ", ".join(left_out))
    if fresh:
        log.info("pretrained: new, as the head is another: %s", ", ".join(sorted(fresh)))
    if attention:
        log.info("pretrained: new, attention, which the weights lack")


def _local_file(source: str) -> Path | None:
    path = Path(source)
    if path.is_dir():
        return _hub_file(path) if (path / HUB_CONFIG).is_file() else path / _RUN_NETWORK
    return path if path.suffix in _FILES else None


def _hub_file(folder: Path) -> Path:
    for name in _HUB_FILES:
        if (folder / name).is_file():
            return folder / name
    raise RecipeError(f"model.pretrained: {folder} holds none of {', '.join(_HUB_FILES)}")


def _named_weights(source: str, architecture: str) -> WeightsEnum | TimmWeights:
    if TIMM not in architecture or ":" in architecture:
        return _torchvision_weights(source, architecture)
    try:
        return timm_weights(architecture.partition(TIMM)[2], source)
    except ValueError as error:
        raise RecipeError(
            f"model.pretrained: {source!r} is neither a file ({', '.join(_FILES)}) nor a folder, "
            f"and {error}"
        ) from error


def _torchvision_weights(source: str, architecture: str) -> WeightsEnum:
    # The builder of a backbone is named at the end: unet_resnet34.
    names = (architecture, architecture.partition("_")[2])
    known = set(torchvision_models.list_models(module=torchvision_models))
    name = next((name for name in names if name in known), None)
    if name is None:
        raise RecipeError(
            f"model.pretrained: {source!r} is neither a file ({', '.join(_FILES)}) nor a run "
            f"folder, and torchvision has no weights for {architecture}"
        )
    offered = torchvision_models.get_model_weights(name)
    wanted = source.removeprefix(f"{offered.__name__}.")
    if wanted not in offered.__members__:
        shown = ", ".join(f"{offered.__name__}.{member}" for member in offered.__members__)
        raise RecipeError(
            f"model.pretrained: {source!r} is neither a file ({', '.join(_FILES)}), a run folder, "
            f"nor one of torchvision's weights for {name}: DEFAULT, {shown}"
        )
    weights: WeightsEnum = offered[wanted]
    return weights


def _download(weights: WeightsEnum | TimmWeights) -> State:
    try:
        if isinstance(weights, TimmWeights):
            return weights.download()
        state: State = dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        place = weights.url or "the Hugging Face hub"
        raise RecipeError(
            f"model.pretrained: {weights} cannot be downloaded from {place}: {error}; "
            "fetch that file by other means and give its path"
        ) from error
    return state


def _read(file: Path, *, own: bool) -> State:
    if own:
        return dict(load_network(file).state_dict())
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        elif is_compressed(file):
            raise RecipeError(
                f"model.pretrained: {file}: is a compressed archive, which torch writes none of"
            )
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(
            f"model.pretrained: {file} cannot be read as tensors: {reason}"
        ) from error
    return _unwrapped(file, content)


def _unwrapped(file: Path, content: Any) -> State:
    while isinstance(content, Mapping):
        inner = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise RecipeError(f"model.pretrained: {file} holds no state_dict: names of tensors")
    state: State = dict(content)
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        if not state:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _is_behind(key: str, encoder: nn.Module) -> bool:
    """Whether a backbone's layer comes behind the encoder's last: a classifier, of which encoders
    have none, or a layer behind the place where VGG is cut for PSPNet."""
    child, index, *_ = *key.split("."), ""
    layers = dict(encoder.named_children()).get(child)
    if isinstance(layers, nn.Sequential) and index.isdecimal() and child == "features":
        return int(index) >= len(layers)
    return layers is None


def _fitting_heads(network: nn.Module, target: nn.Module, state: State) -> set[str]:
    """Takes weights that do not fit the heads out of `state`; gives the keys that stay as are."""
    names = {module: name for name, module in target.named_modules()}
    heads = [names[layer] for layer in head_layers(network) if layer in names]
    own = target.state_dict()
    fresh = {
        key
        for head in heads
        for key in (f"{head}.weight", f"{head}.bias")
        if key in own and key in state and state[key].shape != own[key].shape
    }
    for key in fresh:
        del state[key]
    lacks_auxiliary = not any(key.startswith(_AUXILIARY) for key in state)
    return fresh | {key for key in own if lacks_auxiliary and key.startswith(_AUXILIARY)}


def _require_whole(
    source: str, network: nn.Module, target: nn.Module, answers: dict[str, int], new: set[str]
) -> None:
    """Raises RecipeError where a part of a network stays as chance made it. `answers` are the
    values that each layer of the weights answers with."""
    said = f"train: none, but model.pretrained: {source}"
    if target is not network:
        raise RecipeError(f"{said} holds a backbone alone: what is behind it must be trained")
    if not new:
        return
    key = sorted(new)[0]
    if key not in answers:
        raise RecipeError(f"{said} lacks {', '.join(sorted(new)[:_SHOWN])}, which must be trained")
    raise RecipeError(
        f"{said} answers with {answers[key]} values, and the data have "
        f"{len(target.state_dict()[key])} classes; model.classes may name a file with the "
        f"{answers[key]} classes of the network, one a line, of which the data show some"
    )


def _fitting_attention(target: nn.Module, state: State) -> tuple[State, set[str]]:
    """Gives `state` with the names that its layers have beside inserted attention, and the keys of
    the attention that it lacks."""
    own = target.state_dict()
    fresh = set[str]()
    for name, block in target.named_modules():
        if not isinstance(block, Attention) or any(key.startswith(f"{name}.") for key in state):
            continue
        fresh |= {key for key in own if key.startswith(f"{name}.")}
        # A norm layer stands in a sequence with the attention behind it, as its first.
        beside = name.rpartition(".")[0] + "."
        state = {
            f"{beside}0.{key.removeprefix(beside)}" if key.startswith(beside) else key: value
            for key, value in state.items()
        }
    return state, fresh


def _require_match(source: str, target: nn.Module, state: State, fresh: set[str]) -> None:
    own = target.state_dict()
    # Files older than the counters of batch normalisation lack them.
    missing = {key for key in own if key not in state and not key.endswith("num_batches_tracked")}
    problems = [
        f"{key} is {list(state[key].shape)} there and {list(own[key].shape)} here"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems += [f"{key} is missing there" for key in own if key in missing - fresh]
    problems += [f"{key} is unknown here" for key in state if key not in own]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise RecipeError(
            f"model.pretrained: {source} does not fit the network: "
            f"{'; '.join(problems[:_SHOWN])}{more}"
        )
