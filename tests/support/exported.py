"""Networks as others export them: any opset, layout, range, order of colours and number of outputs,
made of a network of ours so that their answers are known to be right."""

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Foreign:
    """The interface of a network.

    range, mean, std: of its input, in its order of colours.
    bgr: whether blue comes first.
    nhwc: whether the channels come last.
    uint8: whether it takes bytes.
    softmax: whether it answers with probabilities.
    features: whether it gives its pooled features too, as a first output.
    """

    range: int = 1
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    bgr: bool = False
    nhwc: bool = False
    uint8: bool = False
    softmax: bool = False
    features: bool = False


class _Foreign(nn.Module):
    """Turns its own input into that of `network`, which takes ImageNet's normalisation."""

    def __init__(self, network: nn.Module, kind: Foreign) -> None:
        super().__init__()
        self.network = network
        self.kind = kind
        own = Foreign()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (kind.mean, kind.std))
        wanted, spread = (torch.tensor(v).view(3, 1, 1) for v in (own.mean, own.std))
        if kind.bgr:
            wanted, spread = wanted.flip(0), spread.flip(0)
        # ((x * std + mean) / range - wanted) / spread
        self.register_buffer("scale", std / kind.range / spread)
        self.register_buffer("shift", (mean / kind.range - wanted) / spread)

    def forward(self, images: Tensor) -> Any:
        values = images.float() if self.kind.uint8 else images
        if self.kind.nhwc:
            values = values.permute(0, 3, 1, 2)
        values = values * self.scale + self.shift
        if self.kind.bgr:
            values = values.flip(1)
        answer = self.network(values)
        if self.kind.softmax:
            answer = answer.softmax(1)
        return (values.mean((2, 3)), answer) if self.kind.features else answer


def export_foreign(
    network: nn.Module,
    path: Path,
    side: int,
    kind: Foreign | None = None,
    *,
    opset: int = 17,
    batch: int | None = None,
    names: Sequence[str] = ("input", "output"),
) -> Path:
    """Writes a network with that interface by torch's exporter: its older one up to opset 17.

    `batch` fixes the batch; without it any is taken. A path that ends in .pt2 gets a program of
    torch.export.
    """
    kind = kind or Foreign()
    module = _Foreign(network, kind).eval()
    shape = (side, side, 3) if kind.nhwc else (3, side, side)
    example = torch.zeros(batch or 2, *shape, dtype=torch.uint8 if kind.uint8 else torch.float32)
    outputs = ["features", names[1]] if kind.features else [names[1]]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        dynamic = None if batch else ({0: torch.export.Dim("rows", min=1, max=4096)},)
        if path.suffix == ".pt2":
            torch.export.save(torch.export.export(module, (example,), dynamic_shapes=dynamic), path)
        elif opset > 17:
            torch.onnx.export(
                module, (example,), path, dynamo=True, external_data=False, opset_version=opset,
                input_names=[names[0]], output_names=outputs, dynamic_shapes=dynamic, verbose=False,
            )  # fmt: skip
        else:
            axes = None if batch else {name: {0: "rows"} for name in (names[0], *outputs)}
            torch.onnx.export(
                module, (example,), path, dynamo=False, opset_version=opset,
                input_names=[names[0]], output_names=outputs, dynamic_axes=axes,
            )  # fmt: skip
    return path
