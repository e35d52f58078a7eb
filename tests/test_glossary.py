"""The same words everywhere: what the command, recipes, protos, metrics and manifests share has one
meaning, which the glossary tells."""

import inspect
import re
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from protos.gen import vision_pb2
from serving.base.counting.totals import Totals
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.repository.manifest import Manifest
from tests.test_help import commands
from training.recipes import ClassificationRecipe, EmbeddingRecipe, SegmentationRecipe

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"

# Words of plain English and of every program, units and sizes, which mean what they say.
PLAIN = """
    age check control count data delay download duration error failed file filter float folder
    fraction holds id index input k layout max mean message mib min minutes name options output
    range ratio seconds size source start suffix test top until url us values workspace
"""
# Of computers and pictures, as everybody in the field uses them.
FIELD = """
    channels colours compute connections crop endpoint http init memory palette pixels process
    request requests resize seed std tensorrt tls tolerance val warmup
"""
KNOWN = set(re.findall(r"\w+", PLAIN + FIELD))
# Forms of a word that the glossary has in another one.
FORMS = {
    "calibrate": "calibration",
    "classes": "class",
    "refused": "gate",
    "sign": "signature",
}


def of_model(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """Names of the fields of a model, and of those in it."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        yield name
        for inner in models_in(field.annotation):
            yield from of_model(inner, seen)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def interfaces() -> dict[str, set[str]]:
    """Every name that people write or read, by where."""
    leaves = commands()
    flags = {f for _, command in leaves.values() for p in command.params for f in p.opts}
    recipes = (ClassificationRecipe, SegmentationRecipe, EmbeddingRecipe)
    messages = vision_pb2.DESCRIPTOR.message_types_by_name.values()
    totals = Totals(FrontMetrics(), EngineMetrics())
    return {
        "command": {word for name in leaves for word in name.split()} | flags,
        "recipe": {name for recipe in recipes for name in of_model(recipe, set())},
        "manifest": set(of_model(Manifest, set())),
        "proto": {field.name for message in messages for field in message.fields},
        "metrics": {family.name for family in totals.registry.collect()},
    }


def shared() -> dict[str, set[str]]:
    """Words of two interfaces at least, by word."""
    places = defaultdict(set)
    for place, names in interfaces().items():
        for name in names:
            for word in re.findall(r"[a-z]+", name.lower()):
                places[word].add(place)
    return {word: found for word, found in places.items() if len(found) > 1}


def test_words_that_several_interfaces_share_are_in_the_glossary() -> None:
    terms = {
        part
        for term in re.findall(r"^\*\*(.+?)\*\*:", GLOSSARY.read_text(), re.MULTILINE)
        for part in (term.lower(), *re.findall(r"[a-z]+", term.lower()))
    }
    missing = {
        word: sorted(places)
        for word, places in sorted(shared().items())
        if not {word, word.removesuffix("s"), FORMS.get(word)} & terms and word not in KNOWN
    }
    assert missing == {}


def test_plain_words_are_no_longer_listed_than_they_are_used() -> None:
    assert (KNOWN | set(FORMS)) - set(shared()) == set()
