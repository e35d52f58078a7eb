"""A folder here follows a URL: what is whole takes its place, and nothing else does."""

import asyncio
import logging
import shutil

import pytest

from serving.base.storage.store import Store
from tests.serving.repository.places.conftest import Remote, version

MIB = 1 << 20
ALL = "version_policy { all { } }\n"


@pytest.fixture(params=["remote", "in_s3", "in_gs", "in_az", "on_the_web"])
def each(request: pytest.FixtureRequest) -> Remote:
    """A repository in each kind of store."""
    found: Remote = request.getfixturevalue(request.param)
    return found


def upload(remote: Remote) -> None:
    if not remote.url.startswith("http://"):
        remote.upload()


def test_the_folder_holds_what_the_store_holds_and_follows_it(each: Remote) -> None:
    version(each.local, b"one" * 1000)
    (each.local / "m" / "labels.txt").write_text("a\nb\n")
    (each.local / "m" / "warmup").mkdir()
    (each.local / "m" / "warmup" / "x.bin").write_bytes(b"warm")
    version(each.local, b"other", name="n", config=ALL)
    (each.local / "README.md").write_text("no model")
    expected = {
        str(p.relative_to(each.local)): p.read_bytes()
        for p in each.local.rglob("*")
        if p.is_file() and p.name != "README.md"
    }
    upload(each)
    assert each.fetch() == {}
    assert each.here == expected
    before, fetched = each.repositories.scan(), each.fetched
    assert fetched == sum(map(len, expected.values()))
    assert each.fetch() == {}
    assert each.repositories.scan() == before
    assert each.fetched == fetched, "what is here is not fetched again"
    version(each.local, b"second", 2)
    for file in (each.local / "n").rglob("*"):
        if file.is_file():
            file.unlink()
    upload(each)
    each.fetch()
    assert each.here["m/2/model.onnx"] == b"second"
    assert [*each.repositories.scan()["m"].versions] == [1, 2]
    assert each.repositories.scan()["m"].versions[1] == before["m"].versions[1]
    assert "n" not in each.repositories.scan() or each.url.startswith("http://")


def test_versions_that_are_not_selected_are_not_fetched(remote: Remote) -> None:
    for number in (1, 2, 10):
        version(remote.local, b"%d" % number, number)
    remote.upload()
    remote.fetch()
    assert [*remote.repositories.scan()["m"].versions] == [10]
    (remote.local / "m" / "config.pbtxt").write_text(ALL)
    remote.upload()
    remote.fetch()
    assert [*remote.repositories.scan()["m"].versions] == [1, 2, 10]


def test_a_version_that_is_replaced_takes_its_place_in_one_step(remote: Remote) -> None:
    version(remote.local, b"old")
    remote.upload()
    remote.fetch()
    old = (remote.folder / "m" / "1").resolve()
    version(remote.local, b"new")
    remote.upload()
    assert remote.fetch() == {}
    assert remote.here["m/1/model.onnx"] == b"new"
    assert (old / "model.onnx").read_bytes() == b"old", "who has it open reads on"


def test_half_an_object_is_not_served(remote: Remote) -> None:
    version(remote.local, b"whole" * 1000)
    remote.upload()
    remote.write("m/1/model.onnx", b"whole" * 500)
    [reason] = remote.fetch().values()
    assert reason.startswith(f"{remote.url}/m/1/model.onnx: sha256 is ")
    assert remote.here == {}
    assert remote.repositories.scan()["m"].problem == reason
    remote.upload()
    assert remote.fetch() == {}
    assert remote.here["m/1/model.onnx"] == b"whole" * 1000


def test_a_version_that_is_still_uploaded_is_waited_for(remote: Remote) -> None:
    version(remote.local, b"old")
    remote.upload()
    remote.fetch()
    folder = version(remote.local, b"new", 2)
    (folder / "model.onnx").rename(remote.local / "later")
    remote.upload()
    [reason] = remote.fetch().values()
    assert reason == f"{remote.url}/m/2/manifest.json: names model.onnx, which is not there"
    assert [*remote.repositories.scan()["m"].versions] == [1]
    (remote.local / "later").rename(folder / "model.onnx")
    remote.upload()
    assert remote.fetch() == {}


@pytest.mark.parametrize("manifest", [True, False])
def test_an_object_that_changes_while_it_is_fetched_is_not_served(
    manifest: bool, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version(remote.local, b"a" * 20 * MIB)
    if not manifest:
        (folder / "manifest.json").unlink()
    remote.upload()
    read = Store.read

    def changing(self: Store, address: str, start: int, end: int, until: float) -> bytes:
        part = read(self, address, start, end, until)
        if address.endswith("model.onnx") and start == 0:
            remote.write("m/1/model.onnx", b"b" * 20 * MIB)
        return part

    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", changing)
        [reason] = remote.fetch().values()
    assert reason.startswith(f"{remote.url}/m/1/model.onnx: ")
    assert ("sha256 is" if manifest else "changed while it was fetched") in reason
    assert remote.here == {}
    assert remote.left() == []
    remote.upload()
    assert remote.fetch() == {}


def test_what_may_not_be_read_is_the_problem_of_its_model(each_denied: Remote) -> None:
    version(each_denied.local, b"new", 2, name="denied")
    version(each_denied.local, b"new", 2, name="fine")
    [(name, reason)] = each_denied.fetch().items()
    assert name == "denied"
    assert reason.startswith(f"{each_denied.url}/denied/2")
    assert "access is refused" in reason
    assert [*each_denied.repositories.scan()["denied"].versions] == [1]
    assert 2 in each_denied.repositories.scan()["fine"].versions
    assert each_denied.repositories.unreachable() == {}


@pytest.fixture(params=["denied/2/", "denied/2/model.onnx"])
def each_denied(on_the_web: Remote, request: pytest.FixtureRequest) -> Remote:
    """A repository whose server refuses a folder, or a file."""
    for name in ("denied", "fine"):
        version(on_the_web.local, b"old", name=name)
    assert on_the_web.fetch() == {}
    on_the_web.denied.add(f"/{request.param}")
    return on_the_web


def test_a_listing_without_a_model_changes_nothing(in_s3: Remote) -> None:
    version(in_s3.local, b"here")
    in_s3.upload()
    in_s3.fetch()
    shutil.rmtree(in_s3.local)
    in_s3.upload()
    in_s3.fetch()
    assert in_s3.here["m/1/model.onnx"] == b"here"
    assert in_s3.repositories.unreachable() == {in_s3.url: f"{in_s3.url}: holds no model"}


def test_a_version_that_was_taken_away_serves_until_the_next_is_whole(remote: Remote) -> None:
    old = version(remote.local, b"old")
    remote.upload()
    remote.fetch()
    version(remote.local, b"new", 2)
    shutil.rmtree(old)
    remote.upload()
    remote.write("m/2/model.onnx", b"ne")
    assert remote.fetch()
    assert [*remote.repositories.scan()["m"].versions] == [1]
    remote.upload()
    assert remote.fetch() == {}
    assert [*remote.repositories.scan()["m"].versions] == [2]


def test_what_serves_goes_on_beside_those_that_came(remote: Remote) -> None:
    version(remote.local, b"old", config=ALL)
    remote.upload()
    remote.fetch()
    version(remote.local, b"new", config=ALL)
    version(remote.local, b"another", 2, config=ALL)
    remote.upload()
    remote.write("m/1/model.onnx", b"ne")
    [reason] = remote.fetch().values()
    assert "m/1/model.onnx: sha256 is" in reason
    assert remote.here["m/1/model.onnx"] == b"old"
    assert remote.here["m/2/model.onnx"] == b"another"
    remote.upload()
    assert remote.fetch() == {}
    assert remote.here["m/1/model.onnx"] == b"new"


def test_a_config_comes_with_its_version_or_not_at_all(remote: Remote) -> None:
    version(remote.local, b"old")
    remote.upload()
    remote.fetch()
    version(remote.local, b"new", 2, config="max_batch_size: 8\n")
    remote.upload()
    remote.write("m/2/model.onnx", b"cut")
    [reason] = remote.fetch().values()
    assert "sha256 is" in reason
    assert b"max_batch_size" not in remote.here["m/config.pbtxt"]
    remote.upload()
    assert remote.fetch() == {}
    assert b"max_batch_size" in remote.here["m/config.pbtxt"]


def test_an_older_version_is_better_than_none(remote: Remote) -> None:
    version(remote.local, b"good", 1)
    version(remote.local, b"broken", 2)
    remote.upload()
    remote.write("m/2/model.onnx", b"brok")
    [reason] = remote.fetch().values()
    assert "sha256 is" in reason
    assert [*remote.repositories.scan()["m"].versions] == [1]
    assert remote.repositories.scan()["m"].stale == reason


def test_an_older_version_comes_where_the_newest_does_not_load(remote: Remote) -> None:
    for number in (1, 2, 3):
        version(remote.local, b"%d" % number, number)
    remote.upload()
    remote.fetch()
    folder = remote.repositories.scan()["m"]
    assert [*folder.versions] == [3]
    for expected in ([2, 3], [1, 2, 3], [1, 2, 3]):
        folder = asyncio.run(remote.repositories.with_older(folder))
        assert [*folder.versions] == expected
    assert folder == remote.repositories.scan()["m"]


def test_a_model_that_failed_is_not_tried_in_every_fetch(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.repository.places.state._FIRST_PAUSE", 3600.0)
    version(remote.local, b"whole")
    remote.upload()
    remote.write("m/1/model.onnx", b"half!")
    for _ in range(3):
        assert remote.fetch()
    assert remote.failures == 1
    remote.repositories.fetch_now("m")
    assert remote.failures == 2, "who asks for it does not wait"
    remote.upload()
    assert remote.fetch() == {}, "a change is tried at once"


def test_models_are_listed_before_they_are_fetched(remote: Remote) -> None:
    version(remote.local, b"x")
    remote.upload()
    [fetched] = remote.repositories._fetched
    fetched.fetch(contents=False)
    assert remote.fetched == 0
    folder = remote.repositories.scan()["m"]
    assert folder.is_model
    assert not folder.problem
    assert [*folder.versions] == [1]
    remote.repositories.fetch_now("m")
    assert remote.here["m/1/model.onnx"] == b"x"


def test_talkative_packages_tell_no_credentials(
    in_s3: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    """At the level debug they would log the headers of requests."""
    caplog.set_level(logging.DEBUG)
    version(in_s3.local, b"x")
    in_s3.upload()
    caplog.clear()
    in_s3.fetch()
    told = [record.name for record in caplog.records]
    assert not [name for name in told if name.startswith(("boto", "aioboto", "s3fs", "fsspec"))]
