"""The stage that trains the recipe's network, or takes it as its weights, or a file, make it."""

from serving.base.files import sha256
from training.data.class_names import read_class_names
from training.fitting import distributed
from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted, chosen_precision
from training.models.factory import factory_fingerprint
from training.models.files.source import file_fingerprint
from training.models.weights import weights_fingerprint
from training.pipeline.file_network import take_file
from training.pipeline.fine_tuning import (
    fine_tune,
    network_results,
    new_network,
    require_exportable,
)
from training.pipeline.stage import Stage
from training.recipes.model import ModelChoice


def fitted(current: Build) -> Fitted:
    """The network after training, in as many processes as torchrun started."""
    network, config = new_network(current), current.recipe.train
    if config is None:
        return Fitted(network.eval(), [], "fp32")
    if distributed.rank() == 0:
        require_exportable(current, network)
    return fine_tune(current, "train", network, config, processes=distributed.processes())


def work(current: Build) -> Results:
    if current.recipe.model.file is not None:
        return take_file(current)
    return network_results(current, "train", fitted(current))


def _facts(current: Build) -> object:
    config, choice = current.recipe.train, current.recipe.model
    return [
        _weights(choice),
        factory_fingerprint(choice),
        chosen_precision(config.precision) if config is not None else None,
        read_class_names(choice.classes) if choice.classes is not None else None,
    ]


def _weights(choice: ModelChoice) -> str | None:
    if choice.onnx is not None:
        return file_fingerprint(choice.onnx)
    return weights_fingerprint(choice) if choice.exported is None else sha256(choice.exported)


STAGE = Stage(
    "train",
    sections=(
        "seed",
        "normalization",
        "augment",
        "model",
        "embedding_size",
        "train",
    ),
    facts=_facts,
    work=work,
)
