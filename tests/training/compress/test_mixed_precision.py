"""The layers that stay in floating point, by gates that are made up."""

from collections.abc import Collection

from serving.repository.manifest import Gate
from training.compress.mixed_precision import choose_float_layers
from training.compress.sensitivity import Sensitivity


class MadeUp:
    """Ten layers. passing: the numbers of layers in floating point with which a variant passes."""

    where = "on validation images"

    def __init__(self, *passing: int) -> None:
        self.passing = passing

    def gate(self, variant: str, float_layers: Collection[str]) -> Gate:
        return Gate(passed=len(float_layers) in self.passing, reason=f"{len(float_layers)} layers")

    def fp32_passes(self) -> bool:
        return True

    def sensitivity(self, variant: str) -> Sensitivity:
        return Sensitivity("quantize", 1, {f"layer{n}": n / 10 for n in range(10)})


def chosen(trials: MadeUp, bound: float, least: float) -> tuple[str, ...]:
    return choose_float_layers("int8-s8", trials, bound, least).float_layers


def test_as_few_layers_as_pass_stay_in_floating_point() -> None:
    assert chosen(MadeUp(3, 4, 5), bound=0.5, least=0.0) == ("layer0", "layer1", "layer2")
    assert chosen(MadeUp(6), bound=0.5, least=0.0) == ()


def test_never_fewer_layers_than_the_least_share() -> None:
    # Chance may let fewer pass where more fail.
    assert len(chosen(MadeUp(1, 2, 4, 5), bound=0.5, least=0.3)) == 4
    assert len(chosen(MadeUp(1), bound=0.35, least=0.3)) == 3
    assert len(chosen(MadeUp(1), bound=0.2, least=0.3)) == 3
