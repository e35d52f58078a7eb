"""Folders of pictures, one folder a person; nobody is in two splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.base.folders import list_class_folders, visible_folders, why_no_folder
from serving.repository.manifest import EvalTransform
from training.data.readers import ImageReader
from training.data.samples import Dataset, read_splits
from training.data.sources.assemble import besides
from training.data.sources.image_folder import image_bytes, shown_name
from training.data.sources.split_folders import alike, beside_splits, split_folders
from training.data.split import SPLITS, cut
from training.errors import DataError, data_errors
from training.recipes.data import IdentityFolderData

# The pictures of each identity, by its name.
Pictures = dict[str, list[Path]]


@data_errors()
def identity_folder(data: IdentityFolderData, transform: EvalTransform) -> Dataset:
    """ROOT/PERSON/*.png, or ROOT/train/PERSON/*.png with val/ and test/ beside it as far as they
    exist; people for missing splits are taken from the training people, as the recipe says.

    `classes` are the training identities; a target is an index into them, and past them for people
    who are in val and test only. Within a split the pictures of a person follow each other.
    Raises DataError naming the folder or files that are missing or broken.
    """
    root = data.root
    if not root.is_dir():
        raise DataError(f"data.root: {root}: {why_no_folder(root)}")
    folders = split_folders(root, lambda folder: bool(visible_folders(folder)))
    left_out = Counter(beside_splits(root, folders))
    parts: dict[str, Pictures] = {}
    for name, folder in folders.items():
        found = list_class_folders(folder)
        if empty := [person for person, files in found.images.items() if not files]:
            raise DataError(
                f"{folder}: no pictures of {', '.join(empty[:10])}{besides(found.left_out)}"
            )
        parts[name] = found.images
        left_out += found.left_out
    train = parts.pop("train")
    _check_given(folders, data)
    words = [f"{name} as given" for name in parts]
    if "test" not in parts:
        train, parts["test"] = _cut_people(
            train, data.test_identities, data.test_fraction, data.split_seed, "data.test_identities"
        )
        words.append(_how("test", data.test_identities, data.split_seed))
    if "val" not in parts and data.val_by == "pictures":
        train, parts["val"] = _cut_pictures(train, data.val_fraction, data.split_seed + 1)
        words.append(f"val cut from the pictures of the training people (seed {data.split_seed})")
    elif "val" not in parts:
        train, parts["val"] = _cut_people(
            train, data.val_identities, data.val_fraction, data.split_seed + 1,
            "data.val_identities",
        )  # fmt: skip
        words.append(_how("val", data.val_identities, data.split_seed))
    parts["train"] = train
    _check(root, parts, data)
    dataset = _dataset(root, parts, transform, ", ".join(words), left_out)
    return replace(dataset, notes=alike(folders["train"]))


def _how(split: str, named: Sequence[str], seed: int) -> str:
    return f"{split} people {'by name' if named else f'cut at random (seed {seed})'}"


def _dataset(
    root: Path,
    parts: dict[str, Pictures],
    transform: EvalTransform,
    how: str,
    left_out: Mapping[str, int],
) -> Dataset:
    classes = tuple(sorted(parts["train"]))
    others = sorted({person for name in ("val", "test") for person in parts[name]} - set(classes))
    numbers = {person: number for number, person in enumerate((*classes, *others))}
    height, width = transform.size
    samples = read_splits(
        str(root),
        {
            name: [(file, numbers[who]) for who in sorted(parts[name]) for file in parts[name][who]]
            for name in SPLITS
        },
        lambda item: shown_name(item[0], root),
        ImageReader[tuple[Path, int]](
            lambda item: image_bytes(item[0]),
            lambda item, size: np.asarray(item[1], np.int64),
            transform,
        ),
        height * width * transform.channels,
    )
    counts = ", ".join(f"{len(parts[name])} people in {name}" for name in SPLITS)
    return Dataset(
        name=root.name,
        description=f"identity folder {root.name}; {how}; {counts}",
        classes=classes,
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        open_set=True,
        left_out=left_out,
    )


def _cut_people(
    pictures: Pictures, named: Sequence[str], fraction: float, seed: int, key: str
) -> tuple[Pictures, Pictures]:
    """(kept, cut out): the named people, or else a fraction of all, at random."""
    people = sorted(pictures)
    if named:
        chosen = _named(named, people, key)
    else:
        chosen = {people[index] for index in cut([0] * len(people), fraction, seed)[1]}
    kept = {person: files for person, files in pictures.items() if person not in chosen}
    return kept, {person: pictures[person] for person in sorted(chosen)}


def _named(wanted: Sequence[str], people: Sequence[str], key: str) -> set[str]:
    """The people in a list of names and of ranges FIRST..LAST, both included."""
    chosen: set[str] = set()
    for entry in wanted:
        begin, dots, end = entry.partition("..")
        last = end if dots else begin
        for name in (begin, last):
            if name not in people:
                raise DataError(
                    f"{key}: {name!r} is none of the {len(people)} people to choose from, "
                    f"{people[0]} to {people[-1]}"
                )
        chosen |= {name for name in people if begin <= name <= last}
    return chosen


def _cut_pictures(pictures: Pictures, fraction: float, seed: int) -> tuple[Pictures, Pictures]:
    """(kept, cut out): everybody is in both, with a fraction of their pictures in the second."""
    owners = [number for number, person in enumerate(pictures) for _ in pictures[person]]
    chosen = set(cut(owners, fraction, seed)[1].tolist())
    kept: Pictures = {person: [] for person in pictures}
    out: Pictures = {person: [] for person in pictures}
    everything = ((person, file) for person, files in pictures.items() for file in files)
    for index, (person, file) in enumerate(everything):
        (out if index in chosen else kept)[person].append(file)
    return kept, {person: files for person, files in out.items() if files}


def _check_given(folders: Mapping[str, Path], data: IdentityFolderData) -> None:
    """Refuses keys that a split's folder makes idle."""
    for split, key, idle in (
        ("test", "test_identities", bool(data.test_identities)),
        ("val", "val_identities", bool(data.val_identities)),
        ("val", "val_by", data.val_by == "pictures"),
    ):
        if split in folders and idle:
            raise DataError(
                f"data.{key}: there is a folder {folders[split]}, which says who is in it"
            )


def _check(root: Path, parts: dict[str, Pictures], data: IdentityFolderData) -> None:
    """Refuses splits with too few people or pictures, and people in two splits."""
    pairs = [("train", "test"), ("val", "test")]
    if data.val_by == "identities":
        pairs.append(("train", "val"))
    for first, second in pairs:
        if both := sorted(set(parts[first]) & set(parts[second])):
            raise DataError(
                f"{root}: {', '.join(both[:10])} in {first} and in {second}; nobody may be in both"
            )
    if len(parts["train"]) < 2:
        raise DataError(f"{root}: expected 2 people for train, got {len(parts['train'])}")
    for name in ("val", "test"):
        several = sum(len(files) > 1 for files in parts[name].values())
        if len(parts[name]) < 2 or not several:
            raise DataError(
                f"{root}: {name} has {len(parts[name])} people, {several} of them with several "
                "pictures; expected 2 people, and several pictures of one"
            )
