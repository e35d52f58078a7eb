"""Weights of timm's networks: those that it offers, and how its files fit its networks."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models._hub import load_state_dict_from_hf
from torch import Tensor, nn

from training.recipes.timm_settings import timm_config

State = dict[str, Tensor]


@dataclass(frozen=True)
class TimmWeights:
    """Weights that timm offers.

    hub: repository of the Hugging Face hub, or empty.
    file: name of the file there, or empty for the usual one.
    url: address of the file where the hub has none.
    """

    hub: str
    file: str
    url: str

    def __str__(self) -> str:
        return f"{self.hub}/{self.file}".rstrip("/") if self.hub else self.url

    def download(self) -> State:
        """Raises OSError, RuntimeError or ValueError where they cannot be had."""
        if not self.hub:
            found = torch.hub.load_state_dict_from_url(
                self.url, map_location="cpu", progress=False, weights_only=True
            )
            return dict(found)
        chosen = {"filename": self.file} if self.file else {}
        return dict(load_state_dict_from_hf(self.hub, weights_only=True, **chosen))


def timm_weights(name: str, source: str) -> TimmWeights:
    """Weights of a network by the name of their tag, or by DEFAULT. ValueError where timm offers
    none of that name."""
    network, _, tag = name.partition(".")
    if source != "DEFAULT":
        tag = source
    config = timm_config(f"{network}.{tag}" if tag else network)
    if not config.has_weights:
        raise ValueError(f"timm offers no weights for {name}")
    return TimmWeights(config.hf_hub_id or "", config.hf_hub_filename or "", str(config.url or ""))


def hub_state(network: Any, state: State) -> State:
    """A state as timm's files hold it, under the names and in the shapes of `network`: positions
    are interpolated to another size of images, older names become those of today."""
    if state.keys() == network.state_dict().keys() and not hasattr(network, "pos_embed"):
        return state
    translate = _translation(network)
    return state if translate is None else dict(translate(dict(state), network))


def _translation(network: nn.Module) -> Callable[..., Any] | None:
    module = inspect.getmodule(type(network))
    names = ("checkpoint_filter_fn", "_filter_fn", "pretrained_filter_fn")
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


def encoder_state(encoder: nn.Module, state: State) -> tuple[State, list[str]]:
    """A state of timm's classifier under the names that its layers have in an encoder, where a
    prefix stands before them and the first points became underscores; and the keys of the layers
    that the encoder lacks."""
    by_letters = {key.replace(".", "_"): key for key in state}
    found: State = {}
    used = set[str]()
    for own in encoder.state_dict():
        source = next((by_letters[n] for n in _letters(own) if n in by_letters), None)
        if source is not None:
            found[own] = state[source]
            used.add(source)
    return found, [key for key in state if key not in used]


def _letters(key: str) -> Iterable[str]:
    """The key without its prefixes, the shortest prefix first."""
    parts = key.split(".")
    return ("_".join(parts[start:]) for start in range(1, min(3, len(parts))))
