"""The cache of fetched versions: its room, what is forgotten, and the processes that share it."""

import fcntl
import json
import resource
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from serving.base.storage.messages import StorageError
from serving.repository.places.kept import Kept
from tests.serving.repository.places.conftest import Remote, version

MIB = 1 << 20


def test_content_that_is_here_already_is_copied_and_not_fetched(remote: Remote) -> None:
    version(remote.local, b"same" * MIB)
    remote.upload()
    remote.fetch()
    before = remote.fetched
    version(remote.local, b"same" * MIB, 2)
    version(remote.local, b"same" * MIB, name="n")
    remote.upload()
    assert remote.fetch() == {}
    assert remote.here["m/2/model.onnx"] == remote.here["n/1/model.onnx"] == b"same" * MIB
    assert remote.fetched - before < 10_000


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1 MiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_a_failed_load_that_names_the_object(
    remote: Remote, request: pytest.FixtureRequest
) -> None:
    version(remote.local, b"old")
    remote.upload()
    remote.fetch()
    version(remote.local, b"x" * 3 * MIB, 2)
    remote.upload()
    request.getfixturevalue("full_disk")
    [reason] = remote.fetch().values()
    assert reason == (
        f"{remote.url}/m/2/model.onnx: cannot be written to the cache: File too large"
    )
    assert remote.left() == []
    assert [*remote.repositories.scan()["m"].versions] == [1]


def test_the_cache_forgets_what_nobody_serves_and_refuses_what_finds_no_room(
    remote: Remote,
) -> None:
    remote.open(replace(remote.cache, max_bytes=3 * MIB))
    version(remote.local, b"a" * MIB)
    version(remote.local, b"b" * MIB, name="n")
    remote.upload()
    assert remote.fetch() == {}
    for number, letter in ((2, b"c"), (3, b"d"), (4, b"e")):
        version(remote.local, letter * (MIB - 5000), number)
        remote.upload()
        assert remote.fetch() == {}, number
    assert remote.here["n/1/model.onnx"] == b"b" * MIB
    assert len(list(remote.cache.versions.glob("*.json"))) < 5
    version(remote.local, b"f" * 2 * MIB, 5)
    remote.upload()
    [reason] = remote.fetch().values()
    assert "find no room in the cache" in reason
    assert remote.here["m/4/model.onnx"] == b"e" * (MIB - 5000)


def test_a_version_that_another_process_is_about_to_want_stays(remote: Remote) -> None:
    version(remote.local, b"x" * MIB)
    remote.upload()
    remote.fetch()
    [record] = remote.cache.versions.glob("*.json")
    (remote.folder.parent / "state.json").unlink()
    small = replace(remote.cache, max_bytes=MIB + 10_000)
    one, other = (Kept(small, lambda: False) for _ in range(2))
    with one.pinned():
        assert one.has(record.stem)
        with pytest.raises(StorageError, match="no room in the cache"), other.staging(MIB):
            pass
        assert one.has(record.stem)
    no_room = pytest.raises(StorageError, match="no room in the cache")
    with other.staging(MIB), no_room, one.staging(MIB):
        pass
    assert not one.has(record.stem)


def test_a_damaged_version_is_noticed_by_the_next_process_and_fetched_again(
    remote: Remote,
) -> None:
    version(remote.local, b"right")
    remote.upload()
    remote.fetch()
    (remote.folder / "m" / "1" / "model.onnx").write_bytes(b"wrong")
    remote.open()
    assert remote.fetch() == {}
    assert remote.here["m/1/model.onnx"] == b"right"


def test_a_model_that_was_taken_away_goes_whatever_was_known_of_it(remote: Remote) -> None:
    """From a process that only listed it, and from one that was killed as it removed another."""
    for name in ("stays", "listed", "removed"):
        version(remote.local, b"x", name=name)
    remote.upload()
    remote.fetch()
    (remote.folder.parent / "state.json").write_text('{"models": {}}')
    remote.open()
    [fetched] = remote.repositories._fetched
    fetched.fetch(contents=False)
    shutil.rmtree(remote.local / "removed")
    shutil.rmtree(remote.local / "listed")
    remote.upload()
    assert remote.fetch() == {}
    assert [*remote.repositories.scan()] == ["stays"]


def test_files_beside_versions_find_room_in_the_cache_or_are_refused(remote: Remote) -> None:
    remote.open(replace(remote.cache, max_bytes=3 * MIB))
    version(remote.local, b"x")
    for name in ("m", "n"):
        version(remote.local, b"x", name=name)
        (remote.local / name / "labels.txt").write_bytes(b"a" * 2 * MIB)
    remote.upload()
    [(name, reason)] = remote.fetch().items()
    assert name == "n"
    assert "2,097,1" in reason
    assert "find no room in the cache" in reason
    assert "m/labels.txt" in remote.here
    assert "n/labels.txt" not in remote.here


def test_a_cache_that_another_process_holds_for_long_is_told(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    version(remote.local, b"x")
    remote.upload()
    monkeypatch.setattr("serving.repository.places.locks._PATIENCE", 0.0)
    remote.folder.parent.mkdir(parents=True)
    for lock in (remote.cache.folder / "lock", remote.folder.parent / "lock"):
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            told = {*remote.fetch().values(), *remote.repositories.unreachable().values()}
        assert told == {"others have been changing the cache for 0 s"}
        assert remote.fetch() == {}
    assert remote.here["m/1/model.onnx"] == b"x"


def test_processes_that_share_a_cache_leave_what_another_has_fetched(remote: Remote) -> None:
    version(remote.local, b"one")
    remote.upload()
    remote.fetch()
    first = remote.repositories
    remote.open()
    remote.fetch()
    version(remote.local, b"two", 2, config="max_batch_size: 2\n")
    remote.upload()
    first.fetch_now()
    before = first.scan()
    remote.fetch()
    assert remote.repositories.scan() == before


def test_state_that_cannot_be_read_is_made_anew(remote: Remote) -> None:
    version(remote.local, b"x" * MIB)
    remote.upload()
    remote.fetch()
    (remote.folder.parent / "state.json").write_text("{")
    remote.open()
    assert remote.fetch() == {}
    assert remote.fetched < 10_000
    assert json.loads((remote.folder.parent / "state.json").read_text())["models"]["m"]
