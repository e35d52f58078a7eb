"""Shards as a source of a recipe."""

import io
import logging
import subprocess
import sys
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.shards.conftest import recipe, written
from training.data import Samples, fingerprint, load_source
from training.data.class_names import as_classes_of
from training.data.loader import Loader
from training.data.samples import StreamedSamples
from training.data.sampling import InOrder, Windowed, class_counts
from training.data.shards.samples import ShardSamples
from training.data.survey import survey
from training.errors import DataError, RecipeError


def tar(path: Path, *files: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def picture(value: int = 0, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def mask(*values: int, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.resize(np.array(values, np.uint8), (side, side))).save(buffer, "PNG")
    return buffer.getvalue()


def labelled(*labels: str, first: int = 0) -> list[tuple[str, bytes]]:
    files = []
    for number, label in enumerate(labels, first):
        files += [(f"{number:04}.png", picture(number)), (f"{number:04}.cls", label.encode())]
    return files


def values(samples: Samples) -> list[int]:
    """The images of `labelled` by their first pixel."""
    return [int(x) for x in samples.batch(range(len(samples)))[0][:, 0, 0, 0]]


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


@pytest.mark.parametrize(
    ("labels", "given", "reason"),
    [
        ("0123", ["a", "b", "c"], r"t\.tar: 0003: label '3': expected 0 to 2 or one of a, b, c"),
        (["0", "999999999"], None, "label 999999999 is larger than the number of images, 2"),
        ("000", None, r"expected at least two classes, got \['0'\]"),
        ("", None, "the shards hold no images"),
    ],
)
def test_labels_out_of_range_are_told(
    tmp_path: Path, labels: list[str], given: list[str] | None, reason: str
) -> None:
    train = str(tar(tmp_path / "t.tar", *labelled(*labels)))
    source = {"source": "shards", "train": train, "val": train, "test": train, "classes": given}
    with pytest.raises(DataError, match=reason):
        load_source(recipe(source))


def broken(tmp_path: Path, bad: int, total: int) -> dict[str, object]:
    """A recipe's data with so many images that cannot be decoded, in the middle of train."""
    files = labelled(*"01" * (total // 2))
    for number in range(bad):
        files[2 * (total // 2 + number)] = (f"{total // 2 + number:04}.png", b"no image")
    good = str(tar(tmp_path / "good.tar", *labelled("0", "1")))
    train = str(tar(tmp_path / "train.tar", *files))
    return {"source": "shards", "train": train, "val": good, "test": good}


def test_broken_image_is_named_with_shard_and_key(tmp_path: Path) -> None:
    data = load_source(recipe(broken(tmp_path, 1, 40)))
    with pytest.raises(DataError, match=r"train\.tar: 0020: not an image"):
        data.train.batch(range(40))
    with pytest.raises(DataError, match=r"1 of 44 files .* train\.tar/0020: not an image"):
        survey(data, tmp_path / "sheet.npz")


def test_broken_images_are_skipped_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = load_source(recipe({**broken(tmp_path, 3, 40), "on_error": "skip"}))
    assert isinstance(data.train, ShardSamples)
    findings = survey(data, tmp_path / "sheet.npz")
    assert "images that will be skipped: 3, such as train.tar/0020: not an im" in str(findings)
    with caplog.at_level(logging.WARNING):
        batches = list(Loader(data.train, Windowed(data.train.groups, 8, 1, 20)))
    assert [len(images) for images, _ in batches] == [8] * 5
    seen = {int(x) for images, _ in batches for x in images[:, 0, 0, 0]}
    assert seen == set(range(40)) - {20, 21, 22}
    assert "data: 3 of 40 images skipped" in caplog.text
    assert "train.tar: 0020: not an image" in caplog.text


def test_more_broken_images_than_skip_bears_end_the_build(tmp_path: Path) -> None:
    data = load_source(recipe({**broken(tmp_path, 15, 40), "on_error": "skip"}))
    with pytest.raises(DataError, match=r"11 images cannot be used, more than data\.on_error: sk"):
        list(Loader(data.train, Windowed([range(40)], 8, 1, 20)))


def test_broken_image_of_val_is_never_skipped(tmp_path: Path) -> None:
    source = broken(tmp_path, 1, 40)
    source |= {"val": source["train"], "train": source["val"], "on_error": "skip"}
    data = load_source(recipe(source))
    with pytest.raises(DataError, match=r"train\.tar: 0020"):
        data.val.batch(range(40))


def test_shard_that_changes_under_a_build_is_noticed(tmp_path: Path) -> None:
    source = broken(tmp_path, 0, 40)
    data = load_source(recipe(source))
    shard = Path(str(source["train"]))
    content = shard.read_bytes()
    shard.write_bytes(content[:512] + b"x" * 512 + content[1024:])
    assert data.train.read([0])[0] != data.train.read([5])[0]
    tar(shard, *labelled(*"01" * 3))
    with pytest.raises(DataError, match=r"train\.tar"):
        data.train.batch([39])


def test_survey_of_a_large_set_looks_at_some_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.shards.source.SAMPLED_IMAGES", 11)
    data = load_source(recipe(broken(tmp_path, 0, 40)))
    findings = survey(data, tmp_path / "sheet.npz")
    assert findings["images"] == {"train": 40, "val": 2, "test": 2}
    assert findings["looked_at"] == {"train": 10, "val": 1, "test": 1}
    assert findings["classes"]["0"] == {"train": 20, "val": 1, "test": 1}
    assert any("looked at 12 of 44 images" in warning for warning in findings["warnings"])


def segmentation(train: Path, **data: object) -> dict[str, object]:
    return {
        "source": "shards", "train": str(train), "val": str(train), "test": str(train), **data
    }  # fmt: skip


def masks_recipe(data: dict[str, object], **changes: object):  # type: ignore[no-untyped-def]
    return recipe(data, task="segmentation", model={"name": "unet_slim"}, **changes)


def test_masks_are_read_and_checked(tmp_path: Path) -> None:
    files = [("a.png", picture()), ("a.seg.png", mask(0, 1, 255, 2))]
    train = tar(tmp_path / "a.tar", *files)
    data = load_source(masks_recipe(segmentation(train, classes=["x", "y", "z"])))
    assert data.ignore_index == 255
    assert np.unique(data.train.batch([0])[1]).tolist() == [0, 1, 2, 255]
    loss = {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}}
    loss["loss"] = {"name": "bce"}
    binary = load_source(
        masks_recipe(segmentation(train, classes=["x", "y", "z"]), binary=True, train=loss)
    )
    assert isinstance(binary.train, StreamedSamples)
    _, masks = next(iter(Loader(binary.train, Windowed(binary.train.groups, 1, 1, 5))))
    assert np.unique(masks.numpy()).tolist() == [0, 1, 255]
    wrong = load_source(masks_recipe(segmentation(train, classes=["x", "y"])))
    with pytest.raises(DataError, match=r"a\.tar: a: mask: expected classes 0 to 1 or 255"):
        wrong.train.batch([0])
    with pytest.raises(DataError, match=r"data\.classes: missing; expected a name for each value"):
        load_source(masks_recipe(segmentation(train)))


def test_folder_of_masks_becomes_shards(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for number in range(count):
            for kind, content in (("images", picture(number)), ("masks", mask(0, 1, number % 3))):
                file = tmp_path / "set" / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    (tmp_path / "set" / "classes.txt").write_text("x\ny\nz\n")
    near = masks_recipe({"source": "mask_folder", "root": str(tmp_path / "set")})
    from training.data.samples import files_alone
    from training.data.shards.write import Limits, write_shards
    from training.data.storage.store import Store

    with files_alone():
        write_shards(load_source(near), str(tmp_path / "out"), Limits(4, 10**6), 0, Store())
    far = load_source(masks_recipe({"source": "shards", "train": str(tmp_path / "out")}))
    assert far.classes == ("x", "y", "z")
    here = load_source(near)
    for one, other in zip(far.val.batch([0, 1]), here.val.batch([0, 1]), strict=True):
        assert np.array_equal(one, other)


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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fold": {"index": 0, "count": 2}}, "fold: shards is read as a stream"),
        ({"train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1},
                    "sampler": {"name": "weighted"}}}, r"train\.sampler: weighted draws images in"),
    ],
)  # fmt: skip
def test_what_needs_images_in_any_order_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        recipe({"source": "shards", "train": "x.tar"}, **changes)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"train": "https://me:secret@host/x.tar"}, "data.train.*: the URL holds a user or pass"),
        ({"train": "https://host/x.tar?X-Amz-Signature=secret"}, "the URL is signed; credentials"),
        ({"train": "https://host/x.tar?sv=1&sig=secret"}, "the URL is signed"),
        ({"train": "simplecache::s3://b/x.tar"}, "chained URLs"),
        ({"train": "x.tar", "storage": {"secret": "secret1"}}, "data.storage.secret: unknown key"),
        (
            {"train": "x.tar", "storage": {"endpoint_url": "http://a:secret@host"}},
            "data.storage.endpoint_url: the URL holds a user",
        ),
    ],
)
def test_secrets_in_a_recipe_are_refused_and_not_repeated(
    data: dict[str, object], reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason) as error:
        recipe({"source": "shards", **data})
    assert "secret1" not in str(error.value)
    assert ":secret" not in str(error.value)
    assert "=secret" not in str(error.value)


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ("missing", r"missing: is not there"),
        ("{0..99999999}.tar", "expected {FIRST..LAST} of at most 1,000,000 shards"),
        ("{0..2000}{0..2000}.tar", "stands for more than 1,000,000 shards"),
        ("{9..1}.tar", "expected {FIRST..LAST}"),
        ("x.tar.gz", "is compressed; expected plain .tar files"),
        ("empty", "empty: no shards; expected files that end in .tar"),
        ("nosuch://x/y.tar", "nosuch://: cannot be opened"),
    ],
)
def test_address_that_names_no_shards_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=reason):
        load_source(recipe({"source": "shards", "train": train}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("25", "24"), r"index\.json: splits\.train: its counts do not agree"),
        (("train-000000.tar", "../../etc/x.tar"), r"index\.json: splits\.train\.shards\.0\.name: "),
        (('"format": 1', '"format": 2'), r"index\.json: format: "),
        (('"blue"', "3"), r"index\.json: classes\.0: "),
        (("{", "["), r"index\.json: "),
    ],
)
def test_damaged_index_is_told(
    pictures: Path, tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    written(pictures, str(tmp_path))
    index = tmp_path / "index.json"
    index.write_text(index.read_text().replace(*change, 1))
    with pytest.raises(DataError, match=reason):
        load_source(recipe({"source": "shards", "train": str(tmp_path)}))


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


def test_more_classes_than_masks_hold_are_told(tmp_path: Path) -> None:
    pairs = [((f"{x}.png", picture()), (f"{x}.seg.png", mask(0, 1))) for x in range(20)]
    file = tar(tmp_path / "x.tar", *chain.from_iterable(pairs))
    data = {"source": "shards", "train": str(file), "classes": [str(x) for x in range(300)]}
    segmenter = {"task": "segmentation", "model": {"name": "unet_slim"}}
    with pytest.raises(DataError, match="300 classes of masks; expected at most 255"):
        load_source(recipe(data, **segmenter))
