"""The stage that trains a student from a teacher, and measures the gain."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from training.compress.distill import Distillation
from training.errors import RecipeError
from training.evaluation.report.tables import percent
from training.evaluation.validation_trial import Trial
from training.fitting.build import Build
from training.fitting.objective import build_objective
from training.fitting.stage_folder import Results
from training.fitting.train import chosen_precision
from training.models import input_channels
from training.models.checkpoint import NETWORK_FILE, load_network, other_version
from training.models.factory import factory_fingerprint
from training.models.networks import check_choice
from training.models.weights import load_weights, weights_fingerprint
from training.pipeline.fine_tuning import built, fine_tune, network_results, new_network
from training.pipeline.stage import Stage
from training.recipes import Recipe
from training.recipes.compress import Distill, Teacher

# The last of these that a run has is its best trained one.
_TRAINING_STAGES = ("distill", "train")


def work(current: Build) -> Results:
    """Trains the recipe's network anew, from the same first weights and for as long as the train
    stage did unless the recipe says otherwise, now from a teacher as well."""
    config = _section(current)
    student = new_network(current)
    teacher = load_teacher(current, config.teacher)
    supervised = build_objective(
        student, config.train, current.data.train, current.loss_classes, current.data.ignore_index
    )
    _check_answers(current, student, teacher)
    objective = Distillation(
        supervised,
        teacher,
        config.temperature,
        config.weight,
        embedding=current.recipe.task == "embedding",
    )
    fitted = fine_tune(current, "distill", student, config.train, objective=objective)
    results = network_results(current, "distill", fitted)
    return results | _worth(current, fitted.network, teacher)


def _facts(current: Build) -> object:
    config = _section(current)
    return [_teacher_fingerprint(config.teacher), chosen_precision(config.train.precision)]


def _section(current: Build) -> Distill:
    config = current.recipe.distill
    if config is None:
        raise ValueError("the recipe has no distill section")
    return config


def _teacher_fingerprint(teacher: Teacher) -> object:
    """Changes when the teacher's weights or code do."""
    if teacher.network is not None:
        return [weights_fingerprint(teacher.network), factory_fingerprint(teacher.network)]
    return hashlib.sha256(teacher_file(teacher).read_bytes()).hexdigest()


def teacher_file(teacher: Teacher) -> Path:
    """The trained network of the run that is the teacher. Raises RecipeError where it has none."""
    run = teacher.run
    if run is None:
        raise ValueError("the teacher is no run")
    for stage in _TRAINING_STAGES:
        if other_version(run / stage):
            raise RecipeError(
                f"distill.teacher.run: {run} was built by another version of convserve; build it "
                "again"
            )
        if (run / stage / NETWORK_FILE).is_file():
            return run / stage / NETWORK_FILE
    raise RecipeError(
        f"distill.teacher.run: {run} holds no trained network "
        f"({' or '.join(f'{stage}/{NETWORK_FILE}' for stage in _TRAINING_STAGES)})"
    )


def load_teacher(current: Build, config: Teacher) -> nn.Module:
    """The teacher, in evaluation mode. Raises RecipeError where it cannot be had."""
    choice = config.network
    if choice is None or choice.pretrained is None:
        return load_network(teacher_file(config))
    try:
        network = built(current, choice)
    except RecipeError as error:
        raise RecipeError(f"distill.teacher.network: {error}") from error
    load_weights(network, choice.pretrained, choice.architecture)
    return network.eval()


def _check_answers(current: Build, student: nn.Module, teacher: nn.Module) -> None:
    images, _ = current.data.val.batch([0])
    with torch.no_grad():
        shown = current.deployed(student).normalized(torch.from_numpy(images))
        wanted, got = (list(network.eval()(shown).shape[1:]) for network in (student, teacher))
    if wanted != got:
        raise RecipeError(
            f"distill.teacher: answers with {got} values an image, the student with {wanted}; they "
            "must be trained on the same classes"
        )


def _worth(current: Build, distilled: nn.Module, teacher: nn.Module) -> Results:
    """Compares the student alone with the student distilled, on the test images: nothing is chosen
    by them."""
    trial = Trial(current, len(current.data.test), current.data.test)
    alone = trial.network(load_network(current.stage_folder("train") / NETWORK_FILE))
    taught = trial.network(distilled)
    gain = trial.compare(taught, alone).drop
    said = (
        f"student alone {percent(trial.compare(alone, alone).accuracy)}, "
        f"distilled {percent(trial.compare(alone, taught).accuracy)}, "
        f"gain {percent(gain)} points, "
        f"teacher {percent(trial.compare(alone, trial.network(teacher)).accuracy)}, n={gain.n}"
    )
    return {"gain": gain.model_dump(), "notes": {"on test images": said}}


def _check(recipe: Recipe) -> None:
    teacher = recipe.distill.teacher if recipe.distill is not None else None
    if teacher is not None and teacher.run is not None:
        taken = input_channels(load_network(teacher_file(teacher)))
        if taken != recipe.transform.channels:
            raise RecipeError(
                f"distill.teacher.run: {teacher.run} takes images of {taken} channels, the student "
                f"of {recipe.transform.channels} (transform.channels); both must see the same"
            )
    if teacher is not None and teacher.network is not None:
        try:
            check_choice(recipe, teacher.network)
        except RecipeError as error:
            raise RecipeError(f"distill.teacher.network: {error}") from error


STAGE = Stage(
    "distill",
    sections=("distill",),
    facts=_facts,
    check=_check,
    work=work,
    optional=True,
)
