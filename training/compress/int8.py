"""Writes the INT8 files of one network, with as few layers in floating point as the gate allows on
validation images: none in most cases."""

import logging
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from serving.repository.manifest import Gate
from training.compress.calibration import Calibration
from training.compress.mixed_precision import Mixture, choose_float_layers
from training.compress.quantize import Quantizer
from training.compress.sensitivity import Sensitivity, int8_sensitivity
from training.evaluation.network_answers import Answers
from training.evaluation.validation_trial import Comparison, Trial
from training.fitting.build import Build, Network, export_fp32
from training.models.export.variants import FP32_FILE, SCHEMES, onnx_file
from training.recipes.compress import Int8Sensitivity, Quantize

log = logging.getLogger(__name__)


class _Way(NamedTuple):
    """A way of rounding, as Quantizer has it."""

    equalized: bool
    adaptive: bool


# Settings to try, in order, for each value in a recipe.
_CHOICES = {"never": (False,), "needed": (False, True), "always": (True,)}


class Candidate:
    """A network that could be published in INT8. The gate compares it with the trained network in
    FP32, before pruning.

    part: folder of its trials, in the stage's folder.
    name: its name in the report.
    """

    where = "on validation images"

    def __init__(
        self,
        current: Build,
        config: Quantize,
        calibration: Calibration,
        network: Network,
        part: str,
        name: str,
    ) -> None:
        self.network = network
        self.name = name
        self._current = current
        self._config = config
        self._calibration = calibration
        self._folder = current.stage_folder("quantize") / part
        self._folder.mkdir(parents=True, exist_ok=True)
        self._float_file = self._folder / FP32_FILE
        export_fp32(current, network, self._float_file)

    def of(self, network: Network, part: str, name: str) -> "Candidate":
        """A candidate with another network, and otherwise the same settings."""
        return Candidate(self._current, self._config, self._calibration, network, part, name)

    def passes(self) -> bool:
        """Whether the gate would pass every variant with all its layers in INT8."""
        return all(self._judged(variant, ())[0].passed for variant in self._variants)

    def accuracy(self) -> float:
        """Mean accuracy of the variants on validation images."""
        found = [self._judged(variant, ())[1].accuracy.value for variant in self._variants]
        return sum(found) / len(found)

    def told(self) -> str:
        """A line with accuracy and agreement of each variant."""
        parts = []
        for variant in self._variants:
            _, compared = self._judged(variant, ())
            parts.append(
                f"{variant} {100 * compared.accuracy.value:.2f} %, agreement with FP32 before "
                f"{100 * compared.agreement:.2f} %"
            )
        return f"{self.name}: {', '.join(parts)}"

    def write(self, folder: Path) -> dict[str, Mixture]:
        """Writes the FP32 file and the files of all variants into `folder`. All layers are INT8
        where no mixture within the recipe's bound would pass, or where FP32 would fail too."""
        (folder / FP32_FILE).write_bytes(self._float_file.read_bytes())
        return {
            variant: self._write(variant, folder / onnx_file(variant)) for variant in self._variants
        }

    def _write(self, variant: str, path: Path) -> Mixture:
        config = self._config
        known = None
        if config.sensitivity is not None:
            known = self._measured(variant, config.sensitivity)
        mixed = config.mixed_precision
        found = choose_float_layers(variant, self, mixed.max_float, mixed.min_float, known)
        quantizer = self._form(variant)
        quantizer.write(path, SCHEMES[variant], found.float_layers)
        ways = [f"{len(quantizer.changed)} tensors with channels made alike"] * bool(
            quantizer.changed
        )
        ways += ["adaptive rounding"] * quantizer.adaptive
        found = replace(found, said="; ".join((*ways, found.said)))
        log.info("quantize: %s: %s", variant, found.said)
        return found

    def _form(self, variant: str) -> Quantizer:
        """The quantiser of a variant: the first way whose file would pass, else the one whose file
        agrees best with FP32 among those that the recipe allows."""
        if variant not in self._forms:
            first, *others = self._ways()
            self._forms[variant] = best = self._quantizer(first)
            gate, compared = self._judged(variant, ())
            judged = {(bool(best.changed), best.adaptive)}
            for way in others:
                if gate.passed or not self._fp32_passes:
                    break
                self._forms[variant] = tried = self._quantizer(way)
                # Where no channel can be made alike, it is the file of another way.
                if (bool(tried.changed), tried.adaptive) in judged:
                    continue
                judged.add((bool(tried.changed), tried.adaptive))
                gate, now = self._judged(variant, ())
                if gate.passed or now.agreement > compared.agreement:
                    best, compared = tried, now
            self._forms[variant] = best
        return self._forms[variant]

    def _ways(self) -> list[_Way]:
        """Ways of rounding in the order in which they are tried."""
        equalize, rounding = self._config.equalize, self._config.adaptive_rounding
        return [
            _Way(equalized, adaptive)
            for adaptive in _CHOICES[rounding]
            for equalized in _CHOICES[equalize]
        ]

    def gate(self, variant: str, float_layers: Collection[str]) -> Gate:
        """As Trials has it, on validation images."""
        return self._judged(variant, float_layers)[0]

    def fp32_passes(self) -> bool:
        """As Trials has it."""
        return self._fp32_passes

    def sensitivity(self, variant: str) -> Sensitivity:
        """As Trials has it."""
        return self._measured(variant, Int8Sensitivity())

    def _judged(self, variant: str, float_layers: Collection[str]) -> tuple[Gate, Comparison]:
        """The gate's verdict. Verdicts are kept, answers are not: masks of a thousand images take
        gigabytes where several mixtures are tried."""
        quantizer = self._form(variant)
        tried = (variant, quantizer, tuple(float_layers))
        if tried not in self._known:
            path = self._folder / "tried.onnx"
            quantizer.write(path, SCHEMES[variant], float_layers)
            found = self._trial.file(path, "int8")
            self._known[tried] = (
                self._trial.judge(self._reference, found),
                self._trial.compare(self._reference, found),
            )
        return self._known[tried]

    def _measured(self, variant: str, config: Int8Sensitivity) -> Sensitivity:
        trial = Trial(self._current, config.images)
        fp32 = trial.file(self._float_file, "fp32")

        def agreement(path: Path) -> float:
            return trial.compare(fp32, trial.file(path, "int8")).agreement

        return int8_sensitivity(self._form(variant), variant, agreement, len(trial.samples))

    @cached_property
    def _known(self) -> dict[tuple[str, Quantizer, tuple[str, ...]], tuple[Gate, Comparison]]:
        return {}

    @cached_property
    def _forms(self) -> dict[str, Quantizer]:
        return {}

    @cached_property
    def _quantizers(self) -> dict[_Way, Quantizer]:
        return {}

    @cached_property
    def _variants(self) -> list[str]:
        return [variant for variant in self._current.recipe.export.variants if variant in SCHEMES]

    def _quantizer(self, way: _Way) -> Quantizer:
        if way not in self._quantizers:
            self._quantizers[way] = Quantizer(
                self._float_file,
                self._config.calibrate,
                self._calibration,
                equalized=way.equalized,
                adaptive=way.adaptive,
            )
        return self._quantizers[way]

    @cached_property
    def _trial(self) -> Trial:
        return Trial(self._current, self._config.mixed_precision.images)

    @cached_property
    def _reference(self) -> Answers:
        return self._trial.network(self._current.network(self._current.trained_file))

    @cached_property
    def _fp32_passes(self) -> bool:
        found = self._trial.file(self._float_file, "fp32")
        return self._trial.judge(self._reference, found).passed
