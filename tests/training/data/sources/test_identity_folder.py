"""Who is trained on and who is tested, when the classes are people."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset, Samples
from training.data.sources.identity_folder import identity_folder
from training.errors import DataError
from training.recipes.data import IdentityFolderData

TRANSFORM = EvalTransform(resize=(8, 8))


def write_people(root: Path, people: range, pictures: int = 4) -> Path:
    """Grey pictures, as bright as the number of their person."""
    for number in people:
        folder = root / f"p{number:02}"
        folder.mkdir(parents=True)
        for picture in range(pictures):
            pixels = np.full((10, 10), 10 * number, np.uint8)
            Image.fromarray(pixels).save(folder / f"{picture}.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_people(tmp_path / "people", range(10))


def load(root: Path, **keys: Any) -> Dataset:
    data = IdentityFolderData(source="identity_folder", root=root, **keys)
    return identity_folder(data, TRANSFORM)


def people_of(samples: Samples) -> list[str]:
    return sorted({name.rsplit("/", 2)[-2] for name in samples.names})


def test_named_people_and_ranges_are_tested_and_nobody_else(root: Path) -> None:
    data = load(root, test_identities=("p01", "p05..p07"))
    assert people_of(data.test) == ["p01", "p05", "p06", "p07"]
    assert not set(people_of(data.test)) & {*people_of(data.train), *people_of(data.val)}
    assert set(people_of(data.train)).isdisjoint(people_of(data.val))
    assert data.classes == tuple(people_of(data.train))


def test_fractions_cut_people_and_the_seed_decides_whom(root: Path) -> None:
    first, second = load(root, test_fraction=0.3), load(root, test_fraction=0.3)
    other = load(root, test_fraction=0.3, split_seed=5)
    assert len(people_of(first.test)) == 3
    assert people_of(first.test) == people_of(second.test) != people_of(other.test)
    assert len(first.train) + len(first.val) + len(first.test) == 40


def test_val_can_hold_out_pictures_of_the_training_people(root: Path) -> None:
    data = load(root, test_identities=("p08..p09",), val_by="pictures", val_fraction=0.5)
    assert people_of(data.val) == people_of(data.train) == [f"p{n:02}" for n in range(8)]
    assert set(data.val.names).isdisjoint(data.train.names)
    _, targets = data.val.batch(range(len(data.val)))
    assert sorted(set(targets.tolist())) == list(range(8))


def test_targets_tell_the_people_of_all_splits_apart(root: Path) -> None:
    data = load(root)
    seen = [
        {int(image[0, 0, 0]) // 10: int(target) for image, target in zip(*pairs, strict=True)}
        for pairs in (s.batch(range(len(s))) for s in (data.train, data.val, data.test))
    ]
    merged = {number: target for part in seen for number, target in part.items()}
    assert sorted(merged.values()) == list(range(10))
    assert set(seen[0].values()) == set(range(len(data.classes)))


def test_folders_of_splits_are_used_as_they_are(tmp_path: Path) -> None:
    write_people(tmp_path / "train", range(4))
    write_people(tmp_path / "val", range(4, 6))
    write_people(tmp_path / "test", range(6, 9))
    data = load(tmp_path)
    assert [len(people_of(s)) for s in (data.train, data.val, data.test)] == [4, 2, 3]
    assert "val as given" in data.description


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"test_identities": ("p99",)}, "data.test_identities: 'p99' is none of the 10 people"),
        ({"test_identities": ("p00..p08",)}, "expected 2 people for train, got 1"),
        ({"test_identities": ("p03",)}, "test has 1 people"),
        ({"val_by": "pictures", "val_fraction": 0.2}, "val has 7 people, 0 of them with several"),
    ],
)
def test_split_that_measures_nothing_is_refused(
    root: Path, keys: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        load(root, **keys)


def test_person_in_two_folders_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path / "train", range(4))
    write_people(tmp_path / "val", range(4, 6))
    write_people(tmp_path / "test", range(3, 9))
    with pytest.raises(DataError, match="p03 in train and in test; nobody may be in both"):
        load(tmp_path)


def test_key_that_a_folder_makes_idle_is_refused(tmp_path: Path) -> None:
    write_people(tmp_path / "train", range(4))
    write_people(tmp_path / "test", range(5, 9))
    with pytest.raises(DataError, match=r"data\.test_identities: there is a folder"):
        load(tmp_path, test_identities=("p00",))


def test_person_without_pictures_is_named(root: Path) -> None:
    (root / "p77").mkdir()
    with pytest.raises(DataError, match="no pictures of p77"):
        load(root)


def test_entries_of_tools_are_nobody(root: Path) -> None:
    for name in (".ipynb_checkpoints/0.png", "__MACOSX/._0.png", "p01/._0.png", "p01/@eaDir/0.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"junk")
    (root / "p02" / "old.tif").touch()
    data = load(root)
    everybody = {person for s in (data.train, data.val, data.test) for person in people_of(s)}
    assert everybody == {f"p{number:02}" for number in range(10)}
    assert len(data.train) + len(data.val) + len(data.test) == 40
    assert data.left_out == {".tif": 1}


def test_split_folders_have_the_names_that_people_give_them(tmp_path: Path) -> None:
    write_people(tmp_path / "Train", range(4))
    write_people(tmp_path / "Valid", range(4, 6))
    write_people(tmp_path / "TEST", range(6, 9))
    data = load(tmp_path)
    assert [len(people_of(s)) for s in (data.train, data.val, data.test)] == [4, 2, 3]
