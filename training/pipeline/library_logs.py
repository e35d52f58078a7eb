"""What libraries log of their own work during a build."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Loggers whose lines tell nothing that ours do not: the hardware, the last epoch, other products.
_TALKATIVE = (
    "pytorch_lightning",
    "lightning_fabric",
    "torch.onnx",
    "onnxscript",
    "onnx_ir",
    "gcsfs",
)
_QUANTISER = "onnxruntime"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leaves out what libraries log of their work, errors apart. Those that set their own level as
    they are imported must be imported before."""
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    # logging.warning() would give a root logger without handlers one that stays.
    silent = logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(_is_told)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.removeFilter(_is_told)
        root.removeHandler(silent)


def _is_told(record: logging.LogRecord) -> bool:
    """The quantiser tells on the root logger which tensors it copies, or does not part by
    channels."""
    return _QUANTISER not in Path(record.pathname).parts
