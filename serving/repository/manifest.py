"""manifest.json: the description of an artefact, with its measured accuracy and latency."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from serving.base.errors import InvalidManifest, quoted
from serving.base.evaluation import Estimate
from serving.base.files import is_plain_name
from serving.base.task import TASKS, Task
from serving.base.text import NotText, first_problem, read_text
from serving.repository.interface import Interface, unheld

# 1.1: `data` of a variant. 1.2: `channels` of the transform, `normalization` of one channel;
# `interface`, and with one no task, transform or normalization. 1.3: `refused`. 1.4: `data_sha256`.
SCHEMA_VERSION = "1.4"
MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.npz"

# Pixels of a transform's result: as many as the largest image that is decoded by default. Larger
# would let one manifest ask for more memory than all callers together.
_MAX_PIXELS = 64_000_000
# Variants of a version, and data files of a variant. A build makes a dozen at most; each one is
# hashed and may be loaded and timed.
_MAX_VARIANTS = 64
_MAX_DATA_FILES = 1024


def _plain(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError(f"expected the name of a file in the version's folder, got {quoted(name)}")
    return name


FileName = Annotated[str, AfterValidator(_plain)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
# Of an image: 1 is grey, 3 is RGB.
Channels = Literal[1, 3]
Side = Annotated[int, Field(ge=1, le=_MAX_PIXELS)]


class _Frozen(BaseModel):
    # A newer minor version may add fields, so only an unknown major version is refused.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class EvalTransform(_Frozen):
    """The way of a decoded image to the network's input: colours, resize and crop.

    resize: applied first. One number is the shorter side in pixels, with the aspect ratio kept; a
        pair is (height, width), stretched.
    crop: (height, width) of the centre that is then cut out.
    filter: interpolation of the resize.
    channels: 3 for RGB, 1 for grey.
    """

    resize: Side | tuple[Side, Side]
    crop: tuple[Side, Side] | None = None
    filter: Literal["area", "bilinear", "bicubic"] = "area"
    channels: Channels = 3

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for name in ("resize", "crop"):
            size = getattr(self, name)
            if isinstance(size, tuple) and math.prod(size) > _MAX_PIXELS:
                raise ValueError(f"{name}: {list(size)} has more than {_MAX_PIXELS:,} pixels")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the result.

        Raises ValueError where the shorter side is given without a crop: the size would depend on
        the image, and such images cannot share a batch.
        """
        if self.crop is not None:
            return self.crop
        if isinstance(self.resize, int):
            raise ValueError(
                f"resize: {self.resize} keeps the aspect ratio, so a crop must follow it; "
                "or give resize as [height, width]"
            )
        return self.resize


class Normalization(_Frozen):
    """(pixel / 255 - mean) / std, one value a channel. The graph computes it; this records it."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                "expected mean and std of 3 values each, or for grey of 1, got "
                f"{len(self.mean)} and {len(self.std)}"
            )
        return self


class Latency(_Frozen):
    """Median milliseconds of a batch, by batch size, and the machine of the measurement."""

    machine: str
    milliseconds: Mapping[int, float]


class Gate(_Frozen):
    """Whether the recipe's bounds held, with the numbers that decided in `reason`."""

    passed: bool
    reason: str


class Evidence(_Frozen):
    """Measurements of one variant in one engine.

    accuracy: the task's measure on the evaluation split.
    measures: the task's other measures by name; plain numbers have no interval.
    drop: accuracy lost against FP32.
    class_drops: loss of recall or IoU of the classes that lost most, by class.
    agreement: share of answers that equal FP32's.
    samples_tolerance: distance of the answers on samples.npz from FP32's that a server accepts.
    latency: measured latency.
    gate: whether it may be served.
    """

    accuracy: Estimate
    measures: Mapping[str, Estimate | float] = {}
    drop: Estimate
    class_drops: Mapping[str, float] = {}
    agreement: Fraction
    samples_tolerance: float
    latency: Latency
    gate: Gate


class Variant(_Frozen):
    """One file and the precision that it runs in.

    id: its name in the manifest ("int8-u8").
    file: its name in the version folder.
    data: SHA-256 of the files beside it that hold its weights, by name; an ONNX file names them.
    evidence: its measurements, by engine name.
    calibration_sha256: SHA-256 of the images that an INT8 variant was calibrated with.
    tensorrt_version, compute_capability, driver: set for a TensorRT plan alone: the TensorRT that
        built it, and the GPU and driver that it was built on.
    """

    id: str
    file: FileName
    sha256: str
    data: Annotated[Mapping[FileName, str], Field(max_length=_MAX_DATA_FILES)] = {}
    precision: Precision
    evidence: Mapping[str, Evidence]
    calibration_sha256: str | None = None
    tensorrt_version: str | None = None
    compute_capability: str | None = None
    driver: str | None = None

    def path_in(self, folder: Path) -> Path:
        """The place of its file, for a version in `folder`."""
        return folder / self.file

    @property
    def symmetric(self) -> bool:
        """Whether its numbers have a zero point of 0. The id of INT8 with asymmetric uint8
        activations ends in "-u8"."""
        return not self.id.endswith("-u8")


class Provenance(_Frozen):
    """The recipe, the run and the data that the artefact comes from.

    data_sha256: of the data's source, files and splits; empty where it was not recorded.
    """

    recipe: str
    recipe_sha256: str
    run: str
    dataset: str
    split: str
    created: str
    data_sha256: str = ""


class Manifest(_Frozen):
    """The whole of manifest.json.

    task: None for a network that has tensors only.
    measure: the accuracy of its evidence; "agreement" is the share of answers that are FP32's,
        where the data had no labels.
    transform: None for a network that takes no images.
    normalization: None for a network with an interface of its own.
    gmacs: None where they were not counted.
    refused: the reason for each variant that was made or wanted and is not served, by its id; told
        by an adoption.
    interface: that of a network that was made elsewhere; None for the form that a build publishes,
        `image` uint8 NHWC to the outputs of its task.
    """

    schema_version: str = SCHEMA_VERSION
    task: Task | None = None
    architecture: str
    measure: Literal["top1", "miou", "iou", "rank1", "agreement"]
    transform: EvalTransform | None = None
    normalization: Normalization | None = None
    classes: tuple[str, ...]
    parameters: int
    gmacs: float | None
    pruning_ratio: float = 0.0
    provenance: Provenance
    variants: Annotated[tuple[Variant, ...], Field(max_length=_MAX_VARIANTS)]
    refused: Annotated[Mapping[str, str], Field(max_length=_MAX_VARIANTS)] = {}
    interface: Interface | None = None

    @model_validator(mode="after")
    def _described(self) -> Self:
        interface = self.interface
        if interface is None:
            for name in ("task", "transform", "normalization"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name}: missing, and no interface takes its place")
            return self
        if (interface.input is None) != (self.transform is None):
            raise ValueError("interface.input: expected together with transform, or neither")
        if (interface.answer is None) != (self.task is None):
            raise ValueError("interface.answer: expected together with task, or neither")
        if self.task is not None and interface.answer is not None:
            reason = unheld(self.task, interface.answer.holds)
            if reason:
                raise ValueError(f"interface.answer.holds: {reason}")
        if self.transform is not None and interface.input is not None:
            _ = self.transform.size
            if self.transform.channels != interface.input.depth:
                raise ValueError(
                    f"transform.channels: expected {interface.input.depth} for "
                    f"{interface.input.channels}, got {self.transform.channels}"
                )
        return self

    @property
    def answer(self) -> str | None:
        """The name of the output that holds classes or scores; None without a task."""
        if self.interface is not None:
            return self.interface.answer.output if self.interface.answer is not None else None
        return TASKS[self.task].output if self.task is not None else None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a version folder; None where it has none.

    Raises InvalidManifest, naming the file and the field.
    """
    path = folder / MANIFEST_FILE
    try:
        text = read_text(folder, MANIFEST_FILE, folder, folder.parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidManifest(f"{path}: cannot be read: {error.strerror}") from error
    except NotText as error:
        raise InvalidManifest(f"{path}: cannot be read: {error.reason}") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{path}: not valid JSON: {error}") from error
    version = str(document.get("schema_version")) if isinstance(document, dict) else "none"
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise InvalidManifest(
            f"{path}: schema_version: expected {SCHEMA_VERSION.split('.')[0]}.x, got {version[:20]}"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        where, wrong = first_problem(error)
        raise InvalidManifest(f"{path}: {where or 'document'}: {wrong}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json into a version folder."""
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
