"""Lines of the server's log: one JSON object each, of bounded length, with few tracebacks."""

import json
import logging
import os
from typing import Any

from serving.cli.serve import _Handler, _JsonFormatter


def failed(depth: int) -> Any:
    """What logging takes of an error that went through so many functions."""

    def fall(left: int) -> None:
        if left == 0:
            raise ValueError("x" * 100)
        fall(left - 1)

    try:
        fall(depth)
    except ValueError as error:
        return (ValueError, error, error.__traceback__)


def lines(formatter: logging.Formatter, count: int, message: str = "failed") -> list[Any]:
    error = failed(0)
    made = (logging.LogRecord("x", 40, "", 0, message, (), error) for _ in range(count))
    return [json.loads(formatter.format(record)) for record in made]


def test_tracebacks_are_few_and_their_lines_are_there_all_the_same() -> None:
    found = lines(_JsonFormatter(), 50)
    assert len(found) == 50
    assert sum("ValueError" in line["traceback"] for line in found) == 20
    assert found[-1]["traceback"] == "left out: the minute has had 20"


def test_tracebacks_come_again_with_the_next_minute() -> None:
    formatter = _JsonFormatter()
    lines(formatter, 50)
    record = logging.LogRecord("x", 40, "", 0, "failed", (), failed(0))
    record.created += 60
    assert "ValueError" in formatter.format(record)


def test_line_is_short_however_long_what_it_tells_is() -> None:
    record = logging.LogRecord("x", 40, "", 0, "y" * 10**6, (), failed(400))
    line = _JsonFormatter().format(record)
    assert len(line) < 12_000
    assert "ValueError: xxx" in json.loads(line)["traceback"]


def test_reader_who_stops_holds_up_nobody_and_learns_how_much_was_lost() -> None:
    reading, writing = os.pipe()
    log = logging.getLogger("stopped")
    log.propagate, log.level = False, logging.INFO
    with open(writing, "w") as stream, open(reading) as lines:  # noqa: PTH123 - a descriptor
        handler = _Handler(stream)
        log.handlers[:] = [handler]
        for number in range(5000):  # far more than the pipe and the queue hold
            log.info("line", extra={"number": number, "text": "x" * 300})
        found = [json.loads(next(lines)) for _ in range(1000)]
        log.info("line", extra={"number": 5000})
        while found[-1]["number"] != 5000 or found[-1]["message"] != "line":
            found.append(json.loads(next(lines)))
        kept = [line["number"] for line in found if line["message"] == "line"]
        lost = [line["number"] for line in found if line["message"] == "lines of the log lost"]
        assert kept[:1000] == list(range(1000))
        assert kept == sorted(kept)
        assert lost
        assert sum(lost) == 5001 - len(kept)
        log.info("last", extra={"number": 5001})
        handler.flush()
        assert json.loads(next(lines))["number"] == 5001
