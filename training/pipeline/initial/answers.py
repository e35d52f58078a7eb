"""What a person decides, by a flag, an answer on the terminal or a default."""

from dataclasses import dataclass

from serving.base.task import Task
from training.pipeline.initial.found.first_weights import FirstWeights


@dataclass(frozen=True)
class Answers:
    """Decisions that no file can tell.

    task: of the recipe.
    minutes: for all stages of the build, on this machine.
    mirrors: a mirrored image is still what its label says.
    side: (height, width) that the network shall see; None: chosen.
    network: by name; None: chosen.
    weights: first weights that may be used.
    """

    task: Task
    minutes: float
    mirrors: bool
    side: tuple[int, int] | None = None
    network: str | None = None
    weights: tuple[FirstWeights, ...] = ()
