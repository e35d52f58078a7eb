"""Mixed precision: an INT8 file with as few layers in floating point as a gate allows, none in most
cases."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from serving.repository.manifest import Gate
from training.compress.sensitivity import Sensitivity, fewest_float_layers


class Trials(Protocol):
    """Tries the INT8 files of one network on images that decide over nothing else.

    where: these images, for a sentence.
    """

    where: str

    def gate(self, variant: str, float_layers: Collection[str]) -> Gate:
        """The verdict on a variant with these layers in floating point."""

    def fp32_passes(self) -> bool:
        """Whether the gate passes the network without any rounding."""

    def sensitivity(self, variant: str) -> Sensitivity:
        """The effect of each layer alone."""


@dataclass(frozen=True)
class Mixture:
    """The choice for one variant.

    float_layers: stay in floating point.
    said: a sentence with the numbers.
    sensitivity: of the layers; None where it was not measured.
    """

    float_layers: tuple[str, ...]
    said: str
    sensitivity: Sensitivity | None


def choose_float_layers(
    variant: str,
    trials: Trials,
    bound: float,
    least: float = 0.0,
    sensitivity: Sensitivity | None = None,
) -> Mixture:
    """The fewest layers, the most sensitive first, that let a variant pass; as few as `least` asks
    for where these suffice, where FP32 would fail too, or where no mixture within the bound would
    pass.

    bound: largest share of the layers in floating point; 0 forbids it.
    least: smallest share of the layers in floating point.
    sensitivity: where it is known already.
    """
    fixed: tuple[str, ...] = ()
    if least > 0:
        sensitivity = sensitivity or trials.sensitivity(variant)
        order = sensitivity.most_sensitive()
        fixed = tuple(order[: math.ceil(least * len(order))])
    gate = trials.gate(variant, fixed)
    said = f"{_named(fixed, sensitivity)}: {trials.where} {gate.reason}"
    if gate.passed or bound <= least:
        return _mixture(fixed, said, sensitivity)
    if not trials.fp32_passes():
        said += "; the gate would fail in FP32 too, so no layer more was left in it"
        return _mixture(fixed, said, sensitivity)
    sensitivity = sensitivity or trials.sensitivity(variant)
    order = sensitivity.most_sensitive()
    more = fewest_float_layers(
        order[len(fixed) :],
        int(bound * len(order)) - len(fixed),
        lambda layers: trials.gate(variant, (*fixed, *layers)).passed,
    )
    if more is None:
        said += f"; the gate would fail with {bound:.0%} of the layers in FP32 too"
        return _mixture(fixed, said, sensitivity)
    layers = (*fixed, *more)
    gate = trials.gate(variant, layers)
    mixed = f"{_named(layers, sensitivity)}: {trials.where} {gate.reason}; {said}"
    return _mixture(layers, mixed, sensitivity)


def _named(layers: Sequence[str], sensitivity: Sensitivity | None) -> str:
    if not layers or sensitivity is None:
        return "all layers in INT8"
    return f"{len(layers)} of {len(sensitivity.agreement)} layers in FP32 ({', '.join(layers)})"


def _mixture(layers: tuple[str, ...], said: str, sensitivity: Sensitivity | None) -> Mixture:
    if layers and sensitivity is not None:
        sensitivity = replace(sensitivity, left_alone=layers)
    return Mixture(layers, said, sensitivity)
