"""Weights to begin with, that can be had on this machine."""

import functools
import importlib.metadata
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import timm
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from torchvision import models as torchvision_models

from training.errors import RecipeError
from training.models import MODELS, build_model
from training.models.weights import check_weights, load_weights
from training.recipes.model import TIMM
from training.recipes.tasks import NetworkTask

ENDINGS = (".pth", ".pt", ".safetensors")
# The networks whose weights torchvision is asked for, by preference.
BACKBONES = ("resnet18", "mobilenet_v3_large", "mobilenet_v3_small")
# Seconds for an answer of the server that has them: a machine without a network shall not wait.
_ANSWER_SECONDS = 3.0
# Bytes of a file of weights: smaller ones are other things, larger ones take long to try.
_LEAST_BYTES, _MOST_BYTES = 100_000, 1 << 30
_TRIED = 5


@dataclass(frozen=True)
class FirstWeights:
    """Weights for a network.

    network: by name, as a recipe has it.
    source: model.pretrained of a recipe.
    how: where they are, in words.
    megabytes: that have to be downloaded; 0 for those that are here.
    """

    network: str
    source: str
    how: str
    megabytes: float = 0.0


def local_weights(files: Sequence[Path], task: NetworkTask) -> list[FirstWeights]:
    """Weights that need no network: `files`, torch's cache, files of installed packages. Each is
    tried on its network."""
    found = [weights for file in files for weights in _fitting(file, task, f"the file {file.name}")]
    if found:
        return found
    found = [
        FirstWeights(network, "DEFAULT", "in torch's cache")
        for backbone, url in _urls()
        if _cached(url).is_file()
        for network in _networks_on(backbone, task)
    ]
    if task == "classification":
        found += list(_in_hub_cache())
    if found:
        return found
    installed = (
        weights
        for package, file in _installed_files()
        for weights in _fitting(file, task, f"a file of the package {package}")
    )
    return list(installed)


def downloadable_weights(task: NetworkTask) -> list[FirstWeights]:
    """torchvision's weights, where the server that has them answers within _ANSWER_SECONDS."""
    found: list[FirstWeights] = []
    for backbone, url in _urls():
        size = _bytes_there(url)
        if size is None:
            break
        how = f"torchvision's, {size / 1e6:.0f} MB"
        found += [
            FirstWeights(network, "DEFAULT", how, size / 1e6)
            for network in _networks_on(backbone, task)
        ]
    return found


def _urls() -> Iterator[tuple[str, str]]:
    for backbone in BACKBONES:
        yield backbone, str(torchvision_models.get_model_weights(backbone)["DEFAULT"].url)


def _cached(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _bytes_there(url: str) -> int | None:
    """The size of a file on a server; None where it does not answer."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            return int(answer.headers.get("Content-Length") or 0)
    except (OSError, HTTPException, ValueError, urllib.error.URLError):
        return None


def _in_hub_cache() -> Iterator[FirstWeights]:
    """timm's networks in the cache of the Hugging Face hub: models--timm--NAME/snapshots/COMMIT."""
    for folder in sorted(Path(HF_HUB_CACHE).glob("models--timm--*/snapshots/*")):
        network = TIMM + folder.parent.parent.name.removeprefix("models--timm--")
        try:
            check_weights(str(folder), network)
            build_model(network, 2)
        except (RecipeError, ValueError):
            continue
        yield FirstWeights(network, str(folder), "in the cache of the Hugging Face hub")


def _networks_on(backbone: str, task: NetworkTask) -> list[str]:
    names = (backbone, f"unet_{backbone}")
    return [name for name in names if name in MODELS and MODELS[name].task == task]


@functools.cache
def _installed_files() -> tuple[tuple[str, Path], ...]:
    """Files of weights in installed packages, with the package."""
    return tuple(
        (package.name, Path(str(package.locate_file(file))))
        for package in importlib.metadata.distributions()
        for file in package.files or ()
        if file.suffix in ENDINGS
    )


def _fitting(file: Path, task: NetworkTask, how: str) -> list[FirstWeights]:
    """The network that a file of weights is called after, where they fit it."""
    try:
        if not _LEAST_BYTES <= file.stat().st_size <= _MOST_BYTES:
            return []
    except OSError:
        return []
    for network in _called(file.stem, task)[:_TRIED]:
        try:
            load_weights(build_model(network, 2), str(file), network)
        except (RecipeError, ValueError):
            continue
        return [FirstWeights(network, str(file), how)]
    return []


def _called(stem: str, task: NetworkTask) -> list[str]:
    """The networks whose names, or those of their backbones, are part of a file's name; the longest
    first, ours before timm's."""
    bare = _bare(stem)
    names = [name for name, entry in MODELS.items() if entry.task == task]
    parts = {n: _bare(n.partition("_")[2] if task == "segmentation" else n) for n in names}
    if task == "classification":
        # Google's weights are timm's under another beginning: efficientnet_lite0.
        parts |= {TIMM + n: _bare(n.removeprefix("tf_")) for n in timm.list_models()}
    fitting = [name for name, part in parts.items() if part and part in bare]
    order = list(parts)
    return sorted(fitting, key=lambda name: (-len(parts[name]), order.index(name)))


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
