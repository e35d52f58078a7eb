"""Which layers of an INT8 file stay in floating point: as few as the gate allows, mostly none."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from training.checkpoint import load_network
from training.quantize import Quantizer
from training.recipe.compress import Int8Sensitivity, Quantize
from training.run import Build
from training.sensitivity import Sensitivity, fewest_float_layers, int8_sensitivity
from training.validation import Trial
from training.verify import Answers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What was written of a variant, in a sentence with the numbers, and the layers' sensitivity
    where it was measured."""

    said: str
    passed: bool
    sensitivity: Sensitivity | None


class MixedPrecisionSearch:
    """Writes INT8 files of one FP32 file that the recipe's gate would pass on validation images.

    The gate's reference is the trained network in FP32, before pruning.
    """

    def __init__(self, current: Build, config: Quantize, float_file: Path) -> None:
        self._current = current
        self._config = config
        self._float_file = float_file

    def write(self, quantizer: Quantizer, variant: str, path: Path) -> Written:
        """Writes a variant's file. Where no mixture within the recipe's bound would pass, or FP32
        would not either, all layers are INT8 and the sentence says why."""
        sensitivity = None
        if self._config.sensitivity is not None:
            sensitivity = self._measured(quantizer, variant, self._config.sensitivity)
        passed, said = self._try(quantizer, path, ())
        if passed or self._config.mixed_precision.max_float == 0:
            return self._told(variant, f"all layers in INT8: {said}", passed, sensitivity)
        if not self._fp32_passes:
            why = "the gate would fail in FP32 too, so no layer was left in it"
            return self._told(variant, f"all layers in INT8: {said}; {why}", False, sensitivity)
        if sensitivity is None:
            sensitivity = self._measured(quantizer, variant, Int8Sensitivity())
        count = len(quantizer.layers)
        left = fewest_float_layers(
            sensitivity.most_sensitive(),
            int(self._config.mixed_precision.max_float * count),
            lambda layers: self._try(quantizer, path, layers)[0],
        )
        passed, tried = self._try(quantizer, path, left or ())
        if left is None:
            why = (
                f"the gate would fail with {self._config.mixed_precision.max_float:.0%} in FP32 too"
            )
            return self._told(variant, f"all layers in INT8: {said}; {why}", False, sensitivity)
        told = f"{len(left)} of {count} layers in FP32 ({', '.join(left)}): {tried}"
        return self._told(variant, told, passed, replace(sensitivity, left_alone=left))

    def _told(
        self, variant: str, said: str, passed: bool, sensitivity: Sensitivity | None
    ) -> Written:
        log.info("quantize: %s: %s", variant, said)
        return Written(said, passed, sensitivity)

    def _try(
        self, quantizer: Quantizer, path: Path, float_layers: Collection[str]
    ) -> tuple[bool, str]:
        quantizer.write(path, float_layers)
        gate = self._trial.judge(self._reference, self._trial.file(path, "int8"))
        return gate.passed, f"on validation images {gate.reason}"

    def _measured(self, quantizer: Quantizer, variant: str, config: Int8Sensitivity) -> Sensitivity:
        trial = Trial(self._current, config.images)
        return int8_sensitivity(quantizer, variant, trial, trial.file(self._float_file, "fp32"))

    @cached_property
    def _trial(self) -> Trial:
        return Trial(self._current, self._config.mixed_precision.images)

    @cached_property
    def _reference(self) -> Answers:
        return self._trial.network(load_network(self._current.trained_file))

    @cached_property
    def _fp32_passes(self) -> bool:
        found = self._trial.file(self._float_file, "fp32")
        return self._trial.judge(self._reference, found).passed
