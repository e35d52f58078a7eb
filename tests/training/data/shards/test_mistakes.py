"""What a recipe and its shards can get wrong is told: labels, addresses, secrets, the index."""

from pathlib import Path

import pytest

from tests.training.data.shards.archives import labelled, tar
from tests.training.data.shards.conftest import recipe, written
from training.data import load_source
from training.errors import DataError, RecipeError


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
