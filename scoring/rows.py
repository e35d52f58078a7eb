"""The rows of a job's table: their columns, and the table of some images.

Every row has `image` (the path below the source, as text), `image_bytes` (the same as bytes, where
it is no UTF-8) and `error` (why the image has no answer); the other columns are the task's, and
empty beside an error:

classification: `label`, `score` (the best class), `labels` (the best classes: index, name, score)
segmentation: `height`, `width`, `areas` (classes in the mask: index, name, fraction of the pixels,
    mean confidence), and with masks `mask` (the PNG below the folder of masks)
embedding: `embedding` (float32 [D], of length 1)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from scoring.errors import ImageFault
from scoring.sources.item import Item, text_of
from serving.base.task import Task

# Values of an image's columns, by name.
Answer = Mapping[str, Any]

_NAMED = [("index", pa.int32()), ("name", pa.string())]
_LABELS = pa.list_(pa.struct([*_NAMED, ("score", pa.float32())]))
_AREAS = pa.list_(pa.struct([*_NAMED, ("fraction", pa.float32()), ("confidence", pa.float32())]))


def schema_of(task: Task, length: int, masks: bool) -> pa.Schema:
    """The columns. length: values of an embedding. masks: they are saved beside the table."""
    columns = [
        pa.field("image", pa.string(), nullable=False),
        pa.field("image_bytes", pa.binary()),
        pa.field("error", pa.string()),
    ]
    if task == "classification":
        columns += [
            pa.field("label", pa.string()),
            pa.field("score", pa.float32()),
            pa.field("labels", _LABELS),
        ]
    elif task == "segmentation":
        sizes = [pa.field("height", pa.int32()), pa.field("width", pa.int32())]
        columns += [*sizes, pa.field("areas", _AREAS)]
        columns += [pa.field("mask", pa.string())] if masks else []
    else:
        columns.append(pa.field("embedding", pa.list_(pa.float32(), length)))
    return pa.schema(columns)


def labels_answer(labels: Sequence[tuple[int, str, float]]) -> Answer:
    """The columns of the best classes (index, name, score), best first."""
    _, name, score = labels[0]
    named = [dict(zip(("index", "name", "score"), label, strict=True)) for label in labels]
    return {"label": name, "score": score, "labels": named}


def areas_answer(
    height: int, width: int, areas: Sequence[tuple[int, str, float, float]], png: bytes
) -> Answer:
    """The columns of a mask. areas: (index, name, fraction, confidence). png: its file, which gives
    way to a path; empty where none is saved."""
    names = ("index", "name", "fraction", "confidence")
    found = [dict(zip(names, area, strict=True)) for area in areas]
    return {"height": height, "width": width, "areas": found, "mask": png}


def table_of(
    schema: pa.Schema, items: Sequence[Item], answers: Sequence[Answer | ImageFault]
) -> pa.Table:
    """One row an image, in their order."""
    told = [text_of(item.name) for item in items]
    columns: dict[str, list[Any]] = {
        "image": [text for text, _ in told],
        "image_bytes": [None if exact else item.name for item, (_, exact) in zip(items, told)],  # noqa: B905
        "error": [str(found) if isinstance(found, ImageFault) else None for found in answers],
    }
    for name in schema.names[len(columns) :]:
        columns[name] = [
            None if isinstance(found, ImageFault) else found[name] for found in answers
        ]
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def failed_in(table: pa.Table) -> int:
    """Rows with an error."""
    return len(table) - int(table["error"].null_count)
