"""The commands of training on the terminal: their log, and the one line with which they fail."""

import logging
import sys
from typing import NoReturn

import typer

from serving.base.text import escaped


def set_up_logging() -> None:
    """Log lines go to stderr, as plain text."""
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_Escaping("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[terminal])


def quiet_libraries() -> None:
    """Leaves out what libraries log of their work."""
    for name in ("pytorch_lightning", "lightning_fabric", "torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # quantize_static recommends, on the root logger, the preparation that has been made.
    logging.getLogger().addFilter(lambda record: "pre-processing" not in record.getMessage())


def fail(command: str, reason: str) -> NoReturn:
    """One line on stderr, and exit status 1."""
    typer.echo(f"convserve {command}: {escaped(reason)}", err=True)
    raise typer.Exit(1)


class _Escaping(logging.Formatter):
    """Names of files and classes are those of a data set, which others may have made."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))
