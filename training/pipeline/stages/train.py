"""The stage that trains the recipe's network."""

from training.fitting import distributed
from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted, chosen_precision
from training.models.weights import weights_fingerprint
from training.pipeline.fine_tuning import fine_tune, network_results, new_network
from training.pipeline.stage import Stage


def fitted(current: Build) -> Fitted:
    """The network after training, in as many processes as torchrun started."""
    network, processes = new_network(current), distributed.processes()
    return fine_tune(current, "train", network, current.recipe.train, processes=processes)


def work(current: Build) -> Results:
    return network_results(current, "train", fitted(current))


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
    facts=lambda build: [
        weights_fingerprint(build.recipe.model),
        chosen_precision(build.recipe.train.precision),
    ],
    work=work,
)
