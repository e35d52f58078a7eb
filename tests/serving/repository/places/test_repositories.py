"""Several repositories are one, and addresses are checked before anything is read."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from serving.base.storage.messages import StorageError
from serving.repository.places.addresses import Addresses
from serving.repository.places.repositories import Repositories
from serving.repository.places.state import Cache
from tests.serving.repository.places.conftest import Remote, version

ADDRESSES = TypeAdapter(Addresses)


def test_models_of_several_places_are_there_together(remote: Remote, tmp_path: Path) -> None:
    here = tmp_path / "here"
    version(here, b"x", name="local")
    version(remote.local, b"x", name="far")
    remote.upload()
    places = Repositories.of(here, remote.url, cache=remote.cache, metrics=remote.metrics)
    places.fetch_now()
    assert [*places.scan()] == ["far", "local"]
    assert places.home("far") == remote.folder / "far"
    assert places.home("new") == here / "new"
    assert places.model("new") is None


def test_a_name_in_two_places_is_refused_with_both(tmp_path: Path) -> None:
    for place in ("a", "b"):
        version(tmp_path / place, b"x")
    version(tmp_path / "b", b"x", name="alone")
    places = Repositories.of(tmp_path / "a", tmp_path / "b")
    reason = f"m: lies in two repositories: {tmp_path}/a/m and {tmp_path}/b/m"
    assert places.scan()["m"].problem == reason
    found = places.model("m")
    assert found is not None
    assert found.problem == reason
    assert not places.scan()["alone"].problem


def test_a_place_that_cannot_be_read_any_more_takes_no_model_along(tmp_path: Path) -> None:
    for place in ("a", "b"):
        version(tmp_path / place, b"x", name=place)
    places = Repositories.of(tmp_path / "a", tmp_path / "b")
    before = places.scan()
    (tmp_path / "b").rename(tmp_path / "gone")
    assert places.scan() == before
    (tmp_path / "a").rename(tmp_path / "gone too")
    with pytest.raises(FileNotFoundError):
        places.scan()


def test_names_of_callers_lead_nowhere_else(remote: Remote) -> None:
    version(remote.local, b"x")
    remote.upload()
    names = ("../m", "..", ".", "/etc", "m/1", ".hidden", "a\nb", "", "x" * 300, "a\0b")
    for name in names:
        remote.repositories.fetch_now(name)
        assert remote.repositories.model(name) is None
    assert remote.fetched == 0
    assert remote.fetch() == {}
    remote.remove()
    for name in names:
        remote.repositories.fetch_now(name)
    assert [*remote.repositories.scan()] == ["m"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("models", ("models",)),
        ("a, s3://b/c/", ("a", "s3://b/c")),
        (["a,b", "S3://b/c"], ("a,b", "s3://b/c")),
        (Path("a,b"), ("a,b",)),
        ("file:///a/b", ("/a/b",)),
    ],
)
def test_addresses_are_one_text_or_several(given: object, expected: tuple[str, ...]) -> None:
    assert ADDRESSES.validate_python(given) == expected


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("s3://me:secret1@b/c", "holds a user or password"),
        ("https://secret1@h/c", "holds a user or password"),
        ("https://h/c?X-Amz-Signature=secret1", "is signed"),
        ("https://h/c?x=secret1", "without a query"),
        ("https://h/c#secret1", "without a query"),
        ("s3://b/\x1bsecret1", "printable"),
        ("simplecache::s3://secret1/c", "chained"),
        ([" https://me:secret1@h/c"], "expected a path or a URL"),
        ("https:/me:secret1@h/c", "expected a path or a URL"),
        ("-s3://me:secret1@h/c", "expected a path or a URL"),
        ("s3://", "with a place"),
        ("a,a", "once"),
        ("", "expected a folder"),
    ],
)
def test_addresses_with_secrets_are_refused_and_not_repeated(given: object, reason: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ADDRESSES.validate_python(given)
    [error] = refused.value.errors()
    assert reason in error["msg"]
    assert "secret1" not in error["msg"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nothing://x/y", "nothing://: expected s3, gs, az"),
        ("oci://x/y", "oci://: the package ocifs is not installed; pip install ocifs brings it"),
        ("zip://x/y", "zip://: expected s3, gs, az"),
        ("ftp://host/models", "ftp://: its package asks for host; expected s3, gs, az"),
        ("github://models/x", "github://: its package asks for org, repo; expected s3, gs, az"),
        ("ssh://host/x", 'ssh://: ImportError SFTPFileSystem requires "paramiko" to be installed'),
        ("absent", "absent: no such folder"),
    ],
)
def test_places_that_nothing_can_read_are_refused_at_once(
    address: str, reason: str, kept: Cache
) -> None:
    with pytest.raises(StorageError, match=reason):
        Repositories.of(address, cache=replace(kept)).check()
