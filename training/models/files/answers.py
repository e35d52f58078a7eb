"""The answer of a file among its outputs, its meaning, and the outputs of our tasks made of it."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serving.base.task import PROBABILITY_OUTPUT, TASKS, Task
from serving.base.tensor import Array
from serving.repository.interface import Axes, Meaning
from training.errors import ExportError
from training.models.export.deployed import LAST_STEPS, output_specs
from training.models.files.description import Description

# Below it a probability counts as this much: 0 has no logarithm.
LEAST_PROBABILITY = 1e-30
# Distance from 1 that the sum of an image's, or a pixel's, probabilities may have.
_ROUNDING = 1e-3
_MASK_LEVEL = 255


def chosen_output(
    given: str | int | None, found: dict[str, Array], task: Task, channels: int, named: str
) -> str:
    """The name of the output that is the answer, by the arrays of one run. Raises ExportError,
    beginning with `named`, where several could be it, or none."""
    names = list(found)
    shown = ", ".join(f"{name} {list(values.shape)}" for name, values in found.items())
    if isinstance(given, int) and -len(names) <= given < len(names):
        return names[given]
    if given is not None:
        if given not in found:
            raise ExportError(f"{named}: model.output: {given!r} is none of {shown}")
        return str(given)
    fitting = [name for name, values in found.items() if _fits(values, task, channels)]
    if len(names) == 1 or len(fitting) == 1:
        return (fitting or names)[0]
    raise ExportError(f"{named}: model.output: name the answer, one of {shown}")


def _fits(values: Array, task: Task, channels: int) -> bool:
    if task != "segmentation":
        return values.ndim >= 2 and values[0].size == channels
    if values.ndim == 4:
        return bool({channels, 1} & {values.shape[1], values.shape[3]})
    return values.ndim == 3


def meaning(values: Array, task: Task, channels: int, named: str) -> tuple[Meaning, Axes]:
    """The meaning of an answer to several images, as far as its values tell it, and the place of
    its classes among its axes. Raises ExportError where it is no answer to so many classes."""
    shape = list(values.shape)
    if task != "segmentation":
        if values.ndim < 2 or values[0].size != channels:
            raise ExportError(f"{named}: {_wrong_number(shape, task, channels)}")
        if task == "embedding":
            return "embedding", "NCHW"
        probable = _is_probable(values.reshape(len(values), -1), 1)
        return ("probabilities" if probable else "logits"), "NCHW"
    if values.ndim == 3 or (values.ndim == 4 and channels > 1 and 1 in (shape[1], shape[3])):
        return "classes", "NHWC" if values.ndim == 4 and shape[1] != 1 else "NCHW"
    last = values.ndim == 4 and shape[1] != channels and shape[3] == channels
    if values.ndim != 4 or (not last and shape[1] != channels):
        raise ExportError(f"{named}: {_wrong_number(shape, task, channels)}")
    axes: Axes = "NHWC" if last else "NCHW"
    if values.dtype.kind in "iub":
        return "classes", axes
    probable = _is_probable(values, 3 if last else 1)
    return ("probabilities" if probable else "logits"), axes


def _wrong_number(shape: list[int], task: Task, channels: int) -> str:
    if task == "embedding":
        return f"answers with {shape}, and embedding_size is {channels}"
    if task == "segmentation":
        return (
            f"answers with {shape}; expected [N, {channels}, H, W] for {channels} classes of the "
            "data, or a mask [N, H, W]; model.classes may name a file with the classes of the "
            "network, of which the data show some"
        )
    return (
        f"answers with {shape}, and the data have {channels} classes; model.classes may name a "
        "file with the classes of the network, one a line, of which the data show some"
    )


def _is_probable(values: Array, axis: int) -> bool:
    if values.dtype.kind != "f" or values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
        return False
    return values.shape[axis] == 1 or bool(
        np.allclose(values.astype(np.float32).sum(axis=axis), 1, atol=_ROUNDING)
    )


def finished(
    values: Array, description: Description, task: Task, channels: int, size: tuple[int, int]
) -> dict[str, Array]:
    """The outputs of output_specs, of a file's answer to N images."""
    names = [spec.name for spec in output_specs(task, channels, size)]
    answer = torch.from_numpy(values)
    if description.answer.holds == "classes":
        outputs = _of_mask(answer, description, size, names)
    else:
        outputs = LAST_STEPS[task].apply(_logits(answer, description, task, size))
    return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


def _logits(answer: Tensor, description: Description, task: Task, size: tuple[int, int]) -> Tensor:
    answer = answer.float()
    if task != "segmentation":
        answer = answer.flatten(1)
    elif description.answer.layout == "NHWC":
        answer = answer.permute(0, 3, 1, 2)
    if description.answer.holds == "probabilities":
        likely = answer.clamp(min=LEAST_PROBABILITY).log()
        # A single probability is that of one of two classes.
        rest = (1 - answer).clamp(min=LEAST_PROBABILITY).log() if answer.shape[1] == 1 else 0
        answer = likely - rest
    if task == "segmentation" and answer.shape[2:] != size:
        answer = functional.interpolate(answer, size, mode="bilinear", align_corners=False)
    return answer


def _of_mask(
    answer: Tensor, description: Description, size: tuple[int, int], names: list[str]
) -> tuple[Tensor, ...]:
    if answer.ndim == 4:
        answer = answer.squeeze(3 if description.answer.layout == "NHWC" else 1)
    mask = answer.float()
    if mask.shape[1:] != size:
        mask = functional.interpolate(mask[:, None], size, mode="nearest").squeeze(1)
    if names == [PROBABILITY_OUTPUT]:
        return ((mask.clamp(max=1) * _MASK_LEVEL).to(torch.uint8),)
    sure = torch.full_like(mask, _MASK_LEVEL)
    assert names[0] == TASKS["segmentation"].output
    return mask.to(torch.uint8), sure.to(torch.uint8)
