"""A folder here follows a URL: what is whole takes its place, and nothing else does."""

import asyncio
import fcntl
import itertools
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.base.metrics import EngineMetrics
from serving.base.storage.messages import StorageError
from serving.base.storage.store import Store
from serving.repository.places import objects
from serving.repository.places.kept import Kept
from serving.repository.places.repositories import Repositories
from tests.serving.repository.places.conftest import Remote, version
from tests.support.object_store import SECRET, CuttingProxy

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


def test_cut_connections_are_taken_up_where_they_broke(in_s3: Remote, proxy: CuttingProxy) -> None:
    content = os.urandom(3 * MIB)
    version(in_s3.local, content)
    in_s3.upload()
    proxy.cut_after = MIB
    assert in_s3.fetch() == {}
    assert proxy.cuts
    assert in_s3.here["m/1/model.onnx"] == content


def test_a_store_that_cuts_all_is_a_failed_load_and_the_old_version_stays(
    in_s3: Remote, proxy: CuttingProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    version(in_s3.local, b"old")
    in_s3.upload()
    in_s3.fetch()
    version(in_s3.local, os.urandom(MIB), 2)
    in_s3.upload()
    proxy.cut_after = 9_000
    [reason] = in_s3.fetch().values()
    assert reason.startswith(f"{in_s3.url}/m/2/model.onnx: at byte ")
    assert "after 4 tries" in reason
    assert [*in_s3.repositories.scan()["m"].versions] == [1]
    assert in_s3.left() == []
    assert in_s3.failures == 1
    assert not in_s3.repositories.is_whole()
    proxy.cut_after = None
    assert in_s3.fetch() == {}
    assert [*in_s3.repositories.scan()["m"].versions] == [1, 2]
    assert SECRET not in caplog.text + reason


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


def test_a_process_that_was_killed_leaves_nothing_half(in_s3: Remote, proxy: CuttingProxy) -> None:
    version(in_s3.local, os.urandom(4 * MIB))
    in_s3.upload()
    fetch = (
        "import sys; from pathlib import Path; from serving.base.metrics import EngineMetrics; "
        "from serving.repository.places.repositories import Repositories; "
        "from serving.repository.places.state import Cache; "
        "cache = Cache(Path(sys.argv[2]), 1 << 30, 60.0); "
        "Repositories.of(sys.argv[1], cache=cache, metrics=EngineMetrics()).fetch_now()"
    )
    # Its answers end within the network's file, and nothing is answered after that.
    proxy.cut_after = MIB
    process = subprocess.Popen([sys.executable, "-c", fetch, in_s3.url, str(in_s3.cache.folder)])
    while not proxy.cuts:
        assert process.poll() is None
    proxy.stalled = True
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert in_s3.left() != []
    assert in_s3.here == {} or [*in_s3.here] == ["m/config.pbtxt"]
    proxy.stalled, proxy.cut_after = False, None
    assert in_s3.fetch() == {}
    assert len(in_s3.here["m/1/model.onnx"]) == 4 * MIB
    assert in_s3.left() == []


_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "shutil.rmtree"}


def killed_at(remote: Remote, number: int) -> bool:
    """Whether a process that fetches was killed just before this change of its repository's folder,
    of which so many come before."""
    left, status = number, os.fork()
    if status == 0:

        def count(event: str, given: tuple[object, ...]) -> None:
            nonlocal left
            left -= event in _CHANGES and str(remote.folder.parent) in str(given)
            if left < 0:
                os._exit(1)

        sys.addaudithook(count)
        remote.fetch()
        os._exit(0)
    return os.waitpid(status, 0)[1] != 0


def test_a_process_that_is_killed_at_any_moment_leaves_a_config_with_its_versions(
    remote: Remote,
) -> None:
    def labelled(letter: str, *versions: int) -> None:
        shutil.rmtree(remote.local, ignore_errors=True)
        for number in versions:
            version(remote.local, letter.encode(), number, config=f"{ALL}# {letter}\n")
        (remote.local / "m" / f"{letter}.txt").write_text(letter)
        (remote.local / "m" / "labels.txt").write_text(letter)
        remote.upload()

    labelled("a", 1, 2)
    assert remote.fetch() == {}
    before = remote.here
    labelled("b", 2, 3)
    after = {
        str(path.relative_to(remote.local)): path.read_bytes()
        for path in remote.local.rglob("*")
        if path.is_file()
    }
    shutil.copytree(remote.cache.folder, kept := remote.local.parent / "kept", symlinks=True)
    seen = []
    for number in itertools.count():
        killed = killed_at(remote, number)
        assert remote.here in (before, after), number
        seen.append(remote.here)
        remote.open()
        assert remote.fetch() == {}, number
        assert remote.here == after, number
        assert len([*remote.folder.iterdir()]) == 2, "nothing of before is left"
        shutil.rmtree(remote.cache.folder)
        shutil.copytree(kept, remote.cache.folder, symlinks=True)
        if not killed:
            break
    assert before in seen[1:]
    assert after in seen[:-1]


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


def test_a_version_is_fetched_beside_another_that_takes_long(
    remote: Remote, in_s3: Remote, proxy: CuttingProxy
) -> None:
    version(in_s3.local, os.urandom(MIB))
    in_s3.upload()
    in_s3.fetch()
    version(in_s3.local, os.urandom(4 * MIB), 2)
    in_s3.upload()
    proxy.stall_after = MIB
    fetching = threading.Thread(target=in_s3.fetch)
    fetching.start()
    proxy.asked.wait()
    version(remote.local, b"x")
    remote.upload()
    assert remote.fetch() == {}
    assert remote.left() != [], "what the other fetches is left alone"
    in_s3.repositories.close()
    fetching.join()
    assert remote.left() == []


def test_a_store_that_hangs_holds_up_no_other(
    in_s3: Remote, remote: Remote, proxy: CuttingProxy, tmp_path: Path
) -> None:
    version(remote.local, b"x", name="far")
    remote.upload()
    version(tmp_path / "here", b"x", name="here")
    proxy.stalled = True
    places = Repositories.of(
        in_s3.url, remote.url, tmp_path / "here", cache=remote.cache, metrics=EngineMetrics()
    )
    try:
        assert [*asyncio.run(places.look())] == ["far", "here"]
        assert places.awaited() == [in_s3.url]
        assert not places.is_whole()
        for name in ("far", "here"):
            places.fetch_now(name)
    finally:
        places.close()


def test_without_its_store_a_process_has_what_was_whole_and_says_how_old_it_is(
    in_s3: Remote,
    proxy: CuttingProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    version(in_s3.local, b"here")
    in_s3.upload()
    in_s3.fetch()
    age = in_s3.metrics.listing_age.labels(in_s3.url)
    listed = age.numbers()[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    in_s3.open()
    assert in_s3.fetch() == {}
    assert in_s3.here["m/1/model.onnx"] == b"here"
    [(address, reason)] = in_s3.repositories.unreachable().items()
    assert address == in_s3.url
    assert reason.startswith(f"{in_s3.url}: after 4 tries: ")
    [warning] = [r for r in caplog.records if r.message.startswith("repository cannot be fetched")]
    assert vars(warning)["repository"] == in_s3.url
    assert in_s3.metrics.listing_age.labels(in_s3.url).numbers()[0] > listed
    assert SECRET not in caplog.text + reason


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


def test_a_fetch_ends_with_its_process(in_s3: Remote, proxy: CuttingProxy) -> None:
    version(in_s3.local, b"x")
    in_s3.upload()
    proxy.stalled = True
    fetching = threading.Thread(target=in_s3.fetch)
    fetching.start()
    proxy.asked.wait()
    in_s3.repositories.close()
    fetching.join(timeout=5)
    assert not fetching.is_alive()


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
