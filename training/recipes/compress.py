"""What makes a trained network smaller."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serving.engines import ENGINES
from training.recipes.deliver import VariantId
from training.recipes.fields import Fraction, PositiveInt, Strict
from training.recipes.model import ModelChoice
from training.recipes.train import Train

OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _check_engine(name: str) -> None:
    """Raises ValueError where no engine of that name runs the ONNX files that are tried."""
    fitting = [key for key, entry in ENGINES.items() if ".onnx" in entry.suffixes]
    if name not in fitting:
        raise ValueError(f"engine: expected one of {', '.join(fitting)}; got {name!r}")


class Teacher(Strict):
    """Who is learnt from: the last trained network of a `run` (a folder that a build left), or a
    network by name with the weights of its `pretrained`."""

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
    """Trains the recipe's network once more from its beginning, now from a teacher's answers at
    `temperature` too, which count `weight` against the targets' 1 - weight. `train` is as in the
    recipe where it says nothing, so that the report compares equal budgets."""

    teacher: Teacher
    temperature: Annotated[float, Field(gt=0.0)] = 4.0
    weight: Fraction = 0.7
    train: Train


class PruneLatency(Strict):
    """How many times faster than unpruned, as the same variant at `batch_size` in `engine`. Each
    candidate is exported, quantised where the variant asks for it, and timed in turns with the
    unpruned network for about `seconds`."""

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
    """Each group of layers is pruned alone by `ratio`; one that lowers the agreement with the
    unpruned network on `images` of the validation split below `min_agreement` keeps its channels.
    """

    images: PositiveInt = 256
    ratio: OpenFraction = 0.5
    min_agreement: Fraction = 0.0


class Prune(Strict):
    """Removes whole channels, up to one of three targets: `ratio`, the share of the channels that
    go; `macs`, the share of the multiply-accumulates that stay; `latency`, a measured speed-up.

    scope: "uniform" takes that share from every layer, "global" the least important channels
    wherever they are. What stays is a multiple of `round_to`, which fast kernels need. `ignore`
    names layers that keep their channels, by patterns such as "layer1.*". `train` fine-tunes after
    each of `steps`; what it leaves out is as in the recipe's own `train`.
    """

    ratio: OpenFraction | None = None
    macs: OpenFraction | None = None
    latency: PruneLatency | None = None
    importance: Literal["l1", "l2", "bn_scale", "taylor", "random"] = "l2"
    scope: Literal["uniform", "global"] = "uniform"
    steps: PositiveInt = 1
    round_to: PositiveInt = 8
    ignore: tuple[str, ...] = ()
    sensitivity: PruneSensitivity | None = None
    train: Train

    @model_validator(mode="after")
    def _one_target(self) -> "Prune":
        given = [name for name in ("ratio", "macs", "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of ratio, macs and latency; got {' and '.join(given) or 'none'}"
            )
        return self


class Int8Sensitivity(Strict):
    """Each layer is computed in INT8 alone, on `images` of the validation split."""

    images: PositiveInt = 256


class MixedPrecision(Strict):
    """What is done when an INT8 variant would fail the gate, which is tried on `images` of the
    validation split: the most sensitive layers stay in floating point, as few as will do and at
    most `max_float` of them (a share; 0 forbids it)."""

    images: PositiveInt = 1000
    max_float: Fraction = 0.25


class Qat(Strict):
    """Quantisation-aware fine-tuning by `train`, when a variant would fail the gate ("needed") or
    "always". A copy that is fine-tuned in FP32 for the same steps is quantised too; what is best on
    the validation split is kept."""

    when: Literal["needed", "always"] = "needed"
    train: Train


class Quantize(Strict):
    """INT8 after training: ranges are measured on `calibration_images` of the training split.

    calibrate: "minmax" keeps the extremes, "percentile" cuts the outermost 0.01 %. `sensitivity`
    puts each layer's effect into the report; mixed precision measures it when it needs it.
    """

    method: Literal["ptq"] = "ptq"
    calibration_images: PositiveInt = 256
    calibrate: Literal["minmax", "percentile"] = "minmax"
    qat: Qat | None = None
    sensitivity: Int8Sensitivity | None = None
    mixed_precision: MixedPrecision = MixedPrecision()


class Search(Strict):
    """What `--search` tries: `networks` of one family besides the recipe's own (their depth),
    pruning ratios in steps of 0.05 up to `max_ratio`, and the exported variants that `engine` runs.
    Latency is the median of a call at `batch_size`, measured for about `seconds`; accuracy is that
    of `images` of the validation split. A search that was interrupted goes on."""

    networks: tuple[str, ...] = ()
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
