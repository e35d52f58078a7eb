"""Shards as a source of a recipe: which images, in which order, with which classes."""

import subprocess
import sys
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.shards.archives import labelled, picture, tar, values
from tests.training.data.shards.conftest import recipe, written
from training.data import fingerprint, load_source
from training.data.class_names import as_classes_of
from training.data.loader import Loader
from training.data.samples import StreamedSamples
from training.data.sampling import InOrder, Windowed, class_counts
from training.errors import DataError


def test_shards_hold_the_images_of_the_folder(pictures: Path, shard_folder: Path) -> None:
    near = load_source(recipe({"source": "image_folder", "root": str(pictures)}))
    far = load_source(recipe({"source": "shards", "train": str(shard_folder)}))
    assert near.classes == far.classes
    for split in ("train", "val", "test"):
        ours, theirs = getattr(far, split), getattr(near, split)
        keys = [name.partition("/")[2].partition("/")[2] for name in ours.names]
        order = [theirs.names.index(f"{split}/{key.partition('/')[0]}/{key.partition('/')[2]}.png")
                 if "/" in key else -1 for key in keys]  # fmt: skip
        assert sorted(order) == list(range(len(theirs)))
        for one, other in zip(ours.batch(range(len(ours))), theirs.batch(order), strict=True):
            assert np.array_equal(one, other)
    assert class_counts(far.train, 2, None).tolist() == [30, 30]


def test_bytes_of_the_files_are_unchanged(pictures: Path, shard_folder: Path) -> None:
    with tarfile.open(shard_folder / "val-000000.tar") as archive:
        for member in archive.getmembers():
            if member.name.endswith(".png"):
                read = archive.extractfile(member)
                assert read is not None
                assert read.read() == (pictures / member.name).read_bytes()


def test_stream_gives_each_image_in_the_order_of_the_sampler(shard_folder: Path) -> None:
    data = load_source(recipe({"source": "shards", "train": str(shard_folder)}))
    assert isinstance(data.train, StreamedSamples)
    sampler = Windowed(data.train.groups, 8, seed=1, window=20)
    for batch, (images, targets) in zip(sampler, Loader(data.train, sampler), strict=True):
        wanted, classes = data.train.batch(batch)
        assert np.array_equal(images.numpy(), wanted)
        assert np.array_equal(targets.numpy(), classes)
    ordered = list(Loader(data.val, InOrder(len(data.val), 5)))
    assert np.array_equal(
        np.concatenate([images for images, _ in ordered]), data.val.batch(range(12))[0]
    )


# torch's own loader, whose processes are forked: one of its own keeps that from the other tests.
WORKERS = """
import sys, numpy as np
from torch.utils.data import DataLoader, Dataset
from tests.training.data.shards.conftest import recipe
from training.data import load_source
from training.data.sampling import Windowed
class Numbered(Dataset):
    def __init__(self, samples):
        self.samples = samples
    def __getitem__(self, batch):
        return self.samples.batch(batch)
train = load_source(recipe({"source": "shards", "train": sys.argv[1]})).train
sampler = Windowed(train.groups, 8, seed=1, window=20)
loader = DataLoader(Numbered(train), batch_size=None, sampler=sampler, num_workers=2)
seen = np.concatenate([images.numpy() for images, _ in loader])
print(len(seen), len(np.unique(seen.reshape(len(seen), -1), axis=0)))
"""


def test_workers_of_a_loader_see_each_image_once(shard_folder: Path) -> None:
    command = [sys.executable, "-c", WORKERS, str(shard_folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout.split() == ["60", "60"], ended.stderr


def test_shards_of_others_need_no_index(tmp_path: Path, own_cache: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"a-{number:03}.tar", *labelled(*"0120", first=4 * number))
    tar(tmp_path / "v.tar", *labelled("0", "1", first=100))
    source = {"source": "shards", "val": str(tmp_path / "v.tar"), "test": str(tmp_path / "v.tar")}
    for pattern in ("a-{000..002}.tar", "a-*.tar", "a-00{0,1,2}.tar"):
        data = load_source(recipe({**source, "train": str(tmp_path / pattern)}))
        assert data.classes == ("0", "1", "2")
        assert values(data.train) == list(range(12))
        assert list(data.train.names[:2]) == ["a-000.tar/0000", "a-000.tar/0001"]
    listed = [str(tmp_path / f"a-{number:03}.tar") for number in (2, 0)]
    data = load_source(recipe({**source, "train": listed}))
    assert values(data.train) == [8, 9, 10, 11, 0, 1, 2, 3]
    assert len(list(own_cache.iterdir())) == 4


def test_shard_that_changed_is_read_anew(tmp_path: Path) -> None:
    source = {"source": "shards", "train": str(tar(tmp_path / "a.tar", *labelled(*"01" * 5)))}
    before, first = fingerprint(recipe(source)), load_source(recipe(source))
    tar(tmp_path / "a.tar", *labelled(*"01" * 9))
    after, second = fingerprint(recipe(source)), load_source(recipe(source))
    assert before != after
    assert sum(len(x) for x in (first.train, first.val, first.test)) == 10
    assert sum(len(x) for x in (second.train, second.val, second.test)) == 18


def test_missing_splits_are_cut_from_train(tmp_path: Path) -> None:
    for number in range(4):
        tar(tmp_path / f"{number}.tar", *labelled(*"01" * 5, first=10 * number))
    data = load_source(recipe({"source": "shards", "train": str(tmp_path)}))
    parts = [values(part) for part in (data.train, data.val, data.test)]
    assert sorted(chain(*parts)) == list(range(40))
    assert [len(part) for part in parts] == [28, 4, 8]
    assert isinstance(data.train, StreamedSamples)
    loader = Loader(data.train, Windowed(data.train.groups, 8, seed=1, window=20))
    streamed = [int(x) for images, _ in loader for x in images[:, 0, 0, 0]]
    assert sorted(streamed) == sorted(parts[0])


def test_names_are_classes(tmp_path: Path) -> None:
    files = [("a.png", picture()), ("a.txt", b"cat"), ("b.png", picture()), ("b.txt", b"ape")]
    train = str(tar(tmp_path / "a.tar", *files * 9))
    source = {"source": "shards", "train": train, "val": train, "test": train}
    data = load_source(recipe(source))
    assert data.classes == ("ape", "cat")
    assert data.train.batch([0, 1])[1].tolist() == [1, 0]
    data = load_source(recipe({**source, "classes": ["dog", "cat", "ape"]}))
    assert data.train.batch([0, 1])[1].tolist() == [1, 2]
    with pytest.raises(DataError, match=r"a\.tar: b: label 'ape': expected 0 to 1 or one of cat"):
        load_source(recipe({**source, "classes": ["cat", "dog"]}))


def test_shards_that_are_there_are_kept_and_half_written_ones_are_not(
    pictures: Path, tmp_path: Path
) -> None:
    written(pictures, str(tmp_path))
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    first, second = tmp_path / "train-000000.tar", tmp_path / "train-000001.tar"
    inode = first.stat().st_ino
    second.with_suffix(".idx").unlink()
    second.write_bytes(b"half")
    (tmp_path / "index.json").unlink()
    written(pictures, str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert first.stat().st_ino == inode


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves files open
def test_shards_of_webdataset_are_read_and_ours_by_it(tmp_path: Path, shard_folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "w-%06d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write({
                "__key__": f"folder/{number:04}", "png": picture(number), "cls": number % 2,
                "json": {"caption": "x"},
            })  # fmt: skip
    train = str(tmp_path / "w-{000000..000002}.tar")
    data = load_source(recipe({"source": "shards", "train": train, "val": train, "test": train}))
    assert data.classes == ("0", "1")
    assert values(data.train) == list(range(10))
    assert data.train.names[9] == "w-000002.tar/folder/0009"
    ours = webdataset.WebDataset(
        [str(shard_folder / "val-000000.tar")], shardshuffle=False, empty_check=False
    )
    theirs = [(sample["__key__"], len(sample["png"]), int(sample["cls"])) for sample in ours]
    read = load_source(recipe({"source": "shards", "train": str(shard_folder)})).val
    assert [f"val-000000.tar/{key}" for key, _, _ in theirs] == list(read.names)
    assert [label for _, _, label in theirs] == read.batch(range(12))[1].tolist()


def test_stream_with_the_classes_of_a_network_stays_a_stream(shard_folder: Path) -> None:
    data = load_source(recipe({"source": "shards", "train": str(shard_folder)}))
    renamed = as_classes_of(data, ("green", "red", "blue"), "names.txt")
    assert isinstance(renamed.train, StreamedSamples)
    loader = Loader(renamed.train, Windowed(renamed.train.groups, 8, 0, renamed.train.window))
    seen = np.concatenate([targets.numpy() for _, targets in loader])
    counted = class_counts(renamed.train, 3, None).tolist()
    assert np.bincount(seen, minlength=3).tolist() == counted == [0, 30, 30]


def test_numbers_among_names_are_names(tmp_path: Path) -> None:
    labels = ("10", "2", "cat") * 4
    file = tar(tmp_path / "x.tar", *labelled(*labels))
    data = load_source(recipe({"source": "shards", "train": str(file)}))
    assert data.classes == ("10", "2", "cat")
    for samples in (data.train, data.val, data.test):
        answers = samples.batch(range(len(samples)))[1].tolist()
        assert [data.classes[x] for x in answers] == [labels[x] for x in values(samples)]
