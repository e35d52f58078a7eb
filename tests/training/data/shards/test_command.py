"""`convserve shards`."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.object_store import BUCKET
from training.cli.shards import app


def told(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["shards", *arguments])
    return result.exit_code, result.output


def test_folder_becomes_shards_of_so_many_images(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert told(str(pictures), str(out), "--images", "25") == (
        0,
        "train: 60 images in 3 shards\nval: 12 images in 1 shard\ntest: 12 images in 1 shard\n"
        f"In a recipe: data: {{source: shards, train: {out}}}\n",
    )
    index = json.loads((out / "index.json").read_text())
    assert index["classes"] == ["blue", "red"]
    assert [shard["images"] for shard in index["splits"]["train"]["shards"]] == [25, 25, 10]
    assert sorted(path.suffix for path in out.iterdir()) == [".idx"] * 5 + [".json"] + [".tar"] * 5


def test_shards_of_so_many_bytes(pictures: Path, tmp_path: Path) -> None:
    from training.data.shards import write

    samples = [write._Sample(x.stem, x, 0) for x in sorted(pictures.rglob("*.png"))[:10]]
    each = max(write._size(sample) for sample in samples)
    cut = list(write._cut(samples, write.Limits(4, 3 * each)))
    assert sum(cut, []) == samples  # noqa: RUF017
    assert max(map(len, cut)) <= 4
    assert [part for part in cut if sum(map(write._size, part)) > 3 * each] == []


def test_data_of_a_recipe_become_shards(pictures: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    rows = [f"{x.relative_to(pictures)},{x.parent.name}" for x in sorted(pictures.rglob("*.png"))]
    listing.write_text("\n".join(["path,label", *rows]))
    document = {
        "name": "x",
        "task": "classification",
        "data": {"source": "table", "file": str(listing), "root": str(pictures)},
        "transform": {"resize": [16, 16]},
        "model": {"name": "resnet20_cifar"},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    code, output = told(str(tmp_path / "recipe.yaml"), str(tmp_path / "out"))
    assert code == 0, output
    (tmp_path / "digits.yaml").write_text(
        yaml.safe_dump({**document, "data": {"source": "digits"}})
    )
    code, output = told(str(tmp_path / "digits.yaml"), str(tmp_path / "out2"))
    assert (code, output) == (
        1,
        "convserve shards: scikit-learn digits: its images are no files with a class or a mask "
        "each; expected a folder, a table of paths, or a folder of masks, as convserve extract "
        "writes them\n",
    )


@pytest.mark.parametrize(
    ("source", "out", "code", "reason"),
    [
        ("missing", "out", 1, "missing: no such folder"),
        ("pictures", f"https://host/{BUCKET}", 1, "web servers are read only"),
        ("pictures", "s3://me:secret@host/x", 2, "the URL holds a user or password"),
        ("pictures", "nosuch://host/x", 1, "nosuch://: cannot be opened"),
    ],
)
def test_what_cannot_be_written_is_told(
    pictures: Path, source: str, out: str, code: int, reason: str
) -> None:
    folder = str(pictures) if source == "pictures" else source
    ended, output = told(folder, out)
    assert ended == code
    assert reason in " ".join(output.replace("│", " ").split())
    assert "secret" not in output
