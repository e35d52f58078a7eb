"""Which objects of a store are parts of a model: their names are checked, their number bounded."""

from typing import Any

import pytest

from serving.base.storage.store import Store
from serving.repository.places import objects
from tests.serving.repository.places.conftest import Remote, version


@pytest.mark.parametrize("kind", ["in_s3", "in_gs", "in_az"])
def test_a_listing_is_bounded(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote: Remote = request.getfixturevalue(kind)
    version(remote.local, b"x")
    remote.upload()
    monkeypatch.setattr("serving.repository.places.fetched.MAX_OBJECTS", 2)
    remote.fetch()
    [reason] = remote.repositories.unreachable().values()
    assert reason.endswith("more than 2 files")


def test_a_web_server_of_folders_without_end_is_left(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []

    def folders(self: Store, address: str) -> list[objects.Entry]:
        listed.append(address)
        return [objects.Entry(f"{address}/{n}", True, 0, "") for n in range(10)]

    monkeypatch.setattr(Store, "list", folders)
    monkeypatch.setattr("serving.repository.places.fetched.MAX_OBJECTS", 30)
    remote.fetch()
    [reason] = remote.repositories.unreachable().values()
    assert reason.endswith("more than 30 files and folders")
    assert len(listed) <= 31


def test_names_that_would_lead_elsewhere_are_refused(remote: Remote) -> None:
    version(remote.local, b"good", name="good")
    version(remote.local, b"bad", name="bad")
    remote.upload()
    remote.write("bad/1/a\nb", b"x")
    remote.write("with\x1b/1/model.onnx", b"x")
    refused = remote.fetch()
    assert refused["bad"] == rf"{remote.url}/bad/1/a\nb: 'a\nb' is no plain name of a file"
    assert refused[r"with\x1b"].startswith(r"with\x1b: no name for a model")
    assert remote.here.keys() == {
        f"good/{name}" for name in ("config.pbtxt", "1/manifest.json", "1/model.onnx")
    }


def entry(path: str, size: int = 1) -> Any:
    return objects.Entry(f"s3://b/r/{path}", False, size, "mark")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("m/1/../../../etc/passwd", None),
        ("m/../passwd", "'..' is no plain name of a file"),
        ("m//passwd", "'' is no plain name of a file"),
        ("m/1/a\\b", r"'a\\b' is no plain name of a file"),
        ("m/1/a\x00b", r"'a\x00b' is no plain name of a file"),
        ("m/1/" + "x" * 256, "is no plain name of a file"),
        ("m/1/MODEL.onnx", "differs from model.onnx in case only"),
        ("m/2", "is a file, expected a folder"),
        ("m/warmup", "is a file, expected a folder"),
        ("M/1/model.onnx", None),
    ],
)
def test_hostile_names_make_their_model_refused(path: str, reason: str | None) -> None:
    found = objects.models_in("s3://b/r", [entry("m/1/model.onnx"), entry(path)])
    problems = [model.problem for model in found.values() if model.problem]
    assert len(problems) == 1
    assert reason is None or reason in problems[0]


@pytest.mark.parametrize(
    "path",
    ["x.txt", ".git/config", "_build/1/x", "m/.hidden", "m/1/.hidden", "m/1/", "m/", "../x/1/y",
     "m/notes/a.txt", "m/1/deep/er"],
)  # fmt: skip
def test_what_is_no_part_of_a_model_is_passed_over(path: str) -> None:
    size = 0 if path.endswith("/") else 1
    [model] = objects.models_in("s3://b/r", [entry("m/1/model.onnx"), entry(path, size)]).values()
    assert model.problem == ""
    assert [*model.beside] == []
    assert {v: [*files] for v, files in model.versions.items()} == {1: ["model.onnx"]}


def test_names_of_a_web_server_are_decoded_before_they_are_checked() -> None:
    files = [
        objects.Entry(f"http://h/r/m/1/{name}", False, 1, "mark")
        for name in ("model%20a.onnx", "%2e%2e", "model.onnx")
    ]
    [model] = objects.models_in("http://h/r", files).values()
    assert "'..' is no plain name" in model.problem
    assert "model a.onnx" in model.versions[1]


def test_a_model_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_MAX_FILES", 3)
    many = [entry(f"m/1/{n}") for n in range(4)]
    assert "at most 3 files" in objects.models_in("s3://b/r", many)["m"].problem
    large = [entry("m/1/x"), entry("m/labels.txt", 300 << 20)]
    assert "labels and warm-up data" in objects.models_in("s3://b/r", large)["m"].problem
