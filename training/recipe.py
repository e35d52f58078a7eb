"""A recipe: everything that decides what a build makes, in one YAML file.

Unknown keys are refused with their path and the nearest valid name, wrong values with the path, the
value and what was expected. The order of the fields is the order of the stages.
"""

import difflib
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from serving.manifest import EvalTransform
from serving.manifest import Normalization as ManifestNormalization
from training.errors import RecipeError

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Pair = tuple[PositiveInt, PositiveInt]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class _Strict(BaseModel):
    model_config = _STRICT


class DigitsData(_Strict):
    """scikit-learn's 1,797 handwritten digits as 32×32 RGB; the seed decides who is held out."""

    source: Literal["digits"]
    split_seed: int = 0


class ConnectorsData(_Strict):
    """USB connectors that the project renders, with exact masks. `size` is the side in pixels.

    Image i of a split is drawn from its own seed; the splits' seed ranges are disjoint.
    """

    source: Literal["connectors"]
    size: Annotated[int, Field(ge=32)] = 96
    train: PositiveInt = 800
    val: PositiveInt = 100
    test: PositiveInt = 300


class _FolderData(_Strict):
    """`root` is relative to the working directory. Its folders train/, val/ and test/ are used as
    they are; of those that are missing, the fractions are cut from train/, or from `root` itself
    where it has none of them. `split_seed` decides who is cut."""

    root: Path
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: int = 0


class ImageFolderData(_FolderData):
    """One folder of images a class, as torchvision's ImageFolder; cuts are stratified by class."""

    source: Literal["image_folder"]


class MaskFolderData(_FolderData):
    """images/NAME.jpg with masks/NAME.png (8-bit class indices) and classes.txt, one class a line.

    Pixels of `ignore_index` count neither in the loss nor in any measure.
    """

    source: Literal["mask_folder"]
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255


ClassificationData = Annotated[DigitsData | ImageFolderData, Field(discriminator="source")]
SegmentationData = Annotated[ConnectorsData | MaskFolderData, Field(discriminator="source")]


class Transform(EvalTransform):
    """The evaluation transform, which the server applies too: resize, then crop, by `filter`."""

    model_config = _STRICT

    resize: PositiveInt | Pair
    crop: Pair | None = None

    @model_validator(mode="after")
    def _has_a_size(self) -> "Transform":
        self.size  # noqa: B018 - raises ValueError with the reason where the size is open
        return self


class Normalization(ManifestNormalization):
    """(pixel / 255 - mean) / std for R, G, B; the defaults are ImageNet's."""

    model_config = _STRICT

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[
        Annotated[float, Field(gt=0.0)],
        Annotated[float, Field(gt=0.0)],
        Annotated[float, Field(gt=0.0)],
    ] = (0.229, 0.224, 0.225)


class Augment(_Strict):
    """Random changes to training images, drawn anew for each image and epoch; masks follow.

    shift: at most this many pixels along each axis. rotate: at most this many degrees either way.
    scale: zoom by a factor in [1 - scale, 1 + scale]. flip: left-right, for half of the images.
    quarter_turns: 0 to 3 of them; with flip, all eight ways in which a square can lie.
    brightness, contrast: factors in [1 - x, 1 + x].
    """

    shift: Annotated[int, Field(ge=0)] = 0
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    flip: bool = False
    quarter_turns: bool = False
    brightness: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    contrast: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class ModelChoice(_Strict):
    """A name from `convserve build --list-networks`, and the options that this network has."""

    name: str
    options: Mapping[str, int | float | bool | str] = {}


class CrossEntropy(_Strict):
    """Softmax cross-entropy; `label_smoothing` spreads that share of the target over all classes
    (arXiv 1512.00567, §7)."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class CrossEntropyDice(_Strict):
    """Cross-entropy plus `dice_weight` times the Dice loss: the second counts regions, not pixels,
    so that small objects weigh as much as large ones (arXiv 1606.04797)."""

    name: Literal["cross_entropy_dice"]
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    dice_weight: Annotated[float, Field(gt=0.0)] = 1.0


class Sgd(_Strict):
    """Stochastic gradient descent with momentum; biases and norm layers are not decayed."""

    name: Literal["sgd"]
    lr: Annotated[float, Field(gt=0.0)]
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "Sgd":
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class AdamW(_Strict):
    """Adam with decoupled weight decay (arXiv 1711.05101); biases and norm layers not decayed."""

    name: Literal["adamw"]
    lr: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01


class Constant(_Strict):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"


class OneCycle(_Strict):
    """Cosine up to the optimiser's lr over the share `warmup` of all steps, then cosine down to
    nearly 0 (arXiv 1708.07120)."""

    name: Literal["one_cycle"]
    warmup: Fraction = 0.3


class Cosine(_Strict):
    """Linear warm-up over `warmup_epochs`, then cosine down to 0 (arXiv 1608.03983)."""

    name: Literal["cosine"]
    warmup_epochs: Annotated[int, Field(ge=0)] = 0


Loss = Annotated[CrossEntropy | CrossEntropyDice, Field(discriminator="name")]
Optimizer = Annotated[Sgd | AdamW, Field(discriminator="name")]
Schedule = Annotated[Constant | OneCycle | Cosine, Field(discriminator="name")]


class Train(_Strict):
    """One run of the training loop.

    precision: "auto" takes bf16 autocast where the hardware computes in it, else fp32. keep: which
    weights leave the stage; "last" suits schedules that end near a learning rate of 0, where a
    small validation set would pick among equals by chance.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    loss: Loss = CrossEntropy()
    optimizer: Optimizer
    schedule: Schedule = Constant()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    keep: Literal["best", "last"] = "best"


class Prune(_Strict):
    """Removes whole channels. `ratio` is the share of the channels of every layer that may lose
    some; what stays is a multiple of `round_to`, which fast kernels need. `train` fine-tunes; what
    it leaves out is as in the recipe's own `train`."""

    ratio: Annotated[float, Field(gt=0.0, lt=1.0)]
    importance: Literal["l1", "l2"] = "l2"
    round_to: PositiveInt = 8
    train: Train


class Quantize(_Strict):
    """INT8 after training: ranges are measured on `calibration_images` of the training split.

    calibrate: "minmax" keeps the extremes, "percentile" cuts the outermost 0.01 %.
    """

    method: Literal["ptq"] = "ptq"
    calibration_images: PositiveInt = 256
    calibrate: Literal["minmax", "percentile"] = "minmax"


VariantId = Literal["fp32", "bf16", "int8-s8", "int8-u8"]


class Export(_Strict):
    """Which variants to offer. bf16 has no file: OpenVINO runs the FP32 file in that precision.

    int8-s8 is symmetric (TensorRT, OpenVINO), int8-u8 asymmetric (ONNX Runtime on x86).
    """

    variants: tuple[VariantId, ...] = ("fp32",)
    opset: Annotated[int, Field(ge=18, le=23)] = 20

    @model_validator(mode="after")
    def _fp32_is_the_reference(self) -> "Export":
        if "fp32" not in self.variants:
            raise ValueError("variants must hold fp32: it is what the others are compared with")
        if len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants holds one twice: {', '.join(self.variants)}")
        return self


class Verify(_Strict):
    """The gate, judged on the test split against the trained network in FP32 before pruning.

    max_drop: how much accuracy (top-1 or mean IoU, 0.01 is one point) may be lost. min_agreement:
    smallest share of equal answers. min_accuracy: smallest accuracy. batch_sizes: where latency is
    measured, for `latency_seconds` each.
    """

    max_drop: Fraction = 0.01
    min_agreement: Fraction = 0.0
    min_accuracy: Fraction = 0.0
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 32)
    latency_seconds: Annotated[float, Field(gt=0.0, le=60.0)] = 0.5


class Publish(_Strict):
    """How the server shall run it, written to config.pbtxt."""

    max_batch_size: PositiveInt = 32
    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 0
    instances: PositiveInt = 1


class _Recipe(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: int = 0
    transform: Transform
    normalization: Normalization = Normalization()
    augment: Augment = Augment()
    model: ModelChoice
    train: Train
    prune: Prune | None = None
    quantize: Quantize | None = None
    export: Export = Export()
    verify: Verify = Verify()
    publish: Publish = Publish()

    @model_validator(mode="after")
    def _only_squares_turn(self) -> "_Recipe":
        height, width = self.transform.size
        if self.augment.quarter_turns and height != width:
            raise ValueError(
                f"augment.quarter_turns: only square images can be turned, got {height}x{width}"
            )
        return self

    @model_validator(mode="after")
    def _int8_needs_calibration(self) -> "_Recipe":
        int8 = [variant for variant in self.export.variants if variant.startswith("int8")]
        if int8 and self.quantize is None:
            raise ValueError(f"export.variants holds {', '.join(int8)}, so quantize must be given")
        if self.quantize is not None and not int8:
            raise ValueError(
                "quantize is given, but export.variants holds neither int8-s8 nor int8-u8"
            )
        return self


class ClassificationRecipe(_Recipe):
    """One class an image."""

    task: Literal["classification"]
    data: ClassificationData

    @model_validator(mode="after")
    def _losses_fit(self) -> "ClassificationRecipe":
        for path, train in _train_sections(self):
            if isinstance(train.loss, CrossEntropyDice):
                raise ValueError(
                    f"{path}.loss: cross_entropy_dice compares regions; classification has none"
                )
        return self


class SegmentationRecipe(_Recipe):
    """One class a pixel."""

    task: Literal["segmentation"]
    data: SegmentationData

    @model_validator(mode="after")
    def _answers_cover_the_image(self) -> "SegmentationRecipe":
        if self.transform.crop is not None:
            raise ValueError(
                "transform.crop: a segmentation answers for the whole image, and a crop would "
                "leave its border without one; give resize as [height, width]"
            )
        return self


Recipe = ClassificationRecipe | SegmentationRecipe

_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="task")])


def _train_sections(recipe: _Recipe) -> list[tuple[str, Train]]:
    sections = [("train", recipe.train)]
    if recipe.prune is not None:
        sections.append(("prune.train", recipe.prune.train))
    return sections


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file, with overrides such as "train.epochs=3" applied, their values in YAML.

    Raises RecipeError naming the file, the key's path, the value and what was expected.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: expected keys and values, got {_shown(document)}")
    for override in overrides:
        _apply(document, override)
    return parse_recipe(document, str(path))


def parse_recipe(document: dict[str, Any], name: str = "recipe") -> Recipe:
    """Checks a recipe given as plain dicts; `name` begins every message. Raises RecipeError."""
    document = _with_inherited_training(document)
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        raise RecipeError(f"{name}: " + "; ".join(_problems(document, error))) from error


def _apply(document: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override}: expected KEY.KEY=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: not valid YAML: {_one_line(error)}") from error
    section = document
    for depth, key in enumerate(keys[:-1]):
        # A section that the file leaves out, or leaves empty, may be opened by an override.
        below = section.get(key)
        if below is None:
            below = section[key] = {}
        if not isinstance(below, dict):
            where = ".".join(keys[: depth + 1])
            raise RecipeError(f"--set {override}: {where} is {_shown(below)}, it has no keys")
        section = below
    section[keys[-1]] = value


def _with_inherited_training(document: dict[str, Any]) -> dict[str, Any]:
    """prune.train filled up from train; an optimiser of another name inherits nothing."""
    prune, train = document.get("prune"), document.get("train")
    if not isinstance(prune, dict) or not isinstance(train, dict):
        return document
    own = prune.get("train") or {}
    if not isinstance(own, dict):
        return document
    return {**document, "prune": {**prune, "train": _merged(train, own)}}


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **own}
    for key, value in own.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            same_kind = value.get("name", below.get("name")) == below.get("name")
            merged[key] = {**below, **value} if same_kind else value
    return merged


def _problems(document: dict[str, Any], error: ValidationError) -> list[str]:
    """One text for each wrong place; what prune.train inherited is told once, of train."""
    by_path: dict[str, str] = {}
    for problem in error.errors():
        path = _document_path(document, problem)
        by_path.setdefault(path, _explain(path, problem))
    inherited = {f"prune.{text}" for path, text in by_path.items() if path.startswith("train")}
    return [text for text in by_path.values() if text not in inherited]


def _explain(path: str, problem: Any) -> str:
    location = tuple(problem["loc"])
    value = problem["input"]
    message = str(problem["msg"])
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key{_nearest(location)}"
        case "missing":
            return f"{path}: missing"
        case "union_tag_not_found":
            key = _join(path, str(problem["ctx"]["discriminator"]).strip("'"))
            return f"{key}: missing; expected one of {', '.join(_tags(location))}"
        case "union_tag_invalid":
            key = _join(path, str(problem["ctx"]["discriminator"]).strip("'"))
            tag = str(problem["ctx"]["tag"])
            near = difflib.get_close_matches(tag, _tags(location), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            expected = ", ".join(_tags(location))
            return f"{key}: expected one of {expected}; got {tag!r}{hint}"
        case "value_error":
            return _join(path, message.removeprefix("Value error, "), ": ")
        case _:
            expected = message[:1].lower() + message[1:]
            return f"{path}: {expected}, got {_shown(value)}"


def _join(path: str, rest: str, separator: str = ".") -> str:
    return f"{path}{separator}{rest}" if path else rest


def _document_path(document: Any, problem: Any) -> str:
    """The path as written in the file: pydantic's own also names the chosen member of a union."""
    parts: list[str] = []
    here = document
    for part in problem["loc"]:
        if isinstance(here, Mapping) and part in here:
            here = here[part]
            parts.append(str(part))
        elif isinstance(here, list | tuple) and isinstance(part, int):
            here = here[part] if part < len(here) else None
            parts.append(str(part))
    if problem["type"] == "missing":
        parts.append(str(problem["loc"][-1]))
    return ".".join(parts)


def _nearest(location: tuple[int | str, ...]) -> str:
    sections = _members(_annotation_at(location[:-1]))
    names = [name for section in sections for name in section.model_fields]
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid here: {', '.join(names)}"


def _tags(location: tuple[int | str, ...]) -> list[str]:
    """The values that select a member of the union that stands at a location."""
    annotation = _annotation_at(location)
    return [str(tag) for member in _members(annotation) for tag in _literals(member)]


def _annotation_at(location: tuple[int | str, ...]) -> Any:
    annotation: Any = Recipe
    for part in location:
        annotation = _step(annotation, part)
    return annotation


def _step(annotation: Any, part: int | str) -> Any:
    members = _members(annotation)
    for member in members:
        if len(members) > 1 and str(part) in _literals(member):
            return member
    for member in members:
        if isinstance(member, type) and issubclass(member, BaseModel):
            field = member.model_fields.get(str(part))
            if field is not None:
                return field.annotation
    return None


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for arg in get_args(annotation) for m in _members(arg) if m is not type(None)]
    return [annotation]


def _literals(member: Any) -> list[str]:
    """The values of the fields of a model that hold a fixed word, such as its `name`."""
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return []
    return [
        str(get_args(field.annotation)[0])
        for name, field in member.model_fields.items()
        if name in ("task", "source", "name") and get_origin(field.annotation) is Literal
    ]


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
