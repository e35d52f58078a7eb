"""The network and its first weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serving.repository.interface import GivenInput, Meaning
from training.recipes.fields import Strict

Scalar = int | float | bool | str
Option = Scalar | list[Scalar | list[Scalar]]

TIMM = "timm/"
"""Begins the names of networks that timm makes."""

# The keys of which a recipe gives one: they say where the network comes from.
_ORIGINS = ("name", "factory", "onnx", "exported")
_FILES = ("onnx", "exported")
# The keys that suit some origins only.
_BELONGS = {
    "encoder": ("name",),
    "folder": ("factory",),
    "output": ("factory", *_FILES),
    "input": _FILES,
    "holds": _FILES,
    "options": ("name", "factory"),
    "init": ("name", "factory"),
    "pretrained": ("name", "factory"),
}


class ModelChoice(Strict):
    """The network and its first weights; one of name, factory, onnx and exported.

    name: from `convserve build --list-networks`; timm/NAME for a network of timm; with `encoder`
        the decoder: unet, fpn, pspnet, deeplabv3plus or fcn.
    encoder: timm/NAME of the network under a segmentation decoder.
    factory: package.module:function that makes the user's own network, from `folder` or an
        installed package. It is called with the options, and with num_classes where it takes that.
    folder: where the module of `factory` is looked for first; the recipe's folder where it is left
        out.
    onnx: an ONNX file of a trained network, which is compressed and published as it is.
    exported: likewise a program that torch.export.save wrote (.pt2). Take your own only: reading
        one may run code of its author.
    input: how an image becomes the file's input. The file tells some of it; keys that are left out
        are found by trying the usual ways on validation images, and shown.
    output: name, or index, of the answer among several of a factory's network or of a file.
    holds: meaning of the file's output; "classes" is the class of each pixel. Its values tell it
        where it is left out.
    options: arguments of this network.
    init: initial weights of convolutions and linear layers: "default" is the network's own way,
        "xavier" Glorot & Bengio 2010, "kaiming" He et al. (arXiv 1502.01852).
    pretrained: first weights from a state_dict (.pth, .safetensors), a folder of the Hugging Face
        hub for networks of timm, a run folder, or torchvision or timm by name, such as DEFAULT;
        random without it.
    classes: a file with the classes of the network's answer in their order, one a line. The data
        may show a part of them; without it they are the data's.
    """

    name: str | None = None
    encoder: Annotated[str, Field(pattern=r"^timm/.+$")] | None = None
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    folder: Path | None = None
    onnx: Path | None = None
    exported: Path | None = None
    input: GivenInput | None = None
    output: str | int | None = None
    holds: Meaning | None = None
    options: Mapping[str, Option] = {}
    init: Literal["default", "xavier", "kaiming"] = "default"
    pretrained: str | None = None
    classes: Path | None = None

    @property
    def file(self) -> Path | None:
        """The file that the network comes as, which no code of a network belongs to."""
        return self.onnx or self.exported

    @property
    def architecture(self) -> str:
        """The network in one word, for people, manifests and `build_model`: resnet18,
        timm/resnet18, unet_timm/resnet18, mine.nets:small, mine.nets:small#logits, net.onnx."""
        if self.file is not None:
            return self.file.name
        if self.factory is not None:
            return self.factory if self.output is None else f"{self.factory}#{self.output}"
        assert self.name is not None  # one of _ORIGINS is given
        return self.name if self.encoder is None else f"{self.name}_{self.encoder}"

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelChoice":
        given = [key for key in _ORIGINS if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of {', '.join(_ORIGINS)}; got {' and '.join(given) or 'none'}"
            )
        for key, owners in _BELONGS.items():
            # A recipe that a run folder keeps has every key, most with their default.
            told = getattr(self, key) != type(self).model_fields[key].default
            if told and given[0] not in owners:
                raise ValueError(f"{key}: belongs to {' or '.join(owners)}, got {given[0]}")
        return self
