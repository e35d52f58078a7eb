"""What a load call brings is checked before anything of it is loaded."""

from pathlib import Path
from typing import Any

import pytest

from serving.base.errors import InvalidInput
from serving.repository.override import stage_override, write_override

CONFIG = '{"max_batch_size": 2}'


def written(tmp_path: Path, parameters: dict[str, Any]) -> Path:
    (tmp_path / "repository" / "m" / "1").mkdir(parents=True, exist_ok=True)
    (tmp_path / "target").mkdir()
    return write_override("m", parameters, tmp_path / "repository", tmp_path / "target")


def test_a_config_alone_keeps_the_versions(tmp_path: Path) -> None:
    folder = written(tmp_path, {"config": CONFIG})
    assert "max_batch_size: 2" in (folder / "config.pbtxt").read_text()
    assert (folder / "1").is_symlink()


def test_files_take_the_place_of_the_versions(tmp_path: Path) -> None:
    folder = written(tmp_path, {"config": CONFIG, "file:7/model.onnx": b"x"})
    assert sorted(path.name for path in folder.iterdir()) == ["7", "config.pbtxt"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"other": "x"},
        {"file:1/model.onnx": b"x"},
        {"config": "{"},
        {"config": "[]"},
        {"config": "null"},
        {"config": "[" * 100_000},
        {"config": b"\xff"},
        {"config": '{"max_batch_size": 1e400}'},
        {"config": CONFIG, "file:1/../x": b"x"},
        {"config": CONFIG, "file:1/..": b"x"},
        {"config": CONFIG, "file:0/x": b"x"},
        {"config": CONFIG, "file:1/x": "text"},
        {"config": CONFIG, "file:" + "1" * 19 + "/model.onnx": b"x"},
        {"config": CONFIG, "file:1/x\0": b"x"},
        {"config": CONFIG, "file:1/" + "x" * 5000: b"x"},
        {"config": CONFIG, "file:1/.": b"x"},
        {"config": CONFIG, "file:1/a\nb": b"x"},
        {"config": CONFIG, "file:1/\udcff": b"x"},
        {"config": CONFIG} | {f"file:1/{number}": b"" for number in range(101)},
        {"config": '{"name": "' + "x" * (1 << 20) + '"}'},
        {"config": CONFIG, "file:" + "1" * 5000 + "/x": b"x"},
    ],
)
def test_bad_parameters_are_bad_input_in_a_short_line(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="load parameter") as refusal:
        written(tmp_path, parameters)
    assert len(str(refusal.value)) < 600


LABELLED = (
    '{"output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1], "label_filename": "LABELS"}]}'
)


def test_an_override_of_the_config_keeps_the_labels_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "repository" / "m").mkdir(parents=True)
    (tmp_path / "repository" / "m" / "labels.txt").write_text("a\nb\n")
    (tmp_path / "repository" / "m" / "other.txt").write_text("c")
    folder = written(tmp_path, {"config": LABELLED.replace("LABELS", "labels.txt")})
    assert (folder / "labels.txt").read_text() == "a\nb\n"
    assert not (folder / "other.txt").exists()


def test_an_override_takes_no_labels_from_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "repository" / "m").mkdir(parents=True)
    (tmp_path / "repository" / "m" / "labels.txt").symlink_to(tmp_path / "secret")
    parameters = {"config": LABELLED.replace("LABELS", "labels.txt")}
    with pytest.raises(InvalidInput, match=r"labels\.txt: is a link that leads out"):
        stage_override("m", parameters, tmp_path / "repository")
    parameters = {"config": LABELLED.replace("LABELS", "../../secret")}
    folder = written(tmp_path, parameters)
    assert sorted(path.name for path in folder.rglob("*")) == ["1", "config.pbtxt"]
