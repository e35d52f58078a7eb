"""The stage that trains the recipe's network, or takes it as its weights make it."""

from training.data.class_names import read_class_names
from training.fitting import distributed
from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted, chosen_precision
from training.models.factory import factory_fingerprint
from training.models.weights import weights_fingerprint
from training.pipeline.fine_tuning import (
    fine_tune,
    network_results,
    new_network,
    require_exportable,
)
from training.pipeline.stage import Stage


def fitted(current: Build) -> Fitted:
    """The network after training, in as many processes as torchrun started."""
    network, config = new_network(current), current.recipe.train
    if config is None:
        return Fitted(network.eval(), [], "fp32")
    if distributed.rank() == 0:
        require_exportable(current, network)
    return fine_tune(current, "train", network, config, processes=distributed.processes())


def work(current: Build) -> Results:
    return network_results(current, "train", fitted(current))


def _facts(current: Build) -> object:
    config, classes = current.recipe.train, current.recipe.model.classes
    return [
        weights_fingerprint(current.recipe.model),
        factory_fingerprint(current.recipe.model),
        chosen_precision(config.precision) if config is not None else None,
        read_class_names(classes) if classes is not None else None,
    ]


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
