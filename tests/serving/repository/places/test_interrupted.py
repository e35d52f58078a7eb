"""Connections that break, stores that hang, processes that are killed: nothing half is served."""

import asyncio
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serving.base.metrics import EngineMetrics
from serving.repository.places.repositories import Repositories
from tests.serving.repository.places.conftest import Remote, version
from tests.support.object_store import SECRET, CuttingProxy

MIB = 1 << 20
ALL = "version_policy { all { } }\n"


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
        time.sleep(0.01)  # the proxy only counts; a loop without rest takes the process's core
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
