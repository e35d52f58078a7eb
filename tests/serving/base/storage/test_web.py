"""Web servers and S3 servers that mean harm: what they send costs no more than it should."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import fsspec
import pytest

from serving.base.storage import store, web
from serving.base.storage.messages import StorageError, Words, told
from serving.base.storage.store import Store
from serving.base.storage.systems import Access
from serving.base.storage.web import entries
from tests.support.object_store import ENVIRONMENT, SECRET

WORDS = Words(StorageError, anonymous="anon", waited="the time-out", extras="cloud")
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A web server on this machine; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_HEAD(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def send(
    handler: http.server.BaseHTTPRequestHandler,
    body: bytes = b"",
    status: int = 200,
    **headers: str,
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_FIRST_PAUSE", 0.0)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def opened(**access: object) -> Store:
    return Store(Access(timeout_seconds=10.0, attempts=2, **access), WORDS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('<a href="m/">m</a>', ["http://h/r/m/"]),
        ("<A class=x HREF = 'm/'>", ["http://h/r/m/"]),
        ('<a href="./m/">', ["http://h/r/m/"]),
        ('<a href="/r/m/"> <a href="m/">', ["http://h/r/m/"]),
        ('<a href="http://h/r/a&amp;b.onnx">', ["http://h/r/a&b.onnx"]),
        ('<a href="http://other/r/m/">', []),
        ('<a href="../"> <a href="/"> <a href=""> <a href="?C=N"> <a href="#x">', []),
        ('<a href="m/1/x"> <a href="m/../../x"> <a href="//other/r/m">', []),
        ('<a href="http://["> <a href="&#' + "9" * 5000 + ';"> <a href="javascript:x">', []),
        ('<a data-href="m/"> <link href="m/">', []),
    ],
)
def test_entries_of_a_folder_are_the_links_into_it(link: str, expected: list[str]) -> None:
    assert entries(link, "http://h/r") == entries(link, "http://h/r/") == expected


@pytest.mark.parametrize(
    "page",
    ["<a" + " " * 1_000_000, "<a " * 300_000, "<a href= " * 100_000, "<a  href='" * 100_000],
    ids=["spaces", "tags", "no-link", "no-end"],
)
def test_a_page_is_searched_in_time_that_grows_with_it(page: str) -> None:
    """One search of fsspec's takes hours for the first, with the GIL."""
    with serving(lambda handler: send(handler, page.encode())) as address:
        assert len(opened().list(f"{address}/folder")) <= 1


def test_a_folder_of_too_many_entries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_MOST_ENTRIES", 3)
    with pytest.raises(StorageError, match="a folder of more than 3 entries"):
        entries("".join(f'<a href="{n}">' for n in range(4)), "http://h/r")


def test_a_listing_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_WALK_SECONDS", 0.0)
    with (
        serving(lambda handler: send(handler, b'<a href="x"> <a href="y">')) as address,
        pytest.raises(StorageError, match="1 files and folders took 0 s"),
    ):
        opened().tree(f"{address}/r", 10, 2)


@pytest.fixture
def secret_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As FSSPEC_HTTP in the environment gives them."""
    headers = {"Private-Token": SECRET, "Authorization": f"Bearer {SECRET}"}
    given = {"client_kwargs": {"headers": headers}, "headers": {"X-Key": SECRET}}
    monkeypatch.setitem(fsspec.config.conf, "http", given)


@pytest.mark.parametrize(
    ("scheme", "status"),
    [*(("http", status) for status in (301, 302, 303, 307, 308)), ("s3", 307), ("gs", 302)],
)
def test_a_store_that_sends_on_to_another_host_is_not_followed(
    scheme: str, status: int, secret_headers: None
) -> None:
    """Such as the metadata of a cloud's machine, which strangers cannot ask."""
    asked: list[str] = []

    def inside(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        send(handler, b"internal")

    with (
        serving(inside) as there,
        serving(lambda handler: send(handler, status=status, Location=f"{there}/x")) as here,
    ):
        if scheme == "http":
            address, access = f"{here}/x", {}
        else:
            address, access = f"{scheme}://bucket/x", {"endpoint_url": here}
            access |= {"anon": True} if scheme == "gs" else {}
        found = opened(redirects=False, **access)
        for ask in (lambda: found.read(address, 0, 8), lambda: found.entry(address)):
            with pytest.raises(StorageError, match=r"sends on to 'http://127\.0\.0\.1:"):
                ask()
    assert asked == []


def test_headers_of_the_environment_stay_with_the_host_they_are_for(secret_headers: None) -> None:
    got: list[dict[str, str]] = []

    def there(handler: http.server.BaseHTTPRequestHandler) -> None:
        got.append(dict(handler.headers))
        send(handler, b"12345678", 206, Content_Range="bytes 0-7/8")

    def here(handler: http.server.BaseHTTPRequestHandler) -> None:
        got.append(dict(handler.headers))
        if handler.path == "/x":
            send(handler, status=302, Location=f"{elsewhere}/x")
        else:
            send(handler)

    with serving(there) as elsewhere, serving(here) as address:
        found = opened()
        assert found.list(f"{address}/folder") == []
        assert found.read(f"{address}/x", 0, 8) == b"12345678"
    for kept in got[:2]:
        assert kept["Private-Token"] == kept["X-Key"] == SECRET
    assert got[2]["Range"] == "bytes=0-7"
    assert SECRET not in str(got[2])


def test_a_redirect_within_a_host_is_followed() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.path == "/there/":
            send(handler, b'<a href="/here/m/">')
        else:
            send(handler, status=301, Location="/there/")

    with serving(answer) as address:
        [entry] = opened(redirects=False).list(f"{address}/here")
        assert entry.address == f"{address}/here/m/"


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_bytes_from_another_place_are_not_taken_for_those_asked_for(scheme: str) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        send(handler, b"x" * 100, 206, Content_Range="bytes 0-99/1000")

    with serving(answer) as here:
        address = f"{here}/x" if scheme == "http" else "s3://bucket/x"
        found = opened(endpoint_url=None if scheme == "http" else here)
        assert found.read(address, 0, 100) == b"x" * 100
        with pytest.raises(StorageError, match="its server sends 'bytes 0-99/1000', expected by"):
            found.read(address, 500, 600)


def test_a_listing_of_s3_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_MOST_PAGE_BYTES", 1 << 20)
    body = b"<ListBucketResult>" + b" " * (2 << 20) + b"</ListBucketResult>"
    with (
        serving(lambda handler: send(handler, body)) as here,
        pytest.raises(StorageError, match="a page of more than 1 MiB"),
    ):
        opened(endpoint_url=here).tree("s3://bucket/x", 10, 2)


def test_a_file_whose_head_fails_for_a_while_is_there_all_the_same() -> None:
    """fsspec takes every failure for a file that is not there, which nobody asks for again."""
    answers = iter([503, 200])
    with serving(lambda handler: send(handler, b"12345", next(answers))) as address:
        assert opened().entry(f"{address}/x").size == 5


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_server_that_answers_get_alone_tells_sizes(status: int) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        send(handler, b"12345", status if handler.command == "HEAD" else 200)

    with serving(answer) as address:
        assert opened().entry(f"{address}/x").size == 5


def test_a_store_that_sends_a_byte_at_a_time_is_given_up() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])
        send(handler, b"x", 206, Content_Range=f"bytes {start}-{start}/1000000")

    with (
        serving(answer) as address,
        pytest.raises(StorageError, match=r"/x: given up at byte [\d,]+: too slow"),
    ):
        opened().read(f"{address}/x", 0, 1_000_000, until=0.0)


class Hanging(fsspec.AbstractFileSystem):
    """A file system of a package without asynchronous calls, whose store hangs."""

    asked = 0

    def info(self, path: str, **given: object) -> dict[str, object]:
        Hanging.asked += 1
        threading.Event().wait()
        return {}


def test_requests_that_nobody_answers_take_a_bounded_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "file_system", lambda *_: Hanging())
    monkeypatch.setattr(store, "_MOST_STUCK", 3)
    waiting = Store(Access(timeout_seconds=0.01, attempts=5), WORDS)
    for _ in range(3):
        with pytest.raises(StorageError, match="3 requests have no answer yet"):
            waiting.entry("hanging://somewhere/x")
    assert Hanging.asked == 3


@pytest.mark.parametrize(
    "kind", ["simplecache", "zip", "reference", "tar", "dir", "cached", "data"]
)
def test_kinds_that_read_through_another_are_no_stores(kind: str) -> None:
    with pytest.raises(StorageError, match=f"^{kind}://: expected s3, gs, az, http"):
        opened().entry(f"{kind}://x/y")


def test_secrets_in_settings_of_fsspec_are_no_part_of_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "FSSPEC_HTTP",
        '{"client_kwargs": {"headers": {"X-Any": "Bearer of-headers"}}, "endpoint": "told-of"}',
    )
    monkeypatch.setenv("FSSPEC_S3", '{"key": "of-the-key", "kwargs": [{"secret": "of-secret"}]}')
    monkeypatch.setenv("FSSPEC_GS", "{")
    error = ValueError("of-headers of-the-key of-secret told-of")
    assert str(told(WORDS, "s3://b/k", error)) == "s3://b/k: ValueError *** *** *** told-of"


def test_a_clock_that_is_wrong_is_told() -> None:
    error = PermissionError("The difference between the request time and the server's is too large")
    said = str(told(WORDS, "s3://b/k", error))
    assert "access is refused (PermissionError The difference between the request time" in said
