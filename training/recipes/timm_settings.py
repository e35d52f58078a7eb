"""Networks of timm as a recipe sees them: their names, and the sections that their own pretrained
configuration fills in where the recipe leaves them out.

timm, and torch with it, is imported only for recipes that name one of its networks.
"""

import difflib
import json
import logging
import math
from functools import cache
from pathlib import Path
from typing import Any

from serving.base.files import read_file
from training.errors import RecipeError
from training.recipes.model import TIMM

log = logging.getLogger(__name__)

HUB_CONFIG = "config.json"
"""Describes the network of a folder in the layout of the Hugging Face hub."""

_SHOWN = 3
# The largest stride of an encoder.
_STRIDE = 32


def timm_config(name: str) -> Any:
    """timm's PretrainedCfg of a network, named as resnet18 or with the tag of its weights as
    resnet18.a1_in1k. ValueError, with the nearest names, where there is none."""
    from timm import is_model, list_models
    from timm.models import get_pretrained_cfg
    from timm.models._registry import get_arch_pretrained_cfgs

    network, _, tag = name.partition(".")
    if not is_model(network):
        near = difflib.get_close_matches(network, list_models(), n=_SHOWN, cutoff=0.4)
        hint = f"; did you mean {' or '.join(TIMM + one for one in near)}?" if near else ""
        raise ValueError(f"timm has no network {network!r}{hint}")
    if tag and name not in (known := get_arch_pretrained_cfgs(network)):
        raise ValueError(
            f"timm has no weights {tag!r} of {network}; it has: "
            f"{', '.join(one.partition('.')[2] for one in known) or 'none'}"
        )
    return get_pretrained_cfg(name)


def with_timm_settings(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a recipe whose network, or encoder, is timm's, with the transform, the
    normalisation and, for networks of one fixed size, the option img_size that it leaves out."""
    model = document.get("model")
    if not isinstance(model, dict):
        return document
    named = model.get("encoder") or model.get("name")
    if not isinstance(named, str) or not named.startswith(TIMM):
        return document
    try:
        config = timm_config(named.removeprefix(TIMM)).to_dict()
        config |= _hub_settings(model.get("pretrained"), named)
        filled = _with_options(_filled(document, config), config)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"model: {error}") from error
    _tell(named, json.dumps({key: filled[key] for key in ("transform", "normalization")}))
    return filled


def _filled(document: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    own = document.get("transform") or {}
    given = document.get("normalization") or {}
    if not isinstance(own, dict) or not isinstance(given, dict):
        return {"transform": own, "normalization": given, **document}
    filters = {"bicubic": "bicubic", "bilinear": "bilinear"}
    transform = {"filter": filters.get(config.get("interpolation", ""), "bicubic")}
    if "resize" not in own:
        transform |= _resize(config, whole="encoder" in (document.get("model") or {}))
    filled = {**document, "transform": transform | own, "normalization": given}
    if own.get("channels") != 1:  # whose values are not a network's of RGB
        for key in ("mean", "std"):
            given = {key: [float(value) for value in config[key]], **given}
        filled["normalization"] = given
    return filled


def _resize(config: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """As timm evaluates; `whole` images, for masks, are stretched to the network's size."""
    _, height, width = config["input_size"]
    if whole:
        return {"resize": [height, width]}
    scaled = [math.floor(side / config.get("crop_pct", 1.0)) for side in (height, width)]
    mode = config.get("crop_mode", "center")
    if mode == "squash":
        return {"resize": scaled, "crop": [height, width]}
    if mode == "center" and height == width:
        return {"resize": scaled[0], "crop": [height, width]}
    raise ValueError(
        f"timm resizes its images as {mode!r} to {height}x{width}, which is not offered here; "
        "give transform in the recipe"
    )


def _with_options(document: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """With the options that a hub folder names, and img_size: networks with a learned value for
    each place are built for one size."""
    model, transform = document["model"], document["transform"]
    own = model.get("options") or {}
    if not isinstance(own, dict) or not isinstance(transform, dict):
        return document
    options = {**config.get("model_args", {}), **own}
    size = transform.get("crop") or transform.get("resize")
    if "encoder" in model and isinstance(size, list | tuple):
        # Decoders pad an image to whole strides of the encoder.
        size = [-(-int(side) // _STRIDE) * _STRIDE for side in size]
    other = isinstance(size, list | tuple) and [*size] != [*config["input_size"][1:]]
    if config.get("fixed_input_size") and other:
        options.setdefault("img_size", size)
    return {**document, "model": {**model, "options": options}}


def _hub_settings(pretrained: object, named: str) -> dict[str, Any]:
    """The settings of a hub folder's weights, which may differ from those of timm's own."""
    if not isinstance(pretrained, str) or not (file := Path(pretrained) / HUB_CONFIG).is_file():
        return {}
    try:
        content = json.loads(read_file(file))
        architecture, settings = content["architecture"], content.get("pretrained_cfg") or {}
        arguments = dict(content.get("model_args") or {})
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        said = getattr(error, "strerror", None) or error
        raise ValueError(f"pretrained: {file} is no configuration of timm: {said}") from error
    if architecture != named.removeprefix(TIMM).partition(".")[0]:
        raise ValueError(
            f"pretrained: {pretrained} holds {str(architecture)[:60]}, the recipe names {named}"
        )
    known = ("mean", "std", "input_size", "interpolation", "crop_pct", "crop_mode")
    return {"model_args": arguments, **{key: settings[key] for key in known if key in settings}}


@cache  # once, however often a study reads the recipe
def _tell(named: str, settings: str) -> None:
    log.info("%s: %s", named, settings)
