"""Takes a network that comes as a file: finds out what it takes for an image, and writes its
deployed form."""

import logging
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from serving.base.errors import EngineError
from serving.base.evaluation import class_iou, confusion_matrix
from serving.base.task import IMAGE_INPUT, PROBABILITY_OUTPUT, Task
from serving.base.tensor import Array
from serving.images.postprocess import binary_mask, softmax
from serving.repository.interface import GivenInput, TaskOutput
from training.data.readers import Targets
from training.data.samples import ChosenSamples, Samples
from training.data.sampling import spread_rows
from training.errors import ExportError
from training.evaluation.network_answers import images_at_once
from training.evaluation.validation_trial import spread
from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.fitting.step_memory import BatchMemory, answering_memory
from training.models.export.deployed import output_specs
from training.models.export.variants import FP32_FILE
from training.models.files.answers import chosen_output, finished, meaning
from training.models.files.batches import check_batches, free_shapes, set_input
from training.models.files.description import Description, chosen_input, descriptions
from training.models.files.memory import activation_bytes
from training.models.files.network import DESCRIPTION_FILE, raw_answers
from training.models.files.original import (
    ExportedOriginal,
    Original,
    load_exported,
    open_original,
)
from training.models.files.size import count_graph
from training.models.files.source import prepared, read_source
from training.models.files.wrap import deployed_graph
from training.recipes.model import ModelChoice

log = logging.getLogger(__name__)

# Validation images on which the usual ways to take an image are tried, and runs of a file that they
# take at most: of large images fewer do, whose answers would fill the memory. More tell near ways
# apart, and take as much longer.
_TRIED, _TRIED_RUNS = 64, 2
# One wrong answer of a network that is sure of it counts as this probability, and decides nothing.
_LEAST_LIKELY = 1e-3
# Rows on which a batch is compared with single images.
_ROWS = 3
# Of a program of torch.export as ONNX.
_OPSET = 20


def take_file(current: Build) -> Results:
    """The work of the train stage for a file. Raises ExportError."""
    choice = current.recipe.model
    original = open_original(choice)
    folder = current.stage_folder("train")
    try:
        description, said = _described(current, original)
        log.info("train: %s: %s; %s", choice.architecture, description, said)
        (folder / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=2) + "\n")
        images, _ = current.data.val.batch(range(min(_ROWS, len(current.data.val))))
        answers = raw_answers(original, description, images, len(images))
    finally:
        original.close()
    graph = _free_graph(choice, description, original, description.prepare(images).shape[1:])
    parameters, macs = count_graph(graph)
    answer = answers[description.answer.output]
    named = _named_as(graph, description, original)
    wrapped = deployed_graph(
        graph, named, current.recipe.task, current.channels, current.size, answer
    )
    path = folder / FP32_FILE
    onnx.save(wrapped, path)
    wanted = finished(answer, description, current.recipe.task, current.channels, current.size)
    first = output_specs(current.recipe.task, current.channels, current.size)[0].name
    check_batches(path, images, IMAGE_INPUT, {first: wanted[first]}, str(choice.file))
    return {
        "history": [],
        "precision": "fp32",
        "parameters": parameters,
        "macs": macs,
        "images": [len(current.data.train), len(current.data.val)],
        "notes": {"input": f"{description}; {said}"},
    }


def _described(current: Build, original: Original) -> tuple[Description, str]:
    """What the file takes and answers, and a sentence on how that was found."""
    choice, task = current.recipe.model, current.recipe.task
    named, given = str(choice.file), choice.input or GivenInput()
    tried = _tried(current.data.val, task, current.size)
    images, _ = tried.batch(range(len(tried)))
    spec = chosen_input(given, original.inputs, named)
    shown = images.shape[1:]
    unknown = TaskOutput(output="")
    likeliest = next(descriptions(given, spec, shown, unknown, named))
    found = raw_answers(original, likeliest, images, images_at_once(current.size))
    output = chosen_output(choice.output, found, task, current.channels, named)
    holds, layout = meaning(found[output], task, current.channels, named)
    answer = TaskOutput(output=output, holds=choice.holds or holds, layout=layout)
    ways = list(descriptions(given, spec, shown, answer, named))
    if len(ways) == 1:
        return ways[0], "as the recipe and the file say"
    return _most_accurate(current, original, ways, tried)


def _tried(samples: Samples, task: Task, size: tuple[int, int]) -> Samples:
    """Some of the samples, evenly spread; of an embedding neighbours, two and two, since images of
    one person lie together."""
    count = min(_TRIED, _TRIED_RUNS * images_at_once(size))
    if task != "embedding":
        return spread(samples, count)
    first = spread_rows(len(samples), max(1, count // 2))
    return ChosenSamples(samples, np.union1d(first, np.minimum(first + 1, len(samples) - 1)))


def _most_accurate(
    current: Build, original: Original, ways: list[Description], tried: Samples
) -> tuple[Description, str]:
    """The way by which the file's answers fit the labels best; the likelier of equal ones."""
    images, targets = tried.batch(range(len(tried)))
    channels, size, ignored = current.channels, current.size, current.data.ignore_index
    task = current.recipe.task
    measure, fit = _FITS[task]
    fits = []
    for way in ways:
        raw = raw_answers(original, way, images, images_at_once(size))[way.answer.output]
        found = finished(raw, way, task, channels, size)
        value = fit(found, targets, len(current.data.classes), ignored)
        fits.append(value if math.isfinite(value) else -math.inf)
    best, second = sorted(range(len(ways)), key=lambda index: -fits[index])[:2]
    said = (
        f"found on {len(images)} validation images, of {len(ways)} ways: {measure} "
        f"{fits[best]:.3f}, next best {fits[second]:.3f} with {ways[second].image}; model.input "
        "sets another"
    )
    return ways[best], said


def _likelihood(
    found: dict[str, Array], labels: Targets, classes: int, ignored: int | None
) -> float:
    """Mean logarithm of the probability of the true class, at least _LEAST_LIKELY of an image:
    it tells ways apart that are equally often right."""
    probabilities = softmax(found["logits"])[np.arange(len(labels)), labels]
    return float(np.log(np.maximum(probabilities, _LEAST_LIKELY)).mean())


def _overlap(found: dict[str, Array], masks: Targets, classes: int, ignored: int | None) -> float:
    """Mean IoU."""
    if PROBABILITY_OUTPUT in found:
        predicted, _ = binary_mask(found[PROBABILITY_OUTPUT])
    else:
        predicted = found["mask"]
    return float(np.nanmean(class_iou(confusion_matrix(masks, predicted, classes, ignored))))


def _separation(
    found: dict[str, Array], people: Targets, classes: int, ignored: int | None
) -> float:
    """Mean cosine of two pictures of a person less that of two people."""
    cosines = found["embedding"] @ found["embedding"].T
    same = people[:, None] == people[None, :]
    return float(cosines[same].mean() - cosines[~same].mean())


_Fit = Callable[[dict[str, Array], Targets, int, int | None], float]

_FITS: dict[Task, tuple[str, _Fit]] = {
    "classification": ("log-likelihood", _likelihood),
    "segmentation": ("mean IoU", _overlap),
    "embedding": ("cosine of one person less that of two", _separation),
}
"""How well answers fit the labels, by name; larger is better."""


def _free_graph(
    choice: ModelChoice, description: Description, original: Original, image: tuple[int, ...]
) -> onnx.ModelProto:
    """The file's graph for inputs of [any batch, *image]."""
    file = choice.file
    if file is None:
        raise ValueError("the network comes as no file")
    model = read_source(file) if choice.onnx is not None else _as_onnx(file)
    name = _named_as(model, description, original).image.name
    try:
        set_input(model, name, image)
        model = prepared(file, model)
        if description.batch:
            free_shapes(model, name, description.batch)
    except ExportError as error:
        if not description.batch:
            raise
        raise ExportError(
            f"{error} (its batch is fixed at {description.batch}, and was taken out of it: export "
            "the network with a dynamic batch)"
        ) from error
    return model


def _as_onnx(file: Path) -> onnx.ModelProto:
    """A program of torch.export as an ONNX graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported.onnx"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    load_exported(file), (), path, dynamo=True, external_data=False,
                    opset_version=_OPSET, verbose=False,
                )  # fmt: skip
        except ExportError:
            raise
        except Exception as error:  # the exporter raises errors of its own for each of its steps
            said = " ".join(str(error).split())[:300]
            raise ExportError(f"{file}: torch cannot write it as ONNX: {said}") from error
        return read_source(path)


def _named_as(model: onnx.ModelProto, description: Description, original: Original) -> Description:
    """The description with the names that the tensors have in the graph: torch's exporter may give
    them others, in the same order."""
    inputs = [spec.name for spec in original.inputs]
    outputs = [spec.name for spec in original.outputs]
    image, answer = description.image, description.answer
    name = model.graph.input[inputs.index(image.name)].name
    output = model.graph.output[outputs.index(answer.output)].name
    return description.model_copy(
        update={
            "image": image.model_copy(update={"name": name}),
            "answer": answer.model_copy(update={"output": output}),
        }
    )


def answering(current: Build) -> BatchMemory:
    """The memory that a file takes to answer, beside its weights: of an ONNX file as far as shapes
    tell, while a program of torch.export is run. Raises ExportError."""
    choice, shown = current.recipe.model, current.inputs[0].shape[1:]
    original = open_original(choice)
    try:
        given, named = choice.input or GivenInput(), str(choice.file)
        spec = chosen_input(given, original.inputs, named)
        way = next(descriptions(given, spec, shown, TaskOutput(output=""), named))
        image = way.prepare(np.zeros((1, *shown), np.uint8))
        if isinstance(original, ExportedOriginal):
            program = original

            def run(count: int) -> None:
                program.infer({spec.name: np.repeat(image, way.batch or count, axis=0)})

            return answering_memory(run, program.tensors)
    except EngineError as error:
        raise ExportError(f"{named}: {error}") from error
    finally:
        original.close()
    assert choice.onnx is not None, "the other kind of file"
    held = activation_bytes(read_source(choice.onnx), spec.name, image.shape[1:])
    # Pixels become the input one by one, and are then put together.
    return BatchMemory(0, held + 2 * image.nbytes)
