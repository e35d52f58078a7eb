"""The record: what it has, what silences it not, and how much of it there is."""

import io
import json
import logging
import time
from collections.abc import Iterator

import pytest

from serving.server.access.audit import Audit, Entry
from tests.support.recorded import recorded

ENTRY = Entry("key:a", "192.0.2.1", "ModelInfer", "infer", "m", "refused", "NOT_FOUND", "no", "7")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    with recorded() as stream:
        yield stream


def lines(written: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_line_has_all_of_a_decision(written: io.StringIO) -> None:
    Audit(0.0).refused(ENTRY._replace(request_id="\x1b[31m" + "x" * 500))
    [line] = lines(written)
    assert line["time"]
    assert line["logger"] == "audit"
    for name, value in ENTRY._asdict().items():
        if name != "request_id":
            assert line[name] == value
    assert len(str(line["request_id"])) == 200
    assert "\x1b" not in written.getvalue()


def test_level_of_the_root_logger_does_not_silence_it(written: io.StringIO) -> None:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        Audit(0.0).allowed(ENTRY)
    finally:
        root.setLevel(level)
    assert len(lines(written)) == 1


def test_refusals_of_a_second_are_bounded_and_those_left_out_are_counted(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    audit = Audit(0.0)
    for number in range(500):
        audit.refused(ENTRY._replace(address=f"192.0.2.{number % 100}"))
    assert len(lines(written)) == 20
    audit.allowed(ENTRY._replace(decision="allowed"))
    assert len(lines(written)) == 21
    now += 1
    audit.refused(ENTRY)
    audit.refused(ENTRY)
    assert [line.get("left_out") for line in lines(written)[21:]] == [480, None]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::{}"])
def test_who_is_refused_again_and_again_does_not_hide_the_others(
    address: str, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    audit = Audit(0.0)
    for number in range(500):
        audit.refused(ENTRY._replace(address=address.format(number)))
    audit.refused(ENTRY._replace(address="198.51.100.7"))
    found = [line["address"] for line in lines(written)]
    assert (len(found), found[-1]) == (6, "198.51.100.7")


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (1.0, 1000, 1000)])
def test_sampling_takes_its_share(share: float, least: int, most: int) -> None:
    audit = Audit(share)
    assert least <= sum(audit.samples for _ in range(1000)) <= most
