"""Folders of pictures, one folder a person: who is trained on is never who is tested."""

from collections.abc import Sequence
from pathlib import Path

from serving.manifest import EvalTransform
from training.data.classification import SUFFIXES, load_labelled, shown_name
from training.data.samples import Dataset, read_splits
from training.data.split import SPLITS, cut
from training.errors import DataError
from training.recipe.data import IdentityFolderData

# The pictures of each identity, by its name.
Pictures = dict[str, list[Path]]


def identity_folder(data: IdentityFolderData, transform: EvalTransform) -> Dataset:
    """ROOT/PERSON/*.png, or ROOT/train/PERSON/*.png with val/ and test/ beside it as far as they
    exist; who is missing is taken from the training people, as the recipe says.

    `classes` are the training identities; a target is an index into them, and past them for people
    who are in val and test only. Within a split the pictures of a person follow each other.
    Raises DataError naming what is missing or broken.
    """
    root = data.root
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder")
    first = root / "train" if (root / "train").is_dir() else root
    train = _pictures(first)
    parts: dict[str, Pictures] = {}
    notes = []
    for offset, (name, wanted, fraction) in enumerate(
        (
            ("test", data.test_identities, data.test_fraction),
            ("val", data.val_identities, data.val_fraction),
        )
    ):
        if first != root and (root / name).is_dir():
            parts[name] = _pictures(root / name)
            notes.append(f"{name} as given")
        elif name == "val" and data.val_by == "pictures":
            train, parts[name] = _cut_pictures(train, fraction, data.split_seed + offset)
            notes.append(f"val cut from the pictures of the same people (seed {data.split_seed})")
        else:
            people = sorted(train)
            if wanted:
                out = set(_named(wanted, people, f"data.{name}_identities"))
                notes.append(f"{name} by name")
            else:
                _, chosen = cut([0] * len(people), fraction, data.split_seed + offset)
                out = {people[index] for index in chosen}
                notes.append(f"{name} people cut at random (seed {data.split_seed})")
            parts[name] = {person: files for person, files in train.items() if person in out}
            train = {person: files for person, files in train.items() if person not in out}
    parts["train"] = train
    _check(root, parts, data)
    return _dataset(root, parts, transform, ", ".join(notes))


def _dataset(root: Path, parts: dict[str, Pictures], transform: EvalTransform, how: str) -> Dataset:
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
        lambda item: load_labelled(*item, transform),
        height * width * 3,
    )
    counts = ", ".join(f"{len(parts[name])} people in {name}" for name in SPLITS)
    return Dataset(
        name=root.name,
        description=f"identity folder {root.name}; {how}; {counts}",
        classes=classes,
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
    )


def _pictures(folder: Path) -> Pictures:
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    found = {
        person.name: sorted(f for f in person.rglob("*") if f.suffix.lower() in SUFFIXES)
        for person in people
    }
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise DataError(f"{folder}: no pictures of {', '.join(empty[:10])}")
    return found


def _named(wanted: Sequence[str], people: Sequence[str], key: str) -> list[str]:
    """The people that a list of names and ranges FIRST..LAST, both included, stands for."""
    chosen: list[str] = []
    for entry in wanted:
        begin, dots, end = entry.partition("..")
        for name in (begin, end) if dots else (begin,):
            if name not in people:
                raise DataError(
                    f"{key}: {name!r} is none of the {len(people)} people to choose from, "
                    f"{people[0]} to {people[-1]}"
                )
        chosen += [name for name in people if begin <= name <= (end if dots else begin)]
    return chosen


def _cut_pictures(train: Pictures, fraction: float, seed: int) -> tuple[Pictures, Pictures]:
    people = [person for person in sorted(train) for _ in train[person]]
    files = [file for person in sorted(train) for file in train[person]]
    numbers = {person: number for number, person in enumerate(sorted(train))}
    kept, out = cut([numbers[person] for person in people], fraction, seed)
    parts: list[Pictures] = []
    for indices in (kept, out):
        part: Pictures = {}
        for index in indices:
            part.setdefault(people[index], []).append(files[index])
        parts.append(part)
    return parts[0], parts[1]


def _check(root: Path, parts: dict[str, Pictures], data: IdentityFolderData) -> None:
    """What training and measuring ask of the splits."""
    known = set(parts["train"]) | (set(parts["val"]) if data.val_by == "identities" else set())
    both = sorted(known & set(parts["test"]))
    if data.val_by == "identities":
        both += sorted(set(parts["train"]) & set(parts["val"]))
    if both:
        raise DataError(
            f"{root}: in two splits at once: {', '.join(both[:10])}; people must differ"
        )
    if len(parts["train"]) < 2:
        raise DataError(
            f"{root}: {len(parts['train'])} people are left for train, expected 2 or more"
        )
    for name in ("val", "test"):
        several = [person for person, files in parts[name].items() if len(files) > 1]
        if len(parts[name]) < 2 or not several:
            raise DataError(
                f"{root}: {name} has {len(parts[name])} people, {len(several)} of them with "
                "several pictures; expected 2 people, and several pictures of one"
            )
