"""The networks that a recipe can name: the list for people, and the check of one recipe."""

from typing import Any

import torch

from training.errors import RecipeError
from training.models import (
    MODELS,
    STEPS,
    build_model,
    check_input_size,
    count_macs,
    count_parameters,
    drop_auxiliary_heads,
    unsupported_steps,
)
from training.models.weights import check_weights
from training.recipes import Recipe
from training.recipes.tasks import TRAINED_TASKS, NetworkTask

# The size of a head depends on the classes; papers count with those of ImageNet and Pascal VOC.
_CLASSES: dict[NetworkTask, int] = {"classification": 1000, "segmentation": 21}


def networks() -> list[dict[str, Any]]:
    """One row a network: name, task, input size it was designed for, parameters and GMACs at that
    size with 1,000 classes (segmentation 21) and without heads that only help training, the source
    of its paper, options, and the word of the tests on each step (prune, int8, the engines)."""
    rows = []
    for name, entry in MODELS.items():
        # Without memory for weights: VGG-16 alone would take half a gigabyte.
        with torch.device("meta"):
            network = build_model(name, _CLASSES[entry.task])
        drop_auxiliary_heads(network)
        rows.append(
            {
                "name": name,
                "task": entry.task,
                "input_size": list(entry.input_size),
                "parameters": count_parameters(network),
                "gmacs": round(count_macs(network, entry.input_size) / 1e9, 3),
                "paper": entry.paper if ":" in entry.paper else f"arXiv {entry.paper}",
                "options": list(entry.options),
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
    its size and every step it asks for, or where the weights to begin with are nowhere."""
    name, options = recipe.model.architecture, recipe.model.options
    try:
        # Without memory for weights: only the structure is tried.
        with torch.device("meta"):
            build_model(name, 2, channels=recipe.transform.channels, **options)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"model: {error}") from error
    wanted = TRAINED_TASKS[recipe.task].networks
    if MODELS[name].task != wanted:
        fitting = [key for key, entry in MODELS.items() if entry.task == wanted]
        raise RecipeError(
            f"model.name: {name} does {MODELS[name].task}, the recipe's task is {recipe.task}; "
            f"networks for it: {', '.join(fitting)}"
        )
    try:
        check_input_size(name, recipe.transform.size, **options)
    except ValueError as error:
        raise RecipeError(f"transform: {error}") from error
    asked = {"prune": recipe.prune is not None, "int8": recipe.quantize is not None}
    for step, reason in unsupported_steps(name, **options).items():
        # Every build exports for every engine.
        if asked.get(step, True):
            raise RecipeError(f"model.name: {name} does not support {step}: {reason}")
    if recipe.model.pretrained is not None:
        check_weights(recipe.model.pretrained, name)
    elif recipe.train is None:
        raise RecipeError(
            "train: none needs a trained network: give model.pretrained, a file of weights or a "
            "run folder"
        )
