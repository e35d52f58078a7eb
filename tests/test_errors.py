"""Every error of ours goes from one process to another whole."""

import copy
import inspect
import pickle

import pytest

import loadtest.errors
import serving.base.errors
import serving.base.machine.nvml
import serving.server.config
import training.data.sources.listings.columns
import training.errors
from serving.client.calls import CallFailed
from serving.client.streams import StreamBroken

ROOTS: tuple[type[Exception], ...] = (
    serving.base.errors.ServingError,
    serving.server.config.ConfigError,
    serving.base.machine.nvml.GpuUnavailable,
    training.errors.BuildError,
    loadtest.errors.LoadTestError,
    CallFailed,
    StreamBroken,
)
# One value for each argument that a constructor of ours takes beside the message.
ARGUMENTS = {
    "message": "queue is full: 3 of 3 places are taken",
    "retry_after": 0.25,
    "code": "UNAVAILABLE",
    "detail": "the whole of it",
    "source": "folder",
    "total": 7,
    "key": "label_column",
    "remarks": ("masks hold 0 and 255",),
    "files": {"a.png": "not an image", "b.png": "empty"},
}


def tree(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(below for child in root.__subclasses__() for below in tree(child))]


def example(kind: type[Exception]) -> Exception:
    if kind.__init__ is Exception.__init__:
        return kind("what is wrong")
    names = list(inspect.signature(kind.__init__).parameters)[1:]
    return kind(*(ARGUMENTS[name] for name in names))


@pytest.mark.parametrize("kind", [kind for root in ROOTS for kind in tree(root)])
def test_error_can_be_pickled_and_copied_with_its_message_and_attributes(
    kind: type[Exception],
) -> None:
    error = example(kind)
    error.add_note("while it was tried")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert other.args == error.args
        assert vars(other) == vars(error)
