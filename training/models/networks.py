"""The networks that a recipe can name: the list for people, and the check of one recipe."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import RecipeError
from training.models import (
    MODELS,
    STEPS,
    build_model,
    check_input_size,
    count_macs,
    count_parameters,
    drop_auxiliary_heads,
    entry_of,
    input_channels,
    structure_of,
    unsupported_steps,
)
from training.models.factory import register_factory, user_code_of
from training.models.files.source import check_file
from training.models.weights import check_weights
from training.recipes import Recipe
from training.recipes.model import ModelChoice
from training.recipes.tasks import TRAINED_TASKS, NetworkTask

# The size of a head depends on the classes; papers count with those of ImageNet and Pascal VOC.
_CLASSES: dict[NetworkTask, int] = {"classification": 1000, "segmentation": 21}
# Classes of a network that is only tried; the data's are not known yet.
_FEW = 2
# Characters of an answer's shapes in a message.
_TOLD = 200


def networks() -> list[dict[str, Any]]:
    """One row a network: name, task, input size it was designed for, parameters and GMACs at that
    size with 1,000 classes (segmentation 21) and without heads that only help training, the source
    of its paper, options, and the word of the tests on each step (prune, int8, the engines)."""
    rows = []
    for name, entry in MODELS.items():
        # Without memory for weights: VGG-16 alone would take half a gigabyte.
        with torch.device("meta"):
            network = build_model(name, _CLASSES[entry.task or "classification"])
        drop_auxiliary_heads(network)
        rows.append(
            {
                "name": name,
                "task": entry.task,
                "input_size": list(entry.input_size),
                "parameters": count_parameters(network),
                "gmacs": round(count_macs(network, entry.input_size) / 1e9, 3),
                "paper": entry.paper if ":" in entry.paper else f"arXiv {entry.paper}",
                "options": list(entry.options or ()),
                "tests": coverage(name),
            }
        )
    return rows


def coverage(name: str) -> dict[str, str]:
    """By step, whether the tests try it on this network itself ("tested"), on others of the
    same blocks ("as NAME"), or the recipe refuses it ("refused: REASON")."""
    entry = MODELS[name]
    tried = f"as {' and '.join(entry.tested_as)}" if entry.tested_as else "tested"
    return {
        step: f"refused: {entry.unsupported[step]}" if step in entry.unsupported else tried
        for step in STEPS
    }


def check_network(recipe: Recipe) -> None:
    """Raises RecipeError where no network has the recipe's name, task and options, takes images of
    its size, answers as its task does and takes every step it asks for, or where the weights to
    begin with are nowhere; ExportError where a network's file is too large."""
    if recipe.model.file is not None:
        check_file(recipe.model.file)
        return
    check_choice(recipe, recipe.model)
    name, options = recipe.model.architecture, recipe.model.options
    asked = {"prune": recipe.prune is not None, "int8": recipe.quantize is not None}
    for step, reason in unsupported_steps(name, **options).items():
        # Every build exports for every engine.
        if asked.get(step, True):
            raise RecipeError(f"model: {name} does not support {step}: {reason}")
    weightless = recipe.model.pretrained is None and recipe.model.factory is None
    if weightless and recipe.train is None:
        raise RecipeError(
            "train: none needs a trained network: give model.pretrained, a file of weights or a "
            "run folder"
        )


def check_choice(recipe: Recipe, choice: ModelChoice) -> None:
    """Raises RecipeError, without the key of `choice` in the recipe, where it is no network for
    the recipe's task and images, or its weights are nowhere."""
    register_factory(choice)
    name, options = choice.architecture, choice.options
    try:
        entry = entry_of(name)
        network = structure_of(name, _FEW, channels=recipe.transform.channels, **options)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"model: {error}") from error
    wanted = TRAINED_TASKS[recipe.task].networks
    if entry.task not in (wanted, None):
        fitting = [key for key, other in MODELS.items() if other.task == wanted]
        raise RecipeError(
            f"model.name: {name} does {entry.task}, the recipe's task is {recipe.task}; "
            f"networks for it: {', '.join(fitting)}"
        )
    try:
        check_input_size(name, recipe.transform.size, **options)
    except ValueError as error:
        raise RecipeError(f"transform: {error}") from error
    if not entry.on_meta:
        # The number of classes is held against the data's, once they are known.
        check_answers(network, choice, wanted, None, recipe.transform.size)
        if recipe.train is not None and not any(p.requires_grad for p in network.parameters()):
            raise RecipeError(
                f"model: {name} has no parameters that training could change; train: none takes a "
                "network as it is"
            )
    if choice.pretrained is not None:
        check_weights(choice.pretrained, name)


def check_answers(
    network: nn.Module,
    choice: ModelChoice,
    task: NetworkTask,
    channels: int | None,
    size: tuple[int, int],
) -> None:
    """Shows a network two black images of `size`, in evaluation and in training mode; with
    `channels` None any number of values is right. Raises RecipeError with the shape that came and
    the one that was expected, and for an error of its own code."""
    network = copy.deepcopy(network)  # statistics of batch norms change in training mode
    height, width = size
    image = torch.zeros(2, input_channels(network), height, width)
    space = f", {height}, {width}" if task == "segmentation" else ""
    expected = f"[2, {'C' if channels is None else channels}{space}]"

    def fits(answer: object) -> bool:
        return (
            isinstance(answer, Tensor)
            and answer.dtype == torch.float32
            and answer.ndim > 1
            and answer.shape[:1] + answer.shape[2:] == torch.Size([2, *(size if space else ())])
            and (channels is None or answer.shape[1] == channels)
        )

    for training in (False, True):
        network.train(training)
        try:
            with torch.no_grad(), user_code_of(choice):
                answer = network(image)
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise RecipeError(
                f"model: {choice.architecture} does not take images of {height}x{width}: {said}"
            ) from error
        # Heads that only help training answer beside the network's own.
        parts = answer if training and isinstance(answer, tuple) and answer else (answer,)
        if not all(fits(part) for part in parts):
            mode = "in training " if training else ""
            hint = "" if isinstance(answer, Tensor) else "; name one of them by model.output"
            raise RecipeError(
                f"model: {choice.architecture} answers {mode}two images of {height}x{width} with "
                f"{_shape(answer)}; expected float32 {expected}{hint}"
            )


def _shape(answer: object) -> str:
    """The shapes of an answer, of whatever kind, at most _TOLD characters."""
    if isinstance(answer, Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    if isinstance(answer, Mapping):
        text = ", ".join(f"{key}: {_shape(value)}" for key, value in answer.items())
        return f"{{{text}}}"[:_TOLD]
    if isinstance(answer, tuple | list):
        return f"({', '.join(map(_shape, answer))})"[:_TOLD]
    return type(answer).__name__
