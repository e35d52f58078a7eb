"""The request of an adoption, and what is known of it before anything is computed."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from serving.base.errors import ModelLoadError
from serving.base.files import sha256
from serving.base.folders import why_no_folder
from serving.base.task import Task
from serving.base.text import counted
from serving.images.tensor import ToTensor
from serving.repository.interface import Meaning, TaskOutput
from serving.repository.labels import read_labels
from serving.repository.model_config import CONFIG_FILE
from training.compress.calibration import Method
from training.data.class_names import read_class_names
from training.errors import DataError, ExportError, RecipeError
from training.models.files.source import file_fingerprint, opset_of
from training.pipeline.adopt.description import Described, describe_answer, describe_images
from training.pipeline.adopt.items import Data, read_images, read_labelled, read_tensors
from training.pipeline.adopt.judging import Bounds
from training.pipeline.adopt.publishing import is_whole
from training.pipeline.adopt.served import ServedModel, read_served
from training.pipeline.environment import measuring_facts

# Part of the key of what was written; larger where the same request would write something else.
_FORMAT = 2
VARIANTS = ("fp32", "bf16", "fp16", "int8-s8", "int8-u8")


@dataclass(frozen=True)
class Request:
    """The options of the command.

    version: None for the newest that is served.
    preprocess: "imagenet" or a YAML file; None for tensors.
    output, holds: the output that answers the task, and its meaning; None where it is looked for.
    classes: a file of class names, one a line, in the network's order.
    unlabelled: variants are compared with FP32 although folders could be labels.
    items: the most items that are read; of labelled images, that variants are judged on.
    max_float: largest share of the layers of an INT8 variant that stay in floating point where it
        would fail its gate; 0 forbids it.
    """

    model: Path
    data: Path
    version: int | None = None
    preprocess: str | None = None
    task: Task | None = None
    output: str | None = None
    holds: Meaning | None = None
    classes: Path | None = None
    unlabelled: bool = False
    variants: tuple[str, ...] = VARIANTS
    items: int = 1000
    calibration_items: int = 256
    calibrate: Method = "minmax"
    max_float: float = 0.25
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Plan:
    """What is known before anything is computed.

    key: identifies the request with all that it depends on.
    done: the version holds the result of this very request.
    """

    model: ServedModel
    data: Data
    described: Described
    answer: TaskOutput | None
    classes: tuple[str, ...]
    key: str
    done: bool

    def lines(self, request: Request) -> list[str]:
        """The plan in words."""
        model = self.model
        batch = f"batches of {model.config.max_batch_size}" if model.batches else "no batches"
        tensors = [*map(str, model.inputs), "->", *map(str, model.outputs)]
        lines = [
            f"{model.file}: opset {opset_of(model.graph)}, {model.parameters:,} weights, {batch}",
            f"tensors: {' '.join(tensors)}",
            f"data: {self.data.description}; ranges on "
            f"{counted(len(self.data.calibration), 'item')}, judged on {len(self.data.measured)}"
            f" by {'their labels' if self.data.labelled else 'their agreement with FP32'}",
            *(f"data: {note}" for note in self.data.notes),
        ]
        image, transform = self.described.image, self.described.transform
        if image is not None and transform is not None:
            lines.append(f"images: {transform.model_dump_json()} as {image}")
        if self.answer is not None:
            others = "the data's classes in their order" if self.data.labelled else "no class names"
            names = f"{len(self.classes)} class names" if self.classes else others
            lines.append(
                f"task: {request.task}, answered by {self.answer.output!r}, which holds "
                f"{self.answer.holds}; {names}"
            )
        return lines


def plan(request: Request) -> Plan:
    """Reads the model, the data and the description of its images. Raises BuildError."""
    model = read_served(request.model, request.version)
    if request.task is None and (request.output or request.holds or request.classes):
        raise RecipeError("--output, --holds and --classes say how a task is answered: give --task")
    if request.task is not None and request.preprocess is None:
        raise RecipeError("--task: a task is done on images: say by --preprocess what they become")
    described = Described()
    answer = None
    if request.preprocess is not None:
        described = describe_images(request.preprocess, model, request.task)
    if request.task is not None:
        answer = describe_answer(request.task, request.output, request.holds, model, described)
    data = _data(request, model, described)
    classes = _classes(request, model, answer)
    key = key_of(request, model, data)
    former = model.former
    done = former is not None and former.provenance.recipe_sha256 == key and is_whole(model)
    return Plan(model, data, described, answer, classes, key, done)


def _data(request: Request, model: ServedModel, described: Described) -> Data:
    if not request.data.is_dir():
        raise DataError(f"--data: {request.data}: {why_no_folder(request.data)}")
    if described.image is None or described.transform is None:
        return read_tensors(request.data, model, request.items, request.calibration_items)
    to_tensor = ToTensor(described.image, model.inputs[0])
    if request.task is not None and not request.unlabelled:
        labelled = read_labelled(
            request.data, request.task, described.transform, to_tensor, model, request.items,
            request.calibration_items,
        )  # fmt: skip
        if labelled is not None:
            return labelled
    return read_images(
        request.data, described.transform, to_tensor, model, request.items,
        request.calibration_items,
    )  # fmt: skip


def _classes(request: Request, model: ServedModel, answer: TaskOutput | None) -> tuple[str, ...]:
    """The names of the network's classes: those of --classes, or of the label_filename of the
    output; empty where neither names them."""
    if answer is None or answer.holds == "embedding":
        return ()
    if request.classes is not None:
        return read_class_names(request.classes, "--classes")
    try:
        return read_labels(model.path, model.config, None).get(answer.output, ())
    except ModelLoadError as error:
        raise ExportError(error.detail) from error


def key_of(request: Request, model: ServedModel, data: Data) -> str:
    """Hash of the request, the network, its config, the data and the engines here."""
    given = asdict(request)
    for name in ("preprocess", "classes"):
        if given[name] is not None and Path(given[name]).is_file():
            given[name] = sha256(Path(given[name]))
    config = model.path / CONFIG_FILE
    parts = {
        "format": _FORMAT,
        "request": {k: str(v) for k, v in given.items() if k not in ("model", "data", "version")},
        "network": file_fingerprint(model.file),
        "config": sha256(config) if config.is_file() else "",
        "data": data.fingerprint,
        "engines": measuring_facts(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
