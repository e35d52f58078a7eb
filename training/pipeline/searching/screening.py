"""Looks at pruned networks before any fine-tuning: how fast they will be, which does not depend on
their weights, and how accurate they are already, which tells how much pruning they bear."""

import logging
import math
import tempfile
from pathlib import Path

from torch import nn

from serving.base.errors import EngineUnavailable
from training.errors import ExportError
from training.evaluation.accuracy import accuracy_of
from training.evaluation.searched import Point
from training.evaluation.validation_trial import Trial
from training.fitting.batch_norm import re_estimate
from training.fitting.build import Build
from training.models import count_macs, count_parameters, drop_auxiliary_heads
from training.models.checkpoint import load_network
from training.pipeline.fine_tuning import built
from training.pipeline.searching.laboratory import Laboratory
from training.pipeline.searching.space import Space
from training.pipeline.stages.prune import block_orders, normalized, pruned_once, write_timed

log = logging.getLogger(__name__)

# Images for accuracy, and for the statistics of batch norms. They rank candidates, and decide
# nothing else.
_IMAGES = 512
_STATISTICS = 256

Structure = tuple[int, int]
"""Multiply-accumulates and parameters: points of one network that share both are one network."""

_OF_A_FILE: Structure = (0, 0)


class Screening:
    """Answers are kept: points of one structure are measured once."""

    def __init__(self, space: Space, laboratory: Laboratory) -> None:
        self._space = space
        self._laboratory = laboratory
        self._structures: dict[Point, Structure] = {}
        self._latencies: dict[tuple[str, Structure, str], list[float]] = {}
        self._accuracies: dict[tuple[str, Structure], float] = {}
        self._refusals: dict[tuple[str, Structure, str], str] = {}
        # The network that was asked for last, as networks are large.
        self._trained: tuple[str, nn.Module, dict[str, list[str]]] | None = None

    def structure(self, point: Point) -> Structure:
        """What pruning leaves of a point's network."""
        key = point.model_copy(update={"variant": "fp32", "float_share": 0.0})
        if key not in self._structures:
            current = self._laboratory.build_of(key)
            if current.recipe.model.file is not None:
                return _OF_A_FILE
            form = self._form(key, current)
            self._structures[key] = count_macs(form, current.size), count_parameters(form)
        return self._structures[key]

    def milliseconds(self, point: Point) -> float:
        """Of a call. With all layers of an INT8 variant in INT8: the file of a trial may have
        layers in floating point, and takes longer then. 0 for a network that comes as a file:
        nothing is trained, so that nothing is spared by knowing it. Infinite where the engine
        refuses it."""
        key = self._key(point)
        if key[1] == _OF_A_FILE:
            return 0.0
        if key not in self._latencies:
            self._latencies[key] = [self._timed(point)]
        return min(self._latencies[key])

    def refusal(self, point: Point) -> str | None:
        """Why the engine refuses the network with all layers of its variant in INT8; None where it
        runs that. With some layers in floating point it is left out, too."""
        self.milliseconds(point)
        return self._refusals.get(self._key(point))

    def milliseconds_again(self, point: Point) -> float:
        """The same, measured once more at another time: other work on the machine only lengthens
        it, so that the shorter one counts."""
        before = self.milliseconds(point)
        found = self._latencies.get(self._key(point), [])
        if len(found) == 1:
            found.append(self._timed(point))
        return min(found, default=before)

    def _timed(self, point: Point) -> float:
        current = self._laboratory.build_of(point)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            form = self._form(point, current)
            try:
                write_timed(current, form, point.variant, path)
                return self._laboratory.milliseconds(path, point)
            except (EngineUnavailable, ExportError) as error:
                log.warning("search: %s: left out: %s", point, error)
                self._refusals[self._key(point)] = str(error)
                return math.inf

    def _key(self, point: Point) -> tuple[str, Structure, str]:
        return point.trained, self.structure(point), point.variant

    def accuracy(self, point: Point) -> float:
        """On some validation images, right after pruning, in FP32. Batch norms get the statistics
        of the smaller network first, without which accuracy tells little about what fine-tuning
        makes of it (arXiv 2007.02491). The network must have been trained."""
        key = (point.trained, self.structure(point))
        if key not in self._accuracies:
            current = self._laboratory.build_of(point)
            pruned = self._pruned(point, current)
            batches = (images for images, _ in normalized(current, pruned, _STATISTICS))
            re_estimate(pruned, batches)
            found = Trial(current, _IMAGES).network(pruned)
            self._accuracies[key] = accuracy_of(current.recipe.measure, found).value
        return self._accuracies[key]

    def _pruned(self, point: Point, current: Build) -> nn.Module:
        """The trained network, pruned."""
        if self._trained is None or self._trained[0] != point.trained:
            network = load_network(current.trained_file)
            self._trained = point.trained, network, block_orders(current, network)
        return pruned_once(current, *self._trained[1:])

    def _form(self, point: Point, current: Build) -> nn.Module:
        """A network of a point's structure."""
        prune = current.recipe.prune
        if prune is not None and prune.scope == "global":
            # Weights decide which layers lose channels.
            self._laboratory.train(point)
            return self._pruned(point, current)
        network = built(current, current.recipe.model).eval()
        drop_auxiliary_heads(network)
        return network if prune is None else pruned_once(current, network, None)
