"""Mixed precision: an INT8 file with as few layers in floating point as a gate allows, none in most
cases."""

from collections.abc import Collection
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
    variant: str, trials: Trials, bound: float, sensitivity: Sensitivity | None = None
) -> Mixture:
    """The fewest layers, the most sensitive first, that let a variant pass; none where all layers
    may be INT8, where FP32 would fail too, or where no mixture within the bound would pass.

    bound: largest share of the layers in floating point; 0 forbids it.
    sensitivity: where it is known already.
    """
    gate = trials.gate(variant, ())
    said = f"all layers in INT8: {trials.where} {gate.reason}"
    if gate.passed or bound == 0:
        return Mixture((), said, sensitivity)
    if not trials.fp32_passes():
        said += "; the gate would fail in FP32 too, so no layer was left in it"
        return Mixture((), said, sensitivity)
    sensitivity = sensitivity or trials.sensitivity(variant)
    count = len(sensitivity.agreement)
    layers = fewest_float_layers(
        sensitivity.most_sensitive(),
        int(bound * count),
        lambda layers: trials.gate(variant, layers).passed,
    )
    if layers is None:
        said += f"; the gate would fail with {bound:.0%} of the layers in FP32 too"
        return Mixture((), said, sensitivity)
    gate = trials.gate(variant, layers)
    named = f"{len(layers)} of {count} layers in FP32 ({', '.join(layers)})"
    mixed = f"{named}: {trials.where} {gate.reason}; {said}"
    return Mixture(layers, mixed, replace(sensitivity, left_alone=layers))
