"""Every error of ours goes from one process to another whole."""

import copy
import inspect
import json
import pickle

import pytest

import loadtest.errors
import serving.base.errors
import serving.base.machine.nvml
import serving.server.config
import serving.server.config_sources
import training.data.sources.listings.columns
import training.errors
from serving.base.errors import ServingError, Told, restored, told
from serving.base.memory import LargeWork
from serving.client.calls import CallFailed
from serving.client.streams import StreamBroken
from serving.server.error_status import message_of, retry_after, status_of

ROOTS: tuple[type[Exception], ...] = (
    serving.base.errors.ServingError,
    serving.server.config_sources.ConfigError,
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


@pytest.mark.parametrize("kind", tree(ServingError))
def test_error_of_the_server_is_the_same_after_it_was_told_in_plain_values(
    kind: type[ServingError],
) -> None:
    error = example(kind)
    assert isinstance(error, ServingError)
    again = restored(Told(*json.loads(json.dumps(told(error)))))
    if kind.__module__ == ServingError.__module__:
        assert type(again) is kind
        assert (again.args, vars(again)) == (error.args, vars(error))
    for seen in (str, status_of, message_of, retry_after):
        assert seen(again) == seen(error)


def test_error_of_another_module_or_version_is_told_as_the_nearest_that_is_known() -> None:
    again = restored(told(LargeWork("its turn has not come", 0.5)))
    assert isinstance(again, serving.base.errors.QueueFull)
    assert again.retry_after == 0.5
    assert type(restored(Told("NotYetInvented", "text"))) is ServingError
