"""Log lines of another process, which this one writes into its log."""

import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

# Attributes of a log record that are logging's own; the others come from `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}


def described(record: logging.LogRecord) -> dict[str, Any]:
    """A record in values that JSON can hold. Raises TypeError or ValueError for arguments that do
    not fit its text."""
    extra = {k: v for k, v in vars(record).items() if k not in _OWN}
    if record.exc_info and record.exc_info[1] is not None:
        extra["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
    return {
        "name": record.name,
        "level": record.levelno,
        "text": record.getMessage(),
        "extra": json.loads(json.dumps(extra, default=str)),
    }


def write(line: Mapping[str, Any], about: Mapping[str, str] | None = None) -> None:
    """Logs a line that `described` made, in this process, with fields about the other one. Raises
    ValueError for another value."""
    try:
        logger = logging.getLogger(str(line["name"]))
        level, text = int(line["level"]), str(line["text"])
        if logger.isEnabledFor(level):
            logger.log(level, "%s", text, extra={**line["extra"], **(about or {})})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a log line that cannot be read: {error}") from error
