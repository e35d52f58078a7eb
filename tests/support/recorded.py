"""The record of who did what, as `convserve serve` writes it."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from serving.cli.serve import _JsonFormatter
from serving.server.access.audit import AUDIT_LOGGER, open_audit


@contextmanager
def recorded() -> Iterator[io.StringIO]:
    """Its lines meanwhile."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter())
    logger = logging.getLogger(AUDIT_LOGGER)
    open_audit(handler)
    try:
        yield stream
    finally:
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
