"""The facts of a network that are known before it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from training.recipes.tasks import NetworkTask

Step = Literal["prune", "int8", "onnxruntime", "openvino"]
"""The steps of a build that a network may refuse: losing channels, INT8, export to each engine."""

STEPS: tuple[Step, ...] = ("prune", "int8", "onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One network that can be built: untrained, float32, [N, 3, H, W] in, logits out;
    `build_model` makes it one of [N, 1, H, W] for grey images.

    In evaluation mode the answer is one tensor: [N, classes] for classification, [N, classes, H, W]
    of the input's H and W for segmentation. In training mode it may be a tuple (logits, auxiliary
    logits, ...), each shaped like the logits, of heads that only help training;
    `drop_auxiliary_heads` takes them off.

    `build` is called with `num_classes` and the options, all by keyword; num_classes 1 is a binary
    segmentation, or an embedding of one value. The layers that answer are convolutions or linear
    layers without an activation behind them.
    `input_size` is the (height, width) that the network was designed for; others work too from
    `smallest_side` on, unless the option `image_size` fixes it.
    `paper` is an arXiv id, or a DOI; `options` are the names that `build_model` passes on.
    `options` None leaves the check of options to `build`, and `task` None fits every task.
    `on_meta` says whether the network can be built on the meta device and its buffers filled from
    a file alone.
    `unsupported` holds the steps that the network cannot take, with the reason: recipes that ask
    for them are refused. `tested_as` names the networks of the same blocks whose tests stand for
    this one in `make test`; where it is empty, this one is tried there.
    """

    build: Callable[..., nn.Module]
    task: NetworkTask | None
    input_size: tuple[int, int]
    paper: str
    options: tuple[str, ...] | None = ()
    smallest_side: int = 1
    on_meta: bool = True
    unsupported: Mapping[Step, str] = field(default_factory=dict)
    tested_as: tuple[str, ...] = ()
