"""Compression of a trained network: distillation, pruning, quantisation, search."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from serving.engines import ENGINES
from training.recipes.deliver import VariantId
from training.recipes.fields import Fraction, Pair, PositiveInt, Strict
from training.recipes.model import ModelChoice
from training.recipes.train import Train

OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _check_engine(name: str) -> None:
    """Raises ValueError where no engine of that name runs ONNX files."""
    fitting = [key for key, entry in ENGINES.items() if ".onnx" in entry.suffixes]
    if name not in fitting:
        raise ValueError(f"engine: expected one of {', '.join(fitting)}; got {name!r}")


class Teacher(Strict):
    """The network to learn from; one of both.

    run: folder of a build; its last trained network teaches.
    network: a network by name, with the weights of its `pretrained`.
    """

    run: Path | None = None
    network: ModelChoice | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Teacher":
        if (self.run is None) == (self.network is None):
            raise ValueError("expected either run or network")
        if self.network is not None and self.network.pretrained is None:
            raise ValueError("network.pretrained: a teacher without weights teaches nothing")
        return self


class Distill(Strict):
    """Trains the recipe's network again from its first weights, on targets and a teacher's answers.

    temperature: of the teacher's and the network's softmax.
    weight: of the teacher's answers; targets have 1 - weight.
    train: missing keys are those of the recipe's train, so that the report compares equal budgets.
    """

    teacher: Teacher
    temperature: Annotated[float, Field(gt=0.0)] = 4.0
    weight: Fraction = 0.7
    train: Train


class FromParent(Strict):
    """Fine-tuning learns from the answers of the network as it was before, beside the targets.

    temperature: of the softmax of both.
    weight: of these answers; targets have 1 - weight.
    """

    temperature: Annotated[float, Field(gt=0.0)] = 4.0
    weight: Fraction = 0.5


class PruneLatency(Strict):
    """A measured speed-up. Each candidate is exported, quantised for an INT8 variant, and timed in
    turns with the unpruned network.

    engine, variant, batch_size: of both networks.
    speedup: latency of the unpruned network over that of the pruned one.
    seconds: time of a measurement.
    """

    engine: str = "openvino"
    variant: VariantId = "int8-s8"
    batch_size: PositiveInt = 8
    speedup: Annotated[float, Field(gt=1.0)]
    seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 2.0

    @model_validator(mode="after")
    def _engine_runs_the_variant(self) -> "PruneLatency":
        _check_engine(self.engine)
        if self.variant.split("-")[0] not in ENGINES[self.engine].precisions:
            raise ValueError(f"variant: {self.engine} does not run {self.variant}")
        return self


class PruneSensitivity(Strict):
    """The effect of each group of layers when it alone is pruned.

    images: number of validation images that the agreement with the unpruned network is measured on.
    ratio: share of the group's channels that is pruned.
    min_agreement: groups with less agreement keep their channels.
    """

    images: PositiveInt = 256
    ratio: OpenFraction = 0.5
    min_agreement: Fraction = 0.0


class Prune(Strict):
    """Removes whole channels, up to one target: ratio, macs or latency.

    ratio: share of the channels that is removed.
    macs: share of the multiply-accumulates that stays.
    latency: a measured speed-up.
    importance: of a channel; the least important ones are removed.
    scope: "uniform" takes an equal share from every layer, "global" the least important channels of
        the network.
    tilt: from -1 to 1, for scope uniform: above 0 later layers lose more and earlier ones less,
        from ratio · (1 - tilt) at the first layer to ratio · (1 + tilt) at the last.
    steps: rounds of pruning and fine-tuning.
    round_to: the channels of a layer stay a multiple of it, which fast kernels need; "auto" is the
        smallest multiple that the engines of this machine feel, and stages whose residual blocks
        are no wider lose `ratio` of their blocks.
    ignore: patterns such as "layer1.*" of layers that keep their channels.
    sensitivity: protects sensitive groups of layers.
    distill: fine-tuning learns from the unpruned network too.
    train: fine-tunes after each step; missing keys are those of the recipe's train.
    """

    ratio: OpenFraction | None = None
    macs: OpenFraction | None = None
    latency: PruneLatency | None = None
    importance: Literal["l1", "l2", "bn_scale", "taylor", "random"] = "l2"
    scope: Literal["uniform", "global"] = "uniform"
    tilt: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.0
    steps: PositiveInt = 1
    round_to: PositiveInt | Literal["auto"] = "auto"
    ignore: tuple[str, ...] = ()
    sensitivity: PruneSensitivity | None = None
    distill: FromParent | None = None
    train: Train

    @field_validator("round_to", mode="before")
    @classmethod
    def _step_or_auto(cls, value: object) -> object:
        if isinstance(value, str) and value != "auto":
            raise ValueError("expected auto, or a number of channels")
        return value

    @model_validator(mode="after")
    def _tilt_needs_shares(self) -> "Prune":
        if self.tilt and self.scope == "global":
            raise ValueError("tilt: expected 0 with scope global, which shares nothing out")
        return self

    @model_validator(mode="after")
    def _one_target(self) -> "Prune":
        given = [name for name in ("ratio", "macs", "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of ratio, macs and latency; got {' and '.join(given) or 'none'}"
            )
        return self


class Int8Sensitivity(Strict):
    """The effect of each layer when it alone is computed in INT8.

    images: number of validation images.
    """

    images: PositiveInt = 256


class MixedPrecision(Strict):
    """Where an INT8 variant would fail the gate, the most sensitive layers stay in floating point,
    as few as suffice.

    images: number of validation images that the gate is tried on.
    max_float: largest share of the layers in floating point; 0 forbids it.
    min_float: smallest share, whatever the gate says.
    """

    images: PositiveInt = 1000
    max_float: Fraction = 0.25
    min_float: Fraction = 0.0

    @model_validator(mode="after")
    def _least_is_no_more_than_most(self) -> "MixedPrecision":
        if self.min_float > self.max_float:
            raise ValueError(f"min_float: expected at most max_float, {self.max_float:g}")
        return self


class Qat(Strict):
    """Quantisation-aware fine-tuning. A copy is fine-tuned in FP32 for the same steps and quantised
    too; the better of both on the validation split is kept.

    when: "needed" is where a variant would fail the gate.
    distill: both learn from the network before, in FP32, too.
    train: missing keys are those of the recipe's train.
    """

    when: Literal["needed", "always"] = "needed"
    distill: FromParent | None = None
    train: Train


class Quantize(Strict):
    """INT8 after training.

    method: "ptq" quantises the trained network; qat comes after it.
    calibration_images: number of training images that ranges are measured on.
    calibrate: "mse" takes the range that rounds with the least squared error, "minmax" keeps the
        extremes, "percentile" cuts the outermost 0.01 %.
    equalize: makes the ranges of a tensor's channels alike, where a factor can go from one layer to
        the next; "needed" is where a variant would fail the gate, and does better with it.
    adaptive_rounding: of weights, so that their errors cancel out in a layer's answers, instead of
        each to its nearest level; "needed" is where a variant would fail the gate without it.
    qat: fine-tunes with rounding.
    sensitivity: puts each layer's effect into the report; mixed precision measures it on demand.
    mixed_precision: keeps sensitive layers in floating point.
    """

    method: Literal["ptq"] = "ptq"
    calibration_images: PositiveInt = 256
    calibrate: Literal["mse", "minmax", "percentile"] = "minmax"
    equalize: Literal["needed", "always", "never"] = "needed"
    adaptive_rounding: Literal["needed", "always", "never"] = "needed"
    qat: Qat | None = None
    sensitivity: Int8Sensitivity | None = None
    mixed_precision: MixedPrecision = MixedPrecision()


class Search(Strict):
    """The candidates of `--search`, and how they are measured. An interrupted search continues.

    networks: besides the recipe's own: names, which take its options, or sections as `model`, with
        options such as a width and weights of their own.
    sizes: of images, pixels: [height, width], or the side of a square, besides the recipe's own. A
        network is trained anew for each.
    max_ratio: largest pruning ratio; ratios are tried in steps of 0.05, and with scope uniform
        tilts of -0.5, 0 and 0.5.
    engine: runs the exported variants that it can.
    batch_size: of the calls whose median latency is measured.
    seconds: time of a measurement.
    images: number of validation images that accuracy is measured on.
    trials: number of candidates that are measured for a bound.
    """

    networks: tuple[str | ModelChoice, ...] = ()
    sizes: tuple[PositiveInt | Pair, ...] = ()
    max_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.7
    engine: str = "openvino"
    batch_size: PositiveInt = 8
    seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 2.0
    images: PositiveInt = 5000
    trials: PositiveInt = 30

    @model_validator(mode="after")
    def _engine_is_known(self) -> "Search":
        _check_engine(self.engine)
        return self

    @field_validator("networks")
    @classmethod
    def _networks_are_trained(cls, networks: tuple[str | ModelChoice, ...]) -> object:
        for choice in networks:
            if not isinstance(choice, str) and choice.file is not None:
                raise ValueError(
                    f"expected networks by name or factory, got the file {choice.file}"
                )
        return networks
